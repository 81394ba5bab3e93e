//! Products of matrices that lie in slices. Candle's own product always makes a new tensor; a gradient is added to
//! one that is there, and attention needs products of tiles.
#![allow(
    unsafe_code,
    reason = "the gemm crate takes pointers and strides; every view is checked against its slice here"
)]

use super::Float;

/// A matrix in a slice; its columns are neighbours, or its rows where it is transposed.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    values: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T: Float> Matrix<'a, T> {
    /// `rows` rows of `columns` elements, the start of each `stride` after the last one's.
    pub(crate) fn new(values: &'a [T], rows: usize, columns: usize, stride: usize) -> Self {
        check_extent(values.len(), rows, columns, stride);
        Self {
            values,
            rows,
            columns,
            row_stride: stride,
            column_stride: 1,
        }
    }

    /// The transposed matrix.
    pub(crate) fn t(self) -> Self {
        Self {
            values: self.values,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

/// What becomes of the target's earlier values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// They are replaced.
    Replace,
    /// The product is added to them.
    Add,
}

/// Who computes a product.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The calling thread.
    One,
    /// All threads of the current pool.
    Pool,
}

/// `target = scale · a · b`, or `target += scale · a · b`. The rows of `target` are `stride` apart.
pub(crate) fn multiply<T: Float>(
    (target, stride): (&mut [T], usize),
    keep: Target,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    scale: T,
    threads: Threads,
) {
    check_extent(target.len(), a.rows, b.columns, stride);
    // SAFETY: the target's extent was checked, it is borrowed mutably, and its rows do not overlap because the stride is
    // at least a row's length.
    unsafe { run((target.as_mut_ptr(), stride), keep, a, b, scale, threads) }
}

/// `a · b`, row-major, by all threads. Its memory is written once: filling it with zeros first would take one thread a
/// twentieth of a training step.
pub(crate) fn product<T: Float>(a: Matrix<'_, T>, b: Matrix<'_, T>) -> Vec<T> {
    let length = a.rows * b.columns;
    if a.columns == 0 {
        return vec![T::zero(); length];
    }
    let mut target = Vec::with_capacity(length);
    // SAFETY: the capacity is that of all rows; gemm reads nothing of a target that is replaced, and writes every one
    // of its elements.
    unsafe {
        let rows = (target.as_mut_ptr(), b.columns);
        run(rows, Target::Replace, a, b, T::one(), Threads::Pool);
        target.set_len(length);
    }
    target
}

/// # Safety
/// `target` must be valid for writes of `a.rows` rows of `b.columns` elements, `stride` apart, and for reads too if it is
/// added to.
unsafe fn run<T: Float>(
    (target, stride): (*mut T, usize),
    keep: Target,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    scale: T,
    threads: Threads,
) {
    assert_eq!(a.columns, b.rows, "inner sizes of a product differ");
    let parallelism = match threads {
        Threads::One => gemm::Parallelism::None,
        Threads::Pool => gemm::Parallelism::Rayon(rayon::current_num_threads()),
    };
    // SAFETY: `a` and `b` were checked against their slices when they were made; the caller vouches for the target.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            target,
            1,
            stride as isize,
            keep == Target::Add,
            a.values.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            T::one(),
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

fn check_extent(length: usize, rows: usize, columns: usize, stride: usize) {
    assert!(stride >= columns, "rows of a matrix overlap");
    let end = if rows == 0 || columns == 0 {
        0
    } else {
        (rows - 1) * stride + columns
    };
    assert!(end <= length, "a matrix reaches over the end of its slice");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strided_and_transposed_products_are_added() {
        let a = [1.0, 2.0, 9.0, 3.0, 4.0, 9.0]; // 2×2 in rows of 3
        let b = [1.0, 0.0, 5.0, 1.0]; // 2×2
        let mut target = [100.0f64; 5];
        let left = Matrix::new(&a, 2, 2, 3);
        let right = Matrix::new(&b, 2, 2, 2);
        multiply((&mut target, 3), Target::Add, left, right.t(), 2.0, Threads::One);
        assert_eq!(target, [102.0, 114.0, 100.0, 106.0, 138.0]);
        multiply(
            (&mut target[..4], 2),
            Target::Replace,
            left.t(),
            right,
            1.0,
            Threads::Pool,
        );
        assert_eq!(target[..4], [16.0, 3.0, 22.0, 4.0]);
        assert_eq!(product(left.t(), right), [16.0, 3.0, 22.0, 4.0]);
        let nothing = Matrix::new(&[], 2, 0, 0);
        assert_eq!(product::<f64>(nothing, nothing.t()), [0.0; 4]);
    }

    #[test]
    #[should_panic(expected = "over the end")]
    fn a_view_over_the_end_is_refused() {
        Matrix::new(&[0.0f32; 5], 2, 3, 3);
    }
}
