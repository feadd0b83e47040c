//! How long frames of the window compute, the driver's part apart: with a long history, and when a huge result arrives.

#![allow(clippy::expect_used, reason = "what cannot be measured is not")]

use std::sync::Arc;
use std::time::Duration;

use egui_kittest::Harness;

use chain_of_zoom::base::{AlignMethod, Backbone, ModelUsed, NEAREST, Region, StepRecord};
use chain_of_zoom::document::StateId;
use chain_of_zoom::imaging::{Picture, codec};
use chain_of_zoom::scene::canvas::{Renderer, Scene, compose};
use chain_of_zoom::viewer::actions::Action;
use chain_of_zoom::viewer::commands::Command;
use chain_of_zoom::viewer::settings::Settings;
use chain_of_zoom::viewer::{Persistence, Viewer};

type Window = Harness<'static, Viewer>;

fn main() {
    for states in [10, 10_000] {
        let (median, longest) = frames_with(states);
        println!("frame with {states:>6} states: median {median:?}, longest {longest:?}");
    }
    let [making, after, upload] = huge_result();
    println!("12,288 x 12,288 result: longest frame until it has arrived {making:?}, and after that {after:?}");
    println!("12,288 x 12,288 result: longest frame of the canvas up to the driver {upload:?}");
}

fn open(picture: &Picture, settings: Settings) -> Window {
    let folder = tempfile::tempdir().expect("there is room");
    let file = folder.path().join("photo.png");
    codec::save(picture, &file).expect("there is room");
    let settings = Settings { motion: false, auto_backbone: Some(false), prefetch: false, ..settings };
    let mut harness = Harness::builder()
        .with_size(egui::vec2(1440.0, 900.0))
        .build_eframe(|creation| Viewer::new(creation, settings, Persistence::default()).expect("it starts"));
    harness.step();
    harness.state_mut().act(Action::OpenFile(file));
    until(&mut harness, |viewer| viewer.state.document.is_some());
    harness.run_steps(20);
    harness
}

/// The longest frame until something holds.
fn until(harness: &mut Window, holds: impl Fn(&Viewer) -> bool) -> Duration {
    let mut longest = Duration::ZERO;
    while !holds(harness.state()) {
        std::thread::sleep(Duration::from_millis(4));
        longest = longest.max(frame(harness));
    }
    longest
}

/// What this thread has computed so far: beside it the engine takes the processor.
fn computed() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills in a time.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(failed, 0, "the system tells a thread's time");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn frame(harness: &mut Window) -> Duration {
    let start = computed();
    harness.step();
    computed() - start
}

fn frames_with(states: usize) -> (Duration, Duration) {
    let mut harness = open(&picture(600, 400), Settings::default());
    let history = &mut harness.state_mut().state.document.as_mut().expect("it is open").history;
    let small = Arc::new(picture(128, 128));
    for i in 0..states {
        // Twenty a branch, as somebody who zooms makes them.
        let parent = StateId(if i % 20 == 0 { 0 } else { i });
        let model = ModelUsed { backbone: Backbone::default(), align: AlignMethod::NoFix, sha256: None };
        let record = StepRecord {
            region: Region::square((i / 20 % 60) as u32, 10, 32),
            prompt: "fur, whiskers".into(),
            model: Some(model),
            seed: i as u64,
            consistency: Some(30.0),
            full_image: None,
            elapsed: Duration::from_millis(40),
        };
        history.add(parent, record, small.clone(), small.clone()).expect("its parent is there");
    }
    harness.run_steps(10);
    let mut times: Vec<Duration> = (0..200).map(|_| frame(&mut harness)).collect();
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() - 1])
}

fn huge_result() -> [Duration; 3] {
    let mut harness =
        open(&picture(3072, 3072), Settings { backbone: Backbone::from(&NEAREST), ..Settings::default() });
    harness.state_mut().act(Command::EnlargeFullImage);
    let count = |viewer: &Viewer| viewer.state.document.as_ref().map_or(0, |it| it.history.with_deleted().count());
    frame(&mut harness);
    let making = until(&mut harness, |viewer| count(viewer) == 2);
    let after = (0..60).map(|_| frame(&mut harness)).max().unwrap_or_default();

    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::PRIMARY,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let adapter = pollster::block_on(instance.request_adapter(&Default::default())).expect("a Vulkan driver");
    let (device, queue) = pollster::block_on(adapter.request_device(&Default::default())).expect("it works");
    let mut renderer = Renderer::new(&device, wgpu::TextureFormat::Rgba8Unorm);
    let document = harness.state().state.document.as_ref().expect("it is open");
    let (screen, mut camera) = (document.screen, document.camera);
    let canvas_frame = |_: usize| {
        camera.zoom_at(&document.history, [700.0, 400.0], 1.05, screen);
        let mut encoder = device.create_command_encoder(&Default::default());
        let scene = Scene { history: &document.history, camera, screen, overlays: &[], opacity: &|_| 1.0 };
        let start = computed();
        renderer.prepare(&device, &queue, &mut encoder, &compose(&scene), screen);
        let took = computed() - start;
        queue.submit(Some(encoder.finish()));
        device.poll(wgpu::PollType::wait_indefinitely()).expect("it draws");
        took
    };
    let upload = (0..60).map(canvas_frame).max().unwrap_or_default();
    [making, after, upload]
}

fn picture(width: u32, height: u32) -> Picture {
    Picture::from_fn(width, height, |x, y| [x as u8, y as u8, (x * y) as u8])
}
