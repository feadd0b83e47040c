//! Stable Diffusion 3 in single files with the original's key names: made here out of diffusers' layout, by the same steps
//! backwards, and the same picture as the folder's to the bit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::samples::{Folder, coz, sd3};
use chain_of_zoom::base::{Backbone, DeviceChoice, MemoryPlan, Precision, Progress, Remedy, UserError};
use chain_of_zoom::checkpoint::sd3::Sd3;
use chain_of_zoom::checkpoint::weights_digest;
use chain_of_zoom::hub;
use chain_of_zoom::imaging::Picture;
use chain_of_zoom::networks::sd3::lora::AdaLoras;
use chain_of_zoom::networks::sd3::mmdit;
use chain_of_zoom::networks::sd3::mmdit::Mmdit;
use chain_of_zoom::networks::text::clip::ClipTextWithProjection;
use chain_of_zoom::networks::text::t5::T5Encoder;
use chain_of_zoom::networks::text::{clip, t5};
use chain_of_zoom::networks::vae;
use chain_of_zoom::networks::vae::Vae;
use chain_of_zoom::pipelines::sr;
use chain_of_zoom::pipelines::sr::StepInput;
use chain_of_zoom::runtime::weights::{LoadMode, Loader, Weights};

type Tensors = BTreeMap<String, Tensor>;

const SD3: &str = "sd3_medium_incl_clips_t5xxlfp16.safetensors";
/// Before the keys of the text encoders.
const CLIP_L: &str = "text_encoders.clip_l.transformer.";
const CLIP_G: &str = "text_encoders.clip_g.transformer.";
const T5: &str = "text_encoders.t5xxl.transformer.";

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/sd3")
}

fn read(folder: &str) -> Tensors {
    let stem = if folder.starts_with("text") { "model" } else { "diffusion_pytorch_model" };
    Tensor::read_safetensors(tiny().join(folder).join(format!("{stem}.safetensors"))).unwrap().into_iter().collect()
}

fn dtype(kind: Kind) -> Dtype {
    match kind {
        Kind::Float => Dtype::F32,
        Kind::Half => Dtype::F16,
        Kind::Float8e4m3fn => Dtype::F8_E4M3,
        other => panic!("{other:?} is not used here"),
    }
}

fn write(file: &Path, tensors: &Tensors) {
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let bytes = |tensor: &Tensor| {
        Vec::<u8>::try_from(tensor.contiguous().reshape([-1]).view_dtype(Kind::Uint8).reshape([-1])).unwrap()
    };
    let stored: Vec<_> =
        tensors.iter().map(|(name, tensor)| (name, tensor.size(), tensor.kind(), bytes(tensor))).collect();
    let views = stored.iter().map(|(name, size, kind, bytes)| {
        let shape = size.iter().map(|&size| size as usize).collect();
        (name.as_str(), TensorView::new(dtype(*kind), shape, bytes).unwrap())
    });
    std::fs::write(file, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// The second half of the rows before the first.
fn swapped(tensor: &Tensor) -> Tensor {
    let rows = tensor.size()[0] / 2;
    Tensor::cat(&[tensor.narrow(0, rows, rows), tensor.narrow(0, 0, rows)], 0)
}

/// A transformer under the original's names.
fn original_transformer(own: &Tensors, prefix: &str) -> Tensors {
    let mut all = Tensors::new();
    let mut put = |name: &str, tensor: Tensor| assert!(all.insert(format!("{prefix}{name}"), tensor).is_none());
    let get = |name: &str| own[name].shallow_clone();
    put("pos_embed", get("pos_embed.pos_embed"));
    let layers = (0..).take_while(|i| own.contains_key(&format!("transformer_blocks.{i}.attn.to_q.weight"))).count();
    for kind in ["weight", "bias"] {
        for (theirs, ours) in [
            ("x_embedder.proj", "pos_embed.proj"),
            ("t_embedder.mlp.0", "time_text_embed.timestep_embedder.linear_1"),
            ("t_embedder.mlp.2", "time_text_embed.timestep_embedder.linear_2"),
            ("y_embedder.mlp.0", "time_text_embed.text_embedder.linear_1"),
            ("y_embedder.mlp.2", "time_text_embed.text_embedder.linear_2"),
            ("context_embedder", "context_embedder"),
            ("final_layer.linear", "proj_out"),
        ] {
            put(&format!("{theirs}.{kind}"), get(&format!("{ours}.{kind}")));
        }
        put(&format!("final_layer.adaLN_modulation.1.{kind}"), swapped(&own[&format!("norm_out.linear.{kind}")]));
        for i in 0..layers {
            let get = |name: &str| own.get(&format!("transformer_blocks.{i}.{name}.{kind}")).map(Tensor::shallow_clone);
            let mut put = |name: &str, tensor: Option<Tensor>| {
                tensor.into_iter().for_each(|tensor| put(&format!("joint_blocks.{i}.{name}.{kind}"), tensor));
            };
            let fused =
                |names: [&str; 3]| Some(Tensor::cat(&names.map(get).into_iter().collect::<Option<Vec<_>>>()?, 0));
            put("x_block.attn.qkv", fused(["attn.to_q", "attn.to_k", "attn.to_v"]));
            put("x_block.attn2.qkv", fused(["attn2.to_q", "attn2.to_k", "attn2.to_v"]));
            put("context_block.attn.qkv", fused(["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"]));
            for (theirs, ours) in [
                ("x_block.attn.proj", "attn.to_out.0"),
                ("x_block.attn.ln_q", "attn.norm_q"),
                ("x_block.attn.ln_k", "attn.norm_k"),
                ("x_block.attn2.proj", "attn2.to_out.0"),
                ("x_block.attn2.ln_q", "attn2.norm_q"),
                ("x_block.attn2.ln_k", "attn2.norm_k"),
                ("context_block.attn.proj", "attn.to_add_out"),
                ("context_block.attn.ln_q", "attn.norm_added_q"),
                ("context_block.attn.ln_k", "attn.norm_added_k"),
                ("x_block.mlp.fc1", "ff.net.0.proj"),
                ("x_block.mlp.fc2", "ff.net.2"),
                ("context_block.mlp.fc1", "ff_context.net.0.proj"),
                ("context_block.mlp.fc2", "ff_context.net.2"),
                ("x_block.adaLN_modulation.1", "norm1.linear"),
            ] {
                put(theirs, get(ours));
            }
            let text = get("norm1_context.linear");
            let text = if i + 1 == layers { text.map(|tensor| swapped(&tensor)) } else { text };
            put("context_block.adaLN_modulation.1", text);
        }
    }
    all
}

/// A VAE under the original's names.
fn original_vae(own: &Tensors, prefix: &str) -> Tensors {
    let levels = (0..).take_while(|i| own.contains_key(&format!("encoder.down_blocks.{i}.resnets.0.conv1.weight")));
    let levels = levels.count();
    let name = |key: &str| {
        let mut name = key
            .replace("conv_shortcut", "nin_shortcut")
            .replace("conv_norm_out", "norm_out")
            .replace("mid_block.resnets.0", "mid.block_1")
            .replace("mid_block.resnets.1", "mid.block_2")
            .replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm")
            .replace("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out")
            .replace("mid_block.attentions.0.to_", "mid.attn_1.")
            .replace(".resnets.", ".block.")
            .replace(".downsamplers.0.", ".downsample.")
            .replace(".upsamplers.0.", ".upsample.")
            .replace("down_blocks", "down");
        for i in 0..levels {
            name = name.replace(&format!("up_blocks.{i}."), &format!("up.{}.", levels - 1 - i));
        }
        format!("{prefix}{name}")
    };
    let is_projection = |key: &str| key.contains(".attentions.0.to_") && key.ends_with(".weight");
    let tensor = |key: &str, tensor: &Tensor| match is_projection(key) {
        true => tensor.unsqueeze(-1).unsqueeze(-1),
        false => tensor.shallow_clone(),
    };
    own.iter().map(|(key, own)| (name(key), tensor(key, own))).collect()
}

fn prefixed(own: &Tensors, prefix: &str) -> Tensors {
    own.iter().map(|(key, tensor)| (format!("{prefix}{key}"), tensor.shallow_clone())).collect()
}

fn join(parts: impl IntoIterator<Item = Tensors>) -> Tensors {
    parts.into_iter().flatten().collect()
}

fn without_text() -> Tensors {
    let (transformer, vae) = (read("transformer"), read("vae"));
    join([original_transformer(&transformer, "model.diffusion_model."), original_vae(&vae, "first_stage_model.")])
}

fn whole() -> Tensors {
    let text = [("text_encoder", CLIP_L), ("text_encoder_2", CLIP_G), ("text_encoder_3", T5)];
    let text = text.map(|(folder, prefix)| prefixed(&read(folder), prefix));
    let mut all = join([without_text()].into_iter().chain(text));
    // Other programs leave it there.
    all.insert("text_encoders.clip_l.logit_scale".into(), Tensor::from(4.6f32));
    all
}

/// A folder without weights: configs, since the model's heads are of other widths than the published one's, tokenizers, and the
/// files of the training.
fn small_files(folder: &Path) {
    let parts = ["transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"];
    for part in parts.into_iter().chain(["tokenizer", "tokenizer_2", "tokenizer_3"]) {
        std::fs::create_dir_all(folder.join(part)).unwrap();
        let files = std::fs::read_dir(tiny().join(part)).unwrap().flatten().map(|entry| entry.path());
        for file in files.filter(|file| file.extension().is_none_or(|ending| ending != "safetensors")) {
            std::fs::copy(&file, folder.join(part).join(file.file_name().unwrap())).unwrap();
        }
    }
    for file in ["model_20001.pkl", "vae_encoder_20001.pt"] {
        std::fs::copy(tiny().join(file), folder.join(file)).unwrap();
    }
}

fn folder_with(file: &str, tensors: &Tensors) -> Folder {
    let folder = Folder::new();
    small_files(folder.root());
    write(&folder.path(file), tensors);
    folder
}

fn restored(backbone: &Backbone, plan: MemoryPlan) -> Picture {
    let _no_grad = tch::no_grad_guard();
    let enlarged = Arc::new(Picture::from_fn(64, 64, |x, y| [(x * 4) as u8, (y * 4) as u8, ((x ^ y) * 4) as u8]));
    let input = StepInput { cut: enlarged.clone(), enlarged, prompt: "the red fur".into(), seed: 3 };
    let mut model = sr::open(backbone, DeviceChoice::Cpu, plan, 0).unwrap();
    model.restore(&input, &mut Progress::new(&mut |_, _| true)).unwrap()
}

fn problem(place: &Path) -> UserError {
    let opened = sr::open(&sd3(place, Precision::Fp32), DeviceChoice::Cpu, MemoryPlan::Auto, 0);
    opened.err().unwrap_or_else(|| panic!("{} was opened", place.display())).into()
}

#[test]
fn a_single_file_makes_what_the_folder_makes() {
    let expected = restored(&sd3(&tiny(), Precision::Fp32), MemoryPlan::Resident);
    let folder = folder_with(SD3, &whole());
    for place in [folder.path(SD3), folder.root().to_owned()] {
        let backbone = sd3(&place, Precision::Fp32);
        assert_eq!(hub::missing(&backbone), Vec::<PathBuf>::new());
        for plan in [MemoryPlan::Resident, MemoryPlan::Staged, MemoryPlan::Streamed] {
            assert!(restored(&backbone, plan) == expected, "{plan} {}", place.display());
        }
    }
    // Text encoders in files of their own, beside it or in a folder, with a prefix or none, in either layout.
    let folder = folder_with("sd3_medium.safetensors", &without_text());
    write(&folder.path("clip_l.safetensors"), &read("text_encoder"));
    write(&folder.path("text_encoders/clip_g.safetensors"), &prefixed(&read("text_encoder_2"), "transformer."));
    write(&folder.path("text_encoder_3/model.safetensors"), &read("text_encoder_3"));
    let backbone = sd3(&folder.path("sd3_medium.safetensors"), Precision::Fp32);
    assert!(restored(&backbone, MemoryPlan::Resident) == expected);

    // A picture remembers the numbers it was made with: all files count, each once.
    let digest = weights_digest(&backbone).unwrap();
    write(&folder.path("clip_l.safetensors"), &prefixed(&read("text_encoder"), "x."));
    assert_ne!(weights_digest(&backbone).unwrap(), digest);
    // A diffusers folder with one of its text encoders in a file of its own.
    let folder = folder_with("t5xxl_fp16.safetensors", &read("text_encoder_3"));
    for part in ["transformer", "vae", "text_encoder", "text_encoder_2"] {
        let stem = if part.starts_with("text") { "model" } else { "diffusion_pytorch_model" };
        write(&folder.path(&format!("{part}/{stem}.safetensors")), &read(part));
    }
    assert!(restored(&sd3(folder.root(), Precision::Fp32), MemoryPlan::Resident) == expected);
}

/// The same tensors in 16 bits; matrices of those whose names begin so in 8.
fn narrowed(tensors: &Tensors, in_8_bits: &str) -> Tensors {
    let narrow = |(name, tensor): (&String, &Tensor)| {
        let is_fp8 = !in_8_bits.is_empty() && name.starts_with(in_8_bits) && tensor.dim() == 2;
        (name.clone(), tensor.to_kind(if is_fp8 { Kind::Float8e4m3fn } else { Kind::Half }))
    };
    tensors.iter().map(narrow).collect()
}

#[test]
fn files_in_16_and_8_bits_are_read_as_their_numbers() {
    for in_8_bits in ["", T5, "model.diffusion_model."] {
        let small = narrowed(&whole(), in_8_bits);
        let wide: Tensors = small.iter().map(|(name, tensor)| (name.clone(), tensor.to_kind(Kind::Float))).collect();
        let folder = folder_with(SD3, &wide);
        let expected = restored(&sd3(&folder.path(SD3), Precision::Fp32), MemoryPlan::Resident);
        let folder = folder_with(SD3, &small);
        for plan in [MemoryPlan::Resident, MemoryPlan::Streamed] {
            assert!(restored(&sd3(&folder.path(SD3), Precision::Fp32), plan) == expected, "{in_8_bits} {plan}");
        }
    }
    // In 16 bits, which a memory map hands out as they lie: a folder in 16 bits makes the same.
    let folder = folder_with(SD3, &narrowed(&whole(), ""));
    let other = Folder::new();
    small_files(other.root());
    for part in ["transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"] {
        let stem = if part.starts_with("text") { "model" } else { "diffusion_pytorch_model" };
        write(&other.path(&format!("{part}/{stem}.fp16.safetensors")), &narrowed(&read(part), ""));
    }
    for precision in [Precision::Fp16, Precision::Bf16] {
        let [single, expected] =
            [&folder, &other].map(|folder| restored(&sd3(folder.root(), precision), MemoryPlan::Resident));
        assert!(single == expected, "{precision}");
    }
}

/// All tensors of a source, by name.
fn all(weights: &Weights) -> Tensors {
    let names = weights.shapes().into_keys();
    names.map(|name| (name.to_owned(), weights.tensor(name).unwrap().unwrap())).collect()
}

#[test]
fn every_tensor_is_the_folders_also_in_3_5() {
    for (folder, name) in [("transformer", "sd3_medium"), ("transformer_35", "sd3.5_medium")] {
        let own = read(folder);
        let single = Folder::new();
        // Alone, with nothing before its keys.
        let file = single.path(&format!("{name}.safetensors"));
        write(&file, &original_transformer(&own, ""));
        let found = all(&Weights::open_part(&Sd3::at(&file).unwrap().transformer).unwrap());
        assert_eq!(found.keys().collect::<Vec<_>>(), own.keys().collect::<Vec<_>>());
        for (name, tensor) in &own {
            assert!(found[name].equal(tensor), "{name}");
        }
    }
}

#[test]
fn what_is_missing_is_named_at_once_and_nothing_is_lost() {
    let without_vae: Tensors =
        whole().into_iter().filter(|(name, _)| !name.starts_with("first_stage_model.")).collect();
    let folder = folder_with(SD3, &without_vae);
    let place = folder.path(SD3);
    let before = std::fs::read(&place).unwrap();
    assert_eq!(hub::missing(&sd3(&place, Precision::Auto)), [folder.path("vae/diffusion_pytorch_model.safetensors")]);
    let said = problem(&place);
    assert_eq!(said.title, "The model is not whole");
    assert!(said.details.contains("vae/diffusion_pytorch_model.safetensors"), "{said}");
    assert!(std::fs::read(&place).unwrap() == before, "it is as it was");
    // With one from elsewhere it opens.
    write(&folder.path("vae/diffusion_pytorch_model.safetensors"), &read("vae"));
    let expected = restored(&sd3(&tiny(), Precision::Fp32), MemoryPlan::Resident);
    assert!(restored(&sd3(&place, Precision::Fp32), MemoryPlan::Resident) == expected);

    // Without text encoders and tokenizers: all of them together.
    let bare = Folder::new();
    write(&bare.path("sd3_medium.safetensors"), &without_text());
    let said = problem(&bare.path("sd3_medium.safetensors")).details;
    for name in ["clip_l", "clip_g", "t5xxl_fp16", "tokenizer/vocab.json", "tokenizer_3/tokenizer.json"] {
        assert!(said.contains(name), "{name} in {said}");
    }
    // Half of a download.
    std::fs::write(&place, &before[..before.len() / 2]).unwrap();
    let said = problem(&place);
    assert!(said.details.contains(SD3) && said.hint.contains("cut short"), "{said}");
    assert_eq!(hub::missing(&sd3(&place, Precision::Auto)), std::slice::from_ref(&place), "to be downloaded again");
    // Nor is it passed over where the folder is named.
    let said = problem(folder.root());
    assert!(said.details.contains(SD3) && said.hint.contains("cut short"), "{said}");
}

#[test]
fn other_models_are_named() {
    let folder = Folder::new();
    small_files(folder.root());
    let one = || Tensor::zeros([4, 4], (Kind::Float, Device::Cpu));
    let other = |keys: &[&str]| keys.iter().map(|key| ((*key).to_owned(), one())).collect::<Tensors>();
    let unet = "model.diffusion_model.input_blocks.0.0.weight";
    for (name, keys, expected) in [
        ("xl.safetensors", [unet, "conditioner.embedders.0.x"], "Stable Diffusion XL"),
        ("one.safetensors", [unet, "cond_stage_model.transformer.x"], "Stable Diffusion 1"),
        ("two.safetensors", [unet, "cond_stage_model.model.x"], "Stable Diffusion 2"),
        ("esrgan.safetensors", ["conv_first.weight", "conv_first.bias"], "no transformer of Stable Diffusion 3"),
    ] {
        write(&folder.path(name), &other(&keys));
        let said = problem(&folder.path(name));
        assert!(said.details.contains(expected) && said.details.contains(name), "{said}");
        if expected.starts_with("Stable") {
            let file = Backbone::file(folder.path(name));
            let said = UserError::from(sr::open(&file, DeviceChoice::Cpu, MemoryPlan::Auto, 0).err().unwrap());
            assert!(said.details.contains(expected) && said.remedy.is_none(), "{said}");
        }
    }
    // A folder that holds files of other things alone lacks the model: that is what is said.
    let others = folder_with("esrgan.safetensors", &other(&["conv_first.weight"]));
    let said = problem(others.root());
    assert!(said.title == "The model is not whole" && said.details.contains("transformer/diffusion_pytorch"), "{said}");

    // Opened as a single network it says what it is, and the window can use it as that.
    write(&folder.path("sd3.safetensors"), &without_text());
    let file = Backbone::file(folder.path("sd3.safetensors"));
    let said = UserError::from(sr::open(&file, DeviceChoice::Cpu, MemoryPlan::Auto, 0).err().unwrap());
    assert!(said.details.contains("Stable Diffusion 3") && said.hint.contains("--pretrained-model-name-or-path"));
    assert!(matches!(said.remedy, Some(Remedy::Backbone(spec)) if spec.id == "sd3"));

    // Text encoders of another model beside it.
    let place = folder.path("sd3.safetensors");
    write(&folder.path("clip_l.safetensors"), &read("text_encoder"));
    write(&folder.path("clip_g.safetensors"), &read("text_encoder_2"));
    write(&folder.path("t5xxl_fp16.safetensors"), &other(&["shared.weight"]));
    let said = problem(&place).details;
    assert!(said.contains("t5xxl_fp16.safetensors") && said.contains("is missing"), "{said}");
    let config = folder.path("text_encoder_3/config.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    json["d_model"] = json!(61);
    std::fs::write(&config, json.to_string()).unwrap();
    let said = problem(&place).details;
    assert!(said.contains("t5xxl_fp16.safetensors: its embeds are 61 wide") && said.contains("takes 60"), "{said}");
    // Without its config CLIP is known by its width alone.
    std::fs::remove_file(folder.path("text_encoder/config.json")).unwrap();
    let said = problem(&place).details;
    assert!(said.contains("clip_l.safetensors: its text encoder is 24 wide, and CLIP-L is 768"), "{said}");
}

/// What a network asks for, as zeros in 16 bits.
fn requested(load: impl FnOnce(&mut Loader)) -> Tensors {
    let nothing = Weights::from_tensors(BTreeMap::new());
    let mut loader = Loader::new(&nothing, "", Device::Cpu, Kind::Float).mode(LoadMode::ShapesOnly);
    load(&mut loader);
    let zeros = |shape: &Vec<i64>| Tensor::zeros(shape.as_slice(), (Kind::Half, Device::Cpu));
    loader.requested().iter().map(|(name, shape)| (name.clone(), zeros(shape))).collect()
}

#[test]
fn configs_are_read_off_the_shapes() {
    let transformer = json!({
        "num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 64, "patch_size": 2, "in_channels": 16,
        "out_channels": 16, "joint_attention_dim": 40, "caption_projection_dim": 128, "pooled_projection_dim": 2048,
        "pos_embed_max_size": 9, "dual_attention_layers": [0, 1], "qk_norm": "rms_norm",
    });
    let vae_json = json!({
        "in_channels": 3, "out_channels": 3, "latent_channels": 16, "block_out_channels": [32, 64, 64, 96],
        "layers_per_block": 2, "norm_num_groups": 32, "scaling_factor": 1.5305, "shift_factor": 0.0609,
        "mid_block_add_attention": true, "use_quant_conv": false, "use_post_quant_conv": false,
    });
    let clip_json = |width: i64, activation: &str| {
        json!({
            "vocab_size": 11, "hidden_size": width, "intermediate_size": 30, "projection_dim": width,
            "num_hidden_layers": 2, "num_attention_heads": width / 64, "max_position_embeddings": 77,
            "hidden_act": activation, "layer_norm_eps": 1e-5,
        })
    };
    let t5_json = json!({
        "vocab_size": 13, "d_model": 40, "d_kv": 7, "d_ff": 50, "num_layers": 2, "num_heads": 3,
        "relative_attention_num_buckets": 32, "layer_norm_epsilon": 1e-6, "feed_forward_proj": "gated-gelu",
    });
    let config: mmdit::Config = serde_json::from_value(transformer.clone()).unwrap();
    let own = requested(|loader| drop(Mmdit::load(loader, &config, AdaLoras::default())));
    let mut parts = vec![original_transformer(&own, "model.diffusion_model.")];
    let config: vae::Config = serde_json::from_value(vae_json.clone()).unwrap();
    parts.push(original_vae(&requested(|loader| drop(Vae::load(loader, None, &config))), "first_stage_model."));
    let (clip_l, clip_g) = (clip_json(768, "quick_gelu"), clip_json(1280, "gelu"));
    for (json, prefix) in [(&clip_l, CLIP_L), (&clip_g, CLIP_G)] {
        let config: clip::Config = serde_json::from_value(json.clone()).unwrap();
        let mut own = requested(|loader| drop(ClipTextWithProjection::load(loader, &config)));
        if prefix == CLIP_L {
            // As published.
            own.remove("text_projection.weight");
        }
        parts.push(prefixed(&own, prefix));
    }
    let config: t5::Config = serde_json::from_value(t5_json.clone()).unwrap();
    parts.push(prefixed(&requested(|loader| drop(T5Encoder::load(loader, &config))), T5));

    let folder = Folder::new();
    for part in ["tokenizer", "tokenizer_2", "tokenizer_3"] {
        std::fs::create_dir(folder.path(part)).unwrap();
        for file in std::fs::read_dir(tiny().join(part)).unwrap().flatten() {
            std::fs::copy(file.path(), folder.path(part).join(file.file_name())).unwrap();
        }
    }
    let place = folder.path("sd3.5_medium.safetensors");
    write(&place, &join(parts));
    let found = Sd3::open(&place).unwrap();
    for (part, expected) in found.text_encoders.iter().chain([&found.transformer, &found.vae]).zip([
        &clip_l,
        &clip_g,
        &t5_json,
        &transformer,
        &vae_json,
    ]) {
        assert_eq!(part.config().unwrap().0, *expected);
    }
    // And it is whole: every tensor belongs to a layer.
    assert!(sr::open(&sd3(&place, Precision::Fp32), DeviceChoice::Cpu, MemoryPlan::Auto, 0).is_ok());
    let clip = all(&Weights::open_part(&found.text_encoders[0]).unwrap());
    assert!(clip["text_projection.weight"].equal(&Tensor::eye(768, (Kind::Float, Device::Cpu))));
}

#[test]
fn the_command_takes_a_single_file_and_finds_tokenizers_elsewhere() {
    let folder = folder_with(SD3, &whole());
    let photo = folder.photo("photo.png", 80, 80);
    let zoom = |model: &Path, out: &str, models: &Path| {
        let out = folder.path(out);
        let run = coz(["zoom", "-i", photo.to_str().unwrap(), "-o", out.to_str().unwrap(), "--device", "cpu"])
            .args(["--backbone", "sd3", "--rec-num", "1", "--process-size", "64", "--mixed-precision", "fp32"])
            .args(["--pretrained-model-name-or-path", model.to_str().unwrap()])
            .args(["--lora-path", tiny().join("model_20001.pkl").to_str().unwrap()])
            .args(["--vae-path", tiny().join("vae_encoder_20001.pt").to_str().unwrap()])
            .env("HF_HUB_CACHE", models)
            .output()
            .unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let state = out.join("per-sample/photo/1.png");
        std::fs::read(state).unwrap()
    };
    let nowhere = folder.path("nowhere");
    let expected = zoom(&tiny(), "expected", &nowhere);
    let pixels = |bytes: &[u8]| {
        let file = folder.path("read.png");
        std::fs::write(&file, bytes).unwrap();
        chain_of_zoom::imaging::codec::open(&file).unwrap()
    };
    assert!(pixels(&zoom(&folder.path(SD3), "single", &nowhere)) == pixels(&expected));
    // Tokenizers out of the hub's cache, where the published folder's small files are.
    let snapshot =
        folder.path("cache/models--stabilityai--stable-diffusion-3-medium-diffusers/snapshots/0123456789abcdef");
    std::fs::create_dir_all(&snapshot).unwrap();
    for part in ["tokenizer", "tokenizer_2", "tokenizer_3"] {
        std::fs::rename(folder.path(part), snapshot.join(part)).unwrap();
    }
    assert!(pixels(&zoom(&folder.path(SD3), "cached", &folder.path("cache"))) == pixels(&expected));
}
