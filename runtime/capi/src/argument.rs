//! The caller's pointers. Every function here is unsafe for the same reason: it believes that a pointer which is not NULL is
//! of a live value of its type.

use std::ffi::{CStr, c_char};
use std::path::Path;

use crate::failure::{Failure, Result};

/// Most items that a list is believed to have: more is a count that was never set.
const MOST_ITEMS: usize = 1 << 20;

/// What `pointer` points to.
pub(crate) unsafe fn required<'a, T>(pointer: *const T, name: &str) -> Result<&'a T> {
    optional(pointer, name)?.ok_or_else(|| Failure::argument(name, "is NULL"))
}

/// What `pointer` points to, or `None` for NULL.
pub(crate) unsafe fn optional<'a, T>(pointer: *const T, name: &str) -> Result<Option<&'a T>> {
    check_alignment(pointer, name)?;
    Ok(pointer.as_ref())
}

/// A list of `count` items; NULL only where there are none.
pub(crate) unsafe fn list<'a, T>(pointer: *const T, count: usize, name: &str) -> Result<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() {
        return Err(Failure::argument(
            name,
            &format!("is NULL, but has {count} items"),
        ));
    }
    if count > MOST_ITEMS {
        return Err(Failure::argument(
            name,
            &format!("has {count} items; was its count never set?"),
        ));
    }
    check_alignment(pointer, name)?;
    Ok(std::slice::from_raw_parts(pointer, count))
}

/// A text that ends with a zero.
pub(crate) unsafe fn text<'a>(pointer: *const c_char, name: &str) -> Result<&'a str> {
    optional_text(pointer, name)?.ok_or_else(|| Failure::argument(name, "is NULL"))
}

/// The same, or `None` for NULL.
pub(crate) unsafe fn optional_text<'a>(pointer: *const c_char, name: &str) -> Result<Option<&'a str>> {
    if pointer.is_null() {
        return Ok(None);
    }
    let bytes = CStr::from_ptr(pointer);
    let text = bytes.to_str().map_err(|error| {
        Failure::argument(
            name,
            &format!("is not UTF-8 from byte {} on", error.valid_up_to()),
        )
    })?;
    Ok(Some(text))
}

/// A path, which is UTF-8 on every system.
pub(crate) unsafe fn path<'a>(pointer: *const c_char, name: &str) -> Result<&'a Path> {
    text(pointer, name).map(Path::new)
}

/// A list of texts.
pub(crate) unsafe fn texts(pointer: *const *const c_char, count: usize, name: &str) -> Result<Vec<String>> {
    list(pointer, count, name)?
        .iter()
        .enumerate()
        .map(|(index, item)| text(*item, &format!("{name}[{index}]")).map(str::to_owned))
        .collect()
}

/// Writes what a call gives to where the caller wants it.
pub(crate) unsafe fn give<T>(value: T, place: *mut T, name: &str) -> Result<()> {
    check_place(place, name)?;
    place.write(value);
    Ok(())
}

/// The same, where the caller may not want it.
pub(crate) unsafe fn offer<T>(value: T, place: *mut T, name: &str) -> Result<()> {
    if place.is_null() {
        return Ok(());
    }
    give(value, place, name)
}

/// Makes a handle of `value`. The place is looked at before anything is made for it, see [`clear`].
pub(crate) unsafe fn open<T>(value: T, place: *mut *mut T) {
    place.write(Box::into_raw(Box::new(value)));
}

/// Sets the place of a new handle to NULL, so that a call that fails leaves nothing there that could be closed.
pub(crate) unsafe fn clear<T>(place: *mut *mut T, name: &str) -> Result<()> {
    give(std::ptr::null_mut(), place, name)
}

/// Frees a handle; NULL is no handle and nothing to free.
pub(crate) unsafe fn close<T>(handle: *mut T, name: &str) -> Result<()> {
    check_alignment(handle, name)?;
    if !handle.is_null() {
        drop(Box::from_raw(handle));
    }
    Ok(())
}

/// A flag, or none.
pub(crate) fn flag(set: bool, flag: u64) -> u64 {
    if set { flag } else { 0 }
}

/// Refuses flags that nobody knows.
pub(crate) fn check_flags(flags: u64, known: u64, name: &str) -> Result<()> {
    match flags & !known {
        0 => Ok(()),
        other => Err(Failure::argument(
            name,
            &format!("has `flags` that this library does not know: {other:#x}"),
        )),
    }
}

fn check_place<T>(place: *mut T, name: &str) -> Result<()> {
    if place.is_null() {
        return Err(Failure::argument(name, "is NULL"));
    }
    check_alignment(place, name)
}

fn check_alignment<T>(pointer: *const T, name: &str) -> Result<()> {
    if pointer.is_aligned() {
        return Ok(());
    }
    Err(Failure::argument(
        name,
        "is not aligned as its type must be; is it a pointer to something else?",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::lwv_status;

    fn problem<T>(result: Result<T>) -> String {
        let failure = result.err().unwrap();
        assert_eq!(failure.status, lwv_status::Argument);
        failure.text
    }

    #[test]
    fn null_and_what_is_not_utf8_is_told_by_name() {
        unsafe {
            assert_eq!(
                problem(required(std::ptr::null::<u32>(), "engine")),
                "`engine` is NULL"
            );
            assert_eq!(problem(text(std::ptr::null(), "bundle")), "`bundle` is NULL");
            assert_eq!(
                problem(text(c"ab\xC3".as_ptr(), "bundle")),
                "`bundle` is not UTF-8 from byte 2 on"
            );
            assert_eq!(optional_text(std::ptr::null(), "x").unwrap(), None);
            assert_eq!(text(c"é".as_ptr(), "x").unwrap(), "é");
        }
    }

    #[test]
    fn lists_are_null_only_where_they_are_empty() {
        unsafe {
            assert!(list(std::ptr::null::<u32>(), 0, "ids").unwrap().is_empty());
            assert!(problem(list(std::ptr::null::<u32>(), 2, "ids")).contains("has 2 items"));
            assert!(problem(list([0_u32].as_ptr(), usize::MAX, "ids")).contains("never set"));
            let items = [c"a".as_ptr(), std::ptr::null()];
            assert_eq!(problem(texts(items.as_ptr(), 2, "stop")), "`stop[1]` is NULL");
        }
    }

    #[test]
    fn pointers_to_something_else_are_refused() {
        let words = [0_u64; 2];
        unsafe {
            let odd = words.as_ptr().byte_add(1);
            assert!(problem(required(odd, "engine")).contains("not aligned"));
        }
    }
}
