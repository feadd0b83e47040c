//! How long the parts of a step and of a frame take: `cargo xtask bench`.

use std::cell::RefCell;
use std::sync::Arc;

use divan::{Bencher, black_box};

use chain_of_zoom::base::{AlignMethod, Backbone, DeviceChoice, MemoryPlan, Progress, Source};
use chain_of_zoom::document::History;
use chain_of_zoom::imaging::{Filter, Picture, colour, resize};
use chain_of_zoom::pipelines::sr;
use chain_of_zoom::pipelines::sr::StepInput;
use chain_of_zoom::scene::canvas::{Camera, Renderer, Scene, compose};

fn main() {
    divan::main();
}

fn picture(width: u32, height: u32) -> Picture {
    Picture::from_fn(width, height, |x, y| [x as u8, y as u8, (x * y) as u8])
}

/// The enlargement at the start of every step.
#[divan::bench]
fn bicubic_128_to_512(bencher: Bencher) {
    let cut = picture(128, 128);
    bencher.bench(|| resize(black_box(&cut), 512, 512, Filter::Bicubic));
}

/// The first state of a 12-megapixel photo.
#[divan::bench(sample_count = 10)]
fn lanczos_12_megapixels_to_512(bencher: Bencher) {
    let photo = picture(4000, 3000);
    bencher.bench(|| resize(black_box(&photo), 682, 512, Filter::Lanczos));
}

#[divan::bench(sample_count = 20)]
fn wavelet_512(bencher: Bencher) {
    let (result, source) = (picture(512, 512), picture(512, 512));
    bencher.bench(|| colour::align(AlignMethod::Wavelet, black_box(&result), &source));
}

/// One whole x4 step with the built-in model, 128 x 128 to 512 x 512.
#[divan::bench(sample_count = 20)]
fn built_in_step_512(bencher: Bencher) {
    let Ok(mut model) = sr::open(&Backbone::default(), DeviceChoice::Cpu, MemoryPlan::Auto, 0) else { return };
    let cut = Arc::new(picture(128, 128));
    let enlarged = Arc::new(resize(&cut, 512, 512, Filter::Bicubic));
    let input = StepInput { cut, enlarged, prompt: String::new(), seed: 0 };
    bencher.bench_local(|| model.restore(&input, &mut Progress::new(&mut |_, _| true)));
}

/// One frame of the canvas on a picture of 20,000 x 15,000 pixels, the camera always moving and turning to another
/// magnification: all that is done for it up to the driver, uploads included.
#[divan::bench(sample_count = 300, sample_size = 1)]
fn frame_of_300_megapixels(bencher: Bencher) {
    let rgb = vec![90; 20_000 * 15_000 * 3];
    let Some(photo) = Picture::from_rgb(20_000, 15_000, rgb) else { return };
    photo.level(6);
    let history = History::new(Source::default(), Arc::new(photo), Arc::new(picture(160, 120)));
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::PRIMARY,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let Ok(adapter) = pollster::block_on(instance.request_adapter(&Default::default())) else { return };
    let Ok((device, queue)) = pollster::block_on(adapter.request_device(&Default::default())) else { return };
    let mut renderer = Renderer::new(&device, wgpu::TextureFormat::Rgba8Unorm);
    let screen = [2560.0, 1440.0];
    let mut camera = Camera::fitted(history.photo(), screen);
    let mut frame = 0u32;
    let drawn = RefCell::new(None::<wgpu::CommandEncoder>);
    let next = || {
        // The driver's part of the frame before, which is not ours to measure.
        queue.submit(drawn.take().map(wgpu::CommandEncoder::finish));
        _ = device.poll(wgpu::PollType::wait_indefinitely());
        device.create_command_encoder(&Default::default())
    };
    bencher.with_inputs(next).bench_local_values(|mut encoder| {
        frame += 1;
        let out = frame / 40 % 2 == 1;
        camera.zoom_at(&history, [1500.0, 600.0], if out { 0.92 } else { 1.09 }, screen);
        camera.pan([23.0, -11.0]);
        let scene = Scene { history: &history, camera, screen, overlays: &[], opacity: &|_| 1.0 };
        renderer.prepare(&device, &queue, &mut encoder, &compose(&scene), screen);
        drawn.replace(Some(encoder));
    });
}
