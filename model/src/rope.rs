use serde::Deserialize;
use serde_json::Value;

use crate::ConfigError;

/// How rotary frequencies are stretched for contexts longer than the ones a model was first trained on
/// (transformers `modeling_rope_utils.py`).
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every frequency divided by one factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3: low frequencies divided, high ones kept, a smooth passage between.
    Llama3 {
        /// The divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original_context / low_frequency_factor` are divided.
        low_frequency_factor: f64,
        /// Wavelengths below `original_context / high_frequency_factor` are kept.
        high_frequency_factor: f64,
        /// Context length of the first training.
        original_context: f64,
    },
}

/// Rotary position embedding of the decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Stretching of the frequencies.
    pub scaling: RopeScaling,
    /// M-RoPE: how many of the `head_dim / 2` frequencies follow the temporal, the row and the column position, in
    /// turn. `None` where positions have one axis.
    pub sections: Option<Vec<usize>>,
}

/// The fields as they stand in `rope_scaling` (transformers 4) or `rope_parameters` (transformers 5).
#[derive(Debug, Default, Deserialize)]
struct RopeFields {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    mrope_section: Option<Vec<usize>>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

impl Rope {
    /// Reads the rotary settings of a text configuration.
    ///
    /// `head_dim` is only used to check that the M-RoPE sections cover every frequency.
    pub(crate) fn from_fields(
        fields: &Value,
        head_dim: usize,
        multimodal: bool,
    ) -> Result<Self, ConfigError> {
        let nested = ["rope_parameters", "rope_scaling"]
            .iter()
            .find_map(|key| fields.get(key).filter(|v| !v.is_null()));
        let rope = match nested {
            Some(value) => rope_fields(value)?,
            None => RopeFields::default(),
        };
        let theta = rope
            .rope_theta
            .or_else(|| fields.get("rope_theta").and_then(Value::as_f64));
        let sections = multimodal.then(|| rope.mrope_section.clone().unwrap_or_else(|| vec![16, 24, 24]));
        if let Some(sections) = &sections {
            check_sections(sections, head_dim)?;
        }
        let default_theta = if multimodal { 1_000_000.0 } else { 10_000.0 };
        Ok(Self {
            theta: theta.unwrap_or(default_theta),
            scaling: rope.scaling()?,
            sections,
        })
    }

    /// The `head_dim / 2` inverse frequencies, in radians per position, computed in f32 as transformers does.
    pub fn inverse_frequencies(&self, head_dim: usize) -> Vec<f32> {
        (0..head_dim)
            .step_by(2)
            .map(|channel| self.scaled(inverse_frequency(self.theta, channel, head_dim)))
            .collect()
    }

    /// For each of the `head_dim / 2` frequencies, the axis of the position that turns it: always 0 without M-RoPE,
    /// else 0 (time), 1 (row) or 2 (column).
    pub fn axes(&self, head_dim: usize) -> Vec<usize> {
        match &self.sections {
            None => vec![0; head_dim / 2],
            Some(sections) => sections
                .iter()
                .enumerate()
                .flat_map(|(i, &length)| std::iter::repeat_n(i % 3, length))
                .collect(),
        }
    }

    /// Number of axes of a position: 1, or 3 with M-RoPE.
    pub fn axis_count(&self) -> usize {
        if self.sections.is_some() { 3 } else { 1 }
    }

    fn scaled(&self, frequency: f32) -> f32 {
        match self.scaling {
            RopeScaling::None => frequency,
            RopeScaling::Linear { factor } => frequency / factor as f32,
            RopeScaling::Llama3 {
                factor,
                low_frequency_factor,
                high_frequency_factor,
                original_context,
            } => {
                let wavelength = 2.0 * std::f32::consts::PI / frequency;
                let (low, high) = (low_frequency_factor as f32, high_frequency_factor as f32);
                let (context, factor) = (original_context as f32, factor as f32);
                if wavelength > context / low {
                    frequency / factor
                } else if wavelength < context / high {
                    frequency
                } else {
                    let smooth = (context / wavelength - low) / (high - low);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        }
    }
}

/// `theta^(-channel / dim)`, rounded to f32 where torch rounds.
pub(crate) fn inverse_frequency(theta: f64, channel: usize, dim: usize) -> f32 {
    let exponent = channel as f32 / dim as f32;
    1.0 / (theta.powf(f64::from(exponent)) as f32)
}

impl RopeFields {
    fn scaling(&self) -> Result<RopeScaling, ConfigError> {
        let required = |value: Option<f64>, field| {
            value.ok_or(ConfigError::MissingField {
                section: "rope_scaling",
                field,
            })
        };
        match self.rope_type.as_deref() {
            None | Some("default" | "mrope") => Ok(RopeScaling::None),
            Some("linear") => Ok(RopeScaling::Linear {
                factor: required(self.factor, "factor")?,
            }),
            Some("llama3") => Ok(RopeScaling::Llama3 {
                factor: required(self.factor, "factor")?,
                low_frequency_factor: required(self.low_freq_factor, "low_freq_factor")?,
                high_frequency_factor: required(self.high_freq_factor, "high_freq_factor")?,
                original_context: required(
                    self.original_max_position_embeddings,
                    "original_max_position_embeddings",
                )?,
            }),
            Some(other) => Err(ConfigError::invalid(
                "rope_type",
                other,
                "known are `default`, `mrope`, `linear` and `llama3`",
            )),
        }
    }
}

fn rope_fields(value: &Value) -> Result<RopeFields, ConfigError> {
    // `rope_scaling` may carry both `type` and `rope_type`, which an alias alone would call a duplicate.
    let mut value = value.clone();
    if let Some(object) = value.as_object_mut()
        && object.contains_key("rope_type")
    {
        object.remove("type");
    }
    serde_json::from_value(value.clone())
        .map_err(|e| ConfigError::invalid("rope_scaling", value, e.to_string()))
}

fn check_sections(sections: &[usize], head_dim: usize) -> Result<(), ConfigError> {
    let sum: usize = sections.iter().sum();
    if sum == head_dim / 2 {
        return Ok(());
    }
    let reason = format!("the sections must add up to half the head size, {}", head_dim / 2);
    Err(ConfigError::invalid(
        "mrope_section",
        format!("{sections:?}"),
        reason,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_spellings_read_the_same() {
        let old = json!({"rope_theta": 1e6, "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [1, 1, 2]}});
        let new = json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}});
        assert_eq!(
            Rope::from_fields(&old, 8, true).unwrap(),
            Rope::from_fields(&new, 8, true).unwrap()
        );
    }

    #[test]
    fn axes_follow_the_sections() {
        let rope = Rope {
            theta: 1e4,
            scaling: RopeScaling::None,
            sections: Some(vec![1, 1, 2]),
        };
        assert_eq!(rope.axes(8), [0, 1, 2, 2]);
        assert_eq!(rope.axis_count(), 3);
    }

    #[test]
    fn frequencies_fall_from_one() {
        let rope = Rope {
            theta: 10_000.0,
            scaling: RopeScaling::None,
            sections: None,
        };
        assert_eq!(rope.inverse_frequencies(4), [1.0, 0.01]);
        let slow = Rope {
            scaling: RopeScaling::Linear { factor: 2.0 },
            ..rope
        };
        assert_eq!(slow.inverse_frequencies(4), [0.5, 0.005]);
    }

    #[test]
    fn wrong_sections_and_unknown_scaling_are_refused() {
        let sections = json!({"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 1]}});
        assert!(
            Rope::from_fields(&sections, 8, true)
                .unwrap_err()
                .to_string()
                .contains("mrope_section")
        );
        let yarn = json!({"rope_scaling": {"type": "yarn", "factor": 4.0}});
        assert!(
            Rope::from_fields(&yarn, 8, false)
                .unwrap_err()
                .to_string()
                .contains("yarn")
        );
    }
}
