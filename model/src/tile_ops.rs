use crate::Ops;

/// What a tower of tiles needs beside [`Ops`]. Rows are the patches of any number of tiles, `rows` for each, one tile after the
/// other.
///
/// It is a trait of its own because not every interpreter of the decoder has a way back through these.
pub trait TileOps: Ops {
    /// `(x - mean(x)) / sqrt(variance(x) + eps) · weight + bias` over the last dimension, in f32.
    fn layer_norm(
        &mut self,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        bias: &Self::Tensor,
        eps: f64,
    ) -> Result<Self::Tensor, Self::Error>;

    /// `x · (1 + tanh(√(2/π) · (x + 0.044715 · x³))) / 2`.
    fn gelu_tanh(&mut self, x: &Self::Tensor) -> Result<Self::Tensor, Self::Error>;

    /// Adds rows of the weight `table` `[rows, width]` to the rows of every tile, row `order[i]` to the `i`-th:
    /// `[tiles · rows, width]` to the same.
    fn add_to_tiles(
        &mut self,
        x: &Self::Tensor,
        table: &Self::Tensor,
        order: &[usize],
    ) -> Result<Self::Tensor, Self::Error>;

    /// Attention of all rows of a tile among themselves, scaled by `1 / sqrt(head_dim)`; `q`, `k`, `v` are
    /// `[tiles · rows, heads · head_dim]`.
    fn tile_attention(
        &mut self,
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        heads: usize,
        rows: usize,
    ) -> Result<Self::Tensor, Self::Error>;
}
