//! A breadcrumb map: the photo with the nested boxes of the state at hand, and where the view is.

use egui::{Color32, CornerRadius, Rect, Stroke, StrokeKind, pos2, vec2};

use super::history_panel::fitted;
use crate::scene::canvas::Placement;
use crate::viewer::state::Document;
use crate::viewer::theme;

const SIDE: f32 = 150.0;
/// A box smaller than this is marked by a cross.
const VISIBLE: f32 = 3.0;

/// In the lower right corner of the canvas.
pub(super) fn show(document: &Document, texture: &egui::TextureHandle, ui: &egui::Ui, canvas: Rect) {
    let palette = theme::palette(ui);
    let cell = Rect::from_min_size(canvas.right_bottom() - vec2(SIDE + 16.0, SIDE + 16.0), vec2(SIDE, SIDE));
    let mut map = fitted(cell, texture.size_vec2());
    map = map.translate(cell.right_bottom() - map.right_bottom());
    let history = &document.history;
    let scale = f64::from(map.width()) / f64::from(history.photo().picture.width());
    let view = document.camera.relative_to(history, history.photo().id).map(|view| {
        let half = |axis: usize| document.screen[axis] / view.scale / 2.0;
        let at = |axis: usize, offset: f64, from: f32| from + ((view.center[axis] + offset) * scale) as f32;
        Rect::from_min_max(
            pos2(at(0, -half(0), map.left()), at(1, -half(1), map.top())),
            pos2(at(0, half(0), map.left()), at(1, half(1), map.top())),
        )
    });
    let chain = history.chain(history.current().id);
    if chain.len() == 1 && view.is_some_and(|view| view.contains_rect(map)) {
        // All of the photo is seen, and nothing else: there is nothing to find.
        return;
    }
    let painter = ui.painter().with_clip_rect(map.expand(1.0));
    painter.rect_filled(map.expand(1.0), CornerRadius::ZERO, palette.line);
    let whole = Rect::from_min_max(pos2(0.0, 0.0), pos2(1.0, 1.0));
    painter.image(texture.id(), map, whole, Color32::from_gray(200));

    let mut placement = Placement { origin: [map.left().into(), map.top().into()], scale };
    let mark = |rect: Rect, stroke: Stroke| {
        painter.rect_stroke(rect, CornerRadius::ZERO, stroke, StrokeKind::Middle);
        if rect.width() < VISIBLE {
            for (dx, dy) in [(5.0, 0.0), (0.0, 5.0)] {
                let (center, arm) = (rect.center(), vec2(dx, dy));
                painter.line_segment([center - arm, center + arm], stroke);
            }
        }
    };
    for (i, state) in chain.iter().enumerate().skip(1) {
        placement = placement.of_child(state);
        let side = |length: u32| (f64::from(length) * placement.scale) as f32;
        let origin = pos2(placement.origin[0] as f32, placement.origin[1] as f32);
        let rect = Rect::from_min_size(origin, vec2(side(state.picture.width()), side(state.picture.height())));
        let last = i + 1 == chain.len();
        mark(
            rect,
            Stroke::new(if last { 1.5 } else { 1.0 }, if last { theme::ACCENT } else { Color32::from_gray(230) }),
        );
    }
    if let Some(view) = view {
        painter.rect_stroke(view, CornerRadius::ZERO, Stroke::new(1.0, Color32::WHITE), StrokeKind::Middle);
    }
}
