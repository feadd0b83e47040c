//! The canvas's renderer on a real (software) GPU, into a texture: the bytes that go in come out.

use std::sync::Arc;
use std::time::Duration;

use crate::samples::photo;
use chain_of_zoom::base::{Region, Source, StepRecord};
use chain_of_zoom::document::{History, StateId};
use chain_of_zoom::imaging::{Filter, Picture, resize};
use chain_of_zoom::scene::canvas::{Camera, Scene};
use chain_of_zoom::scene::film::studio::Studio;

/// What a camera sees of a history, pixels shown as the window shows them.
fn render(history: &History, camera: Camera, width: u32, height: u32) -> Picture {
    let mut studio = Studio::new(width, height).expect("a Vulkan driver");
    studio.shows_pixels(true);
    let screen = [f64::from(width), f64::from(height)];
    let rgb = studio.draw(&Scene { history, camera, screen, overlays: &[], opacity: &|_| 1.0 }).unwrap();
    Picture::from_rgb(width, height, rgb).unwrap()
}

fn history(picture: Picture) -> History {
    let thumbnail = Arc::new(chain_of_zoom::document::thumbnail(&picture));
    History::new(Source::default(), Arc::new(picture), thumbnail)
}

fn worst(a: &Picture, b: &Picture) -> u8 {
    a.rgb().iter().zip(b.rgb()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn one_to_one_shows_the_very_pixels() {
    let source = photo(256, 192);
    let camera = Camera { anchor: StateId(0), center: [128.0, 96.0], scale: 1.0 };
    assert_eq!(render(&history(source.clone()), camera, 256, 192), source);
}

#[test]
fn pictures_larger_than_a_tile_have_no_seam() {
    let source = photo(4300, 70);
    let history = history(source.clone());
    let camera = |scale| Camera { anchor: StateId(0), center: [4096.0, 32.0], scale };
    let seen = render(&history, camera(1.0), 256, 64);
    assert_eq!(seen, source.crop(4096 - 128, 0, 256, 64), "around the border of two tiles");
    // Enlarged, the border shows no line.
    let enlarged = render(&history, camera(2.0), 256, 64);
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
    let whole =
        render(&history, Camera { anchor: StateId(0), center: [20_000.0, 450.0], scale: 1280.0 / 40_000.0 }, 1280, 64);
    for x in [10, 300, 640, 1000, 1270] {
        let wanted = source.pixel(x * 40_000 / 1280 + 15, 465);
        let seen = whole.pixel(x, 32);
        assert!(seen[0].abs_diff(wanted[0]) <= 2 && seen[1].abs_diff(wanted[1]) <= 3, "{x}: {seen:?} {wanted:?}");
    }
    for (x, y) in [(39_900, 850), (40, 30), (20_480, 512)] {
        let camera = Camera { anchor: StateId(0), center: [f64::from(x), f64::from(y)], scale: 1.0 };
        let seen = render(&history, camera, 64, 32);
        let (x, y) = (i64::from(x), i64::from(y));
        let wanted = source.crop(x - 32, y - 16, 64, 32);
        assert_eq!(seen.crop(0, 0, 48, 32), wanted.crop(0, 0, 48, 32), "the very pixels at {x}, {y}");
    }
    // Between two levels no step shows: brightness changes by little as the camera draws back.
    let mut before: Option<f64> = None;
    for i in 0..40 {
        let scale = 0.9f64 * 0.93f64.powi(i);
        let seen = render(&history, Camera { anchor: StateId(0), center: [20_000.0, 450.0], scale }, 256, 16);
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
    let small = render(&history, Camera { anchor: StateId(0), center: [256.0; 2], scale: 0.23 }, 64, 64);
    assert!(small.rgb().iter().all(|value| value.abs_diff(128) <= 3), "minified it is an even grey");
    let large = render(&history, Camera { anchor: StateId(0), center: [256.0; 2], scale: 32.0 }, 256, 256);
    let sharp = large.rgb().iter().filter(|&&value| value == 0 || value == 255).count();
    assert!(sharp * 10 > large.rgb().len() * 9, "magnified far, pixels are squares with thin edges");
}

#[test]
fn a_state_is_drawn_in_its_box() {
    let source = photo(512, 512);
    let mut history = history(source.clone());
    let region = Region::square(192, 160, 128);
    let child = resize(&source.crop(192, 160, 128, 128), 512, 512, Filter::Bicubic);
    let record = StepRecord {
        region,
        prompt: String::new(),
        model: None,
        seed: 0,
        consistency: None,
        full_image: None,
        elapsed: Duration::ZERO,
    };
    let thumbnail = Arc::new(chain_of_zoom::document::thumbnail(&child));
    let id = history.add(StateId(0), record, Arc::new(child.clone()), thumbnail).unwrap();
    history.go(id);
    // Seen from the photo at 4:1, and from the state itself at 1:1, it is the same picture: its own pixels.
    let from_photo = render(&history, Camera { anchor: StateId(0), center: [256.0, 224.0], scale: 4.0 }, 512, 512);
    let from_state = render(&history, Camera { anchor: id, center: [256.0, 256.0], scale: 1.0 }, 512, 512);
    assert_eq!(worst(&from_photo, &child), 0);
    assert_eq!(worst(&from_state, &child), 0);
    // Reduced into its place it continues the photo around it: no seam.
    let around = render(&history, Camera { anchor: StateId(0), center: [256.0, 224.0], scale: 1.0 }, 256, 256);
    let difference = worst(&around, &source.crop(128, 96, 256, 256));
    assert!(difference <= 90, "{difference}");
    let outside = around.crop(0, 0, 60, 256);
    assert_eq!(outside, source.crop(128, 96, 60, 256), "the photo beside the box is untouched");
}
