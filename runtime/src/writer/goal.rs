use crate::draft::{OpenSection, Revision};
use crate::manuscript::Manuscript;
use crate::section::Length;
use crate::words::count_words;

/// How many words a section is to have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Goal {
    /// Words to write.
    pub(super) words: usize,
    /// Words and tokens of a section that is extended, which do not count.
    before: (usize, usize),
}

impl Goal {
    pub(super) fn of(manuscript: &Manuscript, open: &OpenSection) -> Self {
        let there = manuscript.sections.get(open.index);
        let size = there.map_or((0, 0), |section| (section.words, section.token_ids.len()));
        match &open.revision {
            None => Self {
                words: manuscript.words_of(open.index),
                before: (0, 0),
            },
            Some(Revision { extend_by: None, .. }) => Self {
                words: manuscript.plan.sections[open.index].words,
                before: (0, 0),
            },
            Some(Revision {
                extend_by: Some(words),
                ..
            }) => Self {
                words: *words,
                before: size,
            },
        }
    }

    /// Words written.
    pub(super) fn reached(&self, open: &OpenSection) -> usize {
        count_words(&open.text).saturating_sub(self.before.0)
    }

    /// Words to write yet.
    pub(super) fn left(&self, open: &OpenSection) -> usize {
        self.words.saturating_sub(self.reached(open)).max(1)
    }

    /// Tokens written.
    pub(super) fn tokens(&self, open: &OpenSection) -> usize {
        open.token_ids.len().saturating_sub(self.before.1)
    }

    /// Whether too little is there.
    pub(super) fn is_missed(&self, open: &OpenSection) -> bool {
        Length::new(self.words, None).is_short(self.reached(open))
    }
}
