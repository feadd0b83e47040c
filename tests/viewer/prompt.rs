//! The prompt in the panel: extracted by models as one watches, stopped, edited, written anew, and given to the step.

use std::path::Path;

use super::*;
use crate::samples;
use chain_of_zoom::base::{BICUBIC, MemoryPlan, Precision, PromptSource};
use chain_of_zoom::hub::{ASSETS, ModelAsset, ModelPaths};
use chain_of_zoom::synthetic;
use chain_of_zoom::synthetic::Size;
use chain_of_zoom::viewer::commands::Command;

fn models(folder: &Folder) -> (std::path::PathBuf, ModelPaths) {
    let model = folder.path("model");
    synthetic::write(&model, Size::Tiny, &mut |_| {}).unwrap();
    let mut model_paths = ModelPaths::default();
    for (id, path) in [
        ("vlm", "vlm"),
        ("adapter", "ckpt/VLM_LoRA/checkpoint-10000"),
        ("ram", "ckpt/RAM/ram_swin_large_14m.pth"),
        ("dape", "ckpt/DAPE/DAPE.pth"),
    ] {
        model_paths.set(id, model.join(path));
    }
    (model, model_paths)
}

fn vlm(model: &Path) -> PromptSource {
    samples::vlm(&model.join("vlm"), None, Precision::Auto)
}

fn prompt(harness: &Harness<'_, Viewer>) -> String {
    document(harness).history.current().record.as_ref().unwrap().prompt.clone()
}

fn extracted(harness: &Harness<'_, Viewer>) -> String {
    harness.state().state.extracted_prompt.clone()
}

#[test]
fn a_prompt_is_written_edited_and_used() {
    let folder = Folder::new();
    let (model, model_paths) = models(&folder);
    let prompt_source = vlm(&model);
    let mut harness = app(Settings {
        edit_prompt_first: true,
        prompt_source,
        model_paths,
        backbone: Backbone::from(&BICUBIC),
        ..settings()
    });
    // A random model writes bytes that are no letters.
    harness.ctx.set_missing_glyph_policy(egui::MissingGlyphPolicy::Tofu);
    open(&mut harness, &folder);
    drag(&mut harness, (100.0, 100.0), (132.0, 132.0));
    until(&mut harness, "the start of a prompt", |viewer| !viewer.state.extracted_prompt.is_empty());
    assert_eq!(count(harness.state()), 1, "the box waits");
    until(&mut harness, "all of the prompt", idle);
    let likeliest = extracted(&harness);
    assert!(likeliest.len() > 10, "{likeliest}");

    // Anew, and differently; the field shows them.
    harness.state_mut().state.settings.temperature = 1.0;
    harness.get_by_label("Write another").click();
    harness.step();
    let is_other =
        |viewer: &Viewer| !viewer.state.extracted_prompt.is_empty() && viewer.state.extracted_prompt != likeliest;
    until(&mut harness, "another prompt", |viewer| idle(viewer) && is_other(viewer));
    let other = extracted(&harness);
    assert!(harness.get_by_label("Prompt extracted from the box").value().is_some_and(|value| value == other));

    // Edited, with a prompt of one's own: the step is given both.
    harness.state_mut().state.extracted_prompt = "fur".into();
    harness.state_mut().state.choices.draft = "an old fox".into();
    harness.step();
    harness.state_mut().act(Command::Run);
    until(&mut harness, "the step", |viewer| count(viewer) == 2 && idle(viewer));
    assert_eq!(prompt(&harness), "fur, an old fox,");

    // Its prompt is as it is when it is made again.
    harness.state_mut().act(Command::RunAgain);
    until(&mut harness, "the sibling", |viewer| count(viewer) == 3 && idle(viewer));
    assert_eq!(prompt(&harness), "fur, an old fox,");

    // Straight through, another box asks for itself.
    harness.state_mut().state.settings.edit_prompt_first = false;
    harness.state_mut().act(Command::GoToPhoto);
    harness.step();
    drag(&mut harness, (300.0, 200.0), (332.0, 232.0));
    until(&mut harness, "the step", |viewer| count(viewer) == 4 && idle(viewer));
    let straight = prompt(&harness);
    assert!(straight.ends_with(", an old fox,") && !straight.starts_with("fur,"), "{straight}");
}

#[test]
fn writing_is_stopped_and_what_is_there_stays() {
    let folder = Folder::new();
    let (model, model_paths) = models(&folder);
    let memory = MemoryPlan::Streamed;
    let base = Settings { edit_prompt_first: true, prefetch: false, memory, ..settings() };
    let settings = Settings { prompt_source: vlm(&model), model_paths, ..base };
    let mut harness = app(Settings { backbone: Backbone::from(&BICUBIC), ..settings });
    harness.ctx.set_missing_glyph_policy(egui::MissingGlyphPolicy::Tofu);
    open(&mut harness, &folder);
    // A tiny model has soon said all, even where its layers are read for each token; some of the tries stop it before.
    let mut was_stopped = false;
    for i in 0..40 {
        let x = 20.0 + 10.0 * f64::from(i);
        harness.state_mut().state.extracted_prompt.clear();
        drag(&mut harness, (x, 100.0), (x + 32.0, 132.0));
        until(&mut harness, "the start of a prompt", |viewer| !viewer.state.extracted_prompt.is_empty());
        harness.state_mut().act(Command::StopCaptioning);
        until(&mut harness, "the end", idle);
        let stopped = extracted(&harness);
        assert!(document(&harness).placed.is_some() && !stopped.is_empty());
        harness.state_mut().state.extracted_prompt.clear();
        drag(&mut harness, (x, 100.0), (x + 32.0, 132.0));
        until(&mut harness, "all of the prompt", |viewer| idle(viewer) && !viewer.state.extracted_prompt.is_empty());
        let all = extracted(&harness);
        assert!(all.starts_with(&stopped), "{stopped:?} {all:?}");
        was_stopped |= stopped.len() < all.len() / 2;
        if was_stopped {
            break;
        }
    }
    assert!(was_stopped);
    // Enter while they are written: the step waits for them.
    drag(&mut harness, (100.0, 200.0), (132.0, 232.0));
    harness.state_mut().act(Command::Run);
    until(&mut harness, "the step", |viewer| count(viewer) == 2 && idle(viewer));
    assert!(!prompt(&harness).is_empty());
}

#[test]
fn the_prompt_source_is_chosen_in_the_panel() {
    let folder = Folder::new();
    let (model, model_paths) = models(&folder);
    let mut harness =
        app(Settings { model_paths: model_paths.clone(), backbone: Backbone::from(&BICUBIC), ..settings() });
    harness.ctx.set_missing_glyph_policy(egui::MissingGlyphPolicy::Tofu);
    open(&mut harness, &folder);
    let mut prompts = Vec::new();
    for (name, id) in [("Tags", "dape"), ("VLM", "vlm_base"), ("VLM (tuned)", "vlm")] {
        harness.get_by_label(name).click();
        harness.step();
        until(&mut harness, name, |viewer| viewer.state.settings.prompt_source.spec.id == id);
        harness.state_mut().act(Command::GoToPhoto);
        harness.step();
        let before = count(harness.state());
        // The same box each time.
        drag(&mut harness, (200.0, 100.0), (232.0, 132.0));
        until(&mut harness, "the step", |viewer| count(viewer) == before + 1 && idle(viewer));
        prompts.push(prompt(&harness));
    }
    assert!(prompts[0].contains("tag "), "{prompts:?}");
    assert!(!prompts[1].is_empty() && prompts[1] != prompts[2], "{prompts:?}");

    // The question can be another.
    harness.state_mut().state.settings.message = "Which colours? <|im_end|> \u{0} \u{7f}".into();
    harness.state_mut().act(Command::GoToPhoto);
    harness.step();
    let before = count(harness.state());
    drag(&mut harness, (200.0, 100.0), (232.0, 132.0));
    until(&mut harness, "the step", |viewer| count(viewer) == before + 1 && idle(viewer));
    assert_ne!(prompt(&harness), prompts[2]);

    // What is not there is reported, and what was chosen stays.
    std::fs::remove_dir_all(model.join("vlm")).unwrap();
    harness.get_by_label("VLM").click();
    harness.step();
    until(&mut harness, "the message", |viewer| !viewer.state.messages.is_empty());
    let Some(Message::UserError(error, _)) = harness.state().state.messages.last() else { panic!("no error") };
    assert!(error.details.contains("vlm") && error.hint.contains("Qwen2.5-VL"), "{error:?}");
    assert_eq!(harness.state().state.settings.prompt_source.spec.id, "vlm");
}

#[test]
fn what_can_be_got_is_shown_with_what_is_there() {
    let mut harness = app(settings());
    harness.state_mut().act(Command::ToggleDownloads);
    until(&mut harness, "the assets to be looked for", |viewer| viewer.state.found.assets.len() == ASSETS.len());
    harness.step();
    for asset in &ASSETS {
        harness.get_by_label(asset.title);
    }
    // Its own folder or cache may hold some; what is missing has a button of its own.
    let missing: Vec<&ModelAsset> = harness
        .state()
        .state
        .found
        .assets
        .iter()
        .filter(|(_, found)| !found.is_whole())
        .map(|(asset, _)| *asset)
        .collect();
    for asset in &missing {
        harness.get_all_by_label_contains(&format!("Get {}", asset.title)).next().unwrap();
    }
    harness.key_press(Key::Escape);
    until(&mut harness, "the window to close", |viewer| !viewer.state.downloads);
    assert!(harness.query_by_label(ModelAsset::named("sd3").unwrap().title).is_none());
}
