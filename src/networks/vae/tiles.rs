//! The autoencoder on pictures of any size, tile by tile, so that memory is bounded by the tile.
//!
//! Group norms look at the full image, so tiles must know what there is. Three ways, the first two those of the reference's `VAEHook`
//! (`my_utils/vaehook.py`); in these attention sees its tile:
//! - fast: the numbers come from one pass over the input reduced to the size of a tile. Every pixel is computed about once.
//! - averaged: all tiles go from norm to norm together; the numbers are the means of what each tile has. Every pixel is computed about
//!   once, and all tiles wait in memory.
//! - exact: the numbers are those of the full image, summed up norm by norm in passes over all tiles, whose edges
//!   reach as far as the convolutions do; what is as coarse as the latent is computed whole. The result is that of one
//!   large pass, whatever the tile; it takes several times as long.

use std::ops::Range;

use tch::{Device, Kind, TchError, Tensor};

use super::{Decoder, Encoder, Ops, State, by_itself, moments};
use crate::base::VaeMode;
use crate::networks::layers::GroupNorm;

/// Context on each side of a tile in the fast way, in pixels for the encoder and in those of the latent for the decoder.
const ENCODER_PADDING: i64 = 32;
pub const DECODER_PADDING: i64 = 11;
/// Rows whose sums are taken at a time.
const BAND: i64 = 256;

/// How the autoencoder works through a large picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VaeTiles {
    /// Side of a tile: in pixels where encoding, in pixels of the latent where decoding.
    pub size: i64,
    /// How tiles know of each other.
    pub mode: VaeMode,
}

/// Left and right, or top and bottom.
type Span = Range<i64>;

/// Columns and rows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Area {
    across: Span,
    down: Span,
}

impl Area {
    fn of(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let part = |x: &Tensor, axis: i64, span: &Span| x.f_narrow(axis, span.start, span.end - span.start);
        part(&part(x, 2, &self.down)?, 3, &self.across)
    }

    fn mapped(&self, f: impl Fn(&Span) -> Span) -> Self {
        Self { across: f(&self.across), down: f(&self.down) }
    }
}

/// One tile: what is fed in, and what is kept of what comes out.
struct Tile {
    input: Area,
    /// In the whole output.
    output: Area,
    /// The same in the tile's own output.
    kept: Area,
}

/// All tiles from their spans across and down: of the input, of the output, of the tile's own output.
fn tiles(across: &[[Span; 3]], down: &[[Span; 3]]) -> Vec<Tile> {
    let area = |across: &Span, down: &Span| Area { across: across.clone(), down: down.clone() };
    let row = |down: &[Span; 3]| {
        let tile = |across: &[Span; 3]| Tile {
            input: area(&across[0], &down[0]),
            output: area(&across[1], &down[1]),
            kept: area(&across[2], &down[2]),
        };
        across.iter().map(tile).collect::<Vec<_>>()
    };
    down.iter().flat_map(row).collect()
}

/// Mean and variance of each group of one norm.
type Moments = (Tensor, Tensor);

/// Ops over an input that is too large for them.
struct Work<'a> {
    ops: &'a Ops,
    range: Range<usize>,
    /// `[1, C, H, W]`; bytes are levels of a picture.
    input: &'a Tensor,
    device: Device,
    kind: Kind,
}

impl Work<'_> {
    fn sides(&self) -> Result<[i64; 2], TchError> {
        let (_, _, height, width) = self.input.size4()?;
        Ok([width, height])
    }

    /// As the network takes it, in float32: levels become [-1, 1].
    fn wide(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let on_device = x.f_to_device(self.device)?;
        let wide = on_device.f_to_kind(Kind::Float)?;
        match x.kind() {
            Kind::Uint8 => wide.f_div_scalar(255.0)?.f_mul_scalar(2.0)?.f_sub_scalar(1.0),
            _ => Ok(wide),
        }
    }

    fn cut(&self, area: &Area) -> Result<Tensor, TchError> {
        self.wide(&area.of(self.input)?)?.f_contiguous()?.f_to_kind(self.kind)
    }

    /// Mean, deviation, least and largest of each channel, `[1, C, 1, 1]` and two single numbers.
    fn extent(&self) -> Result<(Tensor, Tensor, f64, f64), TchError> {
        let [width, height] = self.sides()?;
        let (mut sums, mut squares, mut least, mut largest) = (None::<Tensor>, None::<Tensor>, f64::MAX, f64::MIN);
        for top in (0..height).step_by(BAND as usize) {
            let area = Area { across: 0..width, down: top..(top + BAND).min(height) };
            let band = self.wide(&area.of(self.input)?)?;
            least = least.min(band.f_min()?.f_double_value(&[])?);
            largest = largest.max(band.f_max()?.f_double_value(&[])?);
            let sum = |x: &Tensor| x.f_sum_dim_intlist([0i64, 2, 3].as_slice(), true, Kind::Double);
            let added = |so_far: Option<Tensor>, sum: Tensor| match so_far {
                Some(so_far) => so_far.f_add(&sum),
                None => Ok(sum),
            };
            squares = Some(added(squares, sum(&band.f_to_kind(Kind::Double)?.f_square()?)?)?);
            sums = Some(added(sums, sum(&band)?)?);
        }
        let (Some(sums), Some(squares)) = (sums, squares) else { return Err(TchError::Shape("no pixels".into())) };
        let n = (width * height) as f64;
        let mean = sums.f_div_scalar(n)?;
        let variance = squares.f_sub(&mean.f_square()?.f_mul_scalar(n)?)?.f_div_scalar(n - 1.0)?;
        let wide = |x: Tensor| x.f_to_kind(Kind::Float);
        Ok((wide(mean)?, wide(variance.f_clamp_min(0.0)?.f_sqrt()?)?, least, largest))
    }

    /// The input reduced so that its longer side is `size`, with the mean and the deviation that it had.
    fn reduced(&self, size: i64) -> Result<Tensor, TchError> {
        let [width, height] = self.sides()?;
        let scale = size as f64 / width.max(height) as f64;
        let least = self.ops.reduction(self.range.clone()).max(1.0) as i64;
        let size = [height, width].map(|side| (side as f64 * scale) as i64);
        let small = match size.iter().all(|&side| side >= least) {
            true => self.input.f_internal_upsample_nearest_exact2d_vec(None::<&[i64]>, [scale, scale])?,
            // Of a stripe nothing would be left.
            false => self.input.f_internal_upsample_nearest_exact2d(size.map(|side| side.max(least)), None, None)?,
        };
        let small = self.wide(&small)?;
        let (mean, deviation, least, largest) = self.extent()?;
        let over = [0i64, 2, 3].as_slice();
        let own_mean = small.f_mean_dim(over, true, Kind::Float)?;
        let own_deviation = small.f_std_dim(over, true, true)?;
        let small = small.f_sub(&own_mean)?.f_div(&own_deviation)?.f_mul(&deviation)?.f_add(&mean)?;
        // A channel that is all the same has no deviation to be divided by.
        small.f_nan_to_num(0.0, largest, least)?.f_clamp(least, largest)?.f_to_kind(self.kind)
    }

    /// What the norms find in the reduced input; by number, `None` for ops that are no norms.
    fn estimated<E: From<TchError>>(
        &self,
        size: i64,
        on_progress: &mut dyn FnMut(f32) -> Result<(), E>,
    ) -> Result<Vec<Option<Moments>>, E> {
        let mut found: Vec<Option<Moments>> = (0..self.range.end).map(|_| None).collect();
        let last = self.ops.norms().map(|(i, _)| i).next_back().unwrap_or(0);
        let mut written = |i: usize, norm: &GroupNorm, x: &Tensor| {
            found[i] = Some(found_in(norm, x)?);
            norm.forward(x)
        };
        _ = self.ops.run(0..last + 1, self.reduced(size)?, &mut written, on_progress)?;
        Ok(found)
    }

    /// What the norms find in all tiles together.
    fn summed<E: From<TchError>>(
        &self,
        tiles: &[Tile],
        on_progress: &mut dyn FnMut(f32) -> Result<(), E>,
    ) -> Result<Vec<Option<Moments>>, E> {
        let mut found: Vec<Option<Moments>> = (0..self.range.end).map(|_| None).collect();
        let norms: Vec<_> = self.ops.norms().filter(|(i, _)| self.range.contains(i)).collect();
        let all: usize = norms.iter().map(|(i, _)| i - self.range.start).sum();
        let mut done = 0;
        for (i, norm) in norms {
            let part = self.range.start..i;
            let mut sums: Option<[Tensor; 2]> = None;
            let mut pixels = 0.0;
            for (n, tile) in tiles.iter().enumerate() {
                let mut on_progress = |fraction: f32| {
                    let here = (n as f32 + fraction) / tiles.len() as f32 * part.len() as f32;
                    on_progress((done as f32 + here) / all.max(1) as f32)
                };
                let x = self.ops.run(part.clone(), self.cut(&tile.input)?, &mut given(&found), &mut on_progress)?;
                let core = self.core(tile, &part).of(&x)?;
                let size = ((core.size()[2] * core.size()[3]) as f64).max(1.0);
                let (mean, variance) = found_in(norm, &core)?;
                let mean = mean.f_to_kind(Kind::Double)?;
                let square = variance.f_to_kind(Kind::Double)?.f_add(&mean.f_square()?)?;
                let here = [mean.f_mul_scalar(size)?, square.f_mul_scalar(size)?];
                pixels += size;
                sums = Some(match sums {
                    None => here,
                    Some([mean, square]) => [mean.f_add(&here[0])?, square.f_add(&here[1])?],
                });
            }
            done += part.len();
            if let Some([mean, square]) = sums {
                let mean = mean.f_div_scalar(pixels)?;
                let variance = square.f_div_scalar(pixels)?.f_sub(&mean.f_square()?)?.f_clamp_min(0.0)?;
                found[i] = Some((mean.f_to_kind(Kind::Float)?, variance.f_to_kind(Kind::Float)?));
            }
        }
        Ok(found)
    }

    /// The tile's own part, without its context, in what comes out of some of the ops.
    fn core(&self, tile: &Tile, part: &Range<usize>) -> Area {
        let (here, end) = (self.ops.reduction(part.clone()), self.ops.reduction(self.range.clone()));
        let scaled = |at: i64| (at as f64 * end / here) as i64;
        tile.kept.mapped(|span| scaled(span.start)..scaled(span.end))
    }

    /// Tiles of `size` with as much context as decides about them.
    fn grid(&self, size: i64) -> Result<Vec<Tile>, TchError> {
        let [width, height] = self.sides()?;
        let reduction = self.ops.reduction(self.range.clone());
        let multiple = reduction.max(1.0) as i64;
        let up = |length: i64| (length + multiple - 1) / multiple * multiple;
        let (size, reach) = (up(size.max(1)), up(self.ops.reach(self.range.clone())));
        let out = |at: i64| (at as f64 / reduction) as i64;
        let spans = |end: i64| -> Vec<[Span; 3]> {
            let starts = (0..end).step_by(size as usize);
            let span = |start: i64| {
                let stop = (start + size).min(end);
                let (from, to) = ((start - reach).max(0), (stop + reach).min(end));
                [from..to, out(start)..out(stop), out(start - from)..out(stop - from)]
            };
            starts.map(span).collect()
        };
        Ok(tiles(&spans(width), &spans(height)))
    }

    /// The reference's tiles (`split_tiles`, `crop_valid_region`).
    fn split(&self, size: i64, padding: i64) -> Result<Vec<Tile>, TchError> {
        let [width, height] = self.sides()?;
        let reduction = self.ops.reduction(self.range.clone());
        let out = |at: i64| (at as f64 / reduction).floor() as i64;
        let spans = |end: i64| -> Vec<[Span; 3]> {
            let inner = end - 2 * padding;
            let count = ((inner + size - 1) / size).max(1);
            let side = handy((inner + count - 1) / count, size);
            let span = |i: i64| {
                let (start, stop) = (padding + i * side, (padding + (i + 1) * side).min(end));
                let (from, to) = ((start - padding).max(0), (stop + padding).min(end));
                let first = if start > padding { start } else { 0 };
                let last = if stop < end - padding { stop } else { end };
                [from..to, out(first)..out(last), out(first) - out(from)..out(last) - out(from)]
            };
            (0..count).map(span).collect()
        };
        Ok(tiles(&spans(width), &spans(height)))
    }

    /// Every tile's own output in one of the reference's ways.
    fn in_mode<E: From<TchError>>(
        &self,
        VaeTiles { size, mode }: VaeTiles,
        tiles: &[Tile],
        on_progress: &mut dyn FnMut(f32) -> Result<(), E>,
        made: &mut dyn FnMut(&Area, Tensor) -> Result<(), E>,
    ) -> Result<(), E> {
        if mode == VaeMode::Averaged {
            return self.averaged(tiles, on_progress, made);
        }
        let estimate = 1.0 / (tiles.len() + 1) as f32;
        let found = self.estimated(size, &mut part(on_progress, 0.0..estimate))?;
        self.each(tiles, &found, &mut part(on_progress, estimate..1.0), made)
    }

    /// Every tile's own output, with where it belongs, by means and variances that are the means of those of all tiles.
    fn averaged<E: From<TchError>>(
        &self,
        tiles: &[Tile],
        on_progress: &mut dyn FnMut(f32) -> Result<(), E>,
        made: &mut dyn FnMut(&Area, Tensor) -> Result<(), E>,
    ) -> Result<(), E> {
        // They wait where memory is plenty.
        let begun = tiles.iter().map(|tile| {
            let state = State { x: self.cut(&tile.input)?, kept: None };
            Ok::<_, E>(state.to_device(Device::Cpu)?)
        });
        let mut states = begun.collect::<Result<Vec<_>, _>>()?;
        let norms = self.ops.norms().filter(|(i, _)| self.range.contains(i));
        let stops: Vec<_> = norms.map(|(i, norm)| (i, Some(norm))).chain([(self.range.end, None)]).collect();
        let mut found: Vec<Option<Moments>> = (0..self.range.end).map(|_| None).collect();
        let mut start = self.range.start;
        for (stop, norm) in stops {
            let (mut sums, mut pixels): (Option<Moments>, f64) = (None, 0.0);
            for (n, (tile, state)) in tiles.iter().zip(&mut states).enumerate() {
                let mut on_progress = |fraction: f32| {
                    let here = (n as f32 + fraction) / tiles.len() as f32 * (stop - start) as f32;
                    on_progress(((start - self.range.start) as f32 + here) / self.range.len().max(1) as f32)
                };
                on_progress(0.0)?;
                let here = state.to_device(self.device)?;
                let here = self.ops.advance(start..stop, here, &mut given(&found), &mut on_progress)?;
                let Some(norm) = norm else {
                    made(&tile.output, tile.kept.of(&here.x)?)?;
                    continue;
                };
                let size = (here.x.size()[2] * here.x.size()[3]) as f64;
                let (mean, variance) = found_in(norm, &here.x)?;
                let (mean, variance) = (mean.f_mul_scalar(size)?, variance.f_mul_scalar(size)?);
                sums = Some(match sums {
                    None => (mean, variance),
                    Some(sums) => (sums.0.f_add(&mean)?, sums.1.f_add(&variance)?),
                });
                pixels += size;
                *state = here.to_device(Device::Cpu)?;
            }
            if let Some((mean, variance)) = sums {
                found[stop] = Some((mean.f_div_scalar(pixels)?, variance.f_div_scalar(pixels)?));
            }
            start = stop;
        }
        Ok(())
    }

    /// Every tile's own output, with where it belongs.
    fn each<E: From<TchError>>(
        &self,
        tiles: &[Tile],
        found: &[Option<Moments>],
        on_progress: &mut dyn FnMut(f32) -> Result<(), E>,
        made: &mut dyn FnMut(&Area, Tensor) -> Result<(), E>,
    ) -> Result<(), E> {
        for (n, tile) in tiles.iter().enumerate() {
            let mut on_progress = |fraction: f32| on_progress((n as f32 + fraction) / tiles.len() as f32);
            let x = self.ops.run(self.range.clone(), self.cut(&tile.input)?, &mut given(found), &mut on_progress)?;
            made(&tile.output, tile.kept.of(&x)?)?;
        }
        Ok(())
    }
}

/// `get_best_tile_size` of the reference: at least `least`, at most `most`, divisible by a power of two as large as
/// possible.
fn handy(least: i64, most: i64) -> i64 {
    let dividers = [32, 16, 8, 4, 2];
    let candidates = dividers.iter().map(|divider| (least + divider - 1) / divider * divider);
    candidates.into_iter().find(|&side| side == least || side <= most).unwrap_or(least)
}

fn found_in(norm: &GroupNorm, x: &Tensor) -> Result<Moments, TchError> {
    let groups = x.f_to_kind(Kind::Float)?.f_reshape([norm.groups(), -1])?;
    let (variance, mean) = groups.f_var_mean_dim([1i64].as_slice(), false, false)?;
    Ok((mean, variance))
}

fn given(found: &[Option<Moments>]) -> impl FnMut(usize, &GroupNorm, &Tensor) -> Result<Tensor, TchError> {
    |i, norm, x| match &found.get(i) {
        Some(Some((mean, variance))) => norm.forward_by(x, mean, variance),
        _ => norm.forward(x),
    }
}

/// How much of the whole is done when so much of a part is.
fn part<'a, E>(
    on_progress: &'a mut dyn FnMut(f32) -> Result<(), E>,
    part: Range<f32>,
) -> impl FnMut(f32) -> Result<(), E> + 'a {
    move |fraction| on_progress(part.start + (part.end - part.start) * fraction)
}

impl Encoder {
    /// The same as [`Encoder::forward`] for a picture of any size: `[1, 3, H, W]` bytes, to float32 on `device`. Sides
    /// are multiples of what the encoder reduces by.
    pub fn forward_tiled<E: From<TchError>>(
        &self,
        levels: &Tensor,
        (device, kind): (Device, Kind),
        tiles: VaeTiles,
        on_progress: &mut dyn FnMut(f32) -> Result<(), E>,
    ) -> Result<(Tensor, Tensor), E> {
        let ops = &self.ops;
        let work = |range: Range<usize>| Work { ops, range, input: levels, device, kind };
        let (_, _, height, width) = levels.size4()?;
        let whole = Area { across: 0..width, down: 0..height };
        if width.max(height) <= tiles.size + 2 * ENCODER_PADDING {
            return self.forward(&work(ops.all()).cut(&whole)?, on_progress);
        }
        let reduction = ops.reduction(ops.all()).max(1.0) as i64;
        let size = [1, 0, height / reduction, width / reduction];
        let mut out: Option<Tensor> = None;
        let mut made = |area: &Area, x: Tensor| -> Result<(), E> {
            let out = match &out {
                Some(out) => out,
                None => out.insert(Tensor::f_zeros([1, x.size()[1], size[2], size[3]], (x.kind(), device))?),
            };
            Ok(area.of(out)?.f_copy_(&x).map(|_| ())?)
        };
        if tiles.mode == VaeMode::Exact {
            let fine = work(0..ops.coarse_from());
            let grid = fine.grid(tiles.size)?;
            let found = fine.summed(&grid, &mut part(on_progress, 0.0..0.8))?;
            fine.each(&grid, &found, &mut part(on_progress, 0.8..0.9), &mut made)?;
            let coarse = out.ok_or_else(|| TchError::Shape("no tiles".into()))?;
            let rest = ops.coarse_from()..ops.all().end;
            return Ok(moments(&ops.run(rest, coarse, &mut by_itself, &mut part(on_progress, 0.9..1.0))?)?);
        }
        let all = work(ops.all());
        let split = all.split(tiles.size, ENCODER_PADDING)?;
        all.in_mode(tiles, &split, on_progress, &mut made)?;
        Ok(moments(&out.ok_or_else(|| TchError::Shape("no tiles".into()))?)?)
    }
}

impl Decoder {
    /// The same as [`Decoder::forward`] for a latent of any size, `[1, C, h, w]`. `made` is handed the picture piece by
    /// piece, float32 `[1, 3, H, W]`, with the piece's left and top edge.
    pub fn forward_tiled<E: From<TchError>>(
        &self,
        latent: &Tensor,
        kind: Kind,
        tiles: VaeTiles,
        on_progress: &mut dyn FnMut(f32) -> Result<(), E>,
        made: &mut dyn FnMut([i64; 2], Tensor) -> Result<(), E>,
    ) -> Result<(), E> {
        let ops = &self.ops;
        let work = |range: Range<usize>, input| Work { ops, range, input, device: latent.device(), kind };
        let mut made = |area: &Area, x: Tensor| made([area.across.start, area.down.start], x);
        let (_, _, height, width) = latent.size4()?;
        if width.max(height) <= tiles.size + 2 * DECODER_PADDING {
            return made(&Area { across: 0..0, down: 0..0 }, self.forward(&latent.f_to_kind(kind)?, on_progress)?);
        }
        if tiles.mode == VaeMode::Exact {
            let first = latent.f_to_kind(kind)?;
            let coarse = ops.run(0..ops.coarse_to(), first, &mut by_itself, &mut part(on_progress, 0.0..0.1))?;
            let fine = work(ops.coarse_to()..ops.all().end, &coarse);
            let grid = fine.grid(tiles.size)?;
            let found = fine.summed(&grid, &mut part(on_progress, 0.1..0.9))?;
            return fine.each(&grid, &found, &mut part(on_progress, 0.9..1.0), &mut made);
        }
        let all = work(ops.all(), latent);
        let split = all.split(tiles.size, DECODER_PADDING)?;
        all.in_mode(tiles, &split, on_progress, &mut made)
    }
}
