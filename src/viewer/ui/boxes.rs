//! Boxes on the canvas: the one being drawn with the steps that lead there, and thin ones around states made before.

use egui::{Align2, Color32, CornerRadius, FontId, Painter, Rect, Stroke, StrokeKind, pos2, vec2};

use crate::base::{Plan, magnification_label};
use crate::viewer::theme;

/// How much the surroundings of the box are dimmed.
const DIMMED: f32 = 0.35;

/// The box with everything outside dimmed. `nested` are the steps' boxes on the screen, the last one the box itself.
pub(super) fn chosen(painter: &Painter, canvas: Rect, nested: &[Rect], target: Rect, label: &str) {
    let shade = Color32::from_black_alpha((DIMMED * 255.0) as u8);
    let inner = target.intersect(canvas);
    for dark in [
        Rect::from_min_max(canvas.min, pos2(canvas.right(), inner.top())),
        Rect::from_min_max(pos2(canvas.left(), inner.bottom()), canvas.max),
        Rect::from_min_max(pos2(canvas.left(), inner.top()), pos2(inner.left(), inner.bottom())),
        Rect::from_min_max(pos2(inner.right(), inner.top()), pos2(canvas.right(), inner.bottom())),
    ] {
        painter.rect_filled(dark, CornerRadius::ZERO, shade);
    }
    for rect in nested.iter().filter(|rect| rect.width() > target.width() * 1.05) {
        painter.rect_stroke(
            *rect,
            CornerRadius::ZERO,
            Stroke::new(2.0, Color32::from_black_alpha(90)),
            StrokeKind::Middle,
        );
        painter.rect_stroke(
            *rect,
            CornerRadius::ZERO,
            Stroke::new(1.0, theme::ACCENT.gamma_multiply(0.75)),
            StrokeKind::Middle,
        );
    }
    outline(painter, target);
    self::label(painter, canvas, target, label);
}

/// An accent line with a dark halo, so that it reads on any picture.
pub(super) fn outline(painter: &Painter, rect: Rect) {
    painter.rect_stroke(rect, CornerRadius::ZERO, Stroke::new(3.5, Color32::from_black_alpha(140)), StrokeKind::Middle);
    painter.rect_stroke(rect, CornerRadius::ZERO, Stroke::new(1.5, theme::ACCENT), StrokeKind::Middle);
}

/// Where a click would zoom: only a faint hint of the box.
pub(super) fn hinted(painter: &Painter, canvas: Rect, rect: Rect, text: &str) {
    painter.rect_stroke(rect, CornerRadius::ZERO, Stroke::new(2.5, Color32::from_black_alpha(90)), StrokeKind::Middle);
    painter.rect_stroke(
        rect,
        CornerRadius::ZERO,
        Stroke::new(1.0, theme::ACCENT.gamma_multiply(0.9)),
        StrokeKind::Middle,
    );
    if rect.width() > 64.0 {
        label(painter, canvas, rect, text);
    }
}

/// Around a state that was made of this place.
pub(super) fn made(painter: &Painter, rect: Rect, hovered: bool) {
    let (width, colour) = if hovered { (1.5, theme::ACCENT) } else { (1.0, Color32::from_white_alpha(150)) };
    painter.rect_stroke(
        rect,
        CornerRadius::ZERO,
        Stroke::new(width + 1.0, Color32::from_black_alpha(100)),
        StrokeKind::Outside,
    );
    painter.rect_stroke(rect, CornerRadius::ZERO, Stroke::new(width, colour), StrokeKind::Outside);
}

/// Around a box whose turn is still to come: dashed.
pub(super) fn waiting(painter: &Painter, rect: Rect) {
    let corners = [rect.left_top(), rect.right_top(), rect.right_bottom(), rect.left_bottom(), rect.left_top()];
    painter.extend(egui::Shape::dashed_line(&corners, Stroke::new(3.0, Color32::from_black_alpha(120)), 6.0, 5.0));
    painter.extend(egui::Shape::dashed_line(&corners, Stroke::new(1.5, theme::ACCENT), 6.0, 5.0));
}

/// A thin line along the bottom of a box whose step runs.
pub(super) fn progress(painter: &Painter, rect: Rect, fraction: f32) {
    let from = rect.left_bottom() + vec2(0.0, 4.0);
    painter.line_segment([from, from + vec2(rect.width(), 0.0)], Stroke::new(3.0, Color32::from_black_alpha(140)));
    painter.line_segment([from, from + vec2(rect.width() * fraction, 0.0)], Stroke::new(2.0, theme::ACCENT));
}

/// What is shown in the box is not the model's own result yet.
pub(super) fn preview(painter: &Painter, canvas: Rect, rect: Rect) {
    let at = pos2(rect.center().x, rect.top().max(canvas.top()) + 8.0);
    if rect.width() > 64.0 {
        plate(painter, at, "preview");
    }
}

fn label(painter: &Painter, canvas: Rect, rect: Rect, text: &str) {
    let size = lettering(painter, text).size() + PADDING;
    // Below the box; above where there is no room.
    let below = rect.bottom() + 8.0 + size.y <= canvas.bottom();
    let y = if below { rect.bottom() + 8.0 } else { (rect.top() - 8.0 - size.y).max(canvas.top() + 4.0) };
    let x = (rect.center().x - size.x / 2.0)
        .clamp(canvas.left() + 4.0, (canvas.right() - size.x - 4.0).max(canvas.left() + 4.0));
    plate(painter, pos2(x + size.x / 2.0, y), text);
}

/// Around the letters of a plate, both sides together.
const PADDING: egui::Vec2 = vec2(12.0, 6.0);

fn lettering(painter: &Painter, text: &str) -> std::sync::Arc<egui::Galley> {
    painter.layout_no_wrap(text.into(), FontId::proportional(13.0), Color32::WHITE)
}

/// Text on a dark plate whose upper edge has its middle here.
fn plate(painter: &Painter, center_top: egui::Pos2, text: &str) {
    let galley = lettering(painter, text);
    let size = galley.size() + PADDING;
    let plate = Rect::from_min_size(center_top - vec2(size.x / 2.0, 0.0), size);
    painter.rect_filled(plate, CornerRadius::same(4), Color32::from_black_alpha(200));
    let at = Align2::CENTER_CENTER.align_size_within_rect(galley.size(), plate).min;
    painter.galley(at, galley, Color32::WHITE);
}

/// `64x in 3 steps`.
pub(super) fn plan_label(plan: &Plan, magnification: f64) -> String {
    let total = magnification_label(magnification * plan.factor);
    match plan.regions.len() {
        _ if plan.factor <= 1.0 => format!("{total}, reduced: no model needed"),
        1 => format!("{total} in 1 step"),
        steps => format!("{total} in {steps} steps"),
    }
}
