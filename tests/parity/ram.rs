//! The tagger against transformers' Swin, PyTorch's attention and loralib, on tiny random models, in float32 on the CPU.
//! `ram/export.py` made them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chain_of_zoom::image::{Picture, codec};
use chain_of_zoom::models::{Loader, Weights};
use chain_of_zoom::prompt::tags::{TagFiles, Tagger};
use chain_of_zoom::prompt::{Asking, Extractor, PromptInput};
use chain_of_zoom::region::Region;
use chain_of_zoom::step::{DeviceChoice, Progress, StepError, StepInput, without_gradients};
use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use super::fixture;
use crate::samples::{Folder, coz};

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

fn files(folder: &Path) -> TagFiles {
    TagFiles { dape: Some(folder.join("DAPE.pth")), ..TagFiles::beside(&folder.join("ram_swin_large_14m.pth")) }
}

fn words(files: TagFiles, picture: &Picture) -> Result<String, StepError> {
    let picture = Arc::new(picture.clone());
    let input = PromptInput { previous: picture.clone(), enlarged: picture, asking: Asking::default() };
    let mut tagger = Extractor::Tags(files).open(DeviceChoice::Cpu)?.unwrap();
    tagger.propose(&input, &mut Progress::new(&mut |_, _| true), &mut |_| ())
}

#[test]
fn tags_are_those_of_the_reference() {
    let _no_grad = without_gradients();
    for (name, case) in cases() {
        let files = files(&fixture("ram").join(&name));
        let mut tagger = Tagger::open(&files, Device::Cpu).unwrap();
        let plain = TagFiles { dape: None, ..files.clone() };
        for ((picture, theirs), expected) in pictures().iter().zip(&case.logits).zip(&case.words) {
            let ours = tagger.logits(picture, &mut Progress::new(&mut |_, _| true)).unwrap();
            let difference = (&ours - Tensor::from_slice(theirs)).abs().max().double_value(&[]);
            assert!(difference < 5e-5, "{name}: {difference}");
            assert!(ours.std(true).double_value(&[]) > 0.1, "{name} is flat");
            assert_eq!(&words(files.clone(), picture).unwrap(), expected, "{name}");
            assert_ne!(&words(plain.clone(), picture).unwrap(), expected, "{name}: DAPE changes something");
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
        let found = words(files(&model), &enlarged).unwrap();
        assert!(!found.is_empty());
        let written = std::fs::read_to_string(out.join(format!("per-sample/photo/txt/{i}.txt"))).unwrap();
        assert_eq!(written, format!("{found}, fur,"));
        state = enlarged;
    }
}

#[test]
fn lists_and_changes_that_do_not_fit_are_told() {
    let folder = Folder::new();
    let model = files(&fixture("ram/small"));
    let [picture, _] = pictures();
    let told = |files: TagFiles| words(files, &picture).unwrap_err().to_string();
    let written = |name: &str, text: &str| -> PathBuf {
        std::fs::write(folder.path(name), text).unwrap();
        folder.path(name)
    };
    let no_list = TagFiles { tags: folder.path("nowhere.txt"), ..model.clone() };
    assert!(told(no_list).contains("nowhere.txt: the list of tags cannot be read"));
    let few = TagFiles { thresholds: written("few.txt", "0.5\n0.6\n"), ..model.clone() };
    assert!(told(few).contains("few.txt: it holds 2 thresholds for 37 tags"));
    let odd = TagFiles { thresholds: written("odd.txt", &"0.5\nhalf\n".repeat(20)), ..model.clone() };
    assert!(told(odd).contains("line 2 is \"half\", no number"));
    let more = TagFiles {
        tags: written("more.txt", &"tag\n".repeat(38)),
        thresholds: written("more_thresholds.txt", &"0.5\n".repeat(38)),
        ..model.clone()
    };
    assert!(told(more).contains("38 tags"));
    let of_another = TagFiles { dape: Some(fixture("ram/large/DAPE.pth")), ..model.clone() };
    let text = told(of_another);
    assert!(text.contains("do not fit visual_encoder.layers.0.blocks.0.attn.qkv"), "{text}");
    let none = TagFiles { dape: Some(model.ram.clone()), ..model.clone() };
    assert!(told(none).contains("it holds no lora_A and lora_B"));
    // A window that does not divide the picture, and tensors of absurd shapes.
    let tensors = |change: &dyn Fn(&str, Tensor) -> Tensor| {
        let whole = Weights::open(&model.ram).unwrap();
        let mut loader = Loader::new(&whole, "", Device::Cpu, Kind::Float);
        let shapes = whole.shapes().into_iter();
        let changed: Vec<_> =
            shapes.map(|(name, shape)| (name, change(name, loader.take(name, &shape).unwrap()))).collect();
        Tensor::write_safetensors(&changed, folder.path("changed.safetensors")).unwrap();
        words(TagFiles { ram: folder.path("changed.safetensors"), dape: None, ..model.clone() }, &picture)
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
    let other = TagFiles { ram: fixture("networks").join("compact_x4.pth"), ..model };
    assert!(words(other, &picture).is_err());
}
