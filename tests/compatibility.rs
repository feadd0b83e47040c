//! What version 0.1.0 wrote (commit 3832b2e, by `compatibility/make.sh`) is opened and used, and what was said on its
//! command line is understood.
//!
//! The files stay as they are when the program changes. They hold what a user has on the disk: settings, sessions, unsaved
//! work, exported pictures, results of `coz zoom` and `coz full`; `options.txt` holds what is in a user's scripts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use egui::{Key, Modifiers};
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable;
use serde_json::Value;

use crate::samples::{Folder, coz, vlm};
use chain_of_zoom::base::{
    AlignMethod, BICUBIC, Backbone, BackboneSpec, DeviceChoice, MemoryPlan, NEAREST, Precision, PromptSource,
    PromptSourceSpec, ServerEndpoint, Tiling, VaeMode,
};
use chain_of_zoom::document::export::{sheet, stills, strip, tree};
use chain_of_zoom::document::session::Session;
use chain_of_zoom::document::{StateId, provenance, session};
use chain_of_zoom::hub::ModelPaths;
use chain_of_zoom::imaging::{Format, Picture, codec};
use chain_of_zoom::scene::film;
use chain_of_zoom::viewer::actions::Action;
use chain_of_zoom::viewer::bindings::Bindings;
use chain_of_zoom::viewer::commands::Command as ViewerCommand;
use chain_of_zoom::viewer::settings::{Settings, Theme};
use chain_of_zoom::viewer::state::{Document, Message};
use chain_of_zoom::viewer::{Persistence, Viewer, bindings};

/// Another processor may round otherwise: so many levels of 255.
const ROUNDING: u8 = 2;

fn fixture(name: &str) -> PathBuf {
    Path::new("tests/compatibility").join(name)
}

/// A copy of these files, or folders with all in them, below a folder of their own.
fn copied(names: &[&str]) -> Folder {
    let folder = Folder::new();
    for name in names {
        copy(&fixture(name), &folder.path(name));
    }
    folder
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let name = entry.unwrap().file_name();
            copy(&from.join(&name), &to.join(&name));
        }
    } else {
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(from, to).unwrap();
    }
}

/// All files below a folder, by their paths in it.
fn files_in(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
            // Newer than these: by which `--resume` knows what is there.
            if !name.ends_with("/run.json") {
                files.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    files
}

fn same(a: &Picture, b: &Picture) -> bool {
    (a.width(), a.height()) == (b.width(), b.height())
        && a.rgb().iter().zip(b.rgb()).all(|(a, b)| a.abs_diff(*b) <= ROUNDING)
}

fn decoded(bytes: &[u8]) -> Picture {
    let folder = Folder::new();
    std::fs::write(folder.path("picture.png"), bytes).unwrap();
    codec::open(&folder.path("picture.png")).unwrap()
}

// Settings.

/// What was chosen when `first.toml` was written; its keys have a test of their own.
fn first() -> Settings {
    let mut model_paths = ModelPaths::default();
    for (id, path) in [
        ("vlm", "/places/vlm"),
        ("adapter", "/places/adapter"),
        ("ram", "/places/ram.pth"),
        ("dape", "/places/DAPE.pth"),
        ("tags", "/places/tags.txt"),
        ("thresholds", "/places/thresholds.txt"),
    ] {
        model_paths.set(id, path.into());
    }
    Settings {
        model_folders: Vec::new(),
        process_size: 384,
        backbone: Backbone { precision: Precision::Fp16, ..BackboneSpec::named("sd3").unwrap().into() }
            .with("model", "/models/stable diffusion 3")
            .with("lora", "/models/ckpt/SR_LoRA/model_20001.pkl")
            .with("vae", "/models/ckpt/SR_VAE/vae_encoder_20001.pt"),
        auto_backbone: Some(false),
        opened_models: vec![],
        picture_memory_mb: None,
        prompt_source: vlm(
            Path::new("/models/Qwen2.5-VL-3B-Instruct"),
            Some(Path::new("/models/ckpt/VLM_LoRA/checkpoint-10000")),
            Precision::Fp32,
        ),
        model_paths,
        server: ServerEndpoint::default(),
        message: "What is \"this\"?\nA line more, ö.".into(),
        include_parent: false,
        temperature: 1.25,
        tiling: Tiling { latent_tile: 48, overlap: 12, encoder_tile: 512, decoder_tile: 96, vae_mode: VaeMode::Exact },
        device: DeviceChoice::Cuda(1),
        memory: MemoryPlan::Staged,
        align: AlignMethod::Wavelet,
        seed: 123_456_789,
        seed_locked: false,
        variants: 6,
        edit_prompt_first: true,
        follow: false,
        motion: false,
        prefetch: false,
        keep_location: false,
        link_photo: true,
        panels: false,
        info: false,
        panel_widths: [248.5, 300.25],
        window: [1280.0, 720.5],
        maximized: true,
        theme: Theme::Light,
        export_format: Format::JPEG,
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
        keys: keys(&fixture("settings/first.toml")),
    }
}

fn prompt_source(id: &str) -> &'static PromptSourceSpec {
    PromptSourceSpec::named(id).unwrap()
}

/// What was chosen when a settings file was written.
fn chosen(name: &str) -> Settings {
    match name {
        "first" => first(),
        "second" => Settings {
            backbone: Backbone::file("/models/4x ö.pth"),
            prompt_source: PromptSource { precision: Precision::Bf16, ..prompt_source("dape").into() }
                .with("ram", "/models/ram_swin_large_14m.pth")
                .with("dape", "/models/DAPE.pth")
                .with("tags", "/models/ram_tag_list.txt")
                .with("thresholds", "/models/ram_tag_list_threshold.txt"),
            device: DeviceChoice::TwoCuda(0, 1),
            memory: MemoryPlan::Streamed,
            align: AlignMethod::Adain,
            theme: Theme::Contrast,
            export_format: Format::WEBP,
            ..Settings::default()
        },
        "third" => Settings {
            backbone: Backbone::from(&NEAREST),
            auto_backbone: Some(true),
            prompt_source: vlm(Path::new("Qwen/Qwen2.5-VL-3B-Instruct"), None, Precision::Auto),
            device: DeviceChoice::Cpu,
            memory: MemoryPlan::Resident,
            ..Settings::default()
        },
        "fresh" => Settings::default(),
        other => panic!("{other} is no settings file of these"),
    }
}

fn table(file: &Path) -> toml::Table {
    toml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// The changed keys in a settings file.
fn keys(file: &Path) -> BTreeMap<String, Vec<String>> {
    table(file)["keys"].clone().try_into().unwrap()
}

/// Names the settings file for the process that has it as the user's own.
const CHOSEN: &str = "COZ_TEST_CHOSEN";

/// Loads and saves the user's settings, where these are one of the files: in a process of its own, whose user it is.
#[test]
fn settings_are_what_they_were() {
    if let Ok(name) = std::env::var(CHOSEN) {
        let (settings, error) = Settings::load();
        assert_eq!((&settings, error), (&chosen(&name), None));
        std::fs::remove_file(Settings::file().unwrap()).unwrap();
        return settings.save().unwrap();
    }
    for name in ["first", "second", "third", "fresh"] {
        let folder = Folder::new();
        let (then, now) = (fixture(&format!("settings/{name}.toml")), folder.path("chain-of-zoom/settings.toml"));
        copy(&then, &now);
        let run = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "compatibility::settings_are_what_they_were"])
            .env(CHOSEN, name)
            .env("XDG_CONFIG_HOME", folder.root())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success() && said.contains("1 passed"), "{name}: {said}");
        let mut saved = table(&now);
        // Newer than these.
        assert_eq!(saved.remove("keep_location"), Some(false.into()));
        let usual = toml::Table::from_iter([("address".into(), "http://127.0.0.1:11434/v1".into())]);
        assert_eq!(saved.remove("server"), Some(usual.into()));
        assert_eq!(saved, table(&then), "{name}: saved again it says the same");
    }
    // The command line looks there too.
    let folder = Folder::new();
    copy(&fixture("settings/first.toml"), &folder.path("chain-of-zoom/settings.toml"));
    for (source, path) in [("vlm_base", "/places/vlm"), ("vlm", "/places/adapter"), ("dape", "/places/ram.pth")] {
        let run = coz(["zoom", "-i", "photo.png", "-o", "out", "--backbone", "builtin", "--prompt_type", source])
            .env("XDG_CONFIG_HOME", folder.root())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.code() == Some(1) && said.contains(path), "{source}: {said}");
    }
}

/// All that can have a key, under the names that settings files have for it.
fn named() -> Vec<(&'static str, Action)> {
    use ViewerCommand::*;
    let commands = [
        ("actual_pixels_1_1", OneToOne),
        ("all_actions", TogglePalette),
        ("ask_first", ToggleEditPromptFirst),
        ("back", GoBack),
        ("cancel", Cancel),
        ("clear_the_queue", ClearQueue),
        ("close_the_photo", Close),
        ("compare_lens", CompareLens),
        ("compare_split", CompareSplit),
        ("compare_with_plain_bicubic", CompareWithBicubic),
        ("compare_with_the_next_reference", NextReference),
        ("compare_with_the_photo_s_own_pixels", CompareWithPhoto),
        ("copy_this_state", Copy),
        ("dark_light_or_high_contrast", NextTheme),
        ("delete_with_all_below", Delete),
        ("double_2_1", TwoToOne),
        ("down_to_the_next_state", GoToChild),
        ("earlier_prompt", EarlierPrompt),
        ("enlarge_the_whole_image_x4", EnlargeFullImage),
        ("find_other_words", Regenerate),
        ("fit", Fit),
        ("flip_to_the_reference_hold", HoldReference),
        ("follow_new_states", ToggleFollow),
        ("forward", GoForward),
        ("full_screen", ToggleFullscreen),
        ("get_models", ToggleDownloads),
        ("hand", HandTool),
        ("keep_the_seed", ToggleSeedLock),
        ("keys", ToggleHelp),
        ("later_prompt", LaterPrompt),
        ("link_the_photo_in_sessions", ToggleLinkPhoto),
        ("look_closer", ZoomIn),
        ("look_for_models_again", LookForModels),
        ("look_from_further_away", ZoomOut),
        ("make_variants", Variants),
        ("models_and_memory", ToggleModels),
        ("motion", ToggleMotion),
        ("next_sibling", GoToNextSibling),
        ("open", Open),
        ("open_a_model_file", OpenModel),
        ("preview_the_film", PlayFilm),
        ("previous_sibling", GoToPreviousSibling),
        ("queue_the_box", Enqueue),
        ("quit", Quit),
        ("redo_delete", Redo),
        ("reset_all_keys", ResetKeys),
        ("roll_a_new_seed", RollSeed),
        ("run_again", RunAgain),
        ("save_the_session", Save),
        ("save_the_session_as", SaveAs),
        ("show_or_hide_the_info_panel", ToggleInfo),
        ("show_or_hide_the_panels", TogglePanels),
        ("show_the_photo_s_own_pixels_hold", HoldPhoto),
        ("show_where_it_disagrees_hold", HoldHeat),
        ("stop_finding_words", StopCaptioning),
        ("stop_getting_models", StopDownload),
        ("stop_the_export", StopExport),
        ("to_the_deepest_state", GoToDeepest),
        ("to_the_photo", GoToPhoto),
        ("try_the_sample", OpenSample),
        ("undo_delete", Undo),
        ("up_to_the_state_before", GoToParent),
        ("use_the_best_model_on_this_machine", UseBestBackbone),
        ("work_ahead", TogglePrefetch),
        ("zoom", Run),
        ("zoom_box", ZoomTool),
        ("zoom_film", ToggleFilm),
    ];
    let others = [
        ("export_a_contact_sheet", Action::Export(&sheet::EXPORTER)),
        ("export_a_strip", Action::Export(&strip::EXPORTER)),
        ("export_the_chain", Action::Export(&stills::CHAIN)),
        ("export_the_reference_s_folders", Action::Export(&tree::EXPORTER)),
        ("export_this_state", Action::Export(&stills::STATE)),
        ("open_a_tagger_ram", Action::OpenPromptSource(prompt_source("dape"))),
        ("open_an_adapter_for_qwen2_5_vl", Action::OpenPromptSource(prompt_source("vlm"))),
        ("open_chain_of_zoom_sd3", Action::OpenBackbone(BackboneSpec::named("sd3").unwrap())),
        ("open_qwen2_5_vl", Action::OpenPromptSource(prompt_source("vlm_base"))),
        ("words_my_own", Action::UsePromptSource(prompt_source("null"))),
        ("words_qwen2_5_vl", Action::UsePromptSource(prompt_source("vlm_base"))),
        ("words_qwen2_5_vl_tuned", Action::UsePromptSource(prompt_source("vlm"))),
        ("words_tags", Action::UsePromptSource(prompt_source("dape"))),
    ];
    let commands = commands.map(|(name, command)| (name, Action::from(command)));
    let mut named: Vec<_> = commands.into_iter().chain(others).collect();
    named.sort_by_key(|(name, _)| *name);
    named
}

#[test]
fn changed_keys_do_what_they_did() {
    let keys = keys(&fixture("settings/first.toml"));
    let named = named();
    let names: Vec<&str> = named.iter().map(|(name, _)| *name).collect();
    assert_eq!(keys.keys().map(String::as_str).collect::<Vec<_>>(), names, "each has keys in the file");
    let current = Bindings::new(&keys);
    for (name, action) in &named {
        let now: Vec<String> = current.of(action).iter().map(bindings::format).collect();
        assert_eq!(now, keys[*name], "{name}");
    }
    assert_eq!(keys["fit"], ["F", "Ctrl+F"]);
    assert!(keys["copy_this_state"].is_empty());

    // In the window, with all the other choices too.
    let mut app = window(first(), Persistence::default());
    app.get_by_label("ünï code.png");
    let press = |app: &mut App, modifiers: Modifiers, key: Key| {
        app.key_press_modifiers(modifiers, key);
        app.step();
        app.step();
    };
    let settings = |app: &App| (app.state().state.settings.info, app.state().state.settings.seed_locked);
    assert_eq!(settings(&app), (false, false));
    press(&mut app, Modifiers::NONE, Key::I);
    press(&mut app, Modifiers::NONE, Key::L);
    assert_eq!(settings(&app), (false, false), "these keys were given up");
    press(&mut app, Modifiers::COMMAND | Modifiers::SHIFT, Key::Y);
    press(&mut app, Modifiers::COMMAND | Modifiers::SHIFT, Key::R);
    assert_eq!(settings(&app), (true, true));
    let folder = copied(&["photo.png"]);
    open(&mut app, &folder.path("photo.png"));
    let scale = |app: &App| document(app).camera.scale;
    let fitted = scale(&app);
    press(&mut app, Modifiers::COMMAND | Modifiers::SHIFT, Key::C);
    assert!(scale(&app) > 1.1 * fitted, "looked closer");
    press(&mut app, Modifiers::NONE, Key::Num0);
    assert!(scale(&app) > 1.1 * fitted, "this key was given up");
    press(&mut app, Modifiers::NONE, Key::F);
    assert!((scale(&app) / fitted - 1.0).abs() < 1e-9, "all of it again");
}

// The window.

type App = Harness<'static, Viewer>;

fn window(settings: Settings, keeps: Persistence) -> App {
    let mut app = Harness::builder()
        .with_size(egui::vec2(1100.0, 700.0))
        .wgpu()
        .build_eframe(|creation| Viewer::new(creation, settings, keeps).unwrap());
    app.step();
    app
}

/// Other choices than those of the files.
fn plain() -> Settings {
    Settings {
        process_size: 128,
        motion: false,
        auto_backbone: Some(false),
        device: DeviceChoice::Cpu,
        seed: 9,
        ..Settings::default()
    }
}

fn until(app: &mut App, what: &str, holds: impl Fn(&Viewer) -> bool) {
    let start = Instant::now();
    while !holds(app.state()) {
        let messages = &app.state().state.messages;
        assert!(start.elapsed() < Duration::from_secs(120), "{what} did not happen: {messages:?}");
        std::thread::sleep(Duration::from_millis(5));
        app.step();
    }
    app.step();
}

fn document(app: &App) -> &Document {
    app.state().state.document.as_ref().unwrap()
}

fn count(viewer: &Viewer) -> usize {
    viewer.state.document.as_ref().map_or(0, |document| document.history.outline().len())
}

fn open(app: &mut App, file: &Path) {
    app.state_mut().act(Action::OpenFile(file.to_owned()));
    app.step();
    until(app, "the file to open", |viewer| viewer.state.document.is_some() && viewer.state.opening.is_none());
    app.step();
}

/// All pictures of the open document, the photo first.
fn pictures(app: &App) -> Vec<Arc<Picture>> {
    document(app).history.outline().iter().map(|(_, state)| state.picture.load().unwrap()).collect()
}

// Sessions.

/// What is in a session's zip, by name.
fn unzipped(file: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut zip = zip::ZipArchive::new(std::fs::File::open(file).unwrap()).unwrap();
    let mut files = BTreeMap::new();
    for i in 0..zip.len() {
        let mut entry = zip.by_index(i).unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        files.insert(entry.name().unwrap().into_owned(), bytes);
    }
    files
}

/// What files say, whichever version wrote them.
fn without_program(mut json: Value) -> Value {
    assert!(json.as_object_mut().unwrap().remove("program").unwrap().as_str().unwrap().starts_with("Chain-of-Zoom "));
    json
}

fn name_alone(value: &mut Value) {
    match value {
        Value::String(path) if path.starts_with('/') => *path = path.rsplit('/').next().unwrap().to_owned(),
        Value::Object(parts) => parts.values_mut().for_each(name_alone),
        _ => {}
    }
}

/// What is told to others: names, not places.
fn told(mut recipe: Value) -> Value {
    recipe["photo"].as_object_mut().unwrap().remove("file");
    for step in recipe["steps"].as_array_mut().unwrap() {
        name_alone(&mut step["model"]);
    }
    recipe
}

/// The description of a session, wherever its photo is; pictures' numbers count them, since they change when states were
/// deleted.
fn described(json: &[u8]) -> Value {
    let mut json = without_program(serde_json::from_slice(json).unwrap());
    assert!(json.as_object_mut().unwrap().remove("photo_inside").unwrap().is_boolean());
    for (i, state) in json["states"].as_array_mut().unwrap().iter_mut().enumerate() {
        assert!(state["picture"].is_u64());
        state["picture"] = (i + 1).into();
    }
    json
}

/// The recipe in an XMP packet, read by nothing of the program.
fn recipe_in(xmp: &str) -> Value {
    let document = roxmltree::Document::parse(xmp.trim_start_matches('\u{feff}')).unwrap();
    let name = ("https://arxiv.org/abs/2505.18600#", "Chain");
    let chain = document.descendants().find(|node| node.has_tag_name(name)).unwrap();
    serde_json::from_str(chain.text().unwrap()).unwrap()
}

/// That an opened session is what its files say, and is written again as it was.
fn is_whole(opened: &Session, files: &BTreeMap<String, Vec<u8>>) {
    let mut then = described(&files["chain.json"]);
    let raw: Value = serde_json::from_slice(&files["chain.json"]).unwrap();
    let pictures = opened.history.outline();
    let numbers = raw["states"].as_array().unwrap().iter().map(|state| format!("states/{}.png", state["picture"]));
    let numbers: Vec<String> = numbers.collect();
    assert_eq!(pictures.len(), numbers.len() + 1);
    for (name, (_, state)) in numbers.iter().zip(&pictures[1..]) {
        assert!(*state.picture.load().unwrap() == decoded(&files[name]), "{name}");
    }
    assert_eq!(raw["photo_inside"], files.contains_key("photo.png"));
    if let Some(photo) = files.get("photo.png") {
        assert!(*pictures[0].1.picture.load().unwrap() == decoded(photo));
    }

    let folder = Folder::new();
    let file = folder.path("again.coz");
    // With the photo inside, who gets it need not know where it lay, nor where models do.
    then["photo"].as_object_mut().unwrap().remove("file");
    name_alone(&mut then["choices"]["backbone"]);
    then["states"].as_array_mut().unwrap().iter_mut().for_each(|state| name_alone(&mut state["model"]));
    session::save(opened, &file, false, &mut |_| true).unwrap();
    let again = unzipped(&file);
    assert_eq!(described(&again["chain.json"]), then);
    let xmp = |bytes: &[u8]| {
        let file = folder.path("state.png");
        std::fs::write(&file, bytes).unwrap();
        without_program(recipe_in(&codec::xmp(&file).unwrap()))
    };
    for (i, name) in numbers.iter().enumerate() {
        let now = &again[&format!("states/{}.png", i + 1)];
        assert!(decoded(now) == decoded(&files[name]), "{name}");
        assert_eq!(xmp(now), told(xmp(&files[name])), "{name}");
    }
}

#[test]
fn sessions_are_what_they_were() {
    for (name, states, at_hand) in [("session.coz", 4, 2), ("models.coz", 5, 5), ("linked.coz", 1, 1)] {
        let folder = copied(&[name, "photo.png"]);
        let opened = session::open(&folder.path(name)).unwrap();
        assert_eq!(opened.history.outline().len(), states + 1, "{name}");
        assert_eq!(opened.history.current().id, StateId(at_hand), "{name}");
        let files = unzipped(&folder.path(name));
        assert_eq!(files.contains_key("photo.png"), name != "linked.coz");
        assert_eq!(opened.lost_photo, None);
        is_whole(&opened, &files);
        if name != "models.coz" {
            assert!(*opened.history.photo().picture.load().unwrap() == codec::open(&fixture("photo.png")).unwrap());
        }
    }
    let opened = session::open(&fixture("models.coz")).unwrap();
    let models: Vec<Option<String>> = opened.history.outline()[1..]
        .iter()
        .map(|(_, state)| state.record.as_ref().unwrap().model.as_ref().map(|model| model.backbone.name()))
        .collect();
    let named = ["Nearest neighbour", "4x ö", "Chain-of-Zoom SD3", "Chain-of-Zoom SD3"].map(|name| Some(name.into()));
    assert_eq!(models, [&[None], &named[..]].concat());
}

#[test]
fn states_come_out_the_same() {
    let folder = copied(&["session.coz", "linked.coz", "photo.png", "zoomed", "enlarged"]);
    for (name, prompts) in [
        ("session.coz", &["first words", "deeper, Ünï \"code\" & <more>", "all of it", "below the whole"][..]),
        ("linked.coz", &["linked"]),
        ("zoomed/per-sample/a", &["a & <b>"; 2]),
        ("enlarged/per-sample/a", &["a & <b>"]),
    ] {
        let path = folder.path(name);
        let run = coz(["replay", path.to_str().unwrap(), "--device", "cpu", "--json"]).output().unwrap();
        assert!(run.status.success(), "{name}: {}", String::from_utf8_lossy(&run.stderr));
        let lines: Value = serde_json::from_slice(&run.stdout).unwrap();
        let lines = lines.as_array().unwrap();
        assert_eq!(lines.iter().map(|line| line["prompt"].as_str().unwrap()).collect::<Vec<_>>(), prompts, "{name}");
        for line in lines {
            assert!(["same", "close"].contains(&line["outcome"].as_str().unwrap()), "{name}: {line}");
        }
        if name == "session.coz" {
            let values =
                |key: &str| lines.iter().map(|line| line[key].as_str().unwrap().to_owned()).collect::<Vec<_>>();
            assert_eq!(values("model"), ["Built-in x4", "Built-in x4", "Built-in x4", "Bicubic"]);
            assert_eq!(values("magnification"), ["4x", "11x", "4x", "11x"]);
        }
    }
}

#[test]
fn the_window_goes_on_with_a_session() {
    let folder = copied(&["session.coz"]);
    let file = folder.path("session.coz");
    let mut app = window(plain(), Persistence::default());
    open(&mut app, &file);
    assert_eq!((count(app.state()), document(&app).history.current().id), (5, StateId(2)));
    assert_eq!(document(&app).history.children(StateId(0)).count(), 2, "a branch");
    assert_eq!(document(&app).history.all_pinned().collect::<Vec<_>>(), [(StateId(1), "pinned words")]);
    assert!(!document(&app).is_unsaved());
    let state = &app.state().state;
    assert_eq!(state.choices.draft, "next words");
    let choices = &state.choices;
    assert_eq!((choices.process_size, choices.seed, choices.align), (64, 77, AlignMethod::Wavelet));
    assert_eq!(choices.backbone, Backbone::from(&BICUBIC));
    app.state_mut().act(ViewerCommand::Run);
    until(&mut app, "a state", |viewer| count(viewer) == 6 && viewer.state.running.is_none());
    let state = document(&app).history.current();
    assert_eq!((state.parent, state.picture.width()), (Some(StateId(2)), 64));
    assert_eq!(state.record.as_ref().unwrap().prompt, "next words, pinned words");
}

// Unsaved work.

#[test]
fn what_a_crash_left_is_found_and_restored() {
    let folder = copied(&["autosave"]);
    let all = folder.path("autosave");
    let files = files_in(&fixture("autosave/session-qTz3Wk"));
    let mut app = window(plain(), Persistence { settings: false, sessions: Some(all.clone()) });
    until(&mut app, "the offer", |viewer| viewer.state.recoverable.len() == 1);
    let left = app.state().state.recoverable[0].clone();
    assert_eq!((left.name.as_str(), left.states), ("gone.png", 2));
    is_whole(&session::open(&left.folder).unwrap(), &files);
    app.get_by_label("Restore gone.png").click();
    until(&mut app, "the session", |viewer| count(viewer) == 3);
    let names = ["photo.png", "states/1.png", "states/2.png"];
    for (picture, name) in pictures(&app).iter().zip(names) {
        assert!(**picture == decoded(&files[name]), "{name}");
    }
    assert!(document(&app).is_unsaved(), "it is in no file of the user's yet");
    assert_eq!(app.state().state.choices.draft, "unsaved, deeper");
    // Kept anew, it says the same.
    let anew = || {
        let folders = std::fs::read_dir(&all).unwrap().map(|entry| entry.unwrap().path());
        folders.into_iter().find(|folder| *folder != left.folder && folder.join("chain.json").exists())
    };
    until(&mut app, "a new autosave", |_| anew().is_some());
    let again = files_in(&anew().unwrap());
    assert_eq!(again.keys().collect::<Vec<_>>(), files.keys().collect::<Vec<_>>());
    assert_eq!(described(&again["chain.json"]), described(&files["chain.json"]));
}

// Exported pictures.

const EXPORTS: [&str; 5] = ["state.png", "state.jpg", "state.webp", "strip.png", "sheet.jpg"];

/// XML without the space between its elements, which says nothing.
fn joined(xml: &str) -> String {
    xml.lines().map(str::trim).collect()
}

#[test]
fn exported_pictures_say_how_they_were_made() {
    for name in EXPORTS {
        let xmp = codec::xmp(&fixture("exports").join(name)).unwrap();
        let recipe = provenance::recipe(&xmp).unwrap();
        let then = recipe_in(&xmp);
        assert_eq!(then["steps"].as_array().unwrap().len(), 2, "{name}");
        assert_eq!(serde_json::to_value(&recipe).unwrap(), then, "{name}");
        let place = format!("\"file\":{},", then["photo"]["file"]);
        assert_eq!(
            joined(&provenance::packet(&recipe)),
            joined(&xmp).replace(&place, ""),
            "{name}: written again it is the same to the letter, but for where the photo lay"
        );
        for expected in ["compositeWithTrainedAlgorithmicMedia", "coz:Magnification>11x<", "coz:Model>Built-in x4<"] {
            assert!(xmp.contains(expected), "{name}: {expected}");
        }
    }
}

#[test]
fn exported_pictures_are_made_again() {
    let folder = copied(&["photo.png"]);
    let mut app = window(plain(), Persistence::default());
    let then = codec::open(&fixture("exports/state.png")).unwrap();
    for name in EXPORTS {
        let file = folder.path(name);
        copy(&fixture("exports").join(name), &file);
        app.state_mut().act(ViewerCommand::Close);
        app.step();
        open(&mut app, &file);
        until(&mut app, "the question", |viewer| viewer.state.rebuild.is_some());
        app.state_mut().act(Action::Rebuild);
        until(&mut app, name, |viewer| {
            count(viewer) == 3 && viewer.state.running.is_none() && viewer.state.queue.is_empty()
        });
        assert!(same(&document(&app).history.current().picture.load().unwrap(), &then), "{name}");
        let steps = &recipe_in(&codec::xmp(&file).unwrap())["steps"];
        for (i, (_, state)) in document(&app).history.outline()[1..].iter().enumerate() {
            let mut record = serde_json::to_value(state.record.as_ref().unwrap()).unwrap();
            // Newer than these.
            record["model"].as_object_mut().unwrap().remove("sha256").unwrap();
            for key in ["region", "prompt", "model", "seed"] {
                assert!(!record[key].is_null());
                assert_eq!(record[key], steps[i][key], "{name}: {key}");
            }
        }
    }
    // Without its photo it is a photo itself.
    std::fs::remove_file(folder.path("photo.png")).unwrap();
    open(&mut app, &folder.path("state.png"));
    until(&mut app, "the picture", |viewer| count(viewer) == 1);
    assert!(matches!(app.state().state.messages.last(), Some(Message::Done(line)) if line.contains("photo.png")));
}

// Results of `coz zoom` and `coz full`.

/// The command that made a folder of results, in a copy of the folder that it was made in.
fn batch(folder: &Folder, results: &str, out: &str, more: &[&str]) -> String {
    let options = match results {
        "zoomed" => ["zoom", "--process-size", "32", "--rec-num", "2"],
        _ => ["full", "--rec-num", "1", "--upscale", "2"],
    };
    let run = coz(options)
        .args(["-i", "photos", "-o", out, "--device", "cpu", "--backbone", "builtin"])
        .args(["--prompt", "a & <b>", "--save-prompts"])
        .args(more)
        .current_dir(folder.root())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.success(), "{said}");
    said
}

#[test]
fn finished_pictures_are_left_out() {
    for results in ["zoomed", "enlarged"] {
        let folder = copied(&["photos", results]);
        let then = files_in(&fixture(results));
        let states = if results == "zoomed" { 3 } else { 2 };
        assert_eq!(then.keys().filter(|name| name.starts_with("per-scale/")).count(), states);

        let said = batch(&folder, results, results, &["--resume"]);
        assert!(said.contains("1 of 2 pictures were finished before"), "{said}");
        assert!(said.contains("1 of 1 pictures done"), "{said}");
        let now = files_in(&folder.path(results));
        for (name, bytes) in &then {
            assert!(now[name] == *bytes, "{name} was finished");
        }
        // What was missing has the same files.
        let other = |name: &String| name.replace("/a/", "/b/").replace("/a.png", "/b.png");
        let new: BTreeSet<String> = now.keys().filter(|name| !then.contains_key(*name)).cloned().collect();
        assert_eq!(new, then.keys().map(other).collect());
        assert!(batch(&folder, results, results, &["--resume"]).contains("0 of 0 pictures done"));

        // One that was cut short is made again.
        let last = folder.path(results).join("recursive/a.png");
        std::fs::remove_file(&last).unwrap();
        assert!(batch(&folder, results, results, &["--resume"]).contains("1 of 1 pictures done"));
        assert!(same(&codec::open(&last).unwrap(), &codec::open(&fixture(results).join("recursive/a.png")).unwrap()));

        // From nothing it is what it was.
        batch(&folder, results, "anew", &["--shard", "1/2"]);
        let anew = files_in(&folder.path("anew"));
        assert_eq!(anew.keys().collect::<Vec<_>>(), then.keys().collect::<Vec<_>>());
        for (name, bytes) in &then {
            if name.ends_with(".png") {
                assert!(same(&decoded(&anew[name]), &decoded(bytes)), "{results}: {name}");
            } else {
                assert_eq!(anew[name], *bytes, "{results}: {name}");
            }
        }
    }
}

// The command line.

/// The program with the options of a line of `options.txt`: its exit code, and all it says.
fn run(folder: &Folder, options: &str) -> (Option<i32>, String) {
    let (photo, out) = (folder.path("missing.png"), folder.path("out"));
    let options = options.replace("PHOTO", photo.to_str().unwrap()).replace("OUT", out.to_str().unwrap());
    let mut command = coz(options.split_whitespace().skip(1));
    for screen in ["DISPLAY", "WAYLAND_DISPLAY", "WAYLAND_SOCKET"] {
        command.env_remove(screen);
    }
    // Nobody answers there.
    let run = command.env("HF_ENDPOINT", "http://127.0.0.1:9").current_dir(folder.root()).output().unwrap();
    (run.status.code(), [run.stdout, run.stderr].map(|text| String::from_utf8(text).unwrap()).concat())
}

#[cfg(target_os = "linux")]
#[test]
fn options_are_spelled_as_they_were() {
    let text = std::fs::read_to_string(fixture("options.txt")).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("coz ")).collect();
    assert_eq!(lines.len(), 146);
    let folder = Folder::new();
    let mut commands = BTreeSet::new();
    for line in lines {
        let (options, expected) = line.split_once(" => ").unwrap_or((line, "missing.png"));
        let (code, said) = run(&folder, options);
        assert!(code.is_some_and(|code| code < 2) && said.contains(expected), "{line}: {code:?} {said}");
        assert!(line.contains(" => ") || code == Some(1), "{line}: {said}");
        commands.extend(options.split(' ').nth(1).filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase())));
    }
    let all = "bench doctor export full help measure models random-models replay train zoom";
    assert_eq!(commands.into_iter().collect::<Vec<_>>().join(" "), all);

    // So that this can fail: what the program does not know.
    for wrong in [
        "coz --no-such-option",
        "coz zoom -i PHOTO -o OUT --no_such_option",
        "coz zoom -i PHOTO -o OUT --rec-type no_such_type",
        "coz zoom -i PHOTO -o OUT --memory no_such_plan",
        "coz models download --no-such-option --help",
        "coz models path no-such-part",
    ] {
        let (code, said) = run(&folder, wrong);
        assert!(code == Some(2) && said.contains("--help"), "{wrong}: {code:?} {said}");
    }
}
