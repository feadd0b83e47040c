//! Links the program to the libtorch that `cargo xtask setup` has put in place.
//!
//! On Linux the CUDA half of libtorch is not linked but loaded where there is a driver (`src/runtime/accelerator`): the
//! same program runs with libtorch's CPU half alone. `libtorch.so`, which needs both, is never linked then either.
//! What the bindings of libtorch lack is compiled beside it (`src/runtime/*.cpp`).
//! The run path lets the built program start from any folder with no variable set.
//!
//! The self-test's fixtures are packed into an archive that the program holds (`src/selftest/fixtures.rs`).

use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// Models and cases of the parity tests that the self-test uses: files and folders of `tests/parity`.
const FIXTURES: [&str; 26] = [
    "networks/cases.safetensors",
    "networks/compact_x4.pth",
    "networks/rrdb_x4.pth",
    "qwen/cases.safetensors",
    "qwen/tied",
    "ram/cases.json",
    "ram/small",
    "ram/small/data",
    "sd21/cases.safetensors",
    "sd21/osediff.pkl",
    "sd21/prompts.json",
    "sd21/text_encoder",
    "sd21/tokenizer",
    "sd21/unet",
    "sd21/vae",
    "sd3/cases.safetensors",
    "sd3/model_20001.pkl",
    "sd3/vae_encoder_20001.pt",
    "sd3/text_encoder",
    "sd3/text_encoder_2",
    "sd3/text_encoder_3",
    "sd3/tokenizer",
    "sd3/tokenizer_2",
    "sd3/tokenizer_3",
    "sd3/transformer",
    "sd3/vae",
];

/// Whether the self-test uses a tensor of a file of cases: those of one chain and two pictures are enough.
fn is_used(name: &str) -> bool {
    let unused = [
        "chain.1.",
        "chain.2.",
        "chain.3.",
        "chain.4.",
        "transformer_35.",
        "untied.",
        "tied.1.",
        "tied.2.",
        "tied.3.",
        "pictures.",
        "compact_x2",
        "compact_x4_",
        "rrdb_x2",
        "rrdb_x4_",
        "full.",
        "step.1.",
        "step.2.",
        "text.0.",
        "text.2.",
        "text.3.",
        "text.4.",
        "tiled.",
        "unet.batch.",
        "unet.odd.",
    ];
    let is_embeds = name.ends_with(".embeds") && !name.starts_with("text.") && !name.starts_with("unet.");
    !is_embeds && !unused.iter().any(|start| name.starts_with(start))
}

fn pack_fixtures(archive: &Path) -> Result<(), Box<dyn Error>> {
    let mut zip = ZipWriter::new(fs::File::create(archive)?);
    let mut add = |folder: &Path, file: &Path| -> Result<(), Box<dyn Error>> {
        println!("cargo:rerun-if-changed={}", file.display());
        let mut bytes = fs::read(file)?;
        if file.ends_with("cases.safetensors") {
            let tensors = SafeTensors::deserialize(&bytes)?.tensors();
            let used = tensors.iter().filter(|(name, _)| is_used(name)).map(|(name, view)| (name, view));
            bytes = safetensors::serialize(used, None)?;
        }
        zip.start_file_from_path(file.strip_prefix(folder)?, SimpleFileOptions::default())?;
        Ok(zip.write_all(&bytes)?)
    };
    let folder = Path::new("tests/parity");
    for path in FIXTURES.map(|name| folder.join(name)) {
        if path.is_file() {
            add(folder, &path)?;
            continue;
        }
        let mut files =
            fs::read_dir(&path)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, std::io::Error>>()?;
        files.sort();
        files.iter().filter(|file| file.is_file()).try_for_each(|file| add(folder, file))?;
    }
    zip.finish()?;
    Ok(())
}

fn main() {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    if let Err(error) = pack_fixtures(&out.join("selftest.zip")) {
        println!("cargo:warning=cannot pack the self-test's fixtures: {error}");
    }
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-env-changed=COZ_RUN_PATH");
    let libtorch = std::env::var_os("LIBTORCH").map(PathBuf::from).unwrap_or_default();
    let Ok(lib) = libtorch.join("lib").canonicalize() else {
        println!("cargo:warning=libtorch is not at {}: run `cargo xtask setup` once", libtorch.display());
        return;
    };
    let about = fs::read_to_string(libtorch.join("version.py")).unwrap_or_default();
    let said =
        |start: &str| about.lines().find_map(|line| line.strip_prefix(start)).map(|it| it.trim_matches(['\'', '"']));
    println!("cargo:rustc-env=COZ_LIBTORCH_VERSION={}", said("__version__ = ").unwrap_or("unknown"));
    if let Some(cuda) = said("cuda: Optional[str] = ").filter(|&cuda| cuda != "None") {
        println!("cargo:rustc-env=COZ_LIBTORCH_CUDA={cuda}");
    }
    let shim = ["src/runtime/shim.cpp", "src/runtime/store.cpp"];
    for file in shim.iter().chain(&["src/runtime/reported.h"]) {
        println!("cargo:rerun-if-changed={file}");
    }
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        // As libtorch itself: some of its classes have other members without it.
        .define("NDEBUG", None)
        .include(libtorch.join("include"))
        .files(shim)
        .compile("coz_shim");
    println!("cargo:rustc-link-search=native={}", lib.display());
    if std::env::var("CARGO_CFG_TARGET_FAMILY").as_deref() == Ok("unix") {
        // An archive for other machines names another one.
        let path = std::env::var("COZ_RUN_PATH").unwrap_or_else(|_| lib.display().to_string());
        println!("cargo:rustc-link-arg=-Wl,-rpath,{path}");
    }
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        // What torch-sys names and nothing uses is left out, also by linkers that are not told so. `libtorch.so` would stay:
        // it happens to hold pieces of C++'s standard library. In its place a linker script is found first.
        println!("cargo:rustc-link-arg=-Wl,--as-needed");
        if let Err(error) = fs::write(out.join("libtorch.so"), "INPUT(-ltorch_cpu)\n") {
            println!("cargo:warning=cannot write into {}: {error}", out.display());
        }
        println!("cargo:rustc-link-search=native={}", out.display());
    }
}
