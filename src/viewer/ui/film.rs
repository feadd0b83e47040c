//! The film's options: size, tempo, rests, caption; preview and export.

use egui::{Align2, DragValue, Grid, Slider, Window};

use super::dim;
use crate::scene::film::Options;
use crate::scene::film::path::ZoomPath;
use crate::viewer::Viewer;
use crate::viewer::commands::Command;

/// Sizes with a name.
const SIZES: [(&str, u32, u32); 6] = [
    ("16:9  1920 x 1080", 1920, 1080),
    ("16:9  1280 x 720", 1280, 720),
    ("16:9  3840 x 2160", 3840, 2160),
    ("9:16  1080 x 1920", 1080, 1920),
    ("1:1  1080 x 1080", 1080, 1080),
    ("1:1  480 x 480, for GIF", 480, 480),
];

pub(super) fn show(viewer: &mut Viewer, ui: &egui::Ui) {
    if viewer.state.document.is_none() {
        viewer.state.film_options = false;
    }
    let mut open = viewer.state.film_options;
    let window = Window::new("Zoom film").open(&mut open).collapsible(false).resizable(false);
    window.anchor(Align2::CENTER_CENTER, egui::Vec2::ZERO).show(ui.ctx(), |ui| {
        ui.set_min_width(380.0);
        options(viewer, ui);
    });
    // The buttons inside close it too.
    viewer.state.film_options &= open;
}

fn options(viewer: &mut Viewer, ui: &mut egui::Ui) {
    let film = &mut viewer.state.settings.film;
    Grid::new("film").num_columns(2).spacing([16.0, 8.0]).show(ui, |ui| {
        ui.label("Size");
        let chosen = SIZES.iter().find(|(_, width, height)| (*width, *height) == (film.width, film.height));
        let text = chosen.map_or_else(|| format!("{} x {}", film.width, film.height), |(name, ..)| (*name).into());
        egui::ComboBox::from_id_salt("film size").selected_text(text).width(190.0).show_ui(ui, |ui| {
            for (name, width, height) in SIZES {
                if ui.selectable_label((film.width, film.height) == (width, height), name).clicked() {
                    (film.width, film.height) = (width, height);
                }
            }
        });
        ui.end_row();
        ui.label("Frames a second");
        ui.add(DragValue::new(&mut film.fps).range(1..=120));
        ui.end_row();
        for (name, value, range) in [
            ("Seconds for 4x", &mut film.seconds_per_4x, 0.2..=20.0),
            ("Rest at each state, s", &mut film.hold, 0.0..=10.0),
            ("Rest at both ends, s", &mut film.hold_end, 0.0..=10.0),
        ] {
            let label = ui.label(name);
            ui.add(Slider::new(value, range).fixed_decimals(1)).labelled_by(label.id);
            ui.end_row();
        }
        ui.label("");
        ui.vertical(|ui| {
            ui.checkbox(&mut film.easing, "Start and end gently");
            ui.checkbox(&mut film.reverse, "Reverse: out to the photo");
            ui.checkbox(&mut film.caption, "Caption: magnification and prompt");
        });
        ui.end_row();
    });
    let film: Options = film.clone();
    let length = viewer.state.document.as_ref().and_then(|document| {
        let branch = document.history.branch(document.history.current().id);
        Some(ZoomPath::new(&branch, &film)?.seconds())
    });
    ui.add_space(4.0);
    ui.label(dim(
        ui,
        match length {
            Some(seconds) => format!("From the photo into the state at hand: {seconds:.1} s"),
            None => "The photo alone makes no film: choose a state".into(),
        },
    ));
    ui.add_space(4.0);
    ui.horizontal(|ui| {
        ui.add_enabled_ui(length.is_some(), |ui| {
            let tip = viewer.state.bindings.tooltip(Command::PlayFilm, ui.ctx());
            if ui.button(Command::PlayFilm.label()).on_hover_text(tip).clicked() {
                viewer.actions.push(Command::PlayFilm.into());
            }
            if ui.button("Export as MP4 or GIF…").clicked() {
                viewer.state.film_options = false;
                viewer.actions.push(Command::ExportFilm.into());
            }
        });
    });
}
