//! How far results can be trusted: consistency, heat map, and comparing in place.

use super::*;
use crate::samples::sd3;
use chain_of_zoom::base::{MemoryPlan, NEAREST, Precision};
use chain_of_zoom::viewer::actions::Against;
use chain_of_zoom::viewer::commands::Command;
use chain_of_zoom::viewer::found_models::FoundBackbone;
use chain_of_zoom::viewer::state::State;

fn pixel(image: &image::RgbaImage, at: Pos2) -> [u8; 3] {
    let pixel = image.get_pixel(at.x as u32, at.y as u32).0;
    [pixel[0], pixel[1], pixel[2]]
}

/// A state made by nearest neighbour, so that it differs from bicubic in known places.
fn blocky(folder: &Folder) -> Harness<'static, Viewer> {
    let mut harness = app(Settings { backbone: Backbone::from(&NEAREST), ..settings() });
    open(&mut harness, folder);
    drag(&mut harness, (198.0, 132.0), (282.0, 216.0));
    until(&mut harness, "a state", |viewer| {
        let known = |d: &Document| d.examined(d.history.current().id).is_some();
        count(viewer) == 2 && idle(viewer) && viewer.state.document.as_ref().is_some_and(known)
    });
    harness.remove_cursor();
    harness.step();
    harness
}

#[test]
fn every_state_says_how_consistent_it_is() {
    let folder = Folder::new();
    let harness = blocky(&folder);
    let document = document(&harness);
    let examined = document.examined(StateId(1)).unwrap();
    let consistency = examined.consistency.as_ref().unwrap();
    let recorded = document.history.current().record.as_ref().unwrap().consistency.unwrap();
    assert!((consistency.with_parent - recorded).abs() < 1e-9);
    assert_eq!(consistency.with_photo, consistency.with_parent, "one step down, the photo is the parent");
    harness.get_by_label_contains("with the photo");
    harness.get_by_label_contains("Rests on 84 x 84 pixels");
}

#[test]
fn the_reference_shows_while_its_key_is_held_in_a_split_and_in_a_lens() {
    let folder = Folder::new();
    let mut harness = blocky(&folder);
    let canvas = harness.get_by_label("Canvas").rect();
    let own = harness.render().unwrap();
    // The same place of the picture, drawn plainly.
    harness.key_down(Key::C);
    harness.step();
    let flipped = harness.render().unwrap();
    harness.key_up(Key::C);
    harness.step();
    let differ = |a: &image::RgbaImage, b: &image::RgbaImage, rect: egui::Rect| {
        let mut count = 0;
        for y in (rect.top() as u32 + 40..rect.bottom() as u32 - 8).step_by(5) {
            for x in (rect.left() as u32 + 8..rect.right() as u32 - 8).step_by(5) {
                let at = Pos2::new(x as f32, y as f32);
                count += u32::from(pixel(a, at).iter().zip(pixel(b, at)).any(|(a, b)| a.abs_diff(b) > 6));
            }
        }
        count
    };
    let half = |left: bool| {
        let mut rect = canvas.shrink2(vec2(140.0, 60.0));
        if left {
            rect.max.x = canvas.center().x - 16.0
        } else {
            rect.min.x = canvas.center().x + 16.0
        }
        rect
    };
    let both = [half(true), half(false)].map(|half| differ(&own, &flipped, half));
    assert!(both.iter().all(|&count| count > 50), "{both:?} places differ");
    assert_eq!(differ(&own, &harness.render().unwrap(), canvas), 0, "let go, all is as before");

    harness.state_mut().act(Command::CompareSplit);
    harness.step();
    harness.step();
    let split = harness.render().unwrap();
    assert_eq!(differ(&own, &split, half(true)), 0, "left of the slider is the state");
    assert_eq!(differ(&flipped, &split, half(false)), 0, "right of it the reference");
    // The slider is dragged.
    let from = Pos2::new(canvas.center().x, canvas.center().y);
    harness.hover_at(from);
    harness.step();
    button(&mut harness, from, PointerButton::Primary, true);
    harness.hover_at(from - vec2(200.0, 0.0));
    harness.step();
    harness.step();
    button(&mut harness, from - vec2(200.0, 0.0), PointerButton::Primary, false);
    assert!((harness.state().state.split - (0.5 - 200.0 / canvas.width())).abs() < 0.02);
    assert_eq!(count(harness.state()), 2, "dragging the slider draws no box");

    harness.state_mut().act(Command::CompareLens);
    let at = on_window(&harness, 212.0, 152.0);
    harness.hover_at(at);
    harness.step();
    harness.step();
    let lens = harness.render().unwrap();
    let inside = egui::Rect::from_center_size(at, vec2(200.0, 200.0));
    let outside = egui::Rect::from_min_max(Pos2::new(at.x + 160.0, canvas.min.y), canvas.max - vec2(180.0, 0.0));
    // The box hinted at the pointer is drawn over it.
    assert!(differ(&flipped, &lens, inside) < differ(&own, &lens, inside));
    assert_eq!(differ(&own, &lens, outside), 0);
}

#[test]
fn the_photo_behind_the_view_and_the_heat_are_shown() {
    let folder = Folder::new();
    let mut harness = blocky(&folder);
    let photo = document(&harness).history.photo().picture.load().unwrap();
    let region = document(&harness).history.current().record.as_ref().unwrap().region;
    harness.key_down(Key::E);
    harness.step();
    let shown = harness.render().unwrap();
    harness.key_up(Key::E);
    // The middle of a pixel of the photo, on the window.
    let (x, y) = (region.x + 20, region.y + 9);
    let at = on_window(&harness, f64::from(x) + 0.5, f64::from(y) + 0.5);
    assert_eq!(pixel(&shown, at), photo.pixel(x, y), "the photo's own pixel, crisp");
    let [across, down] = document(&harness).source_pixels_in_view();
    assert!((across - 84.0).abs() < 1.0 && (down - 84.0).abs() < 1.0, "{across} {down}");

    harness.key_down(Key::X);
    harness.step();
    let heat = document(&harness).examined(StateId(1)).unwrap().consistency.as_ref().unwrap().heat.clone();
    let hot = harness.render().unwrap();
    harness.key_up(Key::X);
    let (a, b) = (pixel(&hot, at), heat.pixel(20, 9));
    assert!(a.iter().zip(b).all(|(a, b)| a.abs_diff(b) < 12), "{a:?} {b:?}");

    // Against another state, which is gone after a while: then there is nothing to show, and nothing breaks.
    harness.state_mut().act(Action::CompareWith(Against::State(StateId(0))));
    harness.state_mut().act(Command::CompareSplit);
    harness.step();
    harness.step();
    harness.render().unwrap();
    harness.state_mut().act(Action::CompareWith(Against::State(StateId(99))));
    harness.step();
    harness.step();
    harness.render().unwrap();
}

#[test]
fn the_reference_model_is_given_the_prompt() {
    let folder = Folder::new();
    let tiny = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/sd3");
    let backbone = sd3(&tiny, Precision::Auto);
    let is_there = |role: &str| backbone.files.get(role).is_some_and(|file| file.starts_with(&tiny));
    assert!(is_there("lora") && is_there("vae"), "they lie in the folder");
    let mut harness = app(Settings { process_size: 64, ..settings() });
    harness.state_mut().act(Action::UseBackbone(backbone));
    open(&mut harness, &folder);
    for (number, prompt) in [(2, "fur"), (3, "teeth in the snow")] {
        harness.state_mut().act(Action::GoTo(StateId(0)));
        harness.state_mut().state.choices.draft = prompt.into();
        harness.step();
        harness.state_mut().act(Action::PlaceBox(StateId(0), chain_of_zoom::base::Region::square(100, 50, 16)));
        until(&mut harness, "the state", |viewer| count(viewer) == number && idle(viewer));
        assert_eq!(document(&harness).history.current().record.as_ref().unwrap().prompt, prompt);
    }
    let history = &document(&harness).history;
    let (first, second) = (history.get(StateId(1)).unwrap(), history.get(StateId(2)).unwrap());
    assert_eq!(first.record.as_ref().unwrap().region, second.record.as_ref().unwrap().region);
    assert_ne!(first.picture.load().unwrap(), second.picture.load().unwrap(), "another prompt, another picture");
    assert!(first.record.as_ref().unwrap().model.as_ref().unwrap().backbone.takes_prompt());
}

/// What was found of Chain-of-Zoom's own model, once it was looked for.
fn found(state: &State) -> Option<&FoundBackbone> {
    state.found.diffusion.iter().find(|(spec, _)| spec.id == "sd3").map(|(_, found)| found)
}

#[test]
fn the_models_window_shows_what_is_there_and_what_is_missing() {
    let tiny = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/sd3");
    let backbone = sd3(&tiny, Precision::Auto);
    let folder = Folder::new();
    let mut harness = app(Settings { process_size: 64, ..settings() });
    open(&mut harness, &folder);

    // A folder in which one file is missing: named, and not to be chosen.
    let partial = folder.path("partial");
    for part in ["tokenizer", "tokenizer_2", "tokenizer_3", "text_encoder", "text_encoder_2", "text_encoder_3", "vae"] {
        std::fs::create_dir_all(partial.join(part)).unwrap();
        for file in std::fs::read_dir(tiny.join(part)).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), partial.join(part).join(file.file_name())).unwrap();
        }
    }
    std::fs::create_dir(partial.join("transformer")).unwrap();
    std::fs::copy(tiny.join("transformer/config.json"), partial.join("transformer/config.json")).unwrap();
    harness.state_mut().act(Action::UseBackbone(backbone.clone().with("model", partial)));
    harness.state_mut().act(Command::ToggleModels);
    until(&mut harness, "the look", |viewer| matches!(found(&viewer.state), Some(FoundBackbone::Incomplete(..))));
    assert_eq!(
        harness.query_all_by_label_contains("Missing: transformer/diffusion_pytorch_model.safetensors").count(),
        1
    );

    // The whole one: chosen, loaded with the next step, ready by the plan that was chosen.
    harness.state_mut().act(Action::UseBackbone(backbone.clone()));
    until(&mut harness, "the look", |viewer| found(&viewer.state) == Some(&FoundBackbone::Whole(backbone.clone())));
    assert_eq!(harness.query_all_by_label_contains("Will be loaded onto cpu").count(), 1);
    harness.get_by_label("streamed").click();
    harness.get_by_label("fp32").click();
    harness.step();
    harness.step();
    assert_eq!(harness.state().state.settings.memory, MemoryPlan::Streamed);
    let chosen = harness.state().state.settings.backbone.clone();
    assert_eq!((chosen.spec, chosen.precision), (backbone.spec, Precision::Fp32));
    harness.state_mut().act(Action::PlaceBox(StateId(0), chain_of_zoom::base::Region::square(100, 50, 16)));
    until(&mut harness, "the state", |viewer| count(viewer) == 2 && idle(viewer));
    assert_eq!(harness.query_all_by_label_contains("Ready on cpu, memory plan streamed").count(), 1);
    harness.state_mut().act(Command::Cancel);
    harness.step();
    assert!(!harness.state().state.models, "Esc closes it");
}
