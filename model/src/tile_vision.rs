//! The vision tower of Idefics3 and SmolVLM (transformers `modeling_idefics3.py`, `modeling_smolvlm.py`): a SigLIP encoder of square
//! tiles, in which all patches of a tile attend to each other, and a connector that makes a token of each square of neighbouring
//! patches.
//!
//! Patches come square by square, as in the other tower, so that the connector's shuffle of pixels is a join of rows.

use serde::Deserialize;
use serde_json::Value;

use crate::decoder::projection;
use crate::{ConfigError, TileOps};

/// Canonical name of the position table: rows that are added, not a matrix of a linear layer.
pub const POSITION_TABLE: &str = "visual.embeddings.position_embedding.weight";

/// Geometry of a tower of tiles.
#[derive(Debug, Clone, PartialEq)]
pub struct TileVisionConfig {
    /// Number of layers.
    pub depth: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of heads.
    pub num_heads: usize,
    /// Colour channels.
    pub in_channels: usize,
    /// Side of a tile in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Patches on a side of the square that becomes one token.
    pub scale_factor: usize,
    /// Added to the variance in every norm.
    pub layer_norm_eps: f64,
    /// Width of the features; the decoder's hidden size.
    pub out_hidden_size: usize,
}

#[derive(Deserialize)]
struct TileVisionFields {
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_channels: Option<usize>,
    image_size: Option<Side>,
    patch_size: Option<Side>,
    hidden_act: Option<String>,
    layer_norm_eps: Option<f64>,
}

/// A square's side: one number, or the same twice.
#[derive(Deserialize)]
#[serde(untagged)]
enum Side {
    One(usize),
    Two([usize; 2]),
}

impl Side {
    fn of(side: Option<Self>, field: &'static str, default: usize) -> Result<usize, ConfigError> {
        match side {
            None => Ok(default),
            Some(Self::One(side)) => Ok(side),
            Some(Self::Two([height, width])) if height == width => Ok(height),
            Some(Self::Two([height, width])) => Err(ConfigError::invalid(
                field,
                format!("[{height}, {width}]"),
                "only squares are supported",
            )),
        }
    }
}

impl TileVisionConfig {
    /// Reads `vision_config` and the connector's `scale_factor`. What is not said is as transformers has it
    /// (`configuration_idefics3.py`).
    pub(crate) fn from_fields(
        fields: &Value,
        scale_factor: Option<&Value>,
        text_hidden_size: usize,
    ) -> Result<Self, ConfigError> {
        let vision: TileVisionFields = serde_json::from_value(fields.clone())
            .map_err(|e| ConfigError::invalid("vision_config", "…", e.to_string()))?;
        if let Some(other) = vision.hidden_act.filter(|act| act != "gelu_pytorch_tanh") {
            let reason = "only `gelu_pytorch_tanh` is supported";
            return Err(ConfigError::invalid("vision_config.hidden_act", other, reason));
        }
        let scale_factor = match scale_factor {
            None | Some(Value::Null) => 2,
            Some(value) => value
                .as_u64()
                .and_then(|factor| usize::try_from(factor).ok())
                .ok_or_else(|| ConfigError::invalid("scale_factor", value, "must be a whole number"))?,
        };
        let config = Self {
            depth: vision.num_hidden_layers.unwrap_or(12),
            hidden_size: vision.hidden_size.unwrap_or(1152),
            intermediate_size: vision.intermediate_size.unwrap_or(3072),
            num_heads: vision.num_attention_heads.unwrap_or(16),
            in_channels: vision.num_channels.unwrap_or(3),
            image_size: Side::of(vision.image_size, "vision_config.image_size", 224)?,
            patch_size: Side::of(vision.patch_size, "vision_config.patch_size", 32)?,
            scale_factor,
            layer_norm_eps: vision.layer_norm_eps.unwrap_or(1e-6),
            out_hidden_size: text_hidden_size,
        };
        config.check()?;
        Ok(config)
    }

    /// Patches on a side of a tile.
    pub fn side(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Patches of a tile.
    pub fn patches(&self) -> usize {
        self.side() * self.side()
    }

    /// Tokens of a tile.
    pub fn tokens(&self) -> usize {
        self.patches() / self.merge_unit()
    }

    /// Patches in one token: the square of the scale factor.
    pub fn merge_unit(&self) -> usize {
        self.scale_factor * self.scale_factor
    }

    /// Numbers in one patch: channels × side × side.
    pub fn patch_elements(&self) -> usize {
        self.in_channels * self.patch_size * self.patch_size
    }

    /// For every patch of a tile, which come square by square, its row in the position table, which goes line by line.
    ///
    /// transformers computes that row from fractions of the tile, which for whole tiles gives the patch's own place (but that
    /// rounding puts the last of 5 or 13 patches a side into a row of its own, which no published model has).
    pub fn position_order(&self) -> Vec<usize> {
        let (side, factor) = (self.side(), self.scale_factor);
        let squares = (0..side)
            .step_by(factor)
            .flat_map(|top| (0..side).step_by(factor).map(move |left| (top, left)));
        let places = squares.flat_map(|(top, left)| {
            (top..top + factor).flat_map(move |y| (left..left + factor).map(move |x| y * side + x))
        });
        places.collect()
    }

    fn check(&self) -> Result<(), ConfigError> {
        let positive = [
            ("vision_config.num_attention_heads", self.num_heads),
            ("vision_config.patch_size", self.patch_size),
            ("vision_config.num_channels", self.in_channels),
            ("vision_config.image_size", self.image_size),
            ("scale_factor", self.scale_factor),
        ];
        if let Some((field, value)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError::invalid(field, value, "must be at least 1"));
        }
        if !self.hidden_size.is_multiple_of(self.num_heads) {
            let reason = format!("must be a multiple of num_attention_heads, {}", self.num_heads);
            return Err(ConfigError::invalid(
                "vision_config.hidden_size",
                self.hidden_size,
                reason,
            ));
        }
        let token = self.patch_size * self.scale_factor;
        if !self.image_size.is_multiple_of(token) {
            let reason = format!("must be a multiple of patch_size times scale_factor, {token}");
            return Err(ConfigError::invalid(
                "vision_config.image_size",
                self.image_size,
                reason,
            ));
        }
        Ok(())
    }
}

/// Features of the tiles' tokens, in their order: `pixel_values` f32 `[tiles · patches, patch_elements]` to
/// `[tiles · tokens, out_hidden_size]`. The patches of a tile come square by square.
pub fn tile_tower<O: TileOps>(
    o: &mut O,
    c: &TileVisionConfig,
    pixel_values: &O::Tensor,
) -> Result<O::Tensor, O::Error> {
    let mut x = embedding(o, c, pixel_values)?;
    for layer in 0..c.depth {
        x = encoder_layer(o, c, layer, &x)?;
    }
    let x = norm(o, c, "visual.post_layernorm", &x)?;
    let joined = o.join_rows(&x, c.merge_unit())?;
    let width = c.hidden_size * c.merge_unit();
    let name = "visual.connector.modality_projection.proj";
    projection(o, name, &joined, width, c.out_hidden_size, false)
}

/// Embedded patches with their positions: `[rows, patch_elements]` to `[rows, hidden_size]`.
fn embedding<O: TileOps>(
    o: &mut O,
    c: &TileVisionConfig,
    pixel_values: &O::Tensor,
) -> Result<O::Tensor, O::Error> {
    let kernel = [c.hidden_size, c.in_channels, c.patch_size, c.patch_size];
    let weight = o.weight("visual.embeddings.patch_embedding.weight", &kernel)?;
    let bias = o.weight("visual.embeddings.patch_embedding.bias", &[c.hidden_size])?;
    let x = o.linear(pixel_values, &weight, Some(&bias))?;
    let table = o.weight(POSITION_TABLE, &[c.patches(), c.hidden_size])?;
    o.add_to_tiles(&x, &table, &c.position_order())
}

fn encoder_layer<O: TileOps>(
    o: &mut O,
    c: &TileVisionConfig,
    layer: usize,
    x: &O::Tensor,
) -> Result<O::Tensor, O::Error> {
    let prefix = format!("visual.encoder.layers.{layer}");
    let normed = norm(o, c, &format!("{prefix}.layer_norm1"), x)?;
    let attended = attention(o, c, &format!("{prefix}.self_attn"), &normed)?;
    let x = o.add(x, &attended)?;
    let normed = norm(o, c, &format!("{prefix}.layer_norm2"), &x)?;
    let (width, inner) = (c.hidden_size, c.intermediate_size);
    let fed = projection(o, &format!("{prefix}.mlp.fc1"), &normed, width, inner, true)?;
    let fed = o.gelu_tanh(&fed)?;
    let fed = projection(o, &format!("{prefix}.mlp.fc2"), &fed, inner, width, true)?;
    o.add(&x, &fed)
}

fn attention<O: TileOps>(
    o: &mut O,
    c: &TileVisionConfig,
    prefix: &str,
    x: &O::Tensor,
) -> Result<O::Tensor, O::Error> {
    let width = c.hidden_size;
    let q = projection(o, &format!("{prefix}.q_proj"), x, width, width, true)?;
    let k = projection(o, &format!("{prefix}.k_proj"), x, width, width, true)?;
    let v = projection(o, &format!("{prefix}.v_proj"), x, width, width, true)?;
    let attended = o.tile_attention(&q, &k, &v, c.num_heads, c.patches())?;
    projection(o, &format!("{prefix}.out_proj"), &attended, width, width, true)
}

fn norm<O: TileOps>(
    o: &mut O,
    c: &TileVisionConfig,
    name: &str,
    x: &O::Tensor,
) -> Result<O::Tensor, O::Error> {
    let [weight, bias] = ["weight", "bias"].map(|part| o.weight(&format!("{name}.{part}"), &[c.hidden_size]));
    o.layer_norm(x, &weight?, &bias?, c.layer_norm_eps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What the configuration of SmolVLM-256M says; the rest is left to defaults there.
    fn published() -> Value {
        json!({"hidden_size": 768, "image_size": 512, "max_image_size": {"longest_edge": 512}, "model_type": "idefics3",
            "num_attention_heads": 12, "patch_size": 16, "size": {"longest_edge": 2048}})
    }

    #[test]
    fn geometry_of_the_published_tower() {
        let config = TileVisionConfig::from_fields(&published(), Some(&json!(4)), 576).unwrap();
        assert_eq!(
            (config.patches(), config.tokens(), config.patch_elements()),
            (1024, 64, 768)
        );
        assert_eq!((config.depth, config.intermediate_size), (12, 3072));
    }

    #[test]
    fn positions_go_square_by_square() {
        let fields =
            json!({"image_size": 64, "patch_size": [16, 16], "hidden_size": 32, "num_attention_heads": 2});
        let config = TileVisionConfig::from_fields(&fields, None, 8).unwrap();
        let order = config.position_order();
        assert_eq!(order, [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]);
    }

    #[test]
    fn unusable_towers_name_the_field() {
        let message = |edit: fn(&mut Value), factor: Value| {
            let mut fields = published();
            edit(&mut fields);
            let made = TileVisionConfig::from_fields(&fields, Some(&factor), 576);
            made.unwrap_err().to_string()
        };
        assert!(message(|_| (), json!(3)).contains("image_size"));
        assert!(message(|_| (), json!("4")).contains("scale_factor"));
        assert!(message(|f| f["hidden_act"] = json!("gelu"), json!(4)).contains("hidden_act"));
        assert!(message(|f| f["patch_size"] = json!([16, 14]), json!(4)).contains("patch_size"));
        assert!(message(|f| f["num_attention_heads"] = json!(7), json!(4)).contains("hidden_size"));
    }
}
