//! The decoder of Llama (SmolVLM's too), Qwen2 and Qwen2.5-VL (transformers `modeling_llama.py`, `modeling_qwen2.py`,
//! `modeling_qwen2_5_vl.py`): they differ in biases, rotary sections and the head, all of which the config says.

use crate::{Linear, Ops, Rotary, SelfAttention, TextConfig};

/// What the decoder reads.
#[derive(Debug, Clone)]
pub struct DecoderInputs<T> {
    /// Embedded tokens, f32 `[batch, sequence, hidden]`.
    pub embeds: T,
    /// Positions, i64 `[axes, batch, sequence]`, or `[batch, sequence]` where there is one axis only.
    pub positions: T,
}

/// For which positions logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logits {
    /// Only the last of each sequence: `[batch, 1, vocabulary]`. All that generation needs.
    LastPosition,
    /// Every one: `[batch, sequence, vocabulary]`.
    EveryPosition,
}

/// Embeds token ids: i64 `[tokens…]` to `[tokens…, hidden]`.
pub fn token_embeddings<O: Ops>(o: &mut O, c: &TextConfig, ids: &O::Tensor) -> Result<O::Tensor, O::Error> {
    let table = embedding_table(o, c)?;
    o.embedding(ids, &table)
}

/// Logits of the tokens that follow `inputs`.
pub fn decoder<O: Ops>(
    o: &mut O,
    c: &TextConfig,
    inputs: &DecoderInputs<O::Tensor>,
    logits: Logits,
) -> Result<O::Tensor, O::Error> {
    let rotary = decoder_rotary(o, c, &inputs.positions)?;
    let mut x = inputs.embeds.clone();
    for layer in 0..c.num_hidden_layers {
        x = decoder_layer(o, c, layer, &x, &rotary)?;
    }
    // Cut before the norm and the head: the head of one position costs as much as a layer of it.
    if logits == Logits::LastPosition {
        x = o.last_position(&x)?;
    }
    let x = decoder_norm(o, c, &x)?;
    let head = decoder_head(o, c)?;
    o.linear(&x, &head, None)
}

/// Angles of the decoder's tokens, for all its layers: `positions` as in [`DecoderInputs`].
pub fn decoder_rotary<O: Ops>(
    o: &mut O,
    c: &TextConfig,
    positions: &O::Tensor,
) -> Result<Rotary<O::Tensor>, O::Error> {
    o.rotary(
        positions,
        &c.rope.axes(c.head_dim),
        &c.rope.inverse_frequencies(c.head_dim),
    )
}

/// One layer: `[batch, sequence, hidden]` to the same. A trainer runs layers one by one, to recompute them.
pub fn decoder_layer<O: Ops>(
    o: &mut O,
    c: &TextConfig,
    layer: usize,
    x: &O::Tensor,
    rotary: &Rotary<O::Tensor>,
) -> Result<O::Tensor, O::Error> {
    let x = decoder_attention(o, c, layer, x, rotary)?;
    decoder_feed_forward(o, c, layer, &x)
}

/// The first half of [`decoder_layer`]: what tokens take from each other.
pub fn decoder_attention<O: Ops>(
    o: &mut O,
    c: &TextConfig,
    layer: usize,
    x: &O::Tensor,
    rotary: &Rotary<O::Tensor>,
) -> Result<O::Tensor, O::Error> {
    let prefix = format!("model.layers.{layer}");
    let norm = o.weight(&format!("{prefix}.input_layernorm.weight"), &[c.hidden_size])?;
    let normed = o.rms_norm(x, &norm, c.rms_norm_eps)?;
    let attended = self_attention(o, c, layer, &format!("{prefix}.self_attn"), &normed, rotary)?;
    o.add(x, &attended)
}

/// The second half of [`decoder_layer`]: what each token makes of itself.
pub fn decoder_feed_forward<O: Ops>(
    o: &mut O,
    c: &TextConfig,
    layer: usize,
    x: &O::Tensor,
) -> Result<O::Tensor, O::Error> {
    let prefix = format!("model.layers.{layer}");
    let norm = o.weight(
        &format!("{prefix}.post_attention_layernorm.weight"),
        &[c.hidden_size],
    )?;
    let normed = o.rms_norm(x, &norm, c.rms_norm_eps)?;
    let fed = gated_mlp(
        o,
        &format!("{prefix}.mlp"),
        &normed,
        c.hidden_size,
        c.intermediate_size,
        c.mlp_bias,
    )?;
    o.add(x, &fed)
}

/// The norm after the last layer: `[batch, sequence, hidden]` to the same.
pub fn decoder_norm<O: Ops>(o: &mut O, c: &TextConfig, x: &O::Tensor) -> Result<O::Tensor, O::Error> {
    let norm = o.weight("model.norm.weight", &[c.hidden_size])?;
    o.rms_norm(x, &norm, c.rms_norm_eps)
}

/// The head's weight `[vocabulary, hidden]`: the embedding table where they are tied.
pub fn decoder_head<O: Ops>(o: &mut O, c: &TextConfig) -> Result<O::Tensor, O::Error> {
    if c.tie_word_embeddings {
        return embedding_table(o, c);
    }
    o.weight("lm_head.weight", &[c.vocab_size, c.hidden_size])
}

fn self_attention<O: Ops>(
    o: &mut O,
    c: &TextConfig,
    layer: usize,
    prefix: &str,
    x: &O::Tensor,
    rotary: &Rotary<O::Tensor>,
) -> Result<O::Tensor, O::Error> {
    let mut part = |part: &str, to| {
        let name = format!("{prefix}.{part}_proj");
        linear(o, &name, c.hidden_size, to, c.qkv_bias)
    };
    let attention = SelfAttention {
        layer,
        query: part("q", c.query_size())?,
        key: part("k", c.key_value_size())?,
        value: part("v", c.key_value_size())?,
        heads: c.num_attention_heads,
        key_value_heads: c.num_key_value_heads,
    };
    let attended = o.self_attention(x, &attention, rotary)?;
    let name = format!("{prefix}.o_proj");
    projection(o, &name, &attended, c.query_size(), c.hidden_size, c.output_bias)
}

/// `down(silu(gate(x)) · up(x))`, the feed-forward layer of the decoder and of the vision tower.
pub(crate) fn gated_mlp<O: Ops>(
    o: &mut O,
    prefix: &str,
    x: &O::Tensor,
    width: usize,
    inner: usize,
    bias: bool,
) -> Result<O::Tensor, O::Error> {
    let gate = projection(o, &format!("{prefix}.gate_proj"), x, width, inner, bias)?;
    let up = projection(o, &format!("{prefix}.up_proj"), x, width, inner, bias)?;
    let gate = o.silu(&gate)?;
    let product = o.mul(&gate, &up)?;
    projection(o, &format!("{prefix}.down_proj"), &product, inner, width, bias)
}

/// What a linear layer makes of `x`, by the name that its weight and bias share.
pub(crate) fn projection<O: Ops>(
    o: &mut O,
    name: &str,
    x: &O::Tensor,
    from: usize,
    to: usize,
    bias: bool,
) -> Result<O::Tensor, O::Error> {
    let linear = linear(o, name, from, to, bias)?;
    o.linear(x, &linear.weight, linear.bias.as_ref())
}

fn linear<O: Ops>(
    o: &mut O,
    name: &str,
    from: usize,
    to: usize,
    bias: bool,
) -> Result<Linear<O::Tensor>, O::Error> {
    let weight = o.weight(&format!("{name}.weight"), &[to, from])?;
    let bias = bias
        .then(|| o.weight(&format!("{name}.bias"), &[to]))
        .transpose()?;
    Ok(Linear { weight, bias })
}

fn embedding_table<O: Ops>(o: &mut O, c: &TextConfig) -> Result<O::Tensor, O::Error> {
    o.weight("model.embed_tokens.weight", &[c.vocab_size, c.hidden_size])
}
