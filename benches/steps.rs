//! How long the parts of a step take: `cargo xtask bench`.

use std::sync::Arc;

use chain_of_zoom::image::{AlignMethod, Filter, Picture, colour, resize};
use chain_of_zoom::step::{Backbone, DeviceChoice, Progress, StepInput};
use divan::{Bencher, black_box};

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
    let Ok(mut model) = Backbone::BuiltIn.load(&DeviceChoice::Cpu) else { return };
    let cut = Arc::new(picture(128, 128));
    let enlarged = Arc::new(resize(&cut, 512, 512, Filter::Bicubic));
    let input = StepInput { cut, enlarged, prompt: String::new(), seed: 0 };
    bencher.bench_local(|| model.restore(&input, &mut Progress::new(&mut |_, _| true)));
}
