use lwv_model::{Precision, contract};
use serde::Serialize;

use super::report::Report;

/// What a bundle must keep to be called done.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Bounds {
    /// Largest mean divergence over held-out text, in nats.
    mean_divergence: f64,
    /// Least agreement about the likeliest next token over held-out text.
    top_1_agreement: f64,
    /// Largest perplexity of held-out text over the checkpoint's.
    perplexity_ratio: f64,
    /// Least cosine of an image token's features.
    feature_cosine: f64,
    /// Least cosine of a prompt's logits, where every position must be near.
    logit_cosine: Option<f64>,
    /// Whether greedy texts must be the same.
    same_greedy_tokens: bool,
}

impl Bounds {
    /// f32 differs by the order of sums only. Of 16 bits half a percent of perplexity is far more than is lost where nothing
    /// overflows. For 4 and 8 bits they are two to four times what is lost where everything went well, by a model of 135M,
    /// which loses more than larger ones.
    pub(crate) fn of(precision: Precision) -> Self {
        let bounds = |mean_divergence, top_1_agreement, perplexity_ratio, feature_cosine| Self {
            mean_divergence,
            top_1_agreement,
            perplexity_ratio,
            feature_cosine,
            logit_cosine: None,
            same_greedy_tokens: false,
        };
        match precision {
            Precision::Fp32 => Self {
                logit_cosine: Some(0.999_999),
                same_greedy_tokens: true,
                ..bounds(1e-6, 0.999, 1.0001, 0.999_999)
            },
            Precision::Fp16 => Self {
                logit_cosine: Some(0.9999),
                ..bounds(1e-3, 0.98, 1.005, 0.9999)
            },
            Precision::Int8 => bounds(0.02, 0.93, 1.02, 0.995),
            _ => bounds(0.3, 0.7, 1.25, 0.995),
        }
    }

    /// What the report shows outside the bounds, in words.
    pub(crate) fn failures(&self, report: &Report) -> Vec<String> {
        let mut failures = Vec::new();
        let mut check = |holds: bool, what: String| {
            if !holds {
                failures.push(what);
            }
        };
        let text = report.held_out.report();
        check(
            text.mean_divergence <= self.mean_divergence,
            format!(
                "mean divergence {:.4} is above {}",
                text.mean_divergence, self.mean_divergence
            ),
        );
        check(
            text.top_1_agreement >= self.top_1_agreement,
            format!(
                "top-1 agreement {:.4} is below {}",
                text.top_1_agreement, self.top_1_agreement
            ),
        );
        check(
            text.perplexity_ratio <= self.perplexity_ratio,
            format!(
                "perplexity is {:.4} times the checkpoint's, above {}",
                text.perplexity_ratio, self.perplexity_ratio
            ),
        );
        if let Some(features) = report.graphs.get(contract::VISION_ENCODER) {
            let (cosine, bound) = (features.min_cosine, self.feature_cosine);
            check(
                cosine >= bound,
                format!("the worst image feature has cosine {cosine:.6}, below {bound}"),
            );
        }
        if let Some(bound) = self.logit_cosine {
            let cosine = report
                .graphs
                .values()
                .map(|graph| graph.min_cosine)
                .fold(1.0, f64::min);
            check(
                cosine >= bound,
                format!("the worst output has cosine {cosine:.7}, below {bound}"),
            );
        }
        if self.same_greedy_tokens {
            let different = report.prompts.iter().find(|prompt| !prompt.is_equal());
            check(different.is_none(), "a greedy text is another".to_owned());
        }
        failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(precision: Precision, shift: f32) -> Report {
        let mut report = Report::new(precision);
        report.held_out.add(&[0.0, 1.0], &[shift, 1.0], Some(1));
        report
    }

    #[test]
    fn every_precision_has_its_own_bounds() {
        for (precision, shift) in [
            (Precision::Fp32, 0.01),
            (Precision::Fp16, 0.1),
            (Precision::Int8, 0.3),
        ] {
            let bounds = Bounds::of(precision);
            assert!(bounds.failures(&report(precision, 0.0)).is_empty());
            assert!(
                !bounds.failures(&report(precision, shift)).is_empty(),
                "{precision:?}"
            );
        }
        assert!(
            Bounds::of(Precision::Int4)
                .failures(&report(Precision::Int4, 0.3))
                .is_empty()
        );
        let failures = Bounds::of(Precision::Int4).failures(&report(Precision::Int4, 5.0));
        assert!(failures[0].contains("mean divergence"), "{failures:?}");
    }

    #[test]
    fn what_is_no_number_fails() {
        let failures = Bounds::of(Precision::Int4).failures(&report(Precision::Int4, f32::NAN));
        assert!(failures.len() >= 2, "{failures:?}");
    }

    #[test]
    fn damaged_features_fail() {
        let mut report = report(Precision::Int8, 0.0);
        report
            .graph(contract::VISION_ENCODER)
            .add(&[1.0, 0.0], &[1.0, 0.2]);
        let failures = Bounds::of(Precision::Int8).failures(&report);
        assert!(failures[0].contains("image feature"), "{failures:?}");
    }
}
