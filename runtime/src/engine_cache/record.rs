use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use lwv_model::FileEntry;
use serde::{Deserialize, Serialize};

use super::Fingerprint;
use crate::error::{Inner, Result};
use crate::file_hash::hash_file;

/// Its name in the folder.
const FILE: &str = "engine.json";

/// What lies in an engine's folder. The file's time of change is when the engine was last used.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) fingerprint: Fingerprint,
    /// Name of each file → its size and hash.
    files: BTreeMap<String, FileEntry>,
}

impl Record {
    /// What lies in `folder` now.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(crate) fn of(fingerprint: &Fingerprint, folder: &Path) -> Result<Self> {
        let unreadable = |source| Inner::Read {
            path: folder.to_owned(),
            source,
        };
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(folder).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if !path.is_file() || path.ends_with(FILE) {
                continue;
            }
            let bytes = fs::metadata(&path).map_err(unreadable)?.len();
            let sha256 = hash_file(&path, |_| Ok(()))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            files.insert(name.into_owned(), FileEntry { bytes, sha256 });
        }
        Ok(Self {
            fingerprint: fingerprint.clone(),
            files,
        })
    }

    /// The record of a folder; `None` where there is none, or none that can be read.
    pub(crate) fn read(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(folder.join(FILE)).ok()?).ok()
    }

    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        let mut file = File::create(folder.join(FILE))?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.bytes).sum()
    }

    /// What is wrong with the files in `folder`, in words.
    pub(crate) fn damage(&self, folder: &Path) -> Option<String> {
        self.files.iter().find_map(|(name, entry)| {
            let path = folder.join(name);
            let damage = match fs::metadata(&path) {
                Err(_) => "is missing".to_owned(),
                Ok(found) if found.len() != entry.bytes => {
                    format!("has {} bytes instead of {}", found.len(), entry.bytes)
                }
                Ok(_) => match hash_file(&path, |_| Ok(())) {
                    Ok(found) if found == entry.sha256 => return None,
                    _ => "is not as it was built".to_owned(),
                },
            };
            Some(format!("`{}` {damage}", path.display()))
        })
    }

    /// Notes that the engine in `folder` is used now.
    pub(crate) fn touch(folder: &Path) -> io::Result<()> {
        Self::set_last_used(folder, SystemTime::now())
    }

    pub(crate) fn set_last_used(folder: &Path, time: SystemTime) -> io::Result<()> {
        File::options()
            .append(true)
            .open(folder.join(FILE))?
            .set_modified(time)
    }

    pub(crate) fn last_used(folder: &Path) -> SystemTime {
        let changed = fs::metadata(folder.join(FILE)).and_then(|metadata| metadata.modified());
        changed.unwrap_or(SystemTime::UNIX_EPOCH)
    }
}
