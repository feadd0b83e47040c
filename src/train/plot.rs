//! Curves over the steps of a training, as SVG.

use plotters::prelude::*;

use crate::evaluate::plot::COLOURS;

const SIZE: (u32, u32) = (720, 420);

/// A name, and values by steps.
pub struct Curve {
    /// In the legend.
    pub name: String,
    /// Values that are no numbers are left out.
    pub points: Vec<(f64, f64)>,
}

/// `None` where no curve has two points.
///
/// # Errors
/// What the plotter says.
pub fn svg(y: &str, curves: &[Curve]) -> Result<Option<String>, String> {
    let points = || curves.iter().flat_map(|curve| &curve.points).filter(|(_, value)| value.is_finite());
    let ends = |values: &mut dyn Iterator<Item = f64>| {
        values.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], value| [low.min(value), high.max(value)])
    };
    let [first, last] = ends(&mut points().map(|(step, _)| *step));
    let [low, high] = ends(&mut points().map(|(_, value)| *value));
    if first >= last {
        return Ok(None);
    }
    let room = ((high - low) * 0.05).max(1e-9);
    let mut text = String::new();
    draw(y, curves, first..last, low - room..high + room, &mut text).map_err(|error| error.to_string())?;
    Ok(Some(text))
}

fn draw(
    y: &str,
    curves: &[Curve],
    steps: std::ops::Range<f64>,
    values: std::ops::Range<f64>,
    text: &mut String,
) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(14)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(steps, values)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .x_desc("step")
        .x_label_formatter(&|step| format!("{step:.0}"))
        .y_desc(y)
        .y_label_formatter(&|value| ((value * 1e5).round() / 1e5).to_string())
        .label_style(("sans-serif", 15))
        .axis_desc_style(("sans-serif", 16))
        .draw()?;
    for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        let points = curve.points.iter().copied().filter(|(_, value)| value.is_finite());
        let series = chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
        series
            .label(curve.name.clone())
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.2))
        .label_font(("sans-serif", 15))
        .draw()?;
    root.present()?;
    Ok(())
}
