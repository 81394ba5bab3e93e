//! A decoder that follows a script, and a processor with one token per byte, so that all above them is tested without a
//! model.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use lwv_processor::{Grid, Patches, PositionBuilder, Processor, Prompt, Tokenizer};

use crate::cancel::Interrupt;
use crate::decoder::Decoder;
use crate::error::{Inner, Result};
use crate::session::{Session, SessionContext};

/// Begins a turn.
pub(crate) const START: u32 = 256;
/// Ends a turn.
pub(crate) const END: u32 = 257;
/// Stands for a merged patch.
pub(crate) const IMAGE: u32 = 258;
pub(crate) const VOCABULARY: usize = 260;
pub(crate) const HIDDEN: usize = 2;
pub(crate) const MERGE: usize = 2;

/// One token in the cache.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) id: u32,
    pub(crate) embedding: [f32; HIDDEN],
    pub(crate) position: Vec<i64>,
    /// Tokens of the run that computed it.
    pub(crate) run: usize,
}

/// What a scripted decoder did, shared with the test.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log {
    pub(crate) rows: Arc<Mutex<Vec<Row>>>,
    /// Sizes of the prefill runs and steps.
    pub(crate) runs: Arc<Mutex<Vec<usize>>>,
    pub(crate) encoded: Arc<Mutex<Vec<Grid>>>,
}

/// The token that comes after others.
type Script = dyn FnMut(&[u32]) -> u32 + Send;

/// Gives the token after those in the cache the highest score, and one that is no control token the second highest.
pub(crate) struct ScriptedDecoder {
    next: Box<Script>,
    log: Log,
    embedded: Vec<(u32, [f32; HIDDEN])>,
    rows: Vec<f32>,
    /// Scores after each token of the last run.
    logits: Vec<Vec<f32>>,
    context: usize,
    longest_step: usize,
    chunk: usize,
    reserved: usize,
    doubt: Option<Doubt>,
    interrupted: Arc<Flag>,
}

/// What doubts depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// On what is in the cache, and on how it came there.
    Runs,
    /// On what is in the cache alone.
    Text,
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Interrupt for Flag {
    fn interrupt(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl ScriptedDecoder {
    pub(crate) fn new(next: impl FnMut(&[u32]) -> u32 + Send + 'static) -> Self {
        Self {
            next: Box::new(next),
            log: Log::default(),
            embedded: Vec::new(),
            rows: Vec::new(),
            logits: vec![vec![0.0; VOCABULARY]],
            context: 4096,
            longest_step: 1,
            chunk: 8,
            reserved: 0,
            doubt: None,
            interrupted: Arc::default(),
        }
    }

    /// Writes `text` after the prompt of `prompt` tokens and then ends.
    pub(crate) fn writing(prompt: usize, text: &str) -> Self {
        let bytes = text.as_bytes().to_vec();
        Self::new(move |ids| {
            bytes
                .get(ids.len().wrapping_sub(prompt))
                .map_or(END, |byte| token_of(*byte))
        })
    }

    pub(crate) fn with_context(mut self, tokens: usize) -> Self {
        self.context = tokens;
        self
    }

    /// Gives letters in either case a score around the same, which depends on what is in the cache and on how it came
    /// there, as last bits of sums do.
    pub(crate) fn doubtful(mut self) -> Self {
        self.doubt = Some(Doubt::Runs);
        self
    }

    /// The same, whatever way it came there.
    pub(crate) fn undecided(mut self) -> Self {
        self.doubt = Some(Doubt::Text);
        self
    }

    /// Scores up to so many tokens at once.
    pub(crate) fn with_longest_step(mut self, tokens: usize) -> Self {
        self.longest_step = tokens;
        self
    }

    /// Scores of what comes after `rows`.
    fn score(&mut self, rows: &[Row]) -> Vec<f32> {
        let ids: Vec<u32> = rows.iter().map(|row| row.id).collect();
        let mut logits = vec![0.0; VOCABULARY];
        logits[token_of(b'-') as usize] = 50.0;
        let next = (self.next)(&ids);
        logits[next as usize] = 100.0;
        let byte = text_of(&[next]).bytes().next().unwrap_or(0);
        if let Some(doubt) = self.doubt.filter(|_| byte.is_ascii_alphabetic()) {
            let mut hasher = DefaultHasher::new();
            let run = |row: &Row| if doubt == Doubt::Runs { row.run } else { 0 };
            rows.iter()
                .for_each(|row| (row.id, run(row), &row.position).hash(&mut hasher));
            let noise = (hasher.finish() % 1000) as f32 / 500.0 - 1.0;
            logits[token_of(byte ^ 0x20) as usize] = 100.0 + noise;
        }
        logits
    }

    /// Appends the tokens that were just embedded and scores the last `scored`.
    fn run(&mut self, count: usize, positions: &[i64], scored: usize) -> Result<()> {
        self.check()?;
        assert_eq!((self.embedded.len(), positions.len() % count), (count, 0));
        let axes = positions.len() / count;
        let rows = Arc::clone(&self.log.rows);
        let mut rows = rows.lock().unwrap();
        assert!(
            rows.len() + count <= self.reserved,
            "more tokens than were reserved"
        );
        for index in 0..count {
            rows.push(Row {
                id: self.embedded[index].0,
                embedding: [self.rows[index * HIDDEN], self.rows[index * HIDDEN + 1]],
                position: (0..axes).map(|axis| positions[axis * count + index]).collect(),
                run: count,
            });
        }
        self.log.runs.lock().unwrap().push(count);
        self.logits = (rows.len() - scored + 1..=rows.len())
            .map(|end| self.score(&rows[..end]))
            .collect();
        Ok(())
    }
    pub(crate) fn log(&self) -> Log {
        self.log.clone()
    }

    /// A session whose positions have three axes.
    pub(crate) fn session(self) -> Session {
        let folder = processor_folder();
        let context = SessionContext {
            tokenizer: Tokenizer::from_dir(folder.path()).unwrap(),
            positions: PositionBuilder::new(IMAGE, MERGE),
            eos_token_ids: vec![END],
            image_token_id: Some(IMAGE),
            spatial_merge_size: MERGE,
            provider: "Scripted".to_owned(),
        };
        Session::new(Box::new(self), context)
    }

    fn check(&self) -> Result<()> {
        if self.interrupted.0.load(Ordering::SeqCst) {
            return Err(Inner::Inference {
                graph: "scripted".into(),
                message: "interrupted".into(),
            }
            .into());
        }
        Ok(())
    }
}

impl Decoder for ScriptedDecoder {
    fn vocabulary(&self) -> usize {
        VOCABULARY
    }

    fn hidden_size(&self) -> usize {
        HIDDEN
    }

    fn context(&self) -> usize {
        self.context
    }

    fn chunk(&self) -> usize {
        self.chunk
    }

    fn reserve(&mut self, tokens: usize) -> Result<()> {
        self.reserved = self.reserved.max(tokens);
        Ok(())
    }

    fn length(&self) -> usize {
        self.log.rows.lock().unwrap().len()
    }

    fn truncate(&mut self, length: usize) {
        self.log.rows.lock().unwrap().truncate(length);
    }

    fn embed(&mut self, ids: &[u32]) -> Result<&mut [f32]> {
        assert!(ids.len() <= self.chunk);
        self.embedded = ids.iter().map(|id| (*id, [*id as f32; HIDDEN])).collect();
        self.rows = self.embedded.iter().flat_map(|(_, row)| *row).collect();
        Ok(&mut self.rows)
    }

    fn prefill(&mut self, count: usize, positions: &[i64]) -> Result<()> {
        self.run(count, positions, 1)
    }

    fn longest_step(&self) -> usize {
        self.longest_step
    }

    fn steps(&mut self, ids: &[u32], positions: &[i64]) -> Result<()> {
        assert!(ids.len() <= self.longest_step);
        self.embed(ids)?;
        self.run(ids.len(), positions, ids.len())
    }

    fn logits_after(&mut self, index: usize) -> &mut [f32] {
        &mut self.logits[index]
    }

    fn logits(&mut self) -> &mut [f32] {
        self.logits.last_mut().unwrap()
    }

    fn encode_image(&mut self, image: &Patches) -> Result<Vec<f32>> {
        self.check()?;
        self.log.encoded.lock().unwrap().push(image.grid);
        let tokens = image.grid.merged(MERGE);
        // Features tell the image, by its first value, and the row.
        Ok((0..tokens)
            .flat_map(|row| [image.values[0], row as f32])
            .collect())
    }

    fn interrupt_handle(&self) -> Arc<dyn Interrupt> {
        Arc::clone(&self.interrupted) as Arc<dyn Interrupt>
    }

    fn clear_interrupt(&mut self) -> Result<()> {
        self.interrupted.0.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn kv_bytes(&self) -> u64 {
        self.reserved as u64
    }
}

/// Answers requests for a main point with `points`, and for text with the same short sentences without end.
pub(crate) fn author(points: &'static [&'static str]) -> ScriptedDecoder {
    ScriptedDecoder::new(move |ids| {
        let text = text_of(ids);
        let answer = text.rsplit("assistant\n").next().unwrap_or("").to_owned();
        let next = match answer.rfind("Main Point:") {
            Some(at) => {
                let number = answer.matches("Main Point:").count() - 1;
                let line = format!(" {}\nmore", points[number % points.len()]);
                line.as_bytes()
                    .get(answer.len() - at - "Main Point:".len())
                    .copied()
            }
            None => {
                let section = answer.rsplit("\n\n").next().unwrap_or("");
                "One two three four five. ".bytes().cycle().nth(section.len())
            }
        };
        next.map_or(END, token_of)
    })
}

/// The token of a byte: its place in the byte alphabet of GPT-2, which begins with the printable bytes.
pub(crate) fn token_of(byte: u8) -> u32 {
    alphabet().iter().position(|(_, of)| *of == byte).unwrap() as u32
}

/// Tokens of a text, with a byte each.
pub(crate) fn tokens_of(text: &str) -> Vec<u32> {
    text.bytes().map(token_of).collect()
}

/// The text of tokens; control tokens are left out.
pub(crate) fn text_of(ids: &[u32]) -> String {
    String::from_utf8_lossy(&bytes_of(ids)).into_owned()
}

/// The bytes of tokens; control tokens are left out.
pub(crate) fn bytes_of(ids: &[u32]) -> Vec<u8> {
    let alphabet = alphabet();
    ids.iter()
        .filter_map(|id| alphabet.get(*id as usize))
        .map(|(_, byte)| *byte)
        .collect()
}

pub(crate) fn text_prompt(text: &str) -> Prompt {
    Prompt {
        input_ids: tokens_of(text),
        images: Vec::new(),
    }
}

/// An image of `height` × `width` patches whose features begin with `mark`.
pub(crate) fn image(mark: f32, height: usize, width: usize) -> Patches {
    let grid = Grid {
        t: 1,
        h: height,
        w: width,
    };
    Patches {
        grid,
        values: vec![mark; grid.patches()],
    }
}

/// Characters and bytes of the byte alphabet of GPT-2 in the order of the characters.
fn alphabet() -> Vec<(char, u8)> {
    let printable = |byte: &u8| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut alphabet: Vec<(char, u8)> = (0..=255)
        .filter(printable)
        .map(|byte| (char::from(byte), byte))
        .collect();
    let others = (0..=255).filter(|byte| !printable(byte));
    alphabet.extend(
        others
            .zip(0x100..)
            .filter_map(|(byte, code)| Some((char::from_u32(code)?, byte))),
    );
    alphabet.sort_unstable();
    alphabet
}

/// A folder with a tokenizer of one token per byte and a chat template.
pub(crate) fn processor_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let vocab: serde_json::Map<String, serde_json::Value> = alphabet()
        .iter()
        .enumerate()
        .map(|(id, (character, _))| (character.to_string(), id.into()))
        .collect();
    let added: Vec<serde_json::Value> = ["<|im_start|>", "<|im_end|>", "<|image_pad|>"]
        .iter()
        .zip(START..)
        .map(|(token, id)| {
            serde_json::json!({"id": id, "content": token, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let byte_level = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false,
        "use_regex": false});
    let tokenizer = serde_json::json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": []}});
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let write = |name: &str, text: String| std::fs::write(Path::join(folder.path(), name), text).unwrap();
    write("tokenizer.json", tokenizer.to_string());
    write("chat_template.jinja", template.to_owned());
    folder
}

/// A processor for text with one token per byte.
pub(crate) fn processor() -> Processor {
    Processor::from_dir(processor_folder().path()).unwrap()
}
