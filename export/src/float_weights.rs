//! The float weights that an export starts from: a checkpoint's, or those of a bundle in f32 or fp16.

use std::collections::HashMap;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

use lwv_model::{Checkpoint, Manifest, ModelConfig, Precision, StoredType, TensorPlace, expected_weights};
use lwv_onnx::{DataType, Initializer, Model, Storage};

use crate::Error;

/// Opens the weights of the folder `dir`.
///
/// # Errors
/// Neither checkpoint nor bundle, or a bundle whose weights are integers already.
pub(crate) fn open_weights(dir: &Path, config: &ModelConfig) -> Result<Checkpoint, Error> {
    if !dir.join(Manifest::FILE).exists() {
        return Ok(Checkpoint::open(dir)?);
    }
    let manifest = Manifest::from_dir(dir)?;
    let is_integer = |precision| matches!(precision, Precision::Int8 | Precision::Int4);
    if manifest.graphs.values().any(|graph| is_integer(graph.precision)) {
        return Err(Error::Quantized(dir.to_owned()));
    }
    let shapes: HashMap<_, _> = expected_weights(config).into_iter().collect();
    let mut places = Vec::new();
    let mut inline = InlineWeights::create()?;
    for graph in manifest.graphs.values() {
        let path = dir.join(&graph.file);
        let model = Model::read(&path)?;
        for initializer in model.initializers() {
            let Some(shape) = shapes.get(&initializer.name) else {
                continue;
            };
            let Some(stored) = stored_type(initializer) else {
                continue;
            };
            let (file, offset) = match &initializer.storage {
                // Data files stand beside the graph.
                Storage::External(location) => (path.with_file_name(&location.file), location.offset),
                Storage::Inline => {
                    inline.append(model.inline_bytes(&initializer.name).unwrap_or_default())?
                }
            };
            places.push(TensorPlace {
                name: initializer.name.clone(),
                stored,
                shape: shape.clone(),
                file,
                offset,
            });
        }
    }
    // Files that are mapped may go.
    Ok(Checkpoint::from_places(dir, places)?)
}

fn stored_type(initializer: &Initializer) -> Option<StoredType> {
    match initializer.dtype {
        DataType::Float32 => Some(StoredType::F32),
        DataType::Float16 => Some(StoredType::F16),
        _ => None,
    }
}

/// Weights that stand in graphs, where nothing can point to them, copied into a temporary file.
struct InlineWeights {
    file: tempfile::NamedTempFile,
}

impl InlineWeights {
    fn create() -> Result<Self, Error> {
        let file = tempfile::NamedTempFile::new().map_err(Error::io("create", std::env::temp_dir()))?;
        Ok(Self { file })
    }

    /// Where the bytes have been put.
    fn append(&mut self, bytes: &[u8]) -> Result<(PathBuf, u64), Error> {
        let path = self.file.path().to_owned();
        let offset = self.file.stream_position().map_err(Error::io("write", &path))?;
        self.file.write_all(bytes).map_err(Error::io("write", &path))?;
        Ok((path, offset))
    }
}
