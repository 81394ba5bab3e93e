use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use lwv_processor::{Grid, Patches, PositionBuilder, Prompt, Tokenizer};

use crate::decoder::Decoder;
use crate::error::{Inner, Result};
use crate::generation::{Generation, GenerationSettings};

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

/// Tokens that were computed behind the text because it may go on with them.
#[derive(Debug, Default)]
struct Guesses {
    ids: Vec<u32>,
    /// How many of them the text went on with.
    right: usize,
}

/// An image in the text.
struct Image {
    /// Its tokens.
    span: Range<usize>,
    digest: u64,
    /// Until all its tokens are in the cache.
    patches: Option<Patches>,
}

/// What a step of prefill did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prefilled {
    /// An image was encoded: its place from 0, and its number of tokens.
    Image { index: usize, tokens: usize },
    /// Tokens were appended to the cache.
    Tokens(usize),
    /// Everything is in the cache.
    Nothing,
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
        // The scores after the last token are gone with the tokens after it, so it is computed again.
        self.decoder.truncate(tokens - 1);
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

    /// Appends a generated token, which stands for itself even if it is an image token.
    pub(crate) fn push(&mut self, id: u32) {
        let next = self.next_position();
        self.tokens.push(id);
        self.positions.push([next; 3]);
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
    fn forget_guesses(&mut self) {
        self.decoder.truncate(self.cached_tokens());
        self.guesses.ids.clear();
        self.guesses.right = 0;
    }

    /// Encodes the next image, or appends the next chunk to the cache. One call is what cancelling waits for at most,
    /// unless the decoder can be interrupted within.
    pub(crate) fn prefill(&mut self) -> Result<Prefilled> {
        let start = self.decoder.length();
        let longest = match self.deterministic {
            true => self.next_cut(start),
            false => start + self.decoder.chunk(),
        };
        let end = self.tokens.len().min(longest);
        if start >= end {
            return Ok(Prefilled::Nothing);
        }
        // A chunk has image tokens of one image at most, so that only one image's features are held.
        let next = self
            .images
            .iter()
            .position(|image| image.span.end > start && image.span.start < end);
        let Some(index) = next else {
            return self.prefill_chunk(start..end, None);
        };
        let span = self.images[index].span.clone();
        if self.features.as_ref().is_none_or(|(of, _)| *of != index) {
            if span.start > start {
                return self.prefill_chunk(start..span.start, None);
            }
            return self.encode(index);
        }
        let following = self
            .images
            .get(index + 1)
            .map_or(end, |image| image.span.start.min(end));
        self.prefill_chunk(start..following, Some(index))
    }

    fn encode(&mut self, index: usize) -> Result<Prefilled> {
        let image = &self.images[index];
        let Some(patches) = &image.patches else {
            let reason = "an image there is no longer held";
            return Err(Inner::Rewind {
                asked: image.span.start,
                have: self.tokens.len(),
                reason,
            }
            .into());
        };
        let features = self.decoder.encode_image(patches)?;
        let tokens = image.span.len();
        let expected = tokens * self.decoder.hidden_size();
        if features.len() != expected {
            let message = format!(
                "{} feature values for an image that needs {expected}",
                features.len()
            );
            return Err(Inner::Inference {
                graph: "vision_encoder".to_owned(),
                message,
            }
            .into());
        }
        self.features = Some((index, features));
        Ok(Prefilled::Image { index, tokens })
    }

    fn prefill_chunk(&mut self, chunk: Range<usize>, image: Option<usize>) -> Result<Prefilled> {
        let hidden = self.decoder.hidden_size();
        let rows = self.decoder.embed(&self.tokens[chunk.clone()])?;
        if let (Some(index), Some((_, features))) = (image, &self.features) {
            let span = &self.images[index].span;
            let shared = span.start.max(chunk.start)..span.end.min(chunk.end);
            let from = (shared.start - span.start) * hidden..(shared.end - span.start) * hidden;
            let to = (shared.start - chunk.start) * hidden..(shared.end - chunk.start) * hidden;
            rows[to].copy_from_slice(&features[from]);
        }
        let axes = self.context.positions.axes();
        let positions: Vec<i64> = (0..axes)
            .flat_map(|axis| {
                self.positions[chunk.clone()]
                    .iter()
                    .map(move |position| position[axis])
            })
            .collect();
        self.decoder.prefill(chunk.len(), &positions)?;
        self.drop_finished_images();
        Ok(Prefilled::Tokens(chunk.len()))
    }

    fn drop_finished_images(&mut self) {
        let done = self.decoder.length();
        for image in self.images.iter_mut().filter(|image| image.span.end <= done) {
            image.patches = None;
        }
        let finished = |(index, _): &(usize, _)| self.images[*index].span.end <= done;
        if self.features.as_ref().is_some_and(finished) {
            self.features = None;
        }
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

    /// How many tokens, and images among them, `prompt` shares with the text. At least one token of it is new, since
    /// its scores are needed.
    fn common_start(&self, prompt: &Prompt, grids: &[Grid]) -> (usize, usize) {
        let equal = self
            .tokens
            .iter()
            .zip(&prompt.input_ids)
            .take_while(|(a, b)| a == b)
            .count();
        let mut kept = equal.min(prompt.input_ids.len().saturating_sub(1));
        let spans = self.image_spans(&prompt.input_ids, grids);
        let mut images = 0;
        for (index, (span, patches)) in spans.iter().zip(&prompt.images).enumerate() {
            let same = self.images.get(index).is_some_and(|image| {
                image.span == *span && span.end <= kept && image.digest == digest(patches)
            });
            if !same {
                kept = kept.min(span.start);
                break;
            }
            images += 1;
        }
        // A generated image token is no image: no span of ours may be cut.
        let cut = self
            .images
            .iter()
            .find(|image| image.span.start < kept && kept < image.span.end);
        (cut.map_or(kept, |image| image.span.start), images)
    }

    /// Of `kept` tokens and the `images` among them, what can stay in the cache.
    fn reusable(&self, kept: usize, images: usize) -> (usize, usize) {
        if !self.deterministic {
            return (kept, images);
        }
        let regular = self.irregular.map_or(kept, |irregular| irregular.min(kept));
        let kept = self.last_cut(regular);
        let whole = self.images[..images]
            .iter()
            .filter(|image| image.span.end <= kept);
        (kept, whole.count())
    }

    /// Where the piece of a prompt that begins at `start` ends at the latest.
    fn next_cut(&self, start: usize) -> usize {
        let chunk = self.decoder.chunk();
        let borders = self
            .images
            .iter()
            .flat_map(|image| [image.span.start, image.span.end]);
        let of_chunk = (start / chunk + 1) * chunk;
        borders
            .filter(|border| *border > start)
            .fold(of_chunk, usize::min)
    }

    /// The last place up to `at` where a piece of a prompt ends. Images are never cut in two: a part of one would need
    /// its features again.
    fn last_cut(&self, at: usize) -> usize {
        let chunk = self.decoder.chunk();
        let borders = self
            .images
            .iter()
            .flat_map(|image| [image.span.start, image.span.end]);
        let cut = borders
            .filter(|border| *border <= at)
            .fold(at / chunk * chunk, usize::max);
        let within = self
            .images
            .iter()
            .find(|image| image.span.start < cut && cut < image.span.end);
        within.map_or(cut, |image| image.span.start)
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

/// Tells images apart within a process.
fn digest(patches: &Patches) -> u64 {
    let mut hasher = DefaultHasher::new();
    patches.grid.hash(&mut hasher);
    patches
        .values
        .iter()
        .for_each(|value| value.to_bits().hash(&mut hasher));
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::scripted::{IMAGE, ScriptedDecoder, image, text_prompt, tokens_of};

    fn settings(max_new_tokens: usize) -> GenerationSettings {
        GenerationSettings {
            max_new_tokens,
            sampler: crate::SamplerSettings::greedy(),
            ..GenerationSettings::default()
        }
    }

    /// `before`, an image of two by three merged patches, `after`.
    fn image_prompt(before: &str, mark: f32, after: &str) -> Prompt {
        let input_ids = [tokens_of(before), vec![IMAGE; 6], tokens_of(after)].concat();
        Prompt {
            input_ids,
            images: vec![image(mark, 4, 6)],
        }
    }

    #[test]
    fn features_take_the_place_of_image_tokens_whatever_the_chunks() {
        // The image begins in the first chunk of eight and ends in the second.
        let decoder = ScriptedDecoder::new(|_| 0);
        let log = decoder.log();
        let mut session = decoder.session();
        session.extend(image_prompt("abcde", 0.5, "f")).unwrap();
        session.generate(settings(1)).unwrap().complete().unwrap();
        let rows = log.rows.lock().unwrap();
        let features: Vec<[f32; 2]> = rows[5..11].iter().map(|row| row.embedding).collect();
        assert_eq!(features, [0, 1, 2, 3, 4, 5].map(|row| [0.5, row as f32]));
        assert_eq!(rows[11].embedding[0], tokens_of("f")[0] as f32);
        assert_eq!(
            rows[11].position,
            [8, 8, 8],
            "5 text tokens, then max(2, 3) of the image"
        );
        assert_eq!(rows[10].position, [5, 6, 7]);
        assert_eq!(log.encoded.lock().unwrap().len(), 1);
    }

    #[test]
    fn several_images_are_encoded_one_after_another() {
        let decoder = ScriptedDecoder::new(|_| 0);
        let log = decoder.log();
        let mut session = decoder.session();
        let input_ids = [vec![IMAGE; 2], vec![IMAGE], tokens_of("x")].concat();
        let images = vec![image(1.0, 2, 4), image(2.0, 2, 2)];
        session.extend(Prompt { input_ids, images }).unwrap();
        session.generate(settings(1)).unwrap().complete().unwrap();
        let marks: Vec<f32> = log.rows.lock().unwrap()[..3]
            .iter()
            .map(|row| row.embedding[0])
            .collect();
        assert_eq!(marks, [1.0, 1.0, 2.0]);
    }

    #[test]
    fn a_second_turn_goes_on_with_its_own_image() {
        let decoder = ScriptedDecoder::new(|_| tokens_of("z")[0]);
        let log = decoder.log();
        let mut session = decoder.session();
        session.extend(image_prompt("a", 1.0, "b")).unwrap();
        session.generate(settings(2)).unwrap().complete().unwrap();
        session.extend(image_prompt("c", 2.0, "d")).unwrap();
        session.generate(settings(1)).unwrap().complete().unwrap();
        let rows = log.rows.lock().unwrap();
        // a, image, b, z, z, c, image, d: the last z of the first turn was computed with the second.
        assert_eq!(rows.len(), 1 + 6 + 1 + 2 + 1 + 6 + 1);
        assert_eq!(rows[7].position, [4, 4, 4]);
        assert_eq!(
            (rows[8].position[0], rows[9].position[0], rows[10].position[0]),
            (5, 6, 7)
        );
        assert_eq!(
            (rows[11].position.clone(), rows[16].position.clone()),
            (vec![8, 8, 8], vec![8, 9, 10])
        );
        assert_eq!(rows[17].position, [11, 11, 11]);
        assert_eq!(rows[11].embedding, [2.0, 0.0]);
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
    fn another_prompt_computes_only_what_differs() {
        let decoder = ScriptedDecoder::new(|_| 0);
        let log = decoder.log();
        let mut session = decoder.session();
        let run = |session: &mut Session, prompt| {
            session.replace(prompt).unwrap();
            session
                .generate(settings(2))
                .unwrap()
                .complete()
                .unwrap()
                .stats
                .prefilled_tokens
        };
        assert_eq!(run(&mut session, image_prompt("ab", 1.0, "cd")), 10);
        assert_eq!(
            run(&mut session, image_prompt("ab", 1.0, "ce")),
            1,
            "all but the last token is shared"
        );
        assert_eq!(
            run(&mut session, image_prompt("ab", 1.0, "ce")),
            1,
            "one token is always computed"
        );
        assert_eq!(log.encoded.lock().unwrap().len(), 1);
        assert_eq!(
            run(&mut session, image_prompt("ab", 2.0, "ce")),
            8,
            "the image is another one"
        );
        assert_eq!(log.encoded.lock().unwrap().len(), 2);
        assert_eq!(log.rows.lock().unwrap()[2].embedding, [2.0, 0.0]);
        assert_eq!(log.rows.lock().unwrap()[9].position, [6, 6, 6]);
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

    /// Sizes of the runs in which the tokens now in the cache were computed.
    fn history(log: &crate::scripted::Log) -> Vec<(u32, usize)> {
        log.rows
            .lock()
            .unwrap()
            .iter()
            .map(|row| (row.id, row.run))
            .collect()
    }

    #[test]
    fn a_deterministic_cache_does_not_tell_how_it_came_to_be() {
        let prompts = [
            image_prompt("a long way", 1.0, "cdefghijklmnopqrstuvwx"),
            image_prompt("a long way", 1.0, "cdefghijklmnopqzzzzzzzzzzzz"),
            image_prompt("a long way", 1.0, "cdefg"),
            image_prompt("a long war", 1.0, "cdefg"),
        ];
        let decoder = || ScriptedDecoder::new(|ids| ids.len() as u32 % 90);
        let shared = decoder();
        let log = shared.log();
        let mut session = shared.session();
        session.set_deterministic(true);
        for prompt in prompts.iter().chain(prompts.iter().rev()) {
            let fresh = decoder();
            let fresh_log = fresh.log();
            let mut fresh = fresh.session();
            fresh.set_deterministic(true);
            for session in [&mut session, &mut fresh] {
                session.replace(prompt.clone()).unwrap();
                session.generate(settings(12)).unwrap().complete().unwrap();
            }
            assert_eq!(history(&log), history(&fresh_log));
        }
        assert_eq!(
            log.encoded.lock().unwrap().len(),
            3,
            "images stay while what is before them does"
        );
    }

    #[test]
    fn what_was_generated_becomes_part_of_a_prompt_as_a_prompt() {
        let decoder = ScriptedDecoder::new(|_| tokens_of("z")[0]);
        let log = decoder.log();
        let mut session = decoder.session();
        session.set_deterministic(true);
        session.extend(text_prompt("abcdefghij")).unwrap();
        session.generate(settings(10)).unwrap().complete().unwrap();
        session
            .replace(text_prompt(&("abcdefghij".to_owned() + &"z".repeat(9))))
            .unwrap();
        let output = session.generate(settings(1)).unwrap().complete().unwrap();
        assert_eq!(output.stats.prefilled_tokens, 19 - 8);
        let runs: Vec<usize> = history(&log).iter().map(|(_, run)| *run).collect();
        assert_eq!(runs, [vec![8; 16], vec![3; 3]].concat());
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
            }),
            ..settings(100)
        };
        assert_eq!(
            session.generate(too_long).err().unwrap().kind(),
            ErrorKind::Prompt
        );
    }
}
