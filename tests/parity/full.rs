//! Full images, against the reference's tiled autoencoder and its blended tiles on the tiny models of `sd3`.

use std::collections::BTreeMap;
use std::sync::Arc;

use tch::Tensor;

use super::fixture;
use crate::samples::{Folder, coz, sd3};
use chain_of_zoom::base::{Backbone, DeviceChoice, MemoryPlan, Precision, Progress, TileProgress, Tiling, VaeMode};
use chain_of_zoom::imaging::metrics::luma_psnr;
use chain_of_zoom::imaging::{Filter, Picture, codec, resize};
use chain_of_zoom::pipelines::sr::SuperResolver;
use chain_of_zoom::pipelines::{FullImageInput, PartialResult, sr};

const PROMPT: &str = "The red FUR of an old fox";

struct Case {
    photo: Picture,
    last_tile: Picture,
    result: Picture,
    /// Enlargement, seed, tile of the latent, overlap, tile of the encoder, of the decoder, how many tiles.
    options: Vec<i64>,
}

fn cases() -> Vec<Case> {
    let tensors: BTreeMap<String, Tensor> =
        Tensor::read_safetensors(fixture("full/cases.safetensors")).unwrap().into_iter().collect();
    let picture = |name: String| {
        let tensor = &tensors[&name];
        let mut rgb = vec![0; tensor.numel()];
        tensor.copy_data_u8(&mut rgb, tensor.numel());
        Picture::from_rgb(tensor.size()[1] as u32, tensor.size()[0] as u32, rgb).unwrap()
    };
    let case = |n| Case {
        photo: picture(format!("{n}.photo")),
        last_tile: picture(format!("{n}.last_tile")),
        result: picture(format!("{n}.result")),
        options: Vec::<i64>::try_from(&tensors[&format!("{n}.options")]).unwrap(),
    };
    (0..tensors.len() / 4).map(case).collect()
}

fn backbone() -> Backbone {
    let backbone = sd3(&fixture("sd3"), Precision::Fp32);
    assert_eq!(backbone.files.get("lora"), Some(fixture("sd3/model_20001.pkl").as_path()));
    assert_eq!(backbone.files.get("vae"), Some(fixture("sd3/vae_encoder_20001.pt").as_path()));
    backbone
}

fn model(memory: MemoryPlan) -> Box<dyn SuperResolver> {
    sr::open(&backbone(), DeviceChoice::Cpu, memory, 0).unwrap()
}

fn input(case: &Case, vae_mode: VaeMode) -> FullImageInput {
    let [upscale, seed, latent_tile, overlap, encoder_tile, decoder_tile, _] = case.options[..] else { panic!() };
    let (width, height) = (case.photo.width() * upscale as u32, case.photo.height() * upscale as u32);
    let [latent_tile, overlap, encoder_tile, decoder_tile] =
        [latent_tile, overlap, encoder_tile, decoder_tile].map(|side| side as u32);
    FullImageInput {
        source: Arc::new(case.photo.clone()),
        enlarged: Arc::new(resize(&case.photo, width, height, Filter::Lanczos)),
        tiling: Tiling { latent_tile, overlap, encoder_tile, decoder_tile, vae_mode },
        seed: seed as u64,
    }
}

/// How many levels differ by more than 2, of how many; and the luma PSNR.
fn difference(ours: &Picture, theirs: &Picture) -> (usize, usize, f64) {
    assert_eq!((ours.width(), ours.height()), (theirs.width(), theirs.height()));
    let off = ours.rgb().iter().zip(theirs.rgb()).filter(|(a, b)| a.abs_diff(**b) > 2).count();
    (off, ours.rgb().len(), luma_psnr(ours, theirs, 0))
}

fn near(what: &str, ours: &Picture, theirs: &Picture) {
    let (off, all, psnr) = difference(ours, theirs);
    assert!(psnr >= 48.0 && off * 1000 <= all, "{what}: {psnr} dB, {off} of {all} differ by more than 2");
}

#[test]
fn full_images_are_those_of_the_reference() {
    let _no_grad = tch::no_grad_guard();
    for (n, case) in cases().iter().enumerate() {
        let input = input(case, VaeMode::Fast);
        let mut model = model(MemoryPlan::Resident);
        let mut quiet = |_, _| true;
        let tiles = model.tiles(&input, &mut Progress::new(&mut quiet)).unwrap();
        assert_eq!(tiles.len() as i64, case.options[6], "case {n}");
        near(&format!("last tile of case {n}"), tiles.last().unwrap(), &case.last_tile);
        // What is seen on the way makes up the result.
        let mut shown = Picture::from_fn(case.result.width(), case.result.height(), |_, _| [0; 3]);
        let (mut quiet, mut done) = (|_, _| true, 0);
        let mut on_tiles = |tiles: TileProgress| done = tiles.done;
        let mut on_partial = |partial: PartialResult| shown.paste(&partial.picture, partial.left, partial.top);
        let mut progress = Progress::new(&mut quiet).with_tiles(&mut on_tiles);
        let prompts = [PROMPT.into()];
        let result = model.restore_full_image(&input, &prompts, &mut progress, &mut on_partial).unwrap();
        near(&format!("case {n}"), &result, &case.result);
        assert_eq!(result, shown, "case {n}");
        assert!(done == tiles.len() || tiles.len() == 1);
    }
}

#[test]
fn the_command_makes_the_same_picture_and_takes_any_size() {
    let folder = Folder::new();
    let case = &cases()[0];
    codec::save(&case.photo, &folder.path("in/photo.png")).unwrap();
    // Sides that suit neither the autoencoder nor the transformer.
    codec::save(&case.photo.crop(0, 0, 37, 53), &folder.path("in/odd.png")).unwrap();
    codec::save(&case.photo.crop(0, 0, 100, 2), &folder.path("in/thin.png")).unwrap();
    let [upscale, seed, latent, overlap, encoder, decoder, _] = case.options[..] else { panic!() };
    let backbone = backbone();
    let file = |role: &str| backbone.files.get(role).unwrap().to_str().unwrap();
    let run = |output: &str, more: &[&str]| {
        let run = coz(["full", "-i", folder.path("in").to_str().unwrap(), "-o", folder.path(output).to_str().unwrap()])
            .args(["--pretrained_model_name_or_path", file("model")])
            .args(["--lora_path", file("lora"), "--vae_path", file("vae")])
            .args(["--rec_type", "recursive_multiscale", "--prompt_type", "null", "--prompt", PROMPT, "--save_prompts"])
            .args(["--upscale", &upscale.to_string(), "--seed", &seed.to_string()])
            .args(["--latent_tiled_size", &latent.to_string(), "--latent_tiled_overlap", &overlap.to_string()])
            .args(["--vae_encoder_tiled_size", &encoder.to_string(), "--vae_decoder_tiled_size", &decoder.to_string()])
            .args(["--mixed_precision", "fp32", "--device", "cpu", "--memory", "streamed"])
            .args(more)
            .output()
            .unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    };
    run("out", &[]);
    run("exact", &["--vae_mode", "exact"]);
    let written = |name: &str| codec::open(&folder.path(&format!("out/{name}.png"))).unwrap();
    near("the command's", &written("per-sample/photo/1"), &case.result);
    assert_eq!(written("per-scale/scale1/photo"), written("per-sample/photo/1"));
    assert_eq!(written("per-sample/photo/0"), case.photo);
    let odd = written("per-sample/odd/1");
    assert_eq!((odd.width(), odd.height()), (148, 212));
    let thin = written("per-sample/thin/1");
    assert_eq!((thin.width(), thin.height()), (400, 8));
    let prompt = std::fs::read_to_string(folder.path("out/per-sample/photo/txt/0.txt")).unwrap();
    assert_eq!(prompt, PROMPT);
    let exact = codec::open(&folder.path("exact/per-sample/photo/1.png")).unwrap();
    assert!(exact != written("per-sample/photo/1") && (exact.width(), exact.height()) == (400, 240));
}

#[test]
fn exactly_encoded_and_decoded_pictures_do_not_depend_on_the_tiles() {
    let _no_grad = tch::no_grad_guard();
    let case = &cases()[0];
    let restored = |encoder_tile: u32, decoder_tile: u32, vae_mode: VaeMode| {
        let mut input = input(case, vae_mode);
        (input.tiling.encoder_tile, input.tiling.decoder_tile) = (encoder_tile, decoder_tile);
        let mut model = model(MemoryPlan::Resident);
        let mut quiet = |_, _| true;
        let progress = &mut Progress::new(&mut quiet);
        model.restore_full_image(&input, &[PROMPT.into()], progress, &mut |_| ()).unwrap()
    };
    // All at once: larger than the picture.
    let at_once = restored(4096, 4096, VaeMode::Fast);
    for (encoder, decoder) in [(96, 16), (64, 8), (136, 11), (200, 24)] {
        let tiled = restored(encoder, decoder, VaeMode::Exact);
        let (off, _, psnr) = difference(&tiled, &at_once);
        assert!(off == 0 && psnr > 55.0, "{encoder}, {decoder}: {off} differ by more than 2, {psnr} dB");
    }
    let (_, _, psnr) = difference(&restored(96, 16, VaeMode::Fast), &at_once);
    assert!(psnr < 50.0, "the fast way shows its tiles: {psnr} dB");
}
