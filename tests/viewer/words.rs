//! Words in the panel: found by models as one watches, stopped, edited, found anew, and heard by the step.

use std::path::Path;

use chain_of_zoom::hub::Part;
use chain_of_zoom::prompt::vlm::VlmFiles;
use chain_of_zoom::prompt::{Extractor, ExtractorKind, Places};
use chain_of_zoom::random::{self, Size};
use chain_of_zoom::step::MemoryPlan;

use super::*;

fn models(folder: &Folder) -> (std::path::PathBuf, Places) {
    let model = folder.path("model");
    random::write(&model, Size::Tiny, &mut |_| {}).unwrap();
    let ckpt = |name: &str| Some(model.join("ckpt").join(name));
    let places = Places {
        vlm: Some(model.join("vlm")),
        adapter: ckpt("VLM_LoRA/checkpoint-10000"),
        ram: ckpt("RAM/ram_swin_large_14m.pth"),
        dape: ckpt("DAPE/DAPE.pth"),
        ..Places::default()
    };
    (model, places)
}

fn vlm(model: &Path) -> Extractor {
    Extractor::Vlm(VlmFiles { model: model.join("vlm"), adapter: None, precision: Default::default() })
}

fn prompt(harness: &Harness<'_, Viewer>) -> String {
    document(harness).history.current().making.as_ref().unwrap().prompt.clone()
}

fn found(harness: &Harness<'_, Viewer>) -> String {
    harness.state().state.found.clone()
}

#[test]
fn words_are_written_edited_and_heard() {
    let folder = Folder::new();
    let (model, places) = models(&folder);
    let extractor = vlm(&model);
    let mut harness = app(Settings { ask_first: true, extractor, places, backbone: Backbone::Bicubic, ..settings() });
    // A random model writes bytes that are no letters.
    harness.ctx.set_missing_glyph_policy(egui::MissingGlyphPolicy::Tofu);
    open(&mut harness, &folder);
    drag(&mut harness, (100.0, 100.0), (132.0, 132.0));
    until(&mut harness, "some words", |viewer| !viewer.state.found.is_empty());
    assert_eq!(count(harness.state()), 1, "the box waits");
    until(&mut harness, "all words", idle);
    let likeliest = found(&harness);
    assert!(likeliest.len() > 10, "{likeliest}");

    // Anew, and differently; the field shows them.
    harness.state_mut().state.settings.temperature = 1.0;
    harness.get_by_label("Other words").click();
    harness.step();
    let is_other = |viewer: &Viewer| !viewer.state.found.is_empty() && viewer.state.found != likeliest;
    until(&mut harness, "other words", |viewer| idle(viewer) && is_other(viewer));
    let other = found(&harness);
    assert!(harness.get_by_label("Words found for the box").value().is_some_and(|value| value == other));

    // Edited, with words of one's own: the step hears both.
    harness.state_mut().state.found = "fur".into();
    harness.state_mut().state.draft = "an old fox".into();
    harness.step();
    harness.state_mut().act(Action::Run);
    until(&mut harness, "the step", |viewer| count(viewer) == 2 && idle(viewer));
    assert_eq!(prompt(&harness), "fur, an old fox,");

    // Its words are as they are when it is made again.
    harness.state_mut().act(Action::RunAgain);
    until(&mut harness, "the sibling", |viewer| count(viewer) == 3 && idle(viewer));
    assert_eq!(prompt(&harness), "fur, an old fox,");

    // Straight through, another box asks for itself.
    harness.state_mut().state.settings.ask_first = false;
    harness.state_mut().act(Action::Go(Direction::Photo));
    harness.step();
    drag(&mut harness, (300.0, 200.0), (332.0, 232.0));
    until(&mut harness, "the step", |viewer| count(viewer) == 4 && idle(viewer));
    let straight = prompt(&harness);
    assert!(straight.ends_with(", an old fox,") && !straight.starts_with("fur,"), "{straight}");
}

#[test]
fn writing_is_stopped_and_what_is_there_stays() {
    let folder = Folder::new();
    let (model, places) = models(&folder);
    let memory = MemoryPlan::Streamed;
    let base = Settings { ask_first: true, work_ahead: false, memory, ..settings() };
    let settings = Settings { extractor: vlm(&model), places, ..base };
    let mut harness = app(Settings { backbone: Backbone::Bicubic, ..settings });
    harness.ctx.set_missing_glyph_policy(egui::MissingGlyphPolicy::Tofu);
    open(&mut harness, &folder);
    // A tiny model has soon said all, even where its layers are read for each token; some of the tries stop it before.
    let mut was_stopped = false;
    for i in 0..40 {
        let x = 20.0 + 10.0 * f64::from(i);
        harness.state_mut().state.found.clear();
        drag(&mut harness, (x, 100.0), (x + 32.0, 132.0));
        until(&mut harness, "some words", |viewer| !viewer.state.found.is_empty());
        harness.state_mut().act(Action::StopWords);
        until(&mut harness, "the end", idle);
        let stopped = found(&harness);
        assert!(document(&harness).placed.is_some() && !stopped.is_empty());
        harness.state_mut().state.found.clear();
        drag(&mut harness, (x, 100.0), (x + 32.0, 132.0));
        until(&mut harness, "all words", |viewer| idle(viewer) && !viewer.state.found.is_empty());
        let all = found(&harness);
        assert!(all.starts_with(&stopped), "{stopped:?} {all:?}");
        was_stopped |= stopped.len() < all.len() / 2;
        if was_stopped {
            break;
        }
    }
    assert!(was_stopped);
    // Enter while they are written: the step waits for them.
    drag(&mut harness, (100.0, 200.0), (132.0, 232.0));
    harness.state_mut().act(Action::Run);
    until(&mut harness, "the step", |viewer| count(viewer) == 2 && idle(viewer));
    assert!(!prompt(&harness).is_empty());
}

#[test]
fn what_finds_words_is_chosen_in_the_panel() {
    let folder = Folder::new();
    let (model, places) = models(&folder);
    let mut harness = app(Settings { places: places.clone(), backbone: Backbone::Bicubic, ..settings() });
    harness.ctx.set_missing_glyph_policy(egui::MissingGlyphPolicy::Tofu);
    open(&mut harness, &folder);
    let mut prompts = Vec::new();
    for (name, kind) in [("tags", ExtractorKind::Tags), ("VLM", ExtractorKind::Vlm), ("tuned", ExtractorKind::Tuned)] {
        harness.get_by_label(name).click();
        harness.step();
        until(&mut harness, name, |viewer| viewer.state.settings.extractor.kind() == kind);
        harness.state_mut().act(Action::Go(Direction::Photo));
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
    harness.state_mut().act(Action::Go(Direction::Photo));
    harness.step();
    let before = count(harness.state());
    drag(&mut harness, (200.0, 100.0), (232.0, 132.0));
    until(&mut harness, "the step", |viewer| count(viewer) == before + 1 && idle(viewer));
    assert_ne!(prompt(&harness), prompts[2]);

    // What is not there is told, and what was chosen stays.
    std::fs::remove_dir_all(model.join("vlm")).unwrap();
    harness.get_by_label("VLM").click();
    harness.step();
    until(&mut harness, "the message", |viewer| !viewer.state.messages.is_empty());
    let Some(Message::Problem(problem)) = harness.state().state.messages.last() else { panic!("no problem") };
    assert!(problem.details.contains("vlm") && problem.hint.contains("Qwen2.5-VL"), "{problem:?}");
    assert_eq!(harness.state().state.settings.extractor.kind(), ExtractorKind::Tuned);
}

#[test]
fn what_can_be_got_is_shown_with_what_is_there() {
    let mut harness = app(settings());
    harness.state_mut().act(Action::ToggleDownloads);
    until(&mut harness, "the parts to be looked for", |viewer| viewer.state.parts.len() == Part::ALL.len());
    for part in Part::ALL {
        harness.get_by_label(part.title());
    }
    // Its own folder or cache may hold some; what is missing has a button of its own.
    let missing: Vec<Part> =
        harness.state().state.parts.iter().filter(|(_, found)| !found.is_whole()).map(|(part, _)| *part).collect();
    for part in &missing {
        harness.get_all_by_label_contains(&format!("Get {}", part.title())).next().unwrap();
    }
    harness.key_press(Key::Escape);
    until(&mut harness, "the window to close", |viewer| !viewer.state.downloads);
    assert!(harness.query_by_label(Part::Sd3.title()).is_none());
}
