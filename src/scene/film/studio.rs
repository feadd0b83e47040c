//! Frames without a window: the canvas's renderer on a texture, read back as RGB.

use super::FilmError;
use crate::scene::canvas::{Renderer, Scene, compose};

const FORMAT: wgpu::TextureFormat = wgpu::TextureFormat::Rgba8Unorm;
/// Around the photo where the frame has another shape.
const SURROUNDINGS: wgpu::Color = wgpu::Color { r: 0.086, g: 0.086, b: 0.086, a: 1.0 };
/// Uploads come in portions; no scene needs more of them.
const MOST_PASSES: usize = 1000;

/// A drawing place of one size.
pub struct Studio {
    device: wgpu::Device,
    queue: wgpu::Queue,
    renderer: Renderer,
    target: wgpu::Texture,
    buffer: wgpu::Buffer,
    width: u32,
    height: u32,
    /// Bytes of a row in `buffer`, which wgpu wants aligned.
    stride: u32,
}

fn failed(error: impl std::fmt::Display) -> FilmError {
    FilmError::Graphics(error.to_string())
}

impl Studio {
    /// On the best graphics device there is; a software driver will do.
    pub fn new(width: u32, height: u32) -> Result<Self, FilmError> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends: wgpu::Backends::PRIMARY,
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        });
        let wanted = wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..Default::default()
        };
        let adapter = pollster::block_on(instance.request_adapter(&wanted)).map_err(failed)?;
        let (device, queue) = pollster::block_on(adapter.request_device(&Default::default())).map_err(failed)?;
        let target = device.create_texture(&wgpu::TextureDescriptor {
            label: Some("coz frame"),
            size: wgpu::Extent3d { width, height, depth_or_array_layers: 1 },
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: FORMAT,
            usage: wgpu::TextureUsages::RENDER_ATTACHMENT | wgpu::TextureUsages::COPY_SRC,
            view_formats: &[],
        });
        let stride = (width * 4).next_multiple_of(wgpu::COPY_BYTES_PER_ROW_ALIGNMENT);
        let buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("coz frame"),
            size: u64::from(stride) * u64::from(height),
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
            mapped_at_creation: false,
        });
        let mut renderer = Renderer::new(&device, FORMAT);
        // A film shows places, not pixels.
        renderer.shows_pixels = false;
        Ok(Self { device, queue, renderer, target, buffer, width, height, stride })
    }

    /// Whether far enlarged pixels are drawn as squares; films draw them smoothly.
    pub fn shows_pixels(&mut self, shows: bool) {
        self.renderer.shows_pixels = shows;
    }

    /// The scene, three bytes a pixel.
    ///
    /// # Errors
    /// [`FilmError::Graphics`] where the driver fails.
    pub fn draw(&mut self, scene: &Scene) -> Result<Vec<u8>, FilmError> {
        let layers = compose(scene);
        let view = self.target.create_view(&wgpu::TextureViewDescriptor::default());
        for _ in 0..MOST_PASSES {
            let mut encoder = self.device.create_command_encoder(&Default::default());
            let complete = self.renderer.prepare(&self.device, &self.queue, &mut encoder, &layers, scene.screen);
            if complete {
                self.encode(&mut encoder, &view);
            }
            self.queue.submit([encoder.finish()]);
            if complete {
                return self.read();
            }
        }
        Err(failed("the pictures do not reach it"))
    }

    fn encode(&self, encoder: &mut wgpu::CommandEncoder, view: &wgpu::TextureView) {
        let mut pass = encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
            label: Some("coz frame"),
            color_attachments: &[Some(wgpu::RenderPassColorAttachment {
                view,
                resolve_target: None,
                ops: wgpu::Operations { load: wgpu::LoadOp::Clear(SURROUNDINGS), store: wgpu::StoreOp::Store },
                depth_slice: None,
            })],
            ..Default::default()
        });
        self.renderer.draw(&mut pass);
        drop(pass);
        encoder.copy_texture_to_buffer(
            self.target.as_image_copy(),
            wgpu::TexelCopyBufferInfo {
                buffer: &self.buffer,
                layout: wgpu::TexelCopyBufferLayout {
                    offset: 0,
                    bytes_per_row: Some(self.stride),
                    rows_per_image: None,
                },
            },
            wgpu::Extent3d { width: self.width, height: self.height, depth_or_array_layers: 1 },
        );
    }

    fn read(&self) -> Result<Vec<u8>, FilmError> {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        let slice = self.buffer.slice(..);
        slice.map_async(wgpu::MapMode::Read, move |outcome| _ = sender.send(outcome));
        self.device.poll(wgpu::PollType::wait_indefinitely()).map_err(failed)?;
        receiver.recv().map_err(failed)?.map_err(failed)?;
        let mut rgb = Vec::with_capacity((self.width * self.height * 3) as usize);
        {
            let bytes = slice.get_mapped_range().map_err(failed)?;
            for row in bytes.chunks_exact(self.stride as usize) {
                for pixel in row[..self.width as usize * 4].as_chunks::<4>().0 {
                    rgb.extend(&pixel[..3]);
                }
            }
        }
        self.buffer.unmap();
        Ok(rgb)
    }
}
