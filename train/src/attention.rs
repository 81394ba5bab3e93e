//! Scaled dot-product attention, in f32 and without fused kernels.

use candle_core::{D, DType, Device, Result, Tensor};

/// `softmax(q kᵀ / sqrt(d) + bias) v` for `q`, `k`, `v` `[batch, heads, rows, d]` and an additive `bias` that
/// broadcasts to `[batch, heads, query rows, key rows]`.
pub(crate) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let scale = 1.0 / (q.dim(D::Minus1)? as f64).sqrt();
    let scores = (q.contiguous()?.matmul(&k.transpose(2, 3)?.contiguous()?)? * scale)?;
    let scores = match bias {
        Some(bias) => scores.broadcast_add(bias)?,
        None => scores,
    };
    candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v.contiguous()?)
}

/// `[batch, rows, heads · d]` to `[batch, heads, rows, d]`.
pub(crate) fn split_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, rows, width) = x.dims3()?;
    x.reshape((batch, rows, heads, width / heads))?.transpose(1, 2)
}

/// `[batch, heads, rows, d]` to `[batch, rows, heads · d]`.
pub(crate) fn merge_heads(x: &Tensor) -> Result<Tensor> {
    let (batch, heads, rows, width) = x.dims4()?;
    x.transpose(1, 2)?.reshape((batch, rows, heads * width))
}

/// Repeats every head so that `[batch, heads, rows, d]` has `groups` times as many.
pub(crate) fn repeat_heads(x: &Tensor, groups: usize) -> Result<Tensor> {
    if groups == 1 {
        return Ok(x.clone());
    }
    let (batch, heads, rows, width) = x.dims4()?;
    x.unsqueeze(2)?
        .broadcast_as((batch, heads, groups, rows, width))?
        .reshape((batch, heads * groups, rows, width))
}

/// Additive mask `[new, past + new]` that lets each new row see the past and the rows up to itself.
pub(crate) fn causal_bias(new: usize, past: usize, device: &Device) -> Result<Tensor> {
    let visible = |row: usize, column: usize| {
        if column <= past + row {
            0.0
        } else {
            f32::NEG_INFINITY
        }
    };
    let mask: Vec<f32> = (0..new)
        .flat_map(|row| (0..past + new).map(move |column| visible(row, column)))
        .collect();
    Tensor::from_vec(mask, (new, past + new), device)
}

/// Additive mask `[segments, 1, 1, length]` that hides the padding behind the first `lengths[i]` places.
pub(crate) fn padding_bias(lengths: &Tensor, length: usize) -> Result<Tensor> {
    let device = lengths.device();
    let places = Tensor::arange(0f32, length as f32, device)?.reshape((1, 1, 1, length))?;
    let lengths = lengths.to_dtype(DType::F32)?.reshape(((), 1, 1, 1))?;
    let hidden = places.broadcast_ge(&lengths)?;
    let zero = Tensor::zeros(hidden.shape(), DType::F32, device)?;
    hidden.where_cond(&Tensor::full(f32::NEG_INFINITY, hidden.shape(), device)?, &zero)
}
