//! Metrics of pictures. Which there are is one table; `imaging::metrics` computes those without a network, and
//! `evaluate::metrics` opens all of them.

use super::names;

/// A metric: a row that window, command line and hub iterate.
#[derive(Debug)]
pub struct MetricSpec {
    /// On the command line, and in files of scores.
    pub id: &'static str,
    /// For people.
    pub label: &'static str,
    /// What it says of a picture.
    pub about: &'static str,
    /// Fewer is better; of the others more.
    pub is_lower_better: bool,
    /// It compares a picture with another one of the same size, rather than judging it by itself.
    pub needs_reference: bool,
    /// What a picture without a score counts as in the paper; one that is compared counts as nothing then.
    pub worst: Option<f64>,
    /// Digits behind the point that are worth printing.
    pub decimals: usize,
    /// The weights it is made of.
    pub files: &'static [MetricFile],
}

/// A file of weights that metrics need.
#[derive(Debug)]
pub struct MetricFile {
    /// Its key among those of all models.
    pub id: &'static str,
    /// Its plain names in a folder of such files.
    pub names: &'static [&'static str],
    /// The names under which it is published.
    pub published: &'static [&'static str],
    /// The repository of the hub that has it, and its name there.
    pub hub: Option<(&'static str, &'static str)>,
    /// Where a person gets it.
    pub page: &'static str,
    /// Without it the metric cannot be computed.
    pub is_required: bool,
}

const IQA: &str = "chaofengc/IQA-PyTorch-Weights";
const IQA_PAGE: &str = "https://huggingface.co/chaofengc/IQA-PyTorch-Weights";

const MUSIQ_WEIGHTS: MetricFile = MetricFile {
    id: "musiq",
    names: &["musiq.pth"],
    published: &["musiq_koniq_ckpt-e95806b9.pth"],
    hub: Some((IQA, "musiq_koniq_ckpt-e95806b9.pth")),
    page: IQA_PAGE,
    is_required: true,
};
const MANIQA_WEIGHTS: MetricFile = MetricFile {
    id: "maniqa",
    names: &["maniqa.pth"],
    published: &["MANIQA_PIPAL-ae6d356b.pth"],
    hub: Some((IQA, "MANIQA_PIPAL-ae6d356b.pth")),
    page: IQA_PAGE,
    is_required: true,
};
const CLIP_RN50: MetricFile = MetricFile {
    id: "clip-rn50",
    names: &["clip_rn50.pt", "clip_rn50.safetensors"],
    published: &["RN50.pt", "open_clip_model.safetensors"],
    hub: Some(("timm/resnet50_clip.openai", "open_clip_model.safetensors")),
    page: "https://huggingface.co/timm/resnet50_clip.openai",
    is_required: true,
};
const ALEXNET: MetricFile = MetricFile {
    id: "alexnet",
    names: &["alexnet.pth"],
    published: &["alexnet-owt-7be5be79.pth"],
    hub: None,
    page: "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    is_required: true,
};
const VGG16: MetricFile = MetricFile {
    id: "vgg16",
    names: &["vgg16.pth"],
    published: &["vgg16-397923af.pth"],
    hub: Some(("timm/vgg16.tv_in1k", "model.safetensors")),
    page: "https://huggingface.co/timm/vgg16.tv_in1k",
    is_required: true,
};
const LPIPS_ALEX_WEIGHTS: MetricFile = MetricFile {
    id: "lpips-alex",
    names: &["lpips_alex.pth"],
    published: &["LPIPS_v0.1_alex-df73285e.pth"],
    hub: Some((IQA, "LPIPS_v0.1_alex-df73285e.pth")),
    page: IQA_PAGE,
    is_required: true,
};
const LPIPS_VGG_WEIGHTS: MetricFile = MetricFile {
    id: "lpips-vgg",
    names: &["lpips_vgg.pth"],
    published: &["LPIPS_v0.1_vgg-a78928a0.pth"],
    hub: Some((IQA, "LPIPS_v0.1_vgg-a78928a0.pth")),
    page: IQA_PAGE,
    is_required: true,
};
const DISTS_WEIGHTS: MetricFile = MetricFile {
    id: "dists",
    names: &["dists.pth"],
    published: &["DISTS_weights-f5e65c96.pth"],
    hub: Some((IQA, "DISTS_weights-f5e65c96.pth")),
    page: IQA_PAGE,
    is_required: true,
};
/// Statistics of good photos in the place of those inside the program.
const NIQE_STATISTICS: MetricFile = MetricFile {
    id: "niqe",
    names: &["niqe.safetensors"],
    published: &["niqe.safetensors"],
    hub: None,
    page: "",
    is_required: false,
};

/// Judges a picture by itself.
const NO_REFERENCE: MetricSpec = MetricSpec {
    id: "",
    label: "",
    about: "",
    is_lower_better: false,
    needs_reference: false,
    worst: Some(0.0),
    decimals: 4,
    files: &[],
};
/// Compares two pictures.
const FULL_REFERENCE: MetricSpec = MetricSpec { needs_reference: true, worst: None, ..NO_REFERENCE };

/// All of them, in the order in which they are listed: first the four of the paper.
pub static METRICS: [MetricSpec; 11] = [
    MetricSpec {
        id: "niqe",
        label: "NIQE",
        about: "How far its statistics are from those of good photos",
        is_lower_better: true,
        worst: Some(100.0),
        files: &[NIQE_STATISTICS],
        ..NO_REFERENCE
    },
    MetricSpec {
        id: "musiq",
        label: "MUSIQ",
        about: "What people would say of its quality, by a transformer, 0 to 100",
        decimals: 2,
        files: &[MUSIQ_WEIGHTS],
        ..NO_REFERENCE
    },
    MetricSpec {
        id: "maniqa",
        label: "MANIQA-pipal",
        about: "The same, by a transformer trained on restored pictures, 0 to 1",
        files: &[MANIQA_WEIGHTS],
        ..NO_REFERENCE
    },
    MetricSpec {
        id: "clipiqa",
        label: "CLIPIQA",
        about: "Whether CLIP finds it rather good than bad, 0 to 1",
        files: &[CLIP_RN50],
        ..NO_REFERENCE
    },
    MetricSpec {
        id: "psnr",
        label: "PSNR",
        about: "Peak signal-to-noise ratio of the colours, in dB",
        decimals: 2,
        ..FULL_REFERENCE
    },
    MetricSpec {
        id: "psnr_y",
        label: "PSNR-Y",
        about: "Peak signal-to-noise ratio of the luma, in dB",
        decimals: 2,
        ..FULL_REFERENCE
    },
    MetricSpec { id: "ssim", label: "SSIM", about: "Structural similarity of the brightness", ..FULL_REFERENCE },
    MetricSpec { id: "ssim_y", label: "SSIM-Y", about: "Structural similarity of the luma", ..FULL_REFERENCE },
    MetricSpec {
        id: "lpips_alex",
        label: "LPIPS",
        about: "How different AlexNet finds the two",
        is_lower_better: true,
        files: &[ALEXNET, LPIPS_ALEX_WEIGHTS],
        ..FULL_REFERENCE
    },
    MetricSpec {
        id: "lpips_vgg",
        label: "LPIPS-VGG",
        about: "How different VGG16 finds the two",
        is_lower_better: true,
        files: &[VGG16, LPIPS_VGG_WEIGHTS],
        ..FULL_REFERENCE
    },
    MetricSpec {
        id: "dists",
        label: "DISTS",
        about: "How different structure and texture are to VGG16",
        is_lower_better: true,
        files: &[VGG16, DISTS_WEIGHTS],
        ..FULL_REFERENCE
    },
];

impl MetricSpec {
    /// The metric of this id.
    ///
    /// # Errors
    /// Which there are, in words.
    pub fn named(id: &str) -> Result<&'static Self, String> {
        METRICS.iter().find(|spec| spec.id == id).ok_or_else(|| {
            let ids = METRICS.each_ref().map(|spec| spec.id);
            format!("expected {}, found {id:?}", names::either(&ids))
        })
    }

    /// Its name with which way is better.
    pub fn label_with_arrow(&self) -> String {
        format!("{} {}", self.label, if self.is_lower_better { '\u{2193}' } else { '\u{2191}' })
    }

    /// A score as people read it.
    pub fn format(&self, score: f64) -> String {
        format!("{score:.*}", self.decimals)
    }
}

impl PartialEq for MetricSpec {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}
