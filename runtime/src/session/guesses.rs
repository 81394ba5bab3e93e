//! Tokens that are computed behind the text on the chance that it goes on with them.

use crate::error::Result;
use crate::session::Session;

/// Tokens that were computed behind the text because it may go on with them.
#[derive(Debug, Default)]
pub(super) struct Guesses {
    pub(super) ids: Vec<u32>,
    /// How many of them the text went on with.
    pub(super) right: usize,
}

impl Session {
    /// The scores of the next token, beside the text so far.
    pub(crate) fn logits_and_tokens(&mut self) -> (&mut [f32], &[u32]) {
        let logits = match self.guesses.ids.is_empty() {
            true => self.decoder.logits(),
            false => self.decoder.logits_after(self.guesses.right),
        };
        (logits, &self.tokens)
    }

    /// Most tokens behind the text that can be computed with its last one.
    pub(crate) fn most_guesses(&self) -> usize {
        self.decoder.longest_step() - 1
    }

    /// Whether the last token was guessed by the last [`step`](Self::step): then its scores are there.
    pub(crate) fn was_guessed(&mut self) -> bool {
        let guess = self.guesses.ids.get(self.guesses.right);
        let guessed = guess.is_some() && guess == self.tokens.last();
        self.guesses.right += usize::from(guessed);
        guessed
    }

    /// Appends the last token to the cache, when it is the only one that is not there, and behind it `guesses`, with which the
    /// text may go on: no more than [`most_guesses`](Self::most_guesses).
    pub(crate) fn step(&mut self, guesses: &[u32]) -> Result<()> {
        self.forget_guesses();
        let (Some(id), Some(positions)) = (self.tokens.last(), self.positions.last()) else {
            return Ok(());
        };
        let axes = self.context.positions.axes();
        self.irregular.get_or_insert(self.decoder.length());
        if guesses.is_empty() {
            return self.decoder.step(*id, &positions[..axes]);
        }
        let next = self.next_position();
        let behind = next..next + guesses.len() as i64;
        let row = |position: &i64| std::iter::once(*position).chain(behind.clone());
        let positions: Vec<i64> = positions[..axes].iter().flat_map(row).collect();
        let ids = [&[*id], guesses].concat();
        self.decoder.steps(&ids, &positions)?;
        self.guesses.ids.extend(guesses);
        Ok(())
    }

    /// Takes guesses that did not come true out of the cache.
    pub(super) fn forget_guesses(&mut self) {
        self.decoder.truncate(self.cached_tokens());
        self.guesses.ids.clear();
        self.guesses.right = 0;
    }
}
