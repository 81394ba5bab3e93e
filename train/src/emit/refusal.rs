use std::path::Path;

use lwv_model::{ModelConfig, expected_weights};
use lwv_processor::Processor;
use serde_json::Value;

use crate::recipe::{ComputeType, PreferenceRecipe, Recipe, SaveStrategy, SaveType, TrainingRecipe};
use crate::trainer::selection;
use crate::{Error, Lora, PreferenceLossType, Result, SchedulerType, Selection};

/// Looks for a setting that LLaMA-Factory has no equivalent of.
///
/// # Errors
/// There is one; it is named, with what would do instead.
pub(super) fn check(recipe: &Recipe, config: &ModelConfig, dir: &Path) -> Result<()> {
    let Recipe {
        training: recipe,
        preference: own,
    } = recipe;
    if let Some(own) = own {
        losses(own)?;
        pairs(own, recipe)?;
    }
    rates(recipe)?;
    computing(recipe)?;
    saving(recipe, dir)?;
    best(recipe)?;
    if config.vision.is_some() {
        pixels(recipe)?;
    }
    let selection = selection(recipe, None);
    if let Some(lora) = &selection.lora {
        targets(recipe, config, &selection, lora)?;
        scale(recipe, lora)?;
        if lora.alpha.fract() != 0.0 {
            return Err(refuse(
                "lora-alpha",
                &lora.alpha,
                "LLaMA-Factory takes whole numbers only",
            ));
        }
    }
    Ok(())
}

fn refuse(field: &str, value: &impl serde::Serialize, reason: impl Into<String>) -> Error {
    Error::Setting {
        field: field.into(),
        value: serde_json::json!(value).to_string(),
        origin: String::new(),
        reason: reason.into(),
    }
}

/// LLaMA-Factory 0.9.5 asks TRL for a loss without saying which, and TRL of the versions that it is installed with then
/// takes `sigmoid`.
fn losses(recipe: &PreferenceRecipe) -> Result<()> {
    let reason = match recipe.pref_loss[..] {
        [PreferenceLossType::Sigmoid] => None,
        [_] => Some("LLaMA-Factory does not have this loss, or computes `sigmoid` in its place; choose that"),
        _ => Some(
            "LLaMA-Factory has one loss only; choose `sigmoid`, to which `pref-ftx` can add the better answer's own",
        ),
    };
    if let Some(reason) = reason {
        return Err(refuse("pref-loss", &recipe.pref_loss, reason));
    }
    if recipe.pref_loss_weights.iter().any(|weight| *weight != 1.0) {
        let reason = "LLaMA-Factory multiplies its loss with nothing; leave it out";
        return Err(refuse("pref-loss-weights", &recipe.pref_loss_weights, reason));
    }
    Ok(())
}

fn pairs(recipe: &PreferenceRecipe, training: &TrainingRecipe) -> Result<()> {
    if recipe.reference_free {
        let reason = "LLaMA-Factory always has a reference for this loss; leave it out";
        return Err(refuse("reference-free", &true, reason));
    }
    if recipe.ld_alpha != 1.0 {
        let reason =
            "LLaMA-Factory would take the tail off the model and not off its reference; leave it out";
        return Err(refuse("ld-alpha", &recipe.ld_alpha, reason));
    }
    if recipe.edit_weight != 1.0 {
        let reason = "LLaMA-Factory weighs all tokens alike; leave it out";
        return Err(refuse("edit-weight", &recipe.edit_weight, reason));
    }
    if training.group_by_length {
        let reason = "LLaMA-Factory cannot tell how long pairs are, and stops; leave it out";
        return Err(refuse("group-by-length", &true, reason));
    }
    if let Some(adapter) = &training.adapter {
        let reason = "LLaMA-Factory would compare with the model without this adapter; merge it into the model first, \
                      with `lwv-train merge`, and train a new one";
        return Err(refuse("adapter", adapter, reason));
    }
    Ok(())
}

fn rates(recipe: &TrainingRecipe) -> Result<()> {
    let of_parts = [
        ("vision-learning-rate", recipe.vision_learning_rate),
        ("projector-learning-rate", recipe.projector_learning_rate),
    ];
    for (field, rate) in of_parts {
        if let Some(rate) = rate.filter(|rate| *rate != recipe.learning_rate) {
            let reason = "LLaMA-Factory has one learning rate for all parts; leave it out";
            return Err(refuse(field, &rate, reason));
        }
    }
    if recipe.lr_scheduler_type == SchedulerType::WarmupStableDecay {
        let reason = "LLaMA-Factory needs a number of steps to decay over; choose another";
        return Err(refuse("lr-scheduler-type", &recipe.lr_scheduler_type, reason));
    }
    Ok(())
}

/// LLaMA-Factory computes in bf16, or else in what `config.json` names.
fn computing(recipe: &TrainingRecipe) -> Result<()> {
    if recipe.dtype != ComputeType::F32 {
        return Ok(());
    }
    let config = json(&recipe.model.join("config.json"))?;
    let stored = ["dtype", "torch_dtype"]
        .iter()
        .find_map(|field| config[field].as_str());
    match stored {
        None | Some("float32") => Ok(()),
        Some(other) => {
            let reason =
                format!("LLaMA-Factory computes as the checkpoint is stored, in `{other}`; leave it out");
            Err(refuse("dtype", &recipe.dtype, reason))
        }
    }
}

fn json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    serde_json::from_str(&text).map_err(|e| Error::Json {
        path: path.to_owned(),
        message: e.to_string(),
    })
}

fn saving(recipe: &TrainingRecipe, dir: &Path) -> Result<()> {
    let wide = recipe.dtype == ComputeType::F32;
    let is_computed = match recipe.save_dtype {
        SaveType::Auto => true,
        SaveType::F32 => wide,
        SaveType::Bf16 => !wide,
        SaveType::F16 => false,
    };
    if !is_computed {
        let reason = "LLaMA-Factory saves weights in the type of `dtype`; leave it out";
        return Err(refuse("save-dtype", &recipe.save_dtype, reason));
    }
    let place = |path: &Path| std::path::absolute(path).map_err(Error::io(path));
    if place(&recipe.output_dir)?.starts_with(place(dir)?) {
        let reason =
            "it is in the folder that is written, which is replaced as a whole; choose one elsewhere";
        return Err(refuse("output-dir", &recipe.output_dir, reason));
    }
    Ok(())
}

/// transformers keeps the best checkpoint only where it evaluates whenever it saves.
fn best(recipe: &TrainingRecipe) -> Result<()> {
    if !recipe.keep_best {
        return Ok(());
    }
    let fits = match recipe.save_strategy {
        SaveStrategy::Steps => recipe
            .eval_steps
            .is_none_or(|steps| recipe.save_steps.is_multiple_of(steps)),
        SaveStrategy::Epoch => recipe.eval_steps.is_none(),
        SaveStrategy::No => false,
    };
    if fits {
        return Ok(());
    }
    let reason = "LLaMA-Factory must evaluate whenever it saves; set `save-strategy` to `steps` or `epoch`, and \
                  `eval-steps` to a divisor of `save-steps` or not at all";
    Err(refuse("keep-best", &true, reason))
}

/// The checkpoint's own limits hold in LLaMA-Factory too.
fn pixels(recipe: &TrainingRecipe) -> Result<()> {
    let processor = Processor::from_dir(&recipe.model)?;
    let Some(images) = processor.image_processor() else {
        return Ok(());
    };
    if let Some(max) = recipe.image_max_pixels.filter(|max| *max > images.max_pixels) {
        let reason = format!(
            "in LLaMA-Factory no picture has more than the checkpoint's `{}`; change `preprocessor_config.json`",
            images.max_pixels
        );
        return Err(refuse("image-max-pixels", &max, reason));
    }
    if let Some(min) = recipe.image_min_pixels.filter(|min| *min < images.min_pixels) {
        let reason = format!(
            "in LLaMA-Factory no picture has fewer than the checkpoint's `{}`; change `preprocessor_config.json`",
            images.min_pixels
        );
        return Err(refuse("image-min-pixels", &min, reason));
    }
    Ok(())
}

/// LLaMA-Factory takes every layer whose whole name has a target anywhere in it, and for `all` leaves the projector out.
fn targets(recipe: &TrainingRecipe, config: &ModelConfig, selection: &Selection, lora: &Lora) -> Result<()> {
    let is_all = lora.targets == ["all"];
    if config.vision.is_some() && is_all && !recipe.freeze_multi_modal_projector {
        let reason = "with `lora-target` `all` LLaMA-Factory trains no LoRA of the projector; freeze it, or name the layers";
        return Err(refuse("freeze-multi-modal-projector", &false, reason));
    }
    if is_all {
        return Ok(());
    }
    let theirs = |module: &str| lora.targets.iter().any(|target| module.contains(target.as_str()));
    let differs = |(name, shape): &(String, Vec<usize>)| {
        let module = name.strip_suffix(".weight").unwrap_or(name);
        let is_free = shape.len() == 2 && !selection.freezes(name);
        is_free && theirs(module) != lora.covers(name, shape)
    };
    match expected_weights(config).into_iter().find(differs) {
        None => Ok(()),
        Some((name, _)) => {
            let reason =
                format!("LLaMA-Factory and we do not agree whether it names `{name}`; spell the targets out");
            Err(refuse("lora-target", &lora.targets, reason))
        }
    }
}

/// LLaMA-Factory goes on with an adapter's own scale, we take the recipe's.
fn scale(recipe: &TrainingRecipe, lora: &Lora) -> Result<()> {
    let Some(adapter) = &recipe.adapter else {
        return Ok(());
    };
    let config = json(&adapter.join("adapter_config.json"))?;
    let number = |field: &str| config[field].as_f64();
    let (alpha, rslora) = (
        number("lora_alpha"),
        config["use_rslora"].as_bool().unwrap_or(false),
    );
    if alpha == Some(lora.alpha) && rslora == lora.rslora {
        return Ok(());
    }
    let reason = format!(
        "the adapter has `lora_alpha` `{}` and `use_rslora` `{rslora}`, with which LLaMA-Factory goes on; set them so",
        alpha.unwrap_or_default()
    );
    Err(refuse("lora-alpha", &lora.alpha, reason))
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;
    use crate::recipe::{FinetuningType, Stage};

    fn refused(change: fn(&mut TrainingRecipe)) -> Option<String> {
        refused_of(Stage::Sft, |recipe| change(&mut recipe.training))
    }

    fn refused_of(stage: Stage, change: impl Fn(&mut Recipe)) -> Option<String> {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
        let mut recipe = Recipe::of(stage);
        recipe.training.model = fixtures.join("tiny/nested_f32");
        recipe.training.output_dir = "out".into();
        change(&mut recipe);
        let config = ModelConfig::from_dir(&recipe.training.model).unwrap();
        match check(&recipe, &config, Path::new("emitted")) {
            Ok(()) => None,
            Err(Error::Setting { field, .. }) => Some(field),
            Err(other) => panic!("{other}"),
        }
    }

    fn assert_refused(change: fn(&mut TrainingRecipe), field: &str) {
        assert_eq!(refused(change).as_deref(), Some(field));
    }

    #[test]
    fn settings_without_an_equivalent_are_named() {
        assert_eq!(refused(|_| {}), None);
        assert_eq!(refused(|r| r.vision_learning_rate = Some(r.learning_rate)), None);
        assert_refused(|r| r.vision_learning_rate = Some(1.0), "vision-learning-rate");
        assert_refused(
            |r| r.projector_learning_rate = Some(1.0),
            "projector-learning-rate",
        );
        assert_refused(
            |r| r.lr_scheduler_type = SchedulerType::WarmupStableDecay,
            "lr-scheduler-type",
        );
        assert_refused(|r| r.save_dtype = SaveType::F32, "save-dtype");
        assert_refused(|r| r.output_dir = "emitted/out".into(), "output-dir");
        assert_refused(|r| r.image_max_pixels = Some(19_601), "image-max-pixels");
        assert_refused(|r| r.image_min_pixels = Some(1), "image-min-pixels");
    }

    fn refused_of_pairs(change: fn(&mut PreferenceRecipe)) -> Option<String> {
        refused_of(Stage::IterDpo, |recipe| {
            change(recipe.preference.as_mut().unwrap())
        })
    }

    #[test]
    fn losses_other_than_sigmoid_are_refused() {
        use PreferenceLossType as Kind;
        assert_eq!(refused_of_pairs(|_| {}), None);
        assert_eq!(refused_of_pairs(|p| p.pref_loss_weights = vec![1.0]), None);
        assert_eq!(
            refused_of_pairs(|p| (p.pref_ftx, p.dpo_label_smoothing) = (0.5, 0.1)),
            None
        );
        for &kind in Kind::value_variants() {
            let field = refused_of(Stage::IterDpo, |recipe| {
                recipe.preference.as_mut().unwrap().pref_loss = vec![kind];
            });
            assert_eq!(field.is_none(), kind == Kind::Sigmoid, "{kind:?}");
        }
        let assert_refused = |change: fn(&mut PreferenceRecipe), field: &str| {
            assert_eq!(refused_of_pairs(change).as_deref(), Some(field));
        };
        assert_refused(|p| p.pref_loss = vec![Kind::Sigmoid, Kind::Sft], "pref-loss");
        assert_refused(|p| p.pref_loss_weights = vec![0.5], "pref-loss-weights");
        assert_refused(|p| p.reference_free = true, "reference-free");
        assert_refused(|p| p.ld_alpha = 0.5, "ld-alpha");
        assert_refused(|p| p.edit_weight = 2.0, "edit-weight");
    }

    #[test]
    fn what_holds_for_conversations_only_is_refused_for_pairs() {
        let of_both = |change: fn(&mut TrainingRecipe)| {
            [Stage::Sft, Stage::IterDpo]
                .map(|stage| refused_of(stage, |recipe| change(&mut recipe.training)).unwrap_or_default())
        };
        assert_eq!(of_both(|r| r.group_by_length = true), ["", "group-by-length"]);
        assert_eq!(of_both(|r| r.adapter = Some("a".into())), ["", "adapter"]);
        let rate = "vision-learning-rate";
        assert_eq!(of_both(|r| r.vision_learning_rate = Some(1.0)), [rate, rate]);
    }

    #[test]
    fn the_best_checkpoint_needs_an_evaluation_at_every_save() {
        assert_eq!(refused(|r| (r.keep_best, r.eval_steps) = (true, Some(250))), None);
        assert_refused(|r| (r.keep_best, r.eval_steps) = (true, Some(300)), "keep-best");
        assert_refused(
            |r| (r.keep_best, r.save_strategy) = (true, SaveStrategy::No),
            "keep-best",
        );
    }

    #[test]
    fn targets_mean_the_same_layers() {
        assert_eq!(refused(|r| r.finetuning_type = FinetuningType::Lora), None);
        assert_eq!(refused(|r| with_target(r, "q_proj")), None);
        assert_refused(|r| with_target(r, "proj"), "lora-target");
        assert_refused(
            |r| {
                with_target(r, "all");
                r.freeze_multi_modal_projector = false;
            },
            "freeze-multi-modal-projector",
        );
    }

    fn with_target(recipe: &mut TrainingRecipe, target: &str) {
        recipe.finetuning_type = FinetuningType::Lora;
        recipe.lora_target = vec![target.to_owned()];
    }

    #[test]
    fn an_adapter_keeps_its_scale() {
        let adapter = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/sft/lora/all_linear");
        let text = std::fs::read_to_string(adapter.join("adapter_config.json")).unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        let mut recipe = TrainingRecipe {
            adapter: Some(adapter),
            finetuning_type: FinetuningType::Lora,
            lora_alpha: config["lora_alpha"].as_f64(),
            ..TrainingRecipe::default()
        };
        let check = |recipe: &TrainingRecipe| scale(recipe, &selection(recipe, None).lora.unwrap());
        check(&recipe).unwrap();
        recipe.lora_alpha = Some(1234.0);
        assert!(
            check(&recipe)
                .unwrap_err()
                .to_string()
                .starts_with("`lora-alpha` is `1234.0`")
        );
    }
}
