//! The first minute: a sample to try, the best model that is there, a better one to be got.

use egui_kittest::kittest::{NodeT, Queryable};

use super::{app, app_that_keeps, count, drag, idle, settings, until};
use crate::samples::Folder;
use chain_of_zoom::base::{BICUBIC, Backbone, BackboneSpec};
use chain_of_zoom::synthetic;
use chain_of_zoom::synthetic::Size;
use chain_of_zoom::viewer::Persistence;
use chain_of_zoom::viewer::actions::Action;
use chain_of_zoom::viewer::commands::Command;
use chain_of_zoom::viewer::found_models::FoundBackbone;
use chain_of_zoom::viewer::settings::Settings;

const OFFER: &str = "Sharper: get Real-ESRGAN, 45 MB";

#[test]
fn the_sample_opens_from_the_welcome_screen_and_can_be_zoomed() {
    let folder = Folder::new();
    let keeps = Persistence { sessions: Some(folder.path("autosave")), ..Persistence::default() };
    let mut harness = app_that_keeps(settings(), keeps);
    harness.get_by_label("Try the sample").click();
    until(&mut harness, "the sample to open", |viewer| viewer.state.document.is_some());
    assert_eq!(harness.state().state.document.as_ref().unwrap().name, "sample.jpg");
    assert!(folder.path("sample.jpg").is_file(), "it can be opened again");
    harness.step();
    drag(&mut harness, (180.0, 100.0), (212.0, 132.0));
    until(&mut harness, "a state", |viewer| count(viewer) == 2 && idle(viewer));
}

#[test]
fn a_better_model_is_offered_where_there_is_none() {
    let mut harness = app(settings());
    until(&mut harness, "models to be looked for", |viewer| !viewer.state.backbones.is_empty());
    harness.state_mut().state.backbones = vec![Backbone::default()];
    harness.step();
    assert_eq!(harness.query_all_by_label(OFFER).count(), 1);
    harness.state_mut().state.backbones = vec![Backbone::file("realesrgan-x4plus.safetensors"), Backbone::default()];
    harness.step();
    assert_eq!(harness.query_all_by_label(OFFER).count(), 0);
}

#[test]
fn the_best_model_is_used_until_another_is_chosen() {
    let mut harness = app(Settings { auto_backbone: None, ..settings() });
    until(&mut harness, "models to be looked for", |viewer| !viewer.state.backbones.is_empty());
    let best = harness.state().state.backbones[0].clone();
    assert_eq!(harness.state().state.settings.backbone, best);
    assert!(harness.state().state.settings.is_auto_backbone());
    harness.state_mut().act(Action::UseBackbone(Backbone::from(&BICUBIC)));
    harness.step();
    harness.step();
    let chosen = harness.state().state.settings.clone();
    assert_eq!((chosen.backbone.clone(), chosen.is_auto_backbone()), (Backbone::from(&BICUBIC), false));
    harness.state_mut().act(Command::UseBestBackbone);
    until(&mut harness, "the best again", |viewer| viewer.state.settings.backbone == best);
}

#[test]
fn a_lora_of_ones_own_is_chosen_beside_its_model() {
    let folder = Folder::new();
    let (published, own) = (folder.path("sd3"), folder.path("run/checkpoints/model_5001.pkl"));
    synthetic::write(&published, Size::Tiny, &mut |_| {}).unwrap();
    std::fs::create_dir_all(own.parent().unwrap()).unwrap();
    std::fs::write(&own, "").unwrap();
    let sd3 = BackboneSpec::named("sd3").unwrap();
    let trained = Backbone::from(sd3).with("model", &published).with("lora", &own);
    let mut harness = app(settings());
    harness.state_mut().act(Action::UseBackbone(trained.clone()));
    harness.state_mut().act(Command::ToggleModels);
    until(&mut harness, "the model to be found", |viewer| {
        let found = viewer.state.found.diffusion.iter().find(|(spec, _)| *spec == sd3);
        matches!(found, Some((_, FoundBackbone::Whole(found))) if found.files.get("model") == Some(&*published))
    });
    harness.step();
    assert_eq!(harness.query_all_by_label("model_5001.pkl").count(), 1);
    assert_eq!(harness.state().state.settings.backbone, trained);
    let lora = sd3.files.iter().find(|file| file.role == "lora").unwrap();
    assert_eq!(Action::OpenBackboneFile(trained, lora).label(), "Open LoRA…");
}

#[test]
fn the_panel_tells_how_long_a_step_takes_before_one_has_run() {
    let folder = Folder::new();
    let mut harness = app(settings());
    super::open(&mut harness, &folder);
    until(&mut harness, "the estimate", |viewer| viewer.state.step_secs().is_some());
    assert!(harness.state().state.step_secs() > Some(0.0));
    assert!((10_000..100_000_000).contains(&harness.state().state.step_bytes().unwrap()));
    let told = harness.get_by_label_contains("a step on").accesskit_node().value().unwrap();
    assert!(told.contains("About ") && told.contains("B a step on"), "{told}");
}

/// A file of tests/parity.
fn network(name: &str) -> std::path::PathBuf {
    std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/parity/single_image").join(name)
}

#[test]
fn a_dropped_model_is_offered_and_used() {
    let folder = Folder::new();
    let mut harness = app(settings());
    super::open(&mut harness, &folder);
    let no_model = folder.path("page.pth");
    std::fs::write(&no_model, "<!DOCTYPE html><html></html>").unwrap();
    harness.state_mut().open_all(vec![network("span_x4.pth"), no_model.clone()]);
    until(&mut harness, "both to be looked up", |viewer| viewer.state.network_facts.len() == 2);
    assert!(harness.query_by_label("Add these models?").is_some());
    let line =
        harness.get_by_label_contains("SPAN \u{b7} \u{d7}4 \u{b7} 328 kB \u{b7} ").accesskit_node().value().unwrap();
    assert!(line.ends_with(" a step here"), "{line}");
    assert!(harness.query_by_label_contains("a web page").is_some(), "what is no model says so");
    harness.get_by_label("Add and use span_x4").click();
    harness.step();
    harness.step();
    assert!(harness.state().state.offered_models.is_empty());
    assert_eq!(harness.state().state.settings.backbone, Backbone::file(network("span_x4.pth")));
    assert!(!harness.state().state.settings.opened_models.contains(&Backbone::file(no_model)));
    drag(&mut harness, (180.0, 100.0), (212.0, 132.0));
    until(&mut harness, "a state", |viewer| count(viewer) == 2 && idle(viewer));
}

#[test]
fn networks_of_a_folder_are_listed_until_it_is_removed() {
    let (folder, data) = (Folder::new(), Folder::new());
    for name in ["span_x4.pth", "swinir_x1_jpeg.pth"] {
        std::fs::copy(network(name), folder.path(name)).unwrap();
    }
    std::fs::write(folder.path("notes.pth"), "not a model").unwrap();
    let keeps = || Persistence { sessions: Some(data.path("autosave")), ..Persistence::default() };
    let mut harness = app_that_keeps(settings(), keeps());
    harness.state_mut().act(Action::AddModelFolder(folder.path("")));
    harness.state_mut().act(Command::ToggleModels);
    let of_folder = |viewer: &chain_of_zoom::viewer::Viewer| {
        viewer
            .state
            .backbones
            .iter()
            .filter(|it| it.network_file().is_some_and(|file| file.starts_with(folder.path(""))))
            .count()
    };
    until(&mut harness, "the networks", |viewer| of_folder(viewer) == 2);
    let looked_up = |viewer: &chain_of_zoom::viewer::Viewer| {
        let known = |file: &std::path::Path| viewer.state.network_facts.contains_key(file);
        ["span_x4.pth", "swinir_x1_jpeg.pth"].iter().all(|name| known(&folder.path(name)))
    };
    until(&mut harness, "them to be looked up", looked_up);
    assert!(harness.query_by_label("Single-image networks").is_some());
    assert!(harness.query_by_label_contains("SwinIR \u{b7} cleans, does not enlarge").is_some());
    // Measured once on a machine: another window reads it.
    let text = || std::fs::read_to_string(data.path("networks.json")).unwrap_or_default();
    // All of the list, the one inside the program too: each that is kept writes the whole file.
    until(&mut harness, "all to be kept", |viewer| {
        let facts = &viewer.state.network_facts;
        let names = facts.iter().filter(|(_, known)| known.is_ok()).map(|(id, _)| id.display().to_string());
        facts.len() == viewer.state.networks().len() && names.into_iter().all(|name| text().contains(&name))
    });
    let text = text();
    let marked = text.replace("\"SPAN\"", "\"SPAN as remembered\"");
    std::fs::write(data.path("networks.json"), marked).unwrap();
    let model_folders = harness.state().state.settings.model_folders.clone();
    drop(harness);
    let mut harness = app_that_keeps(Settings { model_folders, ..settings() }, keeps());
    harness.state_mut().act(Command::ToggleModels);
    until(&mut harness, "them to be remembered", looked_up);
    harness.step();
    assert!(harness.query_by_label_contains("SPAN as remembered").is_some());
    harness.state_mut().act(Action::RemoveModelFolder(folder.path("")));
    until(&mut harness, "them to be gone", |viewer| of_folder(viewer) == 0);
}
