//! Random captioners: Qwen2.5-VL with an adapter, RAM with DAPE's changes.

use std::path::Path;

use serde_json::json;
use tch::{Device, Kind};

use super::configs::Size;
use super::numbers::Numbers;
use super::{RandomError, Tensors, configs, count, safetensors, text, tokenizers, torch_save};
use crate::checkpoint::CheckpointError;
use crate::networks::qwen::Qwen;
use crate::networks::qwen::adapter::Adapter;
use crate::networks::qwen::config::Config;
use crate::runtime::weights::{LoadMode, Loader, Weights, WeightsError};

/// Of the adapter and of DAPE's changes, as published.
const RANK: i64 = 8;

fn named(tensors: &Tensors) -> String {
    format!("{:.2} billion numbers", tensors.iter().map(count).sum::<i64>() as f64 / 1e9)
}

/// Qwen2.5-VL in `folder`, in bfloat16, and an adapter for it.
pub(super) fn vlm(folder: &Path, adapter: &Path, size: Size, on_file: &mut dyn FnMut(&str)) -> Result<(), RandomError> {
    let mut numbers = Numbers::new(43).in_bfloat16();
    let config = configs::vlm(size).to_string();
    let wrong = |found: String| WeightsError::from(CheckpointError::format("config.json".as_ref(), found));
    let parsed = Config::parse(config.as_bytes()).map_err(wrong)?;
    let nothing = Weights::from_tensors(Default::default());
    let mut loader = Loader::new(&nothing, "", Device::Cpu, Kind::Float).mode(LoadMode::ShapesOnly);
    // That all is missing is the point.
    _ = Qwen::load(&mut loader, &parsed, &Adapter::default());
    let tensors: Tensors = loader.requested().to_vec();
    on_file(&format!("Qwen2.5-VL: {}", named(&tensors)));
    text(&folder.join("config.json"), &config)?;
    tokenizers::qwen(folder, parsed.language.vocab_size as u64)?;
    safetensors(folder, "model", &tensors, &mut numbers)?;

    let layers = tensors.iter().filter(|(name, _)| name.starts_with("model.layers.") && name.ends_with("_proj.weight"));
    let pairs = layers.flat_map(|(name, shape)| {
        let name = format!("base_model.model.{}", name.trim_end_matches(".weight"));
        let (down, up) = (vec![RANK, shape[1]], vec![shape[0], RANK]);
        [(format!("{name}.lora_A.weight"), down), (format!("{name}.lora_B.weight"), up)]
    });
    safetensors(adapter, "adapter_model", &pairs.collect(), &mut numbers)?;
    let config = json!({
        "peft_type": "LORA", "r": RANK, "lora_alpha": 32, "bias": "none", "task_type": "CAUSAL_LM",
        "target_modules": "model.*\\.(q|k|v|o|gate|up|down)_proj",
    });
    text(&adapter.join("adapter_config.json"), &config.to_string())
}

/// RAM and DAPE below `ckpt`, with the lists of tags beside it.
pub(super) fn tagger(ckpt: &Path, size: Size, on_file: &mut dyn FnMut(&str)) -> Result<(), RandomError> {
    let mut numbers = Numbers::new(44);
    let about = configs::tagger(size);
    let (mut base, mut changes) = (Tensors::new(), Tensors::new());
    let swin = "visual_encoder";
    let mut add = |name: String, shape: &[i64]| base.push((name, shape.to_vec()));
    let mut width = about.width;
    add(format!("{swin}.patch_embed.proj.weight"), &[width, 3, 4, 4]);
    add(format!("{swin}.patch_embed.proj.bias"), &[width]);
    let norm = |add: &mut dyn FnMut(String, &[i64]), name: String, width: i64| {
        add(format!("{name}.weight"), &[width]);
        add(format!("{name}.bias"), &[width]);
    };
    let linear = |add: &mut dyn FnMut(String, &[i64]), name: String, [inputs, outputs]: [i64; 2]| {
        add(format!("{name}.weight"), &[outputs, inputs]);
        add(format!("{name}.bias"), &[outputs]);
    };
    norm(&mut add, format!("{swin}.patch_embed.norm"), width);
    let (window, across) = (about.window.pow(2), about.side / 4 / about.window);
    add(format!("{swin}.layers.0.blocks.1.attn_mask"), &[across.pow(2), window, window]);
    for (stage, (&depth, &heads)) in about.depths.iter().zip(about.heads).enumerate() {
        for block in 0..depth {
            let block = format!("{swin}.layers.{stage}.blocks.{block}");
            norm(&mut add, format!("{block}.norm1"), width);
            add(format!("{block}.attn.relative_position_bias_table"), &[(2 * about.window - 1).pow(2), heads]);
            linear(&mut add, format!("{block}.attn.qkv"), [width, 3 * width]);
            linear(&mut add, format!("{block}.attn.proj"), [width, width]);
            norm(&mut add, format!("{block}.norm2"), width);
            linear(&mut add, format!("{block}.mlp.fc1"), [width, 4 * width]);
            linear(&mut add, format!("{block}.mlp.fc2"), [4 * width, width]);
            changes.push((format!("{block}.attn.qkv.lora_A"), vec![2 * RANK, width]));
            changes.push((format!("{block}.attn.qkv.lora_B"), vec![2 * width, RANK]));
        }
        if stage + 1 < about.depths.len() {
            norm(&mut add, format!("{swin}.layers.{stage}.downsample.norm"), 4 * width);
            add(format!("{swin}.layers.{stage}.downsample.reduction.weight"), &[2 * width, 4 * width]);
            width *= 2;
        }
    }
    norm(&mut add, format!("{swin}.norm"), width);
    linear(&mut add, "image_proj".into(), [width, about.tokens]);
    add("label_embed".into(), &[about.labels, about.word]);
    linear(&mut add, "wordvec_proj".into(), [about.word, about.hidden]);
    for i in 0..2 {
        let layer = format!("tagging_head.encoder.layer.{i}");
        for (part, inputs) in [("query", about.hidden), ("key", about.tokens), ("value", about.tokens)] {
            let name = format!("{layer}.crossattention.self.{part}");
            linear(&mut add, name.clone(), [inputs, about.hidden]);
            if part != "value" {
                changes.push((format!("{name}.lora_A"), vec![RANK, inputs]));
                changes.push((format!("{name}.lora_B"), vec![about.hidden, RANK]));
            }
        }
        linear(&mut add, format!("{layer}.crossattention.output.dense"), [about.hidden; 2]);
        norm(&mut add, format!("{layer}.crossattention.output.LayerNorm"), about.hidden);
        linear(&mut add, format!("{layer}.intermediate.dense"), [about.hidden, about.inner]);
        linear(&mut add, format!("{layer}.output.dense"), [about.inner, about.hidden]);
        norm(&mut add, format!("{layer}.output.LayerNorm"), about.hidden);
    }
    linear(&mut add, "fc".into(), [about.hidden, 1]);
    on_file(&format!("RAM: {}", named(&base)));
    torch_save::dictionary(&ckpt.join("RAM").join("ram_swin_large_14m.pth"), Some("model"), &base, &mut numbers)?;
    torch_save::dictionary(&ckpt.join("DAPE").join("DAPE.pth"), None, &changes, &mut numbers)?;
    let lines = |line: &dyn Fn(i64) -> String| (0..about.labels).map(line).collect::<Vec<_>>().join("\n");
    let data = ckpt.join("RAM").join("data");
    text(&data.join("ram_tag_list.txt"), &lines(&|i| format!("tag {i}")))?;
    text(&data.join("ram_tag_list_threshold.txt"), &lines(&|i| format!("{:.2}", 0.5 + 0.01 * (i % 40) as f64)))
}
