use std::collections::BTreeMap;

use lwv_model::{ParitySummary, Precision, contract};
use serde::Serialize;

use super::bounds::Bounds;
use super::difference::Difference;
use crate::divergence::{DivergenceReport, Divergences};

/// `parity.json`.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// What the bundle was compared with.
    reference: &'static str,
    /// Precision of the bundle.
    precision: Precision,
    /// Graph → its outputs against the checkpoint's, on the same inputs.
    pub(crate) graphs: BTreeMap<&'static str, Difference>,
    /// What both expect after every token of a text that nothing was calibrated on.
    #[serde(serialize_with = "figures")]
    pub(crate) held_out: Divergences,
    /// What the bundle must keep.
    bounds: Bounds,
    /// What it does not keep, in words.
    pub(crate) failures: Vec<String>,
    /// What both wrote.
    pub(crate) prompts: Vec<PromptReport>,
}

fn figures<S: serde::Serializer>(divergences: &Divergences, serializer: S) -> Result<S::Ok, S::Error> {
    divergences.report().serialize(serializer)
}

/// One prompt, continued greedily.
#[derive(Debug, Serialize)]
pub(crate) struct PromptReport {
    name: String,
    images: Vec<String>,
    prompt_tokens: usize,
    /// The checkpoint's greedy tokens.
    checkpoint_tokens: Vec<u32>,
    /// The bundle's choice after the checkpoint's tokens before; its own greedy text is the same up to
    /// `first_difference`.
    bundle_tokens: Vec<u32>,
    /// Index of the first token that differs.
    first_difference: Option<usize>,
    /// Logits of every step.
    logits: Difference,
}

impl Report {
    pub(crate) fn new(precision: Precision) -> Self {
        let reference = "the checkpoint, computed by candle in f32";
        Self {
            reference,
            precision,
            graphs: BTreeMap::new(),
            held_out: Divergences::default(),
            bounds: Bounds::of(precision),
            failures: Vec::new(),
            prompts: Vec::new(),
        }
    }

    /// What was seen of a graph.
    pub(crate) fn graph(&mut self, name: &'static str) -> &mut Difference {
        self.graphs.entry(name).or_default()
    }

    /// The report with what it shows outside the bounds.
    pub(crate) fn judged(mut self) -> Self {
        self.failures = self.bounds.failures(&self);
        self
    }

    pub(crate) fn summary(&self) -> ParitySummary {
        let agreement =
            |prompt: &PromptReport| prompt.first_difference.unwrap_or(prompt.checkpoint_tokens.len());
        let greedy_tokens = self
            .prompts
            .iter()
            .map(|prompt| prompt.checkpoint_tokens.len())
            .max()
            .unwrap_or(0);
        let greedy_agreement = self.prompts.iter().map(agreement).min().unwrap_or(0);
        let worst = self.graphs.get(contract::DECODER).cloned().unwrap_or_default();
        let DivergenceReport {
            mean_divergence,
            top_1_agreement,
            perplexity_ratio,
            ..
        } = self.held_out.report();
        ParitySummary {
            passed: self.failures.is_empty(),
            mean_divergence,
            top_1_agreement,
            perplexity_ratio,
            max_abs_logit_difference: worst.max_abs,
            min_logit_cosine: worst.min_cosine,
            greedy_tokens,
            greedy_agreement,
        }
    }
}

impl PromptReport {
    /// Whether both wrote the same.
    pub(crate) fn is_equal(&self) -> bool {
        self.first_difference.is_none()
    }

    pub(crate) fn new(
        name: &str,
        images: Vec<String>,
        prompt_tokens: usize,
        checkpoint_tokens: Vec<u32>,
        bundle_tokens: Vec<u32>,
        logits: &Difference,
    ) -> Self {
        let first_difference = checkpoint_tokens
            .iter()
            .zip(&bundle_tokens)
            .position(|(a, b)| a != b);
        Self {
            name: name.to_owned(),
            images,
            prompt_tokens,
            checkpoint_tokens,
            bundle_tokens,
            first_difference,
            logits: logits.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_of_the_worst_prompt() {
        let mut report = Report::new(Precision::Fp32);
        report.graph(contract::DECODER).add(&[1.0, 2.0], &[1.0, 2.0]);
        report.held_out.add(&[1.0, 2.0], &[1.0, 2.0], Some(1));
        let prompt = |ours| PromptReport::new("x", vec![], 3, vec![1, 2, 3], ours, &Difference::default());
        report.prompts.push(prompt(vec![1, 2, 3]));
        let mut report = report.judged();
        assert!(report.summary().passed);
        report.prompts.push(prompt(vec![1, 9, 3]));
        let summary = report.judged().summary();
        assert_eq!(
            (summary.passed, summary.greedy_tokens, summary.greedy_agreement),
            (false, 3, 1)
        );
    }
}
