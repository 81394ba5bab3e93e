//! Drafts: long texts on the disk while they are written.

mod copy;
mod header;
#[cfg(test)]
mod interruptions;
mod journal;
mod recovery;
mod state;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) use header::{DRAFT_VERSION, check_engine};
pub use header::{DraftHeader, DraftImage, DraftSettings, DraftTask, Outline};
pub use recovery::Recovery;
pub use state::{DraftState, OpenPass, OpenSection, Revision, Variant};
pub(crate) use state::{Record, join};

use self::copy::{copy_of, sync_folder, write_copy};
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
        if bytes[end..].contains(&b'\n') {
            let kept = path.with_added_extension("damaged");
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
            loop_attempts: standing.loop_attempts,
            went_back_to: standing.went_back_to.to_vec(),
        })
    }

    pub(crate) fn pass_ended(&mut self, text: &str, token_ids: &[u32], looped: bool) -> Result<()> {
        self.repeating = 0;
        self.record(Record::PassEnded {
            text: text.to_owned(),
            token_ids: token_ids.to_vec(),
            looped,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{author, processor};
    use crate::{
        Error, ErrorKind, FinishReason, Manuscript, SamplerSettings, Writer, WriterEvent, WriterSettings,
    };

    fn settings(deterministic: bool) -> WriterSettings {
        WriterSettings {
            sampler: SamplerSettings {
                temperature: 1.0,
                seed: 3,
                ..SamplerSettings::default()
            },
            deterministic,
            // The made-up author repeats itself.
            loop_guard: false,
            ..WriterSettings::default()
        }
    }

    pub(super) fn header(outline: Outline) -> DraftHeader {
        let task = DraftTask {
            instruction: "Write about bees.".to_owned(),
            ..DraftTask::default()
        };
        let settings = DraftSettings {
            sampler: SamplerSettings::default(),
            max_section_tokens: None,
            stop: Vec::new(),
            loop_guard: false,
            lookup_tokens: 0,
            deterministic: true,
            prefill_chunk: 8,
            threads: 1,
            device: "cpu".to_owned(),
        };
        DraftHeader::new("a bundle".to_owned(), task, outline, settings, None)
    }

    fn outline() -> Outline {
        let (words, sections) = (60, Some(3));
        Outline::ToMake { words, sections }
    }

    /// A writer on a decoder whose choices depend on its whole history.
    fn writer(settings: WriterSettings, draft: Draft) -> Writer {
        let task = draft.header().task.open().unwrap();
        let session = author(&["Bees", "Wasps", "Ants"]).doubtful().session();
        let mut writer = Writer::with_session(processor(), session, task, settings);
        writer.keep(draft).unwrap();
        writer
    }

    fn new_draft(folder: &Path) -> Draft {
        let path = folder.join("draft");
        Draft::create(&path, header(outline()))
            .unwrap()
            .save_every(Duration::ZERO)
    }

    /// A text that was written at once, and its draft's file with a record for every token.
    fn written(deterministic: bool) -> (Manuscript, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let manuscript = writer(settings(deterministic), new_draft(folder.path()))
            .write_draft(|_| ())
            .unwrap();
        (manuscript, fs::read(folder.path().join("draft")).unwrap())
    }

    /// What comes of a draft's file when it is gone on with.
    fn gone_on_with(bytes: &[u8], deterministic: bool) -> Manuscript {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("draft");
        fs::write(&path, bytes).unwrap();
        let (draft, recovery) = Draft::open(&path).unwrap();
        assert!(recovery.is_clean(), "{recovery}");
        let mut shown = String::new();
        let on_event = |event| match event {
            WriterEvent::Text(text) => shown.push_str(&text),
            WriterEvent::Generation(crate::Event::Rewound { bytes, .. }) => {
                shown.truncate(shown.len() - bytes)
            }
            WriterEvent::Generation(
                crate::Event::Token { text, .. } | crate::Event::Finished { text, .. },
            ) => {
                shown.push_str(&text);
            }
            _ => {}
        };
        let manuscript = writer(settings(deterministic), draft)
            .write_draft(on_event)
            .unwrap();
        assert_eq!(shown, manuscript.text());
        manuscript
    }

    /// The file's beginnings that end with a record, with the header at least.
    fn beginnings(bytes: &[u8]) -> Vec<&[u8]> {
        let lines = read_lines::<serde_json::Value>(bytes);
        lines.iter().map(|line| &bytes[..line.end]).collect()
    }

    #[test]
    fn a_deterministic_text_is_the_same_wherever_it_was_interrupted() {
        let (whole, bytes) = written(true);
        assert!(whole.is_complete() && whole.words() >= 51);
        let beginnings = beginnings(&bytes);
        assert!(beginnings.len() > 200, "{}", beginnings.len());
        for beginning in beginnings.iter().step_by(17).chain(beginnings.last()) {
            assert_eq!(gone_on_with(beginning, true), whole);
        }
    }

    /// The author repeats itself, so the guard goes back again and again.
    #[test]
    fn a_text_that_went_back_goes_on_as_if_there_had_been_no_interruption() {
        let guarded = || WriterSettings {
            loop_guard: true,
            ..settings(true)
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("draft");
        let mut rewinds = 0;
        let whole = writer(guarded(), new_draft(folder.path()))
            .write_draft(|event| {
                rewinds += usize::from(matches!(
                    event,
                    WriterEvent::Generation(crate::Event::Rewound { .. })
                ));
            })
            .unwrap();
        assert!(rewinds > 3, "{rewinds}");
        let bytes = fs::read(&path).unwrap();
        for beginning in beginnings(&bytes).iter().step_by(31) {
            fs::remove_file(copy_of(&path)).unwrap_or_default();
            fs::write(&path, beginning).unwrap();
            let (draft, _) = Draft::open(&path).unwrap();
            assert_eq!(writer(guarded(), draft).write_draft(|_| ()).unwrap(), whole);
        }
    }

    #[test]
    fn other_texts_are_gone_on_with_too_but_may_differ() {
        let (whole, bytes) = written(false);
        let beginnings = beginnings(&bytes);
        let others: Vec<Manuscript> = beginnings
            .iter()
            .step_by(40)
            .map(|part| gone_on_with(part, false))
            .collect();
        assert!(others.iter().all(Manuscript::is_complete));
        assert!(
            others.iter().any(|other| *other != whole),
            "or the decoder has no doubts"
        );
    }

    #[test]
    fn every_beginning_of_a_file_opens_as_it_was_then() {
        let (_, bytes) = written(true);
        let path = Path::new("draft");
        let mut before = DraftState::default();
        // Header, plan and the first tokens; every byte of the whole would take minutes.
        let bytes = &bytes[..beginnings(&bytes)[40].len()];
        for length in 0..bytes.len() {
            match Contents::read(path, &bytes[..length]).unwrap() {
                None => assert!(!bytes[..length].contains(&b'\n')),
                Some(contents) => {
                    let words = contents.state.so_far().words();
                    assert!(words >= before.so_far().words(), "at {length}");
                    assert_eq!(
                        contents.end,
                        bytes[..length].iter().rposition(|b| *b == b'\n').unwrap() + 1
                    );
                    before = contents.state;
                }
            }
        }
    }

    #[test]
    fn a_file_that_is_lost_opens_from_its_copy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("draft");
        let whole = writer(settings(true), new_draft(folder.path()))
            .write_draft(|_| ())
            .unwrap();
        let good = fs::read(&path).unwrap();
        let (zeroed, torn) = (vec![0; good.len()], good[..good.len() / 3].to_vec());
        let mut overwritten = good.clone();
        overwritten[100..200].fill(b'x');
        for (bytes, what) in [
            (zeroed, "zeros"),
            (torn, "copy"),
            (overwritten, "damaged"),
            (Vec::new(), "empty"),
        ] {
            fs::write(&path, &bytes).unwrap();
            let (draft, recovery) = Draft::open(&path).unwrap();
            assert!(
                recovery.from_copy && recovery.to_string().contains(what),
                "{recovery}"
            );
            assert_eq!(draft.state().manuscript, whole);
            drop(draft);
            let (draft, recovery) = Draft::open(&path).unwrap();
            assert_eq!(
                (recovery.is_clean(), &draft.state().manuscript),
                (true, &whole),
                "it is mended"
            );
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(Draft::open(&path).unwrap().0.state().manuscript, whole);
        fs::write(&path, [0; 64]).unwrap();
        fs::remove_file(copy_of(&path)).unwrap();
        let error = Draft::open(&path).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Draft);
        assert!(error.to_string().contains("zeros only"), "{error}");
    }

    #[test]
    fn a_draft_with_text_is_not_overwritten_and_one_of_another_bundle_not_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("draft");
        drop(new_draft(folder.path()));
        writer(settings(true), new_draft(folder.path()))
            .write_draft(|_| ())
            .unwrap();
        let error = Draft::create(&path, header(outline())).err().unwrap().to_string();
        assert!(error.contains("--resume"), "{error}");
        let newer =
            String::from_utf8(journal::line(0, &serde_json::json!({"lwv_draft": 99})).unwrap()).unwrap();
        fs::write(&path, newer).unwrap();
        assert!(
            Draft::open(&path)
                .err()
                .unwrap()
                .to_string()
                .contains("version 99")
        );
        fs::write(&path, "a text\n").unwrap();
        fs::remove_file(copy_of(&path)).unwrap();
        let error: Error = Draft::create(&path, header(outline())).err().unwrap();
        assert!(error.to_string().contains("no draft"), "{error}");
        assert_eq!(
            fs::read(&path).unwrap(),
            b"a text\n",
            "what is no draft is left as it is"
        );
    }

    #[test]
    fn a_cancelled_text_is_gone_on_with_and_cancelling_again_loses_nothing() {
        let (whole, _) = written(true);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("draft");
        let mut draft = Some(Draft::create(&path, header(outline())).unwrap());
        // The second time it is cancelled before all that is there was generated again.
        for (stop_at, there) in [(60, 60), (5, 60), (90, 90)] {
            let draft = draft.take().unwrap_or_else(|| Draft::open(&path).unwrap().0);
            let settings = settings(true);
            let cancel = settings.cancel.clone();
            let mut tokens = 0;
            let manuscript = writer(settings, draft)
                .write_draft(|event| {
                    tokens += usize::from(matches!(
                        event,
                        WriterEvent::Generation(crate::Event::Token { .. })
                    ));
                    if tokens == stop_at {
                        cancel.cancel();
                    }
                })
                .unwrap();
            assert!(manuscript.is_cancelled());
            let (draft, _) = Draft::open(&path).unwrap();
            let so_far = draft.state().so_far();
            assert_eq!(so_far.sections.last().unwrap().reason, FinishReason::Cancelled);
            let tokens: usize = so_far
                .sections
                .iter()
                .map(|section| section.token_ids.len())
                .sum();
            assert_eq!(tokens, there);
        }
        let (draft, _) = Draft::open(&path).unwrap();
        let mut writer = writer(settings(true), draft);
        assert_eq!(writer.write_draft(|_| ()).unwrap(), whole);
        writer.into_draft().unwrap().remove().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn text_that_is_taken_back_is_no_longer_in_the_draft() {
        let folder = tempfile::tempdir().unwrap();
        let mut draft = new_draft(folder.path());
        draft.planned(&Plan::in_one_piece(10)).unwrap();
        draft.opened(0, None).unwrap();
        let sampler = crate::Sampler::new(crate::SamplerSettings::default())
            .unwrap()
            .state();
        for (text, token_ids) in [
            ("Óne", &[1, 2, 3][..]),
            ("Óne two", &[1, 2, 3, 4]),
            ("Ò", &[1, 5]),
            ("Ò!", &[1, 5, 6]),
        ] {
            draft
                .written(
                    Standing {
                        text,
                        token_ids,
                        sampler,
                        loop_attempts: crate::LoopAttempts::default(),
                        went_back_to: &[],
                    },
                    false,
                )
                .unwrap();
        }
        let state = draft.state().clone();
        drop(draft);
        let (draft, _) = Draft::open(&folder.path().join("draft")).unwrap();
        let pass = draft.state().open.as_ref().unwrap().pass.as_ref().unwrap();
        assert_eq!(
            (pass.text.as_str(), &pass.begun.token_ids[..]),
            ("Ò!", &[1, 5, 6][..])
        );
        assert_eq!(*draft.state(), state);
    }

    #[test]
    fn sections_are_rewritten_and_extended_and_stay_as_they_were_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("draft");
        let mut writer = writer(settings(true), new_draft(folder.path()));
        let whole = writer.write_draft(|_| ()).unwrap();
        let sampler = |seed| SamplerSettings {
            seed,
            ..settings(true).sampler
        };
        let rewrite = Revision {
            extend_by: None,
            sampler: sampler(9),
        };
        let rewritten = writer.revise(1, rewrite, |_| ()).unwrap();
        assert_ne!(rewritten.sections[1].text, whole.sections[1].text);
        assert_eq!(
            (&rewritten.sections[0], &rewritten.sections[2]),
            (&whole.sections[0], &whole.sections[2])
        );
        let extend = Revision {
            extend_by: Some(40),
            sampler: sampler(3),
        };
        let extended = writer.revise(2, extend.clone(), |_| ()).unwrap();
        let (before, after) = (&whole.sections[2], &extended.sections[2]);
        assert!(after.text.starts_with(&before.text) && (34..=46).contains(&(after.words - before.words)));
        assert_eq!(after.words, crate::count_words(&after.text));
        for (index, told) in [(3, "`4`".to_owned()), (usize::MAX, format!("`{}`", usize::MAX))] {
            let refused = writer.revise(index, extend.clone(), |_| ()).unwrap_err();
            assert!(refused.to_string().contains(&told), "{refused}");
        }
        drop(writer);
        let (draft, _) = Draft::open(&path).unwrap();
        let variants: Vec<(usize, &str)> = draft
            .state()
            .variants
            .iter()
            .map(|old| (old.index, old.section.text.as_str()))
            .collect();
        assert_eq!(
            variants,
            [(1, whole.sections[1].text.as_str()), (2, before.text.as_str())]
        );
        assert_eq!(draft.state().manuscript, extended);
    }

    #[test]
    fn a_revision_that_was_interrupted_is_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("draft");
        let revision = Revision {
            extend_by: Some(30),
            sampler: settings(true).sampler,
        };
        let mut first = writer(settings(true), new_draft(folder.path()));
        first.write_draft(|_| ()).unwrap();
        drop(first);
        let before = fs::read(&path).unwrap();
        let (draft, _) = Draft::open(&path).unwrap();
        let whole = writer(settings(true), draft.save_every(Duration::ZERO))
            .revise(1, revision, |_| ())
            .unwrap();
        let bytes = fs::read(&path).unwrap();
        let parts = beginnings(&bytes);
        let begun = parts.iter().filter(|part| part.len() > before.len());
        for part in begun.step_by(31) {
            fs::remove_file(copy_of(&path)).unwrap_or_default();
            fs::write(&path, part).unwrap();
            let (draft, _) = Draft::open(&path).unwrap();
            assert_eq!(writer(settings(true), draft).write_draft(|_| ()).unwrap(), whole);
        }
    }
}
