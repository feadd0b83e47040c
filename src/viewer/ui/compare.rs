//! Comparing: what else could be seen in place of the state at hand, in a split, in a lens, or while a key is held.

use std::sync::Arc;

use egui::{
    Align2, Color32, CornerRadius, CursorIcon, FontId, Painter, Pos2, Rect, Sense, Stroke, StrokeKind, pos2, vec2,
};

use crate::imaging::Picture;
use crate::scene::canvas::{Layer, Placement};
use crate::viewer::actions::{Against, CompareMode};
use crate::viewer::commands::Command;
use crate::viewer::state::Document;
use crate::viewer::{Viewer, theme};

/// Radius of the lens in points.
const LENS: f32 = 130.0;

/// What is drawn instead of, or beside, the layers of the canvas.
pub(super) struct Comparison {
    layers: Vec<Layer>,
    label: String,
    shape: Shape,
}

#[derive(Clone, Copy)]
enum Shape {
    Whole,
    /// From this screen x on.
    Split(f64),
    /// Left, top, right, bottom on the screen.
    Lens([f64; 4]),
}

/// What the keys held and the chosen mode ask for. `pointer` is in canvas pixels.
pub(super) fn choose(
    viewer: &Viewer,
    ui: &egui::Ui,
    layers: &[Layer],
    pointer: Option<[f64; 2]>,
) -> Option<Comparison> {
    let document = viewer.state.document.as_ref()?;
    let is_held = |command| viewer.state.bindings.is_held(command, ui.ctx());
    let whole = |(layers, label)| Comparison { layers, label, shape: Shape::Whole };
    if is_held(Command::HoldHeat) {
        return heat(document, layers).map(whole);
    }
    if is_held(Command::HoldPhoto) {
        return reference(document, Against::Photo, layers).map(whole);
    }
    let (layers, label) = match viewer.state.compare {
        CompareMode::Off if !is_held(Command::HoldReference) => return None,
        _ => reference(document, viewer.state.against, layers)?,
    };
    if is_held(Command::HoldReference) {
        return Some(whole((layers, label)));
    }
    let shape = match viewer.state.compare {
        CompareMode::Split => Shape::Split(f64::from(viewer.state.split) * document.screen[0]),
        _ => {
            let [x, y] = pointer?;
            let half = f64::from(LENS * ui.ctx().pixels_per_point());
            Shape::Lens([x - half, y - half, x + half, y + half])
        }
    };
    Some(Comparison { layers, label, shape })
}

/// The layers of the other view, with what it is called.
fn reference(document: &Document, against: Against, layers: &[Layer]) -> Option<(Vec<Layer>, String)> {
    let state = document.history.current();
    match against {
        Against::Bicubic => {
            let picture = document.examined(state.id)?.bicubic.clone();
            Some((in_place(document, layers, picture)?, "plain bicubic".into()))
        }
        Against::Photo => {
            let photo = document.history.photo();
            let placement = document.camera.relative_to(&document.history, photo.id)?.placement(document.screen);
            let layer = Layer::of_picture(photo.picture.in_memory()?, placement);
            let [across, down] = document.source_pixels_in_view();
            let label = format!("the photo: this view rests on {} x {} pixels", count(across), count(down));
            Some((vec![layer], label))
        }
        Against::State(id) => {
            let other = document.history.get(id)?;
            let label = match &other.record {
                Some(record) if !record.prompt.is_empty() => format!("{}: {}", Document::title(other), record.prompt),
                _ => Document::title(other),
            };
            Some((
                in_place(document, layers, other.picture.in_memory().unwrap_or_else(|| other.thumbnail.clone()))?,
                label,
            ))
        }
    }
}

fn heat(document: &Document, layers: &[Layer]) -> Option<(Vec<Layer>, String)> {
    let examined = document.examined(document.history.current().id)?;
    let consistency = examined.consistency.as_ref()?;
    let decibels = |value: f64| if value.is_finite() { format!("{value:.1} dB") } else { "exact".into() };
    let label = format!(
        "consistency {} with its box, {} with the photo; amber to red: where it tells something else",
        decibels(consistency.with_parent),
        decibels(consistency.with_photo)
    );
    Some((in_place(document, layers, consistency.heat.clone())?, label))
}

/// Another picture where the state at hand lies; what lies beneath stays.
fn in_place(document: &Document, layers: &[Layer], picture: Arc<Picture>) -> Option<Vec<Layer>> {
    let state = document.history.current();
    let Placement { origin, scale } =
        document.camera.relative_to(&document.history, state.id)?.placement(document.screen);
    let scale = scale * f64::from(state.picture.width()) / f64::from(picture.width());
    let mut all: Vec<Layer> = layers.iter().take_while(|layer| layer.state != Some(state.id)).cloned().collect();
    all.push(Layer::of_picture(picture, Placement { origin, scale }));
    Some(all)
}

/// Fractions only where they matter.
pub(super) fn count(side: f64) -> String {
    if side >= 10.0 { format!("{side:.0}") } else { format!("{side:.1}") }
}

impl Comparison {
    /// The layers to draw: `layers` and the other view, each in its part of the screen.
    pub(super) fn arrange(&self, layers: &[Layer], screen: [f64; 2]) -> Vec<Layer> {
        let clipped = |layers: &[Layer], clip: [f64; 4]| -> Vec<Layer> {
            layers.iter().map(|layer| Layer { clip: Some(clip), ..layer.clone() }).collect()
        };
        match self.shape {
            Shape::Whole => self.layers.clone(),
            Shape::Split(x) => {
                let mut all = clipped(layers, [0.0, 0.0, x, screen[1]]);
                all.extend(clipped(&self.layers, [x, 0.0, screen[0], screen[1]]));
                all
            }
            Shape::Lens(rect) => {
                let mut all = layers.to_vec();
                all.extend(clipped(&self.layers, rect));
                all
            }
        }
    }

    /// Slider or lens, and what the other view is.
    pub(super) fn paint(&self, viewer: &mut Viewer, ui: &mut egui::Ui, painter: &Painter, canvas: Rect) {
        match self.shape {
            Shape::Whole => tag(painter, canvas, pos2(canvas.center().x, canvas.top() + 16.0), &self.label),
            Shape::Split(_) => {
                let x = canvas.left() + canvas.width() * viewer.state.split;
                let line = [pos2(x, canvas.top()), pos2(x, canvas.bottom())];
                painter.line_segment(line, Stroke::new(3.0, Color32::from_black_alpha(140)));
                painter.line_segment(line, Stroke::new(1.0, Color32::WHITE));
                let knob = pos2(x, canvas.center().y);
                painter.circle(knob, 9.0, Color32::from_black_alpha(180), Stroke::new(1.0, Color32::WHITE));
                let handle = Rect::from_center_size(pos2(x, canvas.center().y), vec2(18.0, canvas.height()));
                let response = ui.interact(handle, ui.scope_id().with("split"), Sense::drag());
                response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Slider, true, "Split"));
                if response.hovered() || response.dragged() {
                    ui.ctx().set_cursor_icon(CursorIcon::ResizeHorizontal);
                }
                if let Some(at) = response.interact_pointer_pos().filter(|_| response.dragged()) {
                    viewer.state.split = ((at.x - canvas.left()) / canvas.width()).clamp(0.02, 0.98);
                }
                let right = Rect::from_min_max(pos2(x, canvas.top()), canvas.max);
                tag(painter, right, pos2(right.center().x, canvas.top() + 16.0), &self.label);
            }
            Shape::Lens(rect) => {
                let scale = ui.ctx().pixels_per_point();
                let point = |x: f64, y: f64| canvas.min + vec2(x as f32, y as f32) / scale;
                let lens = Rect::from_min_max(point(rect[0], rect[1]), point(rect[2], rect[3]));
                painter.rect_stroke(
                    lens,
                    CornerRadius::ZERO,
                    Stroke::new(3.0, Color32::from_black_alpha(140)),
                    StrokeKind::Outside,
                );
                painter.rect_stroke(lens, CornerRadius::ZERO, Stroke::new(1.0, theme::ACCENT), StrokeKind::Outside);
                tag(painter, canvas, pos2(lens.center().x, lens.bottom() + 6.0), &self.label);
            }
        }
    }
}

/// A word on a dark plate, inside `area`.
fn tag(painter: &Painter, area: Rect, top: Pos2, text: &str) {
    let galley =
        painter.layout(text.into(), FontId::proportional(11.0), Color32::WHITE, (area.width() - 32.0).max(60.0));
    let size = galley.size() + vec2(12.0, 6.0);
    let x = (top.x - size.x / 2.0).clamp(area.left() + 4.0, (area.right() - size.x - 4.0).max(area.left() + 4.0));
    let y = top.y.min(area.bottom() - size.y - 4.0);
    let plate = Rect::from_min_size(pos2(x, y), size);
    painter.rect_filled(plate, CornerRadius::same(4), Color32::from_black_alpha(200));
    painter.galley(Align2::CENTER_CENTER.align_size_within_rect(galley.size(), plate).min, galley, Color32::WHITE);
}
