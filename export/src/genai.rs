//! What onnxruntime-genai wants to find in a folder. Names and traps were proved against its release 0.18; it refuses
//! keys that it does not know.

use lwv_model::{ModelConfig, VisionConfig, contract};
use lwv_processor::ImageProcessor;
use serde_json::{Value, json};

/// Name of the image processor's file: transformers 5 writes a differently shaped `processor_config.json`.
pub(crate) const PROCESSOR_FILE: &str = "genai_processor.json";

/// `search.max_length`: the shared cache of this client is allocated in full when a model is loaded.
const MAX_LENGTH: usize = 8192;

/// `genai_config.json` of a multimodal bundle; `None` where a token that images need is not known.
pub(crate) fn config(config: &ModelConfig, vision: &VisionConfig) -> Option<Value> {
    let text = &config.text;
    let eos = config.eos_token_ids.clone();
    let mut model = json!({
        "type": "qwen2_5_vl",
        "vocab_size": text.vocab_size,
        "context_length": text.max_position_embeddings,
        "eos_token_id": eos,
        "image_token_id": config.image_token_id?,
        "vision_start_token_id": config.vision_start_token_id?,
        "decoder": {
            "filename": contract::graph_file(contract::DECODER),
            "hidden_size": text.hidden_size,
            "head_size": text.head_dim,
            "num_attention_heads": text.num_attention_heads,
            "num_hidden_layers": text.num_hidden_layers,
            "num_key_value_heads": text.num_key_value_heads,
        },
        "embedding": {"filename": contract::graph_file(contract::EMBEDDING)},
        "vision": {
            "filename": contract::graph_file(contract::VISION_ENCODER),
            "config_filename": PROCESSOR_FILE,
            "spatial_merge_size": vision.spatial_merge_size,
            "patch_size": vision.patch_size,
            "inputs": {contract::IMAGE_GRID_THW: contract::IMAGE_GRID_THW},
        },
    });
    let optional = [
        ("bos_token_id", config.bos_token_id),
        ("pad_token_id", config.pad_token_id),
        ("video_token_id", config.video_token_id),
    ];
    for (key, value) in optional {
        if let Some(value) = value {
            model[key] = json!(value);
        }
    }
    let search = json!({
        "do_sample": false,
        "max_length": text.max_position_embeddings.min(MAX_LENGTH),
        "past_present_share_buffer": true,
    });
    Some(json!({"model": model, "search": search}))
}

/// The image processor as this client spells it.
pub(crate) fn processor(images: &ImageProcessor) -> Value {
    let operation = |name: &str, kind: &str, attributes: Value| {
        let mut operation = json!({"name": name, "type": kind});
        if attributes != json!({}) {
            operation["attrs"] = attributes;
        }
        json!({"operation": operation})
    };
    let resize = json!({
        "width": 540, "height": 360, "smart_resize": 1,
        "min_pixels": images.min_pixels, "max_pixels": images.max_pixels,
        "patch_size": images.patch_size, "merge_size": images.merge_size,
    });
    let normalize = json!({"mean": images.image_mean, "std": images.image_std, "qwen2_5_vl": 1});
    let patch = json!({
        "patch_size": images.patch_size, "temporal_patch_size": images.temporal_patch_size,
        "merge_size": images.merge_size,
    });
    json!({"processor": {"name": "qwen2_5_image_processor", "transforms": [
        operation("decode_image", "DecodeImage", json!({"color_space": "RGB"})),
        operation("convert_to_rgb", "ConvertRGB", json!({})),
        operation("resize", "Resize", resize),
        operation("rescale", "Rescale", json!({"rescale_factor": images.rescale_factor})),
        operation("normalize", "Normalize", normalize),
        operation("patch_image", "PatchImage", patch),
    ]}})
}
