//! Summaries as text: Markdown for people, CSV and JSON for programs.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;

use serde_json::{Map, Value, json};

use super::evaluator::{Evaluator, MetricVersion};
use super::paper;
use super::statistics::Mean;
use super::summary::{Scored, Summary};
use crate::base::{MetricSpec, PROGRAM};

/// Between what a mean lies.
fn with_interval(spec: &MetricSpec, mean: &Mean, pictures: usize) -> String {
    let [from, to] = mean.interval.map(|end| spec.format(end));
    let count = if mean.count == pictures { String::new() } else { format!(", n = {}", mean.count) };
    format!("{} [{from}, {to}]{count}", spec.format(mean.mean))
}

/// The same of a difference.
fn difference(spec: &MetricSpec, mean: &Mean) -> String {
    let signed = |value: f64| format!("{value:+.*}", spec.decimals);
    let [from, to] = mean.interval.map(signed);
    let sure = if mean.interval[0] > 0.0 || mean.interval[1] < 0.0 { "" } else { " n.s." };
    format!("{} [{from}, {to}]{sure}", signed(mean.mean))
}

fn line(cells: impl IntoIterator<Item = String>) -> String {
    let cells: Vec<String> = cells.into_iter().collect();
    format!("| {} |\n", cells.join(" | "))
}

fn head(columns: &[String]) -> String {
    line(columns.iter().cloned()) + &line(columns.iter().map(|_| "---".into()))
}

/// A table of all runs by scale, the best of each in bold, with the paper's rows where a dataset is named; then how the
/// others differ from the first run, picture by picture.
pub fn markdown(summary: &Summary, paper: Option<paper::Dataset>) -> String {
    let specs = &summary.specs;
    let labels = || specs.iter().map(|spec| spec.label_with_arrow());
    // Flat folders have no scales.
    let has_scales = summary.scales().iter().any(Option::is_some);
    let scale_column = |text: String| has_scales.then_some(text);
    let head = |names: &[&str]| {
        let names = scale_column("Scale".into()).into_iter().chain(names.iter().map(|name| (*name).to_owned()));
        head(&names.chain(labels()).collect::<Vec<_>>())
    };
    let mut text = head(&["Run", "n", "Failed"]);
    for scale in summary.scales() {
        let magnification = summary.magnification(scale);
        let cells: Vec<Vec<_>> = (0..summary.runs.len())
            .map(|run| (0..specs.len()).map(|metric| summary.cell(run, scale, metric)).collect())
            .collect();
        let best = |metric: usize| {
            let means: Vec<f64> = cells.iter().filter_map(|row| row[metric].mean.map(|mean| mean.mean)).collect();
            let [low, high] = [means.iter().copied().reduce(f64::min)?, means.iter().copied().reduce(f64::max)?];
            (low < high).then_some(if specs[metric].is_lower_better { low } else { high })
        };
        for (run, row) in cells.iter().enumerate().filter(|(run, _)| summary.count(*run, scale) > 0) {
            let failed = row.iter().map(|cell| cell.failures).max().unwrap_or(0);
            let first = [summary.runs[run].name.clone(), summary.count(run, scale).to_string(), failed.to_string()];
            let scores = row.iter().enumerate().map(|(metric, cell)| match &cell.mean {
                None => String::new(),
                Some(mean) => {
                    let text = with_interval(specs[metric], mean, summary.count(run, scale));
                    if best(metric) == Some(mean.mean) { format!("**{text}**") } else { text }
                }
            });
            text += &line(scale_column(magnification.clone()).into_iter().chain(first).chain(scores));
        }
        for (method, means) in paper.into_iter().flat_map(|dataset| paper::rows(dataset, &magnification)) {
            let of = |spec: &&MetricSpec| {
                let column = paper::METRICS.iter().position(|id| *id == spec.id);
                column.map(|column| spec.format(means[column])).unwrap_or_default()
            };
            let first = [format!("paper: {method}"), String::new(), String::new()];
            text += &line(scale_column(magnification.clone()).into_iter().chain(first).chain(specs.iter().map(of)));
        }
    }
    if let [first, others @ ..] = summary.runs
        && !others.is_empty()
    {
        _ = write!(
            text,
            "\nDifferences from {}, picture by picture (n.s.: not significant, the interval includes 0):\n\n",
            first.name
        );
        text += &head(&["Run", "n"]);
        for scale in summary.scales() {
            for (run, other) in (1..).zip(others) {
                let means: Vec<_> = (0..specs.len()).map(|metric| summary.difference(run, scale, metric)).collect();
                let Some(count) = means.iter().flatten().map(|mean| mean.count).max() else { continue };
                let scores = means.iter().zip(specs);
                let scores = scores.map(|(mean, spec)| mean.map(|mean| difference(spec, &mean)).unwrap_or_default());
                let first = [other.name.clone(), count.to_string()];
                let scale = scale_column(summary.magnification(scale));
                text += &line(scale.into_iter().chain(first).chain(scores));
            }
        }
    }
    text
}

/// The table of all runs: a row for each scale, run and metric.
///
/// # Errors
/// Those of the writer.
pub fn csv(summary: &Summary, out: impl io::Write) -> io::Result<()> {
    let mut csv = csv::Writer::from_writer(out);
    csv.write_record(["scale", "run", "metric", "n", "failures", "mean", "low", "high"])?;
    for scale in summary.scales() {
        for (run, name) in summary.runs.iter().enumerate() {
            for (metric, spec) in summary.specs.iter().enumerate() {
                let cell = summary.cell(run, scale, metric);
                if cell.mean.is_none() && cell.failures == 0 {
                    continue;
                }
                let number =
                    |of: fn(&Mean) -> f64| cell.mean.as_ref().map(|mean| of(mean).to_string()).unwrap_or_default();
                let numbers =
                    [number(|mean| mean.mean), number(|mean| mean.interval[0]), number(|mean| mean.interval[1])];
                let counts = [cell.mean.map_or(0, |mean| mean.count).to_string(), cell.failures.to_string()];
                let first = [summary.magnification(scale), name.name.clone(), spec.id.into()];
                csv.write_record(first.into_iter().chain(counts).chain(numbers))?;
            }
        }
    }
    csv.flush()
}

/// Every score: a row for each picture and metric.
///
/// # Errors
/// Those of the writer.
pub fn scores_csv(
    summary: &Summary,
    scored: &[Scored],
    evaluators: &[Evaluator],
    out: impl io::Write,
) -> io::Result<()> {
    let mut csv = csv::Writer::from_writer(out);
    csv.write_record(["run", "scale", "picture", "metric", "score", "reason", "file", "weights", "program"])?;
    for Scored { run, item, scores } in scored {
        for (Evaluator { version: MetricVersion { spec, weights }, .. }, score) in evaluators.iter().zip(scores) {
            let Some(score) = score else { continue };
            csv.write_record([
                &summary.runs[*run].name,
                &summary.magnification(item.scale),
                &item.stem,
                spec.id,
                &score.as_ref().map(f64::to_string).unwrap_or_default(),
                score.as_ref().err().map(String::as_str).unwrap_or_default(),
                &item.file.to_string_lossy(),
                weights.as_deref().unwrap_or_default(),
                PROGRAM,
            ])?;
        }
    }
    csv.flush()
}

/// Names of the scores of one comparison in [`scores_json`].
const FULL_REFERENCE: [(&str, &str); 4] =
    [("psnr", "psnr_rgb"), ("psnr_y", "psnr_y_ycbcr"), ("ssim", "ssim_rgb"), ("ssim_y", "ssim_y_ycbcr")];

/// Scores by metric and stem, `null` where there is none; PSNR and SSIM by stem under `full_reference`. Where pictures share
/// a stem, their scale stands before it, and their run where that is not enough.
pub fn scores_json(summary: &Summary, scored: &[Scored]) -> Value {
    let names = names(summary, scored);
    let (mut all, mut full_reference) = (Map::new(), Map::new());
    for (metric, spec) in summary.specs.iter().enumerate() {
        let number = |scored: &Scored| scored.scores[metric].as_ref().and_then(|score| score.as_ref().ok().copied());
        let scores = names.iter().zip(scored).map(|(name, scored)| (name, Value::from(number(scored))));
        match FULL_REFERENCE.iter().find(|(id, _)| *id == spec.id) {
            None => {
                let of_metric: Map<String, Value> = scores.map(|(name, score)| (name.clone(), score)).collect();
                all.insert(spec.id.into(), of_metric.into());
            }
            Some((_, key)) => {
                for (name, score) in scores {
                    let of_picture = full_reference.entry(name).or_insert_with(|| Map::new().into());
                    of_picture[*key] = score;
                }
            }
        }
    }
    if !full_reference.is_empty() {
        all.insert("full_reference".into(), full_reference.into());
    }
    all.into()
}

/// A name for each picture that no other has.
fn names(summary: &Summary, scored: &[Scored]) -> Vec<String> {
    let named = |has_scale: bool, has_run: bool| -> Vec<String> {
        let name = |Scored { run, item, .. }: &Scored| {
            let run = has_run.then(|| summary.runs[*run].name.clone());
            let scale = item.scale.filter(|_| has_scale).map(|scale| format!("scale{scale}"));
            run.into_iter().chain(scale).chain([item.stem.clone()]).collect::<Vec<_>>().join("/")
        };
        scored.iter().map(name).collect()
    };
    let are_unique = |names: &Vec<String>| names.iter().collect::<BTreeSet<_>>().len() == names.len();
    let candidates = [(false, false), (true, false), (false, true)].map(|(scale, run)| named(scale, run));
    candidates.into_iter().find(are_unique).unwrap_or_else(|| named(true, true))
}

/// Every score with how it came to be: versions, weights, runs, files, reasons.
pub fn details(summary: &Summary, scored: &[Scored], evaluators: &[Evaluator]) -> Value {
    let metric = |evaluator: &Evaluator| {
        let MetricVersion { spec, weights } = &evaluator.version;
        let weights: Vec<&str> = weights.iter().flat_map(|weights| weights.split('+')).collect();
        json!({"id": spec.id, "label": spec.label, "lower_is_better": spec.is_lower_better, "weights_sha256": weights})
    };
    let picture = |Scored { run, item, scores }: &Scored| {
        let scores = summary.specs.iter().zip(scores).filter_map(|(spec, score)| {
            let score = match score.as_ref()? {
                Ok(score) => json!({ "score": score }),
                Err(reason) => json!({ "score": null, "reason": reason }),
            };
            Some((spec.id.to_owned(), score))
        });
        json!({
            "run": summary.runs[*run].name,
            "scale": item.scale,
            "picture": item.stem,
            "file": item.file.to_string_lossy(),
            "scores": scores.collect::<Map<_, _>>(),
        })
    };
    json!({
        "program": PROGRAM,
        "metrics": evaluators.iter().map(metric).collect::<Vec<_>>(),
        "pictures": scored.iter().map(picture).collect::<Vec<_>>(),
    })
}
