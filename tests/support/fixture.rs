use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lwv_model::{Checkpoint, ModelConfig, Vision};
use lwv_processor::{Content, Grid, Message, Processor, Prompt, RgbImage, open_image};
use serde::Deserialize;
use serde_json::Value;

use crate::folder::read_json;

/// `tests/fixtures`; its README says what is in it.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// A tiny checkpoint and what transformers makes of it.
pub struct Case {
    /// Its folder's name.
    pub name: String,
    /// The checkpoint.
    pub dir: PathBuf,
    /// Whether it reads images.
    pub has_vision: bool,
    /// By name.
    pub prompts: BTreeMap<String, ExpectedPrompt>,
    tensors: Checkpoint,
}

/// A prompt, and what transformers makes of it.
#[derive(Debug, Deserialize)]
pub struct ExpectedPrompt {
    /// The conversation; null where the prompt is a bare text.
    #[serde(default)]
    pub messages: Value,
    /// Files below `tests/fixtures`.
    #[serde(default)]
    pub images: Vec<String>,
    /// The rendered conversation.
    pub text: String,
    /// Its tokens, image tokens repeated.
    pub input_ids: Vec<u32>,
    /// Frames, rows and columns of patches of each image, or of each tile.
    #[serde(default)]
    pub image_grid_thw: Vec<[usize; 3]>,
    /// Rows and columns of tiles that each image was split into, zeros where it was not.
    #[serde(default)]
    pub splits: Vec<[usize; 2]>,
    /// One row an axis.
    #[serde(default)]
    pub position_ids: Vec<Vec<i64>>,
    /// Position of generated token k, less the number of tokens before it.
    #[serde(default)]
    pub rope_delta: i64,
    /// Merged squares in window order.
    #[serde(default)]
    pub window_index: Vec<i64>,
    /// Ends of windows.
    #[serde(default)]
    pub cu_window_seqlens: Vec<i32>,
    /// Ends of frames.
    #[serde(default)]
    pub cu_seqlens: Vec<i32>,
    /// The tokens that follow.
    pub greedy_ids: Vec<u32>,
    /// Their text.
    pub greedy_text: String,
}

#[derive(Deserialize)]
struct Expected {
    prompts: BTreeMap<String, ExpectedPrompt>,
}

impl Case {
    /// The case in `tests/fixtures/tiny/<name>`.
    pub fn load(name: &str) -> Self {
        let dir = fixtures().join("tiny").join(name);
        let expected: Expected = serde_json::from_value(read_json(&dir.join("expected.json"))).unwrap();
        Self {
            name: name.to_owned(),
            has_vision: read_json(&dir.join("config.json")).get("vision_config").is_some(),
            prompts: expected.prompts,
            tensors: Checkpoint::open_file(&dir.join("expected.safetensors")).unwrap(),
            dir,
        }
    }

    /// Every case there is, by name.
    pub fn all() -> Vec<Self> {
        let mut names: Vec<String> = std::fs::read_dir(fixtures().join("tiny"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let cases: Vec<Self> = names.iter().map(|name| Self::load(name)).collect();
        // Lest a test over all cases passes because there are none.
        let with_vision = cases.iter().filter(|case| case.has_vision).count();
        assert!(
            with_vision >= 8 && cases.len() - with_vision >= 2,
            "cases are missing: {names:?}"
        );
        cases
    }

    /// The cases that read images.
    pub fn with_vision() -> Vec<Self> {
        Self::all().into_iter().filter(|case| case.has_vision).collect()
    }

    /// The cases that read images of any size.
    pub fn with_windows() -> Vec<Self> {
        let is_windowed = |case: &Self| matches!(case.config().vision, Some(Vision::Windows(_)));
        Self::all().into_iter().filter(is_windowed).collect()
    }

    /// The cases that read images in tiles.
    pub fn with_tiles() -> Vec<Self> {
        let is_tiled = |case: &Self| matches!(case.config().vision, Some(Vision::Tiles(_)));
        let cases: Vec<Self> = Self::all().into_iter().filter(is_tiled).collect();
        assert_eq!(cases.len(), 2, "cases with tiles");
        cases
    }

    /// The checkpoint's configuration.
    pub fn config(&self) -> ModelConfig {
        ModelConfig::from_dir(&self.dir).unwrap()
    }

    /// Recorded values, such as `one_image.step_logits`, and their shape.
    pub fn tensor(&self, key: &str) -> Option<(Vec<f32>, Vec<usize>)> {
        let info = self.tensors.info(key).ok()?;
        Some((self.tensors.to_f32(&info).unwrap(), info.shape))
    }

    /// Recorded values as rows.
    pub fn rows(&self, key: &str) -> Option<Vec<Vec<f32>>> {
        let (values, shape) = self.tensor(key)?;
        Some(
            values
                .chunks_exact(*shape.last().unwrap())
                .map(<[f32]>::to_vec)
                .collect(),
        )
    }

    /// The processor of the checkpoint's folder.
    pub fn processor(&self) -> Processor {
        Processor::from_dir(&self.dir).unwrap()
    }
}

impl ExpectedPrompt {
    /// The pictures, decoded.
    pub fn pictures(&self) -> Vec<RgbImage> {
        let open = |name: &String| open_image(&fixtures().join(name)).unwrap();
        self.images.iter().map(open).collect()
    }

    /// The prompt as `processor` makes it of the conversation, or of the text where there is none.
    pub fn prompt(&self, processor: &Processor) -> Prompt {
        let pictures = self.pictures();
        match &self.messages {
            Value::Null => processor.raw_prompt(&self.text, &pictures),
            conversation => processor.prompt(&messages(conversation), &pictures),
        }
        .unwrap()
    }

    /// The grids of its images.
    pub fn grids(&self) -> Vec<Grid> {
        self.image_grid_thw
            .iter()
            .map(|&[t, h, w]| Grid { t, h, w })
            .collect()
    }
}

/// A conversation as transformers writes it. A part of another kind than text is a picture here.
pub fn messages(conversation: &Value) -> Vec<Message> {
    let part = |part: &Value| match part["text"].as_str() {
        Some(text) => Content::Text(text.to_owned()),
        None => Content::Image,
    };
    let message = |message: &Value| {
        let role = message["role"].as_str().unwrap();
        match &message["content"] {
            Value::String(text) => Message::text(role, text),
            parts => Message {
                role: role.to_owned(),
                content: parts.as_array().unwrap().iter().map(part).collect(),
            },
        }
    };
    conversation.as_array().unwrap().iter().map(message).collect()
}

/// All tensors of a safetensors file.
pub fn vectors(file: &Path) -> BTreeMap<String, Vec<f32>> {
    let tensors = Checkpoint::open_file(file).unwrap();
    let read = |name: &str| {
        let info = tensors.info(name).unwrap();
        (name.to_owned(), tensors.to_f32(&info).unwrap())
    };
    tensors.names().map(read).collect()
}
