//! Draws layers with wgpu, into a window or into a texture.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::texture::{FORMAT, Gpu, Place, Shared, Tile, level_for, top_level};
use super::{Layer, Placement};
use crate::imaging::Picture;

/// Bytes brought to the GPU in one frame; coarser tiles stand in meanwhile.
const UPLOAD_PER_FRAME: usize = 2 << 20;
/// Tiles not seen for a while are dropped beyond this many bytes.
const KEPT: usize = 192 << 20;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Quad {
    rect: [f32; 4],
    uv: [f32; 4],
    params: [f32; 4],
}

/// The GPU's side of the canvas: pipelines and the pictures it holds.
pub struct Renderer {
    shared: Shared,
    pipeline: wgpu::RenderPipeline,
    /// By the picture's address; a weak reference keeps that address from being used again.
    pictures: HashMap<usize, Weak<Picture>>,
    tiles: HashMap<Key, Tile>,
    quads: wgpu::Buffer,
    /// What the next [`Renderer::draw`] draws: a tile for each quad.
    drawn: Vec<Key>,
    frame: u64,
    /// Far enlarged, pixels are shown as the squares they are; else smoothly.
    pub shows_pixels: bool,
}

/// A picture's address and one of its tiles.
type Key = (usize, Place);

fn key(picture: &Arc<Picture>) -> usize {
    Arc::as_ptr(picture) as usize
}

impl Layer {
    /// The tiles of a level that are on the screen.
    fn places(&self, level: u32, screen: [f64; 2]) -> Vec<Place> {
        let [left, top, right, bottom] = self.clipped(screen);
        let placement = Placement { origin: self.placement.origin, scale: self.scale() };
        let ([left, top], [right, bottom]) =
            (placement.picture_from_screen([left, top]), placement.picture_from_screen([right, bottom]));
        Place::touching(&self.picture, level, [left, top, right, bottom])
    }
}

impl Renderer {
    /// For targets of this format. Colours are written as they are, so it should not be an sRGB format.
    pub fn new(device: &wgpu::Device, target: wgpu::TextureFormat) -> Self {
        let shader = device.create_shader_module(wgpu::include_wgsl!("shader.wgsl"));
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("coz picture"),
            entries: &[
                wgpu::BindGroupLayoutEntry {
                    binding: 0,
                    visibility: wgpu::ShaderStages::FRAGMENT,
                    ty: wgpu::BindingType::Texture {
                        multisampled: false,
                        sample_type: wgpu::TextureSampleType::Float { filterable: true },
                        view_dimension: wgpu::TextureViewDimension::D2,
                    },
                    count: None,
                },
                wgpu::BindGroupLayoutEntry {
                    binding: 1,
                    visibility: wgpu::ShaderStages::FRAGMENT,
                    ty: wgpu::BindingType::Sampler(wgpu::SamplerBindingType::Filtering),
                    count: None,
                },
            ],
        });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some("coz canvas"),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline =
            |label, vertex, fragment, quads: &[Option<wgpu::VertexBufferLayout>], topology, format, blend| {
                device.create_render_pipeline(&wgpu::RenderPipelineDescriptor {
                    label: Some(label),
                    layout: Some(&pipeline_layout),
                    vertex: wgpu::VertexState {
                        module: &shader,
                        entry_point: Some(vertex),
                        buffers: quads,
                        compilation_options: Default::default(),
                    },
                    primitive: wgpu::PrimitiveState { topology, ..Default::default() },
                    depth_stencil: None,
                    multisample: wgpu::MultisampleState::default(),
                    fragment: Some(wgpu::FragmentState {
                        module: &shader,
                        entry_point: Some(fragment),
                        targets: &[Some(wgpu::ColorTargetState { format, blend, write_mask: wgpu::ColorWrites::ALL })],
                        compilation_options: Default::default(),
                    }),
                    multiview_mask: None,
                    cache: None,
                })
            };
        let quad = Some(wgpu::VertexBufferLayout {
            array_stride: size_of::<Quad>() as u64,
            step_mode: wgpu::VertexStepMode::Instance,
            attributes: &wgpu::vertex_attr_array![0 => Float32x4, 1 => Float32x4, 2 => Float32x4],
        });
        use wgpu::PrimitiveTopology::{TriangleList, TriangleStrip};
        let blend = Some(wgpu::BlendState::PREMULTIPLIED_ALPHA_BLENDING);
        let drawing = pipeline("coz canvas", "vertex", "fragment", &[quad], TriangleStrip, target, blend);
        let halve = pipeline("coz mip level", "whole", "halve", &[], TriangleList, FORMAT, None);
        let sampler = device.create_sampler(&wgpu::SamplerDescriptor {
            label: Some("coz picture"),
            mag_filter: wgpu::FilterMode::Linear,
            min_filter: wgpu::FilterMode::Linear,
            mipmap_filter: wgpu::MipmapFilterMode::Linear,
            ..Default::default()
        });
        Self {
            shared: Shared { layout, sampler, halve },
            pipeline: drawing,
            pictures: HashMap::new(),
            tiles: HashMap::new(),
            quads: quad_buffer(device, 64),
            drawn: Vec::new(),
            frame: 0,
            shows_pixels: true,
        }
    }

    /// Brings what `layers` need to the GPU, a little each frame. Returns whether all of it is there; if not, draw what
    /// there is and call again.
    pub fn prepare(
        &mut self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        encoder: &mut wgpu::CommandEncoder,
        layers: &[Layer],
        screen: [f64; 2],
    ) -> bool {
        self.frame += 1;
        let mut gpu = Gpu { device, queue, encoder };
        let mut budget = UPLOAD_PER_FRAME;
        let mut complete = true;
        // From the top: what hides the others is wanted first.
        for layer in layers.iter().rev() {
            self.pictures.entry(key(&layer.picture)).or_insert_with(|| Arc::downgrade(&layer.picture));
            let whole = Place { level: top_level(&layer.picture), column: 0, row: 0 };
            self.bring(&mut gpu, layer, whole, &mut usize::MAX.clone());
            for place in layer.places(level_for(&layer.picture, layer.scale()), screen) {
                complete &= self.bring(&mut gpu, layer, place, &mut budget);
            }
        }
        let mut quads = Vec::new();
        self.drawn.clear();
        for layer in layers {
            let wanted = level_for(&layer.picture, layer.scale());
            let there = |place: &Place| self.tiles.contains_key(&(key(&layer.picture), *place));
            // Where tiles are still on their way, coarser ones lie beneath.
            let coarsest = match layer.places(wanted, screen).iter().all(there) {
                true => wanted,
                false => top_level(&layer.picture),
            };
            for level in (wanted..=coarsest).rev() {
                for place in layer.places(level, screen) {
                    let key = (key(&layer.picture), place);
                    if let Some(tile) = self.tiles.get_mut(&key) {
                        tile.last_frame = self.frame;
                        if let Some(mut quad) = quad(layer, tile, place, screen) {
                            if !self.shows_pixels {
                                quad.params[1] = quad.params[1].min(1.0);
                            }
                            quads.push(quad);
                            self.drawn.push(key);
                        }
                    }
                }
            }
        }
        let bytes: &[u8] = bytemuck::cast_slice(&quads);
        if bytes.len() as u64 > self.quads.size() {
            self.quads = quad_buffer(device, quads.len().next_power_of_two());
        }
        queue.write_buffer(&self.quads, 0, bytes);
        self.forget_unseen();
        complete
    }

    /// Sees to it that a tile is on the GPU, within the budget; whether it is.
    fn bring(&mut self, gpu: &mut Gpu, layer: &Layer, place: Place, budget: &mut usize) -> bool {
        let key = (key(&layer.picture), place);
        if !self.tiles.contains_key(&key) {
            if *budget == 0 {
                return false;
            }
            let tile = Tile::upload(gpu, &self.shared, &layer.picture, place);
            *budget = budget.saturating_sub(tile.bytes());
            self.tiles.insert(key, tile);
        }
        true
    }

    fn forget_unseen(&mut self) {
        self.pictures.retain(|_, picture| picture.strong_count() > 0);
        self.tiles.retain(|(picture, _), _| self.pictures.contains_key(picture));
        let mut held: usize = self.tiles.values().map(Tile::bytes).sum();
        if held > KEPT {
            let mut unseen: Vec<(u64, Key)> = self.tiles.iter().map(|(key, tile)| (tile.last_frame, *key)).collect();
            unseen.retain(|(frame, _)| *frame < self.frame);
            unseen.sort_by_key(|(frame, _)| *frame);
            for (_, key) in unseen {
                if held <= KEPT {
                    break;
                }
                held -= self.tiles.remove(&key).map_or(0, |tile| tile.bytes());
            }
        }
    }

    /// Draws what was prepared last; the pass's viewport is the screen.
    pub fn draw(&self, pass: &mut wgpu::RenderPass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_vertex_buffer(0, self.quads.slice(..));
        for (i, key) in (0..).zip(&self.drawn) {
            let Some(tile) = self.tiles.get(key) else { continue };
            pass.set_bind_group(0, &tile.bind_group, &[]);
            pass.draw(0..4, i..i + 1);
        }
    }
}

/// A tile's visible part on the screen; `None` where there is none.
fn quad(layer: &Layer, tile: &Tile, place: Place, screen: [f64; 2]) -> Option<Quad> {
    let rect = place.rect(&layer.picture);
    let clip = layer.clipped(screen);
    let scale = layer.scale();
    let axis = |axis: usize| {
        let on_screen = |at: f64| layer.placement.origin[axis] + at * scale;
        // Cut to the screen here, in 64 bits: far enlarged, the whole would overflow the GPU's 32.
        let (start, end) = (on_screen(rect[axis]).max(clip[axis]), on_screen(rect[axis + 2]).min(clip[axis + 2]));
        (start < end).then(|| {
            let uv = |at: f64| tile.texture_from_picture(place, axis, (at - layer.placement.origin[axis]) / scale);
            let ndc = |at: f64| (at / screen[axis] * 2.0 - 1.0) as f32;
            [ndc(start), ndc(end), uv(start), uv(end)]
        })
    };
    let (x, y) = (axis(0)?, axis(1)?);
    Some(Quad {
        rect: [x[0], -y[0], x[1], -y[1]],
        uv: [x[2], y[2], x[3], y[3]],
        params: [
            layer.opacity,
            (scale * f64::from(1u32 << place.level)) as f32,
            tile.size[0] as f32,
            tile.size[1] as f32,
        ],
    })
}

fn quad_buffer(device: &wgpu::Device, count: usize) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("coz quads"),
        size: (count * size_of::<Quad>()) as u64,
        usage: wgpu::BufferUsages::VERTEX | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    })
}
