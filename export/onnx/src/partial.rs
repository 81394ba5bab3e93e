//! Files that appear under their name only when they are complete.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
};

use crate::{Error, FileDigest, digest::digest};

/// Writes a file so that `path` holds either what it held before or all of `bytes`, whatever happens.
///
/// The bytes go to `path` with `.partial` added, in the same folder, reach the disk, and are then renamed. A
/// `.partial` file that an interrupted run left behind is overwritten; two writers of one path at a time
/// are not supported.
///
/// # Errors
///
/// [`Error::Io`] when the file cannot be created, written, flushed or renamed; the partial file is removed.
pub fn write_atomically(path: impl AsRef<Path>, bytes: &[u8]) -> Result<FileDigest, Error> {
    let path = path.as_ref();
    let (mut partial, mut file) = Partial::create(path)?;
    file.write_all(bytes).map_err(Error::io("write", path))?;
    partial.commit(file)?;
    Ok(digest(bytes))
}

/// A file that is being written. Dropping it removes the file.
#[derive(Debug)]
pub(crate) struct Partial {
    path: PathBuf,
    temporary: PathBuf,
    committed: bool,
}

impl Partial {
    /// Creates the file under its temporary name; the handle is the caller's to write to.
    pub(crate) fn create(path: &Path) -> Result<(Self, File), Error> {
        let temporary = temporary_path(path)?;
        let file = File::create(&temporary).map_err(Error::io("create", &temporary))?;
        Ok((
            Self {
                path: path.to_owned(),
                temporary,
                committed: false,
            },
            file,
        ))
    }

    /// The name that the file will have.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until the file's contents are on disk, and gives it its name.
    pub(crate) fn commit(&mut self, file: File) -> Result<(), Error> {
        file.sync_all().map_err(Error::io("flush", &self.temporary))?;
        // Windows renames no open file.
        drop(file);
        fs::rename(&self.temporary, &self.path).map_err(Error::io("rename into place", &self.path))?;
        self.committed = true;
        sync_folder(&self.path)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.committed {
            // Nobody is left to tell, and a leftover is overwritten by the next run.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

fn temporary_path(path: &Path) -> Result<PathBuf, Error> {
    let mut name: OsString = path
        .file_name()
        .ok_or_else(|| Error::FileName {
            path: path.to_owned(),
        })?
        .to_owned();
    name.push(".partial");
    Ok(path.with_file_name(name))
}

/// Makes a rename last: on Unix a file's name is part of its folder, which is flushed by itself.
#[cfg(unix)]
fn sync_folder(path: &Path) -> Result<(), Error> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(Error::io("flush", folder))
}

/// Windows offers no handle through which to flush a folder, and its file systems journal renames.
#[cfg(not(unix))]
fn sync_folder(_path: &Path) -> Result<(), Error> {
    Ok(())
}

#[cfg(test)]
pub(crate) fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_replaces_whole_files_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        fs::write(
            folder.path().join("config.json.partial"),
            b"left by an interrupted run",
        )
        .unwrap();
        write_atomically(&path, b"first").unwrap();
        assert_eq!(write_atomically(&path, b"abc").unwrap(), digest(b"abc"));
        assert_eq!(fs::read(&path).unwrap(), b"abc");
        assert_eq!(names_in(folder.path()), ["config.json"]);
    }

    #[test]
    fn nothing_shows_before_commit_and_nothing_stays_after_drop() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let (partial, file) = Partial::create(&path).unwrap();
        assert_eq!(names_in(folder.path()), ["data.partial"]);
        drop(file);
        drop(partial);
        assert!(names_in(folder.path()).is_empty());
    }

    #[test]
    fn failed_rename_leaves_no_partial_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("occupied");
        fs::create_dir(&path).unwrap();
        let error = write_atomically(&path, b"abc").unwrap_err();
        assert!(
            matches!(&error, Error::Io { action: "rename into place", path: named, .. } if *named == path)
        );
        assert_eq!(names_in(folder.path()), ["occupied"]);
    }

    #[test]
    fn path_without_file_name_is_refused() {
        assert!(matches!(write_atomically("..", b""), Err(Error::FileName { .. })));
    }

    #[test]
    fn missing_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing").join("data");
        let error = write_atomically(&path, b"").unwrap_err();
        assert!(error.to_string().contains("missing"), "{error}");
    }
}
