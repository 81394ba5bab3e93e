use crate::generation::{Event, FinishReason};

/// What happens while a writer works.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum WriterEvent {
    /// A line of the plan was made.
    PlanLine {
        /// Which, from 0.
        index: usize,
        /// What the section will say.
        main_point: String,
    },
    /// A section begins.
    SectionStarted {
        /// Which, from 0.
        index: usize,
        /// Words that it is to have now. Earlier sections that were too short or too long are made up for.
        words: usize,
    },
    /// The context cannot hold the text so far, so the section is shown it from near its end.
    TextLeftOut {
        /// Which section, from 0.
        index: usize,
        /// Words of the text that are not shown.
        words: usize,
    },
    /// Something in the generation of a section; the text of tokens is what stays, unless an [`Event::Rewound`] takes it
    /// back. Bytes are of the text since the generation began; what a paragraph begins with is told with its first token.
    Generation(Event),
    /// Text that is not generated now: headings, and what a draft holds.
    Text(String),
    /// A section stays short, however often it was written on.
    Shortfall {
        /// Which, from 0.
        index: usize,
        /// Words that it has, or that were added to it.
        words: usize,
        /// Words that it was to have, or that were to be added.
        wanted: usize,
    },
    /// A section ended.
    SectionFinished {
        /// Which, from 0.
        index: usize,
        /// Words that it has.
        words: usize,
        /// Why it ended.
        reason: FinishReason,
    },
}
