//! Drafts: long texts on the disk while they are written.

mod copy;
mod header;
mod journal;
mod recovery;
mod state;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) use header::DRAFT_VERSION;
pub use header::{DraftHeader, DraftImage, DraftSettings, DraftTask, Outline};
pub use recovery::Recovery;
pub use state::{DraftState, OpenPass, OpenSection, Revision, Variant};
pub(crate) use state::{Record, join};

use self::copy::{beside, copy_of, sync_folder, write_copy};
use self::journal::{Journal, read_lines};
use crate::error::{Inner, Result};
use crate::plan::Plan;
use crate::section::{Standing, WrittenSection};

/// A draft is written at least this often while text comes.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// A long text on the disk while it is written, so that it survives whatever ends the process, and can be gone on with.
///
/// The file is a journal: a [header](DraftHeader), then what happened, a line each with its number, length and checksum. It
/// is only appended to, and every line is on the disk before the next is written, at least once a second while text comes.
/// What a kill or a loss of power leaves half written or zeroed is recognised, and what is before it is opened. A copy of
/// the state at the last finished section lies beside it (`.copy`), for the case that the file is lost as a whole.
///
/// One process at a time has a draft open.
pub struct Draft {
    journal: Journal,
    header: DraftHeader,
    state: DraftState,
    every: Duration,
    saved: Instant,
    /// Tokens of the open pass that are in the draft, until they were generated again.
    repeating: usize,
}

impl Draft {
    /// A new draft at `path`. One without text or plan that is there is replaced.
    ///
    /// # Errors
    /// A draft with text, or another file, is there, or the file cannot be written.
    pub fn create(path: &Path, header: DraftHeader) -> Result<Self> {
        if path.exists() || copy_of(path).exists() {
            let (old, _) = Self::open(path)?;
            if !old.state.is_empty() {
                return Err(Inner::DraftExists {
                    path: path.to_owned(),
                }
                .into());
            }
            old.remove()?;
        }
        let mut journal = Journal::create(path)?;
        journal.append(&header)?;
        sync_folder(path);
        write_copy(path, &header, &DraftState::default(), journal.next())?;
        Ok(Self::new(journal, header, DraftState::default()))
    }

    /// Opens a draft to go on with it, and says what was lost of it, if anything was. What is damaged is cut off; where
    /// that is more than a line that was half written, the file is kept beside as it was (`.damaged`).
    ///
    /// # Errors
    /// The file is no draft and has no copy, is of another version, is open in another process, or cannot be read or
    /// written.
    pub fn open(path: &Path) -> Result<(Self, Recovery)> {
        let copy = copy_of(path);
        if !path.exists() && !copy.exists() {
            let source = std::io::Error::from(std::io::ErrorKind::NotFound);
            let path = path.to_owned();
            return Err(Inner::ReadDraft { path, source }.into());
        }
        let (mut journal, bytes) = Journal::open(path)?;
        let own = Contents::read(path, &bytes)?;
        let copied = match fs::read(&copy) {
            Ok(bytes) => Contents::read(&copy, &bytes)?,
            Err(_) => None,
        };
        let end = own.as_ref().map_or(0, |own| own.end);
        let copied = copied.filter(|copied| own.as_ref().is_none_or(|own| own.next < copied.next));
        let recovery = Recovery::of(&bytes[end..], copied.is_some());
        if recovery.is_more_than_torn(&bytes[end..]) {
            let kept = beside(path, ".damaged");
            fs::write(&kept, &bytes).map_err(|source| Inner::WriteDraft { path: kept, source })?;
        }
        if let Some(Contents {
            header, state, next, ..
        }) = copied
        {
            journal.go_on(0, next.saturating_sub(2))?;
            journal.append(&header)?;
            if journal.next() < next {
                journal.append(&Record::Whole(Box::new(state.clone())))?;
            }
            return Ok((Self::new(journal, header, state), recovery));
        }
        let Some(Contents {
            header,
            state,
            next,
            end,
        }) = own
        else {
            let (path, zeroed) = (path.to_owned(), recovery.zeroed);
            return Err(Inner::NoDraft { path, zeroed }.into());
        };
        journal.go_on(end, next)?;
        Ok((Self::new(journal, header, state), recovery))
    }

    fn new(journal: Journal, header: DraftHeader, state: DraftState) -> Self {
        let pass = state.open.as_ref().and_then(|open| open.pass.as_ref());
        Self {
            repeating: pass.map_or(0, |pass| pass.begun.token_ids.len()),
            journal,
            header,
            state,
            every: SAVE_EVERY,
            saved: Instant::now(),
        }
    }

    /// Writes the draft this often while text comes, instead of every second.
    #[must_use]
    pub fn save_every(mut self, every: Duration) -> Self {
        self.every = every;
        self
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        self.journal.path()
    }

    /// What it is of.
    pub fn header(&self) -> &DraftHeader {
        &self.header
    }

    /// What it holds.
    pub fn state(&self) -> &DraftState {
        &self.state
    }

    /// Removes its files, when the text is where it belongs.
    ///
    /// # Errors
    /// They cannot be removed.
    pub fn remove(self) -> Result<()> {
        // The copy goes first: alone it would be taken for a draft whose file was lost.
        for path in [copy_of(self.path()), self.path().to_owned()] {
            let removed = fs::remove_file(&path);
            match removed {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Inner::WriteDraft { path, source }.into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn planned(&mut self, plan: &Plan) -> Result<()> {
        self.record(Record::Planned(plan.clone()))
    }

    pub(crate) fn opened(&mut self, index: usize, revision: Option<Revision>) -> Result<()> {
        self.repeating = 0;
        self.record(Record::Opened { index, revision })
    }

    /// Keeps where the open section's pass stands, if the last time was long enough ago or it has to be `now`.
    pub(crate) fn written(&mut self, standing: Standing<'_>, now: bool) -> Result<()> {
        // What is generated once more is in the draft as it was, and further than it is now.
        if standing.token_ids.len() < self.repeating {
            return Ok(());
        }
        self.repeating = 0;
        if !now && self.saved.elapsed() < self.every {
            return Ok(());
        }
        let pass = self.state.open.as_ref().and_then(|open| open.pass.as_ref());
        let (ids, text) = pass.map_or((&[][..], ""), |pass| (&pass.begun.token_ids, &pass.text));
        let kept_tokens = ids
            .iter()
            .zip(standing.token_ids)
            .take_while(|(a, b)| a == b)
            .count();
        let kept_bytes = equal_bytes(text, standing.text);
        self.record(Record::Written {
            kept_tokens,
            token_ids: standing.token_ids[kept_tokens..].to_vec(),
            kept_bytes,
            text: standing.text[kept_bytes..].to_owned(),
            sampler: standing.sampler,
        })
    }

    pub(crate) fn pass_ended(&mut self, text: &str, token_ids: &[u32]) -> Result<()> {
        self.repeating = 0;
        self.record(Record::PassEnded {
            text: text.to_owned(),
            token_ids: token_ids.to_vec(),
        })
    }

    pub(crate) fn finished(&mut self, section: &WrittenSection) -> Result<()> {
        self.repeating = 0;
        self.record(Record::Finished(section.clone()))?;
        write_copy(self.path(), &self.header, &self.state, self.journal.next())
    }

    fn record(&mut self, record: Record) -> Result<()> {
        self.journal.append(&record)?;
        self.saved = Instant::now();
        let fits = self.state.apply(record);
        fits.ok_or_else(|| Inner::Record("it does not follow from the one before".to_owned()).into())
    }
}

/// Bytes of whole characters that both begin with.
fn equal_bytes(a: &str, b: &str) -> usize {
    let differs = a.chars().zip(b.chars()).take_while(|(a, b)| a == b);
    differs.map(|(character, _)| character.len_utf8()).sum()
}

/// What can be read of a draft's file.
struct Contents {
    header: DraftHeader,
    state: DraftState,
    /// Number of the next record.
    next: u64,
    /// Bytes that were read.
    end: usize,
}

impl Contents {
    /// Reads up to the first record that is damaged or does not fit; `None` where not even the header can be read.
    ///
    /// # Errors
    /// The draft is of another version.
    fn read(path: &Path, bytes: &[u8]) -> Result<Option<Self>> {
        let mut lines = read_lines::<serde_json::Value>(bytes).into_iter();
        let Some(first) = lines.next() else {
            return Ok(None);
        };
        let version = first.record.get("lwv_draft").cloned().unwrap_or_default();
        if version != DRAFT_VERSION {
            let (path, found) = (path.to_owned(), version.to_string());
            return Err(Inner::DraftVersion { path, found }.into());
        }
        let Ok(header) = serde_json::from_value(first.record) else {
            return Ok(None);
        };
        let mut contents = Self {
            header,
            state: DraftState::default(),
            next: first.number + 1,
            end: first.end,
        };
        for line in lines {
            let record = serde_json::from_value(line.record).ok();
            if record.and_then(|record| contents.state.apply(record)).is_none() {
                break;
            }
            (contents.next, contents.end) = (line.number + 1, line.end);
        }
        Ok(Some(contents))
    }
}
