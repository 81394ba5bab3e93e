use std::path::Path;

use lwv_model::{Adapter, Checkpoint, Manifest, ModelConfig, Vision, expected_weights};
use lwv_processor::{ImageProcessor, Processor, TileProcessor};
use sha2::{Digest, Sha256};

use crate::Error;
use crate::float_weights::open_weights;
use crate::recipe::Recipe;

/// The opened and checked checkpoint.
pub(crate) struct Source {
    pub(crate) config: ModelConfig,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) adapter: Option<Adapter>,
    /// The runtime will make the same of the bundle's files.
    pub(crate) processor: Processor,
}

impl Source {
    /// Checks everything that can be checked before a byte is written.
    pub(crate) fn open(recipe: &Recipe) -> Result<Self, Error> {
        let dir = &recipe.checkpoint;
        let config = ModelConfig::from_dir(dir)?;
        let checkpoint = open_weights(dir, &config)?;
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
        check_images(dir, &config)?;
        let processor = Processor::from_dir(dir)?;
        Ok(Self {
            config,
            checkpoint,
            adapter,
            processor,
        })
    }

    /// Bytes of weights that an export reads; a table used by two graphs is read once.
    pub(crate) fn bytes(&self) -> Result<u64, Error> {
        weight_bytes(self, |_| true)
    }

    /// A hash that tells this source from others without reading all of its weights.
    pub(crate) fn id(&self) -> Result<String, Error> {
        let mut hash = Sha256::new();
        hash.update(format!("{:?}", self.config));
        if let Ok(manifest) = Manifest::from_dir(self.checkpoint.dir()) {
            // A bundle's weights are told from others by where they came from, and in which precision they are.
            let precisions: Vec<_> = manifest.graphs.values().map(|graph| graph.precision).collect();
            hash.update(format!("{} {precisions:?}", manifest.source));
            return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
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

/// Checks that there is an image processor where there is a tower: a processor would do without pictures then, a bundle must not.
fn check_images(dir: &Path, config: &ModelConfig) -> Result<(), Error> {
    match &config.vision {
        Some(Vision::Windows(_)) => ImageProcessor::from_dir(dir).map(|_| ())?,
        Some(Vision::Tiles(vision)) => {
            TileProcessor::from_dir(dir, vision.patch_size, vision.scale_factor).map(|_| ())?;
        }
        None => {}
    }
    Ok(())
}

/// Bytes of the weights whose names are included.
pub(crate) fn weight_bytes(source: &Source, include: impl Fn(&str) -> bool) -> Result<u64, Error> {
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
