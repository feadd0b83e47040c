//! Scores of runs, by scale and metric: how many, how many failed, mean and interval; and differences between runs over the
//! pictures that both have.

use std::collections::BTreeMap;

use super::metrics::Score;
use super::run::{Item, Run};
use super::statistics::Mean;
use crate::base::MetricSpec;

/// What a picture counts as that a metric cannot score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display, strum::EnumString, strum::VariantNames)]
#[strum(serialize_all = "lowercase")]
pub enum Failures {
    /// The worst value, as in the paper.
    Worst,
    /// Nothing.
    Skip,
}

/// A picture with its scores, in the order of the metrics; `None` where it was not compared.
pub struct Scored {
    /// Which run it is of.
    pub run: usize,
    /// The picture.
    pub item: Item,
    /// Its scores.
    pub scores: Vec<Option<Score>>,
}

/// Of one metric over the pictures of a run at one scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    /// Over those that count.
    pub mean: Option<Mean>,
    /// Pictures without a score.
    pub failures: usize,
}

/// All scores, and how to count them.
pub struct Summary<'a> {
    /// The runs.
    pub runs: &'a [Run],
    /// The metrics.
    pub specs: Vec<&'static MetricSpec>,
    scored: &'a [Scored],
    failures: Failures,
}

impl<'a> Summary<'a> {
    /// Of pictures that were scored by these metrics.
    pub fn new(runs: &'a [Run], specs: Vec<&'static MetricSpec>, scored: &'a [Scored], failures: Failures) -> Self {
        Self { runs, specs, scored, failures }
    }

    /// The scales there are, the first state before the others.
    pub fn scales(&self) -> Vec<Option<u32>> {
        let mut scales: Vec<Option<u32>> = self.scored.iter().map(|scored| scored.item.scale).collect();
        scales.sort_unstable();
        scales.dedup();
        scales
    }

    /// How large a scale is, in words.
    pub fn magnification(&self, scale: Option<u32>) -> String {
        self.runs.first().map(|run| run.magnification(scale)).unwrap_or_default()
    }

    /// What a picture's score counts as.
    fn value(&self, metric: usize, score: &Score) -> Option<f64> {
        let worst = || self.specs[metric].worst.filter(|_| self.failures == Failures::Worst);
        score.as_ref().ok().copied().or_else(worst)
    }

    fn scores(&self, run: usize, scale: Option<u32>, metric: usize) -> impl Iterator<Item = (&str, &Score)> {
        let here = self.scored.iter().filter(move |scored| scored.run == run && scored.item.scale == scale);
        here.filter_map(move |scored| Some((scored.item.stem.as_str(), scored.scores[metric].as_ref()?)))
    }

    /// What is counted of a metric, by stem.
    fn values(&self, run: usize, scale: Option<u32>, metric: usize) -> BTreeMap<&str, f64> {
        let scores = self.scores(run, scale, metric);
        scores.filter_map(|(stem, score)| Some((stem, self.value(metric, score)?))).collect()
    }

    /// Pictures of a run at a scale.
    pub fn count(&self, run: usize, scale: Option<u32>) -> usize {
        self.scored.iter().filter(|scored| scored.run == run && scored.item.scale == scale).count()
    }

    /// One metric over a run at a scale.
    pub fn cell(&self, run: usize, scale: Option<u32>, metric: usize) -> Cell {
        let values: Vec<f64> = self.values(run, scale, metric).into_values().collect();
        let failures = self.scores(run, scale, metric).filter(|(_, score)| score.is_err()).count();
        Cell { mean: Mean::of(&values), failures }
    }

    /// How much more a run scores than the first one, over the pictures that both have.
    pub fn difference(&self, run: usize, scale: Option<u32>, metric: usize) -> Option<Mean> {
        let first = self.values(0, scale, metric);
        let ours = self.values(run, scale, metric);
        let apart: Vec<f64> = ours.into_iter().filter_map(|(stem, value)| Some(value - first.get(stem)?)).collect();
        Mean::of(&apart)
    }
}
