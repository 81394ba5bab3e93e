use std::ffi::c_char;

use crate::argument::{close, offer, required};
use crate::border::call;

/// A text that the library made.
pub struct lwv_text {
    /// With a zero after it.
    bytes: Vec<u8>,
}

impl lwv_text {
    pub(crate) fn new(text: String) -> Self {
        Self {
            bytes: terminated(text),
        }
    }
}

/// The bytes of a text and a zero.
pub(crate) fn terminated(text: String) -> Vec<u8> {
    let mut bytes = text.into_bytes();
    bytes.push(0);
    bytes
}

/// The text as UTF-8 with a zero after it, until it is closed; NULL if `text` is. `length`, unless NULL, gets its bytes
/// without that zero: a model can write zeros of its own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_text_data(text: *const lwv_text, length: *mut usize) -> *const c_char {
    let mut data = std::ptr::null();
    call(|| {
        offer(0, length, "length")?;
        let text = required(text, "text")?;
        offer(text.bytes.len() - 1, length, "length")?;
        data = text.bytes.as_ptr().cast();
        Ok(())
    });
    data
}

/// Frees a text. NULL is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_text_close(text: *mut lwv_text) {
    call(|| close(text, "text"));
}
