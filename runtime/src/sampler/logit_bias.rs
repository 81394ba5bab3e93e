use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Inner, Result};

/// What is added to the scores of single tokens, by id. Minus infinity bans a token.
///
/// In JSON it is an object of numbers, and `"-inf"` where a token is banned.
///
/// ```
/// use lwv_runtime::{LogitBias, Sampler, SamplerSettings};
/// let settings = SamplerSettings {
///     logit_bias: LogitBias::from_iter([(1, f32::NEG_INFINITY), (2, 1.0)]),
///     ..SamplerSettings::greedy()
/// };
/// assert_eq!(Sampler::new(settings).unwrap().choose(&mut [1.5, 9.0, 1.0], &[], &[]).unwrap(), 2);
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LogitBias(BTreeMap<u32, f32>);

impl LogitBias {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Refuses ids that a vocabulary of that size does not have.
    pub(crate) fn check_vocabulary(&self, vocabulary: usize) -> Result<()> {
        match self.0.keys().find(|id| **id as usize >= vocabulary) {
            Some(id) => Err(Inner::TokenId { id: *id, vocabulary }.into()),
            None => Ok(()),
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        let usable = |bias: f32| bias.is_finite() || bias == f32::NEG_INFINITY;
        match self.0.iter().find(|(_, bias)| !usable(**bias)) {
            Some((id, bias)) => Err(Error::setting(
                "logit_bias",
                format!("{id}={bias}"),
                "use a number, or `-inf` to ban the token",
            )),
            None => Ok(()),
        }
    }

    pub(super) fn add_to(&self, logits: &mut [f32]) {
        for (id, bias) in &self.0 {
            if let Some(score) = logits.get_mut(*id as usize) {
                *score += bias;
            }
        }
    }
}

impl FromIterator<(u32, f32)> for LogitBias {
    fn from_iter<I: IntoIterator<Item = (u32, f32)>>(biases: I) -> Self {
        Self(biases.into_iter().collect())
    }
}

/// JSON has no infinity.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Stored {
    Number(f32),
    Text(String),
}

impl Serialize for LogitBias {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(id, bias)| {
            let stored = if bias.is_finite() {
                Stored::Number(*bias)
            } else {
                Stored::Text(bias.to_string())
            };
            (id, stored)
        }))
    }
}

impl<'de> Deserialize<'de> for LogitBias {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = |stored| match stored {
            Stored::Number(bias) => Ok(bias),
            Stored::Text(text) => text.parse().map_err(|_| {
                serde::de::Error::custom(format!("`{text}` is no bias: use a number or `-inf`"))
            }),
        };
        BTreeMap::<u32, Stored>::deserialize(deserializer)?
            .into_iter()
            .map(|(id, stored)| Ok((id, number(stored)?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn biases_are_added_and_ban() {
        let bias = LogitBias::from_iter([(0, -1.5), (2, f32::NEG_INFINITY)]);
        let mut logits = [1.0, 2.0, 3.0];
        bias.add_to(&mut logits);
        assert_eq!(logits, [-0.5, 2.0, f32::NEG_INFINITY]);
    }

    #[test]
    fn an_id_outside_the_vocabulary_is_refused() {
        let bias = LogitBias::from_iter([(3, 1.0)]);
        assert!(bias.check_vocabulary(4).is_ok());
        assert_eq!(bias.check_vocabulary(3).unwrap_err().kind(), ErrorKind::Prompt);
    }

    #[test]
    fn what_is_no_number_cannot_be_read() {
        let error = serde_json::from_str::<LogitBias>(r#"{"3": "much"}"#).unwrap_err();
        assert!(error.to_string().contains("`much`"), "{error}");
    }
}
