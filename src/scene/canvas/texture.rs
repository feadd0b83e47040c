//! Tiles of pictures on the GPU. A picture is cut into tiles at every halving of it ([`Picture::level`]); only those
//! that are looked at, at the level they are looked at, are uploaded. So the size of a picture is not bounded by the
//! GPU's textures nor by its memory.

use std::sync::Arc;

use crate::imaging::Picture;

/// Side of a tile in the level's pixels. Even, so that halving a tile keeps it aligned with its neighbours.
const TILE: u32 = 512;
/// Neighbouring pixels around a tile: what smooth sampling at its border needs, also one mip level up.
const GUTTER: u32 = 2;

pub(super) const FORMAT: wgpu::TextureFormat = wgpu::TextureFormat::Rgba8Unorm;

/// What drawing textures needs besides them.
pub(super) struct Shared {
    pub layout: wgpu::BindGroupLayout,
    pub sampler: wgpu::Sampler,
    pub halve: wgpu::RenderPipeline,
}

/// What work on textures goes through.
pub(super) struct Gpu<'a> {
    pub device: &'a wgpu::Device,
    pub queue: &'a wgpu::Queue,
    pub encoder: &'a mut wgpu::CommandEncoder,
}

/// The first level that is a single tile: all of the picture, small.
pub(super) fn top_level(picture: &Picture) -> u32 {
    let side = picture.width().max(picture.height());
    (0..).find(|&level| side.div_ceil(1 << level) <= TILE).unwrap_or(0)
}

/// The level whose pixels are just smaller than the screen's, at `scale` screen pixels for each of the picture's.
pub(super) fn level_for(picture: &Picture, scale: f64) -> u32 {
    let level = (-scale.log2()).floor().max(0.0);
    (level as u32).min(top_level(picture))
}

/// Which tile of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub level: u32,
    pub column: u32,
    pub row: u32,
}

impl Place {
    /// The tiles at `level` that touch a rectangle (left, top, right, bottom) in the picture's own pixels.
    pub(super) fn touching(picture: &Picture, level: u32, [left, top, right, bottom]: [f64; 4]) -> Vec<Place> {
        let tile = f64::from(TILE << level);
        let range = |from: f64, to: f64, length: u32| {
            let last = (length - 1) / (TILE << level);
            let number = |at: f64| ((at / tile).floor().max(0.0) as u32).min(last);
            if to <= 0.0 || from >= f64::from(length) { 0..0 } else { number(from)..number(to) + 1 }
        };
        let (columns, rows) = (range(left, right, picture.width()), range(top, bottom, picture.height()));
        rows.flat_map(|row| columns.clone().map(move |column| Place { level, column, row })).collect()
    }

    /// Left, top, right, bottom in the picture's own pixels.
    pub(super) fn rect(&self, picture: &Picture) -> [f64; 4] {
        let tile = f64::from(TILE << self.level);
        let (left, top) = (f64::from(self.column) * tile, f64::from(self.row) * tile);
        [left, top, (left + tile).min(picture.width().into()), (top + tile).min(picture.height().into())]
    }
}

/// A part of a picture on the GPU.
pub(super) struct Tile {
    pub bind_group: wgpu::BindGroup,
    pub last_frame: u64,
    /// Width and height of the texture.
    pub size: [u32; 2],
}

impl Tile {
    /// Brings a tile to the GPU, with its mip levels.
    pub(super) fn upload(gpu: &mut Gpu, shared: &Shared, picture: &Arc<Picture>, place: Place) -> Self {
        let level = picture.level(place.level);
        let (left, top) = (place.column * TILE, place.row * TILE);
        let extent = |from: u32, length: u32| (TILE.min(length - from) + 2 * GUTTER).next_multiple_of(2);
        let (width, height) = (extent(left, level.width()), extent(top, level.height()));
        // All of a picture may be looked at from far away; a part of it goes to a coarser level then.
        let is_whole = place.level == top_level(picture);
        let texture = gpu.device.create_texture(&wgpu::TextureDescriptor {
            label: Some("coz tile"),
            size: wgpu::Extent3d { width, height, depth_or_array_layers: 1 },
            mip_level_count: if is_whole { width.max(height).ilog2() + 1 } else { 2 },
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: FORMAT,
            usage: wgpu::TextureUsages::TEXTURE_BINDING
                | wgpu::TextureUsages::COPY_DST
                | wgpu::TextureUsages::RENDER_ATTACHMENT,
            view_formats: &[],
        });
        let from = |start: u32| i64::from(start) - i64::from(GUTTER);
        gpu.queue.write_texture(
            texture.as_image_copy(),
            &level.rgba(from(left), from(top), width, height),
            wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(width * 4), rows_per_image: Some(height) },
            wgpu::Extent3d { width, height, depth_or_array_layers: 1 },
        );
        fill_mip_levels(gpu, shared, &texture);
        let view = texture.create_view(&wgpu::TextureViewDescriptor::default());
        Self { bind_group: bind_group(gpu.device, shared, &view), last_frame: 0, size: [width, height] }
    }

    /// With its mip levels.
    pub(super) fn bytes(&self) -> usize {
        self.size[0] as usize * self.size[1] as usize * 16 / 3
    }

    /// Where a pixel of the picture is in the texture, 0 to 1; `axis` 0 is across.
    pub(super) fn texture_from_picture(&self, place: Place, axis: usize, at: f64) -> f32 {
        let start = [place.column, place.row][axis] * TILE;
        let texel = at / f64::from(1u32 << place.level) - f64::from(start) + f64::from(GUTTER);
        (texel / f64::from(self.size[axis])) as f32
    }
}

fn fill_mip_levels(gpu: &mut Gpu, shared: &Shared, texture: &wgpu::Texture) {
    let view = |level: u32| {
        texture.create_view(&wgpu::TextureViewDescriptor {
            base_mip_level: level,
            mip_level_count: Some(1),
            ..Default::default()
        })
    };
    for level in 1..texture.mip_level_count() {
        let source = bind_group(gpu.device, shared, &view(level - 1));
        let mut pass = gpu.encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
            label: Some("coz mip level"),
            color_attachments: &[Some(wgpu::RenderPassColorAttachment {
                view: &view(level),
                resolve_target: None,
                ops: wgpu::Operations {
                    load: wgpu::LoadOp::Clear(wgpu::Color::TRANSPARENT),
                    store: wgpu::StoreOp::Store,
                },
                depth_slice: None,
            })],
            ..Default::default()
        });
        pass.set_pipeline(&shared.halve);
        pass.set_bind_group(0, &source, &[]);
        pass.draw(0..3, 0..1);
    }
}

fn bind_group(device: &wgpu::Device, shared: &Shared, view: &wgpu::TextureView) -> wgpu::BindGroup {
    device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some("coz picture"),
        layout: &shared.layout,
        entries: &[
            wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::TextureView(view) },
            wgpu::BindGroupEntry { binding: 1, resource: wgpu::BindingResource::Sampler(&shared.sampler) },
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_tiles_cover_what_is_looked_at() {
        let picture = Picture::from_fn(2000, 700, |_, _| [0; 3]);
        assert_eq!(top_level(&picture), 2);
        assert_eq!([4.0, 1.0, 0.6, 0.5, 0.3, 0.01].map(|scale| level_for(&picture, scale)), [0, 0, 0, 1, 1, 2]);
        let all = Place::touching(&picture, 0, [0.0, 0.0, 2000.0, 700.0]);
        assert_eq!(all.len(), 8);
        assert_eq!(all[7].rect(&picture), [1536.0, 512.0, 2000.0, 700.0]);
        assert_eq!(Place::touching(&picture, 1, [1030.0, -50.0, 1100.0, 2.0]).len(), 1);
        assert!(Place::touching(&picture, 0, [2000.0, 0.0, 2100.0, 10.0]).is_empty());
        assert_eq!(Place::touching(&picture, 2, [-9.0, -9.0, 9999.0, 9999.0]).len(), 1);
    }
}
