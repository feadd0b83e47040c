//! 3x3 convolutions on the CPU in float32 by Winograd's minimal filtering F(4x4, 3x3): 36 products for a tile of 4x4
//! outputs where the definition takes 144 (Lavin & Gray 2015, arXiv 1509.09308, section 4.3). The points are 0,
//! +-1/sqrt(2), +-sqrt(2) and infinity instead of the paper's 0, +-1, +-2 and infinity: rounding errors are smaller.
//!
//! A thread takes some rows of tiles through input transform, products and output transform while they are in its
//! cache. The order of each sum depends on neither the number of threads nor the CPU, so results are equal to the bit.

mod kernels;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::{LazyLock, Mutex};

use bytemuck::{Pod, Zeroable, cast_slice, cast_slice_mut};
use kernels::{
    Aligned, PATCH, POINTS, TILE, multiply, multiply_add, patch_to_points, points_to_tile, transform_kernel,
};
use tch::{Device, Kind, TchError, Tensor};

use crate::runtime::memory;

/// Channels in a cache line.
const LINE: usize = 16;
/// Tiles that go through the three stages together, so many that the weights are not read too often and so few that
/// 64 channels of their inputs and 64 of their outputs fit into a second-level cache of 1 MiB.
const BLOCK_TILES: usize = 48;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// Vector instructions of this CPU, with a fused multiply-add; without one there is nothing to gain here.
#[derive(Clone, Copy, Debug)]
pub struct Simd(Instructions);

#[derive(Clone, Copy, Debug)]
enum Instructions {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Simd {
    /// The fastest, where convolutions of so many channels in this dtype are faster by them than by libtorch.
    pub fn for_convolutions(device: Device, kind: Kind, channels: i64) -> Option<Self> {
        let pays = device == Device::Cpu && kind == Kind::Float && channels >= LINE as i64;
        pays.then(|| Self::detect().first().copied()).flatten()
    }

    /// All that this CPU has, the fastest first.
    pub fn detect() -> Vec<Self> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            if is_x86_feature_detected!("avx512f") {
                found.push(Self(Instructions::Avx512));
            }
            found.push(Self(Instructions::Avx2));
        }
        #[cfg(target_arch = "aarch64")]
        found.push(Self(Instructions::Neon));
        found
    }

    /// Numbers in a register.
    fn lanes(self) -> usize {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => 16,
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => 8,
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon => 4,
        }
    }
}

/// `[C, H, W]` in float32, laid out as `[H, C / 16, W, 16]` within a border of zeros that reaches to the edges of its
/// tiles and one pixel beyond.
#[derive(Default)]
pub struct FeatureMap {
    data: Vec<Line>,
    channels: usize,
    height: usize,
    width: usize,
}

impl Drop for FeatureMap {
    fn drop(&mut self) {
        memory::count(-self.bytes());
    }
}

impl FeatureMap {
    /// Copies `[C, H, W]`.
    pub fn from_tensor(x: &Tensor) -> Result<Self, TchError> {
        let (channels, height, width) = x.size3()?;
        let mut map = Self::default();
        map.reshape(channels as usize, height as usize, width as usize)?;
        let x = Vec::<f32>::try_from(x.f_to_kind(Kind::Float)?.f_reshape([-1])?)?;
        for (i, row) in x.chunks_exact(map.width.max(1)).enumerate() {
            let (channel, y) = (i / map.height, i % map.height);
            let start = map.index(channel, y);
            for (to, from) in map.data[start..].iter_mut().zip(row) {
                to.0[channel % LINE] = *from;
            }
        }
        Ok(map)
    }

    /// `[C, H, W]` of the given rows.
    pub fn to_tensor(&self, rows: Range<usize>) -> Result<Tensor, TchError> {
        let rows = rows.start.min(self.height)..rows.end.min(self.height);
        let mut x = Vec::with_capacity(rows.len() * self.width * self.channels);
        for channel in 0..self.channels {
            for y in rows.clone() {
                let row = self.data[self.index(channel, y)..].iter().take(self.width);
                x.extend(row.map(|line| line.0[channel % LINE]));
            }
        }
        Tensor::f_from_slice(&x)?.f_view([self.channels as i64, rows.len() as i64, self.width as i64])
    }

    /// A copy of the given rows.
    pub fn crop_rows(&self, rows: Range<usize>) -> Result<Self, TchError> {
        let rows = rows.start.min(self.height)..rows.end.min(self.height);
        let mut map = Self::default();
        map.reshape(self.channels, rows.len(), self.width)?;
        let from = &self.data[self.row_len() * (1 + rows.start)..self.row_len() * (1 + rows.end)];
        map.data[self.row_len()..][..from.len()].copy_from_slice(from);
        Ok(map)
    }

    /// Rows of pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Keeps the memory; keeps the contents where the shape stays the same, else all is zero.
    fn reshape(&mut self, channels: usize, height: usize, width: usize) -> Result<(), TchError> {
        if (self.channels, self.height, self.width) != (channels, height, width) || self.data.is_empty() {
            (self.channels, self.height, self.width) = (channels, height, width);
            self.data.clear();
            let len = (height.next_multiple_of(TILE) + 2) * self.row_len();
            // In libtorch's words, by which the program knows that the memory ran out.
            let failed = |_| TchError::Torch(format!("not enough memory for {channels} x {height} x {width} numbers"));
            let before = self.bytes();
            self.data.try_reserve_exact(len).map_err(failed)?;
            memory::count(self.bytes() - before);
            self.data.resize(len, Line::zeroed());
        }
        Ok(())
    }

    /// What it takes of the memory.
    fn bytes(&self) -> i64 {
        (self.data.capacity() * size_of::<Line>()) as i64
    }

    /// Lines across all channels.
    fn depth(&self) -> usize {
        self.channels.div_ceil(LINE)
    }

    /// Pixels in a row with its border.
    fn columns(&self) -> usize {
        self.width.next_multiple_of(TILE) + 2
    }

    /// Lines in a row with its border.
    fn row_len(&self) -> usize {
        self.columns() * self.depth()
    }

    /// Where a channel's row begins.
    fn index(&self, channel: usize, y: usize) -> usize {
        (y + 1) * self.row_len() + channel / LINE * self.columns() + 1
    }

    fn shape(&self) -> [usize; 3] {
        [self.channels, self.height, self.width]
    }
}

/// What becomes of a convolution's output: `factor` times it, plus other feature maps times theirs.
#[derive(Clone, Copy)]
pub struct Sum<'a> {
    /// Of the convolution.
    pub factor: f32,
    /// Maps of the output's shape, each with its factor.
    pub added: &'a [(f32, &'a FeatureMap)],
}

/// A 3x3 convolution with stride 1, padding 1, bias and activation.
pub struct Conv3x3 {
    simd: Simd,
    /// For each feature map that it reads `[36, out / panel, in, panel]`, where a panel is two registers.
    weight: Vec<Line>,
    bias: Vec<Line>,
    slopes: Vec<Line>,
    channels_in: Vec<usize>,
    channels_out: usize,
}

impl Conv3x3 {
    /// From `[out, in, 3, 3]` and `[out]`. `channels_in` are those of each feature map that it reads side by side;
    /// negative outputs are multiplied by their channel's slope (1: no activation, 0: ReLU).
    pub fn new(
        simd: Simd,
        weight: &Tensor,
        bias: &Tensor,
        slopes: &[f32],
        channels_in: &[usize],
    ) -> Result<Self, TchError> {
        let (out, inputs, height, width) = weight.size4()?;
        let (out, inputs) = (out as usize, inputs as usize);
        let bias = Vec::<f32>::try_from(bias.f_to_kind(Kind::Float)?)?;
        let fit = (height, width) == (3, 3) && inputs == channels_in.iter().sum::<usize>() && !channels_in.contains(&0);
        if !fit || out == 0 || bias.len() != out || slopes.len() != out {
            return Err(TchError::Shape(format!(
                "no 3x3 convolution of {channels_in:?} channels: {:?}",
                weight.size()
            )));
        }
        let kernels = Vec::<f32>::try_from(weight.f_to_kind(Kind::Float)?.f_reshape([-1])?)?;
        let padded_out = out.next_multiple_of(LINE);
        let depth_in: usize = channels_in.iter().map(|channels| channels.div_ceil(LINE)).sum();
        let mut packed = vec![Line::zeroed(); POINTS * padded_out * depth_in];
        let data = cast_slice_mut::<Line, f32>(&mut packed);
        for (o, kernels) in kernels.chunks_exact(inputs * 9).enumerate() {
            let panel = o - o % (2 * simd.lanes());
            let panel_width = (padded_out - panel).min(2 * simd.lanes());
            let (mut kernels, mut start) = (kernels.as_chunks::<9>().0.iter(), 0);
            for &channels in channels_in {
                let padded = channels.next_multiple_of(LINE);
                for (i, kernel) in kernels.by_ref().take(channels).enumerate() {
                    for (point, value) in transform_kernel(kernel).into_iter().enumerate() {
                        let at = (point * padded_out + panel) * padded + i * panel_width + o - panel;
                        data[start + at] = value as f32;
                    }
                }
                start += POINTS * padded_out * padded;
            }
        }
        let pad = |values: &[f32]| {
            let mut lines = vec![Line::zeroed(); padded_out / LINE];
            cast_slice_mut(&mut lines)[..out].copy_from_slice(values);
            lines
        };
        let (bias, slopes) = (pad(&bias), pad(slopes));
        Ok(Self { simd, weight: packed, bias, slopes, channels_in: channels_in.to_vec(), channels_out: out })
    }

    /// Of feature maps of the same size side by side.
    pub fn forward(&self, inputs: &[&FeatureMap], out: &mut FeatureMap) -> Result<(), TchError> {
        self.run(inputs, 1, Sum { factor: 1.0, added: &[] }, out)
    }

    /// The same within a sum.
    pub fn forward_sum(&self, inputs: &[&FeatureMap], sum: Sum, out: &mut FeatureMap) -> Result<(), TchError> {
        self.run(inputs, 1, sum, out)
    }

    /// Of a feature map's nearest-neighbour doubling, which is never stored.
    pub fn forward_doubled(&self, input: &FeatureMap, out: &mut FeatureMap) -> Result<(), TchError> {
        self.run(&[input], 2, Sum { factor: 1.0, added: &[] }, out)
    }

    fn run(&self, inputs: &[&FeatureMap], zoom: usize, sum: Sum, out: &mut FeatureMap) -> Result<(), TchError> {
        let (height, width) = inputs.first().map_or((0, 0), |map| (map.height * zoom, map.width * zoom));
        let fit = inputs.iter().map(|map| map.channels).eq(self.channels_in.iter().copied())
            && inputs.iter().all(|map| (map.height * zoom, map.width * zoom) == (height, width))
            && sum.added.iter().all(|(_, map)| map.shape() == [self.channels_out, height, width]);
        if !fit || height == 0 || width == 0 {
            let shapes: Vec<_> = inputs.iter().map(|map| map.shape()).collect();
            return Err(TchError::Shape(format!("a convolution of {:?} channels got {shapes:?}", self.channels_in)));
        }
        out.reshape(self.channels_out, height, width)?;
        let (tile_rows, tile_columns) = (height.div_ceil(TILE), width.div_ceil(TILE));
        let threads = THREADS.as_ref().map_or(1, rayon::ThreadPool::current_num_threads);
        let rows_a_band = (BLOCK_TILES / tile_columns).clamp(1, tile_rows.div_ceil(threads));
        let row_len = out.row_len();
        let rows = &mut out.data[row_len..][..tile_rows * TILE * row_len];
        let bands = Mutex::new(rows.chunks_mut(rows_a_band * TILE * row_len).enumerate());
        let work = || {
            while let Some((i, data)) = bands.lock().ok().and_then(|mut bands| bands.next()) {
                let top = i * rows_a_band * TILE;
                let band = Band { conv: self, inputs, zoom, sum, height, width, top, data };
                SCRATCH.with_borrow_mut(|scratch| band.dispatch(scratch));
            }
        };
        match &*THREADS {
            Some(threads) if tile_rows > rows_a_band => _ = threads.broadcast(|_| work()),
            _ => work(),
        }
        Ok(())
    }
}

/// As many threads as libtorch uses; `None` where the system gives none.
pub(in crate::networks) static THREADS: LazyLock<Option<rayon::ThreadPool>> = LazyLock::new(|| {
    let count = usize::try_from(tch::get_num_threads()).unwrap_or(1).max(1);
    rayon::ThreadPoolBuilder::new().num_threads(count).thread_name(|i| format!("coz-conv-{i}")).build().ok()
});

thread_local! {
    /// Transformed inputs and outputs of one block of tiles, about a megabyte.
    static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Some rows of tiles of the output.
struct Band<'a> {
    conv: &'a Conv3x3,
    inputs: &'a [&'a FeatureMap],
    zoom: usize,
    sum: Sum<'a>,
    height: usize,
    width: usize,
    /// The first row of pixels.
    top: usize,
    /// All its pixels with their border left and right.
    data: &'a mut [Line],
}

impl Band<'_> {
    fn dispatch(self, scratch: &mut Vec<Line>) {
        match self.conv.simd.0 {
            // SAFETY: only `Simd::detect` makes a `Simd`, after it has found these instructions.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => unsafe { self.run_avx512(scratch) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => unsafe { self.run_avx2(scratch) },
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon => self.run::<4, 8>(scratch),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx2,fma")]
    fn run_avx512(self, scratch: &mut Vec<Line>) {
        self.run::<16, 12>(scratch);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn run_avx2(self, scratch: &mut Vec<Line>) {
        self.run::<8, 6>(scratch);
    }

    /// `N` numbers in a register; sums of two registers of channels for `TILES` tiles fit into all registers.
    #[inline(always)]
    fn run<const N: usize, const TILES: usize>(mut self, scratch: &mut Vec<Line>) {
        let depth_out = self.conv.channels_out.div_ceil(LINE);
        let depth_in = self.inputs.iter().map(|map| map.depth()).max().unwrap_or(0);
        let row_len = (self.width.next_multiple_of(TILE) + 2) * depth_out;
        let tiles = self.data.len() / (TILE * row_len) * self.width.div_ceil(TILE);
        let blocks = tiles.div_ceil(BLOCK_TILES);
        for block in 0..blocks {
            let range = tiles * block / blocks..tiles * (block + 1) / blocks;
            // An odd number of lines from one point to the next, lest all 36 fall into the same sets of the cache.
            let (v_plane, m_plane) = ((range.len() * depth_in) | 1, (range.len() * depth_out) | 1);
            let needed = POINTS * (v_plane + m_plane);
            if scratch.len() < needed {
                scratch.resize(needed, Line::zeroed());
            }
            let (v, m) =
                cast_slice_mut::<Line, f32>(scratch).as_chunks_mut::<N>().0.split_at_mut(POINTS * v_plane * (LINE / N));
            let (v_plane, m_plane) = (v_plane * (LINE / N), m_plane * (LINE / N));
            let mut weight = registers(&self.conv.weight);
            for (i, map) in self.inputs.iter().enumerate() {
                self.inputs_to_points(map, range.clone(), v, v_plane);
                let channels_in = map.depth() * LINE;
                for (v, m) in v.chunks_exact(v_plane).zip(m.chunks_exact_mut(m_plane)) {
                    let (now, later) = weight.split_at(channels_in * depth_out * (LINE / N));
                    let v = &v[..range.len() * channels_in / N];
                    multiply::<N, TILES>(now, v, m, [channels_in, range.len()], i > 0);
                    weight = later;
                }
            }
            self.points_to_outputs(range, m, m_plane);
        }
    }

    /// Row and column of a tile's first output in this band.
    #[inline(always)]
    fn origin(&self, tile: usize) -> (usize, usize) {
        let columns = self.width.div_ceil(TILE);
        (tile / columns * TILE, tile % columns * TILE)
    }

    /// Writes `v`: `[36, in / N, tiles, N]`.
    #[inline(always)]
    fn inputs_to_points<const N: usize>(
        &self,
        map: &FeatureMap,
        tiles: Range<usize>,
        v: &mut [[f32; N]],
        plane: usize,
    ) {
        let data = registers(&map.data);
        let parts = LINE / N;
        // A doubling has every row and column of its map twice.
        let steps = if self.zoom == 2 { [0, 1, 1, 2, 2, 3] } else { [0, 1, 2, 3, 4, 5] };
        let mut patch = Aligned([[[0.0; N]; PATCH]; PATCH]);
        let mut points = Aligned([[0.0; N]; POINTS]);
        for chunk in 0..map.depth() * parts {
            for (t, tile) in tiles.clone().enumerate() {
                let (y, x) = self.origin(tile);
                let (y, x) = ((self.top + y) / self.zoom, x / self.zoom);
                let start = (chunk / parts * map.columns() + x) * parts + chunk % parts;
                for (row, step) in patch.0.iter_mut().zip(steps) {
                    let from = &data[(y + step) * map.row_len() * parts + start..][..steps[5] * parts + 1];
                    for (value, step) in row.iter_mut().zip(steps) {
                        *value = from[step * parts];
                    }
                }
                patch_to_points(&patch.0, &mut points.0);
                for (v, point) in v[chunk * tiles.len() + t..].iter_mut().step_by(plane).zip(&points.0) {
                    *v = *point;
                }
            }
        }
    }

    /// Reads `m`: `[36, out / N, tiles, N]`.
    #[inline(always)]
    fn points_to_outputs<const N: usize>(&mut self, tiles: Range<usize>, m: &[[f32; N]], plane: usize) {
        let parts = LINE / N;
        let columns = self.width.next_multiple_of(TILE) + 2;
        let row_len = columns * self.conv.channels_out.div_ceil(LINE) * parts;
        let mut points = Aligned([[0.0; N]; POINTS]);
        let mut outputs = Aligned([[[0.0; N]; TILE]; TILE]);
        let (bias, slopes) = (registers(&self.conv.bias), registers(&self.conv.slopes));
        for (chunk, (bias, slopes)) in bias.iter().zip(slopes).enumerate() {
            for (t, tile) in tiles.clone().enumerate() {
                for (point, m) in points.0.iter_mut().zip(m[chunk * tiles.len() + t..].iter().step_by(plane)) {
                    *point = *m;
                }
                points_to_tile(&points.0, bias, slopes, self.sum.factor, &mut outputs.0);
                let (y, x) = self.origin(tile);
                let (rows, width) = (self.height - self.top - y, self.width - x);
                for (i, values) in outputs.0.iter_mut().enumerate().take(rows) {
                    let start = (y + i) * row_len + (chunk / parts * columns + x + 1) * parts + chunk % parts;
                    for (factor, map) in self.sum.added {
                        let added = registers(&map.data)[(self.top + 1) * row_len + start..].iter().step_by(parts);
                        for (value, added) in values.iter_mut().zip(added) {
                            *value = multiply_add(added, *factor, value);
                        }
                    }
                    let data = cast_slice_mut::<Line, f32>(self.data).as_chunks_mut().0;
                    for (to, value) in data[start..].iter_mut().step_by(parts).zip(values).take(width) {
                        *to = *value;
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn registers<const N: usize>(lines: &[Line]) -> &[[f32; N]] {
    cast_slice::<Line, f32>(lines).as_chunks().0
}
