mod guesses;
mod prefill;
mod reuse;

use std::ops::Range;

use lwv_processor::{Grid, Patches, PositionBuilder, Prompt, Tokenizer};

use crate::decoder::Decoder;
use crate::error::{Inner, Result};
use crate::generation::{Generation, GenerationSettings};

use guesses::Guesses;
pub(crate) use prefill::Prefilled;
use reuse::digest;

/// What a session knows about its model besides the decoder.
#[derive(Debug, Clone)]
pub struct SessionContext {
    /// Turns ids into text.
    pub tokenizer: Tokenizer,
    /// Positions of an empty text.
    pub positions: PositionBuilder,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// The token that stands for a merged patch, where the model reads images.
    pub image_token_id: Option<u32>,
    /// Patches on a side of a merged square.
    pub spatial_merge_size: usize,
    /// The execution provider's name, for the statistics.
    pub provider: String,
}

/// A text that a model reads and goes on with, and its cache.
///
/// [`extend`](Self::extend) appends a prompt, or another turn with more images;
/// [`generate`](Self::generate) computes what is new and writes on. [`rewind`](Self::rewind) goes back, and
/// [`replace`](Self::replace) puts another prompt in its place while all that both begin with stays computed.
///
/// A session belongs to one thread at a time; sessions of one engine share its weights.
pub struct Session {
    decoder: Box<dyn Decoder>,
    context: SessionContext,
    tokens: Vec<u32>,
    /// Position of every token; only the first axis is used in a model with one.
    positions: Vec<[i64; 3]>,
    images: Vec<Image>,
    /// Features of the image that is being prefilled, by its place in `images`.
    features: Option<(usize, Vec<f32>)>,
    deterministic: bool,
    /// The first token in the cache that was not computed as a prompt's would be.
    irregular: Option<usize>,
    guesses: Guesses,
}

/// An image in the text.
struct Image {
    /// Its tokens.
    span: Range<usize>,
    digest: u64,
    /// Until all its tokens are in the cache.
    patches: Option<Patches>,
}

impl Session {
    /// A session on any decoder. [`Engine::session`](crate::Engine::session) makes one on a bundle.
    pub fn new(decoder: Box<dyn Decoder>, context: SessionContext) -> Self {
        Self {
            decoder,
            context,
            tokens: Vec::new(),
            positions: Vec::new(),
            images: Vec::new(),
            features: None,
            deterministic: false,
            irregular: None,
            guesses: Guesses::default(),
        }
    }

    /// Whether scores are to follow from the tokens alone, to the bit, and not from how they came into the cache.
    ///
    /// Sums come out differently in the last bits when tokens are computed in other pieces. With this set, prompts are
    /// always computed in the same pieces, which end at multiples of the chunk and around images, and
    /// [`replace`](Self::replace) keeps whole pieces of prompts only: what was generated is computed once more when it
    /// becomes part of a prompt. It holds for one build, device, chunk and number of threads.
    pub fn set_deterministic(&mut self, deterministic: bool) {
        self.deterministic = deterministic;
        self.irregular = Some(0).filter(|_| self.decoder.length() > 0);
    }

    /// Appends a prompt or a later turn. Nothing is computed yet.
    ///
    /// # Errors
    /// Image tokens and images do not match, an id is not in the vocabulary, or the text becomes longer than the
    /// context. The session is as before then.
    pub fn extend(&mut self, prompt: Prompt) -> Result<()> {
        self.check(&prompt.input_ids, self.tokens.len() + prompt.input_ids.len())?;
        let grids: Vec<Grid> = prompt.images.iter().map(|image| image.grid).collect();
        let rows = self.builder().extend(&prompt.input_ids, &grids)?;
        let spans = self.image_spans(&prompt.input_ids, &grids);
        let offset = self.tokens.len();
        let images = spans.into_iter().zip(prompt.images);
        self.images.extend(images.map(|(span, patches)| Image {
            span: span.start + offset..span.end + offset,
            digest: digest(&patches),
            patches: Some(patches),
        }));
        self.append(&prompt.input_ids, &rows);
        Ok(())
    }

    /// Puts `prompt` in the place of the whole text. What the two begin with, images included, is not computed again.
    ///
    /// # Errors
    /// As for [`extend`](Self::extend).
    pub fn replace(&mut self, mut prompt: Prompt) -> Result<()> {
        self.check(&prompt.input_ids, prompt.input_ids.len())?;
        let grids: Vec<Grid> = prompt.images.iter().map(|image| image.grid).collect();
        // Checks that images and image tokens match, before anything is given up.
        self.context.positions.clone().extend(&prompt.input_ids, &grids)?;
        let (kept, images) = self.common_start(&prompt, &grids);
        let (kept, images) = self.reusable(kept, images);
        self.truncate(kept);
        prompt.input_ids.drain(..kept);
        prompt.images.drain(..images);
        self.extend(prompt)
    }

    /// Goes back to the first `tokens` tokens.
    ///
    /// # Errors
    /// There are fewer, none would be left, or the last that is left would be inside or the end of an image.
    pub fn rewind(&mut self, tokens: usize) -> Result<()> {
        let refused = |reason| {
            Err(Inner::Rewind {
                asked: tokens,
                have: self.tokens.len(),
                reason,
            }
            .into())
        };
        if tokens == 0 || tokens > self.tokens.len() {
            return refused("at least one must be left, and no more than there are");
        }
        if self
            .images
            .iter()
            .any(|image| image.span.start < tokens && tokens <= image.span.end)
        {
            return refused("that is inside an image");
        }
        self.truncate(tokens);
        // The scores after the last token are gone with the tokens after it, so it is computed again: to the bit as it was, where
        // it has to be.
        let is_of_prompt = self.irregular.is_none();
        let again = match self.deterministic && is_of_prompt {
            true => self.last_cut(tokens - 1),
            false => tokens - 1,
        };
        self.decoder.truncate(again);
        Ok(())
    }

    /// Writes on. The iterator computes what [`extend`](Self::extend) appended, then tokens.
    ///
    /// # Errors
    /// There is no text to go on with, a setting is out of its range, the cache would exceed its budget, or what was begun
    /// does not fit.
    pub fn generate(&mut self, settings: GenerationSettings) -> Result<Generation<'_>> {
        if self.tokens.is_empty() {
            return Err(Inner::EmptyPrompt.into());
        }
        if let Some(begun) = &settings.begun {
            self.check(&begun.token_ids, self.tokens.len() + begun.token_ids.len())?;
        }
        let most = self
            .tokens
            .len()
            .saturating_add(settings.max_new_tokens)
            .min(self.decoder.context());
        self.decoder.reserve(most)?;
        self.forget_guesses();
        let cached = self.decoder.length();
        if cached < self.tokens.len() && self.last_cut(cached) < cached {
            self.irregular.get_or_insert(cached);
        }
        Generation::new(self, settings)
    }

    /// All tokens of the text, generated ones included.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens of the text that are in the cache.
    pub fn cached_tokens(&self) -> usize {
        self.decoder.length() - (self.guesses.ids.len() - self.guesses.right)
    }

    /// Most tokens that the text may have.
    pub fn context_length(&self) -> usize {
        self.decoder.context()
    }

    /// Most tokens of a prompt that are computed at once.
    pub fn chunk(&self) -> usize {
        self.decoder.chunk()
    }

    /// Bytes that the cache takes.
    pub fn kv_bytes(&self) -> u64 {
        self.decoder.kv_bytes()
    }

    pub(crate) fn is_deterministic(&self) -> bool {
        self.deterministic
    }

    pub(crate) fn context(&self) -> &SessionContext {
        &self.context
    }

    pub(crate) fn decoder(&mut self) -> &mut dyn Decoder {
        self.decoder.as_mut()
    }

    /// Appends a generated token, which stands for itself even if it is an image token.
    pub(crate) fn push(&mut self, id: u32) {
        let next = self.next_position();
        self.tokens.push(id);
        self.positions.push([next; 3]);
    }

    fn check(&self, ids: &[u32], total: usize) -> Result<()> {
        let vocabulary = self.decoder.vocabulary();
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
            return Err(Inner::TokenId { id: *id, vocabulary }.into());
        }
        let context = self.decoder.context();
        if total > context {
            return Err(Inner::PromptTooLong {
                tokens: total,
                context,
            }
            .into());
        }
        Ok(())
    }

    fn next_position(&self) -> i64 {
        // The last token of an image has its greatest row and column, so this holds after images too.
        let axes = self.context.positions.axes();
        self.positions
            .last()
            .and_then(|last| last[..axes].iter().max())
            .map_or(0, |last| last + 1)
    }

    /// Positions from where the text ends.
    fn builder(&self) -> PositionBuilder {
        let mut builder = self.context.positions.clone();
        // An empty text of that length, since a builder only goes forward.
        builder.extend_text(usize::try_from(self.next_position()).unwrap_or(0));
        builder
    }

    fn append(&mut self, ids: &[u32], rows: &[i64]) {
        self.tokens.extend_from_slice(ids);
        let row = |axis: usize| {
            if self.context.positions.axes() > axis {
                axis
            } else {
                0
            }
        };
        let count = ids.len();
        let at = |index: usize| [0, 1, 2].map(|axis| rows[row(axis) * count + index]);
        self.positions.extend((0..count).map(at));
    }

    /// Where the images' tokens are in `ids`.
    fn image_spans(&self, ids: &[u32], grids: &[Grid]) -> Vec<Range<usize>> {
        let Some(image_token) = self.context.image_token_id else {
            return Vec::new();
        };
        let mut from = 0;
        let next = |grid: &Grid| {
            let start = ids[from..]
                .iter()
                .position(|id| *id == image_token)
                .map_or(from, |found| from + found);
            from = start + grid.merged(self.context.spatial_merge_size);
            start..from
        };
        grids.iter().map(next).collect()
    }

    fn truncate(&mut self, tokens: usize) {
        self.forget_guesses();
        self.irregular = self.irregular.filter(|irregular| *irregular < tokens);
        self.tokens.truncate(tokens);
        self.positions.truncate(tokens);
        self.images.retain(|image| image.span.end <= tokens);
        let images = self.images.len();
        self.features.take_if(|(index, _)| *index >= images);
        self.decoder.truncate(tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::scripted::{IMAGE, ScriptedDecoder, image, text_prompt, tokens_of};

    pub(super) fn settings(max_new_tokens: usize) -> GenerationSettings {
        GenerationSettings {
            max_new_tokens,
            sampler: crate::SamplerSettings::greedy(),
            ..GenerationSettings::default()
        }
    }

    /// `before`, an image of two by three merged patches, `after`.
    pub(super) fn image_prompt(before: &str, mark: f32, after: &str) -> Prompt {
        let input_ids = [tokens_of(before), vec![IMAGE; 6], tokens_of(after)].concat();
        Prompt {
            input_ids,
            images: vec![image(mark, 4, 6)],
        }
    }

    #[test]
    fn going_back_forgets_and_computes_the_last_token_again() {
        let decoder = ScriptedDecoder::new(|ids| ids.len() as u32);
        let log = decoder.log();
        let mut session = decoder.session();
        session.extend(text_prompt("abc")).unwrap();
        let first = session.generate(settings(4)).unwrap().complete().unwrap();
        session.rewind(3).unwrap();
        assert_eq!((session.tokens().len(), session.cached_tokens()), (3, 2));
        let again = session.generate(settings(4)).unwrap().complete().unwrap();
        assert_eq!(first.token_ids, again.token_ids);
        assert_eq!(again.stats.prefilled_tokens, 1);
        assert_eq!(log.rows.lock().unwrap()[3].position, [3, 3, 3]);
        assert_eq!(session.rewind(0).unwrap_err().kind(), ErrorKind::Rewind);
        assert!(session.rewind(100).unwrap_err().to_string().contains("100 of 7"));
        let mut session = ScriptedDecoder::new(|_| 0).session();
        session.extend(image_prompt("a", 1.0, "b")).unwrap();
        assert!(
            session
                .rewind(7)
                .unwrap_err()
                .to_string()
                .contains("inside an image")
        );
    }

    #[test]
    fn prompts_that_cannot_be_are_refused_and_change_nothing() {
        let mut session = ScriptedDecoder::new(|_| 0).with_context(10).session();
        let kind = |result: Result<()>| result.unwrap_err().kind();
        assert_eq!(
            kind(session.extend(text_prompt("12345678901"))),
            ErrorKind::Prompt
        );
        assert_eq!(
            kind(session.extend(Prompt {
                input_ids: vec![9999],
                images: vec![]
            })),
            ErrorKind::Prompt
        );
        assert_eq!(
            kind(session.extend(Prompt {
                input_ids: vec![IMAGE],
                images: vec![]
            })),
            ErrorKind::Prompt
        );
        assert!(session.tokens().is_empty());
        assert_eq!(
            session.generate(settings(1)).err().unwrap().kind(),
            ErrorKind::Prompt
        );
    }

    #[test]
    fn a_generation_that_was_interrupted_goes_on() {
        for deterministic in [false, true] {
            let session = || {
                let mut session = ScriptedDecoder::writing(3, "some words and more").session();
                session.set_deterministic(deterministic);
                session.extend(text_prompt(">>>")).unwrap();
                session
            };
            let whole = session().generate(settings(100)).unwrap().complete().unwrap();
            for length in 0..whole.token_ids.len() {
                let begun = crate::Begun {
                    token_ids: whole.token_ids[..length].to_vec(),
                    sampler: crate::Sampler::new(crate::SamplerSettings::default())
                        .unwrap()
                        .state(),
                    loop_attempts: crate::LoopAttempts::default(),
                    went_back_to: Vec::new(),
                };
                let settings = GenerationSettings {
                    begun: Some(begun),
                    ..settings(100)
                };
                let output = session().generate(settings).unwrap().complete().unwrap();
                assert_eq!(
                    (&output.text, &output.token_ids, output.reason),
                    (&whole.text, &whole.token_ids, whole.reason)
                );
                assert_eq!(
                    output.stats.prefilled_tokens,
                    if deterministic { 3 } else { 3 + length }
                );
            }
        }
        let mut session = ScriptedDecoder::writing(3, "x").with_context(8).session();
        session.extend(text_prompt(">>>")).unwrap();
        let too_long = GenerationSettings {
            begun: Some(crate::Begun {
                token_ids: vec![1; 6],
                sampler: crate::Sampler::new(crate::SamplerSettings::default())
                    .unwrap()
                    .state(),
                loop_attempts: crate::LoopAttempts::default(),
                went_back_to: Vec::new(),
            }),
            ..settings(100)
        };
        assert_eq!(
            session.generate(too_long).err().unwrap().kind(),
            ErrorKind::Prompt
        );
    }
}
