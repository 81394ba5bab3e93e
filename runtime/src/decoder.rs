use std::sync::Arc;

use lwv_processor::Patches;

use crate::Result;
use crate::cancel::Interrupt;

/// A language model with a cache, one text at a time. What a [`Session`](crate::Session) stands on; a made-up one
/// makes sessions, generation and writing testable without a model.
///
/// Calls come from one thread at a time. A call that was interrupted fails and leaves [`length`](Self::length) as it was.
pub trait Decoder: Send {
    /// Number of scores per position.
    fn vocabulary(&self) -> usize;

    /// Width of an embedding.
    fn hidden_size(&self) -> usize;

    /// Most tokens that a text may have, in all.
    fn context(&self) -> usize;

    /// Most tokens in one call of [`embed`](Self::embed) and [`prefill`](Self::prefill).
    fn chunk(&self) -> usize;

    /// Makes room for a text of `tokens` tokens.
    ///
    /// # Errors
    /// The cache would exceed its budget, or there is no memory.
    fn reserve(&mut self, tokens: usize) -> Result<()>;

    /// Tokens in the cache.
    fn length(&self) -> usize;

    /// Forgets all but the first `length` tokens.
    fn truncate(&mut self, length: usize);

    /// Embeds `ids` into the decoder's input and returns it, `[ids.len(), hidden_size]`, so that the rows of image tokens
    /// can be overwritten.
    ///
    /// # Errors
    /// The computation failed or was interrupted.
    fn embed(&mut self, ids: &[u32]) -> Result<&mut [f32]>;

    /// Appends the tokens that were just embedded, `count` of them, at `positions`, `[axes, count]`, row-major.
    ///
    /// # Errors
    /// The computation failed or was interrupted.
    fn prefill(&mut self, count: usize, positions: &[i64]) -> Result<()>;

    /// Appends one token at `positions`, `[axes]`.
    ///
    /// # Errors
    /// The computation failed or was interrupted.
    fn step(&mut self, id: u32, positions: &[i64]) -> Result<()> {
        self.embed(&[id])?;
        self.prefill(1, positions)
    }

    /// Most tokens in one call of [`steps`](Self::steps): 1 where scores come for the last token only.
    fn longest_step(&self) -> usize {
        1
    }

    /// Appends `ids`, one or more and no more than [`longest_step`](Self::longest_step), at `positions`,
    /// `[axes, ids.len()]`, row-major, and keeps the scores after each of them.
    ///
    /// # Errors
    /// The computation failed or was interrupted.
    fn steps(&mut self, ids: &[u32], positions: &[i64]) -> Result<()> {
        self.embed(ids)?;
        self.prefill(ids.len(), positions)
    }

    /// Scores, `[vocabulary]`, after the token `index` of the last [`steps`](Self::steps), which may be overwritten.
    fn logits_after(&mut self, _index: usize) -> &mut [f32] {
        self.logits()
    }

    /// Scores, `[vocabulary]`, of the token after the last that was appended. They stand where the graph wrote them and
    /// may be overwritten.
    fn logits(&mut self) -> &mut [f32];

    /// Features of an image, `[merged patches, hidden_size]`, row-major: one row for each of its image tokens.
    ///
    /// # Errors
    /// The model takes no images, the computation failed or was interrupted.
    fn encode_image(&mut self, image: &Patches) -> Result<Vec<f32>>;

    /// What interrupts calls of this decoder.
    fn interrupt_handle(&self) -> Arc<dyn Interrupt>;

    /// Lets calls go on after an interruption.
    ///
    /// # Errors
    /// The library refuses.
    fn clear_interrupt(&mut self) -> Result<()>;

    /// Bytes that the cache takes.
    fn kv_bytes(&self) -> u64;
}
