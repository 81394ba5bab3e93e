//! Rows turned over: what is multiplied with the same number lies side by side.

use std::arch::x86_64::{__m512i, _MM_HINT_T1, _mm_prefetch};
use std::array;

use fearless_simd::{Avx512, SimdBase, SimdInto, u8x64, u32x16};

/// Numbers of a line: the lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Bytes of a word.
pub(crate) const WORD: usize = 4;

/// A number of each of sixteen rows.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
pub(crate) struct Line<T>(pub(crate) [T; LANES]);

/// Turns sixteen rows of `length` over into as many lines. `load` gives sixteen numbers of a row.
#[inline(always)]
pub(crate) fn turn<V, T>(lines: &mut Vec<Line<T>>, length: usize, load: impl Fn(usize, usize) -> V)
where
    V: SimdBase<Avx512, Element = T>,
    T: Copy + Default,
{
    lines.resize(length.max(LANES), Line::default());
    for start in (0..length).step_by(LANES) {
        // The last vector takes some again rather than reach beyond the end.
        let start = start.min(length.saturating_sub(LANES));
        let vectors: [V; LANES] = array::from_fn(
            #[inline(always)]
            |lane| load(lane, start),
        );
        let vectors = transpose(vectors);
        for (line, vector) in lines[start..].iter_mut().zip(vectors) {
            vector.store_slice(&mut line.0);
        }
    }
}

/// Sixteen rows of sixteen numbers turned over.
#[inline(always)]
fn transpose<V: SimdBase<Avx512>>(mut vectors: [V; LANES]) -> [V; LANES] {
    // Four perfect shuffles of sixteen rows are their transpose.
    for _ in 0..4 {
        let before = vectors;
        for pair in 0..LANES / 2 {
            let (low, high) = before[pair].interleave(before[pair + LANES / 2]);
            (vectors[2 * pair], vectors[2 * pair + 1]) = (low, high);
        }
    }
    vectors
}

/// Sixteen numbers, or fewer with zeros behind them.
#[inline(always)]
pub(crate) fn load<V>(avx512: Avx512, elements: &[V::Element]) -> V
where
    V: SimdBase<Avx512>,
    V::Element: Copy + Default,
{
    match elements.len() == V::LEN {
        true => V::from_slice(avx512, elements),
        false => {
            let mut vector = V::splat(avx512, V::Element::default());
            vector.as_mut_slice()[..elements.len()].copy_from_slice(elements);
            vector
        }
    }
}

/// Up to sixteen words of bytes.
#[inline(always)]
pub(crate) fn load_words(avx512: Avx512, bytes: &[u8]) -> u32x16<Avx512> {
    let bytes: __m512i = load::<u8x64<Avx512>>(avx512, bytes).into();
    bytes.simd_into(avx512)
}

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
