use serde::Serialize;

/// How far one model's predictions are from another's over a text: what llama.cpp's `perplexity --kl-divergence` tells of a
/// quantized model.
#[derive(Debug, Default)]
pub(crate) struct Divergences {
    divergences: Vec<f64>,
    agreements: usize,
    predicted: usize,
    /// Sums of the negative log-probability of each next token: the checkpoint's and the bundle's.
    surprise: [f64; 2],
}

/// [`Divergences`] in figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct DivergenceReport {
    /// Tokens after which predictions were compared.
    pub(crate) tokens: usize,
    /// Mean Kullback-Leibler divergence of the bundle's prediction from the checkpoint's, in nats.
    pub(crate) mean_divergence: f64,
    /// 99 of 100 divergences are no greater.
    pub(crate) percentile_99_divergence: f64,
    /// Part of the tokens after which both think the same token most likely.
    pub(crate) top_1_agreement: f64,
    /// Perplexity of the text by the checkpoint.
    pub(crate) checkpoint_perplexity: f64,
    /// Perplexity of the text by the bundle.
    pub(crate) bundle_perplexity: f64,
    /// The bundle's over the checkpoint's.
    pub(crate) perplexity_ratio: f64,
}

impl Divergences {
    /// Takes in both models' logits after a token, and the token that follows in the text.
    pub(crate) fn add(&mut self, expected: &[f32], got: &[f32], next: Option<u32>) {
        let [expected_sum, got_sum] = [expected, got].map(log_sum);
        let mut divergence = 0.0;
        for (&a, &b) in expected.iter().zip(got) {
            let (a, b) = (f64::from(a) - expected_sum, f64::from(b) - got_sum);
            divergence += a.exp() * (a - b);
        }
        self.divergences.push(divergence);
        self.agreements += usize::from(highest(expected) == highest(got));
        if let Some(next) = next {
            self.predicted += 1;
            self.surprise[0] += expected_sum - f64::from(expected[next as usize]);
            self.surprise[1] += got_sum - f64::from(got[next as usize]);
        }
    }

    /// The figures.
    pub(crate) fn report(&self) -> DivergenceReport {
        let tokens = self.divergences.len();
        let mut sorted = self.divergences.clone();
        // What is no number comes last, where the percentile finds it.
        sorted.sort_by(f64::total_cmp);
        let place = (tokens * 99).div_ceil(100).saturating_sub(1);
        let count = tokens.max(1) as f64;
        let [checkpoint_perplexity, bundle_perplexity] = self
            .surprise
            .map(|sum| (sum / self.predicted.max(1) as f64).exp());
        DivergenceReport {
            tokens,
            mean_divergence: sorted.iter().sum::<f64>() / count,
            percentile_99_divergence: sorted.get(place).copied().unwrap_or(0.0),
            top_1_agreement: self.agreements as f64 / count,
            checkpoint_perplexity,
            bundle_perplexity,
            perplexity_ratio: bundle_perplexity / checkpoint_perplexity,
        }
    }
}

/// Logarithm of the sum of exponentials.
fn log_sum(logits: &[f32]) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
    f64::from(most) + sum.ln()
}

/// The first of the highest scores.
pub(crate) fn highest(logits: &[f32]) -> u32 {
    let best = logits
        .iter()
        .enumerate()
        .rev()
        .max_by(|(_, a), (_, b)| a.total_cmp(b));
    best.map_or(0, |(id, _)| id as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_predictions_do_not_diverge() {
        let mut divergences = Divergences::default();
        divergences.add(&[1.0, 2.0, 3.0], &[1.5, 2.5, 3.5], Some(2));
        let report = divergences.report();
        assert!(report.mean_divergence.abs() < 1e-12 && (report.perplexity_ratio - 1.0).abs() < 1e-12);
        assert_eq!((report.tokens, report.top_1_agreement), (1, 1.0));
    }

    #[test]
    fn figures_are_those_of_a_worked_case() {
        // The checkpoint says 3/4 and 1/4, the bundle 1/4 and 3/4.
        let three = 3.0_f32.ln();
        let mut divergences = Divergences::default();
        divergences.add(&[three, 0.0], &[0.0, three], Some(0));
        let report = divergences.report();
        let expected = 0.75 * 3.0_f64.ln() - 0.25 * 3.0_f64.ln();
        assert!((report.mean_divergence - expected).abs() < 1e-6);
        assert_eq!(report.top_1_agreement, 0.0);
        assert!((report.checkpoint_perplexity - 4.0 / 3.0).abs() < 1e-6);
        assert!((report.perplexity_ratio - 3.0).abs() < 1e-6);
    }

    #[test]
    fn a_prediction_that_is_no_number_shows() {
        let mut divergences = Divergences::default();
        divergences.add(&[0.0, 1.0], &[f32::NAN, 1.0], None);
        assert!(divergences.report().mean_divergence.is_nan());
    }

    #[test]
    fn the_first_of_equal_scores_wins() {
        assert_eq!(highest(&[0.0, 2.0, 2.0, 1.0]), 1);
    }

    #[test]
    fn the_percentile_is_the_99th_of_100() {
        let divergences = Divergences {
            divergences: (0..100).map(f64::from).collect(),
            ..Divergences::default()
        };
        assert_eq!(divergences.report().percentile_99_divergence, 98.0);
    }
}
