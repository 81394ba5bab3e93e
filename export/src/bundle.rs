use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lwv_model::{
    Adapter, Checkpoint, FORMAT_VERSION, FileEntry, GraphEntry, ImageLimits, Manifest, ModelConfig,
    Precision, Target, contract, expected_weights,
};
use lwv_processor::{ImageProcessor, Processor};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::graphs::{self, Graph, OPSET};
use crate::staging::Staging;
use crate::weights::WeightStore;
use crate::{Error, side_files};

/// Weights of a graph above this many bytes stand in a file beside it, which ONNX Runtime maps instead of copying;
/// below, they stand in the graph.
const EXTERNAL_ABOVE: u64 = 64 << 20;

/// What to export and how: the resolved settings, saved in the bundle as `recipe.json`.
#[derive(Debug, Clone, Serialize)]
pub struct Recipe {
    /// The checkpoint's folder.
    pub checkpoint: PathBuf,
    /// The bundle's folder.
    pub bundle: PathBuf,
    /// A LoRA to merge.
    pub adapter: Option<PathBuf>,
    /// Precision of all graphs.
    pub precision: Precision,
    /// What the graphs are lowered for.
    pub target: Target,
}

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
}

/// Exports a checkpoint into a bundle. The bundle appears whole or not at all; one that stands in its place stays
/// until then.
///
/// `check` is called with the finished bundle while it still has its temporary name; what it returns ends up in the
/// manifest, and its error keeps the bundle from appearing.
///
/// # Errors
/// Anything wrong with the checkpoint or adapter, named; a folder that cannot be written.
pub fn export(
    recipe: &Recipe,
    progress: &dyn Progress,
    check: &mut dyn FnMut(&Path) -> Result<Option<lwv_model::ParitySummary>, Error>,
) -> Result<Summary, Error> {
    let source = Source::open(recipe)?;
    progress.total(source.bytes()?);
    let staging = Staging::create(&recipe.bundle)?;
    let mut manifest = write_bundle(recipe, &source, staging.folder(), progress)?;
    write_manifest(staging.folder(), &manifest)?;
    manifest.parity = check(staging.folder())?;
    if manifest.parity.is_some() {
        add_file(&mut manifest, staging.folder(), "parity.json")?;
        write_manifest(staging.folder(), &manifest)?;
    }
    staging.commit()?;
    Ok(summary(&manifest))
}

/// The opened and checked checkpoint.
struct Source {
    config: ModelConfig,
    checkpoint: Checkpoint,
    adapter: Option<Adapter>,
    images: Option<ImageProcessor>,
}

impl Source {
    /// Checks everything that can be checked before a byte is written.
    fn open(recipe: &Recipe) -> Result<Self, Error> {
        let dir = &recipe.checkpoint;
        let config = ModelConfig::from_dir(dir)?;
        let checkpoint = Checkpoint::open(dir)?;
        checkpoint.check(&config)?;
        let adapter = recipe.adapter.as_deref().map(Adapter::open).transpose()?;
        if let Some(adapter) = &adapter {
            adapter.check(&config)?;
        }
        if !dir.join("tokenizer.json").exists() {
            let reason = "a bundle must turn text into tokens; save the fast tokenizer there";
            return Err(Error::MissingFile {
                dir: dir.clone(),
                file: "tokenizer.json",
                reason,
            });
        }
        // Opened only to be checked: the runtime will read the same files from the bundle.
        Processor::from_dir(dir)?;
        let images = config
            .vision
            .as_ref()
            .map(|_| ImageProcessor::from_dir(dir))
            .transpose()?;
        Ok(Self {
            config,
            checkpoint,
            adapter,
            images,
        })
    }

    /// Bytes of weights that an export reads; a table used by two graphs is read once.
    fn bytes(&self) -> Result<u64, Error> {
        weight_bytes(self, |_| true)
    }

    /// A hash that tells this source from others without reading all of its weights.
    fn id(&self) -> Result<String, Error> {
        let mut hash = Sha256::new();
        hash.update(format!("{:?}", self.config));
        let files = self
            .checkpoint
            .files()
            .chain(self.adapter.iter().map(Adapter::path));
        for file in files {
            let metadata = std::fs::metadata(file).map_err(Error::io("read", file))?;
            let modified = metadata.modified().map_err(Error::io("read", file))?;
            hash.update(format!("{:?} {} {modified:?}", file.file_name(), metadata.len()));
        }
        for name in self.checkpoint.names() {
            hash.update(name);
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

fn weight_bytes(source: &Source, include: impl Fn(&str) -> bool) -> Result<u64, Error> {
    let weights = expected_weights(&source.config);
    let sizes = weights
        .iter()
        .filter(|(name, _)| include(name))
        .map(|(name, shape)| {
            let info = source.checkpoint.find(name, shape)?;
            Ok((shape.iter().product::<usize>() * info.stored.size()) as u64)
        });
    sizes.sum()
}

fn write_bundle(
    recipe: &Recipe,
    source: &Source,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<Manifest, Error> {
    let mut graphs = BTreeMap::new();
    let read = |bytes| progress.read(bytes);
    let mut weights = WeightStore::new(
        &source.checkpoint,
        source.adapter.as_ref(),
        &folder.join("onnx"),
        &read,
    );
    let mut files = BTreeMap::new();
    let mut data_files = Vec::new();
    for name in graph_names(&source.config) {
        progress.graph(name);
        let external = stands_beside(name, source)?;
        weights.open_file(external.then(|| format!("{name}.onnx_data")).as_deref())?;
        if external {
            data_files.push(name);
        }
        let graph = build(name, source, recipe.precision, &mut weights)?;
        let digest = graph.model.write(folder.join(contract::graph_file(name)))?;
        files.insert(
            contract::graph_file(name),
            FileEntry {
                bytes: digest.bytes,
                sha256: digest.sha256,
            },
        );
        graphs.insert(name.to_owned(), entry(name, &graph, recipe.precision));
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
        source.images.as_ref(),
        &data_files,
    )?);
    let mut manifest = Manifest {
        format_version: FORMAT_VERSION,
        producer: format!("{} {}", lwv_onnx::PRODUCER, env!("CARGO_PKG_VERSION")),
        family: source.config.family.model_type().to_owned(),
        target: recipe.target,
        source: source.id()?,
        graphs,
        files,
        images: source.images.as_ref().map(|images| ImageLimits {
            min_pixels: images.min_pixels as u64,
            max_pixels: images.max_pixels as u64,
        }),
        context_length: source.config.text.max_position_embeddings,
        parity: None,
    };
    lwv_onnx::write_atomically(folder.join("recipe.json"), &side_files::pretty(recipe)?)?;
    add_file(&mut manifest, folder, "recipe.json")?;
    Ok(manifest)
}

/// The graphs of a bundle, in the order in which they are written: the embedding table first, since the others share
/// its data file.
fn graph_names(config: &ModelConfig) -> Vec<&'static str> {
    let mut names = vec![contract::EMBED_TOKENS, contract::DECODER];
    if config.vision.is_some() {
        names.splice(1..1, [contract::EMBEDDING, contract::VISION_ENCODER]);
    }
    names
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

fn build(
    name: &str,
    source: &Source,
    precision: Precision,
    weights: &mut WeightStore<'_>,
) -> Result<Graph, Error> {
    let config = &source.config;
    match (name, &config.vision, config.image_token_id) {
        (contract::VISION_ENCODER, Some(vision), _) => graphs::vision_encoder(vision, precision, weights),
        (contract::EMBEDDING, _, Some(image)) => graphs::embedding(&config.text, image, precision, weights),
        (contract::EMBED_TOKENS, ..) => graphs::embed_tokens(&config.text, precision, weights),
        _ => graphs::decoder_model(config, precision, weights),
    }
}

fn entry(name: &str, graph: &Graph, precision: Precision) -> GraphEntry {
    GraphEntry {
        file: contract::graph_file(name),
        precision,
        opset: OPSET,
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
