//! The built program finds libtorch, all of it, from any folder and with no variable set.

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
    let library = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(".libtorch/lib/libtorch_cuda.so");
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
