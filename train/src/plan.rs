use lwv_model::{ModelConfig, TextConfig, Vision, expected_weights};
use serde::Serialize;

use crate::recipe::{ComputeType, DeviceType, FinetuningType, OptimizerOffload, Recipe, TrainingRecipe};
use crate::trainer::{is_offloaded, selection};
use crate::{Part, Result, Samples};

/// Bytes of an f32.
const F32: u64 = 4;

/// What a training needs in memory, in bytes, computed before anything is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// Numbers that are trained.
    pub trained_parameters: u64,
    /// Numbers of the whole model.
    pub all_parameters: u64,
    /// Weights, with their f32 copies where the network computes in 16 bits.
    pub weights: u64,
    /// Gradients in f32.
    pub gradients: u64,
    /// AdamW's moments, where they are in memory.
    pub moments: u64,
    /// AdamW's moments, where they are on disk.
    pub moments_on_disk: u64,
    /// What the layers keep for the backward pass of the longest batch.
    pub activations: u64,
    /// What one layer needs while it is computed and differentiated.
    pub working: u64,
    /// Logits of a chunk, pixels on their way, and features of images that are kept.
    pub buffers: u64,
    /// Tokens of the longest batch.
    pub longest_batch: u64,
    /// Patches of its images.
    pub patches: u64,
    /// Most of it at any one time.
    pub peak: u64,
}

/// What an estimate depends on, beside the recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Tokens of the longest batch.
    pub tokens: usize,
    /// Patches of its images.
    pub patches: usize,
    /// Bytes of images' features that are kept from batch to batch, at most.
    pub kept_features: u64,
}

impl Load {
    /// The load of the longest samples in one batch.
    ///
    /// # Errors
    /// A sample that cannot be read.
    pub fn of(recipe: &Recipe, samples: &Samples) -> Result<Self> {
        let mut used: Vec<usize> = samples.train.clone();
        used.sort_by_key(|&sample| std::cmp::Reverse(samples.measures[sample].tokens));
        let mut load = Self {
            tokens: 0,
            patches: 0,
            kept_features: 0,
        };
        for &sample in used.iter().take(recipe.training.per_device_train_batch_size) {
            load.tokens += samples.measures[sample].tokens;
            load.patches += samples.encoder.patch_count(&samples.conversation(sample)?)?;
        }
        let is_frozen = recipe.training.freeze_vision_tower && recipe.training.freeze_multi_modal_projector;
        if let Some(preference) = &recipe.preference
            && is_frozen
            && load.patches > 0
        {
            load.kept_features = (preference.vision_cache_mib as u64) << 20;
        }
        Ok(load)
    }
}

/// What changes one setting.
type Change = fn(&mut TrainingRecipe);

impl MemoryPlan {
    /// The plan of a training of a model with `config`.
    pub fn new(recipe: &TrainingRecipe, config: &ModelConfig, load: Load) -> Self {
        let selection = selection(recipe, None);
        let (mut all, mut trained) = (0, 0);
        for (name, shape) in expected_weights(config) {
            let size: usize = shape.iter().product();
            all += size as u64;
            match &selection.lora {
                None if selection.trains(&name) => trained += size as u64,
                Some(lora) if !selection.freezes(&name) && lora.covers(&name, &shape) => {
                    trained += (lora.rank * (shape[0] + shape[1])) as u64;
                }
                _ => {}
            }
        }
        let narrow = recipe.dtype == ComputeType::Bf16
            || (recipe.dtype == ComputeType::Auto && recipe.device == DeviceType::Cuda);
        let width = if narrow { 2 } else { F32 };
        let is_lora = recipe.finetuning_type == FinetuningType::Lora;
        let offloaded = recipe.device != DeviceType::Cuda && is_offloaded(recipe, trained as usize);
        let (tokens, patches) = (load.tokens as u64, load.patches as u64);
        let inner = tokens * layer_elements(&config.text) * width;
        let vision = vision_elements(config, &selection.frozen, recipe.recompute);
        let kept = tokens * config.text.hidden_size as u64 * config.text.num_hidden_layers as u64 * width;
        let plan = Self {
            trained_parameters: trained,
            all_parameters: all,
            weights: all * width
                + if is_lora { trained * width } else { 0 }
                + if narrow { trained * F32 } else { 0 },
            gradients: trained * F32,
            moments: if offloaded { 0 } else { 2 * trained * F32 },
            moments_on_disk: if offloaded { 2 * trained * F32 } else { 0 },
            activations: if recipe.recompute {
                kept
            } else {
                inner * config.text.num_hidden_layers as u64
            } + patches * vision.0 * width,
            working: (2 * inner).max(patches * vision.1 * width),
            buffers: (128 << 20) + patches * vision.2 * F32 + load.kept_features,
            longest_batch: tokens,
            patches,
            peak: 0,
        };
        // Gradients come as activations go.
        Self {
            peak: plan.weights
                + plan.moments
                + plan.buffers
                + plan.working
                + plan.gradients.max(plan.activations),
            ..plan
        }
    }

    /// What would make the training fit, most effective first, as settings of the command line.
    pub fn advice(recipe: &TrainingRecipe, config: &ModelConfig, load: Load) -> Vec<(String, u64)> {
        let changes: [(&str, Change); 4] = [
            ("--recompute", |recipe| recipe.recompute = true),
            ("--optimizer-offload disk", |recipe| {
                recipe.optimizer_offload = OptimizerOffload::Disk;
            }),
            ("--per-device-train-batch-size 1", |recipe| {
                recipe.per_device_train_batch_size = 1;
            }),
            ("--finetuning-type lora", |recipe| {
                recipe.finetuning_type = FinetuningType::Lora;
            }),
        ];
        let mut advice: Vec<(String, u64)> = changes
            .into_iter()
            .filter_map(|(setting, change)| {
                let mut changed = recipe.clone();
                change(&mut changed);
                let batch = recipe.per_device_train_batch_size / changed.per_device_train_batch_size;
                let load = Load {
                    tokens: load.tokens.div_ceil(batch.max(1)),
                    patches: load.patches.div_ceil(batch.max(1)),
                    ..load
                };
                (changed != *recipe).then(|| (setting.to_owned(), Self::new(&changed, config, load).peak))
            })
            .collect();
        advice.sort_by_key(|(_, peak)| *peak);
        advice
    }
}

/// Numbers a token that one decoder layer keeps for its backward pass.
fn layer_elements(text: &TextConfig) -> u64 {
    let residual = 6 * text.hidden_size;
    let attention = 3 * text.query_size() + 3 * text.key_value_size();
    let feed_forward = 4 * text.intermediate_size;
    (residual + attention + feed_forward) as u64
}

/// Numbers a patch: kept for the backward pass, needed by one block at a time, and of the pixels.
fn vision_elements(config: &ModelConfig, frozen: &[Part], recompute: bool) -> (u64, u64, u64) {
    let Some(vision) = config.vision.as_ref().and_then(Vision::windows) else {
        return (0, 0, 0);
    };
    let block = (14 * vision.hidden_size + 4 * vision.intermediate_size) as u64;
    let kept = match frozen.contains(&Part::VisionTower) {
        true => 0,
        false if recompute => (vision.depth * vision.hidden_size) as u64,
        false => block * vision.depth as u64,
    };
    (kept, 2 * block, 2 * vision.patch_elements() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config() -> ModelConfig {
        ModelConfig::from_value(
            &json!({"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536,
            "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
            "max_position_embeddings": 8192, "tie_word_embeddings": true}),
        )
        .unwrap()
    }

    const LOAD: Load = Load {
        tokens: 2048,
        patches: 0,
        kept_features: 0,
    };

    #[test]
    fn the_parts_follow_the_recipe() {
        let full = MemoryPlan::new(&TrainingRecipe::default(), &config(), LOAD);
        assert_eq!(full.all_parameters, 134_515_008);
        assert_eq!((full.trained_parameters, full.moments), (134_515_008, 0));
        assert_eq!(full.moments_on_disk, 8 * 134_515_008);
        let kept = TrainingRecipe {
            recompute: false,
            optimizer_offload: OptimizerOffload::None,
            ..TrainingRecipe::default()
        };
        let kept = MemoryPlan::new(&kept, &config(), LOAD);
        assert!(kept.activations > 10 * full.activations && kept.moments > 0);
        let lora = TrainingRecipe {
            finetuning_type: FinetuningType::Lora,
            ..TrainingRecipe::default()
        };
        let lora = MemoryPlan::new(&lora, &config(), LOAD);
        assert!(lora.trained_parameters < 3_000_000 && lora.peak < full.peak);
    }

    #[test]
    fn advice_names_settings_that_help() {
        let recipe = TrainingRecipe {
            recompute: false,
            ..TrainingRecipe::default()
        };
        let peak = MemoryPlan::new(&recipe, &config(), LOAD).peak;
        let advice = MemoryPlan::advice(&recipe, &config(), LOAD);
        assert!(
            advice
                .iter()
                .any(|(setting, less)| setting == "--recompute" && *less < peak)
        );
        assert!(
            advice
                .iter()
                .all(|(setting, _)| setting != "--per-device-train-batch-size 1")
        );
    }
}
