//! Memory of huge pages, for what writing reads for every token: weights, keys and values. Where pages are small, finding the
//! next page takes about a quarter of that time.
#![expect(
    unsafe_code,
    reason = "memory of huge pages is asked for by a system call, and shared out for several things"
)]

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

/// A huge page of x86-64, and of AArch64 with pages of 4 KiB.
const PAGE: usize = 2 << 20;

/// Regions of memory that stays are so large, or larger where one thing is. What is never written to takes no memory.
const REGION: usize = 64 << 20;

/// Things begin at cache lines.
const LINE: usize = 64;

/// Shares memory out. A region lives as long as any piece of it.
pub(crate) struct HugePages {
    /// Bytes of a region.
    region: usize,
    current: Mutex<Option<Current>>,
}

impl Default for HugePages {
    fn default() -> Self {
        Self::in_regions(REGION)
    }
}

struct Current {
    region: Arc<Region>,
    used: usize,
}

/// Memory of huge pages, zeroed by the system when it is first written to.
struct Region {
    memory: NonNull<u8>,
    size: usize,
}

/// Numbers in huge pages, which nobody else has.
pub(crate) struct Piece<T> {
    values: NonNull<T>,
    count: usize,
    /// Keeps the memory.
    _region: Arc<Region>,
}

/// What zeroed memory is a value of.
pub(crate) trait Number: Copy + Send + Sync {}

impl Number for f32 {}
impl Number for u16 {}
impl Number for u32 {}
impl Number for i8 {}
#[cfg(test)]
impl Number for u8 {}
impl Number for i64 {}

impl HugePages {
    /// Memory that is given back in parts of `region` bytes.
    pub(crate) fn in_regions(region: usize) -> Self {
        Self {
            region,
            current: Mutex::default(),
        }
    }

    /// As many zeros, which take memory only where they are written over, a page at a time; `None` where there are no huge pages,
    /// or no memory.
    pub(crate) fn zeroed<T: Number>(&self, count: usize) -> Option<Piece<T>> {
        let bytes = count.checked_mul(size_of::<T>())?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |current: &Current| bytes > current.region.size - current.used;
        if current.as_ref().is_none_or(full) {
            let region = Arc::new(Region::new(bytes.max(self.region))?);
            *current = Some(Current { region, used: 0 });
        }
        let Current { region, used } = current.as_mut()?;
        // SAFETY: the region has that many bytes behind `used`, which nobody else knows of; lines are aligned for every number.
        let values = unsafe { region.memory.add(*used).cast() };
        *used = (*used + bytes).next_multiple_of(LINE).min(region.size);
        Some(Piece {
            values,
            count,
            _region: Arc::clone(region),
        })
    }
}

#[cfg(target_os = "linux")]
impl Region {
    /// A region of at least so many bytes; `None` where the system has no huge pages, or no memory.
    fn new(bytes: usize) -> Option<Self> {
        let size = bytes.checked_next_multiple_of(PAGE)?;
        let whole = size.checked_add(PAGE)?;
        let (rights, kind) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: the system chooses where; nothing is replaced.
        let mapped = unsafe { libc::mmap(std::ptr::null_mut(), whole, rights, kind, -1, 0) };
        if mapped == libc::MAP_FAILED {
            return None;
        }
        let before = mapped.addr().wrapping_neg() % PAGE;
        // SAFETY: what is given back and what is asked for lie in the memory that was just mapped, and nobody knows of it yet.
        let (memory, is_given) = unsafe {
            let memory = mapped.byte_add(before);
            unmap(mapped, before);
            unmap(memory.byte_add(size), PAGE - before);
            (memory, libc::madvise(memory, size, libc::MADV_HUGEPAGE) == 0)
        };
        let region = Self {
            memory: NonNull::new(memory.cast())?,
            size,
        };
        is_given.then_some(region)
    }
}

/// Gives memory back.
///
/// # Safety
/// It was mapped, and nobody uses it any more.
#[cfg(target_os = "linux")]
unsafe fn unmap(memory: *mut libc::c_void, size: usize) {
    if size > 0 {
        // SAFETY: as the caller says. It fails only where more parts are mapped than the system counts, and then the memory stays.
        unsafe { libc::munmap(memory, size) };
    }
}

#[cfg(target_os = "linux")]
impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: it was mapped, and no piece is left.
        unsafe { unmap(self.memory.as_ptr().cast(), self.size) }
    }
}

#[cfg(not(target_os = "linux"))]
impl Region {
    /// `None`: other systems are not asked.
    fn new(_bytes: usize) -> Option<Self> {
        None
    }
}

// SAFETY: nobody else has the memory, and it is reached through pieces alone.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}
// SAFETY: a piece owns its numbers.
unsafe impl<T: Send> Send for Piece<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Piece<T> {}

impl<T: Number> Deref for Piece<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: so many are there, zeroed or written, and the region is held.
        unsafe { std::slice::from_raw_parts(self.values.as_ptr(), self.count) }
    }
}

impl<T: Number> DerefMut for Piece<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above; and this is the one piece that has them.
        unsafe { std::slice::from_raw_parts_mut(self.values.as_ptr(), self.count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn pieces_are_apart_and_outlive_what_made_them() {
        let pages = HugePages::default();
        let filled = |count: usize, byte: u8| {
            let mut piece = pages.zeroed(count)?;
            piece.fill(byte);
            Some(piece)
        };
        // Some kernels have no huge pages.
        let Some(first) = filled(1000, 1) else { return };
        let pieces: Vec<_> = (0..50).map(|_| filled(255, 2).unwrap()).collect();
        let large = filled(REGION + 1, 7).unwrap();
        let last = filled(1000, 3).unwrap();
        drop(pages);
        let is_full_of = |piece: &Piece<u8>, byte| piece.iter().all(|found| *found == byte);
        assert!(is_full_of(&first, 1) && is_full_of(&large, 7) && is_full_of(&last, 3));
        assert!(pieces.iter().all(|piece| is_full_of(piece, 2)));
        assert!(last.as_ptr().addr().is_multiple_of(LINE));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn pieces_are_zeroed_and_apart() {
        let pages = HugePages::default();
        let Some(mut first) = pages.zeroed::<i8>(1000) else {
            return;
        };
        let mut second = pages.zeroed::<f32>(REGION / 8).unwrap();
        let third = pages.zeroed::<i64>(REGION / 8).unwrap();
        assert!(
            pages.zeroed::<f32>(usize::MAX / 2).is_none(),
            "more than there is"
        );
        first.fill(1);
        assert!(second.iter().all(|value| *value == 0.0) && third.iter().all(|value| *value == 0));
        second.fill(2.0);
        assert!(first.iter().all(|value| *value == 1) && third.iter().all(|value| *value == 0));
    }
}
