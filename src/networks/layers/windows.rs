//! Attention within windows (Swin, arXiv 2103.14030): a picture of tokens is cut into windows, and tokens attend to those of
//! their own window, with a learned bias for each distance. Windows may be shifted against the picture's edge.

use tch::{Device, Kind, TchError, Tensor};

use super::Linear;
use crate::runtime::weights::{Loader, WeightsError};

/// Larger windows are in no published network; the biases between all their tokens would not fit into memory.
pub const LARGEST_WINDOW: i64 = 32;
/// Added between tokens that a shift has brought into one window from opposite edges.
const MASKED: f64 = -100.0;

/// `[B, H, W, C] -> [B, H / h, W / w, h * w, C]`.
pub fn windows(x: &Tensor, [h, w]: [i64; 2]) -> Result<Tensor, TchError> {
    let (batch, height, width, channels) = x.size4()?;
    let x = x.f_reshape([batch, height / h, h, width / w, w, channels])?;
    x.f_transpose(2, 3)?.f_reshape([batch, height / h, width / w, h * w, channels])
}

/// `[B, H / h, W / w, h * w, C] -> [B, H, W, C]`, the way back from [`windows`].
pub fn from_windows(x: &Tensor, [h, w]: [i64; 2]) -> Result<Tensor, TchError> {
    let (batch, rows, columns, _, channels) = x.size5()?;
    let x = x.f_reshape([batch, rows, columns, h, w, channels])?;
    x.f_transpose(2, 3)?.f_reshape([batch, rows * h, columns * w, channels])
}

/// `[B, C, H, W]` with rows and columns added below and on the right, mirrored without the edge itself, up to multiples of
/// `multiple`; also where more is added than there is.
pub fn reflect_to_multiple(x: &Tensor, multiple: i64) -> Result<Tensor, TchError> {
    let (_, _, height, width) = x.size4()?;
    let up = |length: i64| (length + multiple - 1) / multiple * multiple;
    reflect(&reflect(x, 2, up(height))?, 3, up(width))
}

/// One axis mirrored at its end up to `length`.
pub fn reflect(x: &Tensor, axis: i64, length: i64) -> Result<Tensor, TchError> {
    let there = x.size()[axis as usize];
    if length <= there {
        return Ok(x.shallow_clone());
    }
    let period = (2 * (there - 1)).max(1);
    let places: Vec<i64> = (0..length).map(|at| at % period).map(|at| at.min(period - at)).collect();
    x.f_index_select(axis, &Tensor::f_from_slice(&places)?.f_to_device(x.device())?)
}

/// How windows lie: their height and width, and how far they are shifted down and to the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    size: [i64; 2],
    shift: [i64; 2],
}

impl Layout {
    /// Windows of this height and width; shifted by half of each, or not at all.
    pub fn new(size: [i64; 2], is_shifted: bool) -> Self {
        Self { size, shift: if is_shifted { size.map(|side| side / 2) } else { [0; 2] } }
    }

    /// A table `[distances, heads]` spread over all pairs of a window's tokens, `[heads, h * w, h * w]`.
    pub fn bias(self, table: &Tensor) -> Result<Tensor, TchError> {
        let [h, w] = self.size;
        relative_bias(table, &relative_positions(self.size, table.device())?, h * w)
    }

    /// Of the windows in the last row or column: 0 between tokens that were neighbours before the shift, `[h * w, h * w]`.
    fn mask(self, is_last: [bool; 2], like: &Tensor) -> Result<Tensor, TchError> {
        let [h, w] = self.size;
        let is_beyond = |axis: usize, at: i64| is_last[axis] && at >= self.size[axis] - self.shift[axis];
        let zones: Vec<i64> =
            (0..h * w).map(|at| 2 * i64::from(is_beyond(0, at / w)) + i64::from(is_beyond(1, at % w))).collect();
        let zones = Tensor::f_from_slice(&zones)?.f_to_device(like.device())?;
        let are_strangers = zones.f_unsqueeze(0)?.f_ne_tensor(&zones.f_unsqueeze(1)?)?;
        are_strangers.f_to_kind(like.kind())?.f_mul_scalar(MASKED)
    }

    /// Attention within each window: `[B, H, W, 3 * C]` (queries, keys and values, each of all heads) `-> [B, H, W, C]`.
    /// `bias`: `[heads, h * w, h * w]`. H and W are multiples of the window's.
    pub fn attention(self, qkv: &Tensor, bias: &Tensor) -> Result<Tensor, TchError> {
        let [down, right] = self.shift;
        if self.shift == [0; 2] {
            return from_windows(&attention(&windows(qkv, self.size)?, bias)?, self.size);
        }
        let tokens = windows(&qkv.f_roll([-down, -right], [1, 2])?, self.size)?;
        let (_, rows, columns, _, _) = tokens.size5()?;
        // Only windows of the last row and column hold strangers: four kinds of windows, each with one bias for all.
        let mut bands = Vec::new();
        for (top, height, is_last_row) in [(0, rows - 1, false), (rows - 1, 1, true)] {
            let mut parts = Vec::new();
            for (left, width, is_last_column) in [(0, columns - 1, false), (columns - 1, 1, true)] {
                if height * width > 0 {
                    let part = tokens.f_narrow(1, top, height)?.f_narrow(2, left, width)?;
                    let bias = bias.f_add(&self.mask([is_last_row, is_last_column], bias)?)?;
                    parts.push(attention(&part, &bias)?);
                }
            }
            if !parts.is_empty() {
                bands.push(Tensor::f_cat(&parts, 2)?);
            }
        }
        from_windows(&Tensor::f_cat(&bands, 1)?, self.size)?.f_roll([down, right], [1, 2])
    }
}

/// `[B, rows, columns, N, 3 * C] -> [B, rows, columns, N, C]`, each window for itself.
fn attention(tokens: &Tensor, bias: &Tensor) -> Result<Tensor, TchError> {
    let (batch, rows, columns, length, channels) = tokens.size5()?;
    let (heads, width) = (bias.size()[0], channels / 3);
    let qkv = tokens.f_reshape([-1, length, 3, heads, width / heads])?;
    let part = |i: i64| qkv.f_select(2, i)?.f_transpose(1, 2); // [windows, heads, N, head_dim]
    let (q, k, v) = (part(0)?, part(1)?, part(2)?);
    let bias = bias.f_unsqueeze(0)?;
    let attended = Tensor::f_scaled_dot_product_attention(&q, &k, &v, Some(&bias), 0.0, false, None, false)?;
    attended.f_transpose(1, 2)?.f_reshape([batch, rows, columns, length, width])
}

/// Where in a table of `(2h - 1)(2w - 1)` distances the one between two tokens of a window stands: `[h * w * h * w]`.
fn relative_positions([h, w]: [i64; 2], device: Device) -> Result<Tensor, TchError> {
    let length = h * w;
    let place = |to: i64, from: i64| (to / w - from / w + h - 1) * (2 * w - 1) + to % w - from % w + w - 1;
    let places: Vec<i64> = (0..length).flat_map(|to| (0..length).map(move |from| place(to, from))).collect();
    Tensor::f_from_slice(&places)?.f_to_device(device)
}

/// A table `[distances, heads]` spread over all pairs of tokens, `[heads, queries, keys]`.
pub fn relative_bias(table: &Tensor, positions: &Tensor, queries: i64) -> Result<Tensor, TchError> {
    let heads = table.size()[1];
    table.f_index_select(0, positions)?.f_view([queries, -1, heads])?.f_permute([2, 0, 1])?.f_contiguous()
}

/// Side of the windows and number of heads that a table of distances is made for; noted where there are none.
pub fn window_of_table(loader: &mut Loader, key: &str, width: i64) -> (i64, i64) {
    let (places, heads) = match loader.shape(key).as_deref() {
        Some(&[places, heads]) => (places, heads),
        _ => (1, 1),
    };
    let window = ((places as f64).sqrt() as i64 + 1) / 2;
    if (2 * window - 1).pow(2) == places && (1..=LARGEST_WINDOW).contains(&window) && heads > 0 && width % heads == 0 {
        return (window, heads);
    }
    loader.report(format!(
        "{key} is [{places}, {heads}]: no window of up to {LARGEST_WINDOW} x {LARGEST_WINDOW} has so many distances, \
         or {width} channels do not make {heads} heads"
    ));
    (1, 1)
}

/// Swin's own attention: the same in square windows, with projections before and after.
pub struct WindowAttention {
    qkv: Linear,
    table: Tensor,
    proj: Linear,
    layout: Layout,
}

impl WindowAttention {
    /// From `{name}.qkv`, `{name}.relative_position_bias_table` and `{name}.proj`; window and heads are the table's.
    pub fn load(loader: &mut Loader, name: &str, width: i64, is_shifted: bool) -> Result<Self, WeightsError> {
        let key = format!("{name}.relative_position_bias_table");
        let (window, heads) = window_of_table(loader, &key, width);
        let layout = Layout::new([window; 2], is_shifted);
        let has_bias = loader.has(&format!("{name}.qkv.bias"));
        let table = loader.tensor(&key, &[(2 * window - 1).pow(2), heads])?;
        Ok(Self {
            qkv: Linear::load_merged(loader, &format!("{name}.qkv"), [width, 3 * width], has_bias, None)?,
            table,
            proj: Linear::load(loader, &format!("{name}.proj"), width, width)?,
            layout,
        })
    }

    /// Side of its windows.
    pub fn window(&self) -> i64 {
        self.layout.size[0]
    }

    /// `[B, H, W, C] -> [B, H, W, C]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let bias = self.layout.bias(&self.table)?;
        self.proj.forward(&self.layout.attention(&self.qkv.forward(x)?, &bias)?)
    }
}

/// Scores of channels with each other instead of tokens: `[.., heads, d, N]` for each of q, k and v, of which q and k are
/// brought to unit length over the tokens, `-> [.., heads, d, N]`. `temperature`: `[heads, 1, 1]`.
pub fn channel_attention(q: &Tensor, k: &Tensor, v: &Tensor, temperature: &Tensor) -> Result<Tensor, TchError> {
    let unit = |x: &Tensor| x.f_div(&x.f_norm_scalaropt_dim(2, [-1], true)?.f_clamp_min(1e-12)?);
    let scores = unit(q)?.f_matmul(&unit(k)?.f_transpose(-2, -1)?)?.f_mul(temperature)?;
    scores.f_softmax(-1, None::<Kind>)?.f_matmul(v)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::rng::noise;

    #[test]
    fn windows_and_back_is_the_picture() {
        let x = noise(&[2, 12, 8, 5]);
        assert!(from_windows(&windows(&x, [3, 4]).unwrap(), [3, 4]).unwrap().equal(&x));
    }

    #[test]
    fn mirrored_rows_continue_the_picture_also_where_it_is_short() {
        let x = Tensor::from_slice(&[1f32, 2.0, 3.0]).view([1, 1, 1, 3]);
        let row = |length: i64| Vec::<f32>::try_from(reflect(&x, 3, length).unwrap().view([-1])).unwrap();
        assert_eq!(row(9), [1.0, 2.0, 3.0, 2.0, 1.0, 2.0, 3.0, 2.0, 1.0]);
        assert_eq!(row(2), [1.0, 2.0, 3.0]);
        let one = reflect(&x.narrow(3, 0, 1), 3, 4).unwrap();
        assert_eq!(Vec::<f32>::try_from(one.view([-1])).unwrap(), [1.0; 4]);
        assert_eq!(reflect_to_multiple(&x, 4).unwrap().size(), [1, 1, 4, 4]);
    }

    /// Against Swin's own way: one mask for each window, from a picture of regions.
    #[test]
    fn shifted_windows_hide_what_came_from_the_other_edge() {
        let (size, shift, [height, width]) = ([4, 6], [2, 3], [12, 18]);
        let layout = Layout::new(size, true);
        let (qkv, bias) = (noise(&[1, height, width, 12]), noise(&[2, 24, 24]));
        let zone =
            |at: i64, axis: usize, end: i64| i64::from(at >= end - size[axis]) + i64::from(at >= end - shift[axis]);
        let zones: Vec<i64> =
            (0..height * width).map(|at| 3 * zone(at / width, 0, height) + zone(at % width, 1, width)).collect();
        let zones = windows(&Tensor::from_slice(&zones).view([1, height, width, 1]), size).unwrap().view([-1, 24]);
        let mask = zones.unsqueeze(1).ne_tensor(&zones.unsqueeze(2)).to_kind(Kind::Float) * -100.0;
        let rolled = windows(&qkv.roll([-2, -3], [1, 2]), size).unwrap().view([-1, 24, 3, 2, 2]);
        let part = |i: i64| rolled.select(2, i).transpose(1, 2);
        let scores = part(0).matmul(&part(1).transpose(2, 3)) / 2f64.sqrt() + &bias + mask.unsqueeze(1);
        let attended = scores.softmax(-1, Kind::Float).matmul(&part(2)).transpose(1, 2).reshape([1, 3, 3, 24, 4]);
        let expected = from_windows(&attended, size).unwrap().roll([2, 3], [1, 2]);
        let found = layout.attention(&qkv, &bias).unwrap();
        assert!((found - expected).abs().max().double_value(&[]) < 1e-5);
    }
}
