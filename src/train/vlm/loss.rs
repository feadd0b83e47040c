//! Group relative policy optimization (GRPO, arXiv 2402.03300), token by token as TRL 1.16 computes it (`GRPOTrainer`): advantages
//! within a group, the clipped ratio, the KL term, and how tokens are averaged.

use tch::{Kind, TchError, Tensor};

/// Beside a group's deviation, so that equal rewards divide by something.
const STD_EPSILON: f64 = 1e-4;

/// How the losses of tokens become one, by TRL's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display, strum::EnumString, strum::VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum LossType {
    /// The mean over completions of the mean over their tokens.
    Grpo,
    /// The mean over all tokens of a micro-batch.
    Bnpo,
    /// The sum of all tokens by the number of completions and the longest length there may be (Dr. GRPO, arXiv 2503.20783).
    DrGrpo,
    /// The mean over all tokens of an optimizer step (DAPO, arXiv 2503.14476).
    Dapo,
}

/// Hyperparameters of the loss.
#[derive(Clone, Copy, Debug)]
pub struct LossOptions {
    /// How tokens are averaged.
    pub loss_type: LossType,
    /// Rewards are divided by their deviation within the group.
    pub scale_rewards: bool,
    /// Weight of the KL term.
    pub beta: f64,
    /// The ratio is cut off that far below 1.
    pub epsilon_low: f64,
    /// And above.
    pub epsilon_high: f64,
}

/// The advantages of a group's completions, `R - mean`, with `scale` divided by the unbiased deviation. NaN for those without a
/// reward, which do not count; 0 where all rewards are equal.
pub fn advantages(rewards: &[f64], scale: bool) -> Vec<f64> {
    let known: Vec<f64> = rewards.iter().copied().filter(|reward| reward.is_finite()).collect();
    let (count, mean) = (known.len() as f64, known.iter().sum::<f64>() / known.len() as f64);
    let is_equal = known.iter().all(|&reward| reward == known[0]);
    let square = known.iter().map(|reward| (reward - mean).powi(2)).sum::<f64>();
    let divisor = if scale { (square / (count - 1.0)).sqrt() + STD_EPSILON } else { 1.0 };
    let advantage = |&reward: &f64| match () {
        () if !reward.is_finite() => f64::NAN,
        () if is_equal => 0.0,
        () => (reward - mean) / divisor,
    };
    rewards.iter().map(advantage).collect()
}

/// What each token of a completion weighs in the loss of a micro-batch of completions with these many tokens that count.
/// `step_tokens`: tokens of all micro-batches of the optimizer step; `micro_batches`: how many those are.
pub fn token_weights(
    loss_type: LossType,
    lengths: &[usize],
    max_completion_length: usize,
    step_tokens: f64,
    micro_batches: usize,
) -> Vec<f64> {
    let (rows, tokens) = (lengths.len() as f64, lengths.iter().sum::<usize>() as f64);
    let weight = |&length: &usize| {
        let divisor = match loss_type {
            LossType::Grpo => rows * length.max(1) as f64,
            LossType::Bnpo => tokens.max(1.0),
            LossType::DrGrpo => rows * max_completion_length as f64,
            LossType::Dapo => return 1.0 / step_tokens.max(1.0),
        };
        1.0 / (divisor * micro_batches as f64)
    };
    lengths.iter().map(weight).collect()
}

/// A number of each row for each of its tokens, in float32.
pub(super) fn spread(numbers: &[f64], lengths: &[usize]) -> Result<Tensor, TchError> {
    let spread = numbers.iter().zip(lengths).flat_map(|(&number, &length)| std::iter::repeat_n(number as f32, length));
    Tensor::f_from_slice(&spread.collect::<Vec<f32>>())
}

/// The loss of tokens, `[T]` each.
pub struct TokenLoss {
    /// `-min(r A, clip(r) A) + beta * KL`; its gradient leads to the log-probs.
    pub loss: Tensor,
    /// The probability by that of the policy that has sampled.
    pub ratio: Tensor,
    /// `exp(d) - d - 1`, d the reference's log-prob less the policy's.
    pub kl: Tensor,
    /// 1 where clipping has taken the gradient away, else 0.
    pub is_clipped: Tensor,
}

/// The loss of tokens by their log-probs `[T]`: of the policy, of the policy that has sampled them, of the reference; and by the
/// advantages of their completions.
///
/// # Errors
/// What libtorch says.
pub fn token_loss(
    log_probs: &Tensor,
    old: &Tensor,
    reference: &Tensor,
    advantages: &Tensor,
    options: &LossOptions,
) -> Result<TokenLoss, TchError> {
    let (low, high) = (1.0 - options.epsilon_low, 1.0 + options.epsilon_high);
    let ratio = log_probs.f_sub(old)?.f_exp()?;
    let clipped = ratio.f_clamp(low, high)?;
    let gain = ratio.f_mul(advantages)?.f_minimum(&clipped.f_mul(advantages)?)?;
    let difference = reference.f_sub(log_probs)?;
    let kl = difference.f_exp()?.f_sub(&difference)?.f_sub_scalar(1.0)?;
    // TRL leaves the term out where it weighs nothing: there it may be infinite.
    let loss = match options.beta {
        0.0 => gain.f_neg()?,
        beta => kl.f_mul_scalar(beta)?.f_sub(&gain)?,
    };
    let is_low = ratio.f_lt(low)?.f_logical_and(&advantages.f_lt(0.0)?)?;
    let is_high = ratio.f_gt(high)?.f_logical_and(&advantages.f_gt(0.0)?)?;
    let is_clipped = is_low.f_logical_or(&is_high)?.f_to_kind(Kind::Float)?;
    Ok(TokenLoss { loss, ratio: ratio.f_detach()?, kl: kl.f_detach()?, is_clipped })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: LossOptions =
        LossOptions { loss_type: LossType::Grpo, scale_rewards: true, beta: 0.0, epsilon_low: 0.2, epsilon_high: 0.3 };

    #[test]
    fn advantages_are_those_of_the_group() {
        let scaled = advantages(&[1.0, 2.0, 3.0], true);
        assert!((scaled[2] - 1.0 / 1.0001).abs() < 1e-12 && scaled[1].abs() < 1e-12 && scaled[0] == -scaled[2]);
        assert_eq!(advantages(&[1.0, 2.0, 6.0], false), [-2.0, -1.0, 3.0]);
        assert_eq!(advantages(&[0.3; 4], true), [0.0; 4]);
        let unrated = advantages(&[1.0, f64::NAN, 2.0], false);
        assert!(unrated[1].is_nan() && unrated[0] == -0.5 && unrated[2] == 0.5);
        assert_eq!(advantages(&[1.0], true), [0.0]);
        assert!(advantages(&[f64::NAN], true)[0].is_nan());
    }

    #[test]
    fn tokens_weigh_as_each_kind_of_mean_has_it() {
        let weights = |loss_type| token_weights(loss_type, &[2, 4], 8, 30.0, 2);
        assert_eq!(weights(LossType::Grpo), [1.0 / 8.0, 1.0 / 16.0]);
        assert_eq!(weights(LossType::Bnpo), [1.0 / 12.0; 2]);
        assert_eq!(weights(LossType::DrGrpo), [1.0 / 32.0; 2]);
        assert_eq!(weights(LossType::Dapo), [1.0 / 30.0; 2]);
        assert!(token_weights(LossType::Grpo, &[0], 8, 0.0, 1)[0].is_finite());
    }

    #[test]
    fn clipping_takes_the_gradient_where_the_ratio_has_gone_far_enough() {
        // Ratios 0.5, 0.5, 1.5, 1.5 and advantages of both signs.
        let old = Tensor::from_slice(&[0.0f32; 4]);
        let log_probs = Tensor::from_slice(&[0.5f32, 0.5, 1.5, 1.5]).log().set_requires_grad(true);
        let advantages = Tensor::from_slice(&[1.0f32, -1.0, 1.0, -1.0]);
        let found = token_loss(&log_probs, &old, &old, &advantages, &OPTIONS).unwrap();
        let numbers = |tensor: &Tensor| Vec::<f32>::try_from(tensor).unwrap();
        assert_eq!(numbers(&found.is_clipped), [0.0, 1.0, 1.0, 0.0]);
        let expected = [-0.5f32, 0.8, -1.3, 1.5];
        assert!(numbers(&found.loss).iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6));
        found.loss.sum(Kind::Float).backward();
        let gradient = numbers(&log_probs.grad());
        assert!((gradient[0] + 0.5).abs() < 1e-6 && gradient[1] == 0.0 && gradient[2] == 0.0);
        assert!((gradient[3] - 1.5).abs() < 1e-6);
    }

    #[test]
    fn the_kl_term_pulls_towards_the_reference() {
        let log_probs = Tensor::from_slice(&[-1.0f32, -2.0]).set_requires_grad(true);
        let (old, reference) = (log_probs.detach(), Tensor::from_slice(&[-1.5f32, -2.0]));
        let none = Tensor::from_slice(&[0.0f32; 2]);
        let options = LossOptions { beta: 0.5, ..OPTIONS };
        let found = token_loss(&log_probs, &old, &reference, &none, &options).unwrap();
        let kl = (-0.5f64).exp() + 0.5 - 1.0;
        assert!((found.kl.double_value(&[0]) - kl).abs() < 1e-6 && found.kl.double_value(&[1]) == 0.0);
        assert!((found.loss.double_value(&[0]) - 0.5 * kl).abs() < 1e-6);
        found.loss.sum(Kind::Float).backward();
        let gradient = log_probs.grad();
        assert!((gradient.double_value(&[0]) - 0.5 * (1.0 - (-0.5f64).exp())).abs() < 1e-6);
        assert_eq!(gradient.double_value(&[1]), 0.0);
    }
}
