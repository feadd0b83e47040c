//! The arithmetic of Winograd's F(4x4, 3x3): the three transforms and the product between them.
//!
//! Arrays of `N` channels stand for vector registers. The callers are compiled for the instructions that make them so,
//! and everything here is inlined into them.

/// Side of a tile of outputs; a tile of inputs reaches one pixel further on each side.
pub(super) const TILE: usize = 4;
/// Side of a tile of inputs.
pub(super) const PATCH: usize = TILE + 2;
/// Products for each tile and pair of channels.
pub(super) const POINTS: usize = PATCH * PATCH;

const SQRT_2: f32 = std::f32::consts::SQRT_2;
const HALF_SQRT_2: f32 = std::f32::consts::FRAC_1_SQRT_2;

/// On a cache line's boundary.
#[repr(align(64))]
pub(super) struct Aligned<T>(pub(super) T);

/// `G g G^T` of a row-major 3x3 kernel.
pub(super) fn transform_kernel(g: &[f32; 9]) -> [f64; POINTS] {
    let row = |point: f64, norm: f64| [norm, norm * point, norm * point * point];
    let (inner, outer) = (std::f64::consts::FRAC_1_SQRT_2, std::f64::consts::SQRT_2);
    let matrix = [
        [1.0, 0.0, 0.0],
        row(inner, -2.0 / 3.0),
        row(-inner, -2.0 / 3.0),
        row(outer, 1.0 / 6.0),
        row(-outer, 1.0 / 6.0),
        [0.0, 0.0, 1.0],
    ];
    let mut points = [0.0; POINTS];
    for (points, left) in points.as_chunks_mut::<PATCH>().0.iter_mut().zip(&matrix) {
        let half = [0, 1, 2].map(|column| (0..3).map(|row| left[row] * f64::from(g[3 * row + column])).sum::<f64>());
        for (point, right) in points.iter_mut().zip(&matrix) {
            *point = half.iter().zip(right).map(|(half, right)| half * right).sum();
        }
    }
    points
}

/// `B^T d`
#[inline(always)]
fn transform_input(d: [f32; PATCH]) -> [f32; PATCH] {
    let (even, odd) = (d[2].mul_add(-2.0, d[4]), d[3].mul_add(HALF_SQRT_2, d[1] * -SQRT_2));
    let (outer_even, outer_odd) = (d[2].mul_add(-0.5, d[4]), d[3].mul_add(SQRT_2, d[1] * -HALF_SQRT_2));
    let (zero, infinity) = (d[2].mul_add(-2.5, d[0] + d[4]), d[3].mul_add(-2.5, d[1] + d[5]));
    [zero, even + odd, even - odd, outer_even + outer_odd, outer_even - outer_odd, infinity]
}

/// `A^T m`
#[inline(always)]
fn transform_output(m: [f32; PATCH]) -> [f32; TILE] {
    let (even, odd) = (m[1] + m[2], m[1] - m[2]);
    let (outer_even, outer_odd) = (m[3] + m[4], m[3] - m[4]);
    [
        m[0] + even + outer_even,
        outer_odd.mul_add(SQRT_2, odd * HALF_SQRT_2),
        outer_even.mul_add(2.0, even * 0.5),
        outer_odd.mul_add(2.0 * SQRT_2, odd.mul_add(0.5 * HALF_SQRT_2, m[5])),
    ]
}

#[inline(always)]
fn column<const ROWS: usize, const COLUMNS: usize>(rows: &[[f32; COLUMNS]; ROWS], i: usize) -> [f32; ROWS] {
    let mut column = [0.0; ROWS];
    for (value, row) in column.iter_mut().zip(rows) {
        *value = row[i];
    }
    column
}

/// `B^T d B`. The loop over channels becomes vector instructions.
#[expect(clippy::needless_range_loop, reason = "the same lane of many arrays")]
#[inline(always)]
pub(super) fn patch_to_points<const N: usize>(d: &[[[f32; N]; PATCH]; PATCH], points: &mut [[f32; N]; POINTS]) {
    for lane in 0..N {
        let mut half = [[0.0; PATCH]; PATCH];
        for (half, row) in half.iter_mut().zip(d) {
            *half = transform_input(column(row, lane));
        }
        for j in 0..PATCH {
            for (i, value) in transform_input(column(&half, j)).into_iter().enumerate() {
                points[i * PATCH + j][lane] = value;
            }
        }
    }
}

/// `A^T m A`, then bias, activation and `factor`.
#[expect(clippy::needless_range_loop, reason = "the same lane of many arrays")]
#[inline(always)]
pub(super) fn points_to_tile<const N: usize>(
    m: &[[f32; N]; POINTS],
    bias: &[f32; N],
    slopes: &[f32; N],
    factor: f32,
    tile: &mut [[[f32; N]; TILE]; TILE],
) {
    for lane in 0..N {
        let mut half = [[0.0; TILE]; PATCH];
        for (half, row) in half.iter_mut().zip(m.as_chunks::<PATCH>().0) {
            *half = transform_output(column(row, lane));
        }
        for j in 0..TILE {
            for (i, value) in transform_output(column(&half, j)).into_iter().enumerate() {
                let value = value + bias[lane];
                tile[i][j][lane] = factor * if value > 0.0 { value } else { value * slopes[lane] };
            }
        }
    }
}

/// `a * factor + added`
#[inline(always)]
pub(super) fn multiply_add<const N: usize>(a: &[f32; N], factor: f32, added: &[f32; N]) -> [f32; N] {
    let mut sum = *added;
    for i in 0..N {
        sum[i] = a[i].mul_add(factor, added[i]);
    }
    sum
}

/// Matrix product at one point: `[out / panel, in, panel]` by `[in / N, tiles, N]` gives `[out / N, tiles, N]`, or adds
/// to what is there. A panel is two registers, the last one perhaps one; sums of `TILES` tiles fit into all registers.
#[inline(always)]
pub(super) fn multiply<const N: usize, const TILES: usize>(
    mut weight: &[[f32; N]],
    v: &[[f32; N]],
    mut m: &mut [[f32; N]],
    [channels_in, tiles]: [usize; 2],
    add: bool,
) {
    while let Some((panel, other_panels)) = weight.split_at_checked(2 * channels_in) {
        let (now, later) = m.split_at_mut(2 * tiles);
        multiply_panel::<N, 2, TILES>(panel.as_chunks().0, v, now, tiles, add);
        (weight, m) = (other_panels, later);
    }
    if !weight.is_empty() {
        multiply_panel::<N, 1, TILES>(weight.as_chunks().0, v, m, tiles, add);
    }
}

#[inline(always)]
fn multiply_panel<const N: usize, const V: usize, const TILES: usize>(
    weight: &[[[f32; N]; V]],
    v: &[[f32; N]],
    m: &mut [[f32; N]],
    tiles: usize,
    add: bool,
) {
    let mut first = 0;
    while first + TILES <= tiles {
        multiply_tiles::<N, V, TILES>(weight, v, m, [first, tiles], add);
        first += TILES;
    }
    while first + 4 <= tiles {
        multiply_tiles::<N, V, 4>(weight, v, m, [first, tiles], add);
        first += 4;
    }
    while first < tiles {
        multiply_tiles::<N, V, 1>(weight, v, m, [first, tiles], add);
        first += 1;
    }
}

/// The innermost loop. Its sums stay in registers.
#[inline(always)]
fn multiply_tiles<const N: usize, const V: usize, const TILES: usize>(
    weight: &[[[f32; N]; V]],
    v: &[[f32; N]],
    m: &mut [[f32; N]],
    [first, tiles]: [usize; 2],
    add: bool,
) {
    let mut sums = [[[0.0; N]; V]; TILES];
    if add {
        for (i, sums) in sums.iter_mut().enumerate() {
            for (j, sum) in sums.iter_mut().enumerate() {
                *sum = m[j * tiles + first + i];
            }
        }
    }
    for (weight, v) in weight.as_chunks::<N>().0.iter().zip(v.chunks_exact(tiles)) {
        let Some(v) = v[first..].first_chunk::<TILES>() else { return };
        for (k, weight) in weight.iter().enumerate() {
            for (sums, v) in sums.iter_mut().zip(v) {
                for (sum, weight) in sums.iter_mut().zip(weight) {
                    *sum = multiply_add(weight, v[k], sum);
                }
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        for (j, sum) in sums.iter().enumerate() {
            m[j * tiles + first + i] = *sum;
        }
    }
}
