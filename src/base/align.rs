//! How colours are matched after a step: the reference's `--align_method`.

/// How the colours of the result follow those of its source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AlignMethod {
    /// They do not.
    #[default]
    NoFix,
    /// Mean and deviation of each channel.
    Adain,
    /// The lowest of five wavelet bands.
    Wavelet,
}
