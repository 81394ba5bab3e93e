use serde_json::Value;

use super::chat::Chat;
use super::records::absolute;
use super::yaml::Yaml;
use super::{DEEPSPEED, stage_name};
use crate::Result;
use crate::recipe::{ComputeType, FinetuningType, PreferenceRecipe, Recipe, SaveStrategy, TrainingRecipe};

/// More pixels than any picture has; no picture has fewer than one.
const ANY_PIXELS: (usize, usize) = (1, 1 << 30);

/// Processes that tokenize.
const TOKENIZING: usize = 16;

/// Seconds that nodes wait for each other, while one of them tokenizes. LLaMA-Factory's examples have as many.
const DDP_TIMEOUT: usize = 180_000_000;

/// What the settings depend on beside the recipe.
pub(super) struct Surroundings<'a> {
    pub(super) chat: &'a Chat,
    pub(super) has_vision: bool,
    /// Tokens after which samples are cut.
    pub(super) cutoff_len: usize,
    /// Names of datasets, separated by commas.
    pub(super) dataset: String,
    /// Names of those that are measured with.
    pub(super) eval_dataset: Option<String>,
}

/// The text of the file of settings: `recipe` by the names of LLaMA-Factory, which for most are our own.
///
/// # Errors
/// A path that is not UTF-8.
pub(super) fn settings(recipe: &Recipe, surroundings: &Surroundings<'_>) -> Result<String> {
    let mut yaml = Yaml::default();
    let training = &recipe.training;
    model(&mut yaml, training, surroundings)?;
    method(&mut yaml, recipe, surroundings.has_vision);
    if let Some(preference) = &recipe.preference {
        pairs(&mut yaml, preference);
    }
    dataset(&mut yaml, training, surroundings);
    output(&mut yaml, training)?;
    train(&mut yaml, training);
    if let Some(name) = &surroundings.eval_dataset {
        evaluation(&mut yaml, training, name);
    }
    Ok(yaml.into_text())
}

fn model(yaml: &mut Yaml, recipe: &TrainingRecipe, surroundings: &Surroundings<'_>) -> Result<()> {
    yaml.group("model");
    yaml.set("model_name_or_path", absolute(&recipe.model)?);
    if let Some(adapter) = &recipe.adapter {
        yaml.set("adapter_name_or_path", absolute(adapter)?);
    }
    if surroundings.has_vision {
        yaml.set(
            "image_min_pixels",
            recipe.image_min_pixels.unwrap_or(ANY_PIXELS.0),
        );
        yaml.set(
            "image_max_pixels",
            recipe.image_max_pixels.unwrap_or(ANY_PIXELS.1),
        );
    }
    yaml.set("flash_attn", "auto");
    yaml.set("disable_gradient_checkpointing", !recipe.recompute);
    Ok(())
}

fn method(yaml: &mut Yaml, recipe: &Recipe, has_vision: bool) {
    yaml.group("method");
    yaml.set("stage", stage_name(recipe.stage()));
    let recipe = &recipe.training;
    yaml.set("do_train", true);
    match recipe.finetuning_type {
        FinetuningType::Full => {
            yaml.set("finetuning_type", "full");
            yaml.set("deepspeed", DEEPSPEED);
        }
        FinetuningType::Lora => {
            yaml.set("finetuning_type", "lora");
            yaml.set("lora_rank", recipe.lora_rank);
            // Refused where it is not whole.
            yaml.set("lora_alpha", recipe.alpha() as u64);
            yaml.set("lora_dropout", 0.0);
            yaml.set("lora_target", recipe.lora_target.join(","));
            yaml.set("use_rslora", recipe.use_rslora);
        }
    }
    if has_vision {
        yaml.set("freeze_vision_tower", recipe.freeze_vision_tower);
        yaml.set(
            "freeze_multi_modal_projector",
            recipe.freeze_multi_modal_projector,
        );
        yaml.set("freeze_language_model", recipe.freeze_language_model);
    }
}

/// The one loss that LLaMA-Factory has as we have it. It takes the model that training starts from as the reference, where
/// it is given no other.
fn pairs(yaml: &mut Yaml, recipe: &PreferenceRecipe) {
    yaml.group("preference");
    yaml.set("pref_loss", "sigmoid");
    yaml.set("pref_beta", recipe.pref_beta);
    yaml.set("pref_ftx", recipe.pref_ftx);
    yaml.set("dpo_label_smoothing", recipe.dpo_label_smoothing);
}

fn dataset(yaml: &mut Yaml, recipe: &TrainingRecipe, surroundings: &Surroundings<'_>) {
    yaml.group("dataset");
    yaml.set("dataset", surroundings.dataset.as_str());
    yaml.set("dataset_dir", ".");
    if surroundings.has_vision {
        yaml.set("media_dir", ".");
    }
    yaml.set("template", surroundings.chat.template);
    yaml.set("default_system", surroundings.chat.default_system.as_str());
    yaml.set("cutoff_len", surroundings.cutoff_len);
    yaml.set("train_on_prompt", false);
    yaml.set("mask_history", recipe.mask_history);
    yaml.set("packing", false);
    yaml.set("disable_shuffling", recipe.no_shuffle);
    if recipe.group_by_length {
        yaml.set("train_sampling_strategy", "group_by_length");
    }
    yaml.set("overwrite_cache", true);
    yaml.set("preprocessing_num_workers", TOKENIZING);
    yaml.set("dataloader_num_workers", recipe.dataloader_workers);
}

fn output(yaml: &mut Yaml, recipe: &TrainingRecipe) -> Result<()> {
    yaml.group("output");
    yaml.set("output_dir", absolute(&recipe.output_dir)?);
    // What is there is gone on from.
    yaml.set("overwrite_output_dir", false);
    yaml.set("logging_steps", recipe.logging_steps);
    yaml.set("save_strategy", strategy(recipe.save_strategy));
    yaml.set("save_steps", recipe.save_steps);
    if let Some(limit) = recipe.save_total_limit {
        yaml.set("save_total_limit", limit);
    }
    yaml.set("save_only_model", false);
    yaml.set("plot_loss", true);
    match &recipe.logging_dir {
        Some(dir) => {
            yaml.set("report_to", "tensorboard");
            yaml.set("logging_dir", absolute(dir)?);
        }
        None => yaml.set("report_to", "none"),
    }
    Ok(())
}

fn train(yaml: &mut Yaml, recipe: &TrainingRecipe) {
    yaml.group("train");
    yaml.set("per_device_train_batch_size", recipe.per_device_train_batch_size);
    yaml.set("gradient_accumulation_steps", recipe.gradient_accumulation_steps);
    yaml.set("num_train_epochs", recipe.num_train_epochs);
    yaml.set("max_steps", recipe.max_steps.map_or(Value::from(-1), Value::from));
    yaml.set("optim", "adamw_torch");
    yaml.set("learning_rate", recipe.learning_rate);
    yaml.set("lr_scheduler_type", name_of(&recipe.lr_scheduler_type));
    match recipe.warmup_steps {
        Some(steps) => yaml.set("warmup_steps", steps),
        None => yaml.set("warmup_ratio", recipe.warmup_ratio),
    }
    yaml.set("weight_decay", recipe.weight_decay);
    yaml.set("adam_beta1", recipe.adam_beta1);
    yaml.set("adam_beta2", recipe.adam_beta2);
    yaml.set("adam_epsilon", recipe.adam_epsilon);
    yaml.set("max_grad_norm", recipe.max_grad_norm);
    yaml.set("seed", recipe.seed);
    yaml.set("bf16", recipe.dtype != ComputeType::F32);
    yaml.set("ddp_timeout", DDP_TIMEOUT);
}

/// Evaluates with every saving and at the end, where `eval-steps` does not say otherwise.
fn evaluation(yaml: &mut Yaml, recipe: &TrainingRecipe, dataset: &str) {
    yaml.group("eval");
    yaml.set("eval_dataset", dataset);
    yaml.set("per_device_eval_batch_size", 1);
    yaml.set("do_eval", true);
    match (recipe.eval_steps, recipe.save_strategy) {
        (None, SaveStrategy::Epoch | SaveStrategy::No) => {
            yaml.set("eval_strategy", strategy(recipe.save_strategy));
        }
        (steps, _) => {
            yaml.set("eval_strategy", "steps");
            yaml.set("eval_steps", steps.unwrap_or(recipe.save_steps));
        }
    }
    if recipe.keep_best {
        yaml.set("load_best_model_at_end", true);
        yaml.set("metric_for_best_model", "eval_loss");
        yaml.set("greater_is_better", false);
    }
}

fn strategy(strategy: SaveStrategy) -> Value {
    name_of(&strategy)
}

/// What the command line calls a choice, which are transformers' words too.
fn name_of(choice: &impl serde::Serialize) -> Value {
    serde_json::json!(choice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SchedulerType;
    use crate::recipe::Stage;

    fn recipe() -> TrainingRecipe {
        TrainingRecipe {
            model: "/m".into(),
            output_dir: "/o".into(),
            ..TrainingRecipe::default()
        }
    }

    fn text(recipe: &Recipe, has_vision: bool, eval_dataset: Option<&str>) -> String {
        let chat = Chat {
            template: "qwen2_vl",
            default_system: "Be \"good\".".into(),
        };
        let surroundings = Surroundings {
            chat: &chat,
            has_vision,
            cutoff_len: 32_768,
            dataset: "sft".into(),
            eval_dataset: eval_dataset.map(str::to_owned),
        };
        settings(recipe, &surroundings).unwrap()
    }

    fn sft(training: TrainingRecipe) -> Recipe {
        Recipe {
            training,
            preference: None,
        }
    }

    fn assert_has(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(
                text.lines().any(|other| other == *line),
                "`{line}` is not in\n{text}"
            );
        }
    }

    #[test]
    fn each_setting_is_there() {
        let given = TrainingRecipe {
            learning_rate: 1e-5,
            lr_scheduler_type: SchedulerType::Cosine,
            warmup_ratio: 0.1,
            num_train_epochs: 2.0,
            per_device_train_batch_size: 3,
            gradient_accumulation_steps: 16,
            max_grad_norm: 0.5,
            weight_decay: 0.01,
            adam_beta1: 0.8,
            adam_beta2: 0.95,
            adam_epsilon: 1e-7,
            seed: 7,
            no_shuffle: true,
            group_by_length: true,
            mask_history: true,
            save_strategy: SaveStrategy::Epoch,
            save_total_limit: Some(2),
            logging_steps: 5,
            recompute: false,
            dataloader_workers: 4,
            image_max_pixels: Some(78_400),
            image_min_pixels: Some(784),
            logging_dir: Some("/l".into()),
            freeze_vision_tower: false,
            ..recipe()
        };
        let text = text(&sft(given), true, None);
        #[rustfmt::skip]
        assert_has(&text, &[
            "model_name_or_path: \"/m\"", "output_dir: \"/o\"", "learning_rate: 1.0e-5", "lr_scheduler_type: \"cosine\"",
            "warmup_ratio: 0.1", "num_train_epochs: 2.0", "max_steps: -1", "per_device_train_batch_size: 3",
            "gradient_accumulation_steps: 16", "max_grad_norm: 0.5", "weight_decay: 0.01", "adam_beta1: 0.8",
            "adam_beta2: 0.95", "adam_epsilon: 1.0e-7", "seed: 7", "disable_shuffling: true", "mask_history: true",
            "train_sampling_strategy: \"group_by_length\"", "save_strategy: \"epoch\"", "save_steps: 500",
            "save_total_limit: 2", "logging_steps: 5", "disable_gradient_checkpointing: true",
            "dataloader_num_workers: 4", "image_max_pixels: 78400", "image_min_pixels: 784", "logging_dir: \"/l\"",
            "freeze_vision_tower: false", "freeze_multi_modal_projector: true", "freeze_language_model: false",
            "stage: \"sft\"", "finetuning_type: \"full\"", "deepspeed: \"ds_z3_config.json\"", "template: \"qwen2_vl\"",
            "default_system: \"Be \\\"good\\\".\"", "cutoff_len: 32768", "dataset: \"sft\"", "bf16: true",
        ]);
        for key in ["eval", "lora", "pref", "dpo"] {
            assert!(!text.contains(key), "{key} in {text}");
        }
    }

    #[test]
    fn pairs_have_settings_of_their_own() {
        let defaults = Recipe::of(Stage::IterDpo);
        let given = Recipe {
            training: TrainingRecipe {
                model: "/m".into(),
                output_dir: "/o".into(),
                ..defaults.training
            },
            preference: Some(PreferenceRecipe {
                pref_beta: 0.3,
                pref_ftx: 0.5,
                dpo_label_smoothing: 0.1,
                ..PreferenceRecipe::default()
            }),
        };
        #[rustfmt::skip]
        assert_has(&text(&given, true, None), &[
            "stage: \"dpo\"", "pref_loss: \"sigmoid\"", "pref_beta: 0.3", "pref_ftx: 0.5", "dpo_label_smoothing: 0.1",
            "learning_rate: 1.0e-6", "num_train_epochs: 3.0", "max_steps: -1", "finetuning_type: \"full\"",
            "freeze_vision_tower: true", "cutoff_len: 32768", "deepspeed: \"ds_z3_config.json\"",
        ]);
    }

    #[test]
    fn a_lora_of_a_text_model_has_neither_pictures_nor_deepspeed() {
        let given = TrainingRecipe {
            finetuning_type: FinetuningType::Lora,
            lora_target: vec!["q_proj".into(), "v_proj".into()],
            lora_rank: 4,
            use_rslora: true,
            warmup_steps: Some(3),
            max_steps: Some(9),
            adapter: Some("/a".into()),
            dtype: ComputeType::F32,
            ..recipe()
        };
        let text = text(&sft(given), false, None);
        #[rustfmt::skip]
        assert_has(&text, &[
            "finetuning_type: \"lora\"", "lora_rank: 4", "lora_alpha: 8", "lora_target: \"q_proj,v_proj\"",
            "use_rslora: true", "warmup_steps: 3", "max_steps: 9", "adapter_name_or_path: \"/a\"", "bf16: false",
        ]);
        for key in ["image_", "media_dir", "freeze_", "deepspeed", "warmup_ratio"] {
            assert!(!text.contains(key), "{key}");
        }
    }

    #[test]
    fn pictures_have_the_checkpoints_limits_alone_by_default() {
        let text = text(&sft(recipe()), true, None);
        assert_has(&text, &["image_min_pixels: 1", "image_max_pixels: 1073741824"]);
    }

    #[test]
    fn evaluation_follows_saving_or_its_own_steps() {
        let with = |change: fn(&mut TrainingRecipe)| {
            let mut recipe = recipe();
            change(&mut recipe);
            text(&sft(recipe), true, Some("sft_eval"))
        };
        let by_default = with(|_| {});
        assert_has(
            &by_default,
            &[
                "eval_dataset: \"sft_eval\"",
                "eval_strategy: \"steps\"",
                "eval_steps: 500",
            ],
        );
        let own = with(|r| (r.save_strategy, r.eval_steps) = (SaveStrategy::No, Some(3)));
        assert_has(
            &own,
            &[
                "eval_strategy: \"steps\"",
                "eval_steps: 3",
                "save_strategy: \"no\"",
            ],
        );
        let epoch = with(|r| (r.save_strategy, r.keep_best) = (SaveStrategy::Epoch, true));
        assert_has(
            &epoch,
            &["eval_strategy: \"epoch\"", "load_best_model_at_end: true"],
        );
        assert_has(
            &with(|r| r.save_strategy = SaveStrategy::No),
            &["eval_strategy: \"no\"", "do_eval: true"],
        );
    }
}
