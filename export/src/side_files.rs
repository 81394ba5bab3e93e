//! The files beside the graphs: configuration, tokenizer, template and image settings, in the spellings that this
//! project's runtime, onnxruntime-genai and transformers.js read.

use std::collections::BTreeMap;
use std::path::Path;

use lwv_model::{FileEntry, ModelConfig, Target, Vision};
use lwv_processor::{ImageProcessor, Processor, TileProcessor};
use serde_json::{Map, Value, json};

use crate::{Error, genai};

/// Copied as they are where the checkpoint has them.
const COPIED: &[&str] = &[
    "tokenizer.json",
    "generation_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
];

/// Keys of a flat configuration that stay at the top when the rest moves into `text_config`.
const TOP_LEVEL: &[&str] = &[
    "architectures",
    "model_type",
    "vision_config",
    "image_token_id",
    "video_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
    "vision_token_id",
    "tie_word_embeddings",
    "torch_dtype",
    "dtype",
    "transformers_version",
];

/// Writes all side files of `checkpoint` into `bundle` and returns their sizes and digests.
///
/// `data_files` are the external-data files by graph, which browsers must be told of.
pub(crate) fn write(
    checkpoint: &Path,
    bundle: &Path,
    config: &ModelConfig,
    processor: &Processor,
    target: Target,
    data_files: &[&str],
) -> Result<BTreeMap<String, FileEntry>, Error> {
    let mut files = Files {
        bundle,
        written: BTreeMap::new(),
    };
    for name in COPIED {
        if checkpoint.join(name).exists() {
            files.copy(checkpoint, name)?;
        }
    }
    files.json(
        "config.json",
        &nested_config(&read_json(&checkpoint.join("config.json"))?, config, data_files),
    )?;
    let template = chat_template(checkpoint)?;
    files.json(
        "tokenizer_config.json",
        &tokenizer_config(checkpoint, template.as_deref())?,
    )?;
    if let Some(template) = &template {
        files.bytes("chat_template.jinja", template.as_bytes())?;
    }
    if let (Some(tiles), Some(Vision::Tiles(vision))) = (processor.tile_processor(), &config.vision) {
        files.json("preprocessor_config.json", &tile_processor_config(tiles))?;
        files.json(
            "processor_config.json",
            &json!({"image_seq_len": vision.tokens(), "processor_class": "Idefics3Processor"}),
        )?;
    }
    if let (Some(images), Some(Vision::Windows(vision))) = (processor.image_processor(), &config.vision) {
        files.json("preprocessor_config.json", &preprocessor_config(images))?;
        if let Some(genai_config) = genai::config(config, vision).filter(|_| target == Target::Ort) {
            files.json("genai_config.json", &genai_config)?;
            files.json(genai::PROCESSOR_FILE, &genai::processor(images))?;
        }
    }
    Ok(files.written)
}

/// Reads a JSON file.
pub(crate) fn read_json(path: &Path) -> Result<Value, Error> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    serde_json::from_str(&text).map_err(|e| Error::Json {
        path: path.to_owned(),
        message: e.to_string(),
    })
}

/// JSON as the bundle's files have it.
pub(crate) fn pretty(value: &impl serde::Serialize) -> Result<Vec<u8>, Error> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|e| Error::Json {
        path: "bundle".into(),
        message: e.to_string(),
    })?;
    bytes.push(b'\n');
    Ok(bytes)
}

struct Files<'a> {
    bundle: &'a Path,
    written: BTreeMap<String, FileEntry>,
}

impl Files<'_> {
    fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let digest = lwv_onnx::write_atomically(self.bundle.join(name), bytes)?;
        self.written.insert(
            name.to_owned(),
            FileEntry {
                bytes: digest.bytes,
                sha256: digest.sha256,
            },
        );
        Ok(())
    }

    fn json(&mut self, name: &str, value: &Value) -> Result<(), Error> {
        self.bytes(name, &pretty(value)?)
    }

    fn copy(&mut self, from: &Path, name: &str) -> Result<(), Error> {
        let source = from.join(name);
        let bytes = std::fs::read(&source).map_err(Error::io("read", &source))?;
        self.bytes(name, &bytes)
    }
}

/// The configuration with its text fields in `text_config`, which transformers.js needs, whatever the checkpoint's
/// spelling is.
fn nested_config(source: &Value, config: &ModelConfig, data_files: &[&str]) -> Value {
    let mut top: Map<String, Value> = source.as_object().cloned().unwrap_or_default();
    if config.vision.is_some() && !top.contains_key("text_config") {
        let moved: Vec<String> = top
            .keys()
            .filter(|key| !TOP_LEVEL.contains(&key.as_str()))
            .cloned()
            .collect();
        let text: Map<String, Value> = moved
            .into_iter()
            .filter_map(|key| top.remove_entry(&key))
            .collect();
        top.insert("text_config".into(), Value::Object(text));
    }
    match config.vision.as_ref() {
        Some(Vision::Windows(vision)) => complete_multimodal(&mut top, config, vision.spatial_merge_size),
        Some(Vision::Tiles(vision)) => complete_tiles(&mut top, config, vision.scale_factor),
        None => {}
    }
    let external: Map<String, Value> = data_files
        .iter()
        .map(|graph| (format!("{graph}.onnx"), json!(1)))
        .collect();
    top.insert(
        "transformers.js_config".into(),
        json!({"use_external_data_format": external}),
    );
    Value::Object(top)
}

/// Fills in what transformers leaves to defaults and other readers miss without a word.
fn complete_multimodal(top: &mut Map<String, Value>, config: &ModelConfig, merge: usize) {
    top.insert(
        "tie_word_embeddings".into(),
        json!(config.text.tie_word_embeddings),
    );
    let media = [
        ("image_token_id", config.image_token_id),
        ("video_token_id", config.video_token_id),
        ("vision_start_token_id", config.vision_start_token_id),
        ("vision_end_token_id", config.vision_end_token_id),
    ];
    for (key, id) in media {
        top.entry(key).or_insert_with(|| json!(id));
    }
    if let Some(vision) = top.get_mut("vision_config").and_then(Value::as_object_mut) {
        vision.entry("spatial_merge_size").or_insert_with(|| json!(merge));
    }
    if let Some(text) = top.get_mut("text_config").and_then(Value::as_object_mut) {
        text.insert("model_type".into(), json!("qwen2_5_vl_text"));
        text.entry("eos_token_id")
            .or_insert_with(|| json!(config.eos_token_ids));
    }
}

/// The same of Idefics3 and SmolVLM.
fn complete_tiles(top: &mut Map<String, Value>, config: &ModelConfig, scale_factor: usize) {
    let fields = [
        ("tie_word_embeddings", json!(config.text.tie_word_embeddings)),
        ("image_token_id", json!(config.image_token_id)),
        ("scale_factor", json!(scale_factor)),
    ];
    for (key, value) in fields {
        top.insert(key.into(), value);
    }
}

/// The template's source: its own file if there is one, else the tokenizer configuration's.
fn chat_template(checkpoint: &Path) -> Result<Option<String>, Error> {
    let own = checkpoint.join("chat_template.jinja");
    if own.exists() {
        return std::fs::read_to_string(&own)
            .map(Some)
            .map_err(Error::io("read", own));
    }
    let legacy = checkpoint.join("chat_template.json");
    if legacy.exists() {
        return Ok(template_in(&read_json(&legacy)?));
    }
    let inline = checkpoint.join("tokenizer_config.json");
    if inline.exists() {
        Ok(template_in(&read_json(&inline)?))
    } else {
        Ok(None)
    }
}

fn template_in(config: &Value) -> Option<String> {
    match config.get("chat_template")? {
        Value::String(template) => Some(template.clone()),
        Value::Array(named) => {
            let default = named.iter().find(|entry| entry["name"] == "default")?;
            Some(default.get("template")?.as_str()?.to_owned())
        }
        _ => None,
    }
}

/// The tokenizer's configuration with the template inline: transformers.js reads it nowhere else.
fn tokenizer_config(checkpoint: &Path, template: Option<&str>) -> Result<Value, Error> {
    let path = checkpoint.join("tokenizer_config.json");
    let mut config = if path.exists() {
        read_json(&path)?
    } else {
        json!({"tokenizer_class": "PreTrainedTokenizerFast"})
    };
    if let Some(template) = template {
        config["chat_template"] = json!(template);
    }
    Ok(config)
}

/// Every key that some reader falls back to other values without.
fn preprocessor_config(images: &ImageProcessor) -> Value {
    json!({
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "do_convert_rgb": true,
        "do_resize": images.do_resize,
        "do_rescale": images.do_rescale,
        "do_normalize": images.do_normalize,
        "resample": images.resample.number(),
        "rescale_factor": images.rescale_factor,
        "image_mean": images.image_mean,
        "image_std": images.image_std,
        "patch_size": images.patch_size,
        "temporal_patch_size": images.temporal_patch_size,
        "merge_size": images.merge_size,
        "min_pixels": images.min_pixels,
        "max_pixels": images.max_pixels,
        "size": {"shortest_edge": images.min_pixels, "longest_edge": images.max_pixels},
    })
}

/// As [`preprocessor_config`] of a processor that splits pictures into tiles.
fn tile_processor_config(tiles: &TileProcessor) -> Value {
    let patches = &tiles.patches;
    json!({
        "image_processor_type": "Idefics3ImageProcessor",
        "processor_class": "Idefics3Processor",
        "do_convert_rgb": true,
        "do_image_splitting": tiles.do_image_splitting,
        "do_pad": true,
        "do_resize": tiles.do_resize,
        "do_rescale": patches.do_rescale,
        "do_normalize": patches.do_normalize,
        "resample": patches.resample.number(),
        "rescale_factor": patches.rescale_factor,
        "image_mean": patches.image_mean,
        "image_std": patches.image_std,
        "max_image_size": {"longest_edge": tiles.tile_size},
        "size": {"longest_edge": tiles.longest_edge},
    })
}
