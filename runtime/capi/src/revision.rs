use std::ffi::c_void;

use lwv_runtime::{CancelToken, FinishReason, Manuscript, Revision, Writer};

use crate::argument::{offer, open, required};
use crate::border::call;
use crate::cancel_token::{lwv_cancel_token, token_of};
use crate::draft::lwv_draft;
use crate::engine::lwv_engine;
use crate::event::lwv_event_callback;
use crate::failure::Result;
use crate::finish_reason::lwv_finish_reason;
use crate::sampler::{lwv_sampler_settings, sampler_of};
use crate::status::lwv_status;
use crate::structure::{Structure, init, read};
use crate::text::lwv_text;
use crate::writer::Listener;

/// What is done to a section that is there. Set it by `lwv_revision_settings_init` first.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lwv_revision_settings {
    /// Bytes of this structure.
    pub size: usize,
    /// Which section, from 0.
    pub section: usize,
    /// Words that are added to it; 0 writes it anew.
    pub extend_by: usize,
    /// How tokens are chosen. NULL: as for the rest of the draft, and a section that is written anew takes another seed each
    /// time, so that another text comes of it.
    pub sampler: *const lwv_sampler_settings,
    /// Cancels from another thread; may be NULL.
    pub cancel: *const lwv_cancel_token,
}

// SAFETY: `repr(C)`, `size` first, numbers and pointers.
unsafe impl Structure for lwv_revision_settings {
    fn usual() -> Self {
        Self {
            size: size_of::<Self>(),
            section: 0,
            extend_by: 0,
            sampler: std::ptr::null(),
            cancel: std::ptr::null(),
        }
    }
}

/// Sets a structure of `size` bytes, which is its `sizeof`, to what is usual.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_revision_settings_init(
    settings: *mut lwv_revision_settings,
    size: usize,
) -> lwv_status {
    call(|| init(settings, size, "settings"))
}

/// Writes a draft to the end of its text, from wherever it is, telling `callback` (may be NULL) what happens, and keeps what
/// comes in its file. What the draft holds is told again first, so that events together are the whole text; all else, `text`
/// and `reason` too, is as in `lwv_write`. `cancel` may be NULL. Where a revision was interrupted, that is finished and nothing
/// else is done: events are those of its section alone. `LWV_STATUS_DRAFT` where another engine has begun the draft, or a
/// picture's file was changed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_draft_write(
    engine: *const lwv_engine,
    draft: *mut lwv_draft,
    cancel: *const lwv_cancel_token,
    callback: lwv_event_callback,
    user_data: *mut c_void,
    text: *mut *mut lwv_text,
    reason: *mut lwv_finish_reason,
) -> lwv_status {
    call(|| {
        offer(std::ptr::null_mut(), text, "text")?;
        let cancel = token_of(cancel)?;
        let mut listener = Listener::new(callback, user_data, cancel.clone());
        let work = |writer: &mut Writer| {
            let open = writer.draft().and_then(|draft| draft.state().open.as_ref());
            let revised = open.filter(|open| open.revision.is_some()).map(|open| open.index);
            let manuscript = writer.write_draft(|event| unsafe { listener.tell(event) })?;
            let last = manuscript.sections.len().saturating_sub(1);
            Ok((manuscript, revised.unwrap_or(last)))
        };
        write_on(engine, draft, cancel, work, text, reason)
    })
}

/// Writes a section of a draft anew or extends it, as `settings` say. What it was stays in the draft, see
/// `lwv_draft_variant`. Events are those of the section alone; `text` and `reason`, unless NULL, get the whole text and why
/// the section ended. Where that was cancelled, the section is what it was until `lwv_draft_write` has finished it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_draft_revise(
    engine: *const lwv_engine,
    draft: *mut lwv_draft,
    settings: *const lwv_revision_settings,
    callback: lwv_event_callback,
    user_data: *mut c_void,
    text: *mut *mut lwv_text,
    reason: *mut lwv_finish_reason,
) -> lwv_status {
    call(|| {
        offer(std::ptr::null_mut(), text, "text")?;
        let settings = read(settings, "settings")?;
        let revision = revision(required(draft, "draft")?, &settings)?;
        let cancel = token_of(settings.cancel)?;
        let mut listener = Listener::new(callback, user_data, cancel.clone());
        let work = |writer: &mut Writer| {
            let on_event = |event| unsafe { listener.tell(event) };
            Ok((
                writer.revise(settings.section, revision, on_event)?,
                settings.section,
            ))
        };
        write_on(engine, draft, cancel, work, text, reason)
    })
}

unsafe fn revision(draft: &lwv_draft, given: &lwv_revision_settings) -> Result<Revision> {
    let extend_by = (given.extend_by > 0).then_some(given.extend_by);
    if !given.sampler.is_null() {
        let sampler = sampler_of(given.sampler)?;
        return Ok(Revision { extend_by, sampler });
    }
    draft.with(|draft| {
        let mut sampler = draft.header().settings.sampler.clone();
        if extend_by.is_none() {
            sampler.seed = draft.state().rewrite_seed(given.section, sampler.seed);
        }
        Ok(Revision { extend_by, sampler })
    })
}

/// Does work on a draft that gives the text and which section was the last to be written.
unsafe fn write_on(
    engine: *const lwv_engine,
    draft: *mut lwv_draft,
    cancel: CancelToken,
    work: impl FnOnce(&mut Writer) -> Result<(Manuscript, usize)>,
    text: *mut *mut lwv_text,
    reason: *mut lwv_finish_reason,
) -> Result<()> {
    let engine = &required(engine, "engine")?.engine;
    let (written, ended) = required(draft, "draft")?.write(engine, cancel, |writer| {
        let (manuscript, last) = work(writer)?;
        let is_open = writer.draft().is_some_and(|draft| draft.state().open.is_some());
        let section = manuscript.sections.get(last).filter(|_| !is_open);
        let ended = section.map_or(FinishReason::Cancelled, |section| section.reason);
        Ok((manuscript.text(), ended))
    })?;
    offer(ended.into(), reason, "reason")?;
    if !text.is_null() {
        open(lwv_text::new(written), text);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft::tests::file_of;
    use crate::draft::{lwv_draft_close, lwv_draft_open};

    #[test]
    fn a_section_is_written_anew_by_another_seed_and_extended_by_the_same() {
        let (_folder, path) = file_of(9, "");
        let file = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        let mut draft = std::ptr::null_mut();
        unsafe {
            assert_eq!(lwv_draft_open(file.as_ptr(), &raw mut draft), lwv_status::Ok);
            let mut given = lwv_revision_settings::usual();
            let anew = revision(&*draft, &given).unwrap();
            assert_eq!((anew.extend_by, anew.sampler.seed), (None, 1000));
            given.extend_by = 40;
            let longer = revision(&*draft, &given).unwrap();
            assert_eq!((longer.extend_by, longer.sampler.seed), (Some(40), 0));
            let mut sampler = std::mem::MaybeUninit::uninit();
            let size = size_of::<lwv_sampler_settings>();
            crate::sampler::lwv_sampler_settings_init(sampler.as_mut_ptr(), size);
            let mut sampler = sampler.assume_init();
            sampler.seed = 9;
            given = lwv_revision_settings::usual();
            given.sampler = &raw const sampler;
            assert_eq!(
                revision(&*draft, &given).unwrap().sampler.seed,
                9,
                "one that is named"
            );
            lwv_draft_close(draft);
        }
    }
}
