mod factor;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use lwv_model::{Family, ModelConfig, expected_weights};
use serde_json::{Value, json};

use crate::{Error, Staging};
use factor::Factor;

/// What the updates of a LoRA have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterSettings {
    /// Path or name of the checkpoint that it is for.
    pub base_model: String,
    /// Rank.
    pub rank: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Whether the scale is `alpha / sqrt(rank)` instead of `alpha / rank`.
    pub use_rslora: bool,
}

/// The update of one linear layer's weight: `scale · B · A`.
#[derive(Debug, Clone)]
pub struct LoraUpdate<'a> {
    /// Canonical name of the weight, such as `model.layers.0.self_attn.q_proj.weight`.
    pub weight: String,
    /// `[rank, in]`, row-major.
    pub a: Cow<'a, [f32]>,
    /// `[out, rank]`, row-major.
    pub b: Cow<'a, [f32]>,
}

/// Writes adapters in the layout that PEFT reads, under the module names of transformers 5.
#[derive(Debug, Clone, Copy)]
pub struct AdapterWriter<'a> {
    config: &'a ModelConfig,
    settings: &'a AdapterSettings,
}

impl<'a> AdapterWriter<'a> {
    /// A writer for adapters of models with `config`.
    pub fn new(config: &'a ModelConfig, settings: &'a AdapterSettings) -> Self {
        Self { config, settings }
    }

    /// Writes the adapter `out`, whole or not at all.
    ///
    /// # Errors
    /// As [`Self::stage`] and [`Staging::commit`].
    pub fn write(&self, out: &Path, updates: &[LoraUpdate<'_>]) -> Result<(), Error> {
        self.stage(out, updates)?.commit()
    }

    /// As [`Self::write`], without giving the folder its place, so that a trainer can put its state beside the weights.
    ///
    /// # Errors
    /// An update of what is no linear layer of the model, or of another size; a place that is taken, a full disk.
    pub fn stage(&self, out: &Path, updates: &[LoraUpdate<'_>]) -> Result<Staging, Error> {
        let layers = self.linear_layers();
        let tensors: Vec<(String, Factor<'_>)> = updates
            .iter()
            .map(|update| self.factors(update, &layers))
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .flatten()
            .collect();
        let staging = Staging::create(out)?;
        let path = staging.folder().join("adapter_config.json");
        let text = format!("{:#}\n", self.adapter_config(updates, &layers));
        std::fs::write(&path, text).map_err(Error::io(&path))?;
        let path = staging.folder().join("adapter_model.safetensors");
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize_to_file(tensors, Some(metadata), &path).map_err(|e| Error::Io {
            path,
            source: std::io::Error::other(e),
        })?;
        Ok(staging)
    }

    /// Canonical name and `[out, in]` of every layer that a LoRA can update.
    fn linear_layers(&self) -> HashMap<String, [usize; 2]> {
        let is_layer = |(name, shape): (String, Vec<usize>)| match (
            name.strip_suffix("embed_tokens.weight"),
            &shape[..],
        ) {
            (None, &[rows, columns]) => Some((name, [rows, columns])),
            _ => None,
        };
        expected_weights(self.config)
            .into_iter()
            .filter_map(is_layer)
            .collect()
    }

    fn factors<'u>(
        &self,
        update: &'u LoraUpdate<'_>,
        layers: &HashMap<String, [usize; 2]>,
    ) -> Result<[(String, Factor<'u>); 2], Error> {
        let refused = |message: String| Error::Weight {
            name: update.weight.clone(),
            message,
        };
        let rank = self.settings.rank;
        let &[rows, columns] = layers
            .get(&update.weight)
            .ok_or_else(|| refused("is no linear layer of the model, and no LoRA can update it".into()))?;
        if update.a.len() != rank * columns || update.b.len() != rows * rank {
            let message = format!(
                "its update of rank {rank} has {} and {} elements, the weight is {:?}",
                update.a.len(),
                update.b.len(),
                [rows, columns]
            );
            return Err(refused(message));
        }
        let module = self.module(&update.weight);
        let factor = |name, shape, values| {
            (
                format!("base_model.model.{module}.{name}.weight"),
                Factor { shape, values },
            )
        };
        Ok([
            factor("lora_A", [rank, columns], &update.a),
            factor("lora_B", [rows, rank], &update.b),
        ])
    }

    /// The module of a weight, as transformers 5 names it.
    fn module(&self, weight: &str) -> String {
        let module = weight.strip_suffix(".weight").unwrap_or(weight);
        if self.config.family != Family::Qwen25Vl {
            return module.to_owned();
        }
        match module.strip_prefix("model.") {
            Some(text) => format!("model.language_model.{text}"),
            None if module.starts_with("visual.") => format!("model.{module}"),
            None => module.to_owned(),
        }
    }

    /// What PEFT 0.21 writes, but for fields of other methods.
    fn adapter_config(&self, updates: &[LoraUpdate<'_>], layers: &HashMap<String, [usize; 2]>) -> Value {
        let alpha = self.settings.alpha;
        let alpha = if alpha.fract() == 0.0 {
            json!(alpha as i64)
        } else {
            json!(alpha)
        };
        json!({
            "alpha_pattern": {},
            "auto_mapping": null,
            "base_model_name_or_path": self.settings.base_model,
            "bias": "none",
            "exclude_modules": null,
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "layers_pattern": null,
            "layers_to_transform": null,
            "lora_alpha": alpha,
            "lora_bias": false,
            "lora_dropout": 0.0,
            "modules_to_save": null,
            "peft_type": "LORA",
            "r": self.settings.rank,
            "rank_pattern": {},
            "revision": null,
            "target_modules": self.target_modules(updates, layers),
            "target_parameters": null,
            "task_type": "CAUSAL_LM",
            "use_dora": false,
            "use_rslora": self.settings.use_rslora,
        })
    }

    /// The last parts of the layers' names where these mean the updated layers and no other, else the whole names:
    /// the vision tower and the decoder have layers of the same last part.
    fn target_modules(
        &self,
        updates: &[LoraUpdate<'_>],
        layers: &HashMap<String, [usize; 2]>,
    ) -> BTreeSet<String> {
        let modules: BTreeSet<String> = updates.iter().map(|update| self.module(&update.weight)).collect();
        let endings: BTreeSet<String> = modules.iter().map(|module| last_part(module)).collect();
        let meant = layers
            .keys()
            .filter(|layer| endings.contains(&last_part(&self.module(layer))))
            .count();
        let is_number = |ending: &String| ending.bytes().all(|byte| byte.is_ascii_digit());
        if meant == modules.len() && !endings.iter().any(is_number) {
            endings
        } else {
            modules
        }
    }
}

fn last_part(module: &str) -> String {
    module.rsplit('.').next().unwrap_or(module).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lwv_model::Adapter;

    fn config(fixture: &str) -> ModelConfig {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny");
        ModelConfig::from_dir(&folder.join(fixture)).unwrap()
    }

    static SETTINGS: AdapterSettings = AdapterSettings {
        base_model: String::new(),
        rank: 2,
        alpha: 4.0,
        use_rslora: true,
    };

    /// An update of every linear layer whose name contains `part`.
    fn updates(config: &ModelConfig, part: &str) -> Vec<LoraUpdate<'static>> {
        let layers = AdapterWriter::new(config, &SETTINGS).linear_layers();
        let update = |(weight, [rows, columns]): (String, [usize; 2])| LoraUpdate {
            weight,
            a: vec![0.5; 2 * columns].into(),
            b: vec![0.25; rows * 2].into(),
        };
        layers
            .into_iter()
            .filter(|(name, _)| name.contains(part))
            .map(update)
            .collect()
    }

    #[test]
    fn a_written_adapter_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        for fixture in ["nested_f32", "llama"] {
            let config = config(fixture);
            let out = dir.path().join(fixture);
            let updates = updates(&config, "");
            AdapterWriter::new(&config, &SETTINGS)
                .write(&out, &updates)
                .unwrap();
            let adapter = Adapter::open(&out).unwrap();
            adapter.check(&config).unwrap();
            let (name, shape) = ("model.layers.0.self_attn.q_proj.weight", |c: &ModelConfig| {
                let width = c.text.hidden_size;
                [c.text.num_attention_heads * c.text.head_dim, width]
            });
            let update = adapter.update(name, &shape(&config)).unwrap().unwrap();
            let mut values = [0.0];
            update.add_to(&mut values, 0);
            assert!((values[0] - 0.25 * 4.0 / 2f32.sqrt()).abs() < 1e-6, "{values:?}");
        }
    }

    #[test]
    fn target_modules_mean_the_updated_layers_only() {
        let targets = |fixture: &str, part: &str| {
            let config = config(fixture);
            let writer = AdapterWriter::new(&config, &SETTINGS);
            writer.target_modules(&updates(&config, part), &writer.linear_layers())
        };
        assert_eq!(Vec::from_iter(targets("llama", "up_proj")), ["up_proj"]);
        assert_eq!(Vec::from_iter(targets("nested_f32", "q_proj")), ["q_proj"]);
        let ambiguous = targets("nested_f32", "model.layers.0.mlp.up_proj");
        assert_eq!(
            Vec::from_iter(ambiguous),
            ["model.language_model.layers.0.mlp.up_proj"]
        );
        let numbered = targets("nested_f32", "visual.merger.mlp.0");
        assert_eq!(Vec::from_iter(numbered), ["model.visual.merger.mlp.0"]);
    }

    #[test]
    fn what_cannot_be_updated_is_named() {
        let config = config("llama");
        let dir = tempfile::tempdir().unwrap();
        let writer = AdapterWriter::new(&config, &SETTINGS);
        let mut update = updates(&config, "layers.0.self_attn.q_proj").remove(0);
        update.a = vec![0.0].into();
        let error = writer
            .write(&dir.path().join("out"), &[update.clone()])
            .unwrap_err()
            .to_string();
        assert!(error.contains("q_proj") && error.contains("1 and"), "{error}");
        update.weight = "model.embed_tokens.weight".into();
        let error = writer.write(&dir.path().join("out"), &[update]).unwrap_err();
        assert!(error.to_string().contains("no linear layer"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
