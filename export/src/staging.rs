use std::path::{Path, PathBuf};

use lwv_model::Manifest;

use crate::Error;

/// A folder that becomes the bundle when it is whole: it is built under another name beside the bundle's place, and
/// removed if it is dropped before.
pub(crate) struct Staging {
    folder: PathBuf,
    destination: PathBuf,
    kept: bool,
}

impl Staging {
    /// Makes an empty folder beside `destination`, removing what a killed export has left there.
    pub(crate) fn create(destination: &Path) -> Result<Self, Error> {
        let destination = absolute(destination)?;
        check_replaceable(&destination)?;
        let folder = sibling(&destination, "partial");
        remove(&folder)?;
        std::fs::create_dir_all(folder.join("onnx")).map_err(Error::io("create", &folder))?;
        Ok(Self {
            folder,
            destination,
            kept: false,
        })
    }

    /// Where files are to be written.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Gives the folder its place, in that of an older bundle where there is one.
    pub(crate) fn commit(mut self) -> Result<(), Error> {
        let old = sibling(&self.destination, "old");
        remove(&old)?;
        if self.destination.exists() {
            std::fs::rename(&self.destination, &old).map_err(Error::io("move aside", &self.destination))?;
        }
        std::fs::rename(&self.folder, &self.destination).map_err(Error::io("write", &self.destination))?;
        self.kept = true;
        sync_folder(self.destination.parent().unwrap_or(Path::new("/")))?;
        remove(&old)
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

/// A bundle is replaced, an empty folder is used, anything else is somebody's.
fn check_replaceable(destination: &Path) -> Result<(), Error> {
    if !destination.exists() || destination.join(Manifest::FILE).exists() {
        return Ok(());
    }
    let mut entries =
        std::fs::read_dir(destination).map_err(|_| Error::NotABundle(destination.to_owned()))?;
    if entries.next().is_some() {
        Err(Error::NotABundle(destination.to_owned()))
    } else {
        Ok(())
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(Error::io("find", path))
}

fn sibling(destination: &Path, suffix: &str) -> PathBuf {
    let mut name = destination.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(suffix);
    destination.with_file_name(name)
}

fn remove(folder: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", folder)(e)),
        _ => Ok(()),
    }
}

fn sync_folder(folder: &Path) -> Result<(), Error> {
    let handle = std::fs::File::open(folder).map_err(Error::io("open", folder))?;
    handle.sync_all().map_err(Error::io("sync", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_replaces_a_bundle_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().join("bundle");
        let write = |name: &str| {
            let staging = Staging::create(&bundle)?;
            std::fs::write(staging.folder().join(Manifest::FILE), name).unwrap();
            staging.commit()
        };
        write("first").unwrap();
        write("second").unwrap();
        assert_eq!(
            std::fs::read_to_string(bundle.join(Manifest::FILE)).unwrap(),
            "second"
        );
        std::fs::remove_file(bundle.join(Manifest::FILE)).unwrap();
        assert!(matches!(write("third"), Err(Error::NotABundle(_))));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_export_leaves_nothing_and_the_old_bundle_whole() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().join("bundle");
        std::fs::create_dir(&bundle).unwrap();
        std::fs::write(bundle.join(Manifest::FILE), "old").unwrap();
        std::fs::create_dir(dir.path().join("bundle.partial")).unwrap();
        drop(Staging::create(&bundle).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(
            std::fs::read_to_string(bundle.join(Manifest::FILE)).unwrap(),
            "old"
        );
    }
}
