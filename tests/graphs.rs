//! What the graphs of a bundle do at their borders, where other clients feed them otherwise than our runtime.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use lwv_export::convert_adapter;
use lwv_model::{ModelConfig, Precision, contract};
use lwv_tests::{
    Case, Difference, Random, bundle, bundle_for_adapters, bundle_with_adapter, fixtures, graph, scratch,
};
use ort::session::{Adapter, RunOptions, Session};
use ort::value::{Tensor, TensorRef};

/// The same graph on the same numbers: nothing may differ.
const NOTHING: f32 = 0.0;

fn case() -> Case {
    Case::load("flat_f32")
}

fn config() -> ModelConfig {
    ModelConfig::from_dir(&case().dir).unwrap()
}

fn load(name: &str) -> Session {
    graph(&bundle(&case().dir, Precision::Fp32), name)
}

fn embed_tokens(ids: &[i64]) -> Vec<f32> {
    // Before any tensor: making one loads the library from wherever it stands, making a session from where it was found.
    let mut session = load(contract::EMBED_TOKENS);
    let ids = TensorRef::from_array_view(([1, ids.len()], ids)).unwrap();
    let outputs = session.run(ort::inputs![contract::INPUT_IDS => ids]).unwrap();
    outputs[contract::INPUTS_EMBEDS]
        .try_extract_tensor::<f32>()
        .unwrap()
        .1
        .to_vec()
}

/// Runs `embedding` with so many rows of features, which count up from 1000.
fn embedding(ids: &[i64], rows: usize) -> Result<Vec<f32>, ort::Error> {
    let hidden = config().text.hidden_size;
    let mut session = load(contract::EMBEDDING);
    let ids = TensorRef::from_array_view(([1, ids.len()], ids)).unwrap();
    let values: Vec<f32> = (0..rows * hidden).map(|n| 1000.0 + n as f32).collect();
    let features = Tensor::from_array(([rows, hidden], values)).unwrap();
    let inputs = ort::inputs![contract::INPUT_IDS => ids, contract::IMAGE_FEATURES => features];
    let outputs = session.run(inputs)?;
    Ok(outputs[contract::INPUTS_EMBEDS]
        .try_extract_tensor::<f32>()?
        .1
        .to_vec())
}

fn image_token() -> i64 {
    i64::from(config().image_token_id.unwrap())
}

/// The graph takes any number of tiles, though the runtime hands them over one by one.
#[test]
fn tiles_do_not_see_each_other() {
    let case = Case::load("idefics3");
    let prompt = case.prompts["two_turns"].prompt(&case.processor());
    let mut session = graph(&bundle(&case.dir, Precision::Fp32), contract::VISION_ENCODER);
    let elements = case.config().vision.unwrap().patch_elements();
    let mut features = |values: &[f32]| {
        let pixels = TensorRef::from_array_view(([values.len() / elements, elements], values)).unwrap();
        let outputs = session
            .run(ort::inputs![contract::PIXEL_VALUES => pixels])
            .unwrap();
        outputs[contract::IMAGE_FEATURES]
            .try_extract_tensor::<f32>()
            .unwrap()
            .1
            .to_vec()
    };
    let tiles: Vec<&[f32]> = prompt.images.iter().map(|tile| tile.values.as_slice()).collect();
    assert!(tiles.len() > 4, "{} tiles", tiles.len());
    let apart: Vec<f32> = tiles.iter().flat_map(|tile| features(tile)).collect();
    let mut difference = Difference::default();
    difference.add(|| "all at once".to_owned(), &apart, &features(&tiles.concat()));
    difference.assert_within("features of tiles, alone and together", 1e-5);
}

#[test]
fn embedding_without_images() {
    let ids = [5, 0, 331, 7];
    assert_eq!(embedding(&ids, 0).unwrap(), embed_tokens(&ids));
}

/// A model writes image tokens itself at times; genai then runs this graph without rows.
#[test]
fn an_image_token_without_any_rows_keeps_its_own_embedding() {
    let ids = [5, image_token(), 7];
    assert_eq!(embedding(&ids, 0).unwrap(), embed_tokens(&ids));
}

#[test]
fn rows_go_to_image_tokens_in_order() {
    let token = image_token();
    let ids = [token, 5, token, token, 7];
    let hidden = config().text.hidden_size;
    let got = embedding(&ids, 3).unwrap();
    let mut expected = embed_tokens(&ids);
    let mut next = 1000.0;
    for (id, row) in ids.iter().zip(expected.chunks_exact_mut(hidden)) {
        if *id == token {
            row.iter_mut().for_each(|value| {
                *value = next;
                next += 1.0;
            });
        }
    }
    assert_eq!(got, expected);
}

#[test]
fn too_few_rows_fail() {
    let token = image_token();
    assert!(embedding(&[token, 5, token], 2).is_ok());
    for rows in [1, 2] {
        let ids = vec![token; rows + 1];
        let outcome = embedding(&ids, rows);
        assert!(
            outcome.is_err(),
            "{rows} rows for {} image tokens: {outcome:?}",
            ids.len()
        );
    }
}

/// Keys and values of every layer.
type Cache = Vec<Tensor<f32>>;

/// A text on the decoder's graph alone, fed as other clients feed it.
struct Text {
    session: Session,
    options: RunOptions,
    config: ModelConfig,
    cache: Cache,
    length: usize,
}

impl Text {
    fn new() -> Self {
        Self::on(load(contract::DECODER))
    }

    fn on(session: Session) -> Self {
        let config = config();
        let text = &config.text;
        let empty = || {
            let shape = [1, text.num_key_value_heads, 0, text.head_dim];
            Tensor::from_array((shape, Vec::<f32>::new())).unwrap()
        };
        Self {
            cache: (0..2 * text.num_hidden_layers).map(|_| empty()).collect(),
            session,
            options: RunOptions::new().unwrap(),
            length: 0,
            config,
        }
    }

    /// Appends embeddings at `positions`, `[3, count]`, and returns the last logits.
    fn extend(&mut self, embeds: &[f32], positions: Vec<i64>) -> Vec<f32> {
        let hidden = self.config.text.hidden_size;
        let count = embeds.len() / hidden;
        let total = self.length + count;
        let embeds = Tensor::from_array(([1, count, hidden], embeds.to_vec())).unwrap();
        let mask = Tensor::from_array(([1, total], vec![1_i64; total])).unwrap();
        let positions = Tensor::from_array(([3, 1, count], positions)).unwrap();
        let mut inputs = ort::inputs![
            contract::INPUTS_EMBEDS => embeds, contract::ATTENTION_MASK => mask, contract::POSITION_IDS => positions
        ];
        for (index, cached) in self.cache.drain(..).enumerate() {
            let name = [contract::past_key, contract::past_value][index % 2](index / 2);
            inputs.push((name.into(), cached.into()));
        }
        let mut outputs = self.session.run_with_options(inputs, &self.options).unwrap();
        let logits = outputs[contract::LOGITS]
            .try_extract_tensor::<f32>()
            .unwrap()
            .1
            .to_vec();
        for layer in 0..self.config.text.num_hidden_layers {
            for name in [contract::present_key(layer), contract::present_value(layer)] {
                let present = outputs.remove(&name).unwrap();
                self.cache.push(present.downcast().unwrap());
            }
        }
        self.length = total;
        logits
    }
}

/// transformers.js puts the first token after a text-only prompt of L tokens at 3·L instead of L, and counts on from
/// there; the graph limits positions to the token's index.
#[test]
fn positions_beyond_the_text_are_limited() {
    let case = case();
    let expected = &case.prompts["text"];
    let prompt: Vec<i64> = expected.input_ids.iter().map(|id| i64::from(*id)).collect();
    let length = prompt.len() as i64;
    let (mut right, mut wrong) = (Text::new(), Text::new());
    let row = |from: i64, count: i64| (from..from + count).collect::<Vec<i64>>().repeat(3);
    let embeds = embed_tokens(&prompt);
    let mut difference = Difference::default();
    let mut logits = right.extend(&embeds, row(0, length));
    difference.add(
        || "the prompt".to_owned(),
        &logits,
        &wrong.extend(&embeds, row(0, length)),
    );
    for (step, id) in expected.greedy_ids.iter().take(16).enumerate() {
        assert_eq!(lwv_tests::highest(&logits), *id, "token {step}");
        let embeds = embed_tokens(&[i64::from(*id)]);
        logits = right.extend(&embeds, row(length + step as i64, 1));
        let got = wrong.extend(&embeds, row(3 * length + step as i64, 1));
        difference.add(|| format!("step {step}"), &logits, &got);
    }
    difference.assert_within("logits at positions from three times the length on", NOTHING);
}

/// The limit changes nothing that is right: positions of images are smaller than their tokens' indices.
#[test]
fn positions_of_images_are_kept() {
    let case = case();
    let expected = &case.prompts["three_images"];
    let hidden = config().text.hidden_size;
    let mut random = Random::new(9);
    let embeds: Vec<f32> = (0..expected.input_ids.len() * hidden)
        .map(|_| random.signed())
        .collect();
    let kept = Text::new().extend(&embeds, expected.position_ids.concat());
    let index: Vec<i64> = (0..expected.input_ids.len() as i64).collect();
    let by_index = Text::new().extend(&embeds, index.repeat(3));
    assert_ne!(kept, by_index, "positions make no difference");
    for row in &expected.position_ids {
        assert!(row.iter().zip(&index).all(|(position, index)| position <= index));
    }
}

/// The runtime binds an adapter's tensors itself; other clients let ONNX Runtime read the file.
#[test]
fn onnxruntime_reads_adapters_by_itself() {
    let (checkpoint, adapter) = (case().dir, fixtures().join("adapter/lora"));
    let folder = bundle_for_adapters(&checkpoint, Precision::Fp32);
    let file = scratch().join("by-itself.onnx_adapter");
    convert_adapter(&adapter, &folder, &file).unwrap();
    let mut random = Random::new(4);
    let count = 12;
    let embeds: Vec<f32> = (0..count * config().text.hidden_size)
        .map(|_| random.signed())
        .collect();
    let positions = (0..count as i64).collect::<Vec<i64>>().repeat(3);
    let merged = bundle_with_adapter(&checkpoint, Precision::Fp32, &adapter);
    let merged = Text::on(graph(&merged, contract::DECODER)).extend(&embeds, positions.clone());
    let mut text = Text::on(graph(&folder, contract::DECODER));
    text.options
        .add_adapter(&Adapter::from_file(&file, None).unwrap())
        .unwrap();
    let loaded = text.extend(&embeds, positions.clone());
    let mut difference = Difference::default();
    difference.add(|| "the last logits".to_owned(), &merged, &loaded);
    difference.assert_within("an adapter that ONNX Runtime has read", 3e-5);
    let plain = Text::on(graph(&folder, contract::DECODER)).extend(&embeds, positions.clone());
    assert_eq!(
        plain,
        Text::new().extend(&embeds, positions),
        "without the adapter"
    );
    assert!(lwv_tests::cosine(&plain, &loaded) < 0.99);
}
