use candle_core::{Result, Tensor};
use lwv_model::Segments;

use super::attention::Pattern;

/// Rows of `x` `[rows, width]` as they stand in the padded layout: `[segments · length, width]`.
pub(crate) fn lay_out(x: &Tensor, segments: &Segments<Tensor>) -> Result<Tensor> {
    x.contiguous()?.index_select(&segments.gather.flatten_all()?, 0)
}

/// The rows back from the padded layout, in their own order. As padding takes part in nothing, this is also how
/// gradients come back.
pub(crate) fn take_back(laid_out: &Tensor, segments: &Segments<Tensor>) -> Result<Tensor> {
    laid_out.contiguous()?.index_select(&segments.scatter, 0)
}

/// The attention of segments, each within itself, in the padded layout.
pub(crate) fn pattern(heads: usize, segments: &Segments<Tensor>) -> Result<Pattern> {
    let (_, length) = segments.gather.dims2()?;
    let lengths = segments.lengths.to_vec1::<i32>()?;
    let runs = lengths.iter().enumerate();
    Ok(Pattern {
        heads,
        key_value_heads: heads,
        causal: false,
        runs: runs
            .map(|(segment, &count)| (segment * length, count as usize))
            .collect(),
    })
}
