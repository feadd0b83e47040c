//! The tree of scale states: thumbnails, magnification, prompt, model, time.

use egui::{Align, Align2, Color32, CornerRadius, FontId, Rect, ScrollArea, Sense, Stroke, StrokeKind, pos2, vec2};

use super::heading;
use crate::document::{HistoryRow, ScaleState, StateId};
use crate::viewer::actions::{Action, Against, CompareMode};
use crate::viewer::commands::Command;
use crate::viewer::state::Document;
use crate::viewer::{Viewer, theme};

const ROW: f32 = 56.0;
const SPACE: f32 = 2.0;
const INDENT: f32 = 10.0;
/// Deeper branches stay in sight.
const DEEPEST_INDENT: usize = 4;

/// The lines of the history, as long as they stay the same.
#[derive(Default)]
pub(in crate::viewer) struct Rows {
    of: Option<(u64, (u64, u64))>,
    rows: Vec<HistoryRow>,
    /// The state that was scrolled to: once it has moved, not on every frame; the list stays where the user scrolled it.
    shown: Option<(u64, StateId)>,
}

impl Rows {
    fn update(&mut self, document: &Document) {
        let of = Some((document.number, document.history.version()));
        if self.of != of {
            (self.of, self.rows) = (of, document.history.rows());
        }
    }
}

/// Only the rows in view are laid out: a frame costs the same with ten states and with ten thousand.
pub(super) fn show(viewer: &mut Viewer, ui: &mut egui::Ui) {
    heading(ui, "HISTORY");
    let Some(document) = &viewer.state.document else {
        // Beside a preview there is nothing to list yet; the panel keeps its width.
        ui.allocate_space(ui.available_size());
        return;
    };
    viewer.history_rows.update(document);
    let Rows { rows, shown, .. } = &mut viewer.history_rows;
    let (thumbnails, actions) = (&mut viewer.thumbnails, &mut viewer.actions);
    let current = document.history.current().id;
    ui.spacing_mut().item_spacing.y = SPACE;
    ScrollArea::vertical().auto_shrink(false).show_rows(ui, ROW, rows.len(), |ui, in_view| {
        if shown.replace((document.number, current)) != Some((document.number, current))
            && let Some(at) = rows.iter().position(|row| row.id == current)
        {
            let top = ui.max_rect().top() + (at as f32 - in_view.start as f32) * (ROW + SPACE);
            let left = ui.max_rect().left();
            ui.scroll_to_rect(Rect::from_min_size(pos2(left, top), vec2(1.0, ROW)), None);
        }
        for row in &rows[in_view] {
            let Some(state) = document.history.get(row.id) else { continue };
            let texture = thumbnails.get(ui.ctx(), state);
            let size = vec2(ui.available_width(), ROW);
            let (rect, response) = ui.allocate_exact_size(size, Sense::click());
            let is_current = state.id == current;
            let label = format!("State {}", Document::title(state));
            response.widget_info(|| egui::WidgetInfo::selected(egui::Role::Button, true, is_current, &label));
            ui.ctx().accesskit_node_builder(response.id, |node| node.set_description(description(state)));
            paint(ui, rect, row, state, &texture, is_current, &response);
            let response = response.on_hover_text(description(state));
            if response.clicked() {
                actions.push(Action::GoTo(state.id));
            }
            response.context_menu(|ui| {
                if ui.button(Action::GoTo(state.id).label()).clicked() {
                    actions.push(Action::GoTo(state.id));
                }
                let against = Action::CompareWith(Against::State(state.id));
                if ui.add_enabled(!is_current, egui::Button::new(against.label())).clicked() {
                    actions.push(against);
                    if viewer.state.compare == CompareMode::Off {
                        actions.push(Command::CompareSplit.into());
                    }
                }
                let deletable = state.parent.is_some();
                if ui.add_enabled(deletable, egui::Button::new(Command::Delete.label())).clicked() {
                    actions.push(Action::DeleteState(state.id));
                }
            });
        }
    });
}

fn paint(
    ui: &egui::Ui,
    rect: Rect,
    &HistoryRow { depth, variants, .. }: &HistoryRow,
    state: &ScaleState,
    texture: &egui::TextureHandle,
    is_current: bool,
    response: &egui::Response,
) {
    let painter = ui.painter();
    let palette = theme::palette(ui);
    let text = ui.visuals().text_color();
    if is_current || response.hovered() {
        painter.rect_filled(rect, CornerRadius::same(4), ui.visuals().faint_bg_color);
    }
    if is_current {
        painter.rect_filled(Rect::from_min_size(rect.min, vec2(2.0, rect.height())), CornerRadius::ZERO, theme::ACCENT);
    }
    let left = rect.left() + 8.0 + INDENT * depth.min(DEEPEST_INDENT) as f32;
    if depth > 0 {
        let (x, y) = (left - INDENT / 2.0, rect.center().y);
        painter.line_segment([pos2(x, rect.top()), pos2(x, y)], Stroke::new(1.0, palette.line));
        painter.line_segment([pos2(x, y), pos2(left - 2.0, y)], Stroke::new(1.0, palette.line));
    }
    let cell = Rect::from_min_size(pos2(left, rect.top() + 4.0), vec2(ROW - 8.0, ROW - 8.0));
    let image = fitted(cell, texture.size_vec2());
    painter.image(texture.id(), image, Rect::from_min_max(pos2(0.0, 0.0), pos2(1.0, 1.0)), Color32::WHITE);
    if variants > 1 {
        // Stacked: the others peep out behind.
        for offset in [4.0, 2.0] {
            let behind = image.translate(vec2(offset, -offset));
            painter.rect_stroke(behind, CornerRadius::ZERO, Stroke::new(1.0, palette.dim), StrokeKind::Outside);
        }
        painter.image(texture.id(), image, Rect::from_min_max(pos2(0.0, 0.0), pos2(1.0, 1.0)), Color32::WHITE);
    }
    if variants > 1 {
        let plate = Rect::from_min_size(image.right_bottom() - vec2(14.0, 14.0), vec2(14.0, 14.0));
        painter.rect_filled(plate, CornerRadius::ZERO, Color32::from_black_alpha(200));
        let number = variants.to_string();
        painter.text(plate.center(), Align2::CENTER_CENTER, number, FontId::proportional(11.0), Color32::WHITE);
    }
    let outline = if is_current { theme::ACCENT } else { palette.line };
    painter.rect_stroke(image, CornerRadius::ZERO, Stroke::new(1.0, outline), StrokeKind::Outside);

    let x = cell.right() + 8.0;
    let clipped = painter.with_clip_rect(rect.shrink2(vec2(4.0, 0.0)));
    let line = |y: f32, line: String, size: f32, colour: Color32| {
        clipped.text(pos2(x, rect.top() + y), Align2::LEFT_CENTER, line, FontId::proportional(size), colour);
    };
    match &state.record {
        None => {
            line(20.0, Document::title(state), 13.0, text);
            line(37.0, format!("{} x {}", state.picture.width(), state.picture.height()), 11.0, palette.dim);
        }
        Some(record) => {
            let prompt = match (&record.full_image, record.prompt.as_str()) {
                (Some(full), "") if !full.prompts.is_empty() => format!("prompts of {} tiles", full.prompts.len()),
                (_, "") => "no prompt".into(),
                (_, prompt) => prompt.replace('\n', " "),
            };
            line(12.0, format!("{}  ·  {:.1} s", Document::title(state), record.elapsed.as_secs_f64()), 13.0, text);
            line(29.0, prompt, 11.0, palette.dim);
            line(44.0, format!("{}  ·  seed {}", model_name(state), record.seed), 11.0, palette.dim);
        }
    }
}

fn model_name(state: &ScaleState) -> String {
    let model = state.record.as_ref().and_then(|record| record.model.as_ref());
    model.map_or_else(|| "reduced, no model".into(), |model| model.backbone.name())
}

/// What the tooltips of a state say.
pub(super) fn description(state: &ScaleState) -> String {
    let Some(record) = &state.record else { return "The photo, 1x: every magnification counts from its pixels".into() };
    let mut lines = vec![
        format!("{} of the photo's own pixels", Document::title(state)),
        format!("Model: {}", model_name(state)),
        format!(
            "Box: {} x {} at {}, {} of its parent",
            record.region.width, record.region.height, record.region.x, record.region.y
        ),
        format!("Took {:.2} s, seed {}", record.elapsed.as_secs_f64(), record.seed),
    ];
    if !record.prompt.is_empty() {
        let is_unused = record.model.as_ref().is_some_and(|model| !model.backbone.takes_prompt());
        let note = if is_unused { " (the model takes no prompt)" } else { "" };
        lines.insert(1, format!("Prompt{note}: {}", record.prompt));
    }
    lines.join("\n")
}

/// The largest rectangle of this shape in a cell, centred.
pub(super) fn fitted(cell: Rect, size: egui::Vec2) -> Rect {
    let scale = (cell.width() / size.x).min(cell.height() / size.y);
    egui::Align2([Align::Center, Align::Center]).align_size_within_rect(size * scale, cell)
}
