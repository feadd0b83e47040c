//! What the paper reports (arXiv 2505.18600, NeurIPS version, tables 1 and 2): means over whole datasets, to set beside others.

/// A dataset of the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumString, strum::VariantNames)]
#[strum(serialize_all = "lowercase")]
pub enum Dataset {
    /// 800 pictures of DIV2K.
    Div2k,
    /// 1500 pictures of DIV8K.
    Div8k,
}

/// Its columns, by [`MetricSpec::id`](crate::base::MetricSpec::id).
pub const METRICS: [&str; 4] = ["niqe", "musiq", "maniqa", "clipiqa"];

/// Magnification, method, and the four means on either dataset.
type Row = (u32, &'static str, [f64; 4], [f64; 4]);

static TABLE: [Row; 20] = [
    (4, "nearest", [12.1252, 39.96, 0.3396, 0.2630], [13.1984, 40.26, 0.3472, 0.2672]),
    (4, "direct", [4.7320, 67.00, 0.6344, 0.7005], [4.8631, 66.29, 0.6359, 0.6946]),
    (4, "CoZ, no prompt", [4.7706, 66.99, 0.6309, 0.6977], [4.9011, 66.23, 0.6325, 0.6897]),
    (4, "CoZ, DAPE", [4.7312, 67.01, 0.6344, 0.7004], [4.8607, 66.29, 0.6359, 0.6946]),
    (4, "CoZ, VLM", [4.6572, 67.10, 0.6360, 0.7017], [4.8099, 66.37, 0.6370, 0.6953]),
    (16, "nearest", [22.1215, 24.01, 0.3378, 0.2346], [22.2744, 24.94, 0.3465, 0.2585]),
    (16, "direct", [7.2183, 51.25, 0.5406, 0.6080], [7.5855, 50.17, 0.5473, 0.6035]),
    (16, "CoZ, no prompt", [6.5016, 59.19, 0.5859, 0.6686], [6.7898, 58.04, 0.5881, 0.6618]),
    (16, "CoZ, DAPE", [6.5456, 58.83, 0.5946, 0.6609], [6.8607, 57.79, 0.5964, 0.6628]),
    (16, "CoZ, VLM", [6.3957, 58.81, 0.5970, 0.6574], [6.6500, 57.99, 0.6006, 0.6615]),
    (64, "nearest", [27.4051, 37.69, 0.3803, 0.3690], [27.7533, 37.13, 0.3861, 0.3837]),
    (64, "direct", [16.5915, 22.54, 0.3995, 0.4309], [16.5874, 22.97, 0.4069, 0.4451]),
    (64, "CoZ, no prompt", [8.3500, 51.82, 0.5627, 0.6305], [8.5694, 50.96, 0.5638, 0.6240]),
    (64, "CoZ, DAPE", [8.6598, 51.77, 0.5726, 0.6262], [8.7669, 50.40, 0.5714, 0.6274]),
    (64, "CoZ, VLM", [8.2335, 52.13, 0.5788, 0.6315], [8.2992, 51.20, 0.5787, 0.6282]),
    (256, "nearest", [34.8461, 27.01, 0.4179, 0.5259], [37.2612, 26.98, 0.4184, 0.5299]),
    (256, "direct", [16.1749, 28.89, 0.4470, 0.5196], [15.8667, 28.90, 0.4464, 0.5256]),
    (256, "CoZ, no prompt", [10.0456, 46.28, 0.5510, 0.5857], [10.0630, 46.56, 0.5479, 0.5899]),
    (256, "CoZ, DAPE", [10.4569, 46.22, 0.5564, 0.5889], [10.2788, 45.81, 0.5535, 0.5984]),
    (256, "CoZ, VLM", [9.8260, 47.83, 0.5692, 0.5986], [9.6405, 47.25, 0.5646, 0.6041]),
];

/// Table 2: other methods at 256x on DIV2K.
static OTHERS: [(&str, [f64; 4]); 4] = [
    ("LIIF", [23.8949, 26.05, 0.4108, 0.5380]),
    ("SeeSR", [20.9635, 25.81, 0.4438, 0.5193]),
    ("S3Diff", [16.7809, 25.92, 0.4324, 0.5359]),
    ("S3Diff + CoZ", [10.7668, 43.59, 0.5438, 0.5570]),
];

/// The rows of a magnification such as `16x`: method, and its means in the order of [`METRICS`].
pub fn rows(dataset: Dataset, magnification: &str) -> impl Iterator<Item = (&'static str, [f64; 4])> {
    let others = OTHERS.iter().filter(move |_| magnification == "256x" && dataset == Dataset::Div2k).copied();
    let of_scale = TABLE.iter().filter(move |(scale, ..)| magnification == format!("{scale}x"));
    let of_scale = of_scale.map(move |&(_, method, div2k, div8k)| match dataset {
        Dataset::Div2k => (method, div2k),
        Dataset::Div8k => (method, div8k),
    });
    of_scale.chain(others)
}
