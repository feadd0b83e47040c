//! Weights in 8 bits (`float8_e4m3fn`, `float8_e5m2`), as people share large models: read as what they stand for. Some have a scale
//! beside each weight, by which its numbers were divided before they were rounded.

use tch::{Kind, TchError, Tensor};

/// Behind a layer's name: `{layer}.scale_weight` of ComfyUI's "scaled fp8", `{layer}.weight_scale` of vLLM's files.
const SCALES: [&str; 2] = ["scale_weight", "weight_scale"];
/// What else such files hold: scales of what comes into a layer, which nothing here computes in 8 bits; a mark.
const OTHERS: [&str; 3] = ["scale_input", "input_scale", "scaled_fp8"];

/// Whether numbers of this dtype are only stored so.
pub(super) fn is_fp8(kind: Kind) -> bool {
    matches!(kind, Kind::Float8e4m3fn | Kind::Float8e5m2)
}

/// Names under which a weight's scale may be.
pub(super) fn scales_of(weight: &str) -> impl Iterator<Item = String> + '_ {
    let layer = weight.strip_suffix(".weight");
    layer.into_iter().flat_map(|layer| SCALES.map(|scale| format!("{layer}.{scale}")))
}

/// Whether a tensor belongs to weights in 8 bits, not to a layer of its own.
pub(super) fn is_scale(name: &str) -> bool {
    let end = name.rsplit('.').next().unwrap_or(name);
    SCALES.contains(&end) || OTHERS.contains(&end)
}

/// What the numbers stand for: exact in float32 and bfloat16 without a scale; with one (`[]`, `[1]`, or `[out]` or `[out, 1]` for rows)
/// multiplied in float32.
pub(super) fn dequantised(stored: &Tensor, scale: Option<&Tensor>, kind: Kind) -> Result<Tensor, TchError> {
    let Some(scale) = scale else { return stored.f_to_kind(kind) };
    let scale = scale.f_to_kind(Kind::Float)?.f_to_device(stored.device())?;
    let rows = stored.size().first().copied().unwrap_or(1);
    let scale = match scale.numel() {
        1 => scale.f_reshape([1])?,
        count if count as i64 == rows => {
            let shape: Vec<i64> = (0..stored.dim()).map(|axis| if axis == 0 { rows } else { 1 }).collect();
            scale.f_reshape(shape)?
        }
        _ => return Err(TchError::Shape(format!("a scale of {:?} for a weight of {:?}", scale.size(), stored.size()))),
    };
    stored.f_to_kind(Kind::Float)?.f_mul(&scale)?.f_to_kind(kind)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use safetensors::Dtype;
    use safetensors::tensor::TensorView;
    use tch::Device;

    use super::super::{LoadMode, Loader, Weights};
    use super::*;
    use crate::runtime::rng::noise;

    fn bytes(tensor: &Tensor) -> Vec<u8> {
        let flat = tensor.contiguous().view_dtype(Kind::Uint8).reshape([-1]);
        Vec::try_from(flat).unwrap()
    }

    #[test]
    fn numbers_and_scales_are_read_as_what_they_stand_for() {
        let (e4m3, e5m2) = (noise(&[6, 5]).to_kind(Kind::Float8e4m3fn), noise(&[6, 5]).to_kind(Kind::Float8e5m2));
        let (scale, rows) = (Tensor::from_slice(&[0.37f32]), noise(&[6, 1]));
        let tensors = [
            ("plain.weight", Dtype::F8_E4M3, vec![6, 5], bytes(&e4m3)),
            ("wide.weight", Dtype::F8_E5M2, vec![6, 5], bytes(&e5m2)),
            ("scaled.weight", Dtype::F8_E4M3, vec![6, 5], bytes(&e4m3)),
            ("scaled.scale_weight", Dtype::F32, vec![1], bytes(&scale)),
            ("scaled.scale_input", Dtype::F32, vec![1], bytes(&scale)),
            ("rows.weight", Dtype::F8_E4M3, vec![6, 5], bytes(&e4m3)),
            ("rows.weight_scale", Dtype::F32, vec![6, 1], bytes(&rows)),
            ("scaled_fp8", Dtype::F8_E4M3, vec![1], vec![0]),
        ];
        let views: BTreeMap<&str, TensorView> = tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()))
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("fp8.safetensors");
        std::fs::write(&file, safetensors::serialize(&views, None).unwrap()).unwrap();
        let weights = Weights::open(&file).unwrap();
        assert!(!weights.is_fp32());
        for (kind, mode) in
            [Kind::Float, Kind::BFloat16].into_iter().flat_map(|kind| [(kind, LoadMode::Copy), (kind, LoadMode::Mmap)])
        {
            let mut loader = Loader::new(&weights, "", Device::Cpu, kind).mode(mode);
            let mut read = |name: &str| loader.tensor(&format!("{name}.weight"), &[6, 5]).unwrap();
            let wide = e4m3.to_kind(Kind::Float);
            let expected = [wide.copy(), e5m2.to_kind(Kind::Float), &wide * 0.37f32 as f64, &wide * &rows]
                .map(|x| x.to_kind(kind));
            for (name, expected) in ["plain", "wide", "scaled", "rows"].into_iter().zip(expected) {
                let found = read(name);
                assert!(found.kind() == kind && found.equal(&expected), "{name} {kind:?} {mode:?}");
            }
            loader.finish("a network").unwrap();
        }
        assert!(weights.tensor("scaled.weight").unwrap().unwrap().equal(&(e4m3.to_kind(Kind::Float) * 0.37f32 as f64)));
    }
}
