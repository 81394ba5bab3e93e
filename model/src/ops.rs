use crate::SelfAttention;

/// Cosines and sines of a set of tokens, made once and used by every layer.
#[derive(Debug, Clone)]
pub struct Rotary<T> {
    /// `[tokens, head_dim / 2]`, f32.
    pub cos: T,
    /// `[tokens, head_dim / 2]`, f32.
    pub sin: T,
}

/// Runs of rows that attend only among themselves: the windows, or the frames, of a set of images.
///
/// Runs of different lengths are laid out padded to the longest. Everything here is computed from the image grids
/// and enters the network as data.
#[derive(Debug, Clone)]
pub struct Segments<T> {
    /// `[segments, length]`, i64: for every place of the padded layout the row that stands there. Padding places hold
    /// any valid row.
    pub gather: T,
    /// `[segments]`, i32: how many places of each segment are not padding.
    pub lengths: T,
    /// `[rows]`, i64: for every row its place in the flattened padded layout.
    pub scatter: T,
}

/// The operations that the networks are made of, at the level of blocks.
///
/// An interpreter decides what a tensor is: candle computes, the exporter appends graph nodes, and the list of
/// expected weights is made by one that only remembers names. Leading dimensions are "tokens": `[tokens…, width]` is
/// `[batch, sequence, width]` in the decoder and `[patches, width]` in the vision tower.
///
/// Block level is a rule, not a habit: it leaves each interpreter free to choose fused kernels or primitives.
pub trait Ops {
    /// A tensor, or what stands for one.
    type Tensor: Clone;
    /// What can go wrong.
    type Error;

    /// The weight `name` in the canonical layout of [`crate::WeightNames`], which must have `shape`.
    fn weight(&mut self, name: &str, shape: &[usize]) -> Result<Self::Tensor, Self::Error>;

    /// Rows of `table` `[vocabulary, width]` at `ids` `[tokens…]`: `[tokens…, width]`.
    fn embedding(&mut self, ids: &Self::Tensor, table: &Self::Tensor) -> Result<Self::Tensor, Self::Error>;

    /// `x · weightᵀ + bias`: `[tokens…, in]` to `[tokens…, out]`. `weight` is `[out, …]` with all further dimensions
    /// taken as one of size `in`; `bias` is `[out]`.
    fn linear(
        &mut self,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        bias: Option<&Self::Tensor>,
    ) -> Result<Self::Tensor, Self::Error>;

    /// `x / sqrt(mean(x²) + eps) · weight` over the last dimension, in f32.
    fn rms_norm(
        &mut self,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        eps: f64,
    ) -> Result<Self::Tensor, Self::Error>;

    /// Elementwise sum of equal shapes.
    fn add(&mut self, a: &Self::Tensor, b: &Self::Tensor) -> Result<Self::Tensor, Self::Error>;

    /// Elementwise product of equal shapes.
    fn mul(&mut self, a: &Self::Tensor, b: &Self::Tensor) -> Result<Self::Tensor, Self::Error>;

    /// `x · sigmoid(x)`.
    fn silu(&mut self, x: &Self::Tensor) -> Result<Self::Tensor, Self::Error>;

    /// `x · Φ(x)`, exact (by the error function).
    fn gelu(&mut self, x: &Self::Tensor) -> Result<Self::Tensor, Self::Error>;

    /// `length` columns of the last dimension from `start`.
    fn columns(&mut self, x: &Self::Tensor, start: usize, length: usize)
    -> Result<Self::Tensor, Self::Error>;

    /// Joins each `count` neighbouring rows: `[rows, width]` to `[rows / count, count · width]`.
    fn join_rows(&mut self, x: &Self::Tensor, count: usize) -> Result<Self::Tensor, Self::Error>;

    /// The last position of each sequence: `[batch, sequence, width]` to `[batch, 1, width]`.
    fn last_position(&mut self, x: &Self::Tensor) -> Result<Self::Tensor, Self::Error>;

    /// Angles of tokens: frequency `i` turns by `positions[axes[i]] · inverse_frequencies[i]`.
    ///
    /// `positions` is i64 `[axes, tokens…]`, or `[tokens…]` where there is one axis only.
    fn rotary(
        &mut self,
        positions: &Self::Tensor,
        axes: &[usize],
        inverse_frequencies: &[f32],
    ) -> Result<Rotary<Self::Tensor>, Self::Error>;

    /// Rotates every head of `x` `[tokens…, heads · head_dim]`, the first half of a head against its second.
    fn rotate(
        &mut self,
        x: &Self::Tensor,
        heads: usize,
        rotary: &Rotary<Self::Tensor>,
    ) -> Result<Self::Tensor, Self::Error>;

    /// Causal attention of layer `layer`, each group of `heads / key_value_heads` query heads sharing a key and value
    /// head; scaled by `1 / sqrt(head_dim)`. `q` is `[batch, sequence, heads · head_dim]`, `k` and `v`
    /// `[batch, sequence, key_value_heads · head_dim]`. An interpreter with a cache puts the layer's earlier keys
    /// and values in front.
    fn causal_attention(
        &mut self,
        layer: usize,
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        heads: usize,
        key_value_heads: usize,
    ) -> Result<Self::Tensor, Self::Error>;

    /// A layer's projections to queries, keys and values, their rotation and causal attention: `[batch, sequence, hidden]` to
    /// `[batch, sequence, heads · head_dim]`. One by one, unless an interpreter has something that does them together.
    fn self_attention(
        &mut self,
        x: &Self::Tensor,
        attention: &SelfAttention<Self::Tensor>,
        rotary: &Rotary<Self::Tensor>,
    ) -> Result<Self::Tensor, Self::Error> {
        attention.apply(self, x, rotary)
    }

    /// Attention of rows within their segment, scaled by `1 / sqrt(head_dim)`; `q`, `k`, `v` are
    /// `[rows, heads · head_dim]`.
    fn segment_attention(
        &mut self,
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        heads: usize,
        segments: &Segments<Self::Tensor>,
    ) -> Result<Self::Tensor, Self::Error>;
}
