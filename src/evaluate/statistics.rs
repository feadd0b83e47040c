//! What scores of many pictures say together.

/// Resamples of a bootstrap.
const RESAMPLES: usize = 2000;
/// What it draws by: the same scores have the same interval.
const SEED: u64 = 42;

/// A mean, and between what it lies in 95 of 100 cases: a percentile bootstrap over the pictures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mean {
    /// How many.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// From, to.
    pub interval: [f64; 2],
}

impl Mean {
    /// `None` of nothing.
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let count = values.len();
        let mean = values.iter().sum::<f64>() / count as f64;
        let mut rng = fastrand::Rng::with_seed(SEED);
        let mut draw = || (0..count).map(|_| values[rng.usize(..count)]).sum::<f64>() / count as f64;
        let mut means: Vec<f64> = (0..RESAMPLES).map(|_| draw()).collect();
        means.sort_by(f64::total_cmp);
        let percentile = |share: f64| means[((RESAMPLES - 1) as f64 * share).round() as usize];
        Some(Self { count, mean, interval: [percentile(0.025), percentile(0.975)] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_that_of_the_normal_distribution_where_that_holds() {
        // Evenly spread over 0 to 1: deviation sqrt(1/12), so the mean of 400 lies within 1.96 * 0.2887 / 20.
        let values: Vec<f64> = (0..400).map(|i| (f64::from(i) + 0.5) / 400.0).collect();
        let found = Mean::of(&values).unwrap();
        assert!((found.mean - 0.5).abs() < 1e-12);
        let half = (found.interval[1] - found.interval[0]) / 2.0;
        assert!((half - 0.0283).abs() < 0.002, "{half}");
        assert_eq!(Mean::of(&values), Some(found));
        assert_eq!(Mean::of(&[2.0]), Some(Mean { count: 1, mean: 2.0, interval: [2.0; 2] }));
        assert_eq!(Mean::of(&[]), None);
    }
}
