use std::path::Path;

use serde_json::Value;

use crate::{Error, Result};

/// Reads a JSON file that must be there.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let bytes = std::fs::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_slice(&bytes).map_err(|e| Error::Malformed {
        path: path.to_owned(),
        message: e.to_string(),
    })
}

/// Reads a JSON file, or nothing where there is none.
pub(crate) fn read_json_if_there(path: &Path) -> Result<Option<Value>> {
    if path.exists() {
        read_json(path).map(Some)
    } else {
        Ok(None)
    }
}
