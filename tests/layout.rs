//! The folder's layout, as onnxruntime-genai and transformers.js need it, without either of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lwv_model::{ModelConfig, Precision};
use lwv_tests::{Border, Case, OnnxFile, bundle, read_json};
use serde_json::{Value, json};

/// Element types, as the format numbers them.
const F32: i32 = 1;
const I64: i32 = 7;
const F16: i32 = 10;

const MULTIMODAL_GRAPHS: [&str; 4] = [
    "decoder_model_merged",
    "embed_tokens",
    "embedding",
    "vision_encoder",
];
const TEXT_GRAPHS: [&str; 2] = ["decoder_model_merged", "embed_tokens"];

fn border(name: &str, element: i32, dims: &[&str]) -> Border {
    Border {
        name: name.to_owned(),
        element,
        dims: dims.iter().map(|dim| (*dim).to_owned()).collect(),
    }
}

/// Runs `check` on the bundle of every case in both precisions; `element` is that of the cache.
fn on_bundles(cases: Vec<Case>, check: impl Fn(&Path, &ModelConfig, i32)) {
    for case in cases {
        let config = ModelConfig::from_dir(&case.dir).unwrap();
        for (precision, element) in [(Precision::Fp32, F32), (Precision::Fp16, F16)] {
            check(&bundle(&case.dir, precision), &config, element);
        }
    }
}

fn files(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn graphs_have_the_names_that_clients_look_for() {
    on_bundles(Case::all(), |bundle, config, _| {
        let graphs: &[&str] = match config.vision {
            Some(_) => &MULTIMODAL_GRAPHS,
            None => &TEXT_GRAPHS,
        };
        let expected: BTreeSet<String> = graphs.iter().map(|name| format!("{name}.onnx")).collect();
        let found: BTreeSet<String> = files(&bundle.join("onnx"))
            .into_iter()
            .filter(|name| name.ends_with(".onnx"))
            .collect();
        assert_eq!(found, expected);
    });
}

#[test]
fn borders_of_the_vision_encoder() {
    on_bundles(Case::with_vision(), |bundle, config, _| {
        let graph = OnnxFile::read(bundle, "vision_encoder");
        let hidden = config.text.hidden_size.to_string();
        let inputs = [
            border("pixel_values", F32, &["num_patches", "1176"]),
            // A fixed number of images would take all of them but one from transformers.js.
            border("image_grid_thw", I64, &["num_images", "3"]),
        ];
        assert_eq!(graph.inputs(), inputs);
        assert_eq!(
            graph.outputs(),
            [border("image_features", F32, &["num_image_tokens", &hidden])]
        );
    });
}

#[test]
fn borders_of_the_embeddings() {
    on_bundles(Case::all(), |bundle, config, _| {
        let hidden = config.text.hidden_size.to_string();
        let ids = border("input_ids", I64, &["batch_size", "sequence_length"]);
        let embeds = [border(
            "inputs_embeds",
            F32,
            &["batch_size", "sequence_length", &hidden],
        )];
        let graph = OnnxFile::read(bundle, "embed_tokens");
        assert_eq!(graph.inputs(), std::slice::from_ref(&ids));
        assert_eq!(graph.outputs(), embeds);
        if config.vision.is_some() {
            let graph = OnnxFile::read(bundle, "embedding");
            let features = border("image_features", F32, &["num_image_tokens", &hidden]);
            assert_eq!(graph.inputs(), [ids, features]);
            assert_eq!(graph.outputs(), embeds);
        }
    });
}

/// `batch_size` is the name that transformers.js sizes the empty cache by, and an input beyond these is one that either
/// client does not feed.
#[test]
fn borders_of_the_decoder() {
    on_bundles(Case::all(), |bundle, config, element| {
        let text = &config.text;
        let [hidden, heads, size, vocabulary] = [
            text.hidden_size,
            text.num_key_value_heads,
            text.head_dim,
            text.vocab_size,
        ]
        .map(|n| n.to_string());
        let positions: &[&str] = match config.vision {
            Some(_) => &["3", "batch_size", "sequence_length"],
            None => &["batch_size", "sequence_length"],
        };
        let mut inputs = vec![
            border("inputs_embeds", F32, &["batch_size", "sequence_length", &hidden]),
            border("attention_mask", I64, &["batch_size", "total_sequence_length"]),
            border("position_ids", I64, positions),
        ];
        let mut outputs = vec![border("logits", F32, &["batch_size", "1", &vocabulary])];
        for layer in 0..text.num_hidden_layers {
            for kind in ["key", "value"] {
                let cached =
                    |name: String, length| border(&name, element, &["batch_size", &heads, length, &size]);
                inputs.push(cached(
                    format!("past_key_values.{layer}.{kind}"),
                    "past_sequence_length",
                ));
                outputs.push(cached(format!("present.{layer}.{kind}"), "total_sequence_length"));
            }
        }
        let graph = OnnxFile::read(bundle, "decoder_model_merged");
        assert_eq!(graph.inputs(), inputs);
        assert_eq!(graph.outputs(), outputs);
    });
}

#[test]
fn graphs_have_no_control_flow() {
    on_bundles(Case::all(), |bundle, config, _| {
        let graphs: &[&str] = if config.vision.is_some() {
            &MULTIMODAL_GRAPHS
        } else {
            &TEXT_GRAPHS
        };
        for name in graphs {
            let graph = OnnxFile::read(bundle, name);
            for operator in ["If", "Loop", "Scan", "NonZero"] {
                assert!(!graph.operators().contains(operator), "{name} has {operator}");
            }
        }
    });
}

#[test]
fn data_stands_beside_its_graph() {
    on_bundles(Case::all(), |bundle, config, _| {
        let folder = bundle.join("onnx");
        let mut used = BTreeSet::new();
        let graphs: &[&str] = if config.vision.is_some() {
            &MULTIMODAL_GRAPHS
        } else {
            &TEXT_GRAPHS
        };
        for name in graphs {
            for file in OnnxFile::read(bundle, name).data_files() {
                assert!(
                    file.ends_with(".onnx_data") && !file.contains('/'),
                    "{name}: {file}"
                );
                used.insert(file);
            }
        }
        let data: BTreeSet<String> = files(&folder)
            .into_iter()
            .filter(|name| !name.ends_with(".onnx"))
            .collect();
        assert_eq!(data, used, "data files and those that graphs name");
        for file in files(&folder) {
            let kind = std::fs::symlink_metadata(folder.join(&file)).unwrap().file_type();
            assert!(kind.is_file(), "{file} is a link or folder");
        }
        let shared = BTreeSet::from(["embed_tokens.onnx_data".to_owned()]);
        assert_eq!(OnnxFile::read(bundle, "embed_tokens").data_files(), shared);
        if config.vision.is_some() {
            assert_eq!(OnnxFile::read(bundle, "embedding").data_files(), shared);
        }
        // What a browser is told to fetch.
        let declared =
            &read_json(&bundle.join("config.json"))["transformers.js_config"]["use_external_data_format"];
        let declared: BTreeSet<String> = declared
            .as_object()
            .unwrap()
            .keys()
            .map(|graph| format!("{graph}_data"))
            .collect();
        assert_eq!(declared, data);
    });
}

fn multimodal_bundles() -> Vec<(PathBuf, Case)> {
    let cases = Case::with_vision().into_iter();
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
