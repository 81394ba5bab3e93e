//! The files beside the graphs, as onnxruntime-genai and transformers.js read them, without either of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lwv_model::{ModelConfig, Precision};
use lwv_tests::{Case, bundle, read_json};
use serde_json::{Value, json};

fn multimodal_bundles() -> Vec<(PathBuf, Case)> {
    let cases = Case::with_windows().into_iter();
    cases
        .map(|case| (bundle(&case.dir, Precision::Fp32), case))
        .collect()
}

fn assert_keys(value: &Value, keys: &[&str], place: &str) {
    for key in keys {
        assert!(!value[*key].is_null(), "{place} has no `{key}`: {value}");
    }
}

#[test]
fn config_is_nested_whatever_the_checkpoint_is() {
    let mut spellings = BTreeSet::new();
    for (bundle, case) in multimodal_bundles() {
        let place = format!("config.json of {}", case.name);
        let source = read_json(&case.dir.join("config.json"));
        spellings.insert(source.get("text_config").is_some());
        let config = read_json(&bundle.join("config.json"));
        assert_eq!(config["model_type"], "qwen2_5_vl", "{place}");
        assert_keys(&config, &["image_token_id", "vision_start_token_id"], &place);
        assert_keys(
            &config["vision_config"],
            &["spatial_merge_size", "patch_size", "window_size"],
            &place,
        );
        let text = &config["text_config"];
        assert_eq!(text["model_type"], "qwen2_5_vl_text", "{place}");
        let keys = [
            "num_hidden_layers",
            "hidden_size",
            "num_attention_heads",
            "num_key_value_heads",
        ];
        assert_keys(text, &keys, &place);
        assert_keys(
            text,
            &[
                "eos_token_id",
                "vocab_size",
                "rms_norm_eps",
                "max_position_embeddings",
            ],
            &place,
        );
        // The same model as before.
        let before = ModelConfig::from_dir(&case.dir).unwrap();
        assert_eq!(ModelConfig::from_dir(&bundle).unwrap(), before, "{place}");
    }
    assert_eq!(spellings.len(), 2, "one spelling of config.json has no case");
}

#[test]
fn preprocessor_config_leaves_nothing_to_defaults() {
    for (bundle, case) in multimodal_bundles() {
        let config = read_json(&bundle.join("preprocessor_config.json"));
        let place = format!("preprocessor_config.json of {}", case.name);
        let keys = [
            "do_resize",
            "do_rescale",
            "do_normalize",
            "do_convert_rgb",
            "resample",
            "rescale_factor",
        ];
        assert_keys(&config, &keys, &place);
        let keys = [
            "image_mean",
            "image_std",
            "patch_size",
            "temporal_patch_size",
            "merge_size",
        ];
        assert_keys(&config, &keys, &place);
        assert_keys(
            &config,
            &[
                "image_processor_type",
                "processor_class",
                "min_pixels",
                "max_pixels",
            ],
            &place,
        );
        let [ours, theirs] =
            [&bundle, &case.dir].map(|dir| lwv_processor::ImageProcessor::from_dir(dir).unwrap());
        assert_eq!(ours, theirs, "{place}");
    }
}

#[test]
fn side_files_of_tiles_say_what_the_checkpoint_says() {
    for case in Case::with_tiles() {
        let bundle = bundle(&case.dir, Precision::Fp32);
        assert_eq!(
            ModelConfig::from_dir(&bundle).unwrap(),
            case.config(),
            "{}",
            case.name
        );
        let [ours, theirs] = [&bundle, &case.dir].map(|dir| lwv_processor::Processor::from_dir(dir).unwrap());
        assert!(ours.tile_processor().is_some(), "{}", case.name);
        assert_eq!(ours.tile_processor(), theirs.tile_processor(), "{}", case.name);
        let length = |dir: &Path| read_json(&dir.join("processor_config.json"))["image_seq_len"].clone();
        assert_eq!(length(&bundle), length(&case.dir), "{}", case.name);
        assert!(!bundle.join("genai_config.json").exists());
    }
}

#[test]
fn chat_template_stands_inline() {
    for case in Case::all() {
        let bundle = bundle(&case.dir, Precision::Fp32);
        let config = read_json(&bundle.join("tokenizer_config.json"));
        let template = config["chat_template"].as_str().unwrap();
        let own = std::fs::read_to_string(case.dir.join("chat_template.jinja")).unwrap();
        assert_eq!(template, own, "{}", case.name);
        assert_eq!(
            std::fs::read_to_string(bundle.join("chat_template.jinja")).unwrap(),
            own
        );
        assert_keys(&config, &["tokenizer_class"], &case.name);
        let tokenizer = |dir: &Path| std::fs::read(dir.join("tokenizer.json")).unwrap();
        assert_eq!(tokenizer(&bundle), tokenizer(&case.dir), "{}", case.name);
    }
}

/// Keys of `genai_config.json` by place; onnxruntime-genai refuses a file with another.
const GENAI_KEYS: [(&str, &[&str]); 7] = [
    ("", &["model", "search"]),
    (
        "/model",
        &[
            "type",
            "vocab_size",
            "context_length",
            "eos_token_id",
            "image_token_id",
            "vision_start_token_id",
            "bos_token_id",
            "pad_token_id",
            "video_token_id",
            "decoder",
            "embedding",
            "vision",
        ],
    ),
    (
        "/model/decoder",
        &[
            "filename",
            "hidden_size",
            "head_size",
            "num_attention_heads",
            "num_hidden_layers",
            "num_key_value_heads",
            "session_options",
        ],
    ),
    ("/model/embedding", &["filename"]),
    (
        "/model/vision",
        &[
            "filename",
            "config_filename",
            "spatial_merge_size",
            "tokens_per_second",
            "patch_size",
            "inputs",
        ],
    ),
    ("/model/vision/inputs", &["image_grid_thw"]),
    (
        "/search",
        &["do_sample", "max_length", "past_present_share_buffer"],
    ),
];

#[test]
fn genai_config_has_what_is_needed_and_nothing_unknown() {
    for (bundle, case) in multimodal_bundles() {
        let config = read_json(&bundle.join("genai_config.json"));
        for (place, known) in GENAI_KEYS {
            let object = config.pointer(place).unwrap().as_object().unwrap();
            let unknown: Vec<&String> = object
                .keys()
                .filter(|key| !known.contains(&key.as_str()))
                .collect();
            assert!(unknown.is_empty(), "{} `{place}`: {unknown:?}", case.name);
        }
        let source = ModelConfig::from_dir(&case.dir).unwrap();
        let model = &config["model"];
        let needed = [
            ("type", json!("qwen2_5_vl")),
            ("vocab_size", json!(source.text.vocab_size)),
            ("context_length", json!(source.text.max_position_embeddings)),
            ("eos_token_id", json!(source.eos_token_ids)),
            ("image_token_id", json!(source.image_token_id)),
            ("vision_start_token_id", json!(source.vision_start_token_id)),
        ];
        for (key, value) in needed {
            assert_eq!(model[key], value, "{} {key}", case.name);
        }
        assert_eq!(model["decoder"]["hidden_size"], json!(source.text.hidden_size));
        assert_eq!(model["vision"]["inputs"]["image_grid_thw"], "image_grid_thw");
        for part in ["decoder", "embedding", "vision"] {
            let file = model[part]["filename"].as_str().unwrap();
            assert!(bundle.join(file).is_file(), "{file}");
        }
        // The shared cache is allocated in full.
        assert!(config["search"]["max_length"].as_u64().unwrap() <= 8192);
    }
}

#[test]
fn genai_processor_has_its_operators_and_its_own_name() {
    for (bundle, case) in multimodal_bundles() {
        // transformers 5 writes a file of this name, of another shape.
        assert!(!bundle.join("processor_config.json").exists(), "{}", case.name);
        let name = read_json(&bundle.join("genai_config.json"))["model"]["vision"]["config_filename"].clone();
        let config = read_json(&bundle.join(name.as_str().unwrap()));
        let transforms = config["processor"]["transforms"].as_array().unwrap();
        let kinds: Vec<&str> = transforms
            .iter()
            .map(|transform| transform["operation"]["type"].as_str().unwrap())
            .collect();
        assert_eq!(
            kinds,
            [
                "DecodeImage",
                "ConvertRGB",
                "Resize",
                "Rescale",
                "Normalize",
                "PatchImage"
            ]
        );
        let attributes = |index: usize| &transforms[index]["operation"]["attrs"];
        let source = lwv_processor::ImageProcessor::from_dir(&case.dir).unwrap();
        assert_eq!(attributes(0)["color_space"], "RGB");
        assert_eq!(attributes(2)["smart_resize"], 1);
        assert_eq!(attributes(2)["min_pixels"], json!(source.min_pixels));
        assert_eq!(attributes(2)["max_pixels"], json!(source.max_pixels));
        assert_eq!(attributes(3)["rescale_factor"], json!(source.rescale_factor));
        assert_eq!(attributes(4)["qwen2_5_vl"], 1);
        assert_eq!(attributes(4)["mean"], json!(source.image_mean));
        assert_eq!(attributes(4)["std"], json!(source.image_std));
        assert_eq!(
            attributes(5),
            &json!({"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2})
        );
    }
}
