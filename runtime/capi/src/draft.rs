use std::ffi::{CString, c_char};
use std::path::Path;
use std::sync::Mutex;

use lwv_runtime::{CancelToken, Draft, Engine, Recovery, Writer};

use crate::argument::{clear, close, flag, open, path, required};
use crate::border::{c_string, call};
use crate::draft_header::settings_of;
use crate::failure::{Failure, Result};
use crate::generation::LWV_LOOP_GUARD;
use crate::session::lock;
use crate::status::lwv_status;
use crate::structure::{Structure, write};
use crate::text::lwv_text;
use crate::writer::LWV_DETERMINISTIC;

/// A long text on the disk while it is written, so that it survives whatever ends the process. It is a journal in a file, which
/// is appended to and synced once a second while text comes; a copy as of the last finished section lies beside it (`.copy`).
/// One handle at a time has it, in all processes.
pub struct lwv_draft {
    place: Mutex<Option<Draft>>,
    instruction: CString,
    system: Option<CString>,
    engine: CString,
    device: CString,
    loss: Option<CString>,
}

/// What a draft is of and how far it came. Set `size` before it is asked for. The texts belong to the draft.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lwv_draft_info {
    /// Bytes of this structure.
    pub size: usize,
    /// What the reader asks for.
    pub instruction: *const c_char,
    /// What the model is told before all else, or NULL.
    pub system: *const c_char,
    /// `id` of the engine that it was begun with, as in `lwv_engine_info`. No other one goes on with it.
    pub engine: *const c_char,
    /// The device that it was begun on, for `lwv_engine_options`. A deterministic text is the same only where device, threads
    /// and chunk of prefill are; another chunk is refused.
    pub device: *const c_char,
    /// The threads that it was begun with.
    pub threads: usize,
    /// The chunk of prefill that it was begun with.
    pub prefill_chunk: usize,
    /// By which of `LWV_DETERMINISTIC` and `LWV_LOOP_GUARD` it is written.
    pub flags: u64,
    /// Words that the whole text is to have.
    pub words: usize,
    /// Words that are there, those of an unfinished section too.
    pub written_words: usize,
    /// Sections of the plan; 0 until there is one.
    pub sections: usize,
    /// Sections that are finished.
    pub finished_sections: usize,
    /// 1 if nothing is left to be written, else 0.
    pub is_whole: u64,
    /// What was lost when the draft was opened, in words for people; NULL if nothing was.
    pub loss: *const c_char,
}

// SAFETY: `repr(C)`, `size` first, numbers of at most 8 bytes and pointers.
unsafe impl Structure for lwv_draft_info {
    fn usual() -> Self {
        Self {
            size: size_of::<Self>(),
            instruction: std::ptr::null(),
            system: std::ptr::null(),
            engine: std::ptr::null(),
            device: std::ptr::null(),
            threads: 0,
            prefill_chunk: 0,
            flags: 0,
            words: 0,
            written_words: 0,
            sections: 0,
            finished_sections: 0,
            is_whole: 0,
            loss: std::ptr::null(),
        }
    }
}

impl lwv_draft {
    pub(crate) fn new(draft: Draft, recovery: &Recovery) -> Self {
        let header = draft.header();
        Self {
            instruction: c_string(&header.task.instruction),
            system: header.task.system.as_deref().map(c_string),
            engine: c_string(&header.bundle),
            device: c_string(&header.settings.device),
            loss: (!recovery.is_clean()).then(|| c_string(&recovery.to_string())),
            place: Mutex::new(Some(draft)),
        }
    }

    /// Looks at the draft, if nobody writes it.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&Draft) -> Result<T>) -> Result<T> {
        work(lock(&self.place, "draft")?.as_ref().ok_or_else(removed)?)
    }

    /// Lets a writer on `engine` work on the draft, which comes back whatever the work comes to.
    pub(crate) fn write<T>(
        &self,
        engine: &Engine,
        cancel: CancelToken,
        work: impl FnOnce(&mut Writer) -> Result<T>,
    ) -> Result<T> {
        let mut place = lock(&self.place, "draft")?;
        let draft = place.as_ref().ok_or_else(removed)?;
        let header = draft.header();
        let mut writer = Writer::new(engine, header.task.open()?, settings_of(header, cancel))?;
        writer.check_draft(draft)?;
        writer.keep(place.take().ok_or_else(removed)?)?;
        let outcome = work(&mut writer);
        *place = writer.into_draft();
        outcome
    }

    fn info(&self, draft: &Draft) -> lwv_draft_info {
        let (header, state) = (draft.header(), draft.state());
        let (settings, manuscript) = (&header.settings, &state.manuscript);
        lwv_draft_info {
            size: size_of::<lwv_draft_info>(),
            instruction: self.instruction.as_ptr(),
            system: pointer(self.system.as_ref()),
            engine: self.engine.as_ptr(),
            device: self.device.as_ptr(),
            threads: settings.threads,
            prefill_chunk: settings.prefill_chunk,
            flags: flag(settings.deterministic, LWV_DETERMINISTIC)
                | flag(settings.loop_guard, LWV_LOOP_GUARD),
            words: header.outline.words(),
            written_words: state.so_far().words(),
            sections: manuscript.plan.sections.len(),
            finished_sections: manuscript.sections.len(),
            is_whole: u64::from(
                !manuscript.sections.is_empty() && manuscript.is_complete() && state.open.is_none(),
            ),
            loss: pointer(self.loss.as_ref()),
        }
    }
}

fn pointer(text: Option<&CString>) -> *const c_char {
    text.map_or(std::ptr::null(), |text| text.as_ptr())
}

fn removed() -> Failure {
    Failure::new(lwv_status::Draft, "the draft was removed; close it")
}

/// Opens the draft in `file`, to look at it or to go on with it. What is damaged at its end is cut off, see `loss` in
/// `lwv_draft_info`. `LWV_STATUS_DRAFT` where there is none or another handle has it. Needs no engine and no ONNX Runtime.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_draft_open(file: *const c_char, draft: *mut *mut lwv_draft) -> lwv_status {
    call(|| {
        clear(draft, "draft")?;
        open(opened(path(file, "file")?)?, draft);
        Ok(())
    })
}

fn opened(file: &Path) -> Result<lwv_draft> {
    let (draft, recovery) = Draft::open(file)?;
    Ok(lwv_draft::new(draft, &recovery))
}

/// Tells what a draft is of and how far it came.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_draft_describe(
    draft: *const lwv_draft,
    info: *mut lwv_draft_info,
) -> lwv_status {
    call(|| {
        let draft = required(draft, "draft")?;
        write(draft.with(|held| Ok(draft.info(held)))?, info, "info")
    })
}

/// Gives the text as far as it came, headings included. A section that is being rewritten or extended is what it was.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_draft_text(draft: *const lwv_draft, text: *mut *mut lwv_text) -> lwv_status {
    call(|| {
        clear(text, "text")?;
        let so_far = required(draft, "draft")?.with(|draft| Ok(draft.state().so_far().text()))?;
        open(lwv_text::new(so_far), text);
        Ok(())
    })
}

/// Removes a draft's files, when the text is where it belongs: the library never does so by itself. The handle is good for
/// nothing but being closed then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_draft_remove(draft: *mut lwv_draft) -> lwv_status {
    call(|| {
        let taken = lock(&required(draft, "draft")?.place, "draft")?.take();
        Ok(taken.ok_or_else(removed)?.remove()?)
    })
}

/// Frees a draft and lets go of its file, which stays. NULL is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_draft_close(draft: *mut lwv_draft) {
    call(|| close(draft, "draft"));
}

#[cfg(test)]
pub(crate) mod tests {
    use std::ffi::CStr;
    use std::path::PathBuf;

    use super::*;
    use crate::text::{lwv_text_close, lwv_text_data};

    /// A draft of two sections by `lwv-write`, whole, behind the byte that says so to the fuzzer.
    const WHOLE: &[u8] = include_bytes!("../../../fuzz/seeds/journal/file");

    /// The first `lines` lines of that draft in a file of their own, and what is `behind` them.
    pub(crate) fn file_of(lines: usize, behind: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bees.draft");
        let whole = str::from_utf8(&WHOLE[1..]).unwrap();
        let kept: String = whole.split_inclusive('\n').take(lines).collect();
        std::fs::write(&path, kept + behind).unwrap();
        (folder, path)
    }

    pub(crate) fn text_of(get: impl FnOnce(*mut *mut lwv_text) -> lwv_status) -> String {
        let mut text = std::ptr::null_mut();
        assert_eq!(get(&raw mut text), lwv_status::Ok);
        unsafe {
            let told = CStr::from_ptr(lwv_text_data(text, std::ptr::null_mut()))
                .to_str()
                .unwrap()
                .to_owned();
            lwv_text_close(text);
            told
        }
    }

    fn info_of(draft: &lwv_draft) -> lwv_draft_info {
        let mut info = lwv_draft_info::usual();
        assert_eq!(
            unsafe { lwv_draft_describe(draft, &raw mut info) },
            lwv_status::Ok
        );
        info
    }

    #[test]
    fn a_draft_tells_how_far_it_came() {
        let numbers = |lines| {
            let (_folder, path) = file_of(lines, "");
            let info = info_of(&opened(&path).unwrap());
            (
                info.sections,
                info.finished_sections,
                info.written_words,
                info.is_whole,
            )
        };
        let seen = [1, 2, 4, 5, 7, 9].map(numbers);
        let wanted = [
            (0, 0, 0, 0),
            (2, 0, 0, 0),
            (2, 0, 15, 0),
            (2, 1, 30, 0),
            (2, 1, 48, 0),
            (2, 2, 58, 1),
        ];
        assert_eq!(seen, wanted);
    }

    #[test]
    fn a_draft_tells_what_it_is_of_and_what_was_lost() {
        let (_folder, path) = file_of(4, "4 430 half");
        let draft = opened(&path).unwrap();
        let info = info_of(&draft);
        let text = |text| unsafe { CStr::from_ptr(text) }.to_str().unwrap().to_owned();
        assert_eq!(
            (text(info.instruction), text(info.device)),
            ("Bees".to_owned(), "cpu".to_owned())
        );
        assert!(info.system.is_null() && text(info.engine).starts_with("dc141d9e"));
        assert_eq!(
            (info.words, info.threads > 0, info.prefill_chunk > 0),
            (60, true, true)
        );
        assert!(
            text(info.loss).contains("the last 10 bytes"),
            "{}",
            text(info.loss)
        );
        assert!(
            text_of(|place| unsafe { lwv_draft_text(&raw const draft, place) })
                .ends_with("the ambassador of her colony and their")
        );
        let (_folder, path) = file_of(4, "");
        assert!(info_of(&opened(&path).unwrap()).loss.is_null());
    }

    #[test]
    fn one_handle_has_a_draft_and_one_that_was_removed_is_none() {
        let (_folder, path) = file_of(9, "");
        let draft = opened(&path).unwrap();
        assert_eq!(opened(&path).err().unwrap().status, lwv_status::Draft);
        drop(draft);
        let mut draft = opened(&path).unwrap();
        let mut info = lwv_draft_info::usual();
        unsafe {
            assert_eq!(lwv_draft_remove(&raw mut draft), lwv_status::Ok);
            assert!(!path.exists());
            assert_eq!(lwv_draft_remove(&raw mut draft), lwv_status::Draft);
            assert_eq!(
                lwv_draft_describe(&raw const draft, &raw mut info),
                lwv_status::Draft
            );
        }
        let none = opened(&path).err().unwrap();
        assert!(
            none.status == lwv_status::Draft && none.text.contains("bees.draft"),
            "{}",
            none.text
        );
    }

    #[test]
    fn a_draft_that_is_at_work_is_busy() {
        let (_folder, path) = file_of(9, "");
        let draft = opened(&path).unwrap();
        let busy = draft.with(|_| draft.with(|_| Ok(())));
        assert_eq!(busy.unwrap_err().status, lwv_status::Busy);
    }
}
