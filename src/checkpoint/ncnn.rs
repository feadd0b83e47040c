//! ncnn's pair of files: `.param`, the graph as text, and `.bin`, the weights in the order of its layers (ncnn's
//! `net.cpp`, `modelbin.cpp`, version 20241226). The layers are mapped in order onto the networks they were converted
//! from, RRDBNet, SRVGGNetCompact and SPAN, under the keys of their PyTorch files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use safetensors::Dtype;

use super::{Stored, contiguous_strides};

/// The first line of every `.param` file.
const MAGIC: &str = "7767517";

/// The numbers behind the four-byte tag of a weight (`ModelBinFromDataReader::load`).
const TAG_FP16: u32 = 0x0130_6B47;
const TAG_FP32: u32 = 0;
const TAG_FP32_SCALED: u32 = 0x0002_C056;
const TAG_INT8: u32 = 0x000D_4B38;

/// Slope of the leaky ReLUs and weight of the residuals in RRDBNet.
const RRDB_SLOPE: f64 = 0.2;

/// Both files of a pair, from the name of either: graph and weights.
pub(super) fn pair(file: &Path) -> (PathBuf, PathBuf) {
    match has_ending(file, "param") {
        true => (file.to_owned(), file.with_extension("bin")),
        false => (file.with_extension("param"), file.to_owned()),
    }
}

pub(super) fn has_ending(file: &Path, ending: &str) -> bool {
    file.extension().is_some_and(|found| found.eq_ignore_ascii_case(ending))
}

/// A network that is known here, read from its `.param` file.
pub(super) struct Graph {
    layers: Layers,
    /// Keys of the layers that have weights, in order.
    names: Vec<String>,
    /// 1 but for graphs such as `realesr-animevideov3-x2`: a x4 network, then bicubic by 0.5.
    pub(super) output_scale: f64,
    /// What SPAN's colours are multiplied by.
    pub(super) input_range: Option<f64>,
}

impl Graph {
    /// # Errors
    /// In words: a line that cannot be read, or a layer of another network.
    pub(super) fn parse(param: &str) -> Result<Self, String> {
        let layers = Layers::parse(param)?;
        if layers.count("Swish") > 0 {
            let (names, range) = layers.span()?;
            return Ok(Self { layers, names, output_scale: 1.0, input_range: Some(range) });
        }
        let (names, output_scale) = if layers.count("PixelShuffle") > 0 { layers.srvgg()? } else { layers.rrdb()? };
        Ok(Self { layers, names, output_scale, input_range: None })
    }

    /// Where its tensors lie in the `.bin` file.
    ///
    /// # Errors
    /// In words: unknown kinds of numbers, lengths that do not add up.
    pub(super) fn tensors(&self, bin: &[u8]) -> Result<BTreeMap<String, Stored>, String> {
        let mut tensors = BTreeMap::new();
        for (name, layer) in self.names.iter().zip(Weighted::read(&self.layers, bin)?) {
            let bias = layer.bias.map(|bias| (format!("{name}.bias"), bias));
            tensors.extend(std::iter::once((format!("{name}.weight"), layer.weight)).chain(bias));
        }
        Ok(tensors)
    }
}

/// One line of a `.param` file.
struct Layer {
    kind: String,
    name: String,
    parameters: BTreeMap<i32, Vec<f64>>,
}

impl Layer {
    /// The parameter `id`, or what ncnn takes where it is not there.
    fn number(&self, id: i32, default: f64) -> f64 {
        self.parameters.get(&id).and_then(|values| values.first()).copied().unwrap_or(default)
    }

    /// The same, a whole number.
    fn count(&self, id: i32, default: i64) -> Result<i64, String> {
        let value = self.number(id, default as f64);
        match value.fract() == 0.0 && (0.0..=1e9).contains(&value) {
            true => Ok(value as i64),
            false => Err(format!("layer {}: parameter {id} is {value}, expected a whole number", self.name)),
        }
    }

    /// The slope below zero where the layer ends in a ReLU (0) or leaky ReLU, or is one.
    fn slope(&self) -> Result<Option<f64>, String> {
        match (self.kind.as_str(), self.number(9, 0.0) as i64) {
            ("ReLU", _) => Ok(Some(self.number(0, 0.0))),
            ("Convolution", 0) => Ok(None),
            ("Convolution", 1) => Ok(Some(0.0)),
            ("Convolution", 2) => match self.parameters.get(&-23310).map(Vec::as_slice) {
                Some(&[slope]) => Ok(Some(slope)),
                _ => Err(format!("layer {}: its leaky ReLU has no slope", self.name)),
            },
            ("Convolution", other) => Err(format!("layer {}: activation {other} is not known here", self.name)),
            _ => Ok(None),
        }
    }
}

struct Layers(Vec<Layer>);

impl Layers {
    fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        if lines.next() != Some(MAGIC) {
            return Err(format!("its first line is not {MAGIC}, as in every .param file"));
        }
        let count = lines.next().and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
        let count = count.ok_or("its second line does not say how many layers there are")?;
        let layers = lines.map(layer).collect::<Result<Vec<_>, _>>()?;
        match layers.len() == count {
            true => Ok(Self(layers)),
            false => Err(format!("it says {count} layers and has {} (cut short?)", layers.len())),
        }
    }

    fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Layer> {
        self.0.iter().filter(move |layer| layer.kind == kind)
    }

    fn count(&self, kind: &str) -> usize {
        self.of(kind).count()
    }

    /// Refuses layers that the network does not have.
    fn only(&self, network: &str, kinds: &[&str]) -> Result<(), String> {
        match self.0.iter().find(|layer| !kinds.contains(&layer.kind.as_str())) {
            None => Ok(()),
            Some(Layer { kind, name, .. }) => {
                Err(format!("layer {name} is a {kind}, which {network} does not have: the file is of another network"))
            }
        }
    }

    /// The slopes of all (leaky) ReLUs, in order.
    fn slopes(&self) -> Result<Vec<f64>, String> {
        self.0.iter().filter_map(|layer| layer.slope().transpose()).collect()
    }

    /// Keys of RRDBNet for the convolutions, in order.
    fn rrdb(&self) -> Result<(Vec<String>, f64), String> {
        const KINDS: [&str; 9] =
            ["Input", "Split", "Convolution", "Concat", "Eltwise", "BinaryOp", "Interp", "ReLU", "Reorg"];
        self.only("RRDBNet", &KINDS)?;
        let (convolutions, doublings) = (self.count("Convolution"), self.count("Interp"));
        let in_blocks = convolutions.checked_sub(doublings + 4).filter(|&rest| rest > 0 && rest.is_multiple_of(15));
        let Some(blocks) = in_blocks.map(|rest| rest / 15) else {
            return Err(format!("{convolutions} convolutions with {doublings} doublings are no RRDBNet"));
        };
        for interp in self.of("Interp") {
            if (interp.number(0, 0.0), interp.number(1, 1.0), interp.number(2, 1.0)) != (1.0, 2.0, 2.0) {
                return Err(format!("layer {}: RRDBNet doubles by nearest neighbour, this one does not", interp.name));
            }
        }
        // The network's pixel unshuffle, which only this mode orders as PyTorch does.
        if let Some(reorg) = self.of("Reorg").find(|layer| layer.number(1, 0.0) != 0.0) {
            return Err(format!("layer {}: the mode {} of Reorg is not read here", reorg.name, reorg.number(1, 0.0)));
        }
        let is_slope = |value: f64| (value - RRDB_SLOPE).abs() < 1e-6;
        let slopes = self.slopes()?;
        if slopes.len() != 12 * blocks + doublings + 1 || !slopes.iter().all(|&slope| is_slope(slope)) {
            let expected = 12 * blocks + doublings + 1;
            return Err(format!(
                "it has {} (leaky) ReLUs, expected RRDBNet's {expected} with a slope of {RRDB_SLOPE}",
                slopes.len()
            ));
        }
        // A residual is weighed by `Eltwise` with two coefficients, or by a multiplication before the sum.
        let is_weighed = |layer: &&Layer| match layer.kind.as_str() {
            "Eltwise" => matches!(layer.parameters.get(&-23301).map(Vec::as_slice), Some(&[a, 1.0]) if is_slope(a)),
            _ => (layer.number(0, 0.0), layer.number(1, 0.0)) == (2.0, 1.0) && is_slope(layer.number(2, 0.0)),
        };
        let weighed = self.of("Eltwise").chain(self.of("BinaryOp")).filter(is_weighed).count();
        if weighed != 4 * blocks {
            return Err(format!("{weighed} residuals are weighed by {RRDB_SLOPE}, RRDBNet has {}", 4 * blocks));
        }
        let dense = (0..blocks)
            .flat_map(|i| (1..=3).flat_map(move |d| (1..=5).map(move |conv| format!("body.{i}.rdb{d}.conv{conv}"))));
        let names = std::iter::once("conv_first".to_owned())
            .chain(dense)
            .chain(std::iter::once("conv_body".to_owned()))
            .chain((1..=doublings).map(|i| format!("conv_up{i}")))
            .chain(["conv_hr".to_owned(), "conv_last".to_owned()]);
        Ok((names.collect(), 1.0))
    }

    /// Keys of SPAN for the mean colour and the convolutions, in order, and what colours are multiplied by. A convolution of
    /// such a file is what PyTorch's file holds four for.
    fn span(&self) -> Result<(Vec<String>, f64), String> {
        const KINDS: [&str; 9] =
            ["Input", "MemoryData", "Split", "Convolution", "Swish", "Sigmoid", "BinaryOp", "Concat", "PixelShuffle"];
        const BLOCKS: usize = 6;
        self.only("SPAN", &KINDS)?;
        let counted =
            ["MemoryData", "Convolution", "Swish", "Sigmoid", "Concat", "PixelShuffle"].map(|kind| self.count(kind));
        let means = counted[0];
        if means > 1 || counted[1..] != [3 * BLOCKS + 4, 2 * BLOCKS, BLOCKS, 1, 1] {
            return Err(format!(
                "{counted:?} mean colours, convolutions, activations, sigmoids, joints and pixel shuffles are no SPAN"
            ));
        }
        // Before the first convolution: minus the mean, and times the range where that is not 1. In each block: half subtracted
        // from the sigmoid, a sum, a product.
        let before: Vec<&Layer> = self
            .0
            .iter()
            .take_while(|layer| layer.kind != "Convolution")
            .filter(|layer| layer.kind == "BinaryOp")
            .collect();
        let operation = |layer: &Layer| (layer.number(0, 0.0), layer.number(1, 0.0));
        let range = match before.as_slice() {
            [] if means == 0 => Some(1.0),
            [minus] if means == 1 && operation(minus) == (1.0, 0.0) => Some(1.0),
            [minus, times] if means == 1 && (operation(minus), operation(times)) == ((1.0, 0.0), (2.0, 1.0)) => {
                Some(times.number(2, 0.0))
            }
            _ => None,
        };
        let range = range.ok_or("it does not begin as SPAN does: minus the mean colour, times a number")?;
        let inside: Vec<(f64, f64, f64)> = self
            .of("BinaryOp")
            .skip(before.len())
            .map(|layer| (layer.number(0, 0.0), layer.number(1, 0.0), layer.number(2, 0.0)))
            .collect();
        if inside.chunks(3).any(|block| block != [(1.0, 1.0, 0.5), (0.0, 0.0, 0.0), (2.0, 0.0, 0.0)])
            || inside.len() != 3 * BLOCKS
        {
            return Err("its blocks do not weigh their results as SPAN's do".into());
        }
        if !self.slopes()?.is_empty() {
            return Err("ReLUs are fused into its convolutions, which SPAN has none of".into());
        }
        let outputs = self.of("Convolution").last().map_or(0.0, |layer| layer.number(0, 0.0));
        let is_end = |layer: &Layer| {
            layer.kind == "PixelShuffle" && layer.number(1, 0.0) == 0.0 && 3.0 * layer.number(0, 1.0).powi(2) == outputs
        };
        if !self.0.last().is_some_and(is_end) {
            return Err("it does not end in a pixel shuffle to three channels, as SPAN does".into());
        }
        let blocks = (1..=BLOCKS).flat_map(|i| (1..=3).map(move |conv| format!("block_{i}.c{conv}_r")));
        let names = std::iter::repeat_n("mean".to_owned(), means)
            .chain(std::iter::once("conv_1".to_owned()))
            .chain(blocks)
            .chain(["conv_2", "conv_cat", "upsampler.0"].map(str::to_owned));
        Ok((names.collect(), range))
    }

    /// Keys of SRVGGNetCompact for the convolutions and PReLUs, in order, and what the output is resized by.
    fn srvgg(&self) -> Result<(Vec<String>, f64), String> {
        const KINDS: [&str; 8] =
            ["Input", "Split", "Convolution", "PReLU", "ReLU", "PixelShuffle", "Interp", "BinaryOp"];
        self.only("SRVGGNetCompact", &KINDS)?;
        let (convolutions, prelus) = (self.count("Convolution"), self.count("PReLU"));
        let slopes = self.slopes()?;
        if slopes.iter().any(|&slope| slope != 0.0) || slopes.len() + prelus + 1 != convolutions {
            return Err(format!(
                "{convolutions} convolutions with {prelus} PReLUs and {} ReLUs are no SRVGGNetCompact",
                slopes.len()
            ));
        }
        let shuffles: Vec<&Layer> = self.of("PixelShuffle").collect();
        let interps: Vec<(f64, f64, f64)> =
            self.of("Interp").map(|layer| (layer.number(0, 0.0), layer.number(1, 1.0), layer.number(2, 1.0))).collect();
        let scale = shuffles.first().map_or(0.0, |shuffle| shuffle.number(0, 1.0));
        let output_scale = match (shuffles.len(), self.count("BinaryOp"), interps.as_slice()) {
            (1, 1, &[base]) if base == (1.0, scale, scale) => Some(1.0),
            (1, 1, &[base, (3.0, height, width)]) if base == (1.0, scale, scale) && height == width => Some(width),
            _ => None,
        };
        let output_scale = output_scale.filter(|scale| (0.01..=16.0).contains(scale));
        let output_scale = output_scale
            .ok_or("it does not end as SRVGGNetCompact does: a pixel shuffle, added to the input enlarged")?;
        // In PyTorch's row of layers a ReLU has a place too, and no weights.
        let mut place = 0;
        let mut names = Vec::new();
        for layer in &self.0 {
            match layer.kind.as_str() {
                "Convolution" | "PReLU" => {
                    names.push(format!("body.{place}"));
                    place += 1 + usize::from(layer.slope()?.is_some());
                }
                "ReLU" => place += 1,
                _ => {}
            }
        }
        Ok((names, output_scale))
    }
}

/// `kind name inputs outputs input… output… id=value…`
fn layer(line: &str) -> Result<Layer, String> {
    let broken = || format!("the line {line:?} cannot be read");
    let mut words = line.split_whitespace();
    let mut next = || words.next().ok_or_else(broken);
    let (kind, name) = (next()?.to_owned(), next()?.to_owned());
    let blobs = [next()?, next()?].map(usize::from_str);
    let [Ok(inputs), Ok(outputs)] = blobs else { return Err(broken()) };
    let mut parameters = BTreeMap::new();
    for word in words.skip(inputs.saturating_add(outputs)) {
        let (id, value) = word.split_once('=').ok_or_else(broken)?;
        let id: i32 = id.parse().map_err(|_| broken())?;
        let mut values = value.split(',').map(f64::from_str).collect::<Result<Vec<_>, _>>().map_err(|_| broken())?;
        // Keys below -23300 are arrays: their length comes first.
        if id <= -23300 && (values.is_empty() || values.remove(0) != values.len() as f64) {
            return Err(broken());
        }
        parameters.insert(id, values);
    }
    Ok(Layer { kind, name, parameters })
}

/// What of a layer lies in the `.bin` file.
struct Weighted {
    weight: Stored,
    bias: Option<Stored>,
}

impl Weighted {
    /// All of them, one after another.
    fn read(layers: &Layers, bin: &[u8]) -> Result<Vec<Self>, String> {
        let mut reader = Reader { bin, at: 0 };
        let mut weighted = Vec::new();
        for layer in &layers.0 {
            match layer.kind.as_str() {
                "Convolution" => weighted.push(convolution(layer, &mut reader)?),
                "PReLU" => {
                    let weight = reader.plain(layer, vec![layer.count(0, 0)?])?;
                    weighted.push(Self { weight, bias: None });
                }
                "MemoryData" => {
                    let sides = [layer.count(0, 0)?, layer.count(1, 0)?, layer.count(2, 0)?];
                    if layer.number(21, 1.0) != 1.0 || sides.map(|side| side.max(1)).iter().product::<i64>() != 3 {
                        return Err(format!("layer {}: {sides:?} numbers are no mean colour", layer.name));
                    }
                    let weight = reader.plain(layer, vec![1, 3, 1, 1])?;
                    weighted.push(Self { weight, bias: None });
                }
                _ => {}
            }
        }
        match bin.len() - reader.at {
            0 => Ok(weighted),
            rest => Err(format!("{rest} bytes are left over: it does not belong to its .param file")),
        }
    }
}

fn convolution(layer: &Layer, reader: &mut Reader) -> Result<Weighted, String> {
    let kernel = layer.count(1, 0)?;
    let sides = [kernel, layer.count(11, kernel)?];
    let (dilation, stride, padding) = (layer.count(2, 1)?, layer.count(3, 1)?, layer.number(4, 0.0));
    let area = kernel * kernel;
    if !matches!(kernel, 1 | 3) || sides[1] != kernel || (dilation, stride, padding) != (1, 1, (kernel / 2) as f64) {
        return Err(format!(
            "layer {}: a convolution of {} x {} with stride {stride}, dilation {dilation} and padding {padding}, \
             expected 3 x 3 with 1, 1 and 1, or 1 x 1 with 1, 1 and 0: the file is of another network",
            layer.name, sides[0], sides[1]
        ));
    }
    if layer.count(8, 0)? != 0 {
        return Err(format!("layer {}: its weights are 8-bit integers, which are not read here", layer.name));
    }
    let (outputs, size) = (layer.count(0, 0)?, layer.count(6, 0)?);
    let inputs = size / (area * outputs.max(1));
    if outputs == 0 || inputs == 0 || inputs * outputs * area != size {
        return Err(format!(
            "layer {}: {size} weights do not make {kernel} x {kernel} kernels for {outputs} channels",
            layer.name
        ));
    }
    let weight = reader.tagged(layer, vec![outputs, inputs, kernel, kernel])?;
    let bias = if layer.count(5, 0)? == 1 { Some(reader.plain(layer, vec![outputs])?) } else { None };
    Ok(Weighted { weight, bias })
}

struct Reader<'a> {
    bin: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    /// Numbers behind a tag that says how they are stored.
    fn tagged(&mut self, layer: &Layer, shape: Vec<i64>) -> Result<Stored, String> {
        let tag = self.bin.get(self.at..self.at.saturating_add(4)).and_then(|bytes| bytes.try_into().ok());
        let tag = u32::from_le_bytes(tag.ok_or_else(|| cut_short(layer))?);
        self.at += 4;
        match tag {
            TAG_FP16 => self.stored(layer, Dtype::F16, shape),
            TAG_FP32 | TAG_FP32_SCALED => self.stored(layer, Dtype::F32, shape),
            TAG_INT8 => Err(format!("layer {}: its weights are 8-bit integers, which are not read here", layer.name)),
            _ => Err(format!(
                "layer {}: the tag {tag:#010x} is neither fp16 ({TAG_FP16:#010x}) nor fp32 (0): quantised weights are not \
                 read, or the file does not belong to its .param file",
                layer.name
            )),
        }
    }

    /// 32-bit numbers without a tag.
    fn plain(&mut self, layer: &Layer, shape: Vec<i64>) -> Result<Stored, String> {
        self.stored(layer, Dtype::F32, shape)
    }

    fn stored(&mut self, layer: &Layer, dtype: Dtype, shape: Vec<i64>) -> Result<Stored, String> {
        let stored = Stored { dtype, strides: contiguous_strides(&shape), shape, start: self.at };
        // Every block begins at a multiple of four bytes.
        let end = stored.span().and_then(|span| self.at.checked_add(span.next_multiple_of(4)));
        self.at = end.filter(|&end| end <= self.bin.len()).ok_or_else(|| cut_short(layer))?;
        Ok(stored)
    }
}

fn cut_short(layer: &Layer) -> String {
    format!("it ends within the weights of layer {} (cut short, or not of its .param file)", layer.name)
}
