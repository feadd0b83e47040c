//! Links the program to the libtorch that `cargo xtask setup` has put in place.
//!
//! On Linux the CUDA half of libtorch is not linked but loaded where there is a driver (`src/runtime/accelerator`): the
//! same program runs with libtorch's CPU half alone. `libtorch.so`, which needs both, is never linked then either.
//! What the bindings of libtorch lack is compiled beside it (`src/runtime/shim.cpp`).
//! The run path lets the built program start from any folder with no variable set.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-env-changed=COZ_RUN_PATH");
    let libtorch = std::env::var_os("LIBTORCH").map(PathBuf::from).unwrap_or_default();
    let Ok(lib) = libtorch.join("lib").canonicalize() else {
        println!("cargo:warning=libtorch is not at {}: run `cargo xtask setup` once", libtorch.display());
        return;
    };
    let about = std::fs::read_to_string(libtorch.join("version.py")).unwrap_or_default();
    let said = |start: &str| about.lines().find_map(|line| line.strip_prefix(start)).map(|it| it.trim_matches(['\'', '"']));
    println!("cargo:rustc-env=COZ_LIBTORCH_VERSION={}", said("__version__ = ").unwrap_or("unknown"));
    if let Some(cuda) = said("cuda: Optional[str] = ").filter(|&cuda| cuda != "None") {
        println!("cargo:rustc-env=COZ_LIBTORCH_CUDA={cuda}");
    }
    let shim = "src/runtime/shim.cpp";
    println!("cargo:rerun-if-changed={shim}");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .include(libtorch.join("include"))
        .file(shim)
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
        let scripts = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
        if let Err(error) = std::fs::write(scripts.join("libtorch.so"), "INPUT(-ltorch_cpu)\n") {
            println!("cargo:warning=cannot write into {}: {error}", scripts.display());
        }
        println!("cargo:rustc-link-search=native={}", scripts.display());
    }
}
