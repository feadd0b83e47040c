//! The tagger against transformers' Swin, PyTorch's attention and loralib, on tiny random models, in float32 on the CPU.
//! `ram/export.py` made them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use super::fixture;
use crate::samples::{Folder, coz};
use chain_of_zoom::base::{CaptionRequest, DeviceChoice, Progress, PromptSource, PromptSourceSpec, Region};
use chain_of_zoom::imaging::{Picture, codec};
use chain_of_zoom::pipelines::caption::CaptionInput;
use chain_of_zoom::pipelines::caption::tags::Tagger;
use chain_of_zoom::pipelines::sr::StepInput;
use chain_of_zoom::pipelines::{PipelineError, caption};
use chain_of_zoom::runtime::weights::{Loader, Weights};
use chain_of_zoom::runtime::without_gradients;

#[derive(Deserialize)]
struct Case {
    logits: Vec<Vec<f32>>,
    words: Vec<String>,
}

fn cases() -> BTreeMap<String, Case> {
    serde_json::from_slice(&std::fs::read(fixture("ram/cases.json")).unwrap()).unwrap()
}

/// Pictures that `export.py` makes too.
fn pictures() -> [Picture; 2] {
    [(200, 200), (77, 391)].map(|(width, height)| {
        Picture::from_fn(width, height, |x, y| [(x * 3) as u8, (y * 5) as u8, ((x * 7) ^ (y * 11)) as u8])
    })
}

/// RAM of this folder, without DAPE.
fn plain(folder: &Path) -> PromptSource {
    PromptSource::from(PromptSourceSpec::named("dape").unwrap())
        .with("ram", folder.join("ram_swin_large_14m.pth"))
        .with("tags", folder.join("data/ram_tag_list.txt"))
        .with("thresholds", folder.join("data/ram_tag_list_threshold.txt"))
}

fn with_dape(folder: &Path) -> PromptSource {
    plain(folder).with("dape", folder.join("DAPE.pth"))
}

fn tags(source: &PromptSource, picture: &Picture) -> Result<String, PipelineError> {
    let picture = Arc::new(picture.clone());
    let input = CaptionInput { parent: picture.clone(), enlarged: picture, request: CaptionRequest::default() };
    let mut tagger = caption::open(source, DeviceChoice::Cpu)?.unwrap();
    tagger.caption(&input, &mut Progress::new(&mut |_, _| true), &mut |_| ())
}

#[test]
fn tags_are_those_of_the_reference() {
    let _no_grad = without_gradients();
    for (name, case) in cases() {
        let folder = fixture("ram").join(&name);
        let (plain, with_dape) = (plain(&folder), with_dape(&folder));
        let mut tagger = Tagger::open(&with_dape, Device::Cpu).unwrap();
        for ((picture, theirs), expected) in pictures().iter().zip(&case.logits).zip(&case.words) {
            let ours = tagger.logits(picture, &mut Progress::new(&mut |_, _| true)).unwrap();
            let difference = (&ours - Tensor::from_slice(theirs)).abs().max().double_value(&[]);
            assert!(difference < 5e-5, "{name}: {difference}");
            assert!(ours.std(true).double_value(&[]) > 0.1, "{name} is flat");
            assert_eq!(&tags(&with_dape, picture).unwrap(), expected, "{name}");
            assert_ne!(&tags(&plain, picture).unwrap(), expected, "{name}: DAPE changes something");
        }
    }
}

#[test]
fn chains_are_tagged() {
    let _no_grad = without_gradients();
    let folder = Folder::new();
    let [photo, _] = pictures();
    let file = folder.path("photo.png");
    codec::save(&photo, &file).unwrap();
    let model = fixture("ram/small");
    let out = folder.path("out");
    let run = coz(["zoom", "--backbone", "bicubic", "--rec_num", "2", "--save_prompts", "--device", "cpu"])
        .args(["--process_size", "200", "--prompt_type", "dape", "--prompt", "fur"])
        .args(["--ram_path", model.join("ram_swin_large_14m.pth").to_str().unwrap()])
        .args(["--ram_ft_path", model.join("DAPE.pth").to_str().unwrap()])
        .args(["-i", file.to_str().unwrap(), "-o", out.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let mut state = photo;
    for i in 0..2 {
        let (_, enlarged) = StepInput::cut(&state, Region::central(200, 200, 4), 200, 200).unwrap();
        let extracted = tags(&with_dape(&model), &enlarged).unwrap();
        assert!(!extracted.is_empty());
        let written = std::fs::read_to_string(out.join(format!("per-sample/photo/txt/{i}.txt"))).unwrap();
        assert_eq!(written, format!("{extracted}, fur,"));
        state = enlarged;
    }
}

#[test]
fn lists_and_changes_that_do_not_fit_are_reported() {
    let folder = Folder::new();
    let small = fixture("ram/small");
    let model = || with_dape(&small);
    let [picture, _] = pictures();
    let error = |source: PromptSource| tags(&source, &picture).unwrap_err().to_string();
    let written = |name: &str, text: &str| -> PathBuf {
        std::fs::write(folder.path(name), text).unwrap();
        folder.path(name)
    };
    let no_list = model().with("tags", folder.path("nowhere.txt"));
    assert!(error(no_list).contains("nowhere.txt: the list of tags cannot be read"));
    let few = model().with("thresholds", written("few.txt", "0.5\n0.6\n"));
    assert!(error(few).contains("few.txt: it holds 2 thresholds for 37 tags"));
    let odd = model().with("thresholds", written("odd.txt", &"0.5\nhalf\n".repeat(20)));
    assert!(error(odd).contains("line 2 is \"half\", no number"));
    let more = model()
        .with("tags", written("more.txt", &"tag\n".repeat(38)))
        .with("thresholds", written("more_thresholds.txt", &"0.5\n".repeat(38)));
    assert!(error(more).contains("38 tags"));
    let of_another = model().with("dape", fixture("ram/large/DAPE.pth"));
    let text = error(of_another);
    assert!(text.contains("do not fit visual_encoder.layers.0.blocks.0.attn.qkv"), "{text}");
    let none = model().with("dape", small.join("ram_swin_large_14m.pth"));
    assert!(error(none).contains("it holds no lora_A and lora_B"));
    // A window that does not divide the picture, and tensors of absurd shapes.
    let tensors = |change: &dyn Fn(&str, Tensor) -> Tensor| {
        let weights = Weights::open(&small.join("ram_swin_large_14m.pth")).unwrap();
        let mut loader = Loader::new(&weights, "", Device::Cpu, Kind::Float);
        let shapes = weights.shapes().into_iter();
        let changed: Vec<_> =
            shapes.map(|(name, shape)| (name, change(name, loader.tensor(name, &shape).unwrap()))).collect();
        Tensor::write_safetensors(&changed, folder.path("changed.safetensors")).unwrap();
        tags(&plain(&small).with("ram", folder.path("changed.safetensors")), &picture)
    };
    let text = tensors(&|name, tensor| match name.ends_with("bias_table") {
        true => Tensor::zeros([81, tensor.size()[1]], (Kind::Float, Device::Cpu)),
        false => tensor,
    })
    .unwrap_err()
    .to_string();
    assert!(text.contains("a table of 81 do not suit 24 x 24 tokens"), "{text}");
    for part in
        ["bias_table", "fc1.weight", "attn_mask", "label_embed", "intermediate.dense.weight", "patch_embed.proj.weight"]
    {
        let outcome = tensors(&|name, tensor| if name.ends_with(part) { Tensor::from(1f32) } else { tensor });
        // Masks only tell the size of pictures, which has a usual one.
        assert_eq!(outcome.is_ok(), part == "attn_mask", "{part}");
    }
    let other = model().with("ram", fixture("networks").join("compact_x4.pth"));
    assert!(tags(&other, &picture).is_err());
}
