use serde::{Deserialize, Serialize};

use crate::stats::Stats;

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FinishReason {
    /// The model ended it.
    Eos,
    /// A stop string came.
    StopString,
    /// As many tokens as were asked for.
    MaxTokens,
    /// As many words as were asked for; a [`Writer`](crate::Writer) ends at a sentence.
    WordBudget,
    /// Somebody cancelled. What was written so far counts.
    Cancelled,
    /// The model turned in circles, and no try got it out. The text ends before the circle.
    LoopDetected,
    /// The context is full.
    ContextFull,
}

/// What happens in a generation.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// Prompt tokens were computed.
    Prefill {
        /// Tokens computed so far.
        done: usize,
        /// Tokens to compute; those that were in the cache are not among them.
        total: usize,
    },
    /// An image was encoded.
    ImageEncoded {
        /// Which image of the session, from 0; a tile is one, where the model splits pictures into tiles.
        index: usize,
        /// Tokens that it takes.
        tokens: usize,
    },
    /// A token was chosen.
    Token {
        /// Its id.
        id: u32,
        /// The text that is certain with it: whole characters, no part of a stop string, often empty.
        text: String,
    },
    /// The model turned in circles, so the text went back and goes on from there, or ends. Comes only with
    /// [`loop_guard`](crate::GenerationSettings::loop_guard).
    Rewound {
        /// Tokens that were taken back, of those that were told.
        tokens: usize,
        /// Bytes of text that were taken back, of what the events before told; never a part of a character.
        bytes: usize,
    },
    /// More of the text is sure to stay: no [`Rewound`](Self::Rewound) will take it back. Comes only with
    /// [`loop_guard`](crate::GenerationSettings::loop_guard), usually with the sentence after; without it all text stays.
    Settled {
        /// Bytes from the start of the generation's text.
        bytes: usize,
    },
    /// The end. Comes once, as the last event.
    Finished {
        /// Why.
        reason: FinishReason,
        /// The rest of the text, that was held back as the possible start of a stop string or character.
        text: String,
        /// What it cost.
        stats: Stats,
    },
}

/// A whole generation.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Output {
    /// The text.
    pub text: String,
    /// The generated tokens, one that ended the text included.
    pub token_ids: Vec<u32>,
    /// Why it ended.
    pub reason: FinishReason,
    /// What it cost.
    pub stats: Stats,
}
