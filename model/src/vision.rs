//! The vision tower of Qwen2.5-VL (transformers `modeling_qwen2_5_vl.py`): patches attend inside windows, in some
//! blocks inside their whole frame; at the end each square of neighbouring patches becomes one token's features.
//!
//! transformers reorders the patches by window first and back at the end. Here they stay in their own order and the
//! segments say who attends to whom, which is the same sum.

use serde::Deserialize;
use serde_json::Value;

use crate::decoder::{gated_mlp, projection};
use crate::rope::inverse_frequency;
use crate::{ConfigError, Ops, Rotary, Segments};

/// RMS norms of the tower use this epsilon whatever the config says (transformers `modeling_qwen2_5_vl.py`).
const EPS: f64 = 1e-6;

/// Geometry of a vision tower that attends in windows.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// Number of blocks.
    pub depth: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of heads.
    pub num_heads: usize,
    /// Colour channels.
    pub in_channels: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Frames in a patch; a still image is repeated to fill them.
    pub temporal_patch_size: usize,
    /// Patches on a side of the square that becomes one token.
    pub spatial_merge_size: usize,
    /// Side of an attention window in pixels; a multiple of `patch_size · spatial_merge_size`.
    pub window_size: usize,
    /// Blocks that attend over the whole frame.
    pub full_attention_blocks: Vec<usize>,
    /// Width of the features; the decoder's hidden size.
    pub out_hidden_size: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
}

#[derive(Deserialize)]
struct VisionFields {
    depth: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_heads: usize,
    #[serde(alias = "in_chans")]
    in_channels: Option<usize>,
    patch_size: usize,
    temporal_patch_size: Option<usize>,
    spatial_merge_size: Option<usize>,
    window_size: Option<usize>,
    fullatt_block_indexes: Option<Vec<usize>>,
    out_hidden_size: Option<usize>,
    hidden_act: Option<String>,
    rope_parameters: Option<RopeFields>,
}

#[derive(Deserialize)]
struct RopeFields {
    rope_theta: Option<f64>,
}

impl VisionConfig {
    pub(crate) fn from_fields(fields: &Value, text_hidden_size: usize) -> Result<Self, ConfigError> {
        let mut fields = fields.clone();
        if let Some(object) = fields.as_object_mut()
            && object.contains_key("in_channels")
        {
            object.remove("in_chans");
        }
        let vision: VisionFields = serde_json::from_value(fields)
            .map_err(|e| ConfigError::invalid("vision_config", "…", e.to_string()))?;
        if let Some(other) = vision.hidden_act.filter(|act| act != "silu") {
            return Err(ConfigError::invalid(
                "vision_config.hidden_act",
                other,
                "only `silu` is supported",
            ));
        }
        let config = Self {
            depth: vision.depth,
            hidden_size: vision.hidden_size,
            intermediate_size: vision.intermediate_size,
            num_heads: vision.num_heads,
            in_channels: vision.in_channels.unwrap_or(3),
            patch_size: vision.patch_size,
            temporal_patch_size: vision.temporal_patch_size.unwrap_or(2),
            spatial_merge_size: vision.spatial_merge_size.unwrap_or(2),
            window_size: vision.window_size.unwrap_or(112),
            full_attention_blocks: vision
                .fullatt_block_indexes
                .unwrap_or_else(|| vec![7, 15, 23, 31]),
            out_hidden_size: vision.out_hidden_size.unwrap_or(3584),
            rope_theta: vision
                .rope_parameters
                .and_then(|rope| rope.rope_theta)
                .unwrap_or(10_000.0),
        };
        config.check(text_hidden_size)?;
        Ok(config)
    }

    /// Width of one head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }

    /// Numbers in one patch: channels × frames × side × side.
    pub fn patch_elements(&self) -> usize {
        self.in_channels * self.temporal_patch_size * self.patch_size * self.patch_size
    }

    /// Patches in one token: the square of the merge size.
    pub fn merge_unit(&self) -> usize {
        self.spatial_merge_size * self.spatial_merge_size
    }

    /// Whether block `block` attends over whole frames.
    pub fn is_full_attention(&self, block: usize) -> bool {
        self.full_attention_blocks.contains(&block)
    }

    /// Tokens on a side of an attention window.
    pub fn window_tokens(&self) -> usize {
        self.window_size / self.patch_size / self.spatial_merge_size
    }

    /// Patches of an attention window.
    pub fn window_patches(&self) -> usize {
        self.window_tokens() * self.window_tokens() * self.merge_unit()
    }

    /// For each of the `head_dim / 2` frequencies, whether it follows the row (0) or the column (1) of a patch.
    pub fn rotary_axes(&self) -> Vec<usize> {
        let quarter = self.head_dim() / 4;
        [vec![0; quarter], vec![1; quarter]].concat()
    }

    /// The `head_dim / 2` inverse frequencies: those of rows, then the same for columns.
    pub fn inverse_frequencies(&self) -> Vec<f32> {
        let spatial = self.head_dim() / 2;
        let one_axis: Vec<f32> = (0..spatial)
            .step_by(2)
            .map(|channel| inverse_frequency(self.rope_theta, channel, spatial))
            .collect();
        [one_axis.clone(), one_axis].concat()
    }

    fn check(&self, text_hidden_size: usize) -> Result<(), ConfigError> {
        let positive = [
            ("vision_config.num_heads", self.num_heads),
            ("vision_config.patch_size", self.patch_size),
            ("vision_config.spatial_merge_size", self.spatial_merge_size),
            ("vision_config.temporal_patch_size", self.temporal_patch_size),
            ("vision_config.in_channels", self.in_channels),
        ];
        if let Some((field, value)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError::invalid(field, value, "must be at least 1"));
        }
        if !self.hidden_size.is_multiple_of(self.num_heads) || !self.head_dim().is_multiple_of(4) {
            let reason = format!("must be num_heads, {}, times a multiple of 4", self.num_heads);
            return Err(ConfigError::invalid(
                "vision_config.hidden_size",
                self.hidden_size,
                reason,
            ));
        }
        if self.window_tokens() == 0 {
            return Err(ConfigError::invalid(
                "vision_config.window_size",
                self.window_size,
                "must be at least patch_size times spatial_merge_size",
            ));
        }
        if self.out_hidden_size != text_hidden_size {
            let reason = format!("must be the decoder's hidden_size, {text_hidden_size}");
            return Err(ConfigError::invalid(
                "vision_config.out_hidden_size",
                self.out_hidden_size,
                reason,
            ));
        }
        Ok(())
    }
}

/// What the vision tower reads: the patches of any number of images, one after another.
#[derive(Debug, Clone)]
pub struct VisionInputs<T> {
    /// f32 `[patches, patch_elements]`.
    pub pixel_values: T,
    /// Row and column of every patch, i64 `[2, patches]`.
    pub positions: T,
    /// Who attends to whom in a windowed block.
    pub windows: Segments<T>,
    /// Who attends to whom in a full-attention block.
    pub frames: Segments<T>,
}

/// Features of the images' tokens, in image order: `[patches / merge_unit, out_hidden_size]`.
pub fn vision_tower<O: Ops>(
    o: &mut O,
    c: &VisionConfig,
    inputs: &VisionInputs<O::Tensor>,
) -> Result<O::Tensor, O::Error> {
    let rotary = vision_rotary(o, c, &inputs.positions)?;
    let mut x = vision_embedding(o, c, &inputs.pixel_values)?;
    for block in 0..c.depth {
        let segments = if c.is_full_attention(block) {
            &inputs.frames
        } else {
            &inputs.windows
        };
        x = vision_block(o, c, block, &x, &rotary, segments)?;
    }
    vision_merger(o, c, &x)
}

/// Angles of the patches, for all blocks: `positions` as in [`VisionInputs`].
pub fn vision_rotary<O: Ops>(
    o: &mut O,
    c: &VisionConfig,
    positions: &O::Tensor,
) -> Result<Rotary<O::Tensor>, O::Error> {
    o.rotary(positions, &c.rotary_axes(), &c.inverse_frequencies())
}

/// Embedded patches: `[patches, patch_elements]` to `[patches, hidden_size]`.
pub fn vision_embedding<O: Ops>(
    o: &mut O,
    c: &VisionConfig,
    pixel_values: &O::Tensor,
) -> Result<O::Tensor, O::Error> {
    let kernel = [
        c.hidden_size,
        c.in_channels,
        c.temporal_patch_size,
        c.patch_size,
        c.patch_size,
    ];
    let embed = o.weight("visual.patch_embed.proj.weight", &kernel)?;
    o.linear(pixel_values, &embed, None)
}

/// Block `block`, in which patches attend within `segments`: `[patches, hidden_size]` to the same. A trainer runs
/// blocks one by one, to recompute them.
pub fn vision_block<O: Ops>(
    o: &mut O,
    c: &VisionConfig,
    block: usize,
    x: &O::Tensor,
    rotary: &Rotary<O::Tensor>,
    segments: &Segments<O::Tensor>,
) -> Result<O::Tensor, O::Error> {
    let prefix = format!("visual.blocks.{block}");
    let norm = o.weight(&format!("{prefix}.norm1.weight"), &[c.hidden_size])?;
    let normed = o.rms_norm(x, &norm, EPS)?;
    let attended = vision_attention(o, c, &format!("{prefix}.attn"), &normed, rotary, segments)?;
    let x = o.add(x, &attended)?;
    let norm = o.weight(&format!("{prefix}.norm2.weight"), &[c.hidden_size])?;
    let normed = o.rms_norm(&x, &norm, EPS)?;
    let fed = gated_mlp(
        o,
        &format!("{prefix}.mlp"),
        &normed,
        c.hidden_size,
        c.intermediate_size,
        true,
    )?;
    o.add(&x, &fed)
}

fn vision_attention<O: Ops>(
    o: &mut O,
    c: &VisionConfig,
    prefix: &str,
    x: &O::Tensor,
    rotary: &Rotary<O::Tensor>,
    segments: &Segments<O::Tensor>,
) -> Result<O::Tensor, O::Error> {
    let width = c.hidden_size;
    let qkv = projection(o, &format!("{prefix}.qkv"), x, width, 3 * width, true)?;
    let q = o.columns(&qkv, 0, width)?;
    let k = o.columns(&qkv, width, width)?;
    let v = o.columns(&qkv, 2 * width, width)?;
    let q = o.rotate(&q, c.num_heads, rotary)?;
    let k = o.rotate(&k, c.num_heads, rotary)?;
    let attended = o.segment_attention(&q, &k, &v, c.num_heads, segments)?;
    projection(o, &format!("{prefix}.proj"), &attended, width, width, true)
}

/// Joins squares of neighbouring patches: `[patches, hidden_size]` to `[patches / merge_unit, out_hidden_size]`.
pub fn vision_merger<O: Ops>(o: &mut O, c: &VisionConfig, x: &O::Tensor) -> Result<O::Tensor, O::Error> {
    let norm = o.weight("visual.merger.ln_q.weight", &[c.hidden_size])?;
    let normed = o.rms_norm(x, &norm, EPS)?;
    let joined = o.join_rows(&normed, c.merge_unit())?;
    let width = c.hidden_size * c.merge_unit();
    let inner = projection(o, "visual.merger.mlp.0", &joined, width, width, true)?;
    let inner = o.gelu(&inner)?;
    projection(o, "visual.merger.mlp.2", &inner, width, c.out_hidden_size, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields() -> Value {
        json!({"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "in_chans": 3,
            "patch_size": 14, "spatial_merge_size": 2, "window_size": 112, "fullatt_block_indexes": [1],
            "out_hidden_size": 32})
    }

    #[test]
    fn geometry_of_the_published_tower() {
        let config = VisionConfig::from_fields(&fields(), 32).unwrap();
        assert_eq!(
            (
                config.patch_elements(),
                config.merge_unit(),
                config.window_tokens()
            ),
            (1176, 4, 4)
        );
        assert_eq!(config.rotary_axes(), [0, 0, 1, 1]);
        assert_eq!(config.inverse_frequencies(), [1.0, 0.01, 1.0, 0.01]);
    }

    #[test]
    fn features_must_fit_the_decoder() {
        let error = VisionConfig::from_fields(&fields(), 64).unwrap_err().to_string();
        assert!(
            error.contains("out_hidden_size") && error.contains("64"),
            "{error}"
        );
    }
}
