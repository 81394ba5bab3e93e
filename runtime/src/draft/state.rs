use serde::{Deserialize, Serialize};

use crate::generation::{Begun, FinishReason};
use crate::loop_guard::LoopAttempts;
use crate::manuscript::Manuscript;
use crate::plan::Plan;
use crate::sampler::{SamplerSettings, SamplerState};
use crate::section::WrittenSection;
use crate::words::count_words;

/// Words of a pass that brought a section on.
const FRUITFUL_WORDS: usize = 50;

/// Words of a pass after which earlier loops do not count any more.
const MUCH_WORDS: usize = 300;

/// Seeds of a section that is written anew lie this far apart, since each pass over a section takes the next one.
const SEED_STEP: u64 = 1000;

/// What a draft holds: the text, sections that were replaced, and the one that is being written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DraftState {
    /// The plan and the sections that are there.
    pub manuscript: Manuscript,
    /// Sections that were rewritten or extended, as they were before; the oldest first.
    pub variants: Vec<Variant>,
    /// The section that is being written.
    pub open: Option<OpenSection>,
}

/// A section as it was before it was rewritten or extended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variant {
    /// Which section, from 0.
    pub index: usize,
    /// What it was.
    pub section: WrittenSection,
}

/// A section that is not finished.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpenSection {
    /// Which, from 0.
    pub index: usize,
    /// What is done to a section that is there; `None` for one that is new.
    pub revision: Option<Revision>,
    /// The text that the section begins with: of passes that ended, or what is extended.
    pub text: String,
    /// The tokens of that text.
    pub token_ids: Vec<u32>,
    /// Passes that ended, as a section that turned out short is written on in another.
    pub passes: usize,
    /// Of these, the last ones that brought next to nothing.
    #[serde(default)]
    pub fruitless: usize,
    /// Passes that ended in a loop since one brought much.
    #[serde(default)]
    pub loops: usize,
    /// How far the pass came that has not ended.
    pub pass: Option<OpenPass>,
}

/// The part of a section that is being written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenPass {
    /// Its text. A sentence that was held back, since the section might end before it, is in the tokens only.
    pub text: String,
    /// Its tokens, and the sampler after them.
    pub begun: Begun,
}

/// What is done to a section that is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// Words that are added to the section; `None` where it is written anew.
    pub extend_by: Option<usize>,
    /// How its tokens are chosen.
    pub sampler: SamplerSettings,
}

/// What happened to a draft.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Record {
    /// All that is there, in a journal that does not begin at the beginning.
    Whole(Box<DraftState>),
    /// A plan was made.
    Planned(Plan),
    /// A section was begun.
    Opened {
        index: usize,
        revision: Option<Revision>,
    },
    /// Where its pass stands: of what it was, so many tokens and bytes stay, and these come after them. Text that was taken
    /// back is no longer there.
    Written {
        kept_tokens: usize,
        token_ids: Vec<u32>,
        kept_bytes: usize,
        text: String,
        sampler: SamplerState,
        loop_attempts: LoopAttempts,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        went_back_to: Vec<usize>,
    },
    /// A pass ended short of the section's length, in a loop or otherwise; the section so far.
    PassEnded {
        text: String,
        token_ids: Vec<u32>,
        #[serde(default)]
        looped: bool,
    },
    /// A section ended.
    Finished(WrittenSection),
}

impl DraftState {
    /// Does what a record says. `None` where it does not fit; nothing is done then.
    pub(crate) fn apply(&mut self, record: Record) -> Option<()> {
        match record {
            Record::Whole(state) => *self = *state,
            Record::Planned(plan) => self.manuscript.plan = plan,
            Record::Opened { index, revision } => self.open(index, revision)?,
            Record::Written {
                kept_tokens,
                mut token_ids,
                kept_bytes,
                text,
                sampler,
                loop_attempts,
                went_back_to,
            } => {
                let open = self.open.as_mut()?;
                let fits = |pass: &OpenPass| {
                    kept_tokens <= pass.begun.token_ids.len() && pass.text.is_char_boundary(kept_bytes)
                };
                let nothing_kept = (kept_tokens, kept_bytes) == (0, 0);
                open.pass.as_ref().map_or(nothing_kept, fits).then_some(())?;
                let pass = open.pass.get_or_insert_with(|| OpenPass::new(sampler));
                pass.begun.token_ids.truncate(kept_tokens);
                pass.begun.token_ids.append(&mut token_ids);
                (pass.begun.sampler, pass.begun.loop_attempts) = (sampler, loop_attempts);
                pass.begun.went_back_to = went_back_to;
                pass.text.truncate(kept_bytes);
                pass.text.push_str(&text);
            }
            Record::PassEnded {
                text,
                token_ids,
                looped,
            } => self.open.as_mut()?.pass_ended(text, token_ids, looped),
            Record::Finished(section) => self.finish(section)?,
        }
        Some(())
    }

    fn open(&mut self, index: usize, revision: Option<Revision>) -> Option<()> {
        // A new section is the next one, and only one that is there is revised.
        let there = index.cmp(&self.manuscript.sections.len());
        let fits = if revision.is_some() {
            there.is_lt()
        } else {
            there.is_eq()
        };
        fits.then(|| self.open = Some(OpenSection::new(&self.manuscript, index, revision)))
    }

    fn finish(&mut self, section: WrittenSection) -> Option<()> {
        let index = self.open.take()?.index;
        match self.manuscript.sections.get_mut(index) {
            Some(there) => {
                let section = std::mem::replace(there, section);
                self.variants.push(Variant { index, section });
            }
            None => self.manuscript.sections.push(section),
        }
        Some(())
    }

    /// The text as far as it came. A section that is being rewritten or extended is what it was.
    pub fn so_far(&self) -> Manuscript {
        let mut manuscript = self.manuscript.clone();
        if let Some(open) = self.open.as_ref().filter(|open| open.revision.is_none()) {
            let text = join(&open.text, open.pass.as_ref().map_or("", |pass| &pass.text));
            manuscript.sections.push(WrittenSection {
                words: count_words(&text),
                text,
                token_ids: open.token_ids().collect(),
                reason: FinishReason::Cancelled,
            });
        }
        manuscript
    }

    /// The seed by which section `index` (from 0) is written anew where nobody names one: `seed` is that of the draft, and each
    /// time it is another one, so that another text comes of it.
    pub fn rewrite_seed(&self, index: usize, seed: u64) -> u64 {
        let earlier = self.variants.iter().filter(|variant| variant.index == index);
        seed.wrapping_add(SEED_STEP * (earlier.count() as u64 + 1))
    }

    /// Whether nothing was written or planned yet.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl OpenPass {
    fn new(sampler: SamplerState) -> Self {
        Self {
            text: String::new(),
            begun: Begun {
                token_ids: Vec::new(),
                sampler,
                loop_attempts: LoopAttempts::default(),
                went_back_to: Vec::new(),
            },
        }
    }
}

impl OpenSection {
    /// Section `index` of a manuscript at its beginning, or as it is where it is extended.
    pub(crate) fn new(manuscript: &Manuscript, index: usize, revision: Option<Revision>) -> Self {
        let extended = revision
            .as_ref()
            .is_some_and(|revision| revision.extend_by.is_some());
        let begins_with = manuscript.sections.get(index).filter(|_| extended);
        Self {
            index,
            revision,
            text: begins_with.map_or(String::new(), |section| section.text.clone()),
            token_ids: begins_with.map_or(Vec::new(), |section| section.token_ids.clone()),
            passes: 0,
            fruitless: 0,
            loops: 0,
            pass: None,
        }
    }

    /// Takes over what the section is after a pass.
    pub(crate) fn pass_ended(&mut self, text: String, token_ids: Vec<u32>, looped: bool) {
        let gained = count_words(&text).saturating_sub(count_words(&self.text));
        self.fruitless = if gained < FRUITFUL_WORDS {
            self.fruitless + 1
        } else {
            0
        };
        self.passes += 1;
        if gained >= MUCH_WORDS {
            self.loops = 0;
        }
        self.loops += usize::from(looped);
        (self.text, self.token_ids, self.pass) = (text, token_ids, None);
    }

    fn token_ids(&self) -> impl Iterator<Item = u32> {
        let pass = self.pass.as_ref().map_or(&[][..], |pass| &pass.begun.token_ids);
        self.token_ids.iter().chain(pass).copied()
    }
}

/// What a section's passes are together: each goes on in a new paragraph.
pub(crate) fn join(text: &str, pass: &str) -> String {
    let between = if text.is_empty() || pass.is_empty() {
        ""
    } else {
        "\n\n"
    };
    format!("{text}{between}{pass}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_written_anew_by_another_seed_each_time() {
        let mut state = DraftState::default();
        assert_eq!(state.rewrite_seed(1, 7), 1007);
        for index in [0, 1, 1] {
            let section = WrittenSection {
                text: String::new(),
                token_ids: Vec::new(),
                words: 0,
                reason: FinishReason::Eos,
            };
            state.variants.push(Variant { index, section });
        }
        assert_eq!(
            [0, 1, 2].map(|index| state.rewrite_seed(index, 7)),
            [2007, 3007, 1007]
        );
        assert_eq!(state.rewrite_seed(2, u64::MAX), 999);
    }

    #[test]
    fn passes_that_bring_little_and_loops_are_counted_until_one_brings_much() {
        let mut open = OpenSection::new(&Manuscript::default(), 0, None);
        let mut seen = Vec::new();
        for (gained, looped) in [
            (10, true),
            (60, true),
            (0, false),
            (400, true),
            (20, true),
            (20, true),
            (300, false),
        ] {
            let text = open.text.clone() + &"word ".repeat(gained);
            open.pass_ended(text, Vec::new(), looped);
            seen.push((open.passes, open.fruitless, open.loops));
        }
        let wanted = [
            (1, 1, 1),
            (2, 0, 2),
            (3, 1, 2),
            (4, 0, 1),
            (5, 1, 2),
            (6, 2, 3),
            (7, 0, 0),
        ];
        assert_eq!(seen, wanted);
    }
}
