use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::recipe::PreferenceRecipe;

/// A loss of a pair of answers, as TRL 1.16 `dpo_trainer.py` has it; `s` are log-ratios of model and reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum PreferenceLossType {
    /// DPO (arXiv 2305.18290): −log σ(β(s₁ − s₂)); cDPO with label smoothing.
    Sigmoid,
    /// Robust DPO (arXiv 2403.00409): unbiased where a known share of the pairs is the wrong way round.
    Robust,
    /// SLiC (arXiv 2305.10425): max(0, 1 − β(s₁ − s₂)).
    Hinge,
    /// IPO (arXiv 2310.12036), with means over tokens: (s̄₁ − s̄₂ − 1/2β)².
    Ipo,
    /// DPO with means over tokens (arXiv 2405.14734, with a reference).
    SigmoidNorm,
    /// EXO (arXiv 2402.00856), for pairs.
    ExoPair,
    /// NCA (arXiv 2402.05369), for pairs.
    NcaPair,
    /// BCO (arXiv 2404.04656), for pairs and without a running mean.
    BcoPair,
    /// SPPO (arXiv 2405.00675), with certain preferences.
    SppoHard,
    /// APO-zero (arXiv 2408.06266).
    ApoZero,
    /// APO-down (arXiv 2408.06266).
    ApoDown,
    /// DiscoPOP (arXiv 2406.08414).
    Discopop,
    /// The mean loss of the better answer's tokens, as in supervised fine-tuning.
    Sft,
}

/// What is known of a pair: for the better answer, and for the worse one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scores {
    /// Weighted sums of the model's log-probabilities of the answers' tokens.
    pub policy: [f64; 2],
    /// The same of the reference; zeros without one.
    pub reference: [f64; 2],
    /// Sums of the weights of the tokens, which are their numbers where all weights are 1.
    pub tokens: [f64; 2],
    /// Mean of the model's log-probabilities over the better answer's tokens, unweighted.
    pub chosen_mean: f64,
}

/// A pair's loss and where it falls.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Judgement {
    /// The loss.
    pub loss: f64,
    /// Its derivatives by [`Scores::policy`].
    pub slopes: [f64; 2],
    /// Its derivative by [`Scores::chosen_mean`].
    pub mean_slope: f64,
}

/// The loss of a pair: several losses, each with a weight.
#[derive(Debug, Clone, PartialEq)]
pub struct PreferenceLoss {
    /// The losses, with what each is multiplied with.
    pub terms: Vec<(PreferenceLossType, f64)>,
    /// What log-ratios are multiplied with.
    pub beta: f64,
    /// Share of the pairs that may be the wrong way round.
    pub label_smoothing: f64,
    /// Temperature of DiscoPOP.
    pub discopop_tau: f64,
}

impl From<&PreferenceRecipe> for PreferenceLoss {
    fn from(recipe: &PreferenceRecipe) -> Self {
        let weights = recipe
            .pref_loss_weights
            .iter()
            .copied()
            .chain(std::iter::repeat(1.0));
        let mut terms: Vec<_> = recipe.pref_loss.iter().copied().zip(weights).collect();
        if recipe.pref_ftx > 0.0 {
            terms.push((PreferenceLossType::Sft, recipe.pref_ftx));
        }
        Self {
            terms,
            beta: recipe.pref_beta,
            label_smoothing: recipe.dpo_label_smoothing,
            discopop_tau: recipe.discopop_tau,
        }
    }
}

impl Scores {
    /// Logarithms of how much likelier the model makes either answer than the reference does.
    pub fn log_ratios(&self) -> [f64; 2] {
        [0, 1].map(|side| self.policy[side] - self.reference[side])
    }
}

impl PreferenceLoss {
    /// Rewards of both answers, β · s.
    pub fn rewards(&self, scores: &Scores) -> [f64; 2] {
        scores.log_ratios().map(|ratio| self.beta * ratio)
    }

    /// Loss of a pair and its derivatives.
    pub fn judge(&self, scores: &Scores) -> Judgement {
        let mut sum = Judgement::default();
        for &(kind, weight) in &self.terms {
            let term = self.term(kind, scores);
            sum.loss += weight * term.loss;
            sum.mean_slope += weight * term.mean_slope;
            for side in [0, 1] {
                sum.slopes[side] += weight * term.slopes[side];
            }
        }
        sum
    }

    fn term(&self, kind: PreferenceLossType, scores: &Scores) -> Judgement {
        use PreferenceLossType as Kind;
        let (beta, smoothing) = (self.beta, self.label_smoothing);
        let [chosen, rejected] = scores.log_ratios();
        let z = beta * (chosen - rejected);
        // Loss and derivative by z, which is β times a difference.
        let of_difference = |(loss, slope): (f64, f64)| judgement(loss, [beta * slope, -beta * slope]);
        match kind {
            Kind::Sigmoid => of_difference((
                -(1.0 - smoothing) * log_sigmoid(z) - smoothing * log_sigmoid(-z),
                smoothing * sigmoid(z) - (1.0 - smoothing) * sigmoid(-z),
            )),
            Kind::Robust => {
                let certainty = 1.0 - 2.0 * smoothing;
                of_difference((
                    (smoothing * log_sigmoid(-z) - (1.0 - smoothing) * log_sigmoid(z)) / certainty,
                    -((1.0 - smoothing) * sigmoid(-z) + smoothing * sigmoid(z)) / certainty,
                ))
            }
            Kind::Hinge => of_difference(if z < 1.0 { (1.0 - z, -1.0) } else { (0.0, 0.0) }),
            Kind::Ipo => {
                let distance = scores.mean_difference() - 0.5 / beta;
                judgement(distance * distance, scores.by_means(2.0 * distance))
            }
            Kind::SigmoidNorm => {
                let z = beta * scores.mean_difference();
                judgement(-log_sigmoid(z), scores.by_means(-beta * sigmoid(-z)))
            }
            Kind::ExoPair => {
                let (right, wrong) = ((1.0 - smoothing).ln(), smoothing.ln());
                let (q, p) = (sigmoid(z), sigmoid(-z));
                of_difference((
                    q * (log_sigmoid(z) - right) + p * (log_sigmoid(-z) - wrong),
                    q * p * (z - right + wrong),
                ))
            }
            Kind::NcaPair => judgement(
                -log_sigmoid(beta * chosen)
                    - 0.5 * (log_sigmoid(-beta * chosen) + log_sigmoid(-beta * rejected)),
                [
                    beta * (0.5 * sigmoid(beta * chosen) - sigmoid(-beta * chosen)),
                    beta * 0.5 * sigmoid(beta * rejected),
                ],
            ),
            Kind::BcoPair => judgement(
                -log_sigmoid(beta * chosen) - log_sigmoid(-beta * rejected),
                [-beta * sigmoid(-beta * chosen), beta * sigmoid(beta * rejected)],
            ),
            Kind::SppoHard => {
                let distances = [chosen - 0.5 / beta, rejected + 0.5 / beta];
                judgement(
                    distances.map(|distance| distance * distance).iter().sum(),
                    distances.map(|distance| 2.0 * distance),
                )
            }
            Kind::ApoZero => judgement(
                1.0 - sigmoid(beta * chosen) + sigmoid(beta * rejected),
                [
                    -beta * sigmoid_slope(beta * chosen),
                    beta * sigmoid_slope(beta * rejected),
                ],
            ),
            Kind::ApoDown => judgement(
                sigmoid(beta * chosen) + 1.0 - sigmoid(z),
                [
                    beta * (sigmoid_slope(beta * chosen) - sigmoid_slope(z)),
                    beta * sigmoid_slope(z),
                ],
            ),
            Kind::Discopop => {
                let (share, rest) = (sigmoid(z / self.discopop_tau), sigmoid(-z / self.discopop_tau));
                let slope = share * rest / self.discopop_tau;
                of_difference((
                    share * (-z).exp() - rest * log_sigmoid(z),
                    slope * (log_sigmoid(z) + (-z).exp()) - rest * sigmoid(-z) - share * (-z).exp(),
                ))
            }
            Kind::Sft => Judgement {
                loss: -scores.chosen_mean,
                slopes: [0.0; 2],
                mean_slope: -1.0,
            },
        }
    }
}

impl Scores {
    /// Difference of the log-ratios' means over tokens.
    fn mean_difference(&self) -> f64 {
        let [chosen, rejected] = self.log_ratios();
        chosen / self.tokens[0] - rejected / self.tokens[1]
    }

    /// Derivatives by the sums, from that by the difference of means.
    fn by_means(&self, slope: f64) -> [f64; 2] {
        [slope / self.tokens[0], -slope / self.tokens[1]]
    }
}

fn judgement(loss: f64, slopes: [f64; 2]) -> Judgement {
    Judgement {
        loss,
        slopes,
        mean_slope: 0.0,
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The derivative of the sigmoid.
fn sigmoid_slope(x: f64) -> f64 {
    sigmoid(x) * sigmoid(-x)
}

/// log σ(x) without overflow.
fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCORES: Scores = Scores {
        policy: [-10.0, -14.0],
        reference: [-11.0, -13.5],
        tokens: [5.0, 8.0],
        chosen_mean: -2.0,
    };

    fn loss(terms: &[(PreferenceLossType, f64)], label_smoothing: f64) -> PreferenceLoss {
        PreferenceLoss {
            terms: terms.to_vec(),
            beta: 0.1,
            label_smoothing,
            discopop_tau: 0.05,
        }
    }

    /// Computed from the formulas of the papers, by other means.
    #[test]
    fn losses_are_what_they_should_be() {
        use PreferenceLossType as Kind;
        let golden = [
            (Kind::Sigmoid, 0.0, 0.620_957_05),
            (Kind::Sigmoid, 0.1, 0.635_957_05),
            (Kind::Robust, 0.1, 0.602_207_05),
            (Kind::Hinge, 0.0, 0.85),
            (Kind::Ipo, 0.0, 22.443_906_25),
            (Kind::SigmoidNorm, 0.0, 0.680_108_31),
            (Kind::NcaPair, 0.0, 1.350_824_81),
            (Kind::BcoPair, 0.0, 1.312_856_31),
            (Kind::SppoHard, 0.0, 36.25),
            (Kind::ApoZero, 0.0, 0.962_523_42),
            (Kind::ApoDown, 0.0, 0.987_549_34),
            (Kind::ExoPair, 1e-3, 2.505_516_56),
            (Kind::Discopop, 0.0, 0.849_337_58),
            (Kind::Sft, 0.0, 2.0),
        ];
        for (kind, smoothing, want) in golden {
            let got = loss(&[(kind, 1.0)], smoothing).judge(&SCORES).loss;
            assert!((got - want).abs() < 1e-8, "{kind:?}: {got} instead of {want}");
        }
        let sums = Scores {
            tokens: [1.0, 1.0],
            ..SCORES
        };
        assert_eq!(loss(&[(Kind::Ipo, 1.0)], 0.0).judge(&sums).loss, 12.25);
        let mixed = loss(&[(Kind::Sigmoid, 1.0), (Kind::Sft, 1.0)], 0.0).judge(&SCORES);
        assert!((mixed.loss - 2.620_957_05).abs() < 1e-8);
        let alone = Scores {
            reference: [0.0; 2],
            ..SCORES
        };
        let alone = loss(&[(Kind::Sigmoid, 1.0)], 0.0).judge(&alone).loss;
        assert!((alone - 0.513_015_25).abs() < 1e-8);
    }

    #[test]
    fn slopes_are_differences_of_the_loss() {
        for &kind in PreferenceLossType::value_variants() {
            let loss = loss(&[(kind, 0.7)], 0.1);
            let slopes = loss.judge(&SCORES).slopes;
            for side in [0, 1] {
                let at = |step: f64| {
                    let mut scores = SCORES;
                    scores.policy[side] += step;
                    loss.judge(&scores).loss
                };
                let want = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!(
                    (slopes[side] - want).abs() < 1e-7 * want.abs().max(1.0),
                    "{kind:?}: {slopes:?}, {want}"
                );
            }
        }
        assert_eq!(
            loss(&[(PreferenceLossType::Sft, 0.7)], 0.0)
                .judge(&SCORES)
                .mean_slope,
            -0.7
        );
    }

    #[test]
    fn it_begins_at_the_logarithm_of_two() {
        let start = Scores {
            reference: SCORES.policy,
            ..SCORES
        };
        let sigmoid = loss(&[(PreferenceLossType::Sigmoid, 1.0)], 0.0);
        assert!((sigmoid.judge(&start).loss - std::f64::consts::LN_2).abs() < 1e-15);
    }

    #[test]
    fn swapped_answers_turn_the_margin_round() {
        let swap = |[a, b]: [f64; 2]| [b, a];
        let swapped = Scores {
            policy: swap(SCORES.policy),
            reference: swap(SCORES.reference),
            tokens: swap(SCORES.tokens),
            ..SCORES
        };
        let sigmoid = loss(&[(PreferenceLossType::Sigmoid, 1.0)], 0.0);
        let margin = |scores| {
            let [chosen, rejected] = sigmoid.rewards(scores);
            chosen - rejected
        };
        assert_eq!(margin(&SCORES), -margin(&swapped));
    }

    #[test]
    fn losses_far_out_are_finite() {
        let far = Scores {
            policy: [-5000.0, -10.0],
            ..SCORES
        };
        let judged = loss(&[(PreferenceLossType::Sigmoid, 1.0)], 0.1).judge(&far);
        assert!(judged.loss.is_finite() && judged.slopes.iter().all(|slope| slope.is_finite()));
    }
}
