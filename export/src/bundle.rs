use std::collections::BTreeMap;
use std::path::Path;

use lwv_model::{
    AdaptedProduct, ElementType, FORMAT_VERSION, FileEntry, GraphEntry, ImageLimits, Manifest, ModelConfig,
    Precision, QuantizationEntry, Target, Vision, contract,
};
use lwv_processor::Processor;
use serde::Serialize;

use crate::calibrated::Calibrated;
use crate::engines::{EngineRequest, build_engines};
use crate::formats::{Formats, Rounding};
use crate::graphs::{self, Graph};
use crate::lower::check_for_tensorrt;
use crate::profiles::profiles;
use crate::recipe::Recipe;
use crate::sizes::matrix_bits;
use crate::source::{Source, weight_bytes};
use crate::staging::Staging;
use crate::weights::WeightStore;
use crate::{Error, side_files};

/// Weights of a graph above this many bytes stand in a file beside it, which ONNX Runtime maps instead of copying;
/// below, they stand in the graph.
const EXTERNAL_ABOVE: u64 = 64 << 20;

/// What an export wrote.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Bytes of all files of the bundle.
    pub bytes_written: u64,
    /// Graph name → what it is.
    pub graphs: BTreeMap<String, GraphSummary>,
}

/// One graph in short.
#[derive(Debug, Clone, Serialize)]
pub struct GraphSummary {
    /// Number of nodes.
    pub nodes: usize,
    /// Opset of the default domain.
    pub opset: i64,
    /// Precision of its weights.
    pub precision: Precision,
}

/// Called while an export goes on.
pub trait Progress {
    /// A graph is begun.
    fn graph(&self, name: &str);
    /// Bytes of weights were read.
    fn read(&self, bytes: u64);
    /// Bytes of weights that will be read in all.
    fn total(&self, bytes: u64);
    /// Step `step`, from 0, of so many `steps` is begun of a task before or after the graphs, such as calibration.
    fn step(&self, task: &'static str, step: usize, steps: usize);
}

/// Compares a finished bundle with what it was made of; see [`export`].
pub type Check<'a> = dyn FnMut(&Recipe, &Path) -> Result<Option<lwv_model::ParitySummary>, Error> + 'a;

/// Exports a checkpoint into a bundle. The bundle appears whole or not at all; one that stands in its place stays
/// until then.
///
/// `check` is called with the resolved recipe and the finished bundle while it still has its temporary name; what it returns ends up in the
/// manifest, and its error keeps the bundle from appearing.
///
/// # Errors
/// Anything wrong with the checkpoint or adapter, named; a folder that cannot be written.
pub fn export(recipe: &Recipe, progress: &dyn Progress, check: &mut Check<'_>) -> Result<Summary, Error> {
    recipe.check()?;
    let source = Source::open(recipe)?;
    progress.total(source.bytes()?);
    let recipe = &with_islands(with_budget(recipe, &source, progress)?, progress)?;
    let calibrated = Calibrated::of(recipe, &source, progress)?;
    let staging = Staging::create(&recipe.bundle)?;
    let mut manifest = write_bundle(recipe, &source, calibrated.as_ref(), staging.folder(), progress)?;
    write_manifest(staging.folder(), &manifest)?;
    manifest.parity = check(recipe, staging.folder())?;
    if manifest.parity.is_some() {
        add_file(&mut manifest, staging.folder(), "parity.json")?;
    }
    if let Some(request) = &recipe.engines {
        add_engines(request, &mut manifest, staging.folder(), progress)?;
    }
    write_manifest(staging.folder(), &manifest)?;
    staging.commit()?;
    if let Some(calibrated) = calibrated {
        calibrated.remove()?;
    }
    Ok(summary(&manifest))
}

fn add_engines(
    request: &EngineRequest,
    manifest: &mut Manifest,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<(), Error> {
    manifest.engines = build_engines(request, folder, manifest, progress)?;
    for file in manifest.engines.clone().iter().map(|engine| &engine.file) {
        add_file(manifest, folder, file)?;
        add_file(manifest, folder, &file.replace(".onnx", ".engine"))?;
    }
    Ok(())
}

fn write_bundle(
    recipe: &Recipe,
    source: &Source,
    calibrated: Option<&Calibrated>,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<Manifest, Error> {
    let mut graphs = BTreeMap::new();
    let read = |bytes| progress.read(bytes);
    let mut weights = WeightStore::new(
        &source.checkpoint,
        source.adapter.as_ref(),
        Formats::of(recipe),
        calibrated,
        &folder.join("onnx"),
        &read,
    );
    let mut files = BTreeMap::new();
    let (mut data_files, mut adapted) = (Vec::new(), Vec::new());
    for name in graph_names(&source.config, recipe.target) {
        progress.graph(name);
        let external = stands_beside(name, source)?;
        weights.open_file(external.then(|| format!("{name}.onnx_data")).as_deref())?;
        if external {
            data_files.push(name);
        }
        let (graph, of_adapters) = build(name, recipe, source, calibrated, &mut weights)?;
        adapted.extend(of_adapters);
        if recipe.target == Target::TensorRt {
            check_for_tensorrt(name, &graph.model, recipe.tensorrt_version.unwrap_or_default())?;
        }
        let digest = graph.model.write(folder.join(contract::graph_file(name)))?;
        files.insert(
            contract::graph_file(name),
            FileEntry {
                bytes: digest.bytes,
                sha256: digest.sha256,
            },
        );
        graphs.insert(
            name.to_owned(),
            entry(name, &graph, graph_precision(name, recipe)),
        );
    }
    let data = weights.finish()?;
    files.extend(data.into_values().map(|file| {
        (
            format!("onnx/{}", file.file_name),
            FileEntry {
                bytes: file.bytes,
                sha256: file.sha256,
            },
        )
    }));
    files.extend(side_files::write(
        &recipe.checkpoint,
        folder,
        &source.config,
        &source.processor,
        recipe.target,
        &data_files,
    )?);
    let of_graph = |entry: &GraphEntry| {
        let profiles = profiles(&entry.contract, &source.config, &source.processor);
        (entry.file.clone(), profiles)
    };
    let profiles = match recipe.target {
        Target::TensorRt => graphs.values().map(of_graph).collect(),
        _ => BTreeMap::new(),
    };
    let mut manifest = Manifest {
        format_version: FORMAT_VERSION,
        producer: format!("{} {}", lwv_onnx::PRODUCER, env!("CARGO_PKG_VERSION")),
        family: source.config.family.model_type().to_owned(),
        target: recipe.target,
        tensorrt_version: match recipe.target {
            Target::TensorRt => Some(recipe.tensorrt_version.unwrap_or_default()),
            _ => None,
        },
        source: source.id()?,
        graphs,
        files,
        images: image_limits(&source.processor),
        context_length: source.config.text.max_position_embeddings,
        profiles,
        islands: recipe.islands.clone(),
        quantization: quantization_entry(recipe, source, calibrated),
        adapted,
        engines: Vec::new(),
        parity: None,
    };
    lwv_onnx::write_atomically(folder.join("recipe.json"), &side_files::pretty(recipe)?)?;
    add_file(&mut manifest, folder, "recipe.json")?;
    Ok(manifest)
}

/// How large pictures are after resizing.
fn image_limits(processor: &Processor) -> Option<ImageLimits> {
    let [min_pixels, max_pixels] = match (processor.image_processor(), processor.tile_processor()) {
        (Some(images), _) => [images.min_pixels, images.max_pixels],
        (None, Some(tiles)) => [tiles.tile_size.pow(2), tiles.max_pixels()],
        (None, None) => return None,
    };
    Some(ImageLimits {
        min_pixels: min_pixels as u64,
        max_pixels: max_pixels as u64,
    })
}

/// The graphs of a bundle, in the order in which they are written: the embedding table first, since the others share
/// its data file. What other runtimes want beside them comes with target `ort` only, and with families that they know.
fn graph_names(config: &ModelConfig, target: Target) -> Vec<&'static str> {
    let vision: &[_] = match (&config.vision, target) {
        (None, _) => &[],
        (Some(Vision::Windows(_)), Target::Ort) => &[contract::EMBEDDING, contract::VISION_ENCODER],
        (Some(_), _) => &[contract::VISION_ENCODER],
    };
    [&[contract::EMBED_TOKENS], vision, &[contract::DECODER]].concat()
}

/// Whether a graph's weights go into a file beside it: when they are large, or shared with another graph.
fn stands_beside(name: &str, source: &Source) -> Result<bool, Error> {
    let is_vision = |weight: &str| weight.starts_with("visual.");
    let is_table = |weight: &str| weight == "model.embed_tokens.weight";
    let bytes = match name {
        contract::EMBED_TOKENS => return Ok(true),
        contract::EMBEDDING => return Ok(false),
        contract::VISION_ENCODER => weight_bytes(source, is_vision)?,
        _ => weight_bytes(source, |weight| !is_vision(weight) && !is_table(weight))?,
    };
    Ok(bytes > EXTERNAL_ABOVE)
}

/// A graph, and its products that adapters may change.
fn build(
    name: &str,
    recipe: &Recipe,
    source: &Source,
    calibrated: Option<&Calibrated>,
    weights: &mut WeightStore<'_>,
) -> Result<(Graph, Vec<AdaptedProduct>), Error> {
    let config = &source.config;
    let graph = match (name, &config.vision, config.image_token_id) {
        (contract::VISION_ENCODER, Some(vision), _) => graphs::vision_encoder(vision, weights),
        (contract::EMBEDDING, _, Some(image)) => graphs::embedding(&config.text, image, weights),
        (contract::EMBED_TOKENS, ..) => graphs::embed_tokens(&config.text, weights),
        _ => {
            let scales = calibrated.and_then(|calibrated| calibrated.cache_scales.as_deref());
            return graphs::decoder_model(config, scales, recipe.runtime_adapters, weights);
        }
    };
    Ok((graph?, Vec::new()))
}

/// Whether products are of 16 bits, where they may overflow.
fn computes_in_halves(recipe: &Recipe) -> bool {
    Formats::of(recipe).compute_type() == ElementType::Float16
}

/// The recipe with what must stay in 32 bits.
#[cfg(feature = "verify")]
fn with_islands(mut recipe: Recipe, progress: &dyn Progress) -> Result<Recipe, Error> {
    if recipe.guard && computes_in_halves(&recipe) {
        recipe
            .islands
            .extend(crate::calibration::islands(&recipe, progress)?);
    }
    Ok(recipe)
}

#[cfg(not(feature = "verify"))]
fn with_islands(recipe: Recipe, _: &dyn Progress) -> Result<Recipe, Error> {
    if recipe.guard && computes_in_halves(&recipe) {
        return Err(Error::NoEngine(
            "looking for what overflows in 16 bits (--no-guard leaves it out)",
        ));
    }
    Ok(recipe)
}

/// The recipe with bits chosen for every part of the decoder, where there is a budget for them.
#[cfg(feature = "verify")]
fn with_budget(recipe: &Recipe, source: &Source, progress: &dyn Progress) -> Result<Recipe, Error> {
    let mut recipe = recipe.clone();
    let Some(bits_per_weight) = recipe.quantization.bits_per_weight else {
        return Ok(recipe);
    };
    let losses = crate::sensitivity(&recipe, progress)?;
    let measured: usize = losses.iter().map(|part| part.weights).sum();
    let all = matrix_bits(&recipe, &source.config);
    let of_losses = crate::budget::bits_per_weight(lwv_quantize::Bits::Four, recipe.quantization.block_size)
        * measured as f64;
    let fixed = (all.0 - of_losses, all.1 - measured);
    let chosen = crate::budget::spend(&losses, bits_per_weight, recipe.quantization.block_size, fixed);
    recipe.quantization.overrides.extend(chosen);
    Ok(recipe)
}

#[cfg(not(feature = "verify"))]
fn with_budget(recipe: &Recipe, _: &Source, _: &dyn Progress) -> Result<Recipe, Error> {
    match recipe.quantization.bits_per_weight {
        Some(_) => Err(Error::NoEngine("choosing bits by what they lose")),
        None => Ok(recipe.clone()),
    }
}

/// What the manifest says of integer weights.
fn quantization_entry(
    recipe: &Recipe,
    source: &Source,
    calibrated: Option<&Calibrated>,
) -> Option<QuantizationEntry> {
    if !matches!(recipe.precision, Precision::Int8 | Precision::Int4) {
        return None;
    }
    let activations = calibrated.and_then(|calibrated| calibrated.activations.as_ref());
    Some(QuantizationEntry {
        block_size: recipe.quantization.block_size,
        rounding: match recipe.quantization.rounding {
            Rounding::Nearest => "nearest".to_owned(),
            Rounding::Compensated => "compensated".to_owned(),
        },
        bits_per_weight: {
            let (bits, weights) = matrix_bits(recipe, &source.config);
            bits / weights.max(1) as f64
        },
        calibration: calibrated.map(|calibrated| calibrated.samples.clone()),
        exact_inputs: activations.map(|scales| scales.exact.clone()).unwrap_or_default(),
    })
}

/// Precision of most matrices of a graph.
fn graph_precision(name: &str, recipe: &Recipe) -> Precision {
    match (name, recipe.precision, recipe.target) {
        (contract::VISION_ENCODER, Precision::Int4, Target::TensorRt) => Precision::Fp16,
        (contract::VISION_ENCODER, Precision::Int4, _) => Precision::Int8,
        (_, precision, _) => precision,
    }
}

fn entry(name: &str, graph: &Graph, precision: Precision) -> GraphEntry {
    GraphEntry {
        file: contract::graph_file(name),
        precision,
        opset: graph.opset,
        nodes: graph.model.node_count(),
        contract: graph.contract.clone(),
    }
}

fn add_file(manifest: &mut Manifest, folder: &Path, name: &str) -> Result<(), Error> {
    let digest = lwv_onnx::file_digest(folder.join(name))?;
    manifest.files.insert(
        name.to_owned(),
        FileEntry {
            bytes: digest.bytes,
            sha256: digest.sha256,
        },
    );
    Ok(())
}

fn write_manifest(folder: &Path, manifest: &Manifest) -> Result<(), Error> {
    lwv_onnx::write_atomically(folder.join(Manifest::FILE), &side_files::pretty(manifest)?)?;
    Ok(())
}

fn summary(manifest: &Manifest) -> Summary {
    let graphs = manifest.graphs.iter().map(|(name, graph)| {
        let GraphEntry {
            nodes,
            opset,
            precision,
            ..
        } = *graph;
        (
            name.clone(),
            GraphSummary {
                nodes,
                opset,
                precision,
            },
        )
    });
    Summary {
        bytes_written: manifest.files.values().map(|file| file.bytes).sum(),
        graphs: graphs.collect(),
    }
}
