use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::failure::{Failure, Result};
use crate::status::lwv_status;

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Does what a call of the interface does. A failure's text is kept for `lwv_last_error`, and a panic goes no further:
/// unwinding through the frames of another language is undefined.
pub(crate) fn cross(work: impl FnOnce() -> Result<lwv_status>) -> lwv_status {
    // What a panic leaves half done is behind a lock that is poisoned then.
    let failure = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(status)) => return status,
        Ok(Err(failure)) => failure,
        Err(payload) => panicked(payload),
    };
    remember(&failure.text);
    failure.status
}

/// [`cross`] for what gives nothing but success.
pub(crate) fn call(work: impl FnOnce() -> Result<()>) -> lwv_status {
    cross(|| work().map(|()| lwv_status::Ok))
}

fn panicked(payload: Box<dyn Any + Send>) -> Failure {
    let message = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    let failure = Failure::new(
        lwv_status::Panic,
        format!("the library has a fault, please report it: {message}"),
    );
    // Dropping a payload may panic again.
    std::mem::forget(payload);
    failure
}

/// A C string ends at its first zero, so none may be inside.
pub(crate) fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "\u{FFFD}")).unwrap_or_default()
}

fn remember(text: &str) {
    let text = c_string(text);
    // A thread that ends may have no place for it any more.
    let _ = LAST_ERROR.try_with(|last| last.replace(text));
}

/// The text of this thread's last call that failed, as UTF-8; empty if none did. Never NULL. It stays where it is until
/// the next call that fails on this thread. Calls that succeed leave it.
#[unsafe(no_mangle)]
pub extern "C" fn lwv_last_error() -> *const c_char {
    LAST_ERROR
        .try_with(|last| last.borrow().as_ptr())
        .unwrap_or(c"".as_ptr())
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    fn last_error() -> String {
        // SAFETY: the function never returns NULL, and nothing fails between the two calls.
        unsafe { CStr::from_ptr(lwv_last_error()) }
            .to_str()
            .unwrap()
            .to_owned()
    }

    #[test]
    fn failures_and_panics_become_status_and_text() {
        assert_eq!(call(|| Ok(())), lwv_status::Ok);
        assert_eq!(
            call(|| Err(Failure::argument("words", "is a\0b"))),
            lwv_status::Argument
        );
        assert_eq!(last_error(), "`words` is a\u{FFFD}b");
        assert_eq!(call(|| Ok(())), lwv_status::Ok);
        assert_eq!(last_error(), "`words` is a\u{FFFD}b", "success leaves it");
        assert_eq!(call(|| panic!("row {}", 3)), lwv_status::Panic);
        assert!(last_error().ends_with("report it: row 3"), "{}", last_error());
    }

    #[test]
    fn every_thread_has_its_own_text() {
        call(|| Err(Failure::busy("here")));
        let there = std::thread::spawn(last_error).join().unwrap();
        assert_eq!((last_error().as_str(), there.as_str()), ("here", ""));
    }
}
