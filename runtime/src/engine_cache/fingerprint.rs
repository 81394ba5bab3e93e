use std::collections::BTreeMap;

use lwv_model::{Precision, Profile};
use serde::{Deserialize, Serialize};

use crate::file_hash::hash_bytes;

/// Everything that an engine depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Hash of the bundle's files.
    pub bundle: String,
    /// Name of the graph.
    pub graph: String,
    /// Precision of most of its matrices.
    pub precision: Precision,
    /// Sizes that it is built for.
    pub profiles: BTreeMap<String, Profile>,
    /// The execution provider, as ONNX Runtime names it.
    pub provider: String,
    /// Version of ONNX Runtime.
    pub onnxruntime: String,
    /// Version of TensorRT or TensorRT for RTX.
    pub tensorrt: String,
    /// The card's name and compute capability.
    pub card: String,
    /// Version of the card's driver.
    pub driver: String,
}

impl Fingerprint {
    /// Name of the engine's folder.
    pub(crate) fn key(&self) -> String {
        // A map without order would change it from run to run; there is none in it.
        let text = serde_json::to_vec(self).unwrap_or_default();
        hash_bytes(&text)[..32].to_owned()
    }

    /// In what `other` differs, as `other` has it; `None` where it is another graph or another bundle's.
    pub(crate) fn differences(&self, other: &Self) -> Option<Vec<String>> {
        if self.graph != other.graph || self.bundle != other.bundle {
            return None;
        }
        let mut differences = Vec::new();
        let mut compare = |what: &str, mine: &str, its: &str| {
            if mine != its {
                differences.push(format!("{what} {its} instead of {mine}"));
            }
        };
        compare("provider", &self.provider, &other.provider);
        compare("ONNX Runtime", &self.onnxruntime, &other.onnxruntime);
        compare("TensorRT", &self.tensorrt, &other.tensorrt);
        compare("card", &self.card, &other.card);
        compare("driver", &self.driver, &other.driver);
        if self.precision != other.precision {
            differences.push("another precision".to_owned());
        }
        if self.profiles != other.profiles {
            differences.push("other sizes of inputs".to_owned());
        }
        Some(differences)
    }
}

#[cfg(test)]
pub(super) fn example() -> Fingerprint {
    let profile = Profile {
        min: vec![1, 1],
        opt: vec![1, 64],
        max: vec![1, 512],
    };
    Fingerprint {
        bundle: "b1".into(),
        graph: "decoder_model_merged".into(),
        precision: Precision::Fp16,
        profiles: [("attention_mask".to_owned(), profile)].into(),
        provider: "TensorrtExecutionProvider".into(),
        onnxruntime: "1.23.2".into(),
        tensorrt: "10.3.0".into(),
        card: "Orin (8.7)".into(),
        driver: "12.6".into(),
    }
}

/// The example with one ingredient changed each, and how the change is told; not at all where it is another model.
#[cfg(test)]
pub(super) fn variants() -> [(Fingerprint, &'static str); 9] {
    let changed = |change: fn(&mut Fingerprint), word| {
        let mut fingerprint = example();
        change(&mut fingerprint);
        (fingerprint, word)
    };
    [
        changed(|f| f.bundle = "b2".into(), ""),
        changed(|f| f.graph = "vision_encoder".into(), ""),
        changed(|f| f.precision = Precision::Int8, "another precision"),
        changed(|f| f.profiles.clear(), "other sizes of inputs"),
        changed(|f| f.provider = "other".into(), "provider Tensorrt"),
        changed(
            |f| f.onnxruntime = "1.24.0".into(),
            "ONNX Runtime 1.23.2 instead of 1.24.0",
        ),
        changed(
            |f| f.tensorrt = "10.4.0".into(),
            "TensorRT 10.3.0 instead of 10.4.0",
        ),
        changed(
            |f| f.card = "Thor (11.0)".into(),
            "card Orin (8.7) instead of Thor (11.0)",
        ),
        changed(|f| f.driver = "13.2".into(), "driver 12.6"),
    ]
}
