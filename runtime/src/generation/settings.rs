use serde::{Deserialize, Serialize};

use crate::cancel::CancelToken;
use crate::loop_guard::LoopAttempts;
use crate::sampler::{SamplerSettings, SamplerState};

/// What a generation is to do.
#[derive(Debug, Clone)]
pub struct GenerationSettings {
    /// How tokens are chosen.
    pub sampler: SamplerSettings,
    /// Most tokens to generate.
    pub max_new_tokens: usize,
    /// Tokens that end a text cannot be chosen before this many tokens were.
    pub min_new_tokens: usize,
    /// Tokens that end a text cannot be chosen before this many words were written.
    pub min_words: usize,
    /// Texts that end the generation. They are not part of the text.
    pub stop: Vec<String>,
    /// Tokens that end a text cannot be chosen at all.
    pub ignore_eos: bool,
    /// How many of the last tokens of the prompt are text that was written before: for penalties and the loop guard they
    /// count as generated.
    pub written_tokens: usize,
    /// Watch for a model that turns in circles: go back to where the loop began, try again with a sampler that avoids
    /// repetitions, and end after three tries. Without it a greedy text is exactly the model's.
    pub loop_guard: bool,
    /// Most tokens that are guessed at once by what came after the same tokens before, in prompt and text, and verified in one
    /// step; 0 to guess none. A token is chosen as it would be without: by the same scores, up to the last bits of sums that the
    /// provider may add up in another order for several tokens. It pays where texts repeat what is there, as in rewriting.
    ///
    /// Nothing is guessed in a [deterministic](crate::Session::set_deterministic) session, while a loop is suspected or left, and where
    /// the bundle's decoder scores one token at a time.
    pub lookup_tokens: usize,
    /// What was generated before an interruption. It is generated once more, to the same tokens, and gone on with.
    pub begun: Option<Begun>,
    /// Cancels from another thread.
    pub cancel: CancelToken,
}

impl Default for GenerationSettings {
    fn default() -> Self {
        Self {
            sampler: SamplerSettings::default(),
            max_new_tokens: 4096,
            min_new_tokens: 0,
            min_words: 0,
            stop: Vec::new(),
            ignore_eos: false,
            written_tokens: 0,
            loop_guard: false,
            lookup_tokens: 0,
            begun: None,
            cancel: CancelToken::new(),
        }
    }
}

/// The first part of a generation, and how it goes on.
///
/// In a [deterministic](crate::Session::set_deterministic) session its tokens are computed one by one, as they were the first
/// time, and the rest is the same as if there had been no interruption. In others they are computed as a prompt is, which
/// takes a fraction of the time, and scores can differ in the last bits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// The tokens that were chosen and not taken back.
    pub token_ids: Vec<u32>,
    /// Where the sampler stood after them.
    pub sampler: SamplerState,
    /// What the loop guard had tried.
    #[serde(default)]
    pub loop_attempts: LoopAttempts,
    /// How many of the tokens were left when it went back to the end of a sentence: one ends there, whatever came next.
    #[serde(default)]
    pub went_back_to: Vec<usize>,
}
