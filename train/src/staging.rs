use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::Error;

/// Files by which, all together, an output of this crate is known, and may be replaced.
const KNOWN_BY: &[&[&str]] = &[
    &["config.json"],
    &["adapter_config.json"],
    // Not by the latter alone: LLaMA-Factory's own folder of datasets has it too.
    &["sft.yaml", "dataset_info.json"],
    &["dpo.yaml", "dataset_info.json"],
];

/// A folder that becomes a checkpoint, an adapter or another output when it is whole: it is filled under another name beside its
/// place, and removed if it is dropped before [`Staging::commit`].
#[derive(Debug)]
pub struct Staging {
    folder: PathBuf,
    destination: PathBuf,
    kept: bool,
}

impl Staging {
    /// Makes an empty folder beside `destination`, removing what a killed run has left there.
    ///
    /// # Errors
    /// A place that is taken by something else than such an output or an empty folder; a folder that cannot be made.
    pub fn create(destination: &Path) -> Result<Self, Error> {
        let destination = std::path::absolute(destination).map_err(Error::io(destination))?;
        check_replaceable(&destination)?;
        restore(&destination)?;
        let folder = sibling(&destination, "partial");
        remove(&folder)?;
        std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        Ok(Self {
            folder,
            destination,
            kept: false,
        })
    }

    /// Where files are to be written.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Syncs every file and gives the folder its place, in that of an older one where there is one.
    ///
    /// # Errors
    /// A file that cannot be synced, a folder that cannot be renamed; the older folder is then still there.
    pub fn commit(mut self) -> Result<(), Error> {
        sync_all(&self.folder)?;
        let old = sibling(&self.destination, "old");
        remove(&old)?;
        let replaced = self.destination.exists();
        if replaced {
            rename(&self.destination, &old)?;
        }
        if let Err(error) = rename(&self.folder, &self.destination) {
            if replaced {
                rename(&old, &self.destination)?;
            }
            return Err(error);
        }
        self.kept = true;
        sync(self.destination.parent().unwrap_or(Path::new("/")))?;
        remove(&old)
    }
}

impl Staging {
    /// Syncs every file and moves it into `dir`, which keeps what else it holds but older weights: the root of an
    /// output folder holds checkpoints too.
    ///
    /// # Errors
    /// A file that cannot be synced, moved or removed.
    pub fn move_into(self, dir: &Path) -> Result<(), Error> {
        sync_all(&self.folder)?;
        let names: Vec<_> = std::fs::read_dir(&self.folder)
            .and_then(|entries| {
                entries
                    .map(|entry| Ok(entry?.file_name()))
                    .collect::<Result<_, _>>()
            })
            .map_err(Error::io(&self.folder))?;
        for entry in std::fs::read_dir(dir).map_err(Error::io(dir))? {
            let path = entry.map_err(Error::io(dir))?.path();
            let name = path.file_name().unwrap_or_default();
            let text = name.to_string_lossy();
            let is_weights = text.starts_with("model") && text.contains(".safetensors");
            if is_weights && !names.iter().any(|new| new == name) {
                std::fs::remove_file(&path).map_err(Error::io(&path))?;
            }
        }
        for name in names {
            let (from, to) = (self.folder.join(&name), dir.join(&name));
            if from.is_dir() {
                // A folder takes the place of an empty one only.
                remove(&to)?;
            }
            rename(&from, &to)?;
        }
        sync(dir)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.kept {
            // The error that led here matters more than one from cleaning up; a rerun removes the folder too.
            let _ = remove(&self.folder);
        }
    }
}

/// Removes what killed runs have left in `dir` of folders whose names begin with `beginning`.
///
/// # Errors
/// A folder that cannot be read or removed.
pub(crate) fn tidy(dir: &Path, beginning: &str) -> Result<(), Error> {
    for entry in std::fs::read_dir(dir).map_err(Error::io(dir))? {
        let path = entry.map_err(Error::io(dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(beginning) && name.ends_with(".partial") {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Removes a folder that was committed, so that no part of it is ever found under its name.
///
/// # Errors
/// A folder that cannot be renamed or removed.
pub(crate) fn discard(folder: &Path) -> Result<(), Error> {
    let partial = sibling(folder, "partial");
    remove(&partial)?;
    rename(folder, &partial)?;
    remove(&partial)
}

/// Writes a file under another name in the same folder, syncs and renames it.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let partial = sibling(path, "partial");
    let write = || {
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().map_err(|source| {
        // The error that led here matters more than one from cleaning up.
        let _ = std::fs::remove_file(&partial);
        Error::Io {
            path: path.to_owned(),
            source,
        }
    })
}

/// Puts an older folder back that a run killed between two renames has left aside.
fn restore(destination: &Path) -> Result<(), Error> {
    let old = sibling(destination, "old");
    if destination.exists() || !old.exists() {
        return Ok(());
    }
    rename(&old, destination)
}

fn check_replaceable(destination: &Path) -> Result<(), Error> {
    let has = |file: &&str| destination.join(file).exists();
    if !destination.exists() || KNOWN_BY.iter().any(|files| files.iter().all(has)) {
        return Ok(());
    }
    let occupied = || Error::Occupied(destination.to_owned());
    let mut entries = std::fs::read_dir(destination).map_err(|_| occupied())?;
    match entries.next() {
        Some(_) => Err(occupied()),
        None => Ok(()),
    }
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(suffix);
    path.with_file_name(name)
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    std::fs::rename(from, to).map_err(Error::io(to))
}

fn remove(folder: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io(folder)(e)),
        _ => Ok(()),
    }
}

/// Syncs what is in `folder`, and the folder itself.
fn sync_all(folder: &Path) -> Result<(), Error> {
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if path.is_dir() {
            sync_all(&path)?;
        } else {
            sync(&path)?;
        }
    }
    sync(folder)
}

fn sync(path: &Path) -> Result<(), Error> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(Error::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(place: &Path, text: &str) -> Result<(), Error> {
        let staging = Staging::create(place)?;
        std::fs::write(staging.folder().join("config.json"), text).unwrap();
        staging.commit()
    }

    #[test]
    fn a_checkpoint_is_replaced_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("checkpoint");
        write(&place, "first").unwrap();
        write(&place, "second").unwrap();
        let read = || std::fs::read_to_string(place.join("config.json")).unwrap();
        assert_eq!(read(), "second");
        drop(Staging::create(&place).unwrap());
        assert_eq!(read(), "second");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        std::fs::rename(place.join("config.json"), place.join("thesis.txt")).unwrap();
        assert!(matches!(write(&place, "third"), Err(Error::Occupied(_))));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_killed_run_left_aside_is_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("checkpoint");
        write(&place, "old").unwrap();
        std::fs::rename(&place, dir.path().join("checkpoint.old")).unwrap();
        drop(Staging::create(&place).unwrap());
        assert_eq!(std::fs::read_to_string(place.join("config.json")).unwrap(), "old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
