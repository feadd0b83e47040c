//! Single-image networks against spandrel, on tiny models in the layouts that are in circulation.

use std::collections::BTreeMap;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::fixture;
use chain_of_zoom::base::Progress;
use chain_of_zoom::imaging::{Filter, Picture, resize};
use chain_of_zoom::networks::single_image::{self, ARCHITECTURES, Context, SingleImageNetwork};
use chain_of_zoom::pipelines::FullImageInput;
use chain_of_zoom::pipelines::sr::{StepInput, SuperResolver, Upscaler};
use chain_of_zoom::runtime::tensor::{picture_from_tensor, tensor_from_picture};
use chain_of_zoom::runtime::weights::{Loader, Weights};

/// Files, which network each is of, and how much that enlarges.
const FILES: [(&str, &str, i64); 23] = [
    ("span_x4.pth", "SPAN", 4),
    ("span_x2_plain.safetensors", "SPAN", 2),
    ("plksr_x4.pth", "PLKSR", 4),
    ("plksr_x2_iccm.safetensors", "PLKSR", 2),
    ("plksr_x3_dccm.pth", "PLKSR", 3),
    ("realplksr_x4.pth", "RealPLKSR", 4),
    ("realplksr_x2_dysample.safetensors", "RealPLKSR", 2),
    ("realplksr_x3_dysample.pth", "RealPLKSR", 3),
    ("realplksr_x1_dysample.pth", "RealPLKSR", 1),
    ("dat_x2.safetensors", "DAT", 2),
    ("dat_x4_direct.pth", "DAT", 4),
    ("swinir_x4_nearest.safetensors", "SwinIR", 4),
    ("swinir_x2_direct.safetensors", "SwinIR", 2),
    ("swinir_x2.safetensors", "SwinIR", 2),
    ("swinir_x1_jpeg.pth", "SwinIR", 1),
    ("swinir_x1_unshuffle.safetensors", "SwinIR", 1),
    ("hat_x4.safetensors", "HAT", 4),
    ("hat_x2_bf16.safetensors", "HAT", 2),
    ("drct_x2.safetensors", "DRCT", 2),
    ("drct_x2_unshifted.safetensors", "DRCT", 2),
    ("omnisr_x4.pth", "OmniSR", 4),
    ("omnisr_x3_no_bias.safetensors", "OmniSR", 3),
    ("omnisr_x2_plain.safetensors", "OmniSR", 2),
];

fn open(file: &str) -> Weights {
    Weights::open(&fixture(&format!("single_image/{file}"))).unwrap()
}

fn tensor(name: &str) -> Tensor {
    let cases = open("cases.safetensors");
    let shape = cases.shape(name).unwrap();
    Loader::new(&cases, "", Device::Cpu, Kind::Float).tensor(name, &shape).unwrap()
}

fn load(weights: &Weights) -> Box<dyn SingleImageNetwork> {
    single_image::load(weights, Device::Cpu, Kind::Float).unwrap().expect("it is recognised").1
}

#[test]
fn networks_equal_spandrel() {
    for (file, name, scale) in FILES {
        let network = load(&open(file));
        assert_eq!(network.scale(), scale, "{file}");
        let stem = file.split('.').next().unwrap();
        let (input, expected) = (tensor(&format!("{stem}.input")), tensor(&format!("{stem}.output")));
        let output = tch::no_grad(|| network.forward(&input, &mut |_| true)).unwrap().unwrap();
        assert_eq!(output.size(), expected.size(), "{file}");
        let difference = (output - &expected).abs().max().double_value(&[]);
        let largest = expected.abs().max().double_value(&[]).max(1.0);
        println!("{name:10} {file:35} {:.1e}", difference / largest);
        assert!(difference < 1e-5 * largest, "{file}: {difference} of {largest}");
    }
}

#[test]
fn every_file_is_recognised_as_one_network_alone() {
    let others = ["networks/compact_x4.pth", "networks/compact_x2_relu.safetensors", "networks/rrdb_x4.pth"];
    let others = others.into_iter().chain(["networks/rrdb_x4_esrgan.pth", "networks/rrdb_x4_sequential.pth"]);
    let others = others.map(|file| (fixture(file), if file.contains("rrdb") { "RRDBNet" } else { "SRVGGNetCompact" }));
    let files = FILES.map(|(file, name, _)| (fixture(&format!("single_image/{file}")), name));
    for (file, name) in files.into_iter().chain(others) {
        let weights = Weights::open(&file).unwrap();
        let found: Vec<&str> = single_image::recognised(&weights).map(|architecture| architecture.name).collect();
        assert_eq!(found, [name], "{}", file.display());
    }
    let named: Vec<&str> = ARCHITECTURES.iter().map(|architecture| architecture.name).collect();
    assert!(FILES.iter().all(|(_, name, _)| named.contains(name)));
}

#[test]
fn networks_stop_between_blocks() {
    for (file, _, _) in FILES {
        let network = load(&open(file));
        let (mut asked, input) = (0, Tensor::rand([1, 3, 16, 16], (Kind::Float, Device::Cpu)));
        let stopped = network.forward(&input, &mut |_| {
            asked += 1;
            false
        });
        assert!(stopped.unwrap().is_none() && asked == 1, "{file}");
    }
}

#[test]
fn folded_pixels_count_where_tiles_begin() {
    let context = |file: &str| load(&open(file)).context();
    assert_eq!(context("swinir_x2.safetensors"), Context::Windows(4));
    assert_eq!(context("swinir_x1_unshuffle.safetensors"), Context::Windows(8), "windows of 4 x 4 of 2 x 2 pixels");
    assert_eq!(context("span_x4.pth"), Context::Local(21));
    assert_eq!(context("hat_x4.safetensors"), Context::Global);
}

fn noisy(width: u32, height: u32) -> Picture {
    Picture::from_fn(width, height, |x, y| [x * 7 + y * 3, x * y, x ^ (5 * y)].map(|level| (level % 256) as u8))
}

/// What the network itself makes of a picture.
fn once(file: &str, picture: &Picture) -> Picture {
    let x = tensor_from_picture(picture, Device::Cpu).unwrap();
    picture_from_tensor(&tch::no_grad(|| load(&open(file)).forward(&x, &mut |_| true)).unwrap().unwrap()).unwrap()
}

/// A step of four times.
fn step(file: &str, cut: &Picture) -> Picture {
    let mut upscaler = Upscaler::open(&fixture(&format!("single_image/{file}")), Device::Cpu).unwrap();
    let enlarged = Arc::new(resize(cut, 4 * cut.width(), 4 * cut.height(), Filter::Bicubic));
    let input = StepInput { cut: Arc::new(cut.clone()), enlarged, prompt: String::new(), seed: 0 };
    tch::no_grad(|| upscaler.restore(&input, &mut Progress::new(&mut |_, _| true))).unwrap()
}

#[test]
fn networks_of_every_scale_make_a_step_of_four() {
    let cut = noisy(24, 20);
    let bicubic = |picture: &Picture| resize(picture, 96, 80, Filter::Bicubic);
    let four = "plksr_x4.pth";
    assert_eq!(step(four, &cut).rgb(), once(four, &cut).rgb());
    let two = "plksr_x2_iccm.safetensors";
    assert_eq!(step(two, &cut).rgb(), once(two, &once(two, &cut)).rgb(), "a network that doubles is applied twice");
    let three = "plksr_x3_dccm.pth";
    assert_eq!(step(three, &cut).rgb(), bicubic(&once(three, &cut)).rgb());
    let one = "swinir_x1_jpeg.pth";
    assert_eq!(step(one, &cut).rgb(), bicubic(&once(one, &cut)).rgb());
    let upscaler = Upscaler::open(&fixture(&format!("single_image/{one}")), Device::Cpu).unwrap();
    let told = upscaler.estimate((24, 20), 96, true).unwrap().to_string();
    assert!(told.ends_with("it cleans pictures and does not enlarge them: bicubic does, after it"), "{told}");
}

#[test]
fn tiles_of_a_network_that_sees_little_show_no_seam() {
    let file = "span_x2_plain.safetensors";
    let source = noisy(700, 90);
    let mut upscaler = Upscaler::open(&fixture(&format!("single_image/{file}")), Device::Cpu).unwrap();
    let enlarged = Arc::new(resize(&source, 1400, 180, Filter::Bicubic));
    let input = FullImageInput { source: Arc::new(source.clone()), enlarged, tiling: Default::default(), seed: 0 };
    let mut tiles = 0;
    let mut progress = |_, _| true;
    let mut progress = Progress::new(&mut progress);
    let result = tch::no_grad(|| upscaler.restore_full_image(&input, &[], &mut progress, &mut |_| tiles += 1)).unwrap();
    assert!(tiles > 3);
    let apart = result.rgb().iter().zip(once(file, &source).rgb()).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(apart <= Some(1), "{apart:?} levels, where float sums are in another order");
}

/// What opening a file says after its tensors were changed.
fn complaint(file: &str, change: impl Fn(&mut BTreeMap<String, Tensor>)) -> String {
    let weights = open(file);
    let prefix = if weights.shapes().keys().all(|key| key.starts_with("params")) { "params" } else { "" };
    let mut tensors: BTreeMap<String, Tensor> = weights
        .shapes()
        .into_keys()
        .filter(|key| key.starts_with(prefix))
        .map(|key| {
            (
                key.split_once("params_ema.").map_or(key, |(_, rest)| rest).to_owned(),
                weights.tensor(key).unwrap().unwrap(),
            )
        })
        .collect();
    change(&mut tensors);
    match single_image::load(&Weights::from_tensors(tensors), Device::Cpu, Kind::Float) {
        Ok(Some(_)) => panic!("{file} was opened"),
        Ok(None) => "unknown".into(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_does_not_fit_is_said() {
    let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
    let swin = "swinir_x2.safetensors";
    let put = |key: &'static str, shape: &'static [i64]| {
        move |tensors: &mut BTreeMap<String, Tensor>| _ = tensors.insert(key.into(), zeros(shape))
    };
    let table = "layers.0.residual_group.blocks.0.attn.relative_position_bias_table";
    for (file, key, shape, expected) in [
        (swin, table, [50, 2].as_slice(), "no window of up to 32 x 32"),
        (swin, table, &[49, 5], "12 channels do not make 5 heads"),
        (swin, table, &[49], "is [49], expected"),
        (swin, "conv_first.weight", &[0, 3, 3, 3], "expected"),
        (swin, "conv_first.weight", &[12, 1, 3, 3], "one-channel network"),
        (swin, "upsample.0.weight", &[7, 64, 3, 3], "expected"),
        (swin, "absolute_pos_embed", &[1, 256, 12], "of one size alone"),
        (swin, "patch_embed.proj.weight", &[12, 12, 1, 1], "Swin2SR"),
        (swin, "block_1.c1_r.sk.weight", &[8, 8, 1, 1], "belongs to no layer"),
        (
            "hat_x4.safetensors",
            "layers.0.residual_group.overlap_attn.relative_position_bias_table",
            &[80, 2],
            "no surrounding",
        ),
        ("dat_x2.safetensors", "layers.0.blocks.0.attn.attns.0.rpe_biases", &[105, 2], "of no window"),
        ("dat_x2.safetensors", "layers.0.blocks.1.attn.temperature", &[3, 1, 1], "heads"),
        ("omnisr_x2_plain.safetensors", "input.weight", &[6, 3, 3, 3], "do not make 4 heads"),
        (
            "omnisr_x2_plain.safetensors",
            "residual_layer.0.residual_layer.0.layer.4.fn.project_in.weight",
            &[1, 8, 1, 1],
            "1 channels do not make two halves",
        ),
        ("dat_x2.safetensors", "layers.0.blocks.0.ffn.fc1.weight", &[1, 32], "1 channels do not make two halves"),
        ("drct_x2.safetensors", "layers.1.swin2.attn.relative_position_bias_table", &[9, 3], "is another than that of"),
        (
            "hat_x4.safetensors",
            "layers.0.residual_group.overlap_attn.relative_position_bias_table",
            &[10000, 2],
            "no surrounding",
        ),
        ("plksr_x2_iccm.safetensors", "feats.1.lk.convs.0.weight", &[2, 2, 5, 5], "sparse or rectangular"),
        ("plksr_x2_iccm.safetensors", "feats.1.lk.conv.weight", &[2, 2, 6, 6], "expected"),
        ("realplksr_x2_dysample.safetensors", "to_img.offset.weight", &[3, 12, 1, 1], "to_img.offset.weight"),
        ("span_x2_plain.safetensors", "block_3.c2_r.conv.1.weight", &[12, 12, 5, 5], "block_3.c2_r.conv.1.weight"),
    ] {
        let said = complaint(file, put(key, shape));
        assert!(said.contains(expected), "{file}, {key}: {said}");
    }
    // A group that is missing, of each network.
    for (file, group) in [
        (swin, "layers.1.residual_group.blocks.1."),
        ("dat_x2.safetensors", "layers.1.blocks.3."),
        ("hat_x4.safetensors", "layers.0.residual_group.overlap_attn.mlp."),
        ("drct_x2.safetensors", "layers.1.swin3."),
        ("dat_x2.safetensors", "layers.0.conv."),
        ("omnisr_x2_plain.safetensors", "residual_layer.0.esa."),
        ("plksr_x2_iccm.safetensors", "feats.2."),
        ("realplksr_x4.pth", "feats.1.refine"),
        ("span_x2_plain.safetensors", "block_5."),
    ] {
        let said = complaint(file, |tensors| tensors.retain(|key, _| !key.starts_with(group)));
        assert!(said.contains("is missing"), "{file}: {said}");
    }
    let said = complaint(swin, |tensors| {
        let key = "layers.0.residual_group.blocks.0.mlp.fc1.weight";
        tensors.insert(key.into(), Tensor::zeros([24, 12], (Kind::Int8, Device::Cpu)));
    });
    assert!(said.contains("quantised"), "{said}");
}

#[test]
fn weights_that_are_no_numbers_end_the_step_by_name() {
    let folder = crate::samples::Folder::new();
    let file = folder.path("broken.safetensors");
    let weights = open("plksr_x2_iccm.safetensors");
    let tensors: Vec<(String, Tensor)> = weights
        .shapes()
        .into_keys()
        .map(|key| {
            (
                key.to_owned(),
                weights.tensor(key).unwrap().unwrap() * if key == "feats.1.refine.bias" { f64::NAN } else { 1.0 },
            )
        })
        .collect();
    Tensor::write_safetensors(&tensors, &file).unwrap();
    let mut upscaler = Upscaler::open(&file, Device::Cpu).unwrap();
    let cut = noisy(16, 16);
    let enlarged = Arc::new(resize(&cut, 64, 64, Filter::Bicubic));
    let input = StepInput { cut: Arc::new(cut), enlarged, prompt: String::new(), seed: 0 };
    let said = upscaler.restore(&input, &mut Progress::new(&mut |_, _| true)).unwrap_err().to_string();
    assert!(said.contains("broken.safetensors"), "{said}");
}

#[test]
fn files_that_claim_more_than_they_hold_are_refused_at_once() {
    let folder = crate::samples::Folder::new();
    let file = folder.path("claims.safetensors");
    let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
    let tensors =
        [("block_1.c1_r.sk.weight", zeros(&[2, 2, 1, 1])), ("upsampler.0.weight", zeros(&[300_000, 0, 3, 3]))];
    Tensor::write_safetensors(&tensors, &file).unwrap();
    let said = Weights::open(&file).err().unwrap().to_string();
    assert!(said.contains("claims.safetensors") && said.contains("more numbers than the file has bytes"), "{said}");
    for name in ["large.pth", "large.safetensors", "large.bin"] {
        let file = folder.path(name);
        std::fs::File::create(&file).unwrap().set_len(2 << 30).unwrap();
        let said = Upscaler::open(&file, Device::Cpu).err().unwrap().to_string();
        assert!(said.contains(name) || said.contains("large.param"), "{said}");
    }
}
