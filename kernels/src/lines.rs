//! Lines of memory, as wide as a vector.

use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

use fearless_simd::Avx512;

/// Numbers of a line: the lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Bytes of a word.
pub(crate) const WORD: usize = 4;

fearless_simd::kernel! {
    #[inline]
    fn fetch_line(avx512: Avx512, line: *const i8) {
        _mm_prefetch::<_MM_HINT_T1>(line);
    }
}

/// Lets the cache line of `element` be read into the second cache, which has room for more that is on its way than the first.
#[inline(always)]
pub(crate) fn fetch<T>(avx512: Avx512, element: &T) {
    fetch_line(avx512, std::ptr::from_ref(element).cast());
}
