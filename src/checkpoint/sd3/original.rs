//! Stable Diffusion 3 in the original's key names (`sd3_medium.safetensors`), as diffusers calls its tensors
//! (`loaders/single_file_utils.py` tells how they belong together). Nothing is copied: a renamed tensor and some rows of a
//! fused one lie where they lay.

use super::Network;
use crate::checkpoint::{Index, Stored};

/// Before all keys of the transformer in a whole checkpoint, of whatever diffusion model.
const TRANSFORMER: &str = "model.diffusion_model.";

/// What [`diffusion_model`] calls the one that this module is about.
pub const STABLE_DIFFUSION_3: &str = "Stable Diffusion 3";

/// A part of a file, under the names that networks ask for.
pub(super) struct Renamed {
    pub tensors: Index,
    /// What has its halves the other way round: the original's shift comes before its scale.
    pub swapped: Vec<String>,
}

impl Network {
    /// A key that only this network has, behind the prefix.
    fn mark(self) -> &'static str {
        match self {
            Self::Transformer => "joint_blocks.0.x_block.attn.qkv.weight",
            Self::Vae => "encoder.down.0.block.0.conv1.weight",
            Self::ClipL | Self::ClipG => "text_model.embeddings.position_embedding.weight",
            Self::T5 => "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        }
    }

    /// What stands before its keys in a whole checkpoint.
    fn usual_prefix(self) -> &'static str {
        match self {
            Self::Transformer => TRANSFORMER,
            Self::Vae => "first_stage_model.",
            Self::ClipL => "text_encoders.clip_l.transformer.",
            Self::ClipG => "text_encoders.clip_g.transformer.",
            Self::T5 => "text_encoders.t5xxl.transformer.",
        }
    }

    /// What stands before its keys in a whole checkpoint, where that holds it; the transformer may be alone, with nothing before
    /// its keys.
    pub(super) fn prefix_in_checkpoint(self, tensors: &Index) -> Option<String> {
        let prefixes = [self.usual_prefix()].into_iter().chain((self == Self::Transformer).then_some(""));
        prefixes.into_iter().find(|prefix| tensors.contains_key(&format!("{prefix}{}", self.mark()))).map(str::to_owned)
    }

    /// The same in a file of its own, where it may be anything.
    pub(super) fn prefix_in_own_file(self, tensors: &Index) -> Option<String> {
        tensors.keys().find_map(|key| key.strip_suffix(self.mark())).map(str::to_owned)
    }
}

/// Which diffusion model a file holds whose keys are the original's, as people know it; `has` tells whether a key begins so.
pub fn diffusion_model(has: &dyn Fn(&str) -> bool) -> Option<&'static str> {
    let has_inside = |start: &str| has(&format!("{TRANSFORMER}{start}")) || has(start);
    Some(match () {
        () if has_inside("joint_blocks.") => STABLE_DIFFUSION_3,
        () if has_inside("double_blocks.") => "FLUX",
        () if !has_inside("input_blocks.") => return None,
        () if has("conditioner.embedders.") || has_inside("label_emb.") => "Stable Diffusion XL",
        () if has("cond_stage_model.model.") => "Stable Diffusion 2",
        () => "Stable Diffusion 1",
    })
}

/// The tensors of a network behind `prefix`, under diffusers' and transformers' names; what has none keeps its own, so that
/// whoever loads it names it.
pub(super) fn renamed(network: Network, tensors: &Index, prefix: &str) -> Renamed {
    let inside =
        tensors.range(prefix.to_owned()..).map_while(|(key, stored)| Some((key.strip_prefix(prefix)?, stored)));
    match network {
        Network::Transformer => transformer(inside),
        Network::Vae => vae(&inside.collect::<Vec<_>>()),
        // They are transformers' own; of CLIP's pictures nothing is used.
        Network::ClipL | Network::ClipG | Network::T5 => {
            let own = inside.filter(|(key, _)| *key != "logit_scale");
            Renamed {
                tensors: own.map(|(key, stored)| (key.to_owned(), stored.clone())).collect(),
                swapped: Vec::new(),
            }
        }
    }
}

/// Layers outside the blocks.
const TRANSFORMER_LAYERS: [(&str, &str); 8] = [
    ("x_embedder.proj", "pos_embed.proj"),
    ("t_embedder.mlp.0", "time_text_embed.timestep_embedder.linear_1"),
    ("t_embedder.mlp.2", "time_text_embed.timestep_embedder.linear_2"),
    ("y_embedder.mlp.0", "time_text_embed.text_embedder.linear_1"),
    ("y_embedder.mlp.2", "time_text_embed.text_embedder.linear_2"),
    ("context_embedder", "context_embedder"),
    ("final_layer.adaLN_modulation.1", NORM_OUT),
    ("final_layer.linear", "proj_out"),
];
const NORM_OUT: &str = "norm_out.linear";
/// Layers of a block.
const BLOCK_LAYERS: [(&str, &str); 15] = [
    ("x_block.adaLN_modulation.1", "norm1.linear"),
    ("x_block.attn.ln_q", "attn.norm_q"),
    ("x_block.attn.ln_k", "attn.norm_k"),
    ("x_block.attn.proj", "attn.to_out.0"),
    ("x_block.attn2.ln_q", "attn2.norm_q"),
    ("x_block.attn2.ln_k", "attn2.norm_k"),
    ("x_block.attn2.proj", "attn2.to_out.0"),
    ("x_block.mlp.fc1", "ff.net.0.proj"),
    ("x_block.mlp.fc2", "ff.net.2"),
    ("context_block.adaLN_modulation.1", "norm1_context.linear"),
    ("context_block.attn.ln_q", "attn.norm_added_q"),
    ("context_block.attn.ln_k", "attn.norm_added_k"),
    ("context_block.attn.proj", "attn.to_add_out"),
    ("context_block.mlp.fc1", "ff_context.net.0.proj"),
    ("context_block.mlp.fc2", "ff_context.net.2"),
];
/// Layers whose rows are those of three.
const FUSED_LAYERS: [(&str, [&str; 3]); 3] = [
    ("x_block.attn.qkv", ["attn.to_q", "attn.to_k", "attn.to_v"]),
    ("x_block.attn2.qkv", ["attn2.to_q", "attn2.to_k", "attn2.to_v"]),
    ("context_block.attn.qkv", ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"]),
];

fn named<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    table.iter().find(|(original, _)| *original == name).map(|(_, own)| *own)
}

fn transformer<'a>(tensors: impl Iterator<Item = (&'a str, &'a Stored)>) -> Renamed {
    let mut all = Index::new();
    let mut last = 0;
    for (key, stored) in tensors {
        let (layer, kind) = key.rsplit_once('.').unwrap_or((key, ""));
        let block = layer.strip_prefix("joint_blocks.").and_then(|rest| rest.split_once('.'));
        let block = block.and_then(|(number, layer)| Some((number.parse::<usize>().ok()?, layer)));
        let Some((number, layer)) = block else {
            let name = match named(&TRANSFORMER_LAYERS, layer) {
                Some(own) => format!("{own}.{kind}"),
                None if key == "pos_embed" => "pos_embed.pos_embed".into(),
                None => key.to_owned(),
            };
            all.insert(name, stored.clone());
            continue;
        };
        last = last.max(number);
        let at = |layer: &str| format!("transformer_blocks.{number}.{layer}.{kind}");
        if let Some(parts) = named(&FUSED_LAYERS, layer) {
            all.extend(parts.iter().enumerate().map(|(i, part)| (at(part), third(stored, i))));
        } else {
            all.insert(named(&BLOCK_LAYERS, layer).map_or_else(|| key.to_owned(), at), stored.clone());
        }
    }
    let layers = [NORM_OUT.to_owned(), format!("transformer_blocks.{last}.norm1_context.linear")];
    let swapped = layers.iter().flat_map(|layer| ["weight", "bias"].map(|kind| format!("{layer}.{kind}")));
    Renamed { swapped: swapped.filter(|name| all.contains_key(name)).collect(), tensors: all }
}

/// One of three equal parts of its rows. A single number, such as a scale of all of them, belongs to each.
fn third(stored: &Stored, i: usize) -> Stored {
    let rows = stored.shape.first().copied().unwrap_or(1);
    // Without numbers, strides may be anything.
    if rows % 3 != 0 || stored.span().is_none_or(|span| span == 0) {
        return stored.clone();
    }
    let mut part = stored.clone();
    part.shape[0] = rows / 3;
    part.start += i * (rows / 3 * stored.strides[0]) as usize * stored.element_size();
    part
}

const VAE_LAYERS: [(&str, &str); 7] = [
    ("mid.block_1", "mid_block.resnets.0"),
    ("mid.block_2", "mid_block.resnets.1"),
    ("mid.attn_1.norm", "mid_block.attentions.0.group_norm"),
    ("mid.attn_1.q", "mid_block.attentions.0.to_q"),
    ("mid.attn_1.k", "mid_block.attentions.0.to_k"),
    ("mid.attn_1.v", "mid_block.attentions.0.to_v"),
    ("mid.attn_1.proj_out", "mid_block.attentions.0.to_out.0"),
];

fn vae(tensors: &[(&str, &Stored)]) -> Renamed {
    // The decoder's resolutions are counted from the finest.
    let number = |key: &str| key.strip_prefix("decoder.up.")?.split_once('.')?.0.parse::<usize>().ok();
    let coarsest = tensors.iter().filter_map(|(key, _)| number(key)).max().unwrap_or(0);
    let name = |key: &str| -> Option<String> {
        let (half, rest) = key.split_once('.').filter(|(half, _)| matches!(*half, "encoder" | "decoder"))?;
        let at = |name: String| Some(format!("{half}.{name}"));
        if let Some((own, rest)) = VAE_LAYERS
            .iter()
            .find_map(|(original, own)| Some((own, rest.strip_prefix(original).filter(|rest| rest.starts_with('.'))?)))
        {
            return at(format!("{own}{}", rest.replace("nin_shortcut", "conv_shortcut")));
        }
        if let Some(kind) = rest.strip_prefix("norm_out.") {
            return at(format!("conv_norm_out.{kind}"));
        }
        let (blocks, rest) = rest.split_once('.')?;
        let (number, rest) = rest.split_once('.')?;
        let number: usize = number.parse().ok()?;
        let (blocks, number, sampler) = match blocks {
            "down" => ("down_blocks", number, "downsample"),
            "up" => ("up_blocks", coarsest.checked_sub(number)?, "upsample"),
            _ => return None,
        };
        if let Some(rest) = rest.strip_prefix(&format!("{sampler}.")) {
            return at(format!("{blocks}.{number}.{sampler}rs.0.{rest}"));
        }
        let rest = rest.strip_prefix("block.")?.replace("nin_shortcut", "conv_shortcut");
        at(format!("{blocks}.{number}.resnets.{rest}"))
    };
    let renamed = tensors.iter().map(|(key, stored)| {
        let name = name(key).unwrap_or_else(|| (*key).to_owned());
        let is_linear = name.contains(".attentions.");
        (name, if is_linear { squeezed(stored) } else { (*stored).clone() })
    });
    Renamed { tensors: renamed.collect(), swapped: Vec::new() }
}

/// A convolution of 1 x 1 as the matrix it is.
fn squeezed(stored: &Stored) -> Stored {
    let mut matrix = stored.clone();
    if matrix.shape.len() == 4 && matrix.shape[2..] == [1, 1] {
        matrix.shape.truncate(2);
        matrix.strides.truncate(2);
    }
    matrix
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype;

    use super::*;
    use crate::checkpoint::contiguous_strides;

    fn index(tensors: &[(&str, &[i64])]) -> Index {
        let stored = |shape: &[i64]| {
            let (shape, strides) = (shape.to_vec(), contiguous_strides(shape));
            Stored { dtype: Dtype::F16, shape, strides, start: 100 }
        };
        tensors.iter().map(|(name, shape)| ((*name).to_owned(), stored(shape))).collect()
    }

    #[test]
    fn scales_of_fused_weights_belong_to_each_part() {
        let tensors = index(&[
            ("joint_blocks.0.x_block.attn.qkv.weight", &[12, 5]),
            ("joint_blocks.0.x_block.attn.qkv.weight_scale", &[12, 1]),
            ("joint_blocks.0.x_block.attn.qkv.scale_weight", &[1]),
            ("joint_blocks.0.x_block.attn.qkv.scale_input", &[]),
            ("joint_blocks.0.x_block.new.weight", &[3]),
        ]);
        let Renamed { tensors, swapped } = renamed(Network::Transformer, &tensors, "");
        let find = |name: &str| {
            let stored = &tensors[&format!("transformer_blocks.0.attn.{name}")];
            (stored.shape.clone(), stored.start)
        };
        assert_eq!(find("to_q.weight"), (vec![4, 5], 100));
        assert_eq!(find("to_v.weight"), (vec![4, 5], 100 + 2 * 4 * 5 * 2));
        assert_eq!(find("to_k.weight_scale"), (vec![4, 1], 100 + 4 * 2));
        assert_eq!(find("to_v.scale_weight"), (vec![1], 100));
        assert_eq!(find("to_v.scale_input"), (vec![], 100));
        // What nobody knows is left for the loader to name; nothing is swapped that is not there.
        assert!(tensors.contains_key("joint_blocks.0.x_block.new.weight") && swapped.is_empty());
    }

    #[test]
    fn other_models_are_told_apart() {
        let unet = "model.diffusion_model.input_blocks.0.0.weight";
        for (keys, name) in [
            (&["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"][..], Some("Stable Diffusion 3")),
            (&["joint_blocks.0.x_block.attn.qkv.weight"], Some("Stable Diffusion 3")),
            (&[unet, "conditioner.embedders.0.x"], Some("Stable Diffusion XL")),
            (&[unet, "cond_stage_model.transformer.x"], Some("Stable Diffusion 1")),
            (&[unet, "cond_stage_model.model.x"], Some("Stable Diffusion 2")),
            (&["double_blocks.0.img_attn.qkv.weight"], Some("FLUX")),
            (&["conv_first.weight"], None),
        ] {
            assert_eq!(diffusion_model(&|start| keys.iter().any(|key| key.starts_with(start))), name, "{keys:?}");
        }
    }
}
