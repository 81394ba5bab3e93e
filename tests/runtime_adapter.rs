//! Adapters that are loaded when a bundle runs, against adapters that were merged when it was exported.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::path::{Path, PathBuf};

use lwv_export::convert_adapter;
use lwv_model::{Manifest, Precision, contract, read_adapter_file};
use lwv_processor::Prompt;
use lwv_runtime::{Device, Engine, ErrorKind};
use lwv_tests::{
    Case, Difference, OrtText, Run, bundle, bundle_for_adapters, bundle_with_adapter, coarse_checkpoint,
    copy_folder, engine, fixtures, highest, library, lwv_export, lwv_write, random_adapter, read_json,
    scratch, write_json,
};
use serde_json::json;

/// Most that a logit may differ from that of the merged adapter: each of them, in f32, may be 1.5e-5 from what f64 would make.
const LOGITS: f32 = 3e-5;

/// Greedy tokens that are compared.
const TOKENS: usize = 16;

/// The linear layers of a decoder layer.
const MODULES: [&str; 7] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
];

/// PEFT's adapters of the decoder, with their checkpoints.
fn adapters() -> [(Case, PathBuf); 3] {
    [
        ("flat_f32", "adapter/lora"),
        ("nested_f32", "sft/lora/all_linear"),
        ("flat_f32", "sft/lora/rslora"),
    ]
    .map(|(case, adapter)| (Case::load(case), fixtures().join(adapter)))
}

/// An adapter's file for `bundle`.
fn converted(adapter: &Path, bundle: &Path) -> PathBuf {
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let file = scratch().join(format!("{}-{}.onnx_adapter", name(adapter), name(bundle)));
    convert_adapter(adapter, bundle, &file).unwrap();
    file
}

/// The text-only checkpoint in `like` with an adapter of all its linear layers.
fn random(like: &str) -> (PathBuf, PathBuf) {
    let (checkpoint, adapter) = (Case::load(like).dir, scratch().join(format!("random-{like}")));
    random_adapter(&checkpoint, &MODULES, 5, &adapter);
    (checkpoint, adapter)
}

fn prompt() -> Prompt {
    Prompt {
        input_ids: (0..40).map(|place| place * 37 % 300).collect(),
        images: Vec::new(),
    }
}

/// What a model makes of a text.
struct Transcript {
    /// After every token of the prompt, and after every greedy token.
    logits: Vec<f32>,
    greedy_ids: Vec<u32>,
}

impl Transcript {
    fn of(engine: &Engine, prompt: &Prompt) -> Self {
        let mut text = OrtText::new(engine, prompt.input_ids.len() + TOKENS);
        let (mut logits, mut greedy_ids) = (Vec::new(), Vec::new());
        text.extend(prompt, |_, scores| logits.extend_from_slice(scores));
        for _ in 0..TOKENS {
            greedy_ids.push(highest(&text.logits()));
            text.step(greedy_ids[greedy_ids.len() - 1]);
            logits.extend(text.logits());
        }
        Self { logits, greedy_ids }
    }

    fn compare(&self, place: &str, got: &Self, difference: &mut Difference) {
        assert_eq!(self.greedy_ids, got.greedy_ids, "{place}");
        difference.add(|| place.to_owned(), &self.logits, &got.logits);
    }

    /// Mean square of differences of logits of the prompt.
    fn distance(&self, other: &Self, vocabulary: usize) -> f64 {
        let count = prompt().input_ids.len() * vocabulary;
        let pairs = self.logits[..count].iter().zip(&other.logits[..count]);
        pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / count as f64
    }
}

#[test]
fn a_loaded_adapter_does_what_a_merged_one_does() {
    let mut difference = Difference::default();
    for (case, adapter) in adapters() {
        let merged = engine(&bundle_with_adapter(&case.dir, Precision::Fp32, &adapter), 1);
        let folder = bundle_for_adapters(&case.dir, Precision::Fp32);
        let loaded = engine(&folder, 1)
            .with_adapter(converted(&adapter, &folder))
            .unwrap();
        let prompt = case.prompts["one_image"].prompt(merged.processor());
        let [merged, loaded] = [merged, loaded].map(|engine| Transcript::of(&engine, &prompt));
        let place = adapter.display().to_string();
        merged.compare(&place, &loaded, &mut difference);
    }
    for like in ["llama", "qwen2"] {
        let (checkpoint, adapter) = random(like);
        let merged = engine(&bundle_with_adapter(&checkpoint, Precision::Fp32, &adapter), 1);
        let folder = bundle_for_adapters(&checkpoint, Precision::Fp32);
        let loaded = engine(&folder, 1)
            .with_adapter(converted(&adapter, &folder))
            .unwrap();
        let [merged, loaded] = [merged, loaded].map(|engine| Transcript::of(&engine, &prompt()));
        merged.compare(like, &loaded, &mut difference);
    }
    difference.assert_within("loaded adapters, against merged ones", LOGITS);
}

/// In chunks, as prompts are read, and by ONNX Runtime's own kernels.
#[test]
fn an_adapter_changes_prompts_in_chunks_too() {
    let (checkpoint, adapter) = random("llama");
    let folder = bundle_for_adapters(&checkpoint, Precision::Int4);
    let file = converted(&adapter, &folder);
    let last = |chunk, own| {
        let builder = Engine::builder(&folder).device(Device::Cpu).threads(1);
        let builder = builder.prefill_chunk(chunk).library(library()).adapter(&file);
        let builder = if own { builder } else { builder.library_kernels() };
        let mut text = OrtText::new(&builder.build().unwrap(), prompt().input_ids.len());
        text.extend(&prompt(), |_, _| ());
        text.logits()
    };
    let mut difference = Difference::default();
    difference.add(|| "chunks of 16".to_owned(), &last(1, true), &last(16, true));
    difference.add(|| "by ONNX Runtime".to_owned(), &last(1, true), &last(16, false));
    difference.assert_within("an adapter on four bits, in chunks", LOGITS);
}

/// Sums with updates that are zero are the same to the bit.
#[test]
fn without_an_adapter_a_bundle_writes_as_any_other() {
    for (like, precision) in [
        ("llama", Precision::Fp32),
        ("llama", Precision::Fp16),
        ("llama", Precision::Int8),
        ("llama", Precision::Int4),
        ("qwen2", Precision::Fp32),
        ("nested_f32", Precision::Int4),
    ] {
        let checkpoint = Case::load(like).dir;
        let [plain, ready] = [
            bundle(&checkpoint, precision),
            bundle_for_adapters(&checkpoint, precision),
        ]
        .map(|bundle| Transcript::of(&engine(&bundle, 1), &prompt()));
        assert_eq!(plain.logits, ready.logits, "{like} {precision:?}");
    }
}

#[test]
fn adapters_take_turns_on_one_engine() {
    let [(case, lora), _, (_, rslora)] = adapters();
    let folder = bundle_for_adapters(&case.dir, Precision::Fp32);
    let [lora, rslora] = [lora, rslora].map(|adapter| converted(&adapter, &folder));
    let plain = engine(&folder, 1);
    let of = |engine: &Engine| Transcript::of(engine, &prompt()).logits;
    let mut begun = OrtText::new(&plain, 40);
    let before = of(&plain);
    let with_lora = plain.with_adapter(&lora).unwrap();
    let with_rslora = with_lora.with_adapter(&rslora).unwrap();
    let (first, second) = (of(&with_lora), of(&with_rslora));
    assert!(first != before && second != before && first != second);
    assert_eq!(of(&with_lora), first, "after the other adapter");
    assert_eq!(of(&with_rslora.without_adapter()), before);
    let mut scores = Vec::new();
    begun.extend(&prompt(), |_, logits| scores.extend_from_slice(logits));
    assert_eq!(scores, before[..scores.len()], "a text that was begun before");
    let ids = [&plain, &with_lora, &with_rslora].map(Engine::id);
    assert_eq!(ids[0], plain.bundle().id());
    assert!(
        ids[1].starts_with(&format!("{}+", ids[0])) && ids[1] != ids[2],
        "{ids:?}"
    );
    let weights = |engine: &Engine| engine.estimate(100).weights;
    assert_eq!(
        weights(&with_lora) - weights(&plain),
        std::fs::metadata(&lora).unwrap().len()
    );
}

/// Weights that four bits hold exactly, so all that the products lose is what they round of what they read. With the adapter they are
/// no further from floats with the adapter merged than without it from the plain floats, by far less than what the adapter does.
#[test]
fn adapters_are_added_to_integers_in_floats() {
    let checkpoint = scratch().join("coarse");
    let change = json!({"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2});
    coarse_checkpoint(&Case::load("llama").dir, &change, &checkpoint);
    let adapter = scratch().join("coarse-lora");
    random_adapter(&checkpoint, &MODULES, 6, &adapter);
    let of = |engine: &Engine| Transcript::of(engine, &prompt());
    let floats = of(&engine(&bundle(&checkpoint, Precision::Fp32), 1));
    let merged = of(&engine(
        &bundle_with_adapter(&checkpoint, Precision::Fp32, &adapter),
        1,
    ));
    let vocabulary = Case::load("llama").config().text.vocab_size;
    let effect = floats.distance(&merged, vocabulary);
    for precision in [Precision::Int4, Precision::Int8, Precision::Fp16] {
        let folder = bundle_for_adapters(&checkpoint, precision);
        let plain = engine(&folder, 1);
        let loaded = plain.with_adapter(converted(&adapter, &folder)).unwrap();
        let without = of(&plain).distance(&floats, vocabulary);
        let with = of(&loaded).distance(&merged, vocabulary);
        assert!(
            with < 2.0 * without && 1000.0 * with < effect,
            "{precision:?}: {with} with the adapter, {without} without, and the adapter does {effect}"
        );
    }
}

/// Queries, keys and values that are one product have one A and one B.
#[test]
fn inputs_are_of_products() {
    let (checkpoint, adapter) = random("llama");
    let names = |precision| {
        let folder = bundle_for_adapters(&checkpoint, precision);
        let manifest = Manifest::from_dir(&folder).unwrap();
        let decoder = &manifest.graphs[contract::DECODER].contract;
        let of_adapters = contract::adapter_inputs(&manifest.adapted);
        assert!(decoder.optional_inputs.ends_with(&of_adapters));
        let file = std::fs::read(converted(&adapter, &folder)).unwrap();
        let parameters = read_adapter_file(&file).unwrap();
        let names = parameters.iter().map(|parameter| parameter.name.to_owned());
        let names: Vec<String> = names
            .filter(|name| name.contains("layers.0.self_attn") && name.contains("lora_A"))
            .collect();
        (
            names,
            parameters
                .iter()
                .map(|parameter| parameter.dims.clone())
                .collect::<Vec<_>>(),
        )
    };
    let (apart, _) = names(Precision::Fp32);
    assert_eq!(apart.len(), 4, "{apart:?}");
    let (joined, dims) = names(Precision::Int4);
    let prefix = "model.layers.0.self_attn";
    assert_eq!(
        joined,
        ["qkv_proj", "o_proj"].map(|linear| format!("{prefix}.{linear}.lora_A.weight"))
    );
    // 32 and 16 + 2 · 16 wide, three ranks of 3.
    assert_eq!(dims[..2], [vec![32, 9], vec![9, 64]]);
    assert!(
        Manifest::from_dir(&bundle(&checkpoint, Precision::Int4))
            .unwrap()
            .adapted
            .is_empty()
    );
}

#[test]
fn files_that_do_not_fit_are_refused() {
    let [(case, lora), (nested, all_linear), _] = adapters();
    let folder = bundle_for_adapters(&case.dir, Precision::Fp32);
    let file = converted(&lora, &folder);
    let place = |name: &str| scratch().join(format!("unfit-{name}.onnx_adapter"));
    let refuse = |bundle: &Path, file: &Path, words: &[&str]| {
        let builder = Engine::builder(bundle).device(Device::Cpu).library(library());
        let error = builder.adapter(file).build().err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Adapter, "{error}");
        for word in words {
            assert!(error.to_string().contains(word), "`{word}` is not in: {error}");
        }
    };
    refuse(&folder, &place("missing"), &["cannot read", "unfit-missing"]);
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(place("cut"), &bytes[..bytes.len() / 2]).unwrap();
    refuse(&folder, &place("cut"), &["unfit-cut", "damaged"]);
    let safetensors = lora.join("adapter_model.safetensors");
    refuse(
        &folder,
        &safetensors,
        &[
            "adapter_model.safetensors",
            "no adapter file",
            "lwv-export adapter",
        ],
    );
    let of_nested = converted(&all_linear, &bundle_for_adapters(&nested.dir, Precision::Fp32));
    refuse(&folder, &of_nested, &["not for this bundle", "model.layers.0."]);
    let halves = converted(&lora, &bundle_for_adapters(&case.dir, Precision::Fp16));
    refuse(&folder, &halves, &["has type Float16", "takes Float32"]);
    let plain = bundle(&case.dir, Precision::Fp32);
    refuse(&plain, &file, &["takes no adapters", "--runtime-adapters"]);
}

#[test]
fn adapters_that_cannot_be_converted_are_refused() {
    let [(case, lora), (nested, _), _] = adapters();
    let folder = bundle_for_adapters(&case.dir, Precision::Fp32);
    let out = scratch().join("refused").join("x.onnx_adapter");
    let refuse = |adapter: &Path, bundle: &Path, words: &[&str]| {
        let error = convert_adapter(adapter, bundle, &out).unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "`{word}` is not in: {error}");
        }
        assert!(!out.exists(), "{error}");
    };
    refuse(
        &lora,
        &bundle(&case.dir, Precision::Fp32),
        &["takes no adapters", "--runtime-adapters"],
    );
    let nested = bundle_for_adapters(&nested.dir, Precision::Fp32);
    refuse(&lora, &nested, &["adapter_model.safetensors", "model.layers.0."]);
    refuse(
        &fixtures().join("adapter/rslora"),
        &nested,
        &[
            "adapter_model.safetensors",
            "visual.blocks.0.mlp.down_proj",
            "--adapter",
        ],
    );
    for (field, value) in [
        ("use_dora", json!(true)),
        ("modules_to_save", json!(["lm_head"])),
        ("use_qalora", json!(true)),
        ("layer_replication", json!([[0, 1], [0, 2]])),
        ("alora_invocation_tokens", json!([5, 6])),
        ("peft_type", json!("LOHA")),
    ] {
        let spoilt = scratch().join(format!("spoilt-{field}"));
        copy_folder(&lora, &spoilt);
        let mut config = read_json(&spoilt.join("adapter_config.json"));
        config[field] = value;
        write_json(&spoilt.join("adapter_config.json"), &config);
        refuse(&spoilt, &folder, &["adapter_config.json", field]);
    }
    let (checkpoint, adapter) = random("llama");
    let folder = bundle_for_adapters(&checkpoint, Precision::Fp16);
    let path = adapter.join("adapter_config.json");
    let loud = scratch().join("loud");
    copy_folder(&adapter, &loud);
    let mut config = read_json(&path);
    config["lora_alpha"] = json!(1e9);
    write_json(&loud.join("adapter_config.json"), &config);
    refuse(&loud, &folder, &["lora_B.weight", "16 bits"]);
}

/// The command lines from a LoRA to a text, and a draft that knows which adapter it was begun with.
#[test]
fn a_draft_is_gone_on_with_by_its_adapter() {
    let (checkpoint, adapter) = random("llama");
    let folder = scratch().join("command-line");
    let mut export = lwv_export();
    export.arg(&checkpoint).arg(&folder);
    Run::of(export.args(["--fp32", "--runtime-adapters"])).assert_done();
    let result = Run::of(
        lwv_export()
            .arg("adapter")
            .arg(&adapter)
            .arg(&folder)
            .arg("--json"),
    )
    .json();
    let file = folder.join("adapters/random-llama.onnx_adapter");
    assert_eq!(result["file"], file.to_str().unwrap());
    assert_eq!(result["linear_layers"], 2 * MODULES.len());
    assert_eq!(result["bytes_written"], std::fs::metadata(&file).unwrap().len());

    let write = |adapter: &[&Path]| {
        let mut command = lwv_write();
        command.arg(&folder);
        for adapter in adapter {
            command.arg("--adapter").arg(adapter);
        }
        command
    };
    let greedy = [
        "--prompt",
        "Write about bees.",
        "--greedy",
        "--ignore-eos",
        "--max-new-tokens",
        "16",
        "--json",
    ];
    let tokens = |adapter: &[&Path]| Run::of(write(adapter).args(greedy)).json()["token_ids"].clone();
    assert_ne!(tokens(&[&file]), tokens(&[]));

    let out = scratch().join("command-line.md");
    let draft = PathBuf::from(format!("{}.draft", out.display()));
    let words = [
        "--prompt",
        "Write about bees.",
        "--words",
        "20",
        "--keep-draft",
        "--out",
    ];
    Run::of(write(&[&file]).args(words).arg(&out)).assert_done();
    let resume = |adapter: &[&Path]| {
        Run::of(
            write(adapter)
                .arg("--resume")
                .arg(&draft)
                .args(["--rewrite-section", "1"]),
        )
    };
    resume(&[]).assert_failed(1, &["command-line.md.draft", "without an adapter", "--adapter"]);
    let other = scratch().join("other-lora");
    random_adapter(&checkpoint, &["q_proj"], 7, &other);
    let other = converted(&other, &folder);
    resume(&[&other]).assert_failed(1, &["command-line.md.draft", "the bundle with adapter"]);
    resume(&[&file]).assert_done();
}

#[test]
fn only_target_ort_takes_adapters() {
    let checkpoint = Case::load("llama").dir;
    let mut export = lwv_export();
    export.arg(&checkpoint).arg(scratch().join("for-tensorrt"));
    Run::of(export.args(["--fp32", "--target", "tensorrt", "--runtime-adapters"]))
        .assert_failed(1, &["--runtime-adapters", "--target ort"]);
}
