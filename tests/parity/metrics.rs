//! Metrics against implementations of their own in NumPy and PyTorch (tests/parity/metrics).

use std::path::PathBuf;

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use super::fixture;
use crate::samples::Folder;
use chain_of_zoom::base::{METRICS, MetricFile};
use chain_of_zoom::evaluate::metrics::{Files, open};
use chain_of_zoom::imaging::Picture;
use chain_of_zoom::imaging::metrics::Niqe;
use chain_of_zoom::runtime::weights::Weights;

#[test]
fn niqe_is_that_of_its_authors() {
    let bytes = std::fs::read(fixture("metrics/niqe.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let names: Vec<&str> = file.names().into_iter().filter_map(|name| name.strip_suffix(".picture")).collect();
    assert_eq!(names.len(), 6);
    let niqe = Niqe::published();
    for name in names {
        let picture = file.tensor(&format!("{name}.picture")).unwrap();
        let [height, width, 3] = picture.shape() else { panic!("{name}: {:?}", picture.shape()) };
        let picture = Picture::from_rgb(*width as u32, *height as u32, picture.data().to_vec()).unwrap();
        let score = file.tensor(&format!("{name}.score")).unwrap().data().try_into().map(f64::from_le_bytes).unwrap();
        let found = niqe.score(&picture);
        println!("{name}: {found:?}, expected {score}");
        match found {
            Some(found) => assert!((found - score).abs() < 1e-6, "{name}: {found}, expected {score}"),
            None => assert!(score.is_nan(), "{name}: none, expected {score}"),
        }
    }
}

/// Rows of CLIP's table of tokens.
const VOCABULARY: usize = 49408;

/// The fixture: tiny networks, pictures, scores.
pub fn networks() -> Vec<u8> {
    std::fs::read(fixture("metrics/networks.safetensors")).unwrap()
}

/// A network out of the fixture, in a file of its own.
pub fn network(all: &SafeTensors, of: &MetricFile, folder: &Folder) -> PathBuf {
    let name = of.id.replace('-', "_");
    let prefix = format!("{name}/");
    let of_network = all.iter().filter_map(|(key, view)| Some((key.strip_prefix(&prefix)?.to_owned(), view)));
    let mut tensors: Vec<(String, TensorView)> = of_network.collect();
    assert!(!tensors.is_empty(), "{name}");
    // Of the table of tokens only what prompts use is in the fixture.
    let mut table = Vec::new();
    if name == "clip_rn50" {
        let (ids, rows) = (all.tensor("tokens/ids").unwrap(), all.tensor("tokens/rows").unwrap());
        let row = rows.data().len() / ids.shape()[0];
        table.resize(VOCABULARY * row, 0);
        for (id, from) in ids.data().chunks_exact(8).zip(rows.data().chunks_exact(row)) {
            let id = i64::from_le_bytes(id.try_into().unwrap()) as usize;
            table[id * row..(id + 1) * row].copy_from_slice(from);
        }
        let shape = vec![VOCABULARY, rows.shape()[1]];
        tensors.push(("token_embedding.weight".into(), TensorView::new(rows.dtype(), shape, &table).unwrap()));
    }
    let file = folder.path(of.names[of.names.len() - 1]);
    std::fs::write(&file, safetensors::serialize(tensors, None).unwrap()).unwrap();
    file
}

pub fn picture(all: &SafeTensors, name: &str) -> Picture {
    let view = all.tensor(name).unwrap();
    let [height, width, 3] = view.shape() else { panic!("{name}: {:?}", view.shape()) };
    Picture::from_rgb(*width as u32, *height as u32, view.data().to_vec()).unwrap()
}

/// What files of scores call the metrics that share an entry there.
pub fn key(id: &str) -> &str {
    match id {
        "psnr" => "psnr_rgb",
        "psnr_y" => "psnr_y_ycbcr",
        "ssim" => "ssim_rgb",
        "ssim_y" => "ssim_y_ycbcr",
        id => id,
    }
}

#[test]
fn metrics_equal_an_implementation_of_their_own() {
    let bytes = networks();
    let all = SafeTensors::deserialize(&bytes).unwrap();
    let folder = Folder::new();
    let names: Vec<&str> = all.names().into_iter().filter_map(|name| name.strip_prefix("picture/")).collect();
    assert!(names.len() >= 5);
    let mut worst = Vec::new();
    for spec in METRICS.iter().filter(|spec| spec.id != "niqe") {
        let files: Files = spec.files.iter().map(|file| (file.id, network(&all, file, &folder))).collect();
        let metric = open(spec, &files, tch::Device::Cpu).unwrap();
        for name in &names {
            let (shown, reference) =
                (picture(&all, &format!("picture/{name}")), picture(&all, &format!("reference/{name}")));
            let score = all.tensor(&format!("score/{}/{name}", key(spec.id))).unwrap();
            let expected = f64::from_le_bytes(score.data().try_into().unwrap());
            let found = metric.score(&shown, Some(&reference)).unwrap().unwrap();
            let apart = (found - expected).abs() / expected.abs().max(1.0);
            worst.push((apart, spec.id, *name, found, expected));
        }
    }
    worst.sort_by(|a, b| b.0.total_cmp(&a.0));
    worst.iter().take(8).for_each(|line| println!("{line:?}"));
    assert!(worst[0].0 < 1e-5, "{:?}", worst[0]);
}

#[test]
fn tensors_of_a_torchscript_archive_are_read_without_running_it() {
    let file = fixture("metrics/torchscript.pt");
    assert!(Weights::open(&file).is_err_and(|error| error.to_string().contains("TorchScript")));
    let found = Weights::open_any(&file).unwrap();
    let expected = Weights::open(&fixture("metrics/networks.safetensors")).unwrap();
    let names: Vec<&str> = expected.shapes().into_keys().filter_map(|name| name.strip_prefix("torchscript/")).collect();
    assert!(names.len() > 10);
    for name in names {
        let tensor = found.tensor(name).unwrap_or_else(|| panic!("{name} is missing")).unwrap();
        let expected = expected.tensor(&format!("torchscript/{name}")).unwrap().unwrap();
        assert_eq!((tensor.kind(), tensor.size()), (expected.kind(), expected.size()), "{name}");
        assert!(tensor.equal(&expected), "{name}");
    }
}
