//! The window with the models: which there are, what is found of them, in which numbers they compute, what stays in
//! memory.

use std::path::{Path, PathBuf};

use egui::{Align2, DragValue, Grid, Label, RichText, ScrollArea, Window};
use egui_material_icons::icons as icon;
use strum::VariantArray;

use super::dim;
use crate::base::{
    BACKBONES, Backbone, BackboneKind, BackboneSpec, FILE, FileSpec, MemoryPlan, PROMPT_SOURCES, Precision, VaeMode,
    bytes_label,
};
use crate::hub::ModelAsset;
use crate::viewer::actions::Action;
use crate::viewer::commands::Command;
use crate::viewer::found_models::FoundBackbone;
use crate::viewer::settings::PICTURE_MEMORY_MB;
use crate::viewer::{Viewer, network_facts, theme};

/// The list of networks scrolls where it is higher, in points.
const NETWORKS_HEIGHT: f32 = 220.0;
/// What else stands in the window, in points.
const REST_HEIGHT: f32 = 640.0;
/// Around the window, in points: its title, and what is behind it.
const MARGIN: f32 = 112.0;
/// Missing files that are named.
const NAMED: usize = 4;

pub(super) fn show(viewer: &mut Viewer, ui: &egui::Ui) {
    let mut open = viewer.state.models;
    let window = Window::new("Models and memory").open(&mut open).collapsible(false).resizable(false);
    window.anchor(Align2::CENTER_CENTER, egui::Vec2::ZERO).show(ui.ctx(), |ui| {
        ui.set_width(480.0);
        // Where the window is lower than what there is to choose.
        let height = ui.ctx().content_rect().height() - MARGIN;
        let area = ScrollArea::vertical().max_height(height).min_scrolled_height(height);
        area.show(ui, |ui| content(viewer, ui));
    });
    // The buttons inside close it too.
    viewer.state.models &= open;
}

fn content(viewer: &mut Viewer, ui: &mut egui::Ui) {
    let best = viewer
        .state
        .backbones
        .first()
        .map_or("Best on this machine".into(), |backbone| format!("Best on this machine: {}", backbone.name()));
    if ui.radio(viewer.state.uses_best(), RichText::new(best).strong()).clicked() {
        viewer.actions.push(Command::UseBestBackbone.into());
    }
    super::top_bar::get_realesrgan(viewer, ui);
    ui.separator();
    group(ui, BackboneKind::SingleImage);
    networks(viewer, ui);
    ui.separator();
    group(ui, BackboneKind::Diffusion);
    for spec in BACKBONES.into_iter().filter(|spec| spec.is_diffusion()) {
        diffusion(viewer, ui, spec);
    }
    ui.horizontal(|ui| {
        button(viewer, ui, Command::ToggleDownloads);
        button(viewer, ui, Command::LookForModels);
    });
    ui.separator();
    prompt_sources(viewer, ui);
    ui.separator();
    picture_memory(viewer, ui);
}

/// The heading of models of one kind.
pub(super) fn group(ui: &mut egui::Ui, kind: BackboneKind) {
    let (title, about) = match kind {
        BackboneKind::SingleImage => ("Single-image networks", "Fast; they take no prompt"),
        BackboneKind::Diffusion => {
            ("Diffusion models", "They follow the prompt, and take long without a graphics card")
        }
        BackboneKind::Interpolation => ("Interpolation", "No model at all, to compare with"),
    };
    ui.label(RichText::new(title).strong()).on_hover_text(about);
}

/// The single-image networks that are known, and where others are.
fn networks(viewer: &mut Viewer, ui: &mut egui::Ui) {
    let height = (ui.ctx().content_rect().height() - REST_HEIGHT).clamp(90.0, NETWORKS_HEIGHT);
    ScrollArea::vertical().max_height(height).show(ui, |ui| {
        ui.set_width(ui.available_width());
        for backbone in viewer.state.networks() {
            entry(viewer, ui, backbone.clone(), "");
            facts(viewer, ui, &backbone);
        }
    });
    ui.label(dim(ui, format!("{}.", FILE.about)));
    for folder in viewer.state.settings.model_folders.clone() {
        ui.horizontal(|ui| {
            let remove = Action::RemoveModelFolder(folder.clone());
            if ui.small_button(icon::ICON_CLOSE.codepoint).on_hover_text(remove.label()).clicked() {
                viewer.actions.push(remove);
            }
            ui.add(Label::new(dim(ui, format!("Folder: {}", folder.display()))).truncate());
        });
    }
    ui.horizontal(|ui| {
        button(viewer, ui, Command::OpenModel);
        button(viewer, ui, Command::AddModelFolder);
    });
}

/// What is known of a network.
pub(super) fn facts(viewer: &Viewer, ui: &mut egui::Ui, backbone: &Backbone) {
    let text = match viewer.state.network_facts.get(&network_facts::id(backbone)) {
        Some(Ok(facts)) => dim(ui, network_facts::line(facts)),
        Some(Err(problem)) => RichText::new(&problem.details).small().color(theme::ERROR),
        None => dim(ui, "Looking it up\u{2026}"),
    };
    let label = ui.add(Label::new(text).wrap());
    if let Some(file) = backbone.network_file() {
        label.on_hover_text(file.display().to_string());
    }
}

/// How much memory the pictures of states may take.
fn picture_memory(viewer: &mut Viewer, ui: &mut egui::Ui) {
    ui.label(RichText::new("Memory for pictures").strong());
    let usual = viewer.picture_bytes;
    let chosen = &mut viewer.state.settings.picture_memory_mb;
    ui.horizontal(|ui| {
        let mut is_auto = chosen.is_none();
        if ui.checkbox(&mut is_auto, format!("As suits this machine: {}", bytes_label(usual))).changed() {
            *chosen = (!is_auto).then_some((usual >> 20) as u32);
        }
        if let Some(megabytes) = chosen {
            let field = ui.add(DragValue::new(megabytes).range(PICTURE_MEMORY_MB).speed(8).suffix(" MB"));
            field.widget_info(|| egui::WidgetInfo::labeled(egui::Role::SpinButton, true, "Memory for pictures"));
        }
    });
    ui.label(dim(ui, "States that are not looked at leave it, and are reread from the disk."));
}

fn button(viewer: &mut Viewer, ui: &mut egui::Ui, action: impl Into<Action>) {
    let action = action.into();
    if ui.button(action.label()).clicked() {
        viewer.actions.push(action);
    }
}

/// A model that can be chosen, what is known of it, and its state.
fn entry(viewer: &mut Viewer, ui: &mut egui::Ui, backbone: Backbone, about: &str) {
    let is_chosen = viewer.state.choices.backbone == backbone;
    if ui.radio(is_chosen && !viewer.state.uses_best(), RichText::new(backbone.name()).strong()).clicked() {
        viewer.actions.push(Action::UseBackbone(backbone.clone()));
    }
    if !about.is_empty() {
        ui.add(Label::new(dim(ui, about)).wrap());
    }
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

/// A diffusion model: whole, or what is missing of it.
fn diffusion(viewer: &mut Viewer, ui: &mut egui::Ui, spec: &'static BackboneSpec) {
    let found = viewer.state.found.diffusion.iter().find(|(of, _)| *of == spec).map(|(_, found)| found.clone());
    if !matches!(found, Some(FoundBackbone::Whole(_))) {
        ui.label(RichText::new(spec.label).strong());
    }
    let mut to_open: Vec<&'static FileSpec> = Vec::new();
    match found {
        None => _ = ui.label(dim(ui, "Looking for it…")),
        Some(FoundBackbone::Nothing(problem)) => {
            // Where nobody has said where it is, all the places that it might be in help few.
            let is_chosen = spec.files.iter().any(|file| viewer.state.settings.model_paths.get(file.id).is_some());
            match is_chosen {
                true => _ = ui.add(Label::new(dim(ui, problem.details)).wrap()),
                false => _ = ui.label(dim(ui, "not found")).on_hover_text(problem.details),
            }
            to_open.extend(spec.files.iter().filter(|file| file.is_required && !file.is_folder()));
        }
        Some(FoundBackbone::Incomplete(backbone, missing)) => {
            let folder = backbone.main_file().unwrap_or(Path::new(""));
            ui.add(Label::new(dim(ui, folder.display().to_string())).wrap());
            let text = RichText::new(incomplete(folder, &missing)).small().color(theme::ERROR);
            ui.add(Label::new(text).wrap());
        }
        Some(FoundBackbone::Whole(backbone)) => whole(viewer, ui, backbone),
    }
    ui.horizontal_wrapped(|ui| {
        button(viewer, ui, Action::OpenBackbone(spec));
        if spec.files.first().is_some_and(FileSpec::takes_single_file) {
            button(viewer, ui, Action::OpenBackboneCheckpoint(spec));
        }
        for file in to_open {
            button(viewer, ui, Action::OpenBackboneFile(spec.into(), file));
        }
    });
}

/// Where the prompt for a step comes from.
fn prompt_sources(viewer: &mut Viewer, ui: &mut egui::Ui) {
    ui.label(RichText::new("Prompt for a step").strong());
    for spec in PROMPT_SOURCES {
        let is_chosen = viewer.state.settings.prompt_source.spec == spec;
        let found = viewer.state.found.prompt_models.iter().find(|(of, _)| *of == spec).map(|(_, found)| found.clone());
        ui.horizontal(|ui| {
            if ui.radio(is_chosen, spec.title).on_hover_text(spec.about).clicked() && !is_chosen {
                viewer.actions.push(Action::UsePromptSource(spec));
            }
            if !spec.files.is_empty() {
                let open = Action::OpenPromptSource(spec);
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

fn incomplete(folder: &Path, missing: &[PathBuf]) -> String {
    let name = |file: &PathBuf| file.strip_prefix(folder).unwrap_or(file).display().to_string();
    let named: Vec<String> = missing.iter().take(NAMED).map(name).collect();
    let more = missing.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("Missing: {}{more}", named.join(", "))
}

/// A diffusion model that can be used, and what can be chosen of it.
fn whole(viewer: &mut Viewer, ui: &mut egui::Ui, backbone: Backbone) {
    // The precision is kept with the choice.
    let chosen = &viewer.state.choices.backbone;
    let is_chosen = chosen.spec == backbone.spec && chosen.main_file() == backbone.main_file();
    let backbone = if is_chosen { chosen.clone() } else { backbone };
    let line = |file: &FileSpec| match backbone.files.get(file.role) {
        Some(path) if file.is_required => Some(path.display().to_string()),
        None => Some(format!("{}: not found, and without it the model is no good at this", file.label)),
        // In a row of its own.
        Some(_) => None,
    };
    let licence = ModelAsset::of(&backbone).map(|asset| format!("Licence: {}", asset.licence));
    let about: Vec<String> = backbone.spec.files.iter().filter_map(line).chain(licence).collect();
    entry(viewer, ui, backbone.clone(), &about.join("\n"));
    Grid::new(backbone.spec.id).num_columns(2).spacing([16.0, 8.0]).show(ui, |ui| {
        for file in backbone.spec.files.iter().filter(|file| !file.is_required) {
            ui.label(file.label);
            ui.horizontal(|ui| {
                let place = backbone.files.get(file.role);
                match place {
                    Some(place) => ui.label(dim(ui, name_of(place))).on_hover_text(place.display().to_string()),
                    None => ui.label(dim(ui, "not found")).on_hover_text(file.help),
                };
                let open = Action::OpenBackboneFile(backbone.clone(), file);
                if ui.small_button("Open\u{2026}").on_hover_text(open.label()).clicked() {
                    viewer.actions.push(open);
                }
            });
            ui.end_row();
        }
        ui.label("Precision");
        ui.horizontal(|ui| {
            for &precision in Precision::VARIANTS {
                let about = match precision {
                    Precision::Auto => "bf16 where the files hold 16 bits and the device is fast in it, else fp32",
                    Precision::Fp32 => "As the reference; twice the memory",
                    Precision::Fp16 => "16 bits; for graphics cards without bf16",
                    Precision::Bf16 => "16 bits with the range of 32",
                };
                if ui.radio(backbone.precision == precision, precision.to_string()).on_hover_text(about).clicked() {
                    viewer.actions.push(Action::UseBackbone(Backbone { precision, ..backbone.clone() }));
                }
            }
        });
        ui.end_row();
        ui.label("Memory");
        ui.horizontal(|ui| {
            for &plan in MemoryPlan::VARIANTS {
                let about = match plan {
                    MemoryPlan::Auto => "By the free memory",
                    MemoryPlan::Resident => "All weights stay: fastest; SD3 takes 17 GB in 16 bits",
                    MemoryPlan::Staged => "Text encoders are read for each new prompt: SD3 takes about 7 GB",
                    MemoryPlan::Streamed => "Every layer is read when it is its turn: SD3 takes 2 to 3 GB",
                };
                if ui.radio(viewer.state.settings.memory == plan, plan.to_string()).on_hover_text(about).clicked() {
                    viewer.actions.push(Action::UseMemory(plan));
                }
            }
        });
        ui.end_row();
        ui.label("Full images");
        ui.horizontal(|ui| {
            let mode = &mut viewer.state.settings.tiling.vae_mode;
            ui.radio_value(mode, VaeMode::Fast, "usual")
                .on_hover_text("As the model's authors do: tiles know little of each other");
            ui.radio_value(mode, VaeMode::Exact, "exact")
                .on_hover_text("As if there were no tiles; takes several times as long");
        });
        ui.end_row();
    });
}
