//! The canvas's renderer on a real (software) GPU, into a texture: the bytes that go in come out.

use std::sync::Arc;
use std::time::Duration;

use chain_of_zoom::canvas::{Camera, Renderer, Scene, compose};
use chain_of_zoom::history::{History, Making, Source, StateId};
use chain_of_zoom::image::{Filter, Picture, resize};
use chain_of_zoom::region::Region;

use crate::samples::photo;

struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    renderer: Renderer,
}

const FORMAT: wgpu::TextureFormat = wgpu::TextureFormat::Rgba8Unorm;

impl Gpu {
    fn new() -> Self {
        let backends = wgpu::Backends::PRIMARY;
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends,
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        });
        let adapter = pollster::block_on(instance.request_adapter(&Default::default())).expect("a Vulkan driver");
        let limits = adapter.limits();
        let descriptor = wgpu::DeviceDescriptor { required_limits: limits, ..Default::default() };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).unwrap();
        let renderer = Renderer::new(&device, FORMAT);
        Self { device, queue, renderer }
    }

    /// What a camera sees of a history; width a multiple of 64.
    fn render(&mut self, history: &History, camera: Camera, width: u32, height: u32) -> Picture {
        let screen = [f64::from(width), f64::from(height)];
        let layers = compose(&Scene { history, camera, screen, overlays: &[], opacity: &|_| 1.0 });
        let size = wgpu::Extent3d { width, height, depth_or_array_layers: 1 };
        let target = self.device.create_texture(&wgpu::TextureDescriptor {
            label: None,
            size,
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: FORMAT,
            usage: wgpu::TextureUsages::RENDER_ATTACHMENT | wgpu::TextureUsages::COPY_SRC,
            view_formats: &[],
        });
        let view = target.create_view(&Default::default());
        let mut complete = false;
        for _ in 0..100 {
            let mut encoder = self.device.create_command_encoder(&Default::default());
            complete = self.renderer.prepare(&self.device, &self.queue, &mut encoder, &layers, screen);
            let mut pass = encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
                color_attachments: &[Some(wgpu::RenderPassColorAttachment {
                    view: &view,
                    resolve_target: None,
                    ops: wgpu::Operations {
                        load: wgpu::LoadOp::Clear(wgpu::Color::BLACK),
                        store: wgpu::StoreOp::Store,
                    },
                    depth_slice: None,
                })],
                ..Default::default()
            });
            self.renderer.draw(&mut pass);
            drop(pass);
            self.queue.submit([encoder.finish()]);
            if complete {
                break;
            }
        }
        assert!(complete, "everything reaches the GPU in the end");
        self.read(&target, width, height)
    }

    fn read(&self, target: &wgpu::Texture, width: u32, height: u32) -> Picture {
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: u64::from(width * height * 4),
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
            mapped_at_creation: false,
        });
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_texture_to_buffer(
            target.as_image_copy(),
            wgpu::TexelCopyBufferInfo {
                buffer: &buffer,
                layout: wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(width * 4), rows_per_image: None },
            },
            target.size(),
        );
        self.queue.submit([encoder.finish()]);
        buffer.slice(..).map_async(wgpu::MapMode::Read, |mapped| mapped.unwrap());
        self.device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
        let rgba = buffer.slice(..).get_mapped_range().unwrap().to_vec();
        let rgb = rgba.as_chunks::<4>().0.iter().flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
        Picture::from_rgb(width, height, rgb).unwrap()
    }
}

fn history(picture: Picture) -> History {
    let thumbnail = Arc::new(chain_of_zoom::history::thumbnail(&picture));
    History::new(Source::default(), Arc::new(picture), thumbnail)
}

fn worst(a: &Picture, b: &Picture) -> u8 {
    a.rgb().iter().zip(b.rgb()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn one_to_one_shows_the_very_pixels() {
    let source = photo(256, 192);
    let camera = Camera { anchor: StateId(0), center: [128.0, 96.0], scale: 1.0 };
    assert_eq!(Gpu::new().render(&history(source.clone()), camera, 256, 192), source);
}

#[test]
fn pictures_larger_than_a_tile_have_no_seam() {
    let source = photo(4300, 70);
    let history = history(source.clone());
    let mut gpu = Gpu::new();
    let camera = |scale| Camera { anchor: StateId(0), center: [4096.0, 32.0], scale };
    let seen = gpu.render(&history, camera(1.0), 256, 64);
    assert_eq!(seen, source.crop(4096 - 128, 0, 256, 64), "around the border of two tiles");
    // Enlarged, the border shows no line.
    let enlarged = gpu.render(&history, camera(2.0), 256, 64);
    for y in 0..64 {
        let (left, right) = (enlarged.pixel(127, y), enlarged.pixel(128, y));
        let step = left.iter().zip(right).map(|(a, b)| a.abs_diff(b)).max().unwrap();
        assert!(step <= 40, "a step of {step} levels at row {y}");
    }
}

#[test]
fn a_huge_picture_is_seen_whole_and_close_without_all_of_it_on_the_gpu() {
    // Wider than any texture the driver takes.
    let source = Picture::from_fn(40_000, 900, |x, y| [(x / 160) as u8, (y / 4) as u8, (x / 64 % 2 * 200) as u8]);
    let history = history(source.clone());
    let mut gpu = Gpu::new();
    let whole = gpu.render(
        &history,
        Camera { anchor: StateId(0), center: [20_000.0, 450.0], scale: 1280.0 / 40_000.0 },
        1280,
        64,
    );
    for x in [10, 300, 640, 1000, 1270] {
        let wanted = source.pixel(x * 40_000 / 1280 + 15, 465);
        let seen = whole.pixel(x, 32);
        assert!(seen[0].abs_diff(wanted[0]) <= 2 && seen[1].abs_diff(wanted[1]) <= 3, "{x}: {seen:?} {wanted:?}");
    }
    for (x, y) in [(39_900, 850), (17, 30), (20_480, 512)] {
        let camera = Camera { anchor: StateId(0), center: [f64::from(x), f64::from(y)], scale: 1.0 };
        let seen = gpu.render(&history, camera, 64, 32);
        let (x, y) = (i64::from(x), i64::from(y));
        let wanted = source.crop(x - 32, y - 16, 64, 32);
        assert_eq!(seen.crop(0, 0, 48, 32), wanted.crop(0, 0, 48, 32), "the very pixels at {x}, {y}");
    }
    // Between two levels no step shows: brightness changes by little as the camera draws back.
    let mut before: Option<f64> = None;
    for i in 0..40 {
        let scale = 0.9f64 * 0.93f64.powi(i);
        let seen = gpu.render(&history, Camera { anchor: StateId(0), center: [20_000.0, 450.0], scale }, 256, 16);
        let mean = seen.rgb().iter().skip(2).step_by(3).map(|&blue| f64::from(blue)).sum::<f64>() / (256.0 * 16.0);
        assert!(before.is_none_or(|before| (before - mean).abs() < 14.0), "scale {scale}: {before:?} to {mean}");
        before = Some(mean);
    }
}

#[test]
fn minified_is_smooth_and_magnified_is_crisp() {
    // A checkerboard of single pixels: any aliasing shows at once.
    let board = Picture::from_fn(512, 512, |x, y| [((x + y) % 2 * 255) as u8; 3]);
    let history = history(board);
    let mut gpu = Gpu::new();
    let small = gpu.render(&history, Camera { anchor: StateId(0), center: [256.0; 2], scale: 0.23 }, 64, 64);
    assert!(small.rgb().iter().all(|value| value.abs_diff(128) <= 3), "minified it is an even grey");
    let large = gpu.render(&history, Camera { anchor: StateId(0), center: [256.0; 2], scale: 32.0 }, 256, 256);
    let sharp = large.rgb().iter().filter(|&&value| value == 0 || value == 255).count();
    assert!(sharp * 10 > large.rgb().len() * 9, "magnified far, pixels are squares with thin edges");
}

#[test]
fn a_state_is_drawn_in_its_box() {
    let source = photo(512, 512);
    let mut history = history(source.clone());
    let region = Region::square(192, 160, 128);
    let child = resize(&source.crop(192, 160, 128, 128), 512, 512, Filter::Bicubic);
    let making =
        Making { region, prompt: String::new(), model: None, seed: 0, agreement: None, elapsed: Duration::ZERO };
    let thumbnail = Arc::new(chain_of_zoom::history::thumbnail(&child));
    let id = history.add(StateId(0), making, Arc::new(child.clone()), thumbnail).unwrap();
    history.go(id);
    let mut gpu = Gpu::new();
    // Seen from the photo at 4:1, and from the state itself at 1:1, it is the same picture: its own pixels.
    let from_photo = gpu.render(&history, Camera { anchor: StateId(0), center: [256.0, 224.0], scale: 4.0 }, 512, 512);
    let from_state = gpu.render(&history, Camera { anchor: id, center: [256.0, 256.0], scale: 1.0 }, 512, 512);
    assert_eq!(worst(&from_photo, &child), 0);
    assert_eq!(worst(&from_state, &child), 0);
    // Reduced into its place it continues the photo around it: no seam.
    let around = gpu.render(&history, Camera { anchor: StateId(0), center: [256.0, 224.0], scale: 1.0 }, 256, 256);
    let difference = worst(&around, &source.crop(128, 96, 256, 256));
    assert!(difference <= 90, "{difference}");
    let outside = around.crop(0, 0, 60, 256);
    assert_eq!(outside, source.crop(128, 96, 60, 256), "the photo beside the box is untouched");
}
