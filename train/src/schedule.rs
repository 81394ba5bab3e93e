use std::f64::consts::PI;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Shape of the learning rate over a training, by the names of transformers' `SchedulerType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SchedulerType {
    /// Warm-up, then a straight line to zero.
    #[default]
    Linear,
    /// Warm-up, then half a cosine to zero.
    Cosine,
    /// The learning rate itself, without warm-up.
    Constant,
    /// Warm-up, then the learning rate itself.
    ConstantWithWarmup,
    /// Warm-up, then the inverse square root of the step.
    InverseSqrt,
    /// Warm-up, the learning rate itself, then half a cosine to zero over the last tenth of the steps.
    WarmupStableDecay,
}

/// Factor on the learning rate at every step of a training, as the `get_*_schedule` functions in transformers'
/// `optimization.py` compute it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// The shape.
    pub kind: SchedulerType,
    /// Steps in which the factor grows from 0 to 1, in a straight line.
    pub warmup_steps: usize,
    /// Optimizer steps of the whole training.
    pub total_steps: usize,
}

impl Schedule {
    /// Warm-up of `steps`, or else of `ceil(ratio · total_steps)`.
    pub fn new(kind: SchedulerType, steps: Option<usize>, ratio: f64, total_steps: usize) -> Self {
        let by_ratio = || (total_steps as f64 * ratio).ceil() as usize;
        Self {
            kind,
            warmup_steps: steps.unwrap_or_else(by_ratio),
            total_steps,
        }
    }

    /// Factor for optimizer step `step`, counted from 0: the first step of a warm-up has factor 0.
    pub fn factor(&self, step: usize) -> f64 {
        if self.kind == SchedulerType::Constant {
            return 1.0;
        }
        if step < self.warmup_steps {
            return ratio(step, self.warmup_steps);
        }
        match self.kind {
            SchedulerType::Linear => 1.0 - self.progress(step).min(1.0),
            SchedulerType::Cosine => half_cosine(self.progress(step)),
            SchedulerType::Constant | SchedulerType::ConstantWithWarmup => 1.0,
            SchedulerType::InverseSqrt => self.inverse_sqrt(step),
            SchedulerType::WarmupStableDecay => self.decay(step),
        }
    }

    /// Share of the steps after warm-up that are done.
    fn progress(&self, step: usize) -> f64 {
        let steps = self.total_steps.saturating_sub(self.warmup_steps);
        ratio(step - self.warmup_steps, steps)
    }

    /// The time scale is the warm-up, or 10,000 steps without one.
    fn inverse_sqrt(&self, step: usize) -> f64 {
        let scale = match self.warmup_steps {
            0 => 10_000,
            steps => steps,
        };
        ratio(step + scale - self.warmup_steps, scale).sqrt().recip()
    }

    /// transformers wants `num_decay_steps` to be given; a tenth is what the papers on this schedule use.
    fn decay(&self, step: usize) -> f64 {
        let steps = self.total_steps.div_ceil(10);
        let start = self.total_steps.saturating_sub(steps).max(self.warmup_steps);
        match step.checked_sub(start) {
            None => 1.0,
            Some(done) if done < steps => half_cosine(ratio(done, steps)),
            Some(_) => 0.0,
        }
    }
}

fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn half_cosine(progress: f64) -> f64 {
    (0.5 * (1.0 + (PI * progress).cos())).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Learning rates of `transformers.get_scheduler` 5.23 at a base rate of 1.
    fn assert_transformers(kind: SchedulerType, warmup_steps: usize, expected: &[f64]) {
        let schedule = Schedule {
            kind,
            warmup_steps,
            total_steps: 10,
        };
        for (step, expected) in expected.iter().enumerate() {
            let got = schedule.factor(step);
            assert!(
                (got - expected).abs() < 1e-15,
                "{kind:?} {step}: {got} {expected}"
            );
        }
    }

    #[test]
    fn linear_is_that_of_transformers() {
        let warm = [
            0.0,
            0.3333333333333333,
            0.6666666666666666,
            1.0,
            0.8571428571428571,
            0.7142857142857143,
            0.5714285714285714,
            0.42857142857142855,
            0.2857142857142857,
            0.14285714285714285,
            0.0,
            0.0,
        ];
        assert_transformers(SchedulerType::Linear, 3, &warm);
        let cold = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0, 0.0];
        assert_transformers(SchedulerType::Linear, 0, &cold);
    }

    #[test]
    fn cosine_is_that_of_transformers() {
        let warm = [
            0.0,
            0.3333333333333333,
            0.6666666666666666,
            1.0,
            0.9504844339512095,
            0.8117449009293668,
            0.6112604669781572,
            0.38873953302184283,
            0.18825509907063326,
            0.04951556604879048,
            0.0,
            0.04951556604879043,
        ];
        assert_transformers(SchedulerType::Cosine, 3, &warm);
    }

    #[test]
    fn constants_are_those_of_transformers() {
        assert_transformers(SchedulerType::Constant, 3, &[1.0; 12]);
        let warm = [0.0, 0.3333333333333333, 0.6666666666666666, 1.0, 1.0, 1.0, 1.0];
        assert_transformers(SchedulerType::ConstantWithWarmup, 3, &warm);
    }

    #[test]
    fn inverse_square_root_is_that_of_transformers() {
        let warm = [
            0.0,
            0.3333333333333333,
            0.6666666666666666,
            1.0,
            0.8660254037844387,
            0.7745966692414834,
            0.7071067811865475,
        ];
        assert_transformers(SchedulerType::InverseSqrt, 3, &warm);
        assert_transformers(SchedulerType::InverseSqrt, 0, &[1.0, 0.9999500037496877]);
    }

    #[test]
    fn stable_decay_is_that_of_transformers() {
        let schedule = Schedule::new(SchedulerType::WarmupStableDecay, Some(3), 0.0, 40);
        let factors: Vec<f64> = (34..42).map(|step| schedule.factor(step)).collect();
        let expected = [
            1.0,
            1.0,
            1.0,
            0.8535533905932737,
            0.5,
            0.14644660940672627,
            0.0,
            0.0,
        ];
        for (got, expected) in factors.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-15, "{factors:?}");
        }
        assert_eq!(schedule.factor(2), 2.0 / 3.0);
    }

    #[test]
    fn steps_win_over_the_ratio_which_is_rounded_up() {
        let warmup =
            |steps, ratio, total| Schedule::new(SchedulerType::Linear, steps, ratio, total).warmup_steps;
        assert_eq!(warmup(None, 0.1, 101), 11);
        assert_eq!(warmup(Some(5), 0.1, 101), 5);
        assert_eq!(warmup(None, 0.0, 101), 0);
    }
}
