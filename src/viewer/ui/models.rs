//! The window with the models: which there are, what is found of them, in which numbers they compute, what stays in
//! memory.

use std::path::{Path, PathBuf};

use egui::{Align2, Grid, Label, RichText, Window};

use super::dim;
use crate::prompt::ExtractorKind;
use crate::step::{Backbone, MemoryPlan, Precision, Sd3Files};
use crate::viewer::actions::Action;
use crate::viewer::state::FoundSd3;
use crate::viewer::{Viewer, theme};

/// Missing files that are named.
const NAMED: usize = 4;

pub fn show(viewer: &mut Viewer, ui: &egui::Ui) {
    let mut open = viewer.state.models;
    let window = Window::new("Models and memory").open(&mut open).collapsible(false).resizable(false);
    window.anchor(Align2::CENTER_CENTER, egui::Vec2::ZERO).show(ui.ctx(), |ui| {
        ui.set_width(480.0);
        let best = viewer
            .state
            .backbones
            .first()
            .map_or("Best on this machine".into(), |backbone| format!("Best on this machine: {}", backbone.name()));
        if ui.radio(viewer.state.uses_best(), RichText::new(best).strong()).clicked() {
            viewer.actions.push(Action::UseBestBackbone);
        }
        super::top_bar::get_realesrgan(viewer, ui);
        ui.separator();
        entry(viewer, ui, Backbone::BuiltIn, "Inside the program: fast, takes no prompt.");
        ui.separator();
        let chosen = Some(viewer.state.settings.backbone.clone());
        let known = viewer.state.backbones.clone();
        for backbone in known.iter().chain(chosen.iter().filter(|chosen| !known.contains(chosen))) {
            if let Backbone::File(file) = backbone {
                entry(viewer, ui, backbone.clone(), &file.display().to_string());
            }
        }
        ui.label(dim(ui, "Real-ESRGAN, RRDB or SRVGG compact, .pth, .safetensors or ncnn's .param: take no prompt."));
        button(viewer, ui, Action::OpenModel);
        ui.separator();
        sd3(viewer, ui);
        ui.separator();
        words(viewer, ui);
    });
    // The buttons inside close it too.
    viewer.state.models &= open;
}

fn button(viewer: &mut Viewer, ui: &mut egui::Ui, action: Action) {
    if ui.button(action.label()).clicked() {
        viewer.actions.push(action);
    }
}

/// A model that can be chosen, what is known of it, and its state.
fn entry(viewer: &mut Viewer, ui: &mut egui::Ui, backbone: Backbone, about: &str) {
    let is_chosen = viewer.state.settings.backbone == backbone;
    if ui.radio(is_chosen && !viewer.state.uses_best(), RichText::new(backbone.name()).strong()).clicked() {
        viewer.actions.push(Action::UseBackbone(backbone.clone()));
    }
    ui.add(Label::new(dim(ui, about)).wrap());
    if is_chosen {
        ui.label(dim(ui, state(viewer, &backbone)));
    }
}

/// Whether the chosen model is ready, in words.
fn state(viewer: &Viewer, backbone: &Backbone) -> String {
    let loading = viewer.state.running.as_ref().and_then(|running| running.loading);
    let memory = viewer.state.memory.map(|(_, bytes)| format!(", {:.1} GB in use", bytes as f64 / 1e9));
    let device = viewer.state.device_name();
    match &viewer.state.loaded {
        _ if let Some(fraction) = loading => format!("Loading: {:.0} %", fraction * 100.0),
        Some((loaded, plan)) if loaded == backbone => {
            let plan = plan.map(|plan| format!(", memory plan {plan}")).unwrap_or_default();
            format!("Ready on {device}{plan}{}", memory.unwrap_or_default())
        }
        _ => format!("Will be loaded onto {device} with the next step"),
    }
}

fn sd3(viewer: &mut Viewer, ui: &mut egui::Ui) {
    match viewer.state.sd3.clone() {
        None => {
            ui.label(RichText::new("Chain-of-Zoom SD3").strong());
            ui.label(dim(ui, "Looking for it…"));
        }
        Some(FoundSd3::Nothing(problem)) => {
            ui.label(RichText::new("Chain-of-Zoom SD3").strong());
            ui.add(Label::new(dim(ui, problem.details)).wrap());
        }
        Some(FoundSd3::Incomplete(files, missing)) => {
            ui.label(RichText::new("Chain-of-Zoom SD3").strong());
            ui.add(Label::new(dim(ui, files.model.display().to_string())).wrap());
            ui.add(Label::new(RichText::new(incomplete(&files, &missing)).small().color(theme::ERROR)).wrap());
        }
        Some(FoundSd3::Whole(files)) => whole(viewer, ui, files),
    }
    ui.horizontal(|ui| {
        button(viewer, ui, Action::ToggleDownloads);
        button(viewer, ui, Action::OpenSd3);
        button(viewer, ui, Action::LookForModels);
    });
}

/// What finds words for a step.
fn words(viewer: &mut Viewer, ui: &mut egui::Ui) {
    ui.label(RichText::new("Words for a step").strong());
    for (kind, name, about) in [
        (ExtractorKind::Own, "My own", "Or none."),
        (ExtractorKind::Tags, "Tags, by RAM with DAPE", "Quick; names what is in the box."),
        (ExtractorKind::Vlm, "Qwen2.5-VL", "Describes it; 8 GB in 16 bits, while it is at work."),
        (ExtractorKind::Tuned, "Qwen2.5-VL, tuned", "With Chain-of-Zoom's adapter, which was trained for this."),
    ] {
        let is_chosen = viewer.state.settings.extractor.kind() == kind;
        let found = viewer.state.words.iter().find(|(of, _)| *of == kind).map(|(_, found)| found.clone());
        ui.horizontal(|ui| {
            if ui.radio(is_chosen, name).on_hover_text(about).clicked() && !is_chosen {
                viewer.actions.push(Action::UseWords(kind));
            }
            if kind != ExtractorKind::Own {
                let open = Action::OpenWords(kind);
                if ui.small_button("Open\u{2026}").on_hover_text(open.label()).clicked() {
                    viewer.actions.push(open);
                }
            }
            match found {
                Some(Ok(place)) => {
                    ui.label(dim(ui, name_of(&place))).on_hover_text(place.display().to_string());
                }
                Some(Err(problem)) => {
                    ui.label(dim(ui, "not found")).on_hover_text(problem.details);
                }
                None => {}
            }
        });
    }
}

/// What a model's folder or file is called; in the hub's cache the model, not the commit.
fn name_of(place: &Path) -> String {
    let of = |path: &Path| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let snapshots = place.parent().filter(|parent| parent.ends_with("snapshots"));
    match snapshots.and_then(Path::parent).map(of) {
        Some(repository) => repository.trim_start_matches("models--").replace("--", "/"),
        None => of(place),
    }
}

fn incomplete(files: &Sd3Files, missing: &[PathBuf]) -> String {
    let name = |file: &PathBuf| file.strip_prefix(&files.model).unwrap_or(file).display().to_string();
    let named: Vec<String> = missing.iter().take(NAMED).map(name).collect();
    let more = missing.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("Missing: {}{more}", named.join(", "))
}

fn whole(viewer: &mut Viewer, ui: &mut egui::Ui, files: Sd3Files) {
    // The choice of numbers is kept with the files.
    let files = match &viewer.state.settings.backbone {
        Backbone::Sd3(chosen) if chosen.model == files.model => chosen.clone(),
        _ => files,
    };
    let told = |file: &Option<PathBuf>, without: &str| match file {
        Some(file) => file.display().to_string(),
        None => without.to_owned(),
    };
    let about = format!(
        "{}\nLoRA: {}\nEncoder: {}",
        files.model.display(),
        told(&files.lora, "not found: the plain model, which is no good at this"),
        told(&files.vae, "not found: the plain one"),
    );
    entry(viewer, ui, Backbone::Sd3(files.clone()), &about);
    Grid::new("sd3").num_columns(2).spacing([16.0, 8.0]).show(ui, |ui| {
        ui.label("Numbers");
        ui.horizontal(|ui| {
            for (precision, name) in Precision::ALL {
                let about = match precision {
                    Precision::Auto => "bf16 where the files hold 16 bits and the device is fast in it, else fp32",
                    Precision::Fp32 => "As the reference; twice the memory",
                    Precision::Fp16 => "16 bits; for graphics cards without bf16",
                    Precision::Bf16 => "16 bits with the range of 32",
                };
                if ui.radio(files.precision == precision, name).on_hover_text(about).clicked() {
                    let files = Sd3Files { precision, ..files.clone() };
                    viewer.actions.push(Action::UseBackbone(Backbone::Sd3(files)));
                }
            }
        });
        ui.end_row();
        ui.label("Memory");
        ui.horizontal(|ui| {
            for (plan, name) in MemoryPlan::ALL {
                let about = match plan {
                    MemoryPlan::Auto => "By the free memory",
                    MemoryPlan::Resident => "All weights stay: fastest, 17 GB in 16 bits",
                    MemoryPlan::Staged => "Text encoders are read for each new prompt: about 7 GB",
                    MemoryPlan::Streamed => "Every layer is read when it is its turn: 2 to 3 GB",
                };
                if ui.radio(viewer.state.settings.memory == plan, name).on_hover_text(about).clicked() {
                    viewer.actions.push(Action::UseMemory(plan));
                }
            }
        });
        ui.end_row();
        ui.label("Whole images");
        ui.horizontal(|ui| {
            let exact = &mut viewer.state.settings.tiling.exact;
            ui.radio_value(exact, false, "fast")
                .on_hover_text("As the reference: tiles know of each other by a small copy");
            ui.radio_value(exact, true, "exact")
                .on_hover_text("As if there were no tiles; takes several times as long");
        });
        ui.end_row();
    });
}
