//! The built program finds libtorch, all of it, from any folder and with no variable set.

use std::path::Path;
use std::process::Command;

use crate::samples::{Folder, coz};

#[cfg(target_os = "linux")]
#[test]
fn needs_only_the_cpu_half_of_libtorch() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_coz")).unwrap();
    // The names of needed libraries stand in the dynamic string table, each between zeros.
    let needs = |name: &str| {
        let name = format!("\0{name}\0");
        program.windows(name.len()).any(|window| window == name.as_bytes())
    };
    assert!(needs("libtorch_cpu.so"));
    assert!(!needs("libtorch.so"), "libtorch.so needs the CUDA half: see build.rs");
}

#[cfg(target_os = "linux")]
#[test]
fn the_cuda_half_is_loaded_where_it_is() {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join(".libtorch/lib/libtorch_cuda.so");
    let loaded = chain_of_zoom::runtime::accelerator::load_cuda();
    if library.exists() {
        assert_eq!(loaded, Ok(()));
    } else {
        let error = loaded.expect_err("loaded from elsewhere than .libtorch");
        assert!(error.contains("libtorch_cuda.so"), "{error}");
    }
}

#[test]
fn starts_from_any_folder_and_tells_what_a_bug_report_needs() {
    let folder = Folder::new();
    let run = coz(["doctor"])
        .current_dir(folder.root())
        .env("XDG_CONFIG_HOME", folder.path("config"))
        .env("XDG_DATA_HOME", folder.path("data"))
        .env_remove("LIBTORCH")
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let report = String::from_utf8(run.stdout).unwrap();
    for wanted in
        ["coz ", "libtorch ", "2.11.0", "threads ", "cuda ", "graphics ", "config ", "data ", "models ", "Built-in x4"]
    {
        assert!(report.contains(wanted), "{wanted:?} is missing in:\n{report}");
    }
    assert!(report.contains(folder.path("config").to_str().unwrap()), "{report}");
}

/// A driver that is older than libtorch needs, with two cards of which one is too old for anything.
#[cfg(target_os = "linux")]
#[test]
fn a_driver_and_its_cards_are_told_in_their_order() {
    const DRIVER: &str = r#"
        #include <cstring>
        const char* NAMES[] = {"Old Card", "New Card"};
        const int CAPABILITIES[][2] = {{6, 1}, {9, 0}};
        extern "C" {
        int cuDriverGetVersion(int* version) { *version = 12040; return 0; }
        int cuInit(unsigned) { return 0; }
        int cuDeviceGetCount(int* count) { *count = 2; return 0; }
        int cuDeviceGet(int* device, int i) { *device = i; return 0; }
        int cuDeviceGetName(char* name, int, int device) { std::strcpy(name, NAMES[device]); return 0; }
        int cuDeviceGetAttribute(int* value, int kind, int device) { *value = CAPABILITIES[device][kind - 75]; return 0; }
        int cuDeviceTotalMem_v2(size_t* bytes, int) { *bytes = 8000000000; return 0; }
        }
    "#;
    let folder = Folder::new();
    std::fs::write(folder.path("driver.cpp"), DRIVER).unwrap();
    let compiled = Command::new(std::env::var_os("CXX").unwrap_or_else(|| "c++".into()))
        .args(["-shared", "-fPIC", "driver.cpp", "-o", "libcuda.so.1"])
        .current_dir(folder.root())
        .status()
        .unwrap();
    assert!(compiled.success());
    let coz = |arguments: &[&str]| {
        let home = [("XDG_CONFIG_HOME", folder.path("config")), ("XDG_DATA_HOME", folder.path("data"))];
        coz(arguments.iter().copied()).env("LD_LIBRARY_PATH", folder.root()).envs(home).output().unwrap()
    };
    let report = String::from_utf8(coz(&["doctor"]).stdout).unwrap();
    let reason = match Path::new(env!("CARGO_MANIFEST_DIR")).join(".libtorch/lib/libtorch_cuda.so").exists() {
        true => "the NVIDIA driver is too old: it is for CUDA 12.4, this libtorch needs one for CUDA 13.0",
        false => "libtorch's CUDA half is not here",
    };
    for wanted in [
        "a driver for CUDA 12.4",
        &format!("not used: {reason}"),
        "cuda:0 Old Card, compute capability 6.1, 8.0 GB",
        "cuda:1 New Card, compute capability 9.0, 8.0 GB",
    ] {
        assert!(report.contains(wanted), "{wanted:?} is missing in:\n{report}");
    }
    // Asked for by name it is refused with the reason; left to the program, the processor computes.
    let photo = folder.photo("photo.png", 64, 64);
    let zoom = |device: &str| {
        let out = folder.path("out");
        let paths = ["-i", photo.to_str().unwrap(), "-o", out.to_str().unwrap()];
        coz(&[&["zoom", "--rec-num", "1", "--backbone", "builtin", "--device", device], &paths[..]].concat())
    };
    let refused = zoom("cuda:0");
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("no device cuda:0") && said.contains(reason), "{said}");
    assert!(zoom("auto").status.success());
}

#[test]
fn help_teaches() {
    let run = Command::new(env!("CARGO_BIN_EXE_coz")).args(["zoom", "--help"]).output().unwrap();
    let help = String::from_utf8(run.stdout).unwrap();
    for wanted in ["--rec-type", "--rec-num", "--crop-box", "--align-method", "X,Y,W,H", "per-sample", "Exit code"] {
        assert!(help.contains(wanted), "{wanted} is missing in:\n{help}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn without_a_screen_the_viewer_says_so() {
    let run =
        coz([]).env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY").env_remove("WAYLAND_SOCKET").output().unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(1));
    assert!(said.contains("There is no screen") && said.contains("coz zoom"), "{said}");
}
