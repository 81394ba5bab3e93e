//! Scaled dot-product attention in tiles (Dao et al., arXiv 2205.14135): no matrix of scores is ever whole, neither
//! forward nor backward, so memory grows with the number of rows.

mod backward;
pub(super) mod blocks;
mod forward;

use super::gemm::Matrix;
use super::{Float, on_host};
use backward::backward_host;
use candle_core::{Result, Tensor};
use forward::forward_host;

/// Query rows of a tile.
const QUERIES: usize = 128;
/// Key rows of a tile.
const KEYS: usize = 256;

/// Who attends to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// Query heads.
    pub(crate) heads: usize,
    /// Key and value heads; each serves `heads / key_value_heads` query heads.
    pub(crate) key_value_heads: usize,
    /// Whether a row sees only the rows up to itself.
    pub(crate) causal: bool,
    /// First row and number of rows of each run that attends within itself. Rows in no run get zeros.
    pub(crate) runs: Vec<(usize, usize)>,
}

impl Pattern {
    fn group(&self) -> usize {
        self.heads / self.key_value_heads
    }
}

/// What the backward pass needs again.
pub(crate) struct Attended {
    /// `[rows, heads · d]`.
    pub(crate) out: Tensor,
    /// `[rows, heads]`: logarithm of the sum of the exponentials of a row's scores.
    pub(crate) log_sums: Tensor,
}

/// `softmax(q kᵀ / sqrt(d)) v` for `q` `[rows, heads · d]`, `k` and `v` `[rows, key_value_heads · d]`.
pub(crate) fn forward(q: &Tensor, k: &Tensor, v: &Tensor, pattern: &Pattern) -> Result<Attended> {
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    on_host!(
        q,
        forward_host(&q, &k, &v, pattern),
        blocks::forward(&q, &k, &v, pattern)
    )
}

/// Gradients of `q`, `k` and `v`, given that of the result.
pub(crate) fn backward(
    grad: &Tensor,
    [q, k, v]: [&Tensor; 3],
    attended: &Attended,
    pattern: &Pattern,
) -> Result<[Tensor; 3]> {
    let grad = grad.contiguous()?;
    let inputs = [q.contiguous()?, k.contiguous()?, v.contiguous()?];
    on_host!(
        grad,
        backward_host(&grad, &inputs, attended, pattern),
        blocks::backward(&grad, &inputs, attended, pattern)
    )
}

/// One head's columns of a `[rows, heads · d]` matrix.
#[derive(Clone, Copy)]
struct Heads<'a, T> {
    values: &'a [T],
    width: usize,
    d: usize,
}

impl<'a, T: Float> Heads<'a, T> {
    fn rows(&self, head: usize, start: usize, count: usize) -> Matrix<'a, T> {
        Matrix::new(
            &self.values[start * self.width + head * self.d..],
            count,
            self.d,
            self.width,
        )
    }

    fn row(&self, head: usize, row: usize) -> &'a [T] {
        &self.values[row * self.width + head * self.d..][..self.d]
    }
}

/// How many of the `keys` rows from `start` on the query row sees.
#[inline(always)]
fn visible(row: usize, start: usize, keys: usize, causal: bool) -> usize {
    if causal {
        (row + 1).saturating_sub(start).min(keys)
    } else {
        keys
    }
}
