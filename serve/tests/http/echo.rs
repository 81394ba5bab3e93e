use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lwv_processor::{Patches, PositionBuilder, Processor, Tokenizer};
use lwv_runtime::{Decoder, Interrupt, Result, Session, SessionContext};
use lwv_serve::Model;

const END: u32 = 330;
const IMAGE: u32 = 334;
const VOCABULARY: usize = 336;
const MERGE: usize = 2;

/// A decoder that says what the last user said, through the tokenizer, template and image processor of a tiny checkpoint.
struct Echo {
    user: Vec<u32>,
    assistant: Vec<u32>,
    ids: Vec<u32>,
    embedded: Vec<u32>,
    rows: Vec<f32>,
    logits: Vec<f32>,
    seen: Seen,
}

/// What an [`Echo`] does, shared with the test.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    /// Time that each token takes.
    pub(crate) pace: Duration,
    pub(crate) encoded_images: Arc<AtomicUsize>,
    pub(crate) interrupted: Arc<Interrupted>,
}

#[derive(Default)]
pub(crate) struct Interrupted {
    now: AtomicBool,
    /// When it was last.
    pub(crate) at: Mutex<Option<Instant>>,
}

impl Interrupt for Interrupted {
    fn interrupt(&self) {
        self.now.store(true, Ordering::SeqCst);
        *self.at.lock().unwrap() = Some(Instant::now());
    }
}

/// A model of that name whose sessions echo.
pub(crate) fn model(seen: Seen) -> Model {
    let processor = Processor::from_dir(&checkpoint()).unwrap();
    let tokenizer = processor.tokenizer().clone();
    Model::new("echo", processor, move || Ok(session(&tokenizer, seen.clone()))).unwrap()
}

fn checkpoint() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny/nested_f32")
}

fn session(tokenizer: &Tokenizer, seen: Seen) -> Session {
    let context = SessionContext {
        tokenizer: tokenizer.clone(),
        positions: PositionBuilder::new(IMAGE, MERGE),
        eos_token_ids: vec![END],
        image_token_id: Some(IMAGE),
        spatial_merge_size: MERGE,
        provider: "Echo".to_owned(),
    };
    let header = |role: &str| tokenizer.encode(&format!("<|im_start|>{role}\n"), false).unwrap();
    let echo = Echo {
        user: header("user"),
        assistant: header("assistant"),
        ids: Vec::new(),
        embedded: Vec::new(),
        rows: Vec::new(),
        logits: vec![0.0; VOCABULARY],
        seen,
    };
    Session::new(Box::new(echo), context)
}

impl Echo {
    /// The token that comes next: the end, before an assistant has been asked to speak.
    fn next(&self) -> u32 {
        let after = |header: &[u32]| {
            let found = self.ids.windows(header.len()).rposition(|ids| ids == header);
            found.map(|at| at + header.len())
        };
        let (Some(said), Some(answer)) = (after(&self.user), after(&self.assistant)) else {
            return END;
        };
        let mut said = self.ids[said..]
            .iter()
            .take_while(|id| **id != END)
            .filter(|id| **id < END);
        said.nth(self.ids.len() - answer).copied().unwrap_or(END)
    }

    /// Takes the time of a token, or less where it is interrupted.
    fn compute(&self) -> Result<()> {
        let begin = Instant::now();
        loop {
            if self.seen.interrupted.now.load(Ordering::SeqCst) {
                let interrupted = lwv_processor::Error::EmptyImage {
                    name: "interrupted".to_owned(),
                };
                return Err(interrupted.into());
            }
            if begin.elapsed() >= self.seen.pace {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Decoder for Echo {
    fn vocabulary(&self) -> usize {
        VOCABULARY
    }

    fn hidden_size(&self) -> usize {
        1
    }

    fn context(&self) -> usize {
        512
    }

    fn chunk(&self) -> usize {
        64
    }

    fn reserve(&mut self, _: usize) -> Result<()> {
        Ok(())
    }

    fn length(&self) -> usize {
        self.ids.len()
    }

    fn truncate(&mut self, length: usize) {
        self.ids.truncate(length);
    }

    fn embed(&mut self, ids: &[u32]) -> Result<&mut [f32]> {
        self.embedded = ids.to_vec();
        self.rows = vec![0.0; ids.len()];
        Ok(&mut self.rows)
    }

    fn prefill(&mut self, _: usize, _: &[i64]) -> Result<()> {
        self.compute()?;
        self.ids.append(&mut self.embedded);
        self.logits.fill(0.0);
        let next = self.next() as usize;
        self.logits[next] = 100.0;
        Ok(())
    }

    fn logits(&mut self) -> &mut [f32] {
        &mut self.logits
    }

    fn encode_image(&mut self, image: &Patches) -> Result<Vec<f32>> {
        self.seen.encoded_images.fetch_add(1, Ordering::SeqCst);
        Ok(vec![1.0; image.grid.merged(MERGE)])
    }

    fn interrupt_handle(&self) -> Arc<dyn Interrupt> {
        Arc::clone(&self.seen.interrupted) as Arc<dyn Interrupt>
    }

    fn clear_interrupt(&mut self) -> Result<()> {
        self.seen.interrupted.now.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn kv_bytes(&self) -> u64 {
        0
    }
}
