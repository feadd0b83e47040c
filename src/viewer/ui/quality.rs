//! What a metric says of the state at hand, and of the chain that led to it.

use egui::{Align2, ComboBox, Pos2, Sense, Shape, Stroke, vec2};

use super::dim;
use crate::base::{MetricSpec, magnification_label};
use crate::viewer::Viewer;
use crate::viewer::commands::Command;

/// Of the plot.
const HEIGHT: f32 = 72.0;
const MARGIN: f32 = 6.0;

pub(super) fn show(viewer: &mut Viewer, ui: &mut egui::Ui) {
    if viewer.state.document.is_none() || viewer.state.found.metrics.is_empty() {
        return;
    }
    ui.add_space(4.0);
    ui.horizontal(|ui| {
        let chosen = viewer.state.metric;
        let chooser = ComboBox::from_id_salt("metric").selected_text(chosen.label);
        let chooser = chooser.show_ui(ui, |ui| {
            for (spec, _) in &viewer.state.found.metrics {
                ui.selectable_value(&mut viewer.state.metric, *spec, spec.label).on_hover_text(spec.about);
            }
        });
        let name = format!("Metric: {}", chosen.label);
        chooser.response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::ComboBox, true, &name));
        let way = if chosen.is_lower_better { "Lower is better." } else { "Higher is better." };
        chooser.response.on_hover_text(format!("{}. {way}", chosen.about));
        if viewer.state.scoring {
            ui.spinner();
            return;
        }
        let can_score = (Command::ScoreChain.row().is_enabled)(&viewer.state);
        let button = ui.add_enabled(can_score, egui::Button::new(Command::ScoreChain.label()));
        let button = button.on_hover_text("The states from the photo to this one");
        if button.on_disabled_hover_text("All states from the photo to this one are scored").clicked() {
            viewer.actions.push(Command::ScoreChain.into());
        }
    });
    let metric = viewer.state.metric;
    let Some(document) = &viewer.state.document else { return };
    match document.scores.get(&(document.history.current().id, metric.id)) {
        Some(Ok(score)) => _ = ui.label(format!("{} {}", metric.label, metric.format(*score))),
        Some(Err(reason)) => _ = ui.label(dim(ui, format!("No {}: {reason}", metric.label))),
        None if document.is_too_large_for(metric) => {
            _ = ui.label(dim(ui, format!("Larger than 4 megapixels: not scored by {}", metric.label)));
        }
        None => {}
    }
    let scores: Vec<(f64, f64)> = document
        .scores(metric)
        .into_iter()
        .filter_map(|(magnification, score)| Some((magnification, *score.as_ref().ok()?)))
        .collect();
    if scores.len() > 1 {
        plot(metric, &scores, ui);
    }
}

/// A score for each state of the chain, from the photo on.
fn plot(metric: &MetricSpec, scores: &[(f64, f64)], ui: &mut egui::Ui) {
    let (response, painter) = ui.allocate_painter(vec2(ui.available_width(), HEIGHT), Sense::hover());
    painter.rect_filled(response.rect, 4.0, ui.visuals().extreme_bg_color);
    let values = || scores.iter().map(|(_, score)| *score);
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let range = (high - low).max(f64::EPSILON);
    let mut inside = response.rect.shrink(MARGIN);
    let font = egui::TextStyle::Small.resolve(ui.style());
    let colour = ui.visuals().weak_text_color();
    for (scale, align) in [(scores.first(), Align2::LEFT_BOTTOM), (scores.last(), Align2::RIGHT_BOTTOM)] {
        let label = scale.map(|(magnification, _)| magnification_label(*magnification)).unwrap_or_default();
        let place = align.pos_in_rect(&inside);
        painter.text(place, align, label, font.clone(), colour);
    }
    inside.max.y -= font.size + MARGIN;
    let point = |(i, score): (usize, f64)| {
        let across = i as f32 / (scores.len() - 1) as f32;
        let up = ((score - low) / range) as f32;
        Pos2::new(inside.left() + across * inside.width(), inside.bottom() - up * inside.height())
    };
    let points: Vec<Pos2> = values().enumerate().map(point).collect();
    let visuals = ui.visuals();
    painter.add(Shape::line(points.clone(), Stroke::new(1.5, visuals.selection.stroke.color)));
    for &point in &points {
        painter.circle_filled(point, 2.5, visuals.selection.stroke.color);
    }
    let all: Vec<String> = scores
        .iter()
        .map(|(magnification, score)| format!("{} {}", magnification_label(*magnification), metric.format(*score)))
        .collect();
    let all = format!("{} along the chain: {}", metric.label, all.join(", "));
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Image, true, &all));
    let nearest = response.hover_pos().and_then(|pointer| {
        let apart = |point: &Pos2| (point.x - pointer.x).abs();
        let nearest = points.iter().enumerate().min_by(|a, b| apart(a.1).total_cmp(&apart(b.1)));
        nearest.map(|(i, _)| scores[i])
    });
    if let Some((magnification, score)) = nearest {
        let text = format!("{}: {} {}", magnification_label(magnification), metric.label, metric.format(score));
        response.on_hover_text_at_pointer(text);
    }
}
