use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{Checkpoint, CheckpointError, ModelConfig, WeightNames, expected_weights};

/// A LoRA in PEFT layout, read whole: adapters are small.
#[derive(Debug)]
pub struct Adapter {
    path: PathBuf,
    updates: BTreeMap<String, LowRank>,
}

/// The update of one weight: `scale · B · A`.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRank {
    /// `[rank, in]`, row-major.
    a: Vec<f32>,
    /// `[out, rank]`, row-major.
    b: Vec<f32>,
    rank: usize,
    columns: usize,
    /// `alpha / rank`, or `alpha / sqrt(rank)` for rsLoRA (PEFT `tuners/lora/layer.py`).
    scale: f32,
}

#[derive(Deserialize)]
struct AdapterConfig {
    peft_type: Option<String>,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
    bias: Option<String>,
    #[serde(default)]
    rank_pattern: BTreeMap<String, usize>,
    #[serde(default)]
    alpha_pattern: BTreeMap<String, f64>,
    modules_to_save: Option<Vec<String>>,
    #[serde(default)]
    use_qalora: bool,
    layer_replication: Option<serde_json::Value>,
    alora_invocation_tokens: Option<serde_json::Value>,
}

impl Adapter {
    /// Reads `adapter_config.json` and `adapter_model.safetensors` in `dir`.
    ///
    /// # Errors
    /// Missing or unsound files, an A without its B, a kind of adapter other than LoRA and rsLoRA on linear layers.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        let config = read_config(&dir.join("adapter_config.json"))?;
        let path = dir.join("adapter_model.safetensors");
        let file = Checkpoint::open_file(&path)?;
        let mut updates = BTreeMap::new();
        for name in file.names() {
            if let Some(module) = name.strip_suffix(".lora_A.weight") {
                let update = read_update(&file, &path, module, &config)?;
                updates.insert(canonical_weight(module), update);
            } else if !name.ends_with(".lora_B.weight") {
                return Err(unusable(
                    &path,
                    format!("tensor `{name}` is neither a LoRA A nor a LoRA B"),
                ));
            }
        }
        Ok(Self { path, updates })
    }

    /// The update of the weight with the canonical `name` and `shape`, where the adapter has one.
    ///
    /// # Errors
    /// The update's shape does not fit the weight's.
    pub fn update(&self, name: &str, shape: &[usize]) -> Result<Option<&LowRank>, CheckpointError> {
        let Some(update) = self.updates.get(name) else {
            return Ok(None);
        };
        let got = [update.b.len() / update.rank, update.columns];
        if shape == got {
            return Ok(Some(update));
        }
        Err(unusable(
            &self.path,
            format!("its update of `{name}` is {got:?}, the weight is {shape:?}"),
        ))
    }

    /// Checks that every update is for a weight of a model with `config`, and has its shape.
    ///
    /// # Errors
    /// An update for a weight that the model does not have, or of another shape.
    pub fn check(&self, config: &ModelConfig) -> Result<(), CheckpointError> {
        let weights = expected_weights(config);
        if let Some(stray) = self
            .updates
            .keys()
            .find(|update| !weights.iter().any(|(name, _)| name == *update))
        {
            return Err(unusable(&self.path, format!("the model has no weight `{stray}`")));
        }
        weights
            .iter()
            .try_for_each(|(name, shape)| self.update(name, shape).map(|_| ()))
    }

    /// Canonical names of the weights that it updates, with the updates.
    pub fn updates(&self) -> impl Iterator<Item = (&str, &LowRank)> {
        self.updates.iter().map(|(name, update)| (name.as_str(), update))
    }

    /// The adapter's weights file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl LowRank {
    /// The rank.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// A, `[rank, in]`, row-major.
    pub fn a(&self) -> &[f32] {
        &self.a
    }

    /// B, `[out, rank]`, row-major.
    pub fn b(&self) -> &[f32] {
        &self.b
    }

    /// What `B · A` is multiplied by.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Adds the update to `values`, the weight's elements from flat index `start` on.
    pub fn add_to(&self, values: &mut [f32], start: usize) {
        for (offset, value) in values.iter_mut().enumerate() {
            let (row, column) = ((start + offset) / self.columns, (start + offset) % self.columns);
            let b = &self.b[row * self.rank..][..self.rank];
            let product: f32 = b
                .iter()
                .enumerate()
                .map(|(r, b)| b * self.a[r * self.columns + column])
                .sum();
            *value += self.scale * product;
        }
    }
}

fn read_config(path: &Path) -> Result<AdapterConfig, CheckpointError> {
    let text = std::fs::read_to_string(path).map_err(|source| CheckpointError::Read {
        path: path.to_owned(),
        source,
    })?;
    let config: AdapterConfig = serde_json::from_str(&text).map_err(|e| unusable(path, e.to_string()))?;
    let kind = config.peft_type.as_deref().unwrap_or("LORA");
    if kind != "LORA" {
        return Err(unusable(path, format!("peft_type `{kind}` is not `LORA`")));
    }
    let unsupported = [
        (config.use_dora, "use_dora"),
        (config.fan_in_fan_out, "fan_in_fan_out"),
        (config.bias.as_deref().is_some_and(|bias| bias != "none"), "bias"),
        (
            config
                .modules_to_save
                .as_ref()
                .is_some_and(|modules| !modules.is_empty()),
            "modules_to_save",
        ),
        (config.use_qalora, "use_qalora"),
        (config.layer_replication.is_some(), "layer_replication"),
        (
            config.alora_invocation_tokens.is_some(),
            "alora_invocation_tokens",
        ),
        (config.r == 0, "r = 0"),
    ];
    match unsupported.iter().find(|(set, _)| *set) {
        Some((_, field)) => Err(unusable(path, format!("`{field}` is not supported"))),
        None => Ok(config),
    }
}

fn read_update(
    file: &Checkpoint,
    path: &Path,
    module: &str,
    config: &AdapterConfig,
) -> Result<LowRank, CheckpointError> {
    let a = file.info(&format!("{module}.lora_A.weight"))?;
    let b = file.info(&format!("{module}.lora_B.weight"))?;
    let rank = pattern(&config.rank_pattern, module).unwrap_or(config.r);
    let (&[a_rank, columns], &[_, b_rank]) = (a.shape.as_slice(), b.shape.as_slice()) else {
        return Err(unusable(path, format!("`{module}` is not a linear layer")));
    };
    if a_rank != rank || b_rank != rank {
        return Err(unusable(
            path,
            format!("`{module}` has ranks {a_rank} and {b_rank}, the configuration {rank}"),
        ));
    }
    let alpha = pattern(&config.alpha_pattern, module).unwrap_or(config.lora_alpha);
    let divisor = if config.use_rslora {
        (rank as f64).sqrt()
    } else {
        rank as f64
    };
    Ok(LowRank {
        a: file.to_f32(&a)?,
        b: file.to_f32(&b)?,
        rank,
        columns,
        scale: (alpha / divisor) as f32,
    })
}

/// PEFT's patterns are matched against the end of a module's name.
fn pattern<T: Copy>(patterns: &BTreeMap<String, T>, module: &str) -> Option<T> {
    patterns
        .iter()
        .find(|(key, _)| module == *key || module.ends_with(&format!(".{key}")))
        .map(|(_, value)| *value)
}

fn canonical_weight(module: &str) -> String {
    let module = module.strip_prefix("base_model.model.").unwrap_or(module);
    WeightNames::canonical(&format!("{module}.weight"))
}

fn unusable(path: &Path, message: String) -> CheckpointError {
    CheckpointError::Adapter {
        path: path.to_owned(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_is_added_piece_by_piece() {
        let update = LowRank {
            a: vec![1.0, 2.0, 3.0],
            b: vec![10.0, 20.0],
            rank: 1,
            columns: 3,
            scale: 0.5,
        };
        let mut whole = vec![0.0; 6];
        update.add_to(&mut whole, 0);
        assert_eq!(whole, [5.0, 10.0, 15.0, 10.0, 20.0, 30.0]);
        let mut tail = vec![1.0; 2];
        update.add_to(&mut tail, 4);
        assert_eq!(tail, [21.0, 31.0]);
    }

    #[test]
    fn module_names_become_canonical() {
        let module = "base_model.model.model.language_model.layers.0.self_attn.q_proj";
        assert_eq!(canonical_weight(module), "model.layers.0.self_attn.q_proj.weight");
    }
}
