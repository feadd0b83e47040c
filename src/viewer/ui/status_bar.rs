//! One line: the device, what runs and how far, what is looked at.

use egui::{Align, Layout, ProgressBar};

use super::dim;
use crate::export::stills::magnification_label;
use crate::viewer::{Viewer, theme};

pub fn show(viewer: &mut Viewer, ui: &mut egui::Ui) {
    ui.horizontal_centered(|ui| {
        ui.label(dim(ui, format!("{}  ·  {}", viewer.state.device_name(), viewer.state.settings.backbone.name())));
        if let Some(file) = &viewer.state.opening {
            ui.spinner();
            ui.label(dim(ui, format!("opening {}", file.file_name().unwrap_or_default().to_string_lossy())));
        }
        if let Some(running) = &viewer.state.running {
            // The clock goes on between the engine's reports.
            ui.ctx().request_repaint_after(std::time::Duration::from_millis(100));
            let steps = running.regions.len();
            let whole = (running.step as f32 + running.fraction) / steps.max(1) as f32;
            let step = if steps > 1 { format!("step {} of {steps}: ", running.step + 1) } else { String::new() };
            ui.label(dim(ui, format!("{step}{}", running.stage.name())));
            ui.add(ProgressBar::new(whole).desired_width(120.0).desired_height(4.0).fill(theme::ACCENT));
            ui.label(dim(ui, format!("{:.1} s  ·  cancel Esc", running.start.elapsed().as_secs_f64())));
        }
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
