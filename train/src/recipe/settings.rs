use std::path::PathBuf;

use clap::ArgAction;
use serde::{Deserialize, Serialize};

use super::choices::{ComputeType, DeviceType, FinetuningType, OptimizerOffload, SaveStrategy, SaveType};
use crate::{PreferenceLossType, SchedulerType};

/// Writes each setting once: as a field of the recipe, with its default, and as what a user may give.
macro_rules! settings {
    (
        $(#[doc = $recipe_doc:literal])+ $recipe:ident;
        $(#[doc = $settings_doc:literal])+ $settings:ident;
        with default {
            $( $(#[doc = $doc:literal])+ $(#[arg($($arg:tt)+)])? $name:ident: $type:ident $(<$inner:ident>)? = $default:expr; )+
        }
        without default {
            $( $(#[doc = $odoc:literal])+ $oname:ident: $otype:ident; )+
        }
    ) => {
        $(#[doc = $recipe_doc])+
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields)]
        pub struct $recipe {
            $( $(#[doc = $doc])+ pub $name: $type $(<$inner>)?, )+
            $( $(#[doc = $odoc])+ pub $oname: Option<$otype>, )+
        }

        impl Default for $recipe {
            fn default() -> Self {
                Self { $( $name: $default, )+ $( $oname: None, )+ }
            }
        }

        $(#[doc = $settings_doc])+
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, clap::Args)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
        pub struct $settings {
            $(
                $(#[doc = $doc])+
                #[arg(long $(, $($arg)+)?)]
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $name: Option<$type $(<$inner>)?>,
            )+
            $(
                $(#[doc = $odoc])+
                #[arg(long)]
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $oname: Option<$otype>,
            )+
        }
    };
}

settings! {
    /// The settings of any training, resolved.
    TrainingRecipe;
    /// The settings of any training that a command line or a recipe file gives.
    TrainingSettings;
    with default {
        /// Checkpoint to start from (required)
        model: PathBuf = PathBuf::new();
        /// Dataset files, separated by commas (required)
        #[arg(value_delimiter = ',', action = ArgAction::Append, value_name = "FILES")]
        dataset: Vec<PathBuf> = Vec::new();
        /// Folder for checkpoints and the trained model (required)
        output_dir: PathBuf = PathBuf::new();

        /// Learning rate after warm-up [default: 5e-5]
        learning_rate: f64 = 5e-5;
        /// Shape of the learning rate [default: linear]
        lr_scheduler_type: SchedulerType = SchedulerType::Linear;
        /// Share of all steps that warm up, rounded up [default: 0]
        warmup_ratio: f64 = 0.0;
        /// Passes over the dataset [default: 3]
        num_train_epochs: f64 = 3.0;
        /// Samples that are computed at once [default: 1]
        per_device_train_batch_size: usize = 1;
        /// Batches whose gradients make one step [default: 1]
        gradient_accumulation_steps: usize = 1;
        /// Norm that gradients are clipped to; 0 does not clip [default: 1]
        max_grad_norm: f64 = 1.0;
        /// Decoupled weight decay, on matrices only [default: 0]
        weight_decay: f64 = 0.0;
        /// Decay of the first moment [default: 0.9]
        adam_beta1: f64 = 0.9;
        /// Decay of the second moment [default: 0.999]
        adam_beta2: f64 = 0.999;
        /// Added to the root of the second moment [default: 1e-8]
        adam_epsilon: f64 = 1e-8;
        /// Seed of the order of samples and of new LoRA weights [default: 42]
        seed: u64 = 42;
        /// Take samples in the dataset's order
        #[arg(num_args = 0..=1, default_missing_value = "true")]
        no_shuffle: bool = false;
        /// Put samples of like length into one batch [default: false]
        #[arg(num_args = 0..=1, default_missing_value = "true")]
        group_by_length: bool = false;
        /// Learn the last answer of a conversation only [default: false]
        #[arg(num_args = 0..=1, default_missing_value = "true")]
        mask_history: bool = false;
        /// Stop at a sample that cannot be used instead of skipping it [default: false]
        #[arg(num_args = 0..=1, default_missing_value = "true")]
        strict: bool = false;

        /// What is trained [default: full]
        finetuning_type: FinetuningType = FinetuningType::Full;
        /// Rank of the LoRA [default: 8]
        lora_rank: usize = 8;
        /// Linear layers that the LoRA updates, separated by commas, or `all` [default: all]
        #[arg(value_delimiter = ',', action = ArgAction::Append, value_name = "NAMES")]
        lora_target: Vec<String> = vec!["all".to_owned()];
        /// Scale the LoRA by alpha / sqrt(rank) [default: false]
        #[arg(num_args = 0..=1, default_missing_value = "true")]
        use_rslora: bool = false;
        /// Leave the vision tower as it is [default: true]
        #[arg(num_args = 0..=1, default_missing_value = "true")]
        freeze_vision_tower: bool = true;
        /// Leave the projector from pictures to tokens as it is [default: true]
        #[arg(num_args = 0..=1, default_missing_value = "true")]
        freeze_multi_modal_projector: bool = true;
        /// Leave the language model as it is [default: false]
        #[arg(num_args = 0..=1, default_missing_value = "true")]
        freeze_language_model: bool = false;

        /// Samples held out for evaluation: a share below 1, else a count [default: 0]
        val_size: f64 = 0.0;
        /// Dataset files that are only evaluated on, separated by commas, instead of --val-size [default: none]
        #[arg(value_delimiter = ',', action = ArgAction::Append, value_name = "FILES")]
        eval_dataset: Vec<PathBuf> = Vec::new();
        /// When checkpoints are saved [default: steps]
        save_strategy: SaveStrategy = SaveStrategy::Steps;
        /// Steps between checkpoints [default: 500]
        save_steps: usize = 500;
        /// Type of saved weights [default: auto]
        save_dtype: SaveType = SaveType::Auto;
        /// End with the checkpoint of lowest evaluation loss [default: false]
        #[arg(num_args = 0..=1, default_missing_value = "true")]
        keep_best: bool = false;
        /// Steps between lines of the log [default: 1]
        logging_steps: usize = 1;

        /// Compute activations again in the backward pass instead of keeping them [default: true]
        #[arg(num_args = 0..=1, default_missing_value = "true")]
        recompute: bool = true;
        /// Where the optimizer's state is kept [default: auto]
        optimizer_offload: OptimizerOffload = OptimizerOffload::Auto;
        /// Type in which activations are computed [default: auto]
        dtype: ComputeType = ComputeType::Auto;
        /// Where training runs [default: auto]
        device: DeviceType = DeviceType::Auto;
        /// Threads that prepare samples [default: 2]
        dataloader_workers: usize = 2;
    }
    without default {
        /// Folder that picture paths in the dataset are relative to [default: the dataset's]
        media_dir: PathBuf;
        /// Learning rate of the vision tower [default: --learning-rate]
        vision_learning_rate: f64;
        /// Learning rate of the projector [default: --learning-rate]
        projector_learning_rate: f64;
        /// Steps that warm up, instead of --warmup-ratio
        warmup_steps: usize;
        /// Steps after which training ends, instead of --num-train-epochs
        max_steps: usize;
        /// Tokens that a sample may have; longer ones are left out, never cut
        max_length: usize;
        /// Pixels below which pictures are enlarged [default: the checkpoint's]
        image_min_pixels: usize;
        /// Pixels above which pictures are shrunk [default: the checkpoint's]
        image_max_pixels: usize;
        /// Numerator of the LoRA's scale [default: twice the rank]
        lora_alpha: f64;
        /// Adapter to go on training
        adapter: PathBuf;
        /// Steps between evaluations, of which one comes before the first step [default: as --save-strategy]
        eval_steps: usize;
        /// Checkpoints that are kept, the newest [default: all]
        save_total_limit: usize;
        /// Folder for TensorBoard events [default: none are written]
        logging_dir: PathBuf;
    }
}

settings! {
    /// The settings of IterDPO beside those of any training, resolved.
    PreferenceRecipe;
    /// The settings of IterDPO that a command line or a recipe file gives.
    PreferenceSettings;
    with default {
        /// What a difference of log-probabilities is multiplied with; the smaller, the further the model may go from its
        /// reference [default: 0.1]
        pref_beta: f64 = 0.1;
        /// Losses of a pair, separated by commas [default: sigmoid]
        #[arg(value_delimiter = ',', action = ArgAction::Append, value_name = "LOSSES")]
        pref_loss: Vec<PreferenceLossType> = vec![PreferenceLossType::Sigmoid];
        /// What each of the losses is multiplied with, separated by commas [default: 1 each]
        #[arg(value_delimiter = ',', action = ArgAction::Append, value_name = "WEIGHTS")]
        pref_loss_weights: Vec<f64> = Vec::new();
        /// Weight of the better answer's own loss, the mean over its tokens, which is added [default: 0]
        pref_ftx: f64 = 0.0;
        /// Share of the pairs that may have their answers the wrong way round, for sigmoid (which makes it cDPO), robust
        /// and exo_pair [default: 0]
        dpo_label_smoothing: f64 = 0.0;
        /// Weight of the tokens after as many as the shorter answer has (LD-DPO) [default: 1]
        ld_alpha: f64 = 1.0;
        /// Temperature of discopop [default: 0.05]
        discopop_tau: f64 = 0.05;
        /// Weight of the tokens that the other answer has not, where all others have 1 [default: 1]
        edit_weight: f64 = 1.0;
        /// Compare the answers with each other alone, without a reference [default: false]
        #[arg(num_args = 0..=1, default_missing_value = "true")]
        reference_free: bool = false;
        /// MiB for features of pictures that are not computed again, where tower and projector are frozen [default: 256]
        vision_cache_mib: usize = 256;
    }
    without default {
        /// Folder for the reference's log-probabilities, which trainings can share [default: `reference` in --output-dir]
        reference_cache: PathBuf;
    }
}

impl TrainingRecipe {
    /// Numerator of the LoRA's scale: as given, or twice the rank.
    pub fn alpha(&self) -> f64 {
        self.lora_alpha.unwrap_or(2.0 * self.lora_rank as f64)
    }
}
