//! Memory of huge pages, for what writing reads for every token: weights, keys and values. Where pages are small, finding the
//! next page takes about a quarter of that time.
#![expect(
    unsafe_code,
    reason = "memory of huge pages is asked for by a system call, and shared out for several things"
)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

/// A huge page of x86-64, and of AArch64 with pages of 4 KiB.
const PAGE: usize = 2 << 20;

/// Regions are so large, or larger where one thing is. What is never written to takes no memory.
const REGION: usize = 64 << 20;

/// Things begin at cache lines.
const LINE: usize = 64;

/// Shares memory out. A region lives as long as any piece of it.
#[derive(Default)]
pub(crate) struct HugePages {
    current: Mutex<Option<Current>>,
}

struct Current {
    region: Arc<Region>,
    used: usize,
}

/// Zeroed memory of huge pages.
struct Region {
    memory: NonNull<u8>,
    layout: Layout,
    /// The first huge page.
    start: usize,
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
impl Number for i8 {}
impl Number for u8 {}
impl Number for i64 {}

impl HugePages {
    /// A copy of `values`; `None` where there are no huge pages, or no memory.
    pub(crate) fn copy<T: Number>(&self, values: &[T]) -> Option<Piece<T>> {
        let mut piece = self.zeroed(values.len())?;
        piece.copy_from_slice(values);
        Some(piece)
    }

    /// As many zeros, which take memory only where they are written over, a page at a time; `None` where there are no huge pages,
    /// or no memory.
    pub(crate) fn zeroed<T: Number>(&self, count: usize) -> Option<Piece<T>> {
        let bytes = count.checked_mul(size_of::<T>())?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |current: &Current| bytes > current.region.size() - current.used;
        if current.as_ref().is_none_or(full) {
            let region = Arc::new(Region::new(bytes.max(REGION))?);
            *current = Some(Current { region, used: 0 });
        }
        let Current { region, used } = current.as_mut()?;
        // SAFETY: the region has that many bytes behind `used`, which nobody else knows of; lines are aligned for every number.
        let values = unsafe { region.memory.add(region.start + *used).cast() };
        *used = (*used + bytes).next_multiple_of(LINE).min(region.size());
        Some(Piece {
            values,
            count,
            _region: Arc::clone(region),
        })
    }
}

impl Region {
    fn new(bytes: usize) -> Option<Self> {
        // Memory that is asked for at a page would be written to, to have it zeroed.
        let size = bytes.checked_next_multiple_of(PAGE)?.checked_add(PAGE)?;
        let layout = Layout::from_size_align(size, align_of::<u64>()).ok()?;
        // SAFETY: the layout is not empty.
        let memory = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let start = memory.as_ptr().addr().wrapping_neg() % PAGE;
        let region = Self {
            memory,
            layout,
            start,
        };
        region.ask_for_huge_pages().then_some(region)
    }

    /// Bytes in huge pages.
    fn size(&self) -> usize {
        self.layout.size() - PAGE
    }

    /// Whether the system gives them.
    #[cfg(target_os = "linux")]
    fn ask_for_huge_pages(&self) -> bool {
        // SAFETY: this memory is ours and begins at a page; what is asked for changes nothing that can be seen in it.
        unsafe {
            let memory = self.memory.add(self.start).as_ptr().cast();
            libc::madvise(memory, self.size(), libc::MADV_HUGEPAGE) == 0
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn ask_for_huge_pages(&self) -> bool {
        false
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout, and no piece is left.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) }
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
    fn copies_are_apart_and_outlive_what_made_them() {
        let pages = HugePages::default();
        let numbers: Vec<f32> = (0..1000).map(|number| number as f32).collect();
        let bytes: Vec<u8> = (0..255).collect();
        // Some kernels have no huge pages.
        let Some(first) = pages.copy(&numbers) else { return };
        let copies: Vec<_> = (0..50).map(|_| pages.copy(&bytes).unwrap()).collect();
        let large = pages.copy(&vec![7_u8; REGION + 1]).unwrap();
        let last = pages.copy(&numbers).unwrap();
        drop(pages);
        assert_eq!(first[..], numbers[..]);
        assert!(copies.iter().all(|copy| copy[..] == bytes[..]));
        assert!(large.iter().all(|byte| *byte == 7));
        assert_eq!(last[..], numbers[..]);
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
