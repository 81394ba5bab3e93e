mod error;
mod shard;
mod stored_type;

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

pub use self::error::CheckpointError;
use self::shard::{Shard, describe, indexed_shards, map};
pub use self::stored_type::StoredType;
use crate::{ModelConfig, WeightNames, expected_weights};

/// Bytes read at a time by the bounded readers.
const CHUNK_BYTES: usize = 4 << 20;

/// Where and how one tensor is stored.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// Name in the file.
    pub name: String,
    /// Type of the elements.
    pub stored: StoredType,
    /// Shape, row-major.
    pub shape: Vec<usize>,
    shard: usize,
    offset: u64,
    bytes: usize,
}

/// Where a float tensor stands in a file that is no safetensors, such as the data file of a bundle.
#[derive(Debug, Clone)]
pub struct TensorPlace {
    /// Canonical name.
    pub name: String,
    /// Type of the elements.
    pub stored: StoredType,
    /// Shape, row-major.
    pub shape: Vec<usize>,
    /// The file.
    pub file: PathBuf,
    /// Where the tensor starts, in bytes from the start of the file.
    pub offset: u64,
}

/// A folder in Hugging Face layout, its safetensors memory-mapped and their headers checked.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    shards: Vec<Shard>,
    /// File name → tensor, for tensors of every type.
    tensors: BTreeMap<String, Stored>,
}

#[derive(Debug)]
struct Stored {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    offset: u64,
    bytes: usize,
}

impl Checkpoint {
    /// Maps the weights of the checkpoint `dir`: `model.safetensors`, or the shards that its index names.
    ///
    /// # Errors
    /// No weights, a missing shard, a header that is cut short or contradicts its file.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        let single = dir.join("model.safetensors");
        let index = dir.join("model.safetensors.index.json");
        let paths = if index.exists() {
            indexed_shards(dir, &index)?
        } else if single.exists() {
            vec![single]
        } else {
            return Err(CheckpointError::NoWeights(dir.to_owned()));
        };
        Self::from_files(dir, paths)
    }

    /// Maps one safetensors file, such as an adapter's.
    ///
    /// # Errors
    /// A file that cannot be read, a header that is cut short or contradicts the file.
    pub fn open_file(path: &Path) -> Result<Self, CheckpointError> {
        Self::from_files(path.parent().unwrap_or(Path::new("")), vec![path.to_owned()])
    }

    /// Maps the files that hold `places`, whose folder is `dir`.
    ///
    /// # Errors
    /// A file that cannot be read or is shorter than a place says.
    pub fn from_places(dir: &Path, places: Vec<TensorPlace>) -> Result<Self, CheckpointError> {
        let mut checkpoint = Self::from_files(dir, Vec::new())?;
        for place in places {
            let known = checkpoint
                .shards
                .iter()
                .position(|shard| shard.path == place.file);
            let shard = match known {
                Some(shard) => shard,
                None => {
                    let (file, map) = map(&place.file)?;
                    checkpoint.shards.push(Shard {
                        path: place.file,
                        file,
                        map,
                    });
                    checkpoint.shards.len() - 1
                }
            };
            let bytes = place.shape.iter().product::<usize>() * place.stored.size();
            let Shard { path, map, .. } = &checkpoint.shards[shard];
            if place.offset.saturating_add(bytes as u64) > map.len() as u64 {
                return Err(CheckpointError::Malformed {
                    path: path.clone(),
                    message: format!("it ends before tensor `{}` does; it is cut short", place.name),
                });
            }
            let dtype = match place.stored {
                StoredType::F32 => Dtype::F32,
                StoredType::F16 => Dtype::F16,
                StoredType::BF16 => Dtype::BF16,
            };
            let tensor = Stored {
                shard,
                dtype,
                shape: place.shape,
                offset: place.offset,
                bytes,
            };
            checkpoint.tensors.insert(place.name, tensor);
        }
        Ok(checkpoint)
    }

    fn from_files(dir: &Path, paths: Vec<PathBuf>) -> Result<Self, CheckpointError> {
        let mut checkpoint = Self {
            dir: dir.to_owned(),
            shards: Vec::new(),
            tensors: BTreeMap::new(),
        };
        for path in paths {
            checkpoint.add_shard(path)?;
        }
        Ok(checkpoint)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The files that hold the weights.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(|shard| shard.path.as_path())
    }

    /// Names of all tensors as the files spell them, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Checks that every weight that `config` calls for is there with its shape.
    ///
    /// # Errors
    /// The first weight that is missing, or has another shape or an unsupported type.
    pub fn check(&self, config: &ModelConfig) -> Result<(), CheckpointError> {
        expected_weights(config)
            .iter()
            .try_for_each(|(name, shape)| self.find(name, shape).map(|_| ()))
    }

    /// Finds the weight with the canonical `name`, in whatever layout the checkpoint has, and checks its shape.
    ///
    /// # Errors
    /// The weight is missing, or has another shape or an unsupported type.
    pub fn find(&self, name: &str, shape: &[usize]) -> Result<TensorInfo, CheckpointError> {
        let missing = || CheckpointError::MissingWeight {
            dir: self.dir.clone(),
            name: name.to_owned(),
        };
        let candidates = WeightNames::candidates(name);
        let actual = candidates
            .iter()
            .find(|name| self.tensors.contains_key(*name))
            .ok_or_else(missing)?;
        let info = self.info(actual)?;
        if info.shape == shape {
            return Ok(info);
        }
        let path = self.shards[info.shard].path.clone();
        Err(CheckpointError::WeightShape {
            path,
            name: info.name,
            expected: shape.to_vec(),
            got: info.shape,
        })
    }

    /// The tensor that the files call `name`.
    ///
    /// # Errors
    /// The tensor is missing or has an unsupported type.
    pub fn info(&self, name: &str) -> Result<TensorInfo, CheckpointError> {
        let tensor = self.stored(name)?;
        let stored = match tensor.dtype {
            Dtype::F32 => StoredType::F32,
            Dtype::F16 => StoredType::F16,
            Dtype::BF16 => StoredType::BF16,
            other => {
                let path = self.shards[tensor.shard].path.clone();
                return Err(CheckpointError::WeightType {
                    path,
                    name: name.to_owned(),
                    got: format!("{other:?}"),
                });
            }
        };
        let (shape, shard, offset, bytes) = (tensor.shape.clone(), tensor.shard, tensor.offset, tensor.bytes);
        Ok(TensorInfo {
            name: name.to_owned(),
            stored,
            shape,
            shard,
            offset,
            bytes,
        })
    }

    /// The tensor that the files call `name`, whatever its type. Touching its data makes it resident.
    ///
    /// # Errors
    /// The tensor is missing.
    pub fn view(&self, name: &str) -> Result<TensorView<'_>, CheckpointError> {
        let tensor = self.stored(name)?;
        let shard = &self.shards[tensor.shard];
        let start = tensor.offset as usize;
        let data = &shard.map[start..start + tensor.bytes];
        TensorView::new(tensor.dtype, tensor.shape.clone(), data).map_err(|e| CheckpointError::Malformed {
            path: shard.path.clone(),
            message: format!("tensor `{name}`: {e}"),
        })
    }

    /// The mapped bytes of a tensor, little-endian and row-major. Touching them makes them resident.
    pub fn bytes(&self, info: &TensorInfo) -> &[u8] {
        let start = info.offset as usize;
        &self.shards[info.shard].map[start..start + info.bytes]
    }

    /// Reads a tensor from its file in pieces of a few megabytes, without making it resident.
    ///
    /// # Errors
    /// What reading says, or what `take` returns.
    pub fn read_bytes<E: From<CheckpointError>>(
        &self,
        info: &TensorInfo,
        take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.read_range(info.shard, info.offset, info.bytes, take)
    }

    /// As [`Self::read_bytes`], of the tensor that the files call `name`, whatever its type.
    ///
    /// # Errors
    /// The tensor is missing, what reading says, or what `take` returns.
    pub fn read_named<E: From<CheckpointError>>(
        &self,
        name: &str,
        take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let tensor = self.stored(name)?;
        self.read_range(tensor.shard, tensor.offset, tensor.bytes, take)
    }

    /// As [`Self::read_bytes`], each piece widened to f32.
    ///
    /// # Errors
    /// What reading says, or what `take` returns.
    pub fn read_f32<E: From<CheckpointError>>(
        &self,
        info: &TensorInfo,
        mut take: impl FnMut(&mut [f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut floats = Vec::new();
        self.read_bytes(info, |bytes| {
            info.stored.widen(bytes, &mut floats);
            take(&mut floats)
        })
    }

    /// The whole tensor as f32.
    ///
    /// # Errors
    /// What reading says.
    pub fn to_f32(&self, info: &TensorInfo) -> Result<Vec<f32>, CheckpointError> {
        let mut all = Vec::with_capacity(info.bytes / info.stored.size());
        self.read_f32(info, |piece| {
            all.extend_from_slice(piece);
            Ok::<_, CheckpointError>(())
        })?;
        Ok(all)
    }

    fn stored(&self, name: &str) -> Result<&Stored, CheckpointError> {
        let missing = || CheckpointError::MissingWeight {
            dir: self.dir.clone(),
            name: name.to_owned(),
        };
        self.tensors.get(name).ok_or_else(missing)
    }

    fn read_range<E: From<CheckpointError>>(
        &self,
        shard: usize,
        offset: u64,
        bytes: usize,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let shard = &self.shards[shard];
        let mut buffer = vec![0; CHUNK_BYTES.min(bytes)];
        let mut done = 0;
        while done < bytes {
            let piece = &mut buffer[..CHUNK_BYTES.min(bytes - done)];
            shard
                .file
                .read_exact_at(piece, offset + done as u64)
                .map_err(|source| CheckpointError::Read {
                    path: shard.path.clone(),
                    source,
                })?;
            take(piece)?;
            done += piece.len();
        }
        Ok(())
    }

    fn add_shard(&mut self, path: PathBuf) -> Result<(), CheckpointError> {
        let malformed = |message: String| CheckpointError::Malformed {
            path: path.clone(),
            message,
        };
        let (file, map) = map(&path)?;
        let (header, metadata) =
            SafeTensors::read_metadata(&map).map_err(|e| malformed(describe(&e, map.len())))?;
        let start = 8 + header;
        for (name, info) in metadata.tensors() {
            let tensor = Stored {
                shard: self.shards.len(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                offset: (start + info.data_offsets.0) as u64,
                bytes: info.data_offsets.1 - info.data_offsets.0,
            };
            self.tensors.insert(name, tensor);
        }
        self.shards.push(Shard { path, file, map });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    fn write(path: &Path, tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) {
        let views: Vec<_> = tensors
            .iter()
            .map(|(name, dtype, shape, data)| {
                (
                    *name,
                    safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap(),
                )
            })
            .collect();
        safetensors::serialize_to_file(views, None, path).unwrap();
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    #[test]
    fn finds_weights_in_other_layouts_and_widens_every_type() {
        let dir = tempfile::tempdir().unwrap();
        let half: Vec<u8> = [1.5f32, -2.0]
            .iter()
            .flat_map(|v| f16::from_f32(*v).to_le_bytes())
            .collect();
        let brain: Vec<u8> = [1.5f32, -2.0]
            .iter()
            .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
            .collect();
        write(
            &dir.path().join("model.safetensors"),
            &[
                (
                    "model.language_model.norm.weight",
                    Dtype::F32,
                    vec![2],
                    floats(&[1.5, -2.0]),
                ),
                ("model.visual.a", Dtype::F16, vec![2], half),
                ("lm_head.weight", Dtype::BF16, vec![2], brain),
            ],
        );
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        for name in ["model.norm.weight", "visual.a", "lm_head.weight"] {
            let info = checkpoint.find(name, &[2]).unwrap();
            assert_eq!(checkpoint.to_f32(&info).unwrap(), [1.5, -2.0], "{name}");
        }
        let error = checkpoint
            .find("lm_head.weight", &[1, 2])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("lm_head.weight") && error.contains("[1, 2]"),
            "{error}"
        );
        assert!(
            checkpoint
                .find("visual.b", &[1])
                .unwrap_err()
                .to_string()
                .contains("visual.b")
        );
    }

    #[test]
    fn unsound_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        write(
            &path,
            &[("lm_head.weight", Dtype::F32, vec![4], floats(&[0.0; 4]))],
        );
        let whole = std::fs::read(&path).unwrap();
        let lying = String::from_utf8_lossy(&whole).replace("[4]", "[5]").into_bytes();
        for (name, bytes) in [
            ("truncated", &whole[..whole.len() - 4]),
            ("empty", &[]),
            ("lying", &lying),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let error = Checkpoint::open(dir.path()).unwrap_err().to_string();
            assert!(error.contains("model.safetensors"), "{name}: {error}");
        }
    }

    #[test]
    fn a_missing_shard_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let index = r#"{"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}"#;
        std::fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
        let error = Checkpoint::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("model-00002-of-00002.safetensors"), "{error}");
    }
}
