use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::error::CheckpointError;

/// A file of weights, memory-mapped.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) map: Mmap,
}

#[expect(unsafe_code, reason = "memory mapping")]
pub(super) fn map(path: &Path) -> Result<(File, Mmap), CheckpointError> {
    let read = |source| CheckpointError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(read)?;
    if file.metadata().map_err(read)?.len() == 0 {
        let message = "the file is empty".into();
        return Err(CheckpointError::Malformed {
            path: path.to_owned(),
            message,
        });
    }
    // SAFETY: the map is read-only and private. A checkpoint that another program rewrites while it is read
    // would show changed bytes, as with any reader.
    let map = unsafe { Mmap::map(&file) }.map_err(read)?;
    Ok((file, map))
}

/// The shards that an index names, each checked to be there.
pub(super) fn indexed_shards(dir: &Path, index: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = std::fs::read_to_string(index).map_err(|source| CheckpointError::Read {
        path: index.to_owned(),
        source,
    })?;
    let parsed: Index = serde_json::from_str(&text).map_err(|e| CheckpointError::Malformed {
        path: index.to_owned(),
        message: e.to_string(),
    })?;
    let shards: std::collections::BTreeSet<String> = parsed.weight_map.into_values().collect();
    let present = |shard: String| {
        let path = dir.join(&shard);
        if path.exists() {
            Ok(path)
        } else {
            Err(CheckpointError::MissingShard {
                index: index.to_owned(),
                shard,
            })
        }
    };
    shards.into_iter().map(present).collect()
}

/// What is wrong with a file of `length` bytes.
pub(super) fn describe(error: &safetensors::SafeTensorError, length: usize) -> String {
    use safetensors::SafeTensorError as E;
    match error {
        E::MetadataIncompleteBuffer | E::InvalidHeaderLength | E::HeaderTooSmall => {
            format!(
                "the header and the file's {length} bytes disagree; the file is probably cut short ({error})"
            )
        }
        _ => error.to_string(),
    }
}
