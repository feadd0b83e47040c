//! Captioners against transformers and the reference: what Qwen2.5-VL sees and says, what RAM tags.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use tch::{Kind, Tensor};

use super::fixtures::Cases;
use super::{Context, Value, quiet, relative_difference};
use crate::base::{CaptionRequest, Progress};
use crate::imaging::Picture;
use crate::networks::qwen::Qwen;
use crate::networks::qwen::adapter::Adapter;
use crate::networks::qwen::config::Config;
use crate::networks::qwen::generation::{Sampler, SamplingParams};
use crate::networks::qwen::language::Cache;
use crate::networks::qwen::positions::{Grid, of_tokens};
use crate::pipelines::caption::CaptionInput;
use crate::pipelines::{PipelineError, caption};
use crate::runtime::weights::Loader;

/// One image, and two.
const CASES: [&str; 2] = ["tied.0", "tied.4"];
/// Tokens that each is followed by.
const TOKENS: i64 = 32;
/// `<|im_end|>` and `<|endoftext|>`, which the reference was told not to choose.
const ENDS: [i64; 2] = [378, 376];

struct Model {
    qwen: Qwen,
    config: Config,
    cases: Cases,
}

/// What follows the prompt of a case.
struct Read {
    ids: Vec<i64>,
    logits: Tensor,
    cache: Cache,
    delta: i64,
}

impl Model {
    fn open(context: &Context, kind: Kind) -> Result<Self, PipelineError> {
        let config =
            Config::parse(&context.fixtures.bytes("qwen/tied/config.json")?).map_err(PipelineError::Internal)?;
        let weights = context.fixtures.weights("qwen/tied/model.safetensors")?;
        let mut loader = Loader::new(&weights, "", context.devices.text, kind);
        let qwen = Qwen::load(&mut loader, &config, &Adapter::default())?;
        Ok(Self { qwen, config, cases: context.fixtures.cases("qwen")? })
    }

    fn features(&self, context: &Context, case: &str) -> Result<Tensor, PipelineError> {
        let patches = self.cases.on(context.devices.text, &format!("{case}.patches"))?;
        let (mut at, mut features) = (0, Vec::new());
        for grid in self.grids(case)? {
            let count = grid.rows * grid.columns;
            features.push(self.qwen.vision.forward(&patches.f_narrow(0, at, count)?, grid, &mut quiet)?);
            at += count;
        }
        Ok(Tensor::f_cat(&features, 0)?)
    }

    fn grids(&self, case: &str) -> Result<Vec<Grid>, PipelineError> {
        let numbers = self.cases.numbers(&format!("{case}.grids"))?;
        let grid = |&[_, rows, columns]: &[i64; 3]| Grid { rows, columns };
        Ok(numbers.as_chunks().0.iter().map(grid).collect())
    }

    fn read(&self, context: &Context, case: &str) -> Result<Read, PipelineError> {
        let (language, device) = (&self.qwen.language, context.devices.text);
        let ids = self.cases.numbers(&format!("{case}.ids"))?;
        let (image, merge) = (self.config.image_token, self.config.vision.spatial_merge_size);
        let (positions, delta) = of_tokens(&ids, image, &self.grids(case)?, merge).map_err(PipelineError::Internal)?;
        let positions = Tensor::f_from_slice(&positions.concat())?.f_view([3, -1])?;
        let on_device = Tensor::f_from_slice(&ids)?.f_to_device(device)?;
        let places = on_device.f_eq(image)?.f_nonzero()?.f_squeeze_dim(1)?;
        let features = self.features(context, case)?.f_unsqueeze(0)?;
        let embedded = language.embed(&on_device)?.f_index_copy(1, &places, &features)?;
        let mut cache = language.cache(ids.len() as i64 + TOKENS)?;
        let logits = language.forward(&embedded, &positions, &mut cache, &mut quiet)?.f_get(0)?;
        Ok(Read { ids, logits, cache, delta })
    }
}

/// The largest value of all cases.
fn largest(of: impl Fn(&str) -> Result<f64, PipelineError>) -> Value {
    CASES.iter().try_fold(0.0, |largest, case| Ok(f64::max(largest, of(case)?))).map(Some)
}

pub(super) fn vision_tower(context: &Context) -> Value {
    let model = Model::open(context, Kind::Float)?;
    largest(|case| {
        let theirs = model.cases.tensor(&format!("{case}.features"))?;
        Ok(relative_difference(&model.features(context, case)?, theirs)?)
    })
}

pub(super) fn language_model(context: &Context) -> Value {
    let model = Model::open(context, Kind::Float)?;
    largest(|case| {
        let theirs = model.cases.tensor(&format!("{case}.logits"))?;
        Ok(relative_difference(&model.read(context, case)?.logits, theirs)?)
    })
}

/// The largest difference of logits in 16 bits from those in 32.
fn in_16_bits(context: &Context, kind: Kind) -> Value {
    let (wide, narrow) = (Model::open(context, Kind::Float)?, Model::open(context, kind)?);
    largest(|case| Ok(relative_difference(&narrow.read(context, case)?.logits, &wide.read(context, case)?.logits)?))
}

pub(super) fn bf16(context: &Context) -> Value {
    in_16_bits(context, Kind::BFloat16)
}

pub(super) fn fp16(context: &Context) -> Value {
    in_16_bits(context, Kind::Half)
}

pub(super) fn tokens(context: &Context) -> Value {
    let model = Model::open(context, Kind::Float)?;
    let (language, device) = (&model.qwen.language, context.devices.text);
    let ends = Tensor::f_from_slice(&ENDS)?.f_to_device(device)?;
    let mut wrong = 0;
    for case in CASES {
        let Read { ids, mut logits, mut cache, delta } = model.read(context, case)?;
        let params = SamplingParams { penalty: 1.3, temperature: 0.0, seed: 0 };
        let mut sampler = Sampler::new(&Tensor::f_from_slice(&ids)?.f_to_device(device)?, TOKENS, params)?;
        for (step, theirs) in model.cases.numbers(&format!("{case}.said"))?.into_iter().enumerate() {
            let next = sampler.sample(&logits.f_index_fill(0, &ends, f64::NEG_INFINITY)?)?;
            wrong += i32::from(next.f_int64_value(&[])? != theirs);
            let position = Tensor::f_from_slice(&[ids.len() as i64 + step as i64 + delta; 3])?.f_view([3, 1])?;
            logits = language.forward(&language.embed(&next)?, &position, &mut cache, &mut quiet)?.f_get(0)?;
        }
    }
    Ok(Some(wrong.into()))
}

/// What the reference says of two pictures, by the folder of the model.
#[derive(Deserialize)]
struct Tagged {
    words: [String; 2],
}

pub(super) fn tags(context: &Context) -> Value {
    let mut theirs: BTreeMap<String, Tagged> = context.fixtures.config("ram/cases.json")?;
    let theirs = theirs.remove("small").ok_or_else(|| PipelineError::Internal("there are no tags".into()))?;
    let opened = caption::open(&context.fixtures.dape()?, context.device)?;
    let mut tagger = opened.ok_or_else(|| PipelineError::Internal("there is no tagger".into()))?;
    let mut wrong = 0;
    // As `tests/parity/ram/export.py` makes them.
    for ((width, height), words) in [(200, 200), (77, 391)].into_iter().zip(theirs.words) {
        let picture = |x, y| [(x * 3) as u8, (y * 5) as u8, ((x * 7) ^ (y * 11)) as u8];
        let picture = Arc::new(Picture::from_fn(width, height, picture));
        let input = CaptionInput { parent: picture.clone(), enlarged: picture, request: CaptionRequest::default() };
        let tags = tagger.caption(&input, &mut Progress::new(&mut |_, _| true), &mut |_| ())?;
        wrong += i32::from(tags != words);
    }
    Ok(Some(wrong.into()))
}
