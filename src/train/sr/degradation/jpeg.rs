//! JPEG as a formula (DiffJPEG, as BasicSR 1.4.2 uses it): colours, blocks, quantisation with true rounding, and back. No
//! file is written, and nothing is rounded to levels.

use std::f64::consts::PI;
use std::sync::LazyLock;

use tch::{TchError, Tensor};

const SIDE: i64 = 8;
const BLOCK: i64 = SIDE * SIDE;

/// Annex K's table for luma, row by row. The formula uses it transposed: entry `[v][u]` for vertical u and horizontal v.
const LUMA: [f32; 64] = [
    16., 11., 10., 16., 24., 40., 51., 61., 12., 12., 14., 19., 26., 58., 60., 55., 14., 13., 16., 24., 40., 57., 69.,
    56., 14., 17., 22., 29., 51., 87., 80., 62., 18., 22., 37., 56., 68., 109., 103., 77., 24., 35., 55., 64., 81.,
    104., 113., 92., 49., 64., 78., 87., 103., 121., 120., 101., 72., 92., 95., 98., 112., 100., 103., 99.,
];
/// The same for chroma; it equals its transpose.
const CHROMA: [f32; 64] = [
    17., 18., 24., 47., 99., 99., 99., 99., 18., 21., 26., 66., 99., 99., 99., 99., 24., 26., 56., 99., 99., 99., 99.,
    99., 47., 66., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99.,
    99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99.,
];

/// A block of 64 numbers to its frequencies: `block @ DCT`.
static DCT: LazyLock<Vec<f32>> = LazyLock::new(|| {
    let cosine = |x: i64, u: i64| {
        let scale = if u == 0 { (1.0f64 / 8.0).sqrt() } else { 0.5 };
        scale * ((2 * x + 1) as f64 * u as f64 * PI / 16.0).cos()
    };
    let weight = |from: i64, to: i64| (cosine(from / SIDE, to / SIDE) * cosine(from % SIDE, to % SIDE)) as f32;
    (0..BLOCK).flat_map(|from| (0..BLOCK).map(move |to| weight(from, to))).collect()
});

/// `[1, 3, H, W]` in [0, 1] as a JPEG of this quality (1 to 100, also between) leaves it.
pub(super) fn compressed(x: &Tensor, quality: f64) -> Result<Tensor, TchError> {
    let factor = if quality < 50.0 { 50.0 / quality } else { 2.0 - quality / 50.0 };
    let (_, _, height, width) = x.size4()?;
    let lacking = |length: i64| (2 * SIDE - length % (2 * SIDE)) % (2 * SIDE);
    let padded = x.f_mul_scalar(255.0)?.f_constant_pad_nd([0, lacking(width), 0, lacking(height)])?.f_squeeze_dim(0)?;
    let channels = padded.f_unbind(0)?;
    let mix = |weights: [f64; 3], shift: f64| {
        let [r, g, b] = [0, 1, 2].map(|i| channels[i].f_mul_scalar(weights[i]));
        r?.f_add(&g?)?.f_add(&b?)?.f_add_scalar(shift)
    };
    let luma = mix([0.299, 0.587, 0.114], 0.0)?;
    let halved = |x: Tensor| {
        let (height, width) = x.size2()?;
        x.f_view([1, 1, height, width])?
            .f_avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None)?
            .f_view([height / 2, -1])
    };
    let cb = halved(mix([-0.168736, -0.331264, 0.5], 128.0)?)?;
    let cr = halved(mix([0.5, -0.418688, -0.081312], 128.0)?)?;
    let luma = quantised(&luma, &LUMA, true, factor)?;
    let doubled = |x: Tensor| x.f_repeat_interleave_self_int(2, 0, None)?.f_repeat_interleave_self_int(2, 1, None);
    let chroma = |x: &Tensor| doubled(quantised(x, &CHROMA, false, factor)?)?.f_sub_scalar(128.0);
    let (cb, cr) = (chroma(&cb)?, chroma(&cr)?);
    let red = luma.f_add(&cr.f_mul_scalar(1.402)?)?;
    let green = luma.f_sub(&cb.f_mul_scalar(0.344136)?)?.f_sub(&cr.f_mul_scalar(0.714136)?)?;
    let blue = luma.f_add(&cb.f_mul_scalar(1.772)?)?;
    let picture = Tensor::f_stack(&[red, green, blue], 0)?.f_clamp(0.0, 255.0)?.f_unsqueeze(0)?;
    picture.f_narrow(2, 0, height)?.f_narrow(3, 0, width)?.f_div_scalar(255.0)?.f_contiguous()
}

/// A channel `[H, W]` in levels, with the frequencies of its blocks rounded to multiples of the table's steps.
fn quantised(x: &Tensor, table: &[f32; 64], is_transposed: bool, factor: f64) -> Result<Tensor, TchError> {
    let (height, width) = x.size2()?;
    let blocks = [height / SIDE, SIDE, width / SIDE, SIDE];
    let cut = x.f_view(blocks)?.f_permute([0, 2, 1, 3])?.f_reshape([-1, BLOCK])?.f_sub_scalar(128.0)?;
    let table = Tensor::f_from_slice(table)?.f_view([SIDE, SIDE])?;
    let table = if is_transposed { table.f_transpose(0, 1)? } else { table };
    let steps = table.f_reshape([BLOCK])?.f_mul_scalar(factor)?;
    let dct = Tensor::f_from_slice(&DCT)?.f_view([BLOCK, BLOCK])?;
    let frequencies = cut.f_matmul(&dct)?.f_div(&steps)?.f_round()?.f_mul(&steps)?;
    let back = frequencies.f_matmul(&dct.f_transpose(0, 1)?)?.f_add_scalar(128.0)?;
    back.f_view([height / SIDE, width / SIDE, SIDE, SIDE])?.f_permute([0, 2, 1, 3])?.f_reshape([height, width])
}
