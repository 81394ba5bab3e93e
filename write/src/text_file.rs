use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A text file that appears under its name when it is whole. Until then it grows under a temporary name beside it,
/// where it is left if the process ends early.
pub(crate) struct TextFile {
    path: PathBuf,
    temporary: PathBuf,
    file: File,
}

impl TextFile {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let temporary = beside(path, ".partial");
        let file =
            File::create(&temporary).with_context(|| format!("cannot create `{}`", temporary.display()))?;
        Ok(Self {
            path: path.to_owned(),
            temporary,
            file,
        })
    }

    /// Where the text is until it is whole.
    pub(crate) fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Appends text. It is the system's at once, so that it is there even if this process is killed; tokens come too
    /// slowly for a buffer to pay.
    pub(crate) fn push(&mut self, text: &str) -> Result<()> {
        let written = self.file.write_all(text.as_bytes());
        written.with_context(|| format!("cannot write `{}`; is the disk full?", self.temporary.display()))
    }

    /// Takes back the last `bytes` bytes.
    pub(crate) fn take_back(&mut self, bytes: usize) -> Result<()> {
        let taken = self
            .file
            .stream_position()
            .map(|length| length.saturating_sub(bytes as u64))
            .and_then(|length| self.file.set_len(length).map(|()| length))
            .and_then(|length| self.file.seek(SeekFrom::Start(length)));
        taken.map(|_| ()).with_context(|| {
            format!(
                "cannot shorten `{}`; can the file be changed?",
                self.temporary.display()
            )
        })
    }

    /// Brings the text to the disk and leaves the file under its temporary name.
    pub(crate) fn keep(mut self) -> Result<PathBuf> {
        self.sync()?;
        Ok(self.temporary)
    }

    /// Gives the file its name.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.sync()?;
        std::fs::rename(&self.temporary, &self.path).with_context(|| {
            format!(
                "cannot rename `{}` to `{}`",
                self.temporary.display(),
                self.path.display()
            )
        })?;
        // The new name is on the disk only when the folder is.
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Ok(folder) = File::open(folder.unwrap_or(Path::new("."))) {
            let _ = folder.sync_all();
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        let synced = self.file.sync_all();
        synced.with_context(|| format!("cannot write `{}`; is the disk full?", self.temporary.display()))
    }
}

/// `path` with `ending` behind its whole name.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_its_name_only_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.md");
        let mut file = TextFile::create(&path).unwrap();
        file.push("one tree").unwrap();
        file.take_back(4).unwrap();
        assert!(!path.exists());
        file.push("two").unwrap();
        file.finish().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one two");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_text_that_is_not_whole_is_kept_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.md");
        std::fs::write(&path, "old").unwrap();
        let mut file = TextFile::create(&path).unwrap();
        file.push("new").unwrap();
        let kept = file.keep().unwrap();
        assert_eq!(std::fs::read_to_string(kept).unwrap(), "new");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
    }
}
