//! The first minute: a sample to try, the best model that is there, a better one to be got.

use egui_kittest::kittest::{NodeT, Queryable};

use super::{app, app_that_keeps, count, drag, idle, settings, until};
use crate::samples::Folder;
use chain_of_zoom::base::{BICUBIC, Backbone};
use chain_of_zoom::viewer::Persistence;
use chain_of_zoom::viewer::actions::Action;
use chain_of_zoom::viewer::commands::Command;
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
