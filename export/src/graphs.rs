//! The graphs of a bundle: what stands at their borders, and the network between.

use lwv_model::{
    AdaptedProduct, DecoderInputs, Dimension, ElementType, GraphContract, Logits, ModelConfig, Segments,
    Target, TensorContract, TextConfig, TileVisionConfig, Vision, VisionConfig, VisionInputs, contract,
    decoder, tile_tower, token_embeddings, vision_tower,
};
use lwv_onnx::{Attribute, DataType, GraphBuilder, Model, Node, Output};

use crate::Error;
use crate::adapter_inputs::AdapterInputs;
use crate::emitter::Emitter;
use crate::lower::{Lowering, OrtLowering, TensorRtLowering, VisionGeometry};
use crate::ops::OnnxOps;
use crate::value::{Activation, Layout, Value};
use crate::weights::WeightStore;

/// A graph and what its borders promise.
pub(crate) struct Graph {
    /// The graph.
    pub(crate) model: Model,
    /// Its inputs and outputs.
    pub(crate) contract: GraphContract,
    /// Opset of the default domain.
    pub(crate) opset: i64,
}

/// Images to features.
///
/// # Errors
/// A weight cannot be read or written.
pub(crate) fn vision_encoder(vision: &Vision, weights: &mut WeightStore<'_>) -> Result<Graph, Error> {
    let contract = contract::vision_encoder(vision, weights.formats().target());
    let graph = start(contract::VISION_ENCODER, &contract, weights);
    let pixel_values = Value::flat(
        contract::PIXEL_VALUES.into(),
        ElementType::Float32,
        vision.patch_elements(),
    );
    let (mut ops, features) = match vision {
        Vision::Windows(vision) => windows(vision, graph, pixel_values)?,
        Vision::Tiles(vision) => tiles(vision, graph, &pixel_values)?,
    };
    let features = ops
        .graph
        .as_type(features.activation("output")?, ElementType::Float32);
    finish(ops.graph, contract, &features.name)
}

type Made<'a, 'w> = (OnnxOps<'a, 'w>, Value);

fn windows<'a, 'w>(
    vision: &VisionConfig,
    mut graph: Emitter<'a, 'w>,
    pixel_values: Value,
) -> Result<Made<'a, 'w>, Error> {
    let formats = graph.weights.formats();
    let (target, version) = (formats.target(), formats.tensorrt_version());
    let (geometry, lowering): (_, Box<dyn Lowering>) = match target {
        Target::TensorRt => (
            VisionGeometry::of_inputs(),
            Box::new(TensorRtLowering::for_rows(version)),
        ),
        _ => {
            let geometry = VisionGeometry::append(&mut graph, vision);
            let lowering = OrtLowering::for_rows(&mut graph, contract::PIXEL_VALUES);
            (geometry, Box::new(lowering))
        }
    };
    let inputs = VisionInputs {
        pixel_values,
        positions: integers(&geometry.positions),
        windows: segments(&geometry.windows),
        frames: segments(&geometry.frames),
    };
    let mut ops = OnnxOps::new(graph, lowering);
    let features = vision_tower(&mut ops, vision, &inputs)?;
    Ok((ops, features))
}

fn tiles<'a, 'w>(
    vision: &TileVisionConfig,
    graph: Emitter<'a, 'w>,
    pixel_values: &Value,
) -> Result<Made<'a, 'w>, Error> {
    let formats = graph.weights.formats();
    let lowering: Box<dyn Lowering> = match formats.target() {
        Target::TensorRt => Box::new(TensorRtLowering::for_rows(formats.tensorrt_version())),
        _ => Box::new(OrtLowering::without_layers()),
    };
    let mut ops = OnnxOps::new(graph, lowering);
    let features = tile_tower(&mut ops, vision, pixel_values)?;
    Ok((ops, features))
}

/// Token ids to embeddings.
///
/// # Errors
/// A weight cannot be read or written.
pub(crate) fn embed_tokens(text: &TextConfig, weights: &mut WeightStore<'_>) -> Result<Graph, Error> {
    let contract = contract::embed_tokens(text);
    let graph = start(contract::EMBED_TOKENS, &contract, weights);
    let mut ops = OnnxOps::new(graph, Box::new(OrtLowering::without_layers()));
    let embeds = token_embeddings(&mut ops, text, &integers(contract::INPUT_IDS))?;
    finish(ops.graph, contract, &embeds.activation("output")?.name)
}

/// Token ids and features to embeddings: the k-th image token takes the k-th row of features.
///
/// Without any rows image tokens keep their own embedding, which a model needs that writes one itself. When there are
/// rows but too few of them, the graph fails rather than use a row twice.
///
/// # Errors
/// A weight cannot be read or written.
pub(crate) fn embedding(
    text: &TextConfig,
    image_token_id: u32,
    weights: &mut WeightStore<'_>,
) -> Result<Graph, Error> {
    let contract = contract::embedding(text);
    let graph = start(contract::EMBEDDING, &contract, weights);
    let mut ops = OnnxOps::new(graph, Box::new(OrtLowering::without_layers()));
    let embeds = token_embeddings(&mut ops, text, &integers(contract::INPUT_IDS))?;
    let embeds = embeds.activation("output")?.clone();
    let graph = &mut ops.graph;
    graph.enter("image_features");
    let tokens = graph.as_flat(&embeds);
    let rows = graph.op(
        "Concat",
        &[contract::IMAGE_FEATURES, &tokens.name],
        [Attribute::int("axis", 0)],
    );
    let index = feature_rows(graph, image_token_id);
    let merged = graph.op("Gather", &[&rows, &index], []);
    let shape = graph.op("Shape", &[&embeds.name], []);
    let merged = graph.op("Reshape", &[&merged, &shape], []);
    finish(ops.graph, contract, &merged)
}

/// Embeddings and cache to logits of the last position and cache, whose scales are given where it is of 8 bits. With
/// `adapter_inputs` it also reads adapters; which of its products they change comes with the graph.
///
/// # Errors
/// A weight cannot be read or written.
pub(crate) fn decoder_model(
    config: &ModelConfig,
    cache_scales: Option<&[[Vec<f32>; 2]]>,
    adapter_inputs: bool,
    weights: &mut WeightStore<'_>,
) -> Result<(Graph, Vec<AdaptedProduct>), Error> {
    let (target, version) = (weights.formats().target(), weights.formats().tensorrt_version());
    let cache = weights.formats().cache_type();
    let mut contract = match target {
        Target::TensorRt => contract::decoder(config, cache),
        _ => contract::scoring_decoder(config, cache),
    };
    let mut graph = start(contract::DECODER, &contract, weights);
    let (positions, lowering): (_, Box<dyn Lowering>) = match target {
        Target::TensorRt => (
            contract::POSITION_IDS.to_owned(),
            Box::new(TensorRtLowering::for_decoder(&mut graph, version)),
        ),
        _ => {
            let lowering = OrtLowering::for_decoder(&mut graph, config, cache_scales);
            let positions = lowering.positions(&mut graph);
            (positions, Box::new(lowering))
        }
    };
    let embeds = Value::batched(
        contract::INPUTS_EMBEDS.into(),
        ElementType::Float32,
        config.text.hidden_size,
    );
    let mut ops = OnnxOps::new(graph, lowering);
    if adapter_inputs {
        ops.adapter_inputs = AdapterInputs::of_decoder_layers();
    }
    let inputs = DecoderInputs {
        embeds,
        positions: integers(&positions),
    };
    let logits = decoder(&mut ops, &config.text, &inputs, Logits::LastPosition)?;
    let logits = ops
        .graph
        .as_type(logits.activation("output")?, ElementType::Float32);
    let logits = match target {
        Target::TensorRt => {
            let axis = ops.graph.vector(&[1]);
            ops.graph.op("Unsqueeze", &[&logits.name, &axis], [])
        }
        _ => last_of(&mut ops.graph, &logits),
    };
    let adapted = ops.adapter_inputs.into_products();
    contract
        .optional_inputs
        .extend(contract::adapter_inputs(&adapted));
    Ok((finish(ops.graph, contract, &logits)?, adapted))
}

/// Names the scored positions' logits and returns those of the last of them, `[batch, 1, vocabulary]`.
fn last_of(graph: &mut Emitter<'_, '_>, logits: &Activation) -> String {
    graph.enter("scored_positions");
    let named = [Output::Named(contract::LAST_LOGITS.to_owned())];
    let node = match logits.layout {
        Layout::Batched => Node::new("Identity", &[&logits.name]),
        Layout::Flat => {
            let batch = graph.dimension(contract::INPUTS_EMBEDS, 0);
            let rest = graph.vector(&[-1, logits.width as i64]);
            let shape = graph.op("Concat", &[&batch, &rest], [Attribute::int("axis", 0)]);
            Node::new("Reshape", &[&logits.name, &shape])
        }
    };
    let rows = graph.node(node, &named).concat();
    let [start, end, axes] = [-1, i64::MAX, 1].map(|bound| graph.vector(&[bound]));
    graph.op("Slice", &[&rows, &start, &end, &axes], [])
}

/// For every token its row in features followed by embeddings.
fn feature_rows(graph: &mut Emitter<'_, '_>, image_token_id: u32) -> String {
    let flat = graph.vector(&[-1]);
    let ids = graph.op("Reshape", &[contract::INPUT_IDS, &flat], []);
    let image_token = graph.scalar(i64::from(image_token_id));
    let is_image = graph.op("Equal", &[&ids, &image_token], []);
    let counted = graph.cast(&is_image, DataType::Int64);
    let (zero, one) = (graph.scalar(0), graph.scalar(1));
    let counted = graph.op("CumSum", &[&counted, &zero], []);
    let feature = graph.op("Sub", &[&counted, &one], []);
    let bounds = [Attribute::int("start", 0), Attribute::int("end", 1)];
    let features = graph.op("Shape", &[contract::IMAGE_FEATURES], bounds);
    // A feature row that does not exist becomes an index that does not exist, and the graph stops there.
    let nowhere = graph.scalar(i64::from(i32::MAX));
    let exists = graph.op("Less", &[&feature, &features], []);
    let feature = graph.op("Where", &[&exists, &feature, &nowhere], []);
    let count = graph.op("Size", &[&ids], []);
    let own = graph.op("Range", &[&zero, &count, &one], []);
    let own = graph.op("Add", &[&own, &features], []);
    let given = graph.op("Greater", &[&features, &zero], []);
    let takes_feature = graph.op("And", &[&is_image, &given], []);
    graph.op("Where", &[&takes_feature, &feature, &own], [])
}

fn start<'a, 'w>(name: &str, contract: &GraphContract, weights: &'a mut WeightStore<'w>) -> Emitter<'a, 'w> {
    let mut builder = GraphBuilder::new(name);
    let [opset, ir_version] = weights.formats().versions();
    builder.opset("", opset).ir_version(ir_version);
    if weights.formats().target() == Target::Ort {
        builder.opset("com.microsoft", 1);
    }
    let mut graph = Emitter::new(builder, weights);
    for input in &contract.inputs {
        graph.input(&input.name, data_type(input.element_type), &dimensions(input));
    }
    for input in &contract.optional_inputs {
        let dtype = data_type(input.element_type);
        graph.input_with_default(
            &input.name,
            dtype,
            &dimensions(input),
            &[1],
            1_i64.to_le_bytes().to_vec(),
        );
    }
    graph
}

/// Declares the outputs, the first of which is the value `result`; the others bear their names already.
fn finish(mut graph: Emitter<'_, '_>, contract: GraphContract, result: &str) -> Result<Graph, Error> {
    graph.enter("");
    for (index, output) in contract.outputs.iter().enumerate() {
        let value = if index == 0 { result } else { &output.name };
        graph.output(
            &output.name,
            value,
            data_type(output.element_type),
            &dimensions(output),
        );
    }
    let [opset, _] = graph.weights.formats().versions();
    Ok(Graph {
        model: graph.finish()?,
        opset,
        contract,
    })
}

pub(crate) fn dimensions(tensor: &TensorContract) -> Vec<lwv_onnx::Dimension> {
    let dimension = |dim: &Dimension| match dim {
        Dimension::Size(size) => lwv_onnx::Dimension::from(*size as i64),
        Dimension::Symbol(name) => lwv_onnx::Dimension::from(name.as_str()),
    };
    tensor.dims.iter().map(dimension).collect()
}

pub(crate) fn data_type(element: ElementType) -> DataType {
    match element {
        ElementType::Float16 => DataType::Float16,
        ElementType::Int64 => DataType::Int64,
        ElementType::Int32 => DataType::Int32,
        ElementType::Int8 => DataType::Int8,
        _ => DataType::Float32,
    }
}

fn integers(name: &str) -> Value {
    Value::batched(name.to_owned(), ElementType::Int64, 0)
}

fn segments(names: &Segments<String>) -> Segments<Value> {
    Segments {
        gather: integers(&names.gather),
        lengths: integers(&names.lengths),
        scatter: integers(&names.scatter),
    }
}
