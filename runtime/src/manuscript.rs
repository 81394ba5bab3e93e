use serde::{Deserialize, Serialize};

use crate::generation::FinishReason;
use crate::plan::{Plan, PlannedSection};
use crate::section::WrittenSection;
use crate::words::count_words;

/// A long text while it is written: all that is needed to go on, as plain data that can be stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manuscript {
    /// The plan.
    pub plan: Plan,
    /// The sections that were written.
    pub sections: Vec<WrittenSection>,
}

impl Manuscript {
    /// A plan of which nothing is written.
    pub fn new(plan: Plan) -> Self {
        let sections = Vec::new();
        Self { plan, sections }
    }

    /// The manuscript as it was before section `index` was written.
    pub(crate) fn before(&self, index: usize) -> Self {
        let sections = self.sections.iter().take(index).cloned().collect();
        let plan = self.plan.clone();
        Self { plan, sections }
    }

    /// The text: each section under its main point as a Markdown heading, with empty lines between.
    pub fn text(&self) -> String {
        let headings = self.plan.sections.iter().map(PlannedSection::heading);
        let sections = headings
            .zip(&self.sections)
            .map(|(heading, section)| heading + &section.text);
        sections.collect::<Vec<_>>().join("\n\n")
    }

    /// Words in the sections, headings not counted.
    pub fn words(&self) -> usize {
        self.sections.iter().map(|section| section.words).sum()
    }

    /// Whether all sections are there and none was cancelled.
    pub fn is_complete(&self) -> bool {
        self.sections.len() == self.plan.sections.len() && !self.is_cancelled()
    }

    /// Whether the last section was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.sections
            .last()
            .is_some_and(|section| section.reason == FinishReason::Cancelled)
    }

    /// Tokens that a word took so far, in the sections and in the `text` of one that is being written.
    pub(crate) fn tokens_per_word(&self, text: &str, token_ids: &[u32]) -> Option<f64> {
        let tokens: usize = self.sections.iter().map(|section| section.token_ids.len()).sum();
        let words = self.words() + count_words(text);
        // A short text says nothing about the next.
        (words >= 50).then(|| (tokens + token_ids.len()) as f64 / words as f64)
    }

    /// Words for section `index`: its target, and what the sections before it are short of or over, at most by half.
    pub(crate) fn words_of(&self, index: usize) -> usize {
        let planned: usize = self.plan.sections[..index]
            .iter()
            .map(|section| section.words)
            .sum();
        let target = self.plan.sections[index].words as f64;
        let owed = planned as f64 - self.words() as f64;
        (target + owed).clamp(target * 0.5, target * 1.5).round().max(1.0) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_sections_make_up_for_earlier_ones() {
        let section = |words| PlannedSection {
            main_point: String::new(),
            words,
        };
        let written = |words| WrittenSection {
            text: String::new(),
            token_ids: vec![0; 2 * words],
            words,
            reason: FinishReason::Eos,
        };
        let plan = Plan {
            sections: vec![section(100), section(100), section(100)],
        };
        let after = |words| Manuscript {
            plan: plan.clone(),
            sections: vec![written(words)],
        };
        assert_eq!(
            [80, 100, 130, 10].map(|words| after(words).words_of(1)),
            [120, 100, 70, 150]
        );
        assert_eq!(
            (
                after(80).tokens_per_word("", &[]),
                after(10).tokens_per_word("a b", &[0; 9])
            ),
            (Some(2.0), None)
        );
    }
}
