use std::collections::BTreeMap;

use serde::Serialize;

/// How what a linear layer reads is rounded to 8 bits, and what was moved from there into its weights.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct ActivationScales {
    /// Canonical name of a matrix → value of one level of what it reads.
    pub(crate) steps: BTreeMap<String, f32>,
    /// Canonical name of a weight → what its last dimension is multiplied by: matrices by what makes the channels that they
    /// read alike, the norm before them by the inverse.
    pub(crate) multipliers: BTreeMap<String, Vec<f32>>,
}

/// How far values may go that are rounded to 8 bits; what is beyond is clipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActivationRange {
    /// As far as they went on the samples.
    Largest,
    /// As far as 99.99 % of them went.
    Percentile,
    /// To where the distribution changes least (relative entropy, as TensorRT's own calibrator has it).
    Entropy,
}
