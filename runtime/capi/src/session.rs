use std::ffi::c_char;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use lwv_processor::Prompt;
use lwv_runtime::{Engine, Session};

use crate::argument::{clear, close, list, offer, open, required, text};
use crate::border::call;
use crate::engine::lwv_engine;
use crate::failure::{Failure, Result};
use crate::image::{images_of, lwv_image};
use crate::message::{conversation, lwv_message};
use crate::status::lwv_status;
use crate::structure::{Structure, write};

/// A text that a model reads and goes on with, and its cache.
pub struct lwv_session {
    engine: Engine,
    pub(crate) place: Arc<Place>,
}

/// Where a session is while no generation has it.
pub(crate) type Place = Mutex<Option<Session>>;

/// How large a session is. Set `size` before it is asked for.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lwv_session_info {
    /// Bytes of this structure.
    pub size: usize,
    /// Tokens of the text, generated ones included.
    pub tokens: usize,
    /// Of these, the tokens that are in the cache.
    pub cached_tokens: usize,
    /// Most tokens that the text may have.
    pub context_length: usize,
    /// Bytes that the cache takes.
    pub kv_bytes: u64,
}

// SAFETY: `repr(C)`, `size` first, numbers of at most 8 bytes.
unsafe impl Structure for lwv_session_info {
    fn usual() -> Self {
        Self {
            size: size_of::<Self>(),
            tokens: 0,
            cached_tokens: 0,
            context_length: 0,
            kv_bytes: 0,
        }
    }
}

/// Locks what one thread at a time may use. Nobody waits: who would has made a mistake, and a callback would wait for ever.
pub(crate) fn lock<'a, T>(mutex: &'a Mutex<T>, what: &str) -> Result<MutexGuard<'a, T>> {
    mutex.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => Failure::busy(&format!(
            "the {what} is at work; use it from one thread at a time, and not from its own callback"
        )),
        TryLockError::Poisoned(_) => Failure::new(
            lwv_status::Panic,
            format!("an earlier call with this {what} came upon a fault; close it"),
        ),
    })
}

impl lwv_session {
    /// Does something with the session, if no generation has it.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Session, &Engine) -> Result<T>) -> Result<T> {
        let mut place = lock(&self.place, "session")?;
        work(place.as_mut().ok_or_else(taken)?, &self.engine)
    }

    /// Takes the session out of its place.
    pub(crate) fn take(&self) -> Result<Session> {
        lock(&self.place, "session")?.take().ok_or_else(taken)
    }
}

fn taken() -> Failure {
    Failure::busy("a generation is open on the session; close it first")
}

/// Makes a new, empty text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_session_open(
    engine: *const lwv_engine,
    session: *mut *mut lwv_session,
) -> lwv_status {
    call(|| {
        clear(session, "session")?;
        let engine = required(engine, "engine")?.engine.clone();
        let place = Arc::new(Mutex::new(Some(engine.session()?)));
        open(lwv_session { engine, place }, session);
        Ok(())
    })
}

/// Puts a conversation in the place of the whole text, up to where the assistant begins to speak, in the form of the bundle's
/// chat template. What it begins with in common with the text that was there, pictures included, is not computed again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_session_set_messages(
    session: *mut lwv_session,
    messages: *const lwv_message,
    count: usize,
) -> lwv_status {
    call(|| {
        let (messages, images) = conversation(messages, count)?;
        required(session, "session")?.with(|session, engine| {
            let prompt = engine.processor().prompt(&messages, &images)?;
            Ok(session.replace(prompt)?)
        })
    })
}

/// The same with a text as it is, without the chat template, with what the tokenizer puts around a text. The image token
/// stands where a picture goes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_session_set_text(
    session: *mut lwv_session,
    text: *const c_char,
    images: *const *const lwv_image,
    image_count: usize,
) -> lwv_status {
    put(
        session,
        text,
        images,
        image_count,
        |session, engine, text, images| Ok(session.replace(engine.processor().raw_prompt(text, images)?)?),
    )
}

/// Appends a text as it is, such as another turn; the tokenizer puts nothing around it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_session_add_text(
    session: *mut lwv_session,
    text: *const c_char,
    images: *const *const lwv_image,
    image_count: usize,
) -> lwv_status {
    put(
        session,
        text,
        images,
        image_count,
        |session, engine, text, images| {
            let prompt: Prompt = engine.processor().raw_continuation(text, images)?;
            Ok(session.extend(prompt)?)
        },
    )
}

unsafe fn put(
    session: *const lwv_session,
    said: *const c_char,
    images: *const *const lwv_image,
    image_count: usize,
    work: impl FnOnce(&mut Session, &Engine, &str, &[lwv_processor::RgbImage]) -> Result<()>,
) -> lwv_status {
    call(|| {
        let images = images_of(images, image_count)?;
        let said = text(said, "text")?;
        required(session, "session")?.with(|session, engine| work(session, engine, said, &images))
    })
}

/// Goes back to the first `tokens` tokens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_session_rewind(session: *mut lwv_session, tokens: usize) -> lwv_status {
    call(|| required(session, "session")?.with(|session, _| Ok(session.rewind(tokens)?)))
}

/// Copies the first `capacity` tokens of the text to `tokens`, which may be NULL if `capacity` is 0. `count`, unless NULL,
/// gets the number of all.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_session_tokens(
    session: *const lwv_session,
    tokens: *mut u32,
    capacity: usize,
    count: *mut usize,
) -> lwv_status {
    call(|| {
        required(session, "session")?.with(|session, _| {
            let copied = session.tokens().len().min(capacity);
            list(tokens.cast_const(), copied, "tokens")?;
            if copied > 0 {
                std::ptr::copy_nonoverlapping(session.tokens().as_ptr(), tokens, copied);
            }
            offer(session.tokens().len(), count, "count")
        })
    })
}

/// Tells how large a session is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_session_describe(
    session: *const lwv_session,
    info: *mut lwv_session_info,
) -> lwv_status {
    call(|| {
        let told = required(session, "session")?.with(|session, _| {
            Ok(lwv_session_info {
                size: size_of::<lwv_session_info>(),
                tokens: session.tokens().len(),
                cached_tokens: session.cached_tokens(),
                context_length: session.context_length(),
                kv_bytes: session.kv_bytes(),
            })
        })?;
        write(told, info, "info")
    })
}

/// Frees a session; a generation that is open on it goes on. NULL is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_session_close(session: *mut lwv_session) {
    call(|| close(session, "session"));
}
