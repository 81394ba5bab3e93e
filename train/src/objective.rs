mod preferred;
mod supervised;

use std::sync::atomic::AtomicBool;

use lwv_data::{Dataset, Encoded, Encoder};
use lwv_model::Checkpoint;

use crate::recipe::Recipe;
use crate::{Curriculum, Model, PreferenceMetrics, Result, Samples, Watch};

pub use preferred::Preferred;
pub use supervised::Supervised;

/// What a training learns: it makes examples of samples, and gradients of examples.
pub trait Objective: Sized {
    /// A sample as the model reads it.
    type Example: Send + 'static;

    /// Prepares what must be known before the first step.
    ///
    /// # Errors
    /// What the preparation says.
    fn prepare(of: &Preparation<'_>) -> Result<Self>;

    /// Encodes a sample.
    ///
    /// # Errors
    /// A sample that cannot be used.
    fn encode(
        dataset: &Dataset,
        encoder: &Encoder,
        sample: usize,
    ) -> lwv_data::Result<Encoded<Self::Example>>;

    /// Adds the gradients of a batch's losses to those of the weights. They are not divided by anything: what by is known
    /// at the end of the step.
    ///
    /// # Errors
    /// What candle says.
    fn learn(&self, model: &Model, examples: &[Self::Example]) -> Result<Share>;

    /// Losses of a batch, without gradients.
    ///
    /// # Errors
    /// What candle says.
    fn measure(&self, model: &Model, examples: &[Self::Example]) -> Result<Share>;
}

/// What an objective may look at before the first step.
pub struct Preparation<'a> {
    /// The settings.
    pub recipe: &'a Recipe,
    /// The samples.
    pub samples: &'a Samples,
    /// Which of them come when.
    pub curriculum: &'a Curriculum,
    /// The checkpoint that training starts from.
    pub base: &'a Checkpoint,
    /// Set when the user interrupts.
    pub cancelled: &'a AtomicBool,
    /// What hears of progress.
    pub watch: &'a Watch<'a>,
}

/// What a batch adds to its step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Share {
    /// Sum of the losses.
    pub loss: f64,
    /// What the sum is divided by for the mean: supervised tokens, or pairs.
    pub divisor: f64,
    /// Tokens, prompts included.
    pub tokens: usize,
    /// Where the samples stand.
    pub origins: Vec<String>,
    /// Sums of what is told of pairs.
    pub pairs: PairSums,
}

impl Share {
    /// Adds another batch's.
    pub fn add(&mut self, other: Self) {
        self.loss += other.loss;
        self.divisor += other.divisor;
        self.tokens += other.tokens;
        self.origins.extend(other.origins);
        self.pairs.add(&other.pairs);
    }

    /// Mean loss.
    pub fn mean(&self) -> f64 {
        self.loss * self.scale()
    }

    /// What sums are multiplied with for means.
    pub fn scale(&self) -> f64 {
        if self.divisor > 0.0 {
            1.0 / self.divisor
        } else {
            1.0
        }
    }
}

/// Sums over pairs, of both answers where there are two numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PairSums {
    /// Pairs.
    pub count: usize,
    /// Pairs whose better answer has the higher reward.
    pub accurate: usize,
    /// Rewards.
    pub rewards: [f64; 2],
    /// Log-probabilities.
    pub log_probabilities: [f64; 2],
}

impl PairSums {
    /// Those of one pair.
    pub fn of(rewards: [f64; 2], log_probabilities: [f64; 2]) -> Self {
        Self {
            count: 1,
            accurate: usize::from(rewards[0] > rewards[1]),
            rewards,
            log_probabilities,
        }
    }

    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.accurate += other.accurate;
        for side in [0, 1] {
            self.rewards[side] += other.rewards[side];
            self.log_probabilities[side] += other.log_probabilities[side];
        }
    }

    /// The means, if there is a pair.
    pub fn metrics(&self) -> Option<PreferenceMetrics> {
        let count = self.count as f64;
        (self.count > 0).then(|| PreferenceMetrics {
            reward_accuracy: self.accurate as f64 / count,
            reward_margin: (self.rewards[0] - self.rewards[1]) / count,
            reward_chosen: self.rewards[0] / count,
            reward_rejected: self.rewards[1] / count,
            logp_chosen: self.log_probabilities[0] / count,
            logp_rejected: self.log_probabilities[1] / count,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_over_pairs() {
        let mut sums = PairSums::default();
        assert_eq!(sums.metrics(), None);
        sums.add(&PairSums::of([1.0, 0.5], [-10.0, -20.0]));
        sums.add(&PairSums::of([0.0, 0.0], [-20.0, -40.0]));
        let metrics = sums.metrics().unwrap();
        assert_eq!((metrics.reward_accuracy, metrics.reward_margin), (0.5, 0.25));
        assert_eq!((metrics.reward_chosen, metrics.reward_rejected), (0.5, 0.25));
        assert_eq!((metrics.logp_chosen, metrics.logp_rejected), (-15.0, -30.0));
    }
}
