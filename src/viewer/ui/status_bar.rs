//! One line: the device, what runs and how far, what is looked at.

use std::sync::atomic::Ordering;
use std::time::Duration;

use egui::{Align, Layout, ProgressBar};

use super::dim;
use crate::base::magnification_label;
use crate::viewer::commands::Command;
use crate::viewer::{Viewer, theme};

pub(super) fn show(viewer: &mut Viewer, ui: &mut egui::Ui) {
    ui.horizontal_centered(|ui| {
        let memory = viewer.state.memory.filter(|(_, bytes)| *bytes > 0);
        let memory = memory.map(|(_, bytes)| format!("  ·  {:.1} GB", bytes as f64 / 1e9)).unwrap_or_default();
        let device = viewer.state.device_name();
        ui.label(dim(ui, format!("{device}  ·  {}{memory}", viewer.state.choices.backbone.name())));
        if let Some(opening) = &viewer.state.opening {
            ui.spinner();
            let name = opening.file.file_name().unwrap_or_default().to_string_lossy();
            let percent = opening.preview.as_ref().map(|preview| format!("  {:.0} %", preview.fraction * 100.0));
            ui.label(dim(ui, format!("opening {name}{}", percent.unwrap_or_default())));
        }
        running(viewer, ui);
        exporting(viewer, ui);
        super::downloads::progress(viewer, ui);
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            let Some(document) = &viewer.state.document else { return };
            if let Some([x, y]) = viewer.pointer_in_state {
                ui.label(dim(ui, format!("x {x:.0}  y {y:.0}")));
                ui.label(dim(ui, "·"));
            }
            let camera = &document.camera;
            let scale = if camera.scale >= 1.0 {
                format!("{:.1}:1", camera.scale)
            } else {
                format!("1:{:.1}", 1.0 / camera.scale)
            };
            ui.label(dim(ui, scale));
            ui.label(dim(ui, "·"));
            ui.label(dim(ui, magnification_label(document.history.current().magnification)));
        });
    });
}

fn running(viewer: &mut Viewer, ui: &mut egui::Ui) {
    let Some(running) = &viewer.state.running else { return };
    // The clock goes on between the engine's reports; where a step takes long, drawing should not take its time.
    let elapsed = running.start.elapsed().as_secs_f64();
    let (tick, digits) = if elapsed < 10.0 { (100, 1) } else { (1000, 0) };
    ui.ctx().request_repaint_after(Duration::from_millis(tick));
    let steps = running.asked.regions.len();
    let whole = (running.step as f32 + running.fraction) / steps.max(1) as f32;
    let step = if steps > 1 { format!("step {} of {steps}: ", running.step + 1) } else { String::new() };
    let percent = running.loading.map(|fraction| format!(" {:.0} %", fraction * 100.0)).unwrap_or_default();
    let tiles = running.tiles.map(|(done, of)| format!(", {done} of {of} tiles")).unwrap_or_default();
    let stage = ui.label(dim(ui, format!("{step}{}{percent}{tiles}", running.stage.name())));
    ui.ctx().accesskit_node_builder(stage.id, |node| node.set_live(egui::accesskit::Live::Polite));
    ui.add(ProgressBar::new(whole).desired_width(96.0).desired_height(4.0).fill(theme::ACCENT));
    let left = viewer.state.remaining().map(|left| format!(", {left:.digits$} s left")).unwrap_or_default();
    let waiting = match viewer.state.queue.len() {
        0 => String::new(),
        count => format!("  ·  {count} queued"),
    };
    ui.label(dim(ui, format!("{elapsed:.digits$} s{left}{waiting}  ·  cancel Esc")));
}

fn exporting(viewer: &mut Viewer, ui: &mut egui::Ui) {
    let Some(exporting) = viewer.state.exporting.clone() else { return };
    ui.ctx().request_repaint_after(Duration::from_millis(100));
    let [done, all] = [&exporting.done.0, &exporting.done.1].map(|part| part.load(Ordering::Relaxed) as f32);
    let fraction = if all > 0.0 { done / all } else { 0.0 };
    ui.label(dim(ui, &exporting.what));
    ui.add(ProgressBar::new(fraction).desired_width(96.0).desired_height(4.0).fill(theme::ACCENT));
    let elapsed = exporting.start.elapsed().as_secs_f32();
    // Before the first second an estimate would be a guess.
    if elapsed > 1.0 && fraction > 0.0 {
        ui.label(dim(ui, format!("{:.0} s left", elapsed / fraction * (1.0 - fraction))));
    }
    let stop = ui.small_button("Stop").on_hover_text(Command::StopExport.label());
    stop.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, Command::StopExport.label()));
    if stop.clicked() {
        viewer.actions.push(Command::StopExport.into());
    }
}
