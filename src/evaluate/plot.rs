//! A metric against the scale, with a band where its mean may lie, as SVG.

use plotters::prelude::*;

use super::summary::Summary;
use crate::base::MetricSpec;

const SIZE: (u32, u32) = (720, 420);
/// Colours that people tell apart who see few (Okabe and Ito).
pub(crate) const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(60, 60, 60),
];

/// A line for each run; `None` where there are not two scales with scores.
///
/// # Errors
/// What the plotter says.
pub fn svg(summary: &Summary, metric: usize) -> Result<Option<String>, String> {
    let scales: Vec<Option<u32>> = summary.scales().into_iter().filter(Option::is_some).collect();
    let spec = summary.specs[metric];
    let line = |run: usize| -> Line {
        let cell = |(x, scale): (usize, &Option<u32>)| {
            let mean = summary.cell(run, *scale, metric).mean?;
            Some((x as f64, mean.mean, mean.interval))
        };
        scales.iter().enumerate().filter_map(cell).collect()
    };
    let lines: Vec<_> = (0..summary.runs.len()).map(line).collect();
    if lines.iter().all(|line| line.len() < 2) {
        return Ok(None);
    }
    let ends = || lines.iter().flatten().flat_map(|(_, _, interval)| *interval);
    let (low, high) = (ends().fold(f64::INFINITY, f64::min), ends().fold(f64::NEG_INFINITY, f64::max));
    let room = ((high - low) * 0.05).max(1e-6);
    let mut text = String::new();
    draw(summary, spec, &scales, &lines, low - room..high + room, &mut text).map_err(|error| error.to_string())?;
    Ok(Some(text))
}

/// For each scale: its place, the mean, and between what it lies.
type Line = Vec<(f64, f64, [f64; 2])>;

fn draw(
    summary: &Summary,
    spec: &MetricSpec,
    scales: &[Option<u32>],
    lines: &[Line],
    range: std::ops::Range<f64>,
    text: &mut String,
) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let last = scales.len().saturating_sub(1) as f64;
    let mut chart = ChartBuilder::on(&root)
        .margin(14)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d(-0.15..last + 0.15, range)?;
    let magnification = |x: &f64| {
        let is_whole = (x - x.round()).abs() < 1e-6;
        let scale = scales.get(x.round() as usize).filter(|_| is_whole);
        scale.map(|scale| summary.magnification(*scale)).unwrap_or_default()
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .x_labels(scales.len())
        .x_label_formatter(&magnification)
        .y_label_formatter(&|y| ((y * 1e4).round() / 1e4).to_string())
        .y_desc(spec.label_with_arrow())
        .label_style(("sans-serif", 15))
        .axis_desc_style(("sans-serif", 16))
        .draw()?;
    for ((run, line), colour) in summary.runs.iter().zip(lines).zip(COLOURS.iter().cycle()) {
        let band = line.iter().map(|&(x, _, [low, _])| (x, low));
        let band: Vec<_> = band.chain(line.iter().rev().map(|&(x, _, [_, high])| (x, high))).collect();
        chart.draw_series([Polygon::new(band, colour.mix(0.18).filled())])?;
        let points = line.iter().map(|&(x, mean, _)| (x, mean));
        let series = chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?;
        series.label(run.name.clone()).legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart.draw_series(points.map(|point| Circle::new(point, 3, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        // Quality falls with the scale: that corner is free.
        .position(if spec.is_lower_better { SeriesLabelPosition::UpperLeft } else { SeriesLabelPosition::LowerLeft })
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.2))
        .label_font(("sans-serif", 15))
        .draw()?;
    root.present()?;
    Ok(())
}
