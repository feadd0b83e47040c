//! The window in which models are downloaded: each asset, what it is for, whether it is there, and what is on its way.

use egui::{Align, Align2, Layout, ProgressBar, RichText, ScrollArea, Window};
use egui_material_icons::icons as icon;

use super::dim;
use crate::base::{bytes_label, secs_label};
use crate::hub::{ASSETS, Found, ModelAsset};
use crate::viewer::actions::Action;
use crate::viewer::commands::Command;
use crate::viewer::{Viewer, theme};

pub(super) fn show(viewer: &mut Viewer, ui: &egui::Ui) {
    let mut open = viewer.state.downloads;
    let window = Window::new("Get models").open(&mut open).collapsible(false).resizable(false);
    window.anchor(Align2::CENTER_CENTER, egui::Vec2::ZERO).show(ui.ctx(), |ui| {
        ui.set_width(560.0);
        ui.spacing_mut().item_spacing.y = 3.0;
        ui.spacing_mut().interact_size.y = 18.0;
        if !progress(viewer, ui) {
            let about = "What is on the Hugging Face hub comes into its cache, where other programs find it too; all else into the data folder.";
            ui.label(dim(ui, about));
        }
        ui.separator();
        let height = (ui.ctx().content_rect().height() - 160.0).max(160.0);
        ScrollArea::vertical().max_height(height).min_scrolled_height(height.min(540.0)).show(ui, |ui| {
            for assets in ASSETS.chunk_by(|asset, next| asset.group == next.group) {
                group(viewer, ui, assets);
                ui.add_space(10.0);
            }
        });
    });
    viewer.state.downloads &= open;
}

/// What is on its way, if anything: how much, how fast, how long, and a way to stop it.
pub(super) fn progress(viewer: &mut Viewer, ui: &mut egui::Ui) -> bool {
    let Some(transfer) = viewer.state.transfer.clone() else { return false };
    ui.ctx().request_repaint_after(std::time::Duration::from_millis(250));
    ui.horizontal(|ui| {
        match transfer.fraction() {
            None => {
                ui.spinner();
                ui.label(dim(ui, "asking the hub"));
            }
            Some(fraction) => {
                ui.add(ProgressBar::new(fraction).desired_width(96.0).desired_height(4.0).fill(theme::ACCENT));
                let pace = transfer
                    .pace()
                    .map(|(speed, left)| format!(", {:.1} MB/s, {} left", speed / 1e6, secs_label(left)));
                let text = format!("models: {:.0} %{}", fraction * 100.0, pace.unwrap_or_default());
                ui.label(dim(ui, text)).on_hover_text(transfer.names().join("\n"));
            }
        }
        let stop = ui.small_button("Stop").on_hover_text("What came from the hub so far is kept");
        stop.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, Command::StopDownload.label()));
        if stop.clicked() {
            viewer.actions.push(Command::StopDownload.into());
        }
    });
    true
}

/// What one wants to have, as people put it, and the assets it consists of.
fn group(viewer: &mut Viewer, ui: &mut egui::Ui, assets: &'static [ModelAsset]) {
    let found = |viewer: &Viewer, asset: &ModelAsset| {
        viewer.state.found.assets.iter().find(|(of, _)| *of == asset).map(|(_, found)| found.clone())
    };
    let is_missing = |asset: &&ModelAsset| found(viewer, asset).is_some_and(|found| !found.is_whole());
    let missing: Vec<&'static ModelAsset> = assets.iter().filter(is_missing).collect();
    ui.horizontal(|ui| {
        ui.label(RichText::new(assets[0].group).strong());
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            let all: u64 = missing.iter().map(|asset| asset.size).sum();
            if missing.is_empty() {
                let is_known = !viewer.state.found.assets.is_empty();
                ui.label(dim(ui, if is_known { "all there" } else { "looking\u{2026}" }));
            } else {
                get(viewer, ui, &format!("Get all, {}", bytes_label(all)), &missing);
            }
        });
    });
    for asset in assets {
        let found = found(viewer, asset);
        let settings = &viewer.state.settings;
        let is_needed = asset.is_needed_by(&viewer.state.choices.backbone, &settings.prompt_source);
        ui.horizontal(|ui| {
            let (mark, colour) = match &found {
                Some(found) if found.is_whole() => (icon::ICON_CHECK.codepoint, theme::ACCENT),
                _ => (icon::ICON_DOWNLOAD.codepoint, ui.visuals().weak_text_color()),
            };
            ui.label(RichText::new(mark).color(colour));
            ui.label(asset.title);
            let page = asset.page();
            ui.hyperlink_to(RichText::new("page").small(), &page).on_hover_text(page);
            ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
                if !found.as_ref().is_none_or(Found::is_whole) {
                    get(viewer, ui, &format!("Get {}", bytes_label(asset.size)), &[asset]);
                }
            });
        });
        ui.horizontal(|ui| {
            ui.add_space(24.0);
            let now = if is_needed { "; needed by what is chosen now" } else { "" };
            let text = format!("{}{now}  \u{b7}  {}", asset.purpose, asset.licence);
            ui.add(egui::Label::new(dim(ui, &text)).truncate()).on_hover_text(text);
        });
        let about = match found {
            Some(Found { place: Some(place), missing }) if missing.is_empty() => Some(place.display().to_string()),
            Some(Found { place: Some(place), missing }) => {
                Some(format!("{} files missing in {}", missing.len(), place.display()))
            }
            _ => None,
        };
        if let Some(about) = about {
            ui.horizontal(|ui| {
                ui.add_space(24.0);
                ui.add(egui::Label::new(dim(ui, about)).truncate());
            });
        }
    }
}

fn get(viewer: &mut Viewer, ui: &mut egui::Ui, label: &str, assets: &[&'static ModelAsset]) {
    let is_free = viewer.state.transfer.is_none();
    let button = ui.add_enabled(is_free, egui::Button::new(label).small());
    let titles: Vec<&str> = assets.iter().map(|asset| asset.title).collect();
    let name = format!("Get {}", titles.join(", "));
    button.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, is_free, &name));
    if button.clicked() {
        viewer.actions.push(Action::Download(assets.to_vec()));
    }
}
