//! Products of small matrices that lie in the first cache.

use fearless_simd::{Simd, SimdBase, SimdFloat};

use crate::attention::cache::Element;

/// Rows of a block of the product: with two vectors each, as many as registers hold.
const ROWS: usize = 6;

/// A row-major matrix that is part of a larger one.
#[derive(Clone, Copy)]
pub(crate) struct View<'a, T = f32> {
    values: &'a [T],
    /// From one row to the next.
    stride: usize,
}

impl<'a, T> View<'a, T> {
    #[inline(always)]
    pub(crate) fn new(values: &'a [T], stride: usize) -> Self {
        Self { values, stride }
    }

    #[inline(always)]
    fn row(&self, row: usize) -> &'a [T] {
        &self.values[row * self.stride..]
    }

    #[inline(always)]
    fn from(&self, row: usize, column: usize) -> Self {
        View {
            values: &self.values[row * self.stride + column..],
            stride: self.stride,
        }
    }
}

/// Adds `a` `[rows, depth]` times `b` `[depth, columns]` to `c` `[rows, columns]`. `columns` is a multiple of the lanes.
#[inline(always)]
pub(crate) fn add_product<S: Simd, T: Element>(
    simd: S,
    c: &mut [f32],
    c_stride: usize,
    a: View<'_>,
    b: View<'_, T>,
    [rows, depth, columns]: [usize; 3],
) {
    // Few rows take more vectors each, so that the units always have sums to add to.
    let vectors = if rows <= 3 { 4 } else { 2 };
    let mut column = 0;
    while column < columns {
        let left = (columns - column) / S::f32s::LEN;
        let n = if left >= vectors { vectors } else { 1 };
        let mut row = 0;
        while row < rows {
            let r = (rows - row).min(ROWS);
            let (c, a, b) = (
                &mut c[row * c_stride + column..],
                a.from(row, 0),
                b.from(0, column),
            );
            macro_rules! add {
                ($(($rows:literal, $vectors:literal))*) => {
                    match (r, n) {
                        $(($rows, $vectors) => add_block::<S, T, $rows, $vectors>(simd, c, c_stride, a, b, depth),)*
                        _ => {}
                    }
                };
            }
            add!((1, 4)(2, 4)(3, 4)(1, 2)(2, 2)(3, 2)(4, 2)(5, 2)(6, 2)(1, 1)(2, 1)(3, 1)(4, 1)(5, 1)(6, 1));
            row += r;
        }
        column += n * S::f32s::LEN;
    }
}

#[expect(clippy::needless_range_loop, reason = "the same index walks through all rows")]
#[inline(always)]
fn add_block<S: Simd, T: Element, const R: usize, const N: usize>(
    simd: S,
    c: &mut [f32],
    c_stride: usize,
    a: View<'_>,
    b: View<'_, T>,
    depth: usize,
) {
    let a: [&[f32]; R] = std::array::from_fn(
        #[inline(always)]
        |row| &a.row(row)[..depth],
    );
    let mut sums = [[S::f32s::splat(simd, 0.0); N]; R];
    for k in 0..depth {
        let row = &b.row(k)[..N * S::f32s::LEN];
        let mut b = [S::f32s::splat(simd, 0.0); N];
        for n in 0..N {
            b[n] = T::load(simd, &row[n * S::f32s::LEN..]);
        }
        for row in 0..R {
            let factor = S::f32s::splat(simd, a[row][k]);
            for n in 0..N {
                sums[row][n] = factor.mul_add(b[n], sums[row][n]);
            }
        }
    }
    for row in 0..R {
        for n in 0..N {
            let c = &mut c[row * c_stride + n * S::f32s::LEN..][..S::f32s::LEN];
            (S::f32s::from_slice(simd, c) + sums[row][n]).store_slice(c);
        }
    }
}

/// Rows of the second factor that [`dots`] takes together.
pub(crate) const KEYS_AT_ONCE: usize = 4;

/// Products of each of the rows `a` with each of the rows `b`, summed; their length is a multiple of the lanes.
#[inline(always)]
pub(crate) fn dots<S: Simd, T: Element, const R: usize>(
    simd: S,
    a: [&[f32]; R],
    b: [&[T]; KEYS_AT_ONCE],
) -> [[f32; KEYS_AT_ONCE]; R] {
    let mut sums = [[S::f32s::splat(simd, 0.0); KEYS_AT_ONCE]; R];
    let length = a[0].len() / S::f32s::LEN;
    for k in 0..length {
        let mut wide = [S::f32s::splat(simd, 0.0); KEYS_AT_ONCE];
        for key in 0..KEYS_AT_ONCE {
            wide[key] = T::load(simd, &b[key][k * S::f32s::LEN..]);
        }
        for row in 0..R {
            let factor = S::f32s::from_slice(simd, &a[row][k * S::f32s::LEN..][..S::f32s::LEN]);
            for key in 0..KEYS_AT_ONCE {
                sums[row][key] = factor.mul_add(wide[key], sums[row][key]);
            }
        }
    }
    let mut out = [[0.0; KEYS_AT_ONCE]; R];
    for row in 0..R {
        for key in 0..KEYS_AT_ONCE {
            out[row][key] = sums[row][key].reduce_sum();
        }
    }
    out
}
