use lwv_runtime::{Draft, DraftState, Manuscript, PlannedSection};

use crate::argument::{clear, offer, open, required};
use crate::border::call;
use crate::draft::lwv_draft;
use crate::failure::{Failure, Result};
use crate::finish_reason::lwv_finish_reason;
use crate::status::lwv_status;
use crate::structure::{Structure, write};
use crate::text::lwv_text;

/// A section of a draft. Set `size` before it is asked for.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lwv_section_info {
    /// Bytes of this structure.
    pub size: usize,
    /// Why it ended; `LWV_FINISH_REASON_CANCELLED` if it is not finished, `LWV_FINISH_REASON_OTHER` if it was not begun.
    pub reason: lwv_finish_reason,
    /// Words that it is to have by the plan.
    pub words: usize,
    /// Words that it has.
    pub written_words: usize,
    /// 1 if it was begun, rewritten or extended and that is not finished; else 0. Only one section of a draft can be so.
    pub is_open: u64,
    /// How often it was rewritten or extended; what it was before is kept, see `lwv_draft_variant`.
    pub variants: usize,
}

// SAFETY: `repr(C)`, `size` first; it is written and never read, so that the enumeration has no other values.
unsafe impl Structure for lwv_section_info {
    fn usual() -> Self {
        Self {
            size: size_of::<Self>(),
            reason: lwv_finish_reason::Other,
            words: 0,
            written_words: 0,
            is_open: 0,
            variants: 0,
        }
    }
}

/// Tells about section `index` of a draft's plan, from 0. `main_point` and `text`, unless NULL, get what the plan says of it
/// and its text as far as it came.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_draft_section(
    draft: *const lwv_draft,
    index: usize,
    info: *mut lwv_section_info,
    main_point: *mut *mut lwv_text,
    text: *mut *mut lwv_text,
) -> lwv_status {
    call(|| {
        offer(std::ptr::null_mut(), main_point, "main_point")?;
        offer(std::ptr::null_mut(), text, "text")?;
        let (planned, manuscript, told) = required(draft, "draft")?.with(|draft| section(draft, index))?;
        write(told, info, "info")?;
        let written = manuscript.sections.into_iter().nth(index);
        if !main_point.is_null() {
            open(lwv_text::new(planned.main_point), main_point);
        }
        if !text.is_null() {
            open(
                lwv_text::new(written.map_or(String::new(), |section| section.text)),
                text,
            );
        }
        Ok(())
    })
}

fn section(draft: &Draft, index: usize) -> Result<(PlannedSection, Manuscript, lwv_section_info)> {
    let state = draft.state();
    let manuscript = state.so_far();
    let count = manuscript.plan.sections.len();
    let planned = manuscript.plan.sections.get(index).cloned().ok_or_else(|| {
        Failure::argument("index", &format!("is {index}, but the plan has {count} sections"))
    })?;
    let written = manuscript.sections.get(index);
    let told = lwv_section_info {
        size: size_of::<lwv_section_info>(),
        reason: written.map_or(lwv_finish_reason::Other, |section| section.reason.into()),
        words: planned.words,
        written_words: written.map_or(0, |section| section.words),
        is_open: u64::from(state.open.as_ref().is_some_and(|open| open.index == index)),
        variants: variants(state, index).count(),
    };
    Ok((planned, manuscript, told))
}

fn variants(state: &DraftState, index: usize) -> impl Iterator<Item = &str> {
    let of_section = state
        .variants
        .iter()
        .filter(move |variant| variant.index == index);
    of_section.map(|variant| variant.section.text.as_str())
}

/// Gives the text of section `index` as it was before it was rewritten or extended; `variant` is which, from 0, the oldest.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_draft_variant(
    draft: *const lwv_draft,
    index: usize,
    variant: usize,
    text: *mut *mut lwv_text,
) -> lwv_status {
    call(|| {
        clear(text, "text")?;
        let kept = required(draft, "draft")?.with(|draft| {
            let kept = variants(draft.state(), index).nth(variant).map(str::to_owned);
            kept.ok_or_else(|| {
                Failure::argument(
                    "variant",
                    &format!("is {variant}, but section {index} has no such one"),
                )
            })
        })?;
        open(lwv_text::new(kept), text);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft::tests::{file_of, text_of};
    use crate::draft::{lwv_draft_close, lwv_draft_open};

    fn on_draft(lines: usize, look: impl FnOnce(*mut lwv_draft)) {
        let (_folder, path) = file_of(lines, "");
        let file = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        let mut draft = std::ptr::null_mut();
        unsafe {
            assert_eq!(lwv_draft_open(file.as_ptr(), &raw mut draft), lwv_status::Ok);
            look(draft);
            lwv_draft_close(draft);
        }
    }

    fn section_of(draft: *const lwv_draft, index: usize) -> lwv_section_info {
        let (mut info, null) = (lwv_section_info::usual(), std::ptr::null_mut());
        let told = unsafe { lwv_draft_section(draft, index, &raw mut info, null, null) };
        assert_eq!(told, lwv_status::Ok);
        info
    }

    #[test]
    fn sections_are_told_finished_or_not() {
        on_draft(4, |draft| {
            let (first, second) = (section_of(draft, 0), section_of(draft, 1));
            assert_eq!((first.words, first.written_words, first.is_open), (30, 15, 1));
            assert_eq!((second.words, second.written_words, second.is_open), (30, 0, 0));
            assert_eq!(first.reason, lwv_finish_reason::Cancelled);
            assert_eq!(second.reason, lwv_finish_reason::Other);
        });
        on_draft(9, |draft| {
            let second = section_of(draft, 1);
            assert_eq!(
                (second.written_words, second.is_open, second.variants),
                (28, 0, 0)
            );
            assert!(second.reason != lwv_finish_reason::Cancelled);
        });
    }

    #[test]
    fn sections_have_their_texts_and_one_that_is_not_there_is_refused() {
        on_draft(9, |draft| {
            let (mut info, null) = (lwv_section_info::usual(), std::ptr::null_mut());
            let info = &raw mut info;
            let main_point = text_of(|place| unsafe { lwv_draft_section(draft, 0, info, place, null) });
            let text = text_of(|place| unsafe { lwv_draft_section(draft, 1, info, null, place) });
            assert_eq!(main_point, "The bees");
            assert!(text.starts_with("2. A female bee"), "{text}");
            let mut place = std::ptr::dangling_mut();
            unsafe {
                let refused = lwv_draft_section(draft, 2, info, null, &raw mut place);
                assert!(refused == lwv_status::Argument && place.is_null());
                assert_eq!(
                    lwv_draft_variant(draft, 0, 0, &raw mut place),
                    lwv_status::Argument
                );
            }
        });
    }
}
