//! Graphs and data files, as onnxruntime-genai and transformers.js look for them, without either of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::collections::BTreeSet;
use std::path::Path;

use lwv_model::{ModelConfig, Precision, Vision};
use lwv_tests::{Border, Case, OnnxFile, bundle, read_json};

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
/// The clients that look for one more do not know such models.
const TILE_GRAPHS: [&str; 3] = ["decoder_model_merged", "embed_tokens", "vision_encoder"];

fn graphs(config: &ModelConfig) -> &'static [&'static str] {
    match config.vision {
        Some(Vision::Windows(_)) => &MULTIMODAL_GRAPHS,
        Some(Vision::Tiles(_)) => &TILE_GRAPHS,
        None => &TEXT_GRAPHS,
    }
}

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
        let expected: BTreeSet<String> = graphs(config).iter().map(|name| format!("{name}.onnx")).collect();
        let found: BTreeSet<String> = files(&bundle.join("onnx"))
            .into_iter()
            .filter(|name| name.ends_with(".onnx"))
            .collect();
        assert_eq!(found, expected);
    });
}

#[test]
fn borders_of_the_vision_encoder() {
    on_bundles(Case::with_windows(), |bundle, config, _| {
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
fn borders_of_the_vision_encoder_of_tiles() {
    on_bundles(Case::with_tiles(), |bundle, config, _| {
        let graph = OnnxFile::read(bundle, "vision_encoder");
        let [hidden, elements] = [
            config.text.hidden_size,
            config.vision.as_ref().unwrap().patch_elements(),
        ]
        .map(|size| size.to_string());
        assert_eq!(
            graph.inputs(),
            [border("pixel_values", F32, &["num_patches", &elements])]
        );
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
        if graphs(config).contains(&"embedding") {
            let graph = OnnxFile::read(bundle, "embedding");
            let features = border("image_features", F32, &["num_image_tokens", &hidden]);
            assert_eq!(graph.inputs(), [ids, features]);
            assert_eq!(graph.outputs(), embeds);
        }
    });
}

/// `batch_size` is the name that transformers.js sizes the empty cache by, and an input beyond these is one that either
/// client does not feed: it must have a value in the graph. What both read is one position's logits.
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
        let positions: &[&str] = match config.position_axes() {
            3 => &["3", "batch_size", "sequence_length"],
            _ => &["batch_size", "sequence_length"],
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
        let fed: Vec<Border> = graph
            .inputs()
            .into_iter()
            .filter(|input| !graph.has_value(&input.name))
            .collect();
        assert_eq!(fed, inputs);
        inputs.push(border("scored_positions", I64, &["1"]));
        assert_eq!(graph.inputs(), inputs);
        let scored = ["batch_size", "scored_positions", &vocabulary];
        outputs.push(border("last_logits", F32, &scored));
        assert_eq!(graph.outputs(), outputs);
    });
}

#[test]
fn graphs_have_no_control_flow() {
    on_bundles(Case::all(), |bundle, config, _| {
        for name in graphs(config) {
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
        for name in graphs(config) {
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
        if graphs(config).contains(&"embedding") {
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
