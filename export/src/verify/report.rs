use std::collections::BTreeMap;

use lwv_model::{ParitySummary, Precision, contract};
use serde::Serialize;

use super::difference::Difference;

/// `parity.json`.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// What the bundle was compared with.
    reference: &'static str,
    /// Precision of the bundle.
    precision: Precision,
    /// Graph → its outputs against the checkpoint's, on the same inputs.
    graphs: BTreeMap<&'static str, Difference>,
    /// What both wrote.
    pub(crate) prompts: Vec<PromptReport>,
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
            prompts: Vec::new(),
        }
    }

    /// What was seen of a graph.
    pub(crate) fn graph(&mut self, name: &'static str) -> &mut Difference {
        self.graphs.entry(name).or_default()
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
        let cosine = self
            .graphs
            .values()
            .map(|graph| graph.min_cosine)
            .fold(1.0, f64::min);
        ParitySummary {
            passed: super::passes(self.precision, greedy_agreement == greedy_tokens, cosine),
            max_abs_logit_difference: worst.max_abs,
            min_logit_cosine: worst.min_cosine,
            greedy_tokens,
            greedy_agreement,
        }
    }
}

impl PromptReport {
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
        let prompt = |ours| PromptReport::new("x", vec![], 3, vec![1, 2, 3], ours, &Difference::default());
        report.prompts.push(prompt(vec![1, 2, 3]));
        assert!(report.summary().passed);
        report.prompts.push(prompt(vec![1, 9, 3]));
        let summary = report.summary();
        assert_eq!(
            (summary.passed, summary.greedy_tokens, summary.greedy_agreement),
            (false, 3, 1)
        );
    }
}
