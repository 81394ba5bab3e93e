use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::DraftHeader;
use super::journal::line;
use super::state::{DraftState, Record};
use crate::error::{Inner, Result};

/// Where the copy of the draft at `draft` is.
pub(crate) fn copy_of(draft: &Path) -> PathBuf {
    draft.with_added_extension("copy")
}

/// Writes the copy of the draft at `draft`: a journal of its own that begins with all that is there, so that a draft whose
/// file is lost or overwritten loses no more than a section. The
/// number of the draft's next record is `next`. It takes the place of the copy before when it is on the disk.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write_copy(draft: &Path, header: &DraftHeader, state: &DraftState, next: u64) -> Result<()> {
    let path = copy_of(draft);
    let whole = Record::Whole(Box::new(state.clone()));
    // Of two, the one whose next record has the higher number has more in it.
    let first = next.saturating_sub(2);
    let mut bytes = line(first, header)?;
    if first + 1 < next {
        bytes.extend(line(first + 1, &whole)?);
    }
    replace(&path, &bytes).map_err(|source| Inner::WriteDraft { path, source }.into())
}

/// Gives a file new bytes, all or none.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let staged = path.with_added_extension("new");
    let mut file = File::create(&staged)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&staged, path)?;
    sync_folder(path);
    Ok(())
}

/// A new name is on the disk only when its folder is. Not all systems can do that.
pub(crate) fn sync_folder(path: &Path) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Ok(folder) = File::open(folder.unwrap_or(Path::new("."))) {
        let _ = folder.sync_all();
    }
}
