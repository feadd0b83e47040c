//! One violation of each kind, planted in a small tree that is right.

use super::*;

const LAYERS_HERE: Table = &[
    ("base", &[]),
    ("runtime", &["base"]),
    ("engine", &["base", "runtime"]),
    ("viewer", &["base", "engine"]),
    ("cli", &["base", "runtime", "engine", "viewer"]),
    ("main", &["cli"]),
    ("lib", &[]),
];
const ONLY_IN_HERE: Table =
    &[("tch", &["runtime", "engine/worker.rs"]), ("egui", &["viewer"]), ("ureq", &["engine/net"])];

/// A tree that is right: each layer uses those it may, and names that only look like layers are no matter.
const TREE: &[(&str, &str)] = &[
    ("lib.rs", "//! The library.\npub mod base;\npub mod cli;\npub mod engine;\npub mod runtime;\npub mod viewer;\n"),
    ("main.rs", "//! The program.\nfn main() {\n    chain_of_zoom::cli::main()\n}\n"),
    (
        "base.rs",
        "//! Base.\n/// See [`crate::viewer::Window`].\npub struct Size;\npub mod words {\n    pub fn word() {}\n}\n",
    ),
    (
        "runtime/mod.rs",
        "//! Runtime.\nmod device;\npub mod kinds;\npub use device::Device;\nuse tch::Tensor;\npub fn run(_: Tensor) {}\n\
         pub trait Run {}\n#[macro_export]\nmacro_rules! on_device {\n    () => {};\n}\n",
    ),
    ("runtime/device.rs", "//! A device.\npub enum Device {\n    Cpu,\n    Cuda,\n}\n"),
    ("runtime/kinds.rs", "//! Kinds.\npub struct Half;\npub struct Single;\n"),
    (
        "engine/mod.rs",
        "//! Engine.\npub mod facade;\nmod net;\npub mod worker;\nuse crate::runtime::{self, Device};\n\
         pub enum Command {\n    Stop(Device),\n}\npub fn size() -> crate::base::Size {\n    runtime::run(todo!())\n}\n",
    ),
    // What the engine hands on of the runtime, which only cli may take.
    (
        "engine/facade.rs",
        "//! A facade.\npub use crate::runtime as rt;\npub use crate::runtime::Device as Place;\npub use crate::runtime::kinds::*;\n\
         pub type Shared = crate::runtime::Device;\npub mod inner {\n    pub use super::Place as Deep;\n}\n",
    ),
    (
        "engine/worker.rs",
        "//! The worker.\npub use tch::Tensor as Numbers;\npub mod inner {\n    pub use super::Numbers;\n}\npub mod all {\n    pub use tch::*;\n    pub struct Job;\n}\npub mod some {\n    pub(super) use crate::runtime::run;\n    use crate::runtime::kinds::*;\n    pub struct Rest;\n}\n",
    ),
    ("engine/net.rs", "//! Downloads.\nfn get() {\n    ureq::get(\"x\");\n}\n"),
    (
        "viewer/mod.rs",
        "//! Viewer.\nmod cli;\n#[cfg(test)]\nmod tests;\nuse crate as root;\nuse crate::engine::{self as e, Command::{self, *}};\n\
         use egui::Ui;\nuse root::base::words;\n\
         pub fn show(ui: &Ui, runtime: Command, tch: u8) -> u8 {\n    // crate::runtime::run()\n    cli::own();\n    let engine = runtime;\n\
         \x20   let Stop(device) = engine;\n    println!(\"crate::runtime::Device {device:?} {}\", tch);\n    words::word();\n    e::size();\n    tch\n}\n\
         #[cfg(test)]\nuse crate::runtime::Device;\n#[cfg(all(test, unix))]\nmod more {\n    use tch::Tensor;\n}\n\
         struct Window {\n    #[cfg(test)]\n    device: crate::runtime::Device,\n    runtime: u8,\n}\n\
         impl Window {\n    #[cfg(test)]\n    fn device() -> crate::runtime::Device {\n        todo!()\n    }\n}\n",
    ),
    (
        "viewer/cli.rs",
        "//! Not the layer cli.\npub fn own() {\n    mod tch {\n        pub fn x() {}\n    }\n    tch::x();\n}\n",
    ),
    ("viewer/tests.rs", "//! Tests.\nuse crate::runtime::Device;\nuse crate::cli;\nuse tch::Tensor;\n"),
    (
        "cli.rs",
        "//! Commands.\nuse crate::engine::facade::{Place, rt::run};\npub fn main() {\n    crate::on_device!();\n    crate::viewer::show(run);\n}\n",
    ),
];

/// The tree with `text` after the first line of `file`, which is made where it is not there.
fn with(file: &str, text: &str) -> Vec<String> {
    let mut files: Vec<(String, String)> = TREE.iter().map(|(file, text)| ((*file).into(), (*text).into())).collect();
    match files.iter_mut().find(|(name, _)| name == file) {
        Some((_, old)) => *old = old.replacen('\n', &format!("\n{text}\n"), 1),
        None => files.push((file.into(), format!("//! New.\n{text}\n"))),
    }
    findings(&files, LAYERS_HERE, ONLY_IN_HERE).unwrap()
}

/// The viewer must not use the runtime: `text`, in a file of its own, is found at `line` through `path` and nowhere else.
#[track_caller]
fn reaches_runtime(text: &str, line: usize, path: &str) {
    let expected = format!("src/viewer/x.rs:{line}: viewer must not use runtime (through {path})");
    assert_eq!(with("viewer/x.rs", text), [expected]);
}

#[track_caller]
fn reaches_tch(text: &str, line: usize, path: &str) {
    let expected = format!("src/viewer/x.rs:{line}: tch is used only in runtime, engine/worker.rs (through {path})");
    assert_eq!(with("viewer/x.rs", text), [expected]);
}

#[test]
fn what_is_allowed_passes() {
    assert_eq!(with("base.rs", ""), [""; 0]);
    assert_eq!(with("viewer/x.rs", "use super::*;\nuse crate::engine::*;\nfn f() {\n    size();\n}"), [""; 0]);
    assert_eq!(with("engine/net/deep.rs", "use ureq::Agent;"), [""; 0]);
    // What others do not see of a module, a glob does not bring.
    assert_eq!(with("viewer/x.rs", "use crate::engine::worker::some::*;\nfn f(_: Rest) {}"), [""; 0]);
    // The facade has more than the viewer may use, but this the viewer may.
    assert_eq!(with("viewer/x.rs", "use crate::engine::{facade, worker::all::Job};"), [""; 0]);
}

#[test]
fn plain_use() {
    reaches_runtime("\nuse crate::runtime::Device;\nfn f(_: Device) {}", 3, "crate::runtime::Device");
    reaches_runtime("fn f() {\n    use crate::runtime::Device;\n    Device::Cpu;\n}", 3, "crate::runtime::Device");
    reaches_runtime("use crate::runtime::*;", 2, "crate::runtime::*");
    reaches_runtime("pub use crate::runtime::Run as _;", 2, "crate::runtime::Run");
    reaches_runtime("mod runtime {}\nuse crate::runtime::r#Device;", 3, "crate::runtime::Device");
}

#[test]
fn grouped_use() {
    reaches_runtime("use crate::{\n    base::Size,\n    runtime::Device,\n};", 4, "crate::runtime::Device");
    reaches_runtime("use crate::{base::{self, Size}, runtime::{self}};", 2, "crate::runtime");
    reaches_runtime(
        "use {crate::base, crate::{runtime::{self as r}}};\nfn f() {\n    r::run();\n}",
        2,
        "crate::runtime",
    );
}

#[test]
fn aliases() {
    reaches_runtime("use crate::runtime as r;\nfn f() {\n    r::run();\n}", 2, "crate::runtime");
    reaches_runtime("use crate as root;\nfn f() {\n    root::runtime::run();\n}", 4, "root::runtime::run");
    reaches_runtime("use crate::engine as e;\nuse e::facade as f;\nuse f::Place;", 4, "f::Place");
    reaches_runtime("use super as up;\nuse up::super::runtime::Device;", 3, "up::super::runtime::Device");
    reaches_runtime("use super::root;\nfn f() {\n    root::runtime::run();\n}", 4, "root::runtime::run");
    reaches_runtime(
        "fn f() {\n    use crate as root;\n    {\n        root::runtime::run()\n    }\n}",
        5,
        "root::runtime::run",
    );
    reaches_runtime("extern crate self as coz;\nuse coz::runtime::Device;", 3, "coz::runtime::Device");
}

#[test]
fn re_exports() {
    reaches_runtime("use crate::engine::facade::Place;", 2, "crate::engine::facade::Place");
    reaches_runtime("use crate::engine::facade::rt;\nfn f() {\n    rt::run();\n}", 2, "crate::engine::facade::rt");
    reaches_runtime("use crate::engine::facade;\nfn f() {\n    facade::rt::run();\n}", 4, "facade::rt::run");
    // A chain, a glob, a type by another name, all at once, and an exported macro.
    reaches_runtime("use crate::engine::facade::inner::Deep;", 2, "crate::engine::facade::inner::Deep");
    reaches_runtime("use crate::engine::facade::Half;", 2, "crate::engine::facade::Half");
    reaches_runtime("use crate::engine::facade::Place::Cpu;", 2, "crate::engine::facade::Place::Cpu");
    reaches_runtime("use crate::engine::facade::Shared;", 2, "crate::engine::facade::Shared");
    reaches_runtime("use crate::engine::facade::*;\nfn f(_: Half) {}", 2, "crate::engine::facade::*");
    reaches_runtime("fn f() {\n    crate::on_device!();\n}", 3, "crate::on_device");
}

#[test]
fn full_paths() {
    reaches_runtime("fn f() {\n    crate::runtime::run::<u8>();\n}", 3, "crate::runtime::run");
    reaches_runtime("struct S {\n    devices: Vec<crate::runtime::Device>,\n}", 3, "crate::runtime::Device");
    reaches_runtime(
        "fn f(d: u8) {\n    if let crate::runtime::Device::Cpu = d {}\n}",
        3,
        "crate::runtime::Device::Cpu",
    );
    reaches_runtime("struct S;\nimpl crate::runtime::Run for S {}", 3, "crate::runtime::Run");
    reaches_runtime("fn f<T: Iterator>(_: <T as crate::runtime::Run>::Item) {}", 2, "crate::runtime::Run::Item");
    reaches_runtime("fn f() {\n    super::super::runtime::run();\n}", 3, "super::super::runtime::run");
    reaches_runtime(
        "mod m {\n    type T = self::super::super::super::runtime::Device;\n}",
        3,
        "self::super::super::super::runtime::Device",
    );
    reaches_runtime(
        "fn f() {\n    mod m {\n        use super::super::super::runtime::Device;\n    }\n}",
        4,
        "super::super::super::runtime::Device",
    );
    assert_eq!(
        with("main.rs", "use chain_of_zoom::engine;"),
        ["src/main.rs:2: main must not use engine (through chain_of_zoom::engine)"]
    );
    assert_eq!(
        with("base.rs", "use crate::{self as root};\nfn f(_: root::Thing) {}"),
        ["src/base.rs:3: base must not use lib (through root::Thing)"]
    );
}

#[test]
fn macros_and_attributes() {
    reaches_runtime("fn f() {\n    vec![0, crate::runtime::run()];\n}", 3, "crate::runtime::run");
    reaches_runtime(
        "fn f() {\n    format!(\"{}\", b = Vec::<u8>::x(crate::runtime::run::<u8>()));\n}",
        3,
        "crate::runtime::run",
    );
    reaches_runtime(
        "macro_rules! m {\n    ($x:expr) => {\n        $crate::runtime::run($x)\n    };\n}",
        4,
        "crate::runtime::run",
    );
    reaches_runtime(
        "m! {\n    use crate::{base::Size, engine::{facade},\n        runtime::Device};\n}",
        4,
        "crate::runtime::Device",
    );
    reaches_runtime("#[derive(Clone, crate::runtime::Run)]\nstruct S;", 2, "crate::runtime::Run");
    reaches_runtime("#[crate::runtime::run]\nfn f() {}", 2, "crate::runtime::run");
    reaches_runtime(
        "struct S {\n    #[serde(with = \"crate::runtime::kinds\")]\n    a: u8,\n}",
        3,
        "crate::runtime::kinds",
    );
    reaches_tch("fn f() {\n    m!(x => ::tch::run(), a: b);\n}", 3, "::tch::run");
}

#[test]
fn other_crates() {
    reaches_tch("use tch::Tensor;\nfn f(_: Tensor) {}", 2, "tch::Tensor");
    reaches_tch("use tch;\nfn f() {\n    tch::x();\n}", 2, "tch");
    reaches_tch("use ::tch::{self};", 2, "::tch");
    reaches_tch("extern crate tch as numbers;\nfn f() {\n    numbers::x();\n}", 2, "::tch");
    reaches_tch("use tch as numbers;\nfn f() {\n    numbers::x();\n}", 2, "tch");
    reaches_tch("fn f() -> tch::Tensor {\n    todo!()\n}", 2, "tch::Tensor");
    reaches_tch("fn f() {\n    format!(\"{}\", tch::x());\n}", 3, "tch::x");
    // By re-export: one item, along a chain, and whatever a glob has.
    reaches_tch("use crate::engine::worker::Numbers;", 2, "crate::engine::worker::Numbers");
    reaches_tch("use crate::engine::worker::inner;\nfn f(_: inner::Numbers) {}", 3, "inner::Numbers");
    reaches_tch("use crate::engine::worker::all::Tensor;", 2, "crate::engine::worker::all::Tensor");
    reaches_tch("use crate::engine::worker::all::*;", 2, "crate::engine::worker::all::*");
}

#[test]
fn a_place_is_a_folder_or_a_file() {
    let found = ["src/engine/workers.rs:2: tch is used only in runtime, engine/worker.rs (through tch::Tensor)"];
    assert_eq!(with("engine/workers.rs", "use tch::Tensor;"), found);
    assert_eq!(with("runtimes.rs", ""), ["src/runtimes.rs:1: xtask/src/imports.rs does not know the layer runtimes"]);
    let found = ["src/viewer/x.rs:2: ureq is used only in engine/net (through ureq::get)"];
    assert_eq!(with("viewer/x.rs", "use ureq::get;"), found);
}

#[test]
fn all_is_found_at_once() {
    let files =
        [("base.rs".into(), "use crate::engine::{A, B};\nfn f() {\n    crate::runtime::run(tch::x());\n}".into())];
    let expected = [
        "src/base.rs:1: begins without a line on what it is (//! ...)",
        "src/base.rs:1: base must not use engine (through crate::engine::A)",
        "src/base.rs:3: base must not use runtime (through crate::runtime::run)",
        "src/base.rs:3: tch is used only in runtime, engine/worker.rs (through tch::x)",
    ];
    assert_eq!(findings(&files, LAYERS_HERE, ONLY_IN_HERE).unwrap(), expected);
    assert!(findings(&[("base.rs".into(), "fn".into())], LAYERS_HERE, ONLY_IN_HERE).is_err());
}

#[test]
fn modules_that_import_each_other_come_to_an_end() {
    // A module called like a crate that the viewer may not use, and in it a function called so.
    let text = "pub mod a {\n    pub use super::b::*;\n    pub use ureq::ureq as got;\n}\npub mod b {\n    pub use super::{a::*, ureq};\n}\n\
                pub mod ureq {\n    pub fn ureq() {}\n}\npub use ureq::ureq;\nfn f() {\n    a::got();\n    b::ureq::ureq();\n    a::nothing();\n}";
    assert_eq!(with("viewer/x.rs", text), [""; 0]);
}

#[test]
fn layers_use_those_above_them() {
    for (number, (layer, allowed)) in LAYERS.iter().enumerate() {
        for used in *allowed {
            assert!(LAYERS[..number].iter().any(|(above, _)| above == used), "{layer} uses {used}");
        }
    }
}
