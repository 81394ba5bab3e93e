use super::{FinetuningType, PreferenceRecipe, SaveStrategy, TrainingRecipe};
use crate::PreferenceLossType;

/// A setting whose value cannot be used, and why.
pub(super) type Refusal = (&'static str, &'static str);

impl TrainingRecipe {
    /// The first setting that is required and not given.
    pub(super) fn missing(&self) -> Option<&'static str> {
        let required = [
            ("model", self.model.as_os_str().is_empty()),
            ("dataset", self.dataset.is_empty()),
            ("output-dir", self.output_dir.as_os_str().is_empty()),
        ];
        first(&required)
    }

    /// The first setting whose value cannot be used.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        let positive = "it must be above 0";
        let fraction = "it must be at least 0 and below 1";
        [
            (self.not_positive(), positive),
            (self.zero(), "it must be at least 1"),
            (self.negative(), "it must be at least 0"),
            (self.not_below_one(), fraction),
        ]
        .into_iter()
        .find_map(|(field, reason)| Some((field?, reason)))
        .or_else(|| self.contradiction())
    }

    fn not_positive(&self) -> Option<&'static str> {
        let bad = |value: f64| !(value > 0.0 && value.is_finite());
        first(&[
            ("learning-rate", bad(self.learning_rate)),
            ("vision-learning-rate", self.vision_learning_rate.is_some_and(bad)),
            (
                "projector-learning-rate",
                self.projector_learning_rate.is_some_and(bad),
            ),
            ("num-train-epochs", bad(self.num_train_epochs)),
            ("adam-epsilon", bad(self.adam_epsilon)),
            ("lora-alpha", self.lora_alpha.is_some_and(bad)),
        ])
    }

    fn zero(&self) -> Option<&'static str> {
        let bad = |value: usize| value == 0;
        first(&[
            ("max-steps", self.max_steps.is_some_and(bad)),
            ("max-length", self.max_length.is_some_and(bad)),
            (
                "per-device-train-batch-size",
                bad(self.per_device_train_batch_size),
            ),
            (
                "gradient-accumulation-steps",
                bad(self.gradient_accumulation_steps),
            ),
            ("lora-rank", bad(self.lora_rank)),
            ("eval-steps", self.eval_steps.is_some_and(bad)),
            ("save-steps", bad(self.save_steps)),
            ("save-total-limit", self.save_total_limit.is_some_and(bad)),
            ("logging-steps", bad(self.logging_steps)),
            ("dataloader-workers", bad(self.dataloader_workers)),
            ("image-min-pixels", self.image_min_pixels.is_some_and(bad)),
            ("image-max-pixels", self.image_max_pixels.is_some_and(bad)),
        ])
    }

    fn negative(&self) -> Option<&'static str> {
        let bad = |value: f64| !(value >= 0.0 && value.is_finite());
        first(&[
            ("max-grad-norm", bad(self.max_grad_norm)),
            ("weight-decay", bad(self.weight_decay)),
            ("val-size", bad(self.val_size)),
        ])
    }

    fn not_below_one(&self) -> Option<&'static str> {
        let bad = |value: f64| !(0.0..1.0).contains(&value);
        first(&[
            ("warmup-ratio", bad(self.warmup_ratio)),
            ("adam-beta1", bad(self.adam_beta1)),
            ("adam-beta2", bad(self.adam_beta2)),
        ])
    }

    /// Settings that are each sound, and not together.
    fn contradiction(&self) -> Option<Refusal> {
        let lora = self.finetuning_type == FinetuningType::Lora;
        let frozen =
            self.freeze_vision_tower && self.freeze_multi_modal_projector && self.freeze_language_model;
        let bounds = self.image_min_pixels.zip(self.image_max_pixels);
        [
            (
                frozen,
                "freeze-language-model",
                "everything else is frozen too, and nothing is left to train",
            ),
            (
                bounds.is_some_and(|(min, max)| min > max),
                "image-min-pixels",
                "it is above `image-max-pixels`",
            ),
            (
                self.adapter.is_some() && !lora,
                "adapter",
                "it is trained with `finetuning-type` `lora` only; `lwv-train merge` makes a checkpoint of it",
            ),
            (
                self.lora_target.is_empty(),
                "lora-target",
                "name layers, or `all`",
            ),
            (
                self.val_size > 0.0 && !self.eval_dataset.is_empty(),
                "val-size",
                "`eval-dataset` is set too; evaluate on one of the two",
            ),
            (
                self.eval_dataset.iter().any(|path| self.dataset.contains(path)),
                "eval-dataset",
                "a part of it is in `dataset`, and would not be held out",
            ),
            (
                self.keep_best && self.val_size == 0.0 && self.eval_dataset.is_empty(),
                "keep-best",
                "it needs samples to evaluate on; set `val-size` or `eval-dataset`",
            ),
            (
                self.keep_best && self.save_strategy == SaveStrategy::No,
                "keep-best",
                "it needs checkpoints; set `save-strategy` to `steps` or `epoch`",
            ),
        ]
        .into_iter()
        .find_map(|(bad, field, reason)| bad.then_some((field, reason)))
    }
}

impl PreferenceRecipe {
    /// The first setting whose value cannot be used.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        let positive = |value: f64| value > 0.0 && value.is_finite();
        let not_negative = |value: f64| value >= 0.0 && value.is_finite();
        let (losses, weights) = (self.pref_loss.len(), self.pref_loss_weights.len());
        let smooths = self.dpo_label_smoothing > 0.0;
        let has = |loss| self.pref_loss.contains(&loss);
        let takes_smoothing = [
            PreferenceLossType::Sigmoid,
            PreferenceLossType::Robust,
            PreferenceLossType::ExoPair,
        ];
        [
            (!positive(self.pref_beta), "pref-beta", "it must be above 0"),
            (losses == 0, "pref-loss", "name a loss"),
            (
                ![0, losses].contains(&weights),
                "pref-loss-weights",
                "give one for each of `pref-loss`",
            ),
            (
                !self.pref_loss_weights.iter().copied().all(not_negative),
                "pref-loss-weights",
                "they must be at least 0",
            ),
            (!not_negative(self.pref_ftx), "pref-ftx", "it must be at least 0"),
            (
                !(0.0..0.5).contains(&self.dpo_label_smoothing),
                "dpo-label-smoothing",
                "it must be at least 0 and below 0.5",
            ),
            (
                smooths && !takes_smoothing.into_iter().any(has),
                "dpo-label-smoothing",
                "none of `pref-loss` uses it; sigmoid, robust and exo_pair do",
            ),
            (
                !smooths && has(PreferenceLossType::ExoPair),
                "dpo-label-smoothing",
                "exo_pair needs it above 0, such as 0.001",
            ),
            (
                !(0.0..=1.0).contains(&self.ld_alpha),
                "ld-alpha",
                "it must be from 0 to 1",
            ),
            (!positive(self.discopop_tau), "discopop-tau", "it must be above 0"),
            (!positive(self.edit_weight), "edit-weight", "it must be above 0"),
        ]
        .into_iter()
        .find_map(|(bad, field, reason)| bad.then_some((field, reason)))
    }
}

fn first(fields: &[(&'static str, bool)]) -> Option<&'static str> {
    fields.iter().find(|(_, bad)| *bad).map(|(field, _)| *field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_sound() {
        assert_eq!(TrainingRecipe::default().refusal(), None);
        assert_eq!(TrainingRecipe::default().missing(), Some("model"));
    }

    #[test]
    fn values_out_of_range_are_named() {
        let refused = |change: fn(&mut TrainingRecipe)| {
            let mut recipe = TrainingRecipe::default();
            change(&mut recipe);
            recipe.refusal().map(|(field, _)| field)
        };
        assert_eq!(refused(|r| r.learning_rate = f64::NAN), Some("learning-rate"));
        assert_eq!(refused(|r| r.max_steps = Some(0)), Some("max-steps"));
        assert_eq!(refused(|r| r.max_grad_norm = -1.0), Some("max-grad-norm"));
        assert_eq!(refused(|r| r.adam_beta2 = 1.0), Some("adam-beta2"));
        assert_eq!(
            refused(|r| r.freeze_language_model = true),
            Some("freeze-language-model")
        );
        assert_eq!(refused(|r| r.keep_best = true), Some("keep-best"));
    }

    #[test]
    fn preferences_out_of_range_are_named() {
        let refused = |change: fn(&mut PreferenceRecipe)| {
            let mut recipe = PreferenceRecipe::default();
            change(&mut recipe);
            recipe.refusal().map(|(field, _)| field)
        };
        assert_eq!(refused(|_| {}), None);
        assert_eq!(refused(|r| r.pref_beta = 0.0), Some("pref-beta"));
        assert_eq!(
            refused(|r| r.pref_loss_weights = vec![1.0, 2.0]),
            Some("pref-loss-weights")
        );
        assert_eq!(refused(|r| r.dpo_label_smoothing = 0.1), None);
        let hinge = |r: &mut PreferenceRecipe| {
            r.pref_loss = vec![PreferenceLossType::Hinge];
            r.dpo_label_smoothing = 0.1;
        };
        assert_eq!(refused(hinge), Some("dpo-label-smoothing"));
        let exo = |r: &mut PreferenceRecipe| r.pref_loss = vec![PreferenceLossType::ExoPair];
        assert_eq!(refused(exo), Some("dpo-label-smoothing"));
        assert_eq!(refused(|r| r.ld_alpha = 1.5), Some("ld-alpha"));
    }

    #[test]
    fn held_out_samples_come_from_one_place() {
        let refused = |dataset: &str, val_size: f64| {
            let recipe = TrainingRecipe {
                dataset: vec![dataset.into()],
                eval_dataset: vec!["held-out.jsonl".into()],
                keep_best: true,
                val_size,
                ..TrainingRecipe::default()
            };
            recipe.refusal().map(|(field, _)| field)
        };
        assert_eq!(refused("train.jsonl", 0.0), None);
        assert_eq!(refused("train.jsonl", 0.1), Some("val-size"));
        assert_eq!(refused("held-out.jsonl", 0.0), Some("eval-dataset"));
    }
}
