//! Pictures on the GPU: tiles with mip levels, uploaded a band at a time so that no frame waits for a large picture.

use std::sync::Arc;

use crate::image::Picture;

/// Side of a tile. A power of two, so that mip levels of neighbouring tiles meet exactly.
const TILE: u32 = 4096;

pub(super) const FORMAT: wgpu::TextureFormat = wgpu::TextureFormat::Rgba8Unorm;

/// What drawing textures needs besides them.
pub(super) struct Shared {
    pub layout: wgpu::BindGroupLayout,
    pub sampler: wgpu::Sampler,
    pub halve: wgpu::RenderPipeline,
}

/// A picture's tiles.
pub(super) struct Texture {
    /// Keeps the address in use as the cache's key.
    pub picture: Arc<Picture>,
    pub tiles: Vec<Tile>,
    pub last_frame: u64,
}

/// A part of a picture on the GPU.
pub(super) struct Tile {
    /// Left, top, width, height in the picture.
    pub rect: [u32; 4],
    pub bind_group: wgpu::BindGroup,
    texture: wgpu::Texture,
    uploaded_rows: u32,
}

impl Tile {
    pub fn is_ready(&self) -> bool {
        self.uploaded_rows == self.rect[3]
    }
}

impl Texture {
    pub fn new(device: &wgpu::Device, shared: &Shared, picture: Arc<Picture>) -> Self {
        let side = TILE.min(device.limits().max_texture_dimension_2d);
        let starts = |length: u32| (0..length).step_by(side as usize);
        let tiles = starts(picture.height())
            .flat_map(|top| starts(picture.width()).map(move |left| (left, top)))
            .map(|(left, top)| {
                let (width, height) = (side.min(picture.width() - left), side.min(picture.height() - top));
                Tile::new(device, shared, [left, top, width, height])
            })
            .collect();
        Self { picture, tiles, last_frame: 0 }
    }

    pub fn is_ready(&self) -> bool {
        self.tiles.iter().all(Tile::is_ready)
    }

    /// With mip levels.
    pub fn bytes(&self) -> u64 {
        u64::from(self.picture.width()) * u64::from(self.picture.height()) * 16 / 3
    }

    /// Uploads at most `budget` bytes of what is missing and takes them off it.
    pub fn upload(&mut self, gpu: &mut Gpu, shared: &Shared, budget: &mut usize) {
        for tile in &mut self.tiles {
            let [left, top, width, height] = tile.rect;
            while !tile.is_ready() && *budget > 0 {
                let rows = ((*budget / (width as usize * 4)).max(1) as u32).min(height - tile.uploaded_rows);
                let from = top + tile.uploaded_rows;
                let band = if width == self.picture.width() {
                    self.picture.rgba_rows(from..from + rows)
                } else {
                    self.picture.crop(left.into(), from.into(), width, rows).rgba_rows(0..rows)
                };
                *budget = budget.saturating_sub(band.len());
                gpu.queue.write_texture(
                    wgpu::TexelCopyTextureInfo {
                        texture: &tile.texture,
                        mip_level: 0,
                        origin: wgpu::Origin3d { x: 0, y: tile.uploaded_rows, z: 0 },
                        aspect: wgpu::TextureAspect::All,
                    },
                    &band,
                    wgpu::TexelCopyBufferLayout {
                        offset: 0,
                        bytes_per_row: Some(width * 4),
                        rows_per_image: Some(rows),
                    },
                    wgpu::Extent3d { width, height: rows, depth_or_array_layers: 1 },
                );
                tile.uploaded_rows += rows;
                if tile.is_ready() {
                    tile.fill_mip_levels(gpu, shared);
                }
            }
        }
    }
}

/// What work on textures goes through.
pub(super) struct Gpu<'a> {
    pub device: &'a wgpu::Device,
    pub queue: &'a wgpu::Queue,
    pub encoder: &'a mut wgpu::CommandEncoder,
}

impl Tile {
    fn new(device: &wgpu::Device, shared: &Shared, rect: [u32; 4]) -> Self {
        let texture = device.create_texture(&wgpu::TextureDescriptor {
            label: Some("coz tile"),
            size: wgpu::Extent3d { width: rect[2], height: rect[3], depth_or_array_layers: 1 },
            mip_level_count: rect[2].max(rect[3]).ilog2() + 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: FORMAT,
            usage: wgpu::TextureUsages::TEXTURE_BINDING
                | wgpu::TextureUsages::COPY_DST
                | wgpu::TextureUsages::RENDER_ATTACHMENT,
            view_formats: &[],
        });
        let view = texture.create_view(&wgpu::TextureViewDescriptor::default());
        let bind_group = bind_group(device, shared, &view);
        Self { rect, bind_group, texture, uploaded_rows: 0 }
    }

    fn fill_mip_levels(&self, gpu: &mut Gpu, shared: &Shared) {
        let view = |level: u32| {
            self.texture.create_view(&wgpu::TextureViewDescriptor {
                base_mip_level: level,
                mip_level_count: Some(1),
                ..Default::default()
            })
        };
        for level in 1..self.texture.mip_level_count() {
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
