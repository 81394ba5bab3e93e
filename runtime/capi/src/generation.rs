use std::ffi::{c_char, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use lwv_runtime::{Event, Generation, GenerationSettings, Session};
use self_cell::{MutBorrow, self_cell};

use crate::argument::{check_flags, clear, flag, offer, open, required, texts};
use crate::border::{call, cross};
use crate::cancel_token::{lwv_cancel_token, token_of};
use crate::event::{HeldEvent, lwv_event, lwv_event_callback};
use crate::failure::{Failure, Result};
use crate::finish_reason::lwv_finish_reason;
use crate::sampler::{lwv_sampler_settings, sampler_of};
use crate::session::{Place, lock, lwv_session};
use crate::status::lwv_status;
use crate::structure::{Structure, init, read, write};

/// Tokens that end a text cannot be chosen at all.
pub const LWV_IGNORE_EOS: u64 = 1;

/// Watch for a model that turns in circles: the text goes back to where the circle began (`LWV_EVENT_KIND_REWOUND`), goes on
/// another way, and ends after three tries.
pub const LWV_LOOP_GUARD: u64 = 2;

/// What a generation is to do. Set it by `lwv_generation_settings_init` first.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lwv_generation_settings {
    /// Bytes of this structure.
    pub size: usize,
    /// How tokens are chosen; NULL is as usual.
    pub sampler: *const lwv_sampler_settings,
    /// Most tokens to generate.
    pub max_new_tokens: usize,
    /// Tokens that end a text cannot be chosen before this many tokens were.
    pub min_new_tokens: usize,
    /// Tokens that end a text cannot be chosen before this many words were written.
    pub min_words: usize,
    /// Texts that end the generation. They are not part of the text.
    pub stop: *const *const c_char,
    /// How many they are.
    pub stop_count: usize,
    /// Any of `LWV_IGNORE_EOS` and `LWV_LOOP_GUARD`.
    pub flags: u64,
    /// How many of the last tokens of the prompt are text that was written before: for penalties and the loop guard they
    /// count as generated.
    pub written_tokens: usize,
    /// Cancels from another thread; may be NULL.
    pub cancel: *const lwv_cancel_token,
    /// Most tokens that are guessed at once by what came after the same tokens before, and verified in one step; 0 to guess
    /// none. The text is the same but for the last bits of sums.
    pub lookup_tokens: usize,
}

// SAFETY: `repr(C)`, `size` first, numbers and pointers.
unsafe impl Structure for lwv_generation_settings {
    fn usual() -> Self {
        let usual = GenerationSettings::default();
        Self {
            size: size_of::<Self>(),
            sampler: std::ptr::null(),
            max_new_tokens: usual.max_new_tokens,
            min_new_tokens: usual.min_new_tokens,
            min_words: usual.min_words,
            stop: std::ptr::null(),
            stop_count: 0,
            flags: flag(usual.ignore_eos, LWV_IGNORE_EOS) | flag(usual.loop_guard, LWV_LOOP_GUARD),
            written_tokens: usual.written_tokens,
            cancel: std::ptr::null(),
            lookup_tokens: usual.lookup_tokens,
        }
    }
}

unsafe fn settings_of(given: *const lwv_generation_settings) -> Result<GenerationSettings> {
    let given = read(given, "settings")?;
    check_flags(given.flags, LWV_IGNORE_EOS | LWV_LOOP_GUARD, "settings")?;
    Ok(GenerationSettings {
        sampler: sampler_of(given.sampler)?,
        max_new_tokens: given.max_new_tokens,
        min_new_tokens: given.min_new_tokens,
        min_words: given.min_words,
        stop: texts(given.stop, given.stop_count, "stop")?,
        ignore_eos: given.flags & LWV_IGNORE_EOS != 0,
        written_tokens: given.written_tokens,
        loop_guard: given.flags & LWV_LOOP_GUARD != 0,
        lookup_tokens: given.lookup_tokens,
        begun: None,
        cancel: token_of(given.cancel)?,
    })
}

self_cell! {
    /// A generation and the session that it borrows.
    struct Writing {
        owner: MutBorrow<Session>,
        #[not_covariant]
        dependent: Generation,
    }
}

/// A text that is being written, event by event.
pub struct lwv_generation {
    work: Mutex<Work>,
    /// Where the session goes back to.
    place: Arc<Place>,
}

struct Work {
    writing: Option<Writing>,
    event: HeldEvent,
}

impl Work {
    fn next(&mut self) -> Option<Result<Event, lwv_runtime::Error>> {
        let writing = self.writing.as_mut()?;
        writing.with_dependent_mut(|_, generation| generation.next())
    }
}

impl Drop for lwv_generation {
    fn drop(&mut self) {
        // After a fault the session may be in any state, and is dropped.
        let Ok(work) = self.work.get_mut() else { return };
        let session = work.writing.take().map(Writing::into_owner);
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = session.map(MutBorrow::into_inner);
    }
}

/// Sets a structure of `size` bytes, which is its `sizeof`, to what is usual.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_generation_settings_init(
    settings: *mut lwv_generation_settings,
    size: usize,
) -> lwv_status {
    call(|| init(settings, size, "settings"))
}

/// Computes what was put into the session and writes on, telling `callback` (may be NULL) what happens. `reason`, unless
/// NULL, gets why it ended; after a callback that wanted no more that is `LWV_FINISH_REASON_CANCELLED`. What was written
/// stays in the session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_generate(
    session: *mut lwv_session,
    settings: *const lwv_generation_settings,
    callback: lwv_event_callback,
    user_data: *mut c_void,
    reason: *mut lwv_finish_reason,
) -> lwv_status {
    call(|| {
        let settings = settings_of(settings)?;
        let mut held = HeldEvent::new();
        let mut ended = lwv_finish_reason::Cancelled;
        required(session, "session")?.with(|session, _| {
            for event in session.generate(settings)? {
                let event = event?;
                if let Event::Finished { reason, .. } = &event {
                    ended = (*reason).into();
                }
                let event = held.hold(event);
                if callback.is_some_and(|callback| unsafe { callback(&raw const event, user_data) } != 0) {
                    break;
                }
            }
            Ok(())
        })?;
        offer(ended, reason, "reason")
    })
}

/// The same, for who rather asks for events one by one: begins, and computes nothing yet. The session is the generation's
/// until that is closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_generation_start(
    session: *mut lwv_session,
    settings: *const lwv_generation_settings,
    generation: *mut *mut lwv_generation,
) -> lwv_status {
    call(|| {
        clear(generation, "generation")?;
        let settings = settings_of(settings)?;
        let handle = required(session, "session")?;
        let owner = MutBorrow::new(handle.take()?);
        let begun = Writing::try_new_or_recover(owner, |owner| owner.borrow_mut().generate(settings));
        let place = Arc::clone(&handle.place);
        match begun {
            Ok(writing) => {
                let work = Mutex::new(Work {
                    writing: Some(writing),
                    event: HeldEvent::new(),
                });
                open(lwv_generation { work, place }, generation);
                Ok(())
            }
            Err((owner, error)) => {
                *lock(&place, "session")? = Some(owner.into_inner());
                Err(Failure::from(error))
            }
        }
    })
}

/// Computes until something happens and tells it; set `size` of the event before. `LWV_STATUS_END` after the last event, and
/// after an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_generation_next(
    generation: *mut lwv_generation,
    event: *mut lwv_event,
) -> lwv_status {
    cross(|| {
        let mut work = lock(&required(generation, "generation")?.work, "generation")?;
        // Before anything is computed that could not be told.
        write(lwv_event::usual(), event, "event")?;
        match work.next() {
            Some(happened) => {
                let told = work.event.hold(happened?);
                write(told, event, "event")?;
                Ok(lwv_status::Ok)
            }
            None => Ok(lwv_status::End),
        }
    })
}

/// Ends a generation, whether it is at its end or not. The session can be used again and has what was written. NULL is
/// allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_generation_close(generation: *mut lwv_generation) {
    call(|| crate::argument::close(generation, "generation"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lwv_cancel_token, lwv_engine, lwv_image, lwv_text};

    /// What the header says of threads.
    #[test]
    fn handles_may_go_to_other_threads() {
        fn sent<T: Send>() {}
        fn shared<T: Send + Sync>() {}
        shared::<(lwv_engine, lwv_image, lwv_text, lwv_cancel_token)>();
        shared::<(lwv_session, lwv_generation)>();
        sent::<Work>();
    }
}
