//! Names, types and shapes at the borders of the exported graphs: the exporter declares them, the runtime checks them.
//!
//! The names are those that onnxruntime-genai and transformers.js know by default, so that both run the same folder.
//! Dimension names matter too: transformers.js sizes the empty cache by `batch_size`.

use crate::manifest::{AdaptedProduct, Dimension, ElementType, GraphContract, Target, TensorContract};
use crate::{ModelConfig, TextConfig, Vision, VisionConfig};

/// Images to features.
pub const VISION_ENCODER: &str = "vision_encoder";
/// Token ids to embeddings.
pub const EMBED_TOKENS: &str = "embed_tokens";
/// Token ids and features to embeddings, the form onnxruntime-genai wants.
pub const EMBEDDING: &str = "embedding";
/// Embeddings and cache to logits and cache.
pub const DECODER: &str = "decoder_model_merged";

/// Patches of all images.
pub const PIXEL_VALUES: &str = "pixel_values";
/// Frames, rows and columns of patches of every image.
pub const IMAGE_GRID_THW: &str = "image_grid_thw";
/// Row and column of every patch, where the graph does not derive them from the grid.
pub const PATCH_POSITIONS: &str = "patch_positions";
/// For every place of every window the row of the patch in it.
pub const WINDOW_ROWS: &str = "window_rows";
/// How many places at the start of every window hold patches.
pub const WINDOW_LENGTHS: &str = "window_lengths";
/// For every patch its place among those of all windows.
pub const WINDOW_PLACES: &str = "window_places";
/// For every place of every frame the row of the patch in it.
pub const FRAME_ROWS: &str = "frame_rows";
/// How many places at the start of every frame hold patches.
pub const FRAME_LENGTHS: &str = "frame_lengths";
/// For every patch its place among those of all frames.
pub const FRAME_PLACES: &str = "frame_places";
/// Features of image tokens.
pub const IMAGE_FEATURES: &str = "image_features";
/// Token ids.
pub const INPUT_IDS: &str = "input_ids";
/// Embedded tokens.
pub const INPUTS_EMBEDS: &str = "inputs_embeds";
/// 1 for every token that may be attended to, the cached ones included.
pub const ATTENTION_MASK: &str = "attention_mask";
/// Positions of the new tokens.
pub const POSITION_IDS: &str = "position_ids";
/// Scores of the next token.
pub const LOGITS: &str = "logits";
/// After how many of the new tokens, from the last back, scores are wanted; 1 where a run does not say.
pub const SCORED_POSITIONS: &str = "scored_positions";
/// Scores after each of these, where the decoder has them. A name of their own, since onnxruntime-genai takes [`LOGITS`] for
/// those of all positions unless their number is fixed to 1.
pub const LAST_LOGITS: &str = "last_logits";

/// Symbol of the batch dimension.
pub const BATCH_SIZE: &str = "batch_size";
/// Symbol of the number of new tokens.
pub const SEQUENCE_LENGTH: &str = "sequence_length";
/// Symbol of the number of cached and new tokens.
pub const TOTAL_SEQUENCE_LENGTH: &str = "total_sequence_length";
/// Symbol of the number of cached tokens.
pub const PAST_SEQUENCE_LENGTH: &str = "past_sequence_length";
/// Symbol of the number of patches of all images.
pub const NUM_PATCHES: &str = "num_patches";
/// Symbol of the number of image tokens.
pub const NUM_IMAGE_TOKENS: &str = "num_image_tokens";
/// Symbol of the number of images.
pub const NUM_IMAGES: &str = "num_images";
/// Symbol of the number of windows of all images.
pub const NUM_WINDOWS: &str = "num_windows";
/// Symbol of the number of frames of all images.
pub const NUM_FRAMES: &str = "num_frames";
/// Symbol of the number of patches of the largest frame.
pub const FRAME_LENGTH: &str = "frame_length";

/// Cached keys of `layer`.
pub fn past_key(layer: usize) -> String {
    format!("past_key_values.{layer}.key")
}

/// Cached values of `layer`.
pub fn past_value(layer: usize) -> String {
    format!("past_key_values.{layer}.value")
}

/// Keys of `layer` with the new ones.
pub fn present_key(layer: usize) -> String {
    format!("present.{layer}.key")
}

/// Values of `layer` with the new ones.
pub fn present_value(layer: usize) -> String {
    format!("present.{layer}.value")
}

/// An adapter's A for the product called `product`: what is read is multiplied by it first.
pub fn lora_a(product: &str) -> String {
    format!("{product}.lora_A.weight")
}

/// An adapter's B for the product called `product`.
pub fn lora_b(product: &str) -> String {
    format!("{product}.lora_B.weight")
}

/// File of a graph inside the bundle.
pub fn graph_file(graph: &str) -> String {
    format!("onnx/{graph}.onnx")
}

/// Borders of [`VISION_ENCODER`]. A tower of tiles reads nothing but the patches of whole tiles.
pub fn vision_encoder(vision: &Vision, target: Target) -> GraphContract {
    let dims = vec![symbol(NUM_PATCHES), size(vision.patch_elements())];
    let mut inputs = vec![tensor(PIXEL_VALUES, ElementType::Float32, dims)];
    if let Vision::Windows(vision) = vision {
        inputs.extend(geometry(vision, target));
    }
    let dims = vec![symbol(NUM_IMAGE_TOKENS), size(vision.out_hidden_size())];
    contract(inputs, vec![tensor(IMAGE_FEATURES, ElementType::Float32, dims)])
}

/// What a tower that attends in windows is told beside patches. Graphs of target `ort` derive the geometry from the grids of
/// images, since other runtimes hand over nothing else; those of target `tensorrt` are told it, shaped as in
/// [`crate::VisionInputs`].
fn geometry(vision: &VisionConfig, target: Target) -> Vec<TensorContract> {
    let integers = |name, dims| tensor(name, ElementType::Int64, dims);
    let lengths = |name, count| tensor(name, ElementType::Int32, vec![symbol(count)]);
    let patches = || symbol(NUM_PATCHES);
    match target {
        Target::Ort => vec![integers(IMAGE_GRID_THW, vec![symbol(NUM_IMAGES), size(3)])],
        Target::TensorRt => vec![
            integers(PATCH_POSITIONS, vec![size(2), patches()]),
            integers(
                WINDOW_ROWS,
                vec![symbol(NUM_WINDOWS), size(vision.window_patches())],
            ),
            lengths(WINDOW_LENGTHS, NUM_WINDOWS),
            integers(WINDOW_PLACES, vec![patches()]),
            integers(FRAME_ROWS, vec![symbol(NUM_FRAMES), symbol(FRAME_LENGTH)]),
            lengths(FRAME_LENGTHS, NUM_FRAMES),
            integers(FRAME_PLACES, vec![patches()]),
        ],
    }
}

/// Borders of [`EMBED_TOKENS`].
pub fn embed_tokens(text: &TextConfig) -> GraphContract {
    contract(vec![input_ids()], vec![inputs_embeds(text)])
}

/// Borders of [`EMBEDDING`].
pub fn embedding(text: &TextConfig) -> GraphContract {
    let features = tensor(
        IMAGE_FEATURES,
        ElementType::Float32,
        vec![symbol(NUM_IMAGE_TOKENS), size(text.hidden_size)],
    );
    contract(vec![input_ids(), features], vec![inputs_embeds(text)])
}

/// Borders of [`DECODER`], whose cache has elements of type `cache`.
pub fn decoder(config: &ModelConfig, cache: ElementType) -> GraphContract {
    let text = &config.text;
    let mut positions = vec![symbol(BATCH_SIZE), symbol(SEQUENCE_LENGTH)];
    if config.position_axes() > 1 {
        positions.insert(0, size(config.position_axes()));
    }
    let mut inputs = vec![
        inputs_embeds(text),
        tensor(
            ATTENTION_MASK,
            ElementType::Int64,
            vec![symbol(BATCH_SIZE), symbol(TOTAL_SEQUENCE_LENGTH)],
        ),
        tensor(POSITION_IDS, ElementType::Int64, positions),
    ];
    let logits = vec![symbol(BATCH_SIZE), size(1), size(text.vocab_size)];
    let mut outputs = vec![tensor(LOGITS, ElementType::Float32, logits)];
    for layer in 0..text.num_hidden_layers {
        let cached = |name: String, length| {
            let dims = vec![
                symbol(BATCH_SIZE),
                size(text.num_key_value_heads),
                symbol(length),
                size(text.head_dim),
            ];
            tensor(&name, cache, dims)
        };
        inputs.push(cached(past_key(layer), PAST_SEQUENCE_LENGTH));
        inputs.push(cached(past_value(layer), PAST_SEQUENCE_LENGTH));
        outputs.push(cached(present_key(layer), TOTAL_SEQUENCE_LENGTH));
        outputs.push(cached(present_value(layer), TOTAL_SEQUENCE_LENGTH));
    }
    contract(inputs, outputs)
}

/// Borders of a [`DECODER`] that scores more than the last position when a run asks for it.
pub fn scoring_decoder(config: &ModelConfig, cache: ElementType) -> GraphContract {
    let mut contract = decoder(config, cache);
    let scored = tensor(SCORED_POSITIONS, ElementType::Int64, vec![size(1)]);
    contract.optional_inputs.push(scored);
    let logits = vec![
        symbol(BATCH_SIZE),
        symbol(SCORED_POSITIONS),
        size(config.text.vocab_size),
    ];
    contract
        .outputs
        .push(tensor(LAST_LOGITS, ElementType::Float32, logits));
    contract
}

/// Optional inputs of a [`DECODER`] that takes adapters: for each product A `[inputs, rank]` and B `[rank, outputs]`, in this order.
/// A product of several linear layers has the ranks of all of them side by side, and B is zero where rows of one meet outputs of
/// another. The adapter's scale is part of B. Where a run does not give them they are zeros of rank 1.
pub fn adapter_inputs(products: &[AdaptedProduct]) -> Vec<TensorContract> {
    let of_product = |product: &AdaptedProduct| {
        let rank = || symbol(&format!("{}.rank", product.name));
        let (a, b) = (lora_a(&product.name), lora_b(&product.name));
        [
            tensor(&a, product.element_type, vec![size(product.inputs), rank()]),
            tensor(&b, product.element_type, vec![rank(), size(product.outputs())]),
        ]
    };
    products.iter().flat_map(of_product).collect()
}

fn contract(inputs: Vec<TensorContract>, outputs: Vec<TensorContract>) -> GraphContract {
    GraphContract {
        inputs,
        optional_inputs: Vec::new(),
        outputs,
    }
}

fn input_ids() -> TensorContract {
    tensor(
        INPUT_IDS,
        ElementType::Int64,
        vec![symbol(BATCH_SIZE), symbol(SEQUENCE_LENGTH)],
    )
}

fn inputs_embeds(text: &TextConfig) -> TensorContract {
    let dims = vec![
        symbol(BATCH_SIZE),
        symbol(SEQUENCE_LENGTH),
        size(text.hidden_size),
    ];
    tensor(INPUTS_EMBEDS, ElementType::Float32, dims)
}

fn tensor(name: &str, element_type: ElementType, dims: Vec<Dimension>) -> TensorContract {
    TensorContract {
        name: name.to_owned(),
        element_type,
        dims,
    }
}

fn symbol(name: &str) -> Dimension {
    Dimension::Symbol(name.to_owned())
}

fn size(size: usize) -> Dimension {
    Dimension::Size(size)
}
