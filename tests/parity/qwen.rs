//! The networks of Qwen2.5-VL against transformers, on tiny random models, in float32 on the CPU. `qwen/export.py` made
//! them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::fixture;
use crate::samples::{Folder, coz, vlm};
use chain_of_zoom::base::{CaptionRequest, DeviceChoice, Precision, Progress};
use chain_of_zoom::imaging::{Picture, codec};
use chain_of_zoom::networks::qwen::adapter::Adapter;
use chain_of_zoom::networks::qwen::config::Config;
use chain_of_zoom::networks::qwen::generation::{Sampler, SamplingParams};
use chain_of_zoom::networks::qwen::language::LanguageModel;
use chain_of_zoom::networks::qwen::positions::{Grid, of_tokens};
use chain_of_zoom::networks::qwen::vision::VisionTower;
use chain_of_zoom::pipelines::caption;
use chain_of_zoom::pipelines::caption::CaptionInput;
use chain_of_zoom::pipelines::caption::vlm::pictures::ImageProcessor;
use chain_of_zoom::runtime::weights::{Loader, Weights, WeightsError};

/// Absolute; 1e-3 is asked for.
const TOLERANCE: f64 = 5e-5;
/// `<|im_end|>` and `<|endoftext|>`.
const ENDS: [i64; 2] = [378, 376];
const GREEDY: SamplingParams = SamplingParams { penalty: 1.3, temperature: 0.0, seed: 0 };

fn same(what: &str, ours: &Tensor, theirs: &Tensor) {
    assert_eq!(ours.size(), theirs.size(), "{what}");
    let difference = (ours - theirs).abs().max().double_value(&[]);
    assert!(difference < TOLERANCE, "{what}: {difference}");
    // Comparing nothing with nothing would pass too.
    assert!(theirs.std(true).double_value(&[]) > 1e-3, "{what} is flat");
}

fn numbers(tensor: &Tensor) -> Vec<i64> {
    Vec::try_from(tensor.reshape([-1])).unwrap()
}

#[test]
fn images_are_encoded_and_tokens_follow_as_in_the_reference() {
    let _no_grad = tch::no_grad_guard();
    let cases: BTreeMap<String, Tensor> =
        Tensor::read_safetensors(fixture("qwen/cases.safetensors")).unwrap().into_iter().collect();
    for name in ["tied", "untied"] {
        let folder = fixture("qwen").join(name);
        let config = Config::parse(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
        let weights = Weights::open_folder(&folder, "model").unwrap();
        let loader = &mut Loader::new(&weights, "", Device::Cpu, Kind::Float);
        let vision = VisionTower::load(loader, &config.vision).unwrap();
        let language = LanguageModel::load(loader, &config.language, &Adapter::default()).unwrap();
        loader.finish("Qwen2.5-VL").unwrap();
        for i in 0..5 {
            let case = |part: &str| &cases[&format!("{name}.{i}.{part}")];
            let grids: Vec<Grid> = numbers(case("grids"))
                .as_chunks::<3>()
                .0
                .iter()
                .map(|&[_, rows, columns]| Grid { rows, columns })
                .collect();
            let mut at = 0;
            let mut features = Vec::new();
            for &grid in &grids {
                let count = grid.rows * grid.columns;
                let patches = case("patches").narrow(0, at, count);
                features.push(vision.forward::<WeightsError>(&patches, grid, &mut |_| Ok(())).unwrap());
                at += count;
            }
            let features = Tensor::cat(&features, 0);
            same(&format!("{name} {i}: features"), &features, case("features"));

            let ids = numbers(case("ids"));
            let merge = config.vision.spatial_merge_size;
            let (positions, delta) = of_tokens(&ids, config.image_token, &grids, merge).unwrap();
            assert_eq!(positions.concat(), numbers(case("positions")), "{name} {i}");
            assert_eq!(delta, numbers(case("delta"))[0], "{name} {i}");

            let length = ids.len() as i64;
            let ids = Tensor::from_slice(&ids);
            let places = ids.eq(config.image_token).nonzero().squeeze_dim(1);
            let embedded = language.embed(&ids).unwrap().index_copy(1, &places, &features.unsqueeze(0));
            let mut cache = language.cache(length + 32).unwrap();
            let positions = Tensor::from_slice(&positions.concat()).view([3, -1]);
            let mut read = |embedded: &Tensor, positions: &Tensor| {
                language.forward::<WeightsError>(embedded, positions, &mut cache, &mut |_| Ok(())).unwrap().get(0)
            };
            let mut logits = read(&embedded, &positions);
            same(&format!("{name} {i}: logits"), &logits, case("logits"));

            // Never the end, as it was asked for there.
            let ends = Tensor::from_slice(&ENDS);
            let mut sampler = Sampler::new(&ids, 32, GREEDY).unwrap();
            let mut said = Vec::new();
            for step in 0..32 {
                let next = sampler.sample(&logits.index_fill(0, &ends, f64::NEG_INFINITY)).unwrap();
                said.push(next.int64_value(&[]));
                let position = Tensor::from_slice(&[length + step + delta; 3]).view([3, 1]);
                logits = read(&language.embed(&next).unwrap(), &position);
            }
            assert_eq!(said, numbers(case("said")), "{name} {i}");
        }
    }
}

/// Published models have layers whose output half precision cannot hold.
#[test]
fn half_precision_holds_sums_that_leave_its_range() {
    let _no_grad = tch::no_grad_guard();
    let cases: BTreeMap<String, Tensor> =
        Tensor::read_safetensors(fixture("qwen/cases.safetensors")).unwrap().into_iter().collect();
    let folder = fixture("qwen/tied");
    let config = Config::parse(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    let large = |name: &str| name.ends_with(".0.mlp.up_proj.weight") || name.ends_with(".0.mlp.down_proj.weight");
    let tensors = Tensor::read_safetensors(folder.join("model.safetensors")).unwrap().into_iter();
    let tensors = tensors.map(|(name, tensor)| match large(&name) {
        true => (name, tensor * 2000.0),
        false => (name, tensor),
    });
    let weights = Weights::from_tensors(tensors.collect());
    let computed = |kind: Kind| {
        let loader = &mut Loader::new(&weights, "", Device::Cpu, kind);
        let vision = VisionTower::load(loader, &config.vision).unwrap();
        let language = LanguageModel::load(loader, &config.language, &Adapter::default()).unwrap();
        let grid = numbers(&cases["tied.0.grids"]);
        let grid = Grid { rows: grid[1], columns: grid[2] };
        let patches = cases["tied.0.patches"].narrow(0, 0, grid.rows * grid.columns);
        let features = vision.forward::<WeightsError>(&patches, grid, &mut |_| Ok(())).unwrap();
        let ids = &cases["adapter.ids"];
        let positions = Tensor::arange(ids.numel() as i64, (Kind::Int64, Device::Cpu)).expand([3, -1], false);
        let mut cache = language.cache(ids.numel() as i64).unwrap();
        let embedded = language.embed(ids).unwrap();
        let logits =
            language.forward::<WeightsError>(&embedded, &positions, &mut cache, &mut |_| Ok(())).unwrap().get(0);
        [features, logits].map(|x| x.to_kind(Kind::Float))
    };
    let norm = |x: &Tensor| x.square().sum(Kind::Float).sqrt().double_value(&[]);
    for (wide, half) in computed(Kind::Float).iter().zip(computed(Kind::Half)) {
        let off = norm(&(&half - wide)) / norm(wide);
        assert!(off < 0.02, "{off}");
    }
}

#[test]
fn an_adapter_changes_the_language_model_as_in_peft() {
    let _no_grad = tch::no_grad_guard();
    let cases: BTreeMap<String, Tensor> =
        Tensor::read_safetensors(fixture("qwen/cases.safetensors")).unwrap().into_iter().collect();
    let folder = fixture("qwen/tied");
    let config = Config::parse(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    let weights = Weights::open_folder(&folder, "model").unwrap();
    let load = |config: &Config, adapter: &Adapter| {
        let loader = &mut Loader::new(&weights, "", Device::Cpu, Kind::Float);
        VisionTower::load(loader, &config.vision).unwrap();
        let language = LanguageModel::load(loader, &config.language, adapter).unwrap();
        loader.finish("Qwen2.5-VL").map(|()| language)
    };
    let logits = |language: &LanguageModel| {
        let ids = &cases["adapter.ids"];
        let positions = Tensor::arange(ids.numel() as i64, (Kind::Int64, Device::Cpu)).expand([3, -1], false);
        let mut cache = language.cache(ids.numel() as i64).unwrap();
        let embedded = language.embed(ids).unwrap();
        language.forward::<WeightsError>(&embedded, &positions, &mut cache, &mut |_| Ok(())).unwrap().get(0)
    };
    // The same numbers under the names of newer libraries, and under the older ones.
    let old = Folder::new();
    let adapter = fixture("qwen/adapter");
    std::fs::copy(adapter.join("adapter_config.json"), old.path("adapter_config.json")).unwrap();
    let renamed: Vec<_> = Tensor::read_safetensors(adapter.join("adapter_model.safetensors"))
        .unwrap()
        .into_iter()
        .map(|(name, tensor)| (name.replace("model.language_model.", "model."), tensor))
        .collect();
    Tensor::write_safetensors(&renamed, old.path("adapter_model.safetensors")).unwrap();
    for folder in [adapter.as_path(), old.root()] {
        let language = load(&config, &Adapter::open(folder).unwrap()).unwrap();
        same("logits with the adapter", &logits(&language), &cases["adapter.logits"]);
    }
    let plain = logits(&load(&config, &Adapter::default()).unwrap());
    assert!((plain - &cases["adapter.logits"]).abs().max().double_value(&[]) > 0.1, "it changes something");

    // Made for another model: wider, deeper, or of something else altogether.
    let problems = |renamed: &[(String, Tensor)]| {
        Tensor::write_safetensors(renamed, old.path("adapter_model.safetensors")).unwrap();
        match Adapter::open(old.root()).and_then(|adapter| load(&config, &adapter).map(drop)) {
            Err(WeightsError::Mismatch { problems, .. }) => problems.join("\n"),
            other => panic!("{other:?}"),
        }
    };
    let changed = |name: &dyn Fn(&str) -> String, width: i64| -> Vec<(String, Tensor)> {
        renamed.iter().map(|(key, tensor)| (name(key), tensor.constant_pad_nd([0, width]))).collect()
    };
    assert!(problems(&changed(&str::to_owned, 1)).contains("layers.0.self_attn.q_proj is changed by"));
    assert!(
        problems(&changed(&|key| key.replace("layers.2", "layers.7"), 0)).contains("layers.7.mlp.up_proj is no layer")
    );
    assert!(problems(&changed(&|key| key.replace("layers", "blocks"), 0)).contains("fits no layer"));
    // What is of the vision tower is left alone; where there is nothing else, it is no adapter for this.
    let of_tower = |key: &str| key.replace("model.layers", "visual.blocks");
    assert!(problems(&changed(&of_tower, 0)).contains("it changes no layer"));
    let both: Vec<_> = changed(&of_tower, 0).into_iter().chain(changed(&str::to_owned, 0)).collect();
    Tensor::write_safetensors(&both, old.path("adapter_model.safetensors")).unwrap();
    let language = load(&config, &Adapter::open(old.root()).unwrap()).unwrap();
    same("logits with the adapter", &logits(&language), &cases["adapter.logits"]);
}

#[test]
fn draws_follow_the_seed_and_the_shares() {
    let shares = Tensor::from_slice(&[0.5f32, 0.25, 0.25, 0.0]).log();
    let ids = Tensor::from_slice(&[3i64]);
    let draw = |seed: u64, temperature: f64| {
        let choice = SamplingParams { penalty: 1.0, temperature, seed };
        Sampler::new(&ids, 1, choice).unwrap().sample(&shares).unwrap().int64_value(&[])
    };
    let drawn: Vec<i64> = (0..400).map(|seed| draw(seed, 1.0)).collect();
    assert_eq!(drawn, (0..400).map(|seed| draw(seed, 1.0)).collect::<Vec<_>>());
    let count = |id: i64| drawn.iter().filter(|&&other| other == id).count();
    assert!((150..250).contains(&count(0)) && count(1) > 50 && count(2) > 50 && count(3) == 0, "{drawn:?}");
    assert!((0..100).all(|seed| draw(seed, 1e-6) == 0), "almost no temperature is none");
}

#[test]
fn pictures_become_the_same_patches() {
    let cases: BTreeMap<String, Tensor> =
        Tensor::read_safetensors(fixture("qwen/cases.safetensors")).unwrap().into_iter().collect();
    let folder = Folder::new();
    let config =
        serde_json::json!({ "min_pixels": 3136, "max_pixels": 400 * 28 * 28, "image_processor_type": "Qwen2VL" });
    std::fs::write(folder.path("preprocessor_config.json"), config.to_string()).unwrap();
    let processor = ImageProcessor::open(folder.root()).unwrap();
    for i in 0..7 {
        let case = |part: &str| &cases[&format!("pictures.{i}.{part}")];
        let [width, height] = *numbers(case("size")) else { panic!("no size") };
        let picture = Picture::from_fn(width as u32, height as u32, |x, y| {
            [(x * 3) as u8, (y * 5) as u8, (x * 7 + y * 11) as u8]
        });
        let (patches, grid) = processor.patches(&picture).unwrap();
        assert_eq!([1, grid.rows, grid.columns].as_slice(), numbers(case("grid")), "{i}");
        let some = patches.reshape([-1]).slice(0, 0, None, 997);
        assert_eq!(some.size(), case("patches").size(), "{i}");
        let difference = (some - case("patches")).abs().max().double_value(&[]);
        assert!(difference < 1e-6, "{i}: {difference}");
    }
    assert!(processor.resized(2001, 10).is_err(), "a stripe");
    assert_eq!(processor.resized(14, 42).unwrap(), (56, 112), "too small: it must grow");
    assert_eq!(processor.resized(70, 98).unwrap(), (56, 112), "halves go to the even side");
    assert!(ImageProcessor::open(&folder.path("nowhere")).is_err());
}

/// A picture that `export.py` makes too.
fn photo(width: u32, height: u32) -> Picture {
    Picture::from_fn(width, height, |x, y| [(x * 3) as u8, (y * 5) as u8, ((x * 7) ^ (y * 11)) as u8])
}

#[test]
fn chains_are_captioned_as_in_the_reference() {
    let chains: BTreeMap<String, BTreeMap<String, String>> =
        serde_json::from_slice(&std::fs::read(fixture("qwen/chains.json")).unwrap()).unwrap();
    let folder = Folder::new();
    let mut compared = 0;
    for (model, chains) in &chains {
        let base = if model == "tuned" { "tied" } else { model };
        for (width, height, size) in [(150, 131, 96), (97, 260, 120)] {
            let file = folder.path(&format!("{width}x{height}.png"));
            codec::save(&photo(width, height), &file).unwrap();
            for kind in ["recursive", "recursive_multiscale"] {
                let out = folder.path(&format!("{model}-{width}-{kind}"));
                let run = coz(["zoom", "--backbone", "bicubic", "--rec_num", "3", "--save_prompts", "--device", "cpu"])
                    .args(["--process_size", &size.to_string(), "--rec_type", kind, "--prompt", "fur"])
                    .args(["--prompt_type", if model == "tuned" { "vlm" } else { "vlm_base" }])
                    .args(["--vlm_path", fixture("qwen").join(base).to_str().unwrap()])
                    .args(["--vlm_lora_path", fixture("qwen/adapter").to_str().unwrap()])
                    .args(["-i", file.to_str().unwrap(), "-o", out.to_str().unwrap()])
                    .output()
                    .unwrap();
                assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
                for i in 0..3 {
                    let theirs = &chains[&format!("{width}x{height}.{size}.{kind}.{i}")];
                    let ours = out.join(format!("per-sample/{width}x{height}/txt/{i}.txt"));
                    let ours = std::fs::read_to_string(ours).unwrap();
                    assert_eq!(ours, format!("{theirs}, fur,"), "{model} {width}x{height} {kind} {i}");
                    compared += 1;
                }
            }
        }
    }
    assert_eq!(compared, 36);
}

#[test]
fn pictures_of_odd_sizes_are_captioned_as_in_the_reference() {
    let _no_grad = tch::no_grad_guard();
    type Case = ([u32; 2], [u32; 2], String, String);
    let cases: BTreeMap<String, Case> =
        serde_json::from_slice(&std::fs::read(fixture("qwen/odd.json")).unwrap()).unwrap();
    for model in ["tied", "untied"] {
        let source = vlm(&fixture("qwen").join(model), None, Precision::Auto);
        let mut captioner = caption::open(&source, DeviceChoice::Cpu).unwrap().unwrap();
        for i in 0..5 {
            let ([width, height], [before_width, before_height], one, two) = &cases[&format!("{model}.{i}")];
            for (include_parent, theirs) in [(false, one), (true, two)] {
                let input = CaptionInput {
                    parent: Arc::new(photo(*before_width, *before_height)),
                    enlarged: Arc::new(photo(*width, *height)),
                    request: CaptionRequest { include_parent, ..CaptionRequest::default() },
                };
                let ours = captioner.caption(&input, &mut Progress::new(&mut |_, _| true), &mut |_| ()).unwrap();
                assert_eq!(&ours, theirs, "{model} {i} {include_parent}");
            }
        }
    }
}
