use std::mem::MaybeUninit;

use crate::failure::{Failure, Result};

/// Largest structure that is believed: a greater size was never set.
const LARGEST: usize = 4096;

/// A structure that may grow at its end from version to version. It begins with its `size`, which says how much of it the
/// caller knows.
///
/// # Safety
/// It is `repr(C)`, begins with `size: usize`, and every pattern of bits is one of its values, apart from pointers, which
/// callers answer for. No field is larger than the structure's alignment.
pub(crate) unsafe trait Structure: Copy {
    /// What its fields are where the caller does not set them.
    fn usual() -> Self;
}

/// Reads a caller's structure: of an older one the fields that are missing are as usual, and what a newer one has besides
/// must be zero, so that nothing that was asked for is passed over in silence. NULL is all as usual.
pub(crate) unsafe fn read<T: Structure>(given: *const T, name: &str) -> Result<T> {
    let usual = T::usual();
    if given.is_null() {
        return Ok(usual);
    }
    let size = size_of_given(given, name)?;
    let (known, bytes) = (size.min(size_of::<T>()), given.cast::<u8>());
    if (known..size).any(|at| bytes.add(at).read() != 0) {
        return Err(Failure::argument(
            name,
            &format!(
                "is of a newer version ({size} bytes, this library knows {}) and sets something that this library does not \
                 know; take a newer library",
                size_of::<T>()
            ),
        ));
    }
    let mut value = MaybeUninit::new(usual);
    std::ptr::copy_nonoverlapping(bytes, value.as_mut_ptr().cast(), known);
    Ok(value.assume_init())
}

/// Writes as much of a structure as the caller knows, and zeros after what this library knows. The `size` stays the
/// caller's.
pub(crate) unsafe fn write<T: Structure>(value: T, place: *mut T, name: &str) -> Result<()> {
    if place.is_null() {
        return Err(Failure::argument(name, "is NULL"));
    }
    let size = size_of_given(place, name)?;
    fill(value, place, size);
    Ok(())
}

/// Sets a structure of `size` bytes to what is usual.
pub(crate) unsafe fn init<T: Structure>(place: *mut T, size: usize, name: &str) -> Result<()> {
    if place.is_null() {
        return Err(Failure::argument(name, "is NULL"));
    }
    check_alignment(place, name)?;
    check_size::<T>(size, name)?;
    fill(T::usual(), place, size);
    Ok(())
}

unsafe fn fill<T: Structure>(value: T, place: *mut T, size: usize) {
    let (known, bytes) = (size.min(size_of::<T>()), place.cast::<u8>());
    std::ptr::copy_nonoverlapping((&raw const value).cast(), bytes, known);
    bytes.add(known).write_bytes(0, size - known);
    place.cast::<usize>().write(size);
}

unsafe fn size_of_given<T: Structure>(given: *const T, name: &str) -> Result<usize> {
    check_alignment(given, name)?;
    let size = given.cast::<usize>().read();
    check_size::<T>(size, name)?;
    Ok(size)
}

/// C compilers make every size a multiple of the alignment, so that no field is cut.
fn check_size<T>(size: usize, name: &str) -> Result<()> {
    if size >= size_of::<usize>() && size <= LARGEST && size.is_multiple_of(align_of::<T>()) {
        return Ok(());
    }
    Err(Failure::argument(
        name,
        &format!("has a `size` of {size}; set it to the `sizeof` of the structure"),
    ))
}

fn check_alignment<T>(pointer: *const T, name: &str) -> Result<()> {
    if pointer.is_aligned() {
        return Ok(());
    }
    Err(Failure::argument(name, "is not aligned as its type must be"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    #[derive(Debug, Clone, Copy, PartialEq)]
    struct Pair {
        size: usize,
        first: u64,
        second: u64,
    }

    /// What a later version may make of it.
    #[repr(C)]
    #[derive(Debug, Clone, Copy, PartialEq)]
    struct Triple {
        pair: Pair,
        third: u64,
    }

    // SAFETY: `repr(C)`, `size` first, integers only.
    unsafe impl Structure for Pair {
        fn usual() -> Self {
            Self {
                size: size_of::<Self>(),
                first: 10,
                second: 20,
            }
        }
    }

    fn pair(size: usize, first: u64, second: u64) -> Pair {
        Pair { size, first, second }
    }

    fn text<T: std::fmt::Debug>(result: Result<T>) -> String {
        result.unwrap_err().text
    }

    #[test]
    fn what_an_older_caller_does_not_know_is_as_usual() {
        unsafe {
            assert_eq!(read(&pair(16, 1, 2), "p").unwrap(), pair(16, 1, 20));
            assert_eq!(read(&pair(8, 1, 2), "p").unwrap(), pair(8, 10, 20));
            assert_eq!(read(std::ptr::null::<Pair>(), "p").unwrap(), Pair::usual());
        }
    }

    #[test]
    fn what_a_newer_caller_sets_is_refused_and_what_it_leaves_is_not() {
        let newer = |third| Triple {
            pair: pair(size_of::<Triple>(), 1, 2),
            third,
        };
        unsafe {
            let read = |triple: &Triple| read((&raw const *triple).cast::<Pair>(), "p");
            assert_eq!(read(&newer(0)).unwrap().second, 2);
            assert!(text(read(&newer(1))).contains("newer version (32 bytes, this library knows 24)"));
        }
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        for size in [0, 4, 7, 12, 23, 4104, usize::MAX] {
            unsafe {
                assert!(
                    text(read(&pair(size, 1, 2), "p")).contains(&format!("`size` of {size}")),
                    "{size}"
                );
                assert!(text(write(Pair::usual(), &mut pair(size, 1, 2), "p")).contains("sizeof"));
                assert!(text(init(&mut pair(0, 1, 2), size, "p")).contains("sizeof"));
            }
        }
    }

    #[test]
    fn no_more_is_written_than_the_caller_has_room_for() {
        let mut old = pair(16, 1, 2);
        let mut new = Triple {
            pair: pair(size_of::<Triple>(), 1, 2),
            third: 3,
        };
        unsafe {
            write(Pair::usual(), &raw mut old, "p").unwrap();
            write(Pair::usual(), (&raw mut new).cast::<Pair>(), "p").unwrap();
        }
        assert_eq!(old, pair(16, 10, 2));
        assert_eq!((new.pair, new.third), (pair(32, 10, 20), 0));
        unsafe { init(&raw mut old, 24, "p").unwrap() };
        assert_eq!(old, Pair::usual());
    }
}
