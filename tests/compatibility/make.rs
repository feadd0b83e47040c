//! Writes the files beside it, with the program of commit 3832b2e (0.1.0). `make.sh` compiles it there, as a test of that
//! checkout; it is no part of the tests of later ones.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use egui_kittest::Harness;

use chain_of_zoom::{film, history, image, session};
use chain_of_zoom::history::{History, Making, Source, StateId};
use chain_of_zoom::image::{AlignMethod, Format, codec};
use chain_of_zoom::prompt::{Extractor, Places};
use chain_of_zoom::prompt::tags::TagFiles;
use chain_of_zoom::prompt::vlm::VlmFiles;
use chain_of_zoom::region::Region;
use chain_of_zoom::session::{Choices, Session};
use chain_of_zoom::settings::{Settings, Theme};
use chain_of_zoom::step::{Backbone, DeviceChoice, MemoryPlan, ModelUsed, Precision, Sd3Files, Tiling, Whole};
use chain_of_zoom::viewer::{Keeps, Viewer};
use chain_of_zoom::viewer::actions::{Action, ExportKind};
use chain_of_zoom::viewer::state::Message;
use crate::samples::{coz, photo};

type App = Harness<'static, Viewer>;

/// Photos lay here; their paths are in the files.
const THEN: &str = "/tmp/chain-of-zoom-0.1.0";

#[test]
fn make() {
    let out = PathBuf::from(std::env::var_os("COZ_FIXTURES").expect("make.sh says where to"));
    let then = Path::new(THEN);
    std::fs::create_dir(then).expect("it is not there yet, and will be taken away again");
    std::fs::create_dir_all(&out).unwrap();
    settings(&out.join("settings"));
    codec::save(&photo(64, 48), &then.join("photo.png")).unwrap();
    std::fs::copy(then.join("photo.png"), out.join("photo.png")).unwrap();
    viewer(then, &out);
    models(then, &out);
    results(then, &out);
    std::fs::remove_dir_all(then).unwrap();
}

/// Three settings files between which every choice is made, and nothing is as in a fresh one; and a fresh one.
fn settings(out: &Path) {
    std::fs::create_dir_all(out).unwrap();
    let mut keys = std::collections::BTreeMap::new();
    let letters: Vec<char> = ('A'..='Z').chain('0'..='9').collect();
    let modifiers = ["Ctrl+Alt+", "Ctrl+Shift+", "Shift+Alt+", "Ctrl+Shift+Alt+"];
    let mut free = modifiers.iter().flat_map(|held| letters.iter().map(move |letter| format!("{held}{letter}")));
    for action in Action::all() {
        keys.insert(action.name(), vec![free.next().unwrap()]);
    }
    keys.insert(Action::Fit.name(), vec!["F".into(), "Ctrl+F".into()]);
    keys.insert(Action::Copy.name(), vec![]);
    let first = Settings {
        process_size: 384,
        backbone: Backbone::Sd3(Sd3Files {
            model: "/models/stable diffusion 3".into(),
            lora: Some("/models/ckpt/SR_LoRA/model_20001.pkl".into()),
            vae: Some("/models/ckpt/SR_VAE/vae_encoder_20001.pt".into()),
            precision: Precision::Fp16,
        }),
        auto_backbone: Some(false),
        extractor: Extractor::Vlm(VlmFiles {
            model: "/models/Qwen2.5-VL-3B-Instruct".into(),
            adapter: Some("/models/ckpt/VLM_LoRA/checkpoint-10000".into()),
            precision: Precision::Fp32,
        }),
        places: Places {
            vlm: Some("/places/vlm".into()),
            adapter: Some("/places/adapter".into()),
            ram: Some("/places/ram.pth".into()),
            dape: Some("/places/DAPE.pth".into()),
            tags: Some("/places/tags.txt".into()),
            thresholds: Some("/places/thresholds.txt".into()),
        },
        message: "What is \"this\"?\nA line more, ö.".into(),
        both_images: false,
        temperature: 1.25,
        tiling: Tiling { latent: 48, overlap: 12, encoder: 512, decoder: 96, exact: true },
        device: DeviceChoice::Cuda(1),
        memory: MemoryPlan::Staged,
        align: AlignMethod::Wavelet,
        seed: 123_456_789,
        seed_locked: false,
        variants: 6,
        ask_first: true,
        follow: false,
        motion: false,
        work_ahead: false,
        link_photo: true,
        panels: false,
        info: false,
        panel_widths: [248.5, 300.25],
        window: [1280.0, 720.5],
        maximized: true,
        theme: Theme::Light,
        export_format: Format::Jpeg,
        recent: vec!["/photos/ünï code.png".into(), "/work/fur.coz".into()],
        prompts: vec!["fur, whiskers".into(), "Ünïcode \"words\"".into()],
        film: film::Options {
            width: 1280,
            height: 720,
            fps: 24,
            seconds_per_4x: 3.5,
            easing: false,
            hold: 0.25,
            hold_end: 2.0,
            reverse: true,
            caption: true,
        },
        keys,
    };
    let second = Settings {
        backbone: Backbone::File("/models/4x ö.pth".into()),
        extractor: Extractor::Tags(TagFiles {
            ram: "/models/ram_swin_large_14m.pth".into(),
            dape: Some("/models/DAPE.pth".into()),
            tags: "/models/ram_tag_list.txt".into(),
            thresholds: "/models/ram_tag_list_threshold.txt".into(),
            precision: Precision::Bf16,
        }),
        device: DeviceChoice::TwoCuda(0, 1),
        memory: MemoryPlan::Streamed,
        align: AlignMethod::Adain,
        theme: Theme::Contrast,
        export_format: Format::WebP,
        ..Settings::default()
    };
    let third = Settings {
        backbone: Backbone::Nearest,
        auto_backbone: Some(true),
        extractor: Extractor::Vlm(VlmFiles {
            model: "Qwen/Qwen2.5-VL-3B-Instruct".into(),
            adapter: None,
            precision: Precision::Auto,
        }),
        device: DeviceChoice::Cpu,
        memory: MemoryPlan::Resident,
        ..Settings::default()
    };
    let file = Settings::file().unwrap();
    for (name, settings) in [("first", first), ("second", second), ("third", third), ("fresh", Settings::default())] {
        settings.save().unwrap();
        std::fs::copy(&file, out.join(format!("{name}.toml"))).unwrap();
    }
    std::fs::remove_file(&file).unwrap();
}

fn until(app: &mut App, what: &str, holds: impl Fn(&Viewer) -> bool) {
    let start = Instant::now();
    while !holds(app.state()) {
        assert!(start.elapsed() < Duration::from_secs(120), "{what}: {:?}", app.state().state.messages);
        std::thread::sleep(Duration::from_millis(5));
        app.step();
    }
    app.step();
}

fn count(viewer: &Viewer) -> usize {
    viewer.state.document.as_ref().map_or(0, |document| document.history.outline().len())
}

fn act(app: &mut App, action: Action) {
    app.state_mut().act(action);
    app.step();
    app.step();
}

/// Makes a state with these words.
fn make_state(app: &mut App, words: &str, action: Action) {
    let before = count(app.state());
    app.state_mut().state.draft = words.into();
    app.state_mut().act(action);
    until(app, "a state", |viewer| count(viewer) == before + 1 && viewer.state.running.is_none());
}

fn export(app: &mut App, kind: ExportKind, to: PathBuf) {
    act(app, Action::ExportTo(kind, to));
    until(app, "the export", |viewer| {
        viewer.state.exporting.is_none() && matches!(viewer.state.messages.last(), Some(Message::Done(_)))
    });
    act(app, Action::Dismiss);
}

fn app(sessions: Option<PathBuf>) -> App {
    let settings = Settings {
        process_size: 64,
        motion: false,
        auto_backbone: Some(false),
        device: DeviceChoice::Cpu,
        seed: 77,
        ..Settings::default()
    };
    let keeps = Keeps { settings: false, sessions };
    let mut app = Harness::builder()
        .with_size(egui::vec2(1100.0, 700.0))
        .wgpu()
        .build_eframe(|creation| Viewer::new(creation, settings, keeps).unwrap());
    app.step();
    app
}

fn open(app: &mut App, file: &Path) {
    act(app, Action::OpenFile(file.to_owned()));
    until(app, "the photo", |viewer| viewer.state.document.is_some() && viewer.state.opening.is_none());
    app.step();
}

/// Sessions, an autosave and exported pictures, as the window writes them.
fn viewer(then: &Path, out: &Path) {
    // A tree: two states in a row, a whole picture, one deleted, one by bicubic with matched colours.
    let mut window = app(None);
    open(&mut window, &then.join("photo.png"));
    let square = |parent, x, y, side| Action::PlaceBox(StateId(parent), Region::square(x, y, side));
    make_state(&mut window, "first words", square(0, 12, 12, 16));
    make_state(&mut window, "deeper, Ünï \"code\" & <more>", square(1, 28, 24, 24));
    act(&mut window, Action::GoTo(StateId(0)));
    make_state(&mut window, "to be deleted", square(0, 0, 0, 20));
    act(&mut window, Action::Delete);
    act(&mut window, Action::GoTo(StateId(0)));
    make_state(&mut window, "all of it", Action::EnlargeWhole);
    act(&mut window, Action::UseBackbone(Backbone::Bicubic));
    act(&mut window, Action::Align(AlignMethod::Wavelet));
    make_state(&mut window, "below the whole", square(4, 100, 90, 24));
    act(&mut window, Action::GoTo(StateId(2)));
    window.state_mut().state.document.as_mut().unwrap().pinned.insert(StateId(1), "pinned words".into());
    window.state_mut().state.draft = "next words".into();
    export(&mut window, ExportKind::Session, out.join("session.coz"));
    let exports = out.join("exports");
    for (kind, name) in [
        (ExportKind::State, "state.png"),
        (ExportKind::State, "state.jpg"),
        (ExportKind::State, "state.webp"),
        (ExportKind::Strip, "strip.png"),
        (ExportKind::Sheet, "sheet.jpg"),
    ] {
        export(&mut window, kind, exports.join(name));
    }
    drop(window);

    // A session beside its photo.
    let mut window = app(None);
    open(&mut window, &then.join("photo.png"));
    act(&mut window, Action::ToggleLinkPhoto);
    make_state(&mut window, "linked", square(0, 30, 20, 16));
    export(&mut window, ExportKind::Session, out.join("linked.coz"));
    drop(window);

    // What a crash leaves; the photo has gone, so it is kept too.
    let (all, gone) = (then.join("autosave"), then.join("gone.png"));
    std::fs::copy(then.join("photo.png"), &gone).unwrap();
    let mut window = app(Some(all.clone()));
    open(&mut window, &gone);
    std::fs::remove_file(&gone).unwrap();
    make_state(&mut window, "unsaved", square(0, 8, 8, 16));
    make_state(&mut window, "unsaved, deeper", square(1, 16, 16, 32));
    drop(window);
    let kept: Vec<_> = std::fs::read_dir(&all).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(kept.len(), 1);
    copy(&kept[0], &out.join("autosave/session-qTz3Wk"));
}

/// A session with all kinds of models, which are not here.
fn models(then: &Path, out: &Path) {
    let file = then.join("photo.png");
    let sha256 = chain_of_zoom::digest::sha256(&file).ok();
    let picture = Arc::new(image::resize(&photo(64, 48), 16, 12, image::Filter::Bicubic));
    let source = Source { name: "tiny.png".into(), file: None, sha256: sha256.clone() };
    let mut history = History::new(source, picture.clone(), Arc::new(history::thumbnail(&picture)));
    let sd3 = |precision| {
        Backbone::Sd3(Sd3Files {
            model: "/models/sd3".into(),
            lora: Some("/models/model_20001.pkl".into()),
            vae: None,
            precision,
        })
    };
    let tiling = Tiling { latent: 8, overlap: 2, encoder: 64, decoder: 16, exact: true };
    let whole = Some(Whole { tiling, prompts: vec!["left".into(), "right".into()] });
    let used = |backbone, align| Some(ModelUsed { backbone, align, sha256: sha256.clone() });
    for (number, (model, whole)) in [
        (None, None),
        (used(Backbone::Nearest, AlignMethod::NoFix), None),
        (used(Backbone::File("/models/4x ö.pth".into()), AlignMethod::Adain), None),
        (used(sd3(Precision::Bf16), AlignMethod::Wavelet), None),
        (used(sd3(Precision::Fp16), AlignMethod::NoFix), whole),
    ]
    .into_iter()
    .enumerate()
    {
        let is_whole = whole.is_some();
        let making = Making {
            region: if is_whole { Region { x: 0, y: 0, width: 16, height: 12 } } else { Region::square(3, 2, 8) },
            prompt: format!("words {number}"),
            model,
            seed: u64::MAX - number as u64,
            agreement: Some(20.5 + number as f64).filter(|_| number > 0),
            whole,
            elapsed: Duration::from_millis(250 * number as u64),
        };
        let size = if is_whole { (32, 24) } else { (16, 16) };
        let picture = Arc::new(image::resize(&picture, size.0, size.1, image::Filter::Bicubic));
        let root = history.photo().id;
        let id = history.add(root, making, picture.clone(), picture).unwrap();
        history.go(id);
    }
    let choices = Choices {
        process_size: 256,
        backbone: sd3(Precision::Auto),
        align: AlignMethod::Adain,
        seed: 5,
        draft: "a draft".into(),
        pinned: vec![(0, "everywhere".into())],
    };
    let session = Session { history, choices, lost_photo: None };
    session::save(&session, &out.join("models.coz"), false, &mut |_| true).unwrap();
}

/// Result folders of `coz zoom` and `coz full`; of the second photo there are none yet.
fn results(then: &Path, out: &Path) {
    let photos = then.join("photos");
    let small = |side: u32| image::resize(&photo(4 * side, 3 * side), 24, 18, image::Filter::Lanczos);
    codec::save(&small(25), &photos.join("a.png")).unwrap();
    let run = |command: &str, to: &str, more: &[&str]| {
        let output = coz([command, "-i", "photos", "-o", to, "--device", "cpu", "--backbone", "builtin"])
            .args(more)
            .current_dir(then)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        copy(&then.join(to), &out.join(to));
    };
    let words = ["--prompt", "a & <b>", "--save-prompts"];
    run("zoom", "zoomed", &[&["--process-size", "32", "--rec-num", "2"], &words[..]].concat());
    run("full", "enlarged", &[&["--upscale", "2"], &words[..]].concat());
    codec::save(&small(40), &photos.join("b.png")).unwrap();
    copy(&photos, &out.join("photos"));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    assert!(Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap().success());
}
