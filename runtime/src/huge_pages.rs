//! Weights in memory of huge pages. Writing reads all of them for every token, and where pages are small, finding the next page
//! takes about a quarter of that time.
#![expect(
    unsafe_code,
    reason = "memory of huge pages is asked for by a system call, for pages that are ours alone"
)]

use std::alloc::{Layout, alloc, dealloc};
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

/// A huge page of x86-64, and of AArch64 with pages of 4 KiB.
const PAGE: usize = 2 << 20;

/// Regions are so large, or larger where one thing is. What is never written to takes no memory.
const REGION: usize = 64 << 20;

/// Things begin at cache lines.
const LINE: usize = 64;

/// Takes copies of what is read often. They live as long as any of them is held.
#[derive(Default)]
pub(crate) struct HugePages {
    current: Mutex<Option<Current>>,
}

struct Current {
    region: Arc<Region>,
    used: usize,
}

/// Memory of huge pages, written to only while a copy is made.
struct Region {
    memory: NonNull<u8>,
    layout: Layout,
}

/// A copy in huge pages.
pub(crate) struct Copied<T> {
    values: NonNull<T>,
    count: usize,
    /// Keeps the memory.
    _region: Arc<Region>,
}

impl HugePages {
    /// Copies `values`; `None` where there are no huge pages, or no memory.
    pub(crate) fn copy<T: Copy + Send + Sync>(&self, values: &[T]) -> Option<Copied<T>> {
        let bytes = size_of_val(values);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |current: &Current| current.used + bytes > current.region.layout.size();
        if current.as_ref().is_none_or(full) {
            let region = Arc::new(Region::new(bytes.max(REGION))?);
            *current = Some(Current { region, used: 0 });
        }
        let Current { region, used } = current.as_mut()?;
        // SAFETY: the region has that many bytes behind `used`, which nobody else knows of; lines are aligned for every number.
        let copied = unsafe {
            let memory = region.memory.add(*used).cast::<T>();
            memory.copy_from_nonoverlapping(NonNull::from(values).cast(), values.len());
            memory
        };
        *used = (*used + bytes).next_multiple_of(LINE);
        Some(Copied {
            values: copied,
            count: values.len(),
            _region: Arc::clone(region),
        })
    }
}

impl Region {
    fn new(bytes: usize) -> Option<Self> {
        let layout = Layout::from_size_align(bytes.next_multiple_of(PAGE), PAGE).ok()?;
        // SAFETY: the layout is not empty.
        let memory = NonNull::new(unsafe { alloc(layout) })?;
        let region = Self { memory, layout };
        region.ask_for_huge_pages().then_some(region)
    }

    /// Whether the system gives them.
    #[cfg(target_os = "linux")]
    fn ask_for_huge_pages(&self) -> bool {
        let (memory, bytes) = (self.memory.as_ptr().cast(), self.layout.size());
        // SAFETY: this memory is ours and begins at a page; what is asked for changes nothing that can be seen in it.
        unsafe { libc::madvise(memory, bytes, libc::MADV_HUGEPAGE) == 0 }
    }

    #[cfg(not(target_os = "linux"))]
    fn ask_for_huge_pages(&self) -> bool {
        false
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout, and no copy is left.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) }
    }
}

// SAFETY: the memory belongs to nobody else, and is written to under a lock, where no copy is yet.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}
// SAFETY: a copy is only read.
unsafe impl<T: Send + Sync> Send for Copied<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Copied<T> {}

impl<T> Deref for Copied<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: that many were written, and the region is held.
        unsafe { std::slice::from_raw_parts(self.values.as_ptr(), self.count) }
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
}
