use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use lwv_model::ModelConfig;
use lwv_processor::{PositionBuilder, Prompt};
use lwv_runtime::{Decoder, Device, Engine};
use ort::environment::Environment;
use ort::session::Session;

use crate::difference::cosine;
use crate::fixture::{Case, ExpectedPrompt};
use crate::folder::workspace;

/// ONNX Runtime's shared library. A test that needs it and does not find it fails: none is left out unseen.
pub fn library() -> PathBuf {
    let named = ["LWV_ONNXRUNTIME", "ORT_DYLIB_PATH"].map(std::env::var_os);
    let path = named
        .into_iter()
        .flatten()
        .find(|value| !value.is_empty())
        .map_or_else(
            || workspace().join(".cache/onnxruntime/libonnxruntime.so"),
            PathBuf::from,
        );
    assert!(
        path.exists(),
        "`{}`: ONNX Runtime is not there; run scripts/check, which fetches it, or set ORT_DYLIB_PATH",
        path.display()
    );
    path
}

/// The runtime on a bundle.
pub fn engine(bundle: &Path, prefill_chunk: usize) -> Engine {
    Engine::builder(bundle)
        .device(Device::Cpu)
        .threads(1)
        .prefill_chunk(prefill_chunk)
        .library(library())
        .build()
        .unwrap_or_else(|e| panic!("{}: {e}", bundle.display()))
}

/// A graph of a bundle, loaded without the runtime. Not to be used in a process that uses [`engine`] too: ONNX
/// Runtime has one environment a process.
pub fn graph(bundle: &Path, name: &str) -> Session {
    session(&bundle.join("onnx").join(format!("{name}.onnx")))
}

/// A graph's file, loaded without the runtime.
pub fn session(file: &Path) -> Session {
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    let environment = ENVIRONMENT.get_or_init(|| ort::init_from(library()).unwrap().build().unwrap());
    environment.set_log_level(ort::logging::LogLevel::Fatal);
    Session::builder(environment)
        .unwrap()
        .with_intra_threads(1)
        .unwrap()
        .commit_from_file(file)
        .unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// A text on the runtime's bare decoder: what [`lwv_train::Network`] is for candle.
pub struct OrtText {
    decoder: Box<dyn Decoder>,
    positions: PositionBuilder,
    image_token_id: Option<u32>,
}

impl OrtText {
    /// An empty text with room for `tokens`.
    pub fn new(engine: &Engine, tokens: usize) -> Self {
        let mut decoder = engine.decoder().unwrap();
        decoder.reserve(tokens).unwrap();
        let config: &ModelConfig = engine.bundle().config();
        let positions = PositionBuilder::of(config);
        let image_token_id = config.vision.as_ref().and(config.image_token_id);
        Self {
            decoder,
            positions,
            image_token_id,
        }
    }

    /// Features of the prompt's images, all rows.
    pub fn features(&mut self, prompt: &Prompt) -> Vec<f32> {
        let encode = |image| self.decoder.encode_image(image).unwrap();
        prompt.images.iter().flat_map(encode).collect()
    }

    /// Appends a prompt, chunk by chunk, telling `watch` the embeddings and the last logits of each chunk.
    pub fn extend(&mut self, prompt: &Prompt, mut watch: impl FnMut(&[f32], &[f32])) {
        let ids = &prompt.input_ids;
        let grids: Vec<_> = prompt.images.iter().map(|image| image.grid).collect();
        let axes = self.positions.axes();
        let positions = self.positions.extend(ids, &grids).unwrap();
        let features = self.features(prompt);
        let width = self.decoder.hidden_size();
        let mut rows = features.chunks_exact(width);
        for start in (0..ids.len()).step_by(self.decoder.chunk()) {
            let end = ids.len().min(start + self.decoder.chunk());
            let embeds = self.decoder.embed(&ids[start..end]).unwrap();
            for (id, embed) in ids[start..end].iter().zip(embeds.chunks_exact_mut(width)) {
                if Some(*id) == self.image_token_id {
                    embed.copy_from_slice(rows.next().unwrap());
                }
            }
            let embeds = embeds.to_vec();
            let chunk: Vec<i64> = (0..axes)
                .flat_map(|axis| positions[axis * ids.len()..][start..end].iter().copied())
                .collect();
            self.decoder.prefill(end - start, &chunk).unwrap();
            watch(&embeds, self.decoder.logits());
        }
        assert!(rows.next().is_none(), "image features were left over");
    }

    /// Appends one generated token.
    pub fn step(&mut self, id: u32) {
        let positions = self.positions.extend_text(1);
        self.decoder.step(id, &positions).unwrap();
    }

    /// Appends tokens together, takes all but the first `kept` back, and returns the scores after each of them.
    pub fn steps(&mut self, ids: &[u32], kept: usize) -> Vec<Vec<f32>> {
        let length = self.decoder.length();
        let positions = self.positions.clone().extend_text(ids.len());
        self.decoder.steps(ids, &positions).unwrap();
        let row = |index| self.decoder.logits_after(index).to_vec();
        let rows = (0..ids.len()).map(row).collect();
        self.decoder.truncate(length + kept);
        self.positions.extend_text(kept);
        rows
    }

    /// Scores of the next token.
    pub fn logits(&mut self) -> Vec<f32> {
        self.decoder.logits().to_vec()
    }
}

/// Least cosine of logits with transformers', over all prompts of a case.
pub fn least_cosine(case: &Case, bundle: &Path) -> f64 {
    let engine = engine(bundle, lwv_runtime::DEFAULT_PREFILL_CHUNK);
    let of_prompt = |(name, expected): (&String, &ExpectedPrompt)| {
        let (recorded, shape) = case.tensor(&format!("{name}.prompt_logits"))?;
        let prompt = expected.prompt(engine.processor());
        let mut text = OrtText::new(&engine, prompt.input_ids.len());
        text.extend(&prompt, |_, _| ());
        let vocabulary = *shape.last().unwrap();
        let last = &recorded[recorded.len() - vocabulary..];
        Some(cosine(last, &text.logits()))
    };
    let cosines: Vec<f64> = case.prompts.iter().filter_map(of_prompt).collect();
    assert!(!cosines.is_empty(), "{}: no prompt has logits", case.name);
    cosines.into_iter().fold(1.0, f64::min)
}

/// Mean cosine of logits with transformers', over every position of all prompts of a case: of one position, what small integers leave
/// is chance.
pub fn mean_cosine(case: &Case, bundle: &Path) -> f64 {
    // A bundle gives the last position's logits only.
    let engine = engine(bundle, 1);
    let mut cosines = Vec::new();
    for (name, expected) in &case.prompts {
        let Some(rows) = case.rows(&format!("{name}.prompt_logits")) else {
            continue;
        };
        let prompt = expected.prompt(engine.processor());
        let mut rows = rows.iter();
        OrtText::new(&engine, prompt.input_ids.len())
            .extend(&prompt, |_, got| cosines.push(cosine(rows.next().unwrap(), got)));
        assert!(rows.next().is_none(), "{name}: logits were left over");
    }
    assert!(!cosines.is_empty(), "{}: no prompt has logits", case.name);
    cosines.iter().sum::<f64>() / cosines.len() as f64
}
