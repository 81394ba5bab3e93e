use crate::{Ops, Rotary};

/// A linear layer: its weight `[out, in]` and, where it has one, its bias `[out]`.
#[derive(Debug, Clone)]
pub struct Linear<T> {
    /// `[out, in]`.
    pub weight: T,
    /// `[out]`.
    pub bias: Option<T>,
}

/// A decoder layer's attention without its last projection.
#[derive(Debug, Clone)]
pub struct SelfAttention<T> {
    /// Index of the layer.
    pub layer: usize,
    /// Projection to `heads · head_dim`.
    pub query: Linear<T>,
    /// Projection to `key_value_heads · head_dim`.
    pub key: Linear<T>,
    /// Projection to `key_value_heads · head_dim`.
    pub value: Linear<T>,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values, each shared by as many heads of queries.
    pub key_value_heads: usize,
}

impl<T> SelfAttention<T> {
    /// The operations one by one: `[batch, sequence, hidden]` to `[batch, sequence, heads · head_dim]`.
    ///
    /// # Errors
    /// The interpreter's.
    pub fn apply<O: Ops<Tensor = T> + ?Sized>(
        &self,
        o: &mut O,
        x: &T,
        rotary: &Rotary<T>,
    ) -> Result<T, O::Error> {
        let (heads, key_value_heads) = (self.heads, self.key_value_heads);
        let [q, k, v] = [&self.query, &self.key, &self.value]
            .map(|linear| o.linear(x, &linear.weight, linear.bias.as_ref()));
        let q = o.rotate(&q?, heads, rotary)?;
        let k = o.rotate(&k?, key_value_heads, rotary)?;
        o.causal_attention(self.layer, &q, &k, &v?, heads, key_value_heads)
    }
}
