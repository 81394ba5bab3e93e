use candle_core::{Result, Tensor};

use super::gemm::Target;
use super::gradient::{Gradient, wide};
use super::{Float, host, on_host};

/// Rows of `table` `[vocabulary, width]` at `ids` `[…]`: `[…, width]`.
pub(crate) fn forward(ids: &Tensor, table: &Tensor) -> Result<Tensor> {
    let rows = table.index_select(&ids.flatten_all()?, 0)?;
    rows.reshape([ids.dims(), &[table.dim(1)?]].concat())
}

/// Adds the gradient of the table, `grad`'s rows at `ids`, to `sum`; not those of the token `padding`.
pub(crate) fn add_table_gradient(
    grad: &Tensor,
    ids: &Tensor,
    padding: Option<u32>,
    shape: &[usize],
    sum: &Gradient,
) -> Result<()> {
    let grad = grad.contiguous()?;
    let ids = ids.flatten_all()?;
    on_host!(grad, add_host(&grad, &ids, padding, shape, sum), {
        let rows = wide(&grad)?.reshape((ids.dim(0)?, ()))?;
        let rows = match padding {
            Some(padding) => rows.broadcast_mul(&ids.ne(padding)?.to_dtype(rows.dtype())?.unsqueeze(1)?)?,
            None => rows,
        };
        let zeros = Tensor::zeros(shape, rows.dtype(), rows.device())?;
        sum.add(&zeros.index_add(&ids, &rows, 0)?)
    })
}

fn add_host<T: Float>(
    grad: &Tensor,
    ids: &Tensor,
    padding: Option<u32>,
    shape: &[usize],
    sum: &Gradient,
) -> Result<()> {
    let width = shape[1];
    let (grad, ids) = (host::elements::<T>(grad)?, ids.to_vec1::<u32>()?);
    let grad = grad.slice()?;
    sum.add_with(shape, |sum, keep| {
        // A new sum is all zeros already.
        debug_assert!(keep == Target::Add || sum.iter().all(|value| *value == T::zero()));
        for (id, row) in ids.iter().zip(grad.chunks_exact(width)) {
            if Some(*id) != padding {
                host::store(&mut sum[*id as usize * width..][..width], row, Target::Add);
            }
        }
    })
}
