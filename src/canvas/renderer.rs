//! Draws layers with wgpu, into a window or into a texture.

use std::collections::HashMap;
use std::sync::Arc;

use super::Layer;
use super::texture::{FORMAT, Gpu, Shared, Texture};
use crate::image::Picture;

/// Bytes brought to the GPU in one frame; the thumbnail stands in meanwhile.
const UPLOAD_PER_FRAME: usize = 8 << 20;
/// Textures not seen for a while are dropped beyond this many bytes.
const KEPT: u64 = 1 << 30;

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
    /// By the picture's address, which lives as long as its entry.
    textures: HashMap<usize, Texture>,
    quads: wgpu::Buffer,
    /// What the next [`Renderer::draw`] draws: a picture's key and one of its tiles for each quad.
    drawn: Vec<(usize, usize)>,
    frame: u64,
}

fn key(picture: &Arc<Picture>) -> usize {
    Arc::as_ptr(picture) as usize
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
            textures: HashMap::new(),
            quads: quad_buffer(device, 64),
            drawn: Vec::new(),
            frame: 0,
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
        let mut quads = Vec::new();
        let mut complete = true;
        self.drawn.clear();
        // From the top: what hides the others is wanted first.
        for layer in layers.iter().rev() {
            complete &= self.ready(&mut gpu, &layer.picture, &mut budget);
        }
        for layer in layers {
            let ready = self.textures.get(&key(&layer.picture)).is_some_and(Texture::is_ready);
            if let Some(thumbnail) = layer.thumbnail.as_ref().filter(|_| !ready) {
                let mut small_budget = usize::MAX;
                self.ready(&mut gpu, thumbnail, &mut small_budget);
                self.place(layer, thumbnail, screen, &mut quads);
            }
            self.place(layer, &layer.picture, screen, &mut quads);
        }
        let bytes: &[u8] = bytemuck::cast_slice(&quads);
        if bytes.len() as u64 > self.quads.size() {
            self.quads = quad_buffer(device, quads.len().next_power_of_two());
        }
        queue.write_buffer(&self.quads, 0, bytes);
        self.forget_unseen();
        complete
    }

    fn ready(&mut self, gpu: &mut Gpu, picture: &Arc<Picture>, budget: &mut usize) -> bool {
        let shared = &self.shared;
        let texture =
            self.textures.entry(key(picture)).or_insert_with(|| Texture::new(gpu.device, shared, picture.clone()));
        texture.last_frame = self.frame;
        texture.upload(gpu, shared, budget);
        texture.is_ready()
    }

    /// One quad for each tile of `picture` (the layer's own or its thumbnail) that is ready and visible.
    fn place(&mut self, layer: &Layer, picture: &Arc<Picture>, screen: [f64; 2], quads: &mut Vec<Quad>) {
        let Some(texture) = self.textures.get(&key(picture)) else { return };
        // A thumbnail fills the same place with fewer pixels.
        let shrunk = |axis: usize| match axis {
            0 => f64::from(layer.picture.width()) / f64::from(picture.width()),
            _ => f64::from(layer.picture.height()) / f64::from(picture.height()),
        };
        for (number, tile) in texture.tiles.iter().enumerate().filter(|(_, tile)| tile.is_ready()) {
            let [left, top, width, height] = tile.rect.map(f64::from);
            let axis = |axis: usize, from: f64, length: f64| {
                let pixel = layer.placement.scale * shrunk(axis);
                let start = layer.placement.origin[axis] + from * pixel;
                let end = start + length * pixel;
                // Cut to the screen here, in 64 bits: far enlarged, the whole would overflow the GPU's 32.
                let (cut_start, cut_end) = (start.max(0.0), end.min(screen[axis]));
                (cut_start < cut_end).then(|| {
                    let uv = |at: f64| ((at - start) / (end - start)) as f32;
                    let ndc = |at: f64| (at / screen[axis] * 2.0 - 1.0) as f32;
                    [ndc(cut_start), ndc(cut_end), uv(cut_start), uv(cut_end)]
                })
            };
            let (Some(x), Some(y)) = (axis(0, left, width), axis(1, top, height)) else { continue };
            quads.push(Quad {
                rect: [x[0], -y[0], x[1], -y[1]],
                uv: [x[2], y[2], x[3], y[3]],
                params: [
                    layer.opacity,
                    (layer.placement.scale * shrunk(0)) as f32,
                    tile.rect[2] as f32,
                    tile.rect[3] as f32,
                ],
            });
            self.drawn.push((key(picture), number));
        }
    }

    fn forget_unseen(&mut self) {
        // What only this cache still holds is gone from the history.
        self.textures.retain(|_, texture| texture.last_frame == self.frame || Arc::strong_count(&texture.picture) > 1);
        let mut held: u64 = self.textures.values().map(Texture::bytes).sum();
        while held > KEPT {
            let oldest = self.textures.iter().filter(|(_, texture)| texture.last_frame < self.frame);
            let Some((&key, texture)) = oldest.min_by_key(|(_, texture)| texture.last_frame) else { return };
            held -= texture.bytes();
            self.textures.remove(&key);
        }
    }

    /// Draws what was prepared last; the pass's viewport is the screen.
    pub fn draw(&self, pass: &mut wgpu::RenderPass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_vertex_buffer(0, self.quads.slice(..));
        for (i, (key, tile)) in (0..).zip(&self.drawn) {
            let Some(texture) = self.textures.get(key) else { continue };
            pass.set_bind_group(0, &texture.tiles[*tile].bind_group, &[]);
            pass.draw(0..4, i..i + 1);
        }
    }
}

fn quad_buffer(device: &wgpu::Device, count: usize) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("coz quads"),
        size: (count * size_of::<Quad>()) as u64,
        usage: wgpu::BufferUsages::VERTEX | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    })
}
