//! Curves over the steps of a training, as SVG.

use plotters::coord::Shift;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::evaluate::plot::COLOURS;

const SIZE: (u32, u32) = (720, 420);

/// Points of a curve, each the mean of as many steps as it takes.
const MOST_POINTS: usize = 400;

/// A name, and values by steps.
pub struct Curve {
    /// In the legend.
    pub name: String,
    /// Values that are no numbers are left out.
    pub points: Vec<(f64, f64)>,
}

/// Of the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// As they are.
    Linear,
    /// By their logarithms; only those above zero are drawn.
    Logarithmic,
}

/// Means of neighbours where there are too many points.
pub(super) fn thinned(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let points: Vec<(f64, f64)> = points.filter(|(_, value)| value.is_finite()).collect();
    let each = points.len().div_ceil(MOST_POINTS).max(1);
    let mean = |chunk: &[(f64, f64)]| {
        let sum = chunk.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / chunk.len() as f64, sum.1 / chunk.len() as f64)
    };
    points.chunks(each).map(mean).collect()
}

/// `None` where no curve has two points.
///
/// # Errors
/// What the plotter says.
pub fn svg(y: &str, scale: Scale, curves: &[Curve]) -> Result<Option<String>, String> {
    let is_drawn = |value: f64| value.is_finite() && (scale == Scale::Linear || value > 0.0);
    let drawn: Vec<Vec<(f64, f64)>> = curves
        .iter()
        .map(|curve| curve.points.iter().copied().filter(|(_, value)| is_drawn(*value)).collect())
        .collect();
    let ends = |values: &mut dyn Iterator<Item = f64>| {
        values.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], value| [low.min(value), high.max(value)])
    };
    let [first, last] = ends(&mut drawn.iter().flatten().map(|(step, _)| *step));
    let [low, high] = ends(&mut drawn.iter().flatten().map(|(_, value)| *value));
    if first >= last {
        return Ok(None);
    }
    let mut text = String::new();
    let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
    let mut builder = ChartBuilder::on(&root);
    builder.margin(14).x_label_area_size(44).y_label_area_size(64);
    let chart = match scale {
        Scale::Linear => {
            let room = ((high - low) * 0.05).max(1e-9);
            builder
                .build_cartesian_2d(first..last, low - room..high + room)
                .and_then(|chart| draw(y, curves, &drawn, chart, &root))
        }
        Scale::Logarithmic => {
            let values = (low / 1.1..high * 1.1).log_scale();
            builder.build_cartesian_2d(first..last, values).and_then(|chart| draw(y, curves, &drawn, chart, &root))
        }
    };
    chart.map_err(|error| error.to_string())?;
    drop(root);
    Ok(Some(text))
}

type Root<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn draw<'a, Y>(
    y: &str,
    curves: &[Curve],
    drawn: &[Vec<(f64, f64)>],
    mut chart: ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, Y>>,
    root: &Root<'a>,
) -> Drawn
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    root.fill(&WHITE)?;
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
    for ((curve, points), colour) in curves.iter().zip(drawn).zip(COLOURS.iter().cycle()) {
        let series = chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
        series
            .label(curve.name.clone())
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    // Where fewer curves end: those of rewards rise, those of losses fall.
    let rises = |points: &&Vec<(f64, f64)>| points.first().zip(points.last()).is_some_and(|(a, b)| b.1 > a.1);
    let position = match 2 * drawn.iter().filter(rises).count() > drawn.len() {
        true => SeriesLabelPosition::LowerRight,
        false => SeriesLabelPosition::UpperRight,
    };
    chart
        .configure_series_labels()
        .position(position)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.2))
        .label_font(("sans-serif", 15))
        .draw()?;
    root.present()
}
