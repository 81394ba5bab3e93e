mod files;
mod steps;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Device};
use lwv_model::{Checkpoint, ModelConfig};

use crate::recipe::{ComputeType, FinetuningType, OptimizerOffload, Recipe, SaveType, TrainingRecipe};
use crate::staging::tidy;
use crate::{
    AdamW, AdamWSettings, Curriculum, Error, EventWriter, Lora, MetricsFile, Model, Objective, Part,
    Preparation, Result, Samples, Schedule, Selection, Share, Shortage, StepMetrics, TrainingState,
    open_device, trained,
};

/// Moments larger than this are kept on disk on the CPU, unless the recipe says otherwise: there they cost little time
/// and half of what training needs in memory.
const OFFLOADED_BYTES: usize = 256 << 20;

/// A training: a recipe, what it is to learn, a model, samples, and where it stands.
pub struct Trainer<O> {
    recipe: Recipe,
    objective: O,
    /// The checkpoint that training started from: what is written has its layout, types and side files. It is not the
    /// one that training goes on from, which may be removed meanwhile.
    base: Checkpoint,
    model: Model,
    samples: Samples,
    curriculum: Curriculum,
    schedule: Schedule,
    optimizer: AdamW,
    state: TrainingState,
    metrics: Option<MetricsFile>,
    events: Option<EventWriter>,
    cancelled: Arc<AtomicBool>,
}

/// What happens in a training.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Samples whose tokens are counted, and in all.
    Counted(usize, usize),
    /// Pairs that the reference was asked about, and in all.
    Referenced(usize, usize),
    /// The training begins: steps that are done, steps in all, and samples that were left out.
    Started(usize, usize, &'a Shortage),
    /// A step is done.
    Stepped(&'a StepMetrics),
    /// The held-out samples were measured: step (0 before the first) and what they add up to.
    Evaluated(usize, &'a Share),
    /// A sample was left out, and why.
    LeftOut(String),
    /// A checkpoint or the trained model was written.
    Saved(&'a Path),
}

/// What hears of events.
pub type Watch<'a> = dyn Fn(Event<'_>) + Sync + 'a;

/// How a training ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Steps that are done.
    pub step: usize,
    /// Whether the user interrupted it; a checkpoint to go on from was written.
    pub interrupted: bool,
    /// The folder of the trained model, or of that checkpoint.
    pub output: PathBuf,
    /// Mean loss of the last step.
    pub loss: Option<f64>,
    /// Lowest mean loss of the held-out samples after a step.
    pub best_eval_loss: Option<f64>,
    /// Samples that were left out.
    pub left_out: usize,
}

impl<O: Objective> Trainer<O> {
    /// Prepares a training; with `resume`, goes on from that checkpoint. When `cancelled` is set, the training saves
    /// a checkpoint and ends.
    ///
    /// # Errors
    /// A model, dataset or device that cannot be used; a resume with another recipe or other samples.
    pub fn open(
        recipe: Recipe,
        resume: Option<&Path>,
        metrics: Option<&Path>,
        cancelled: Arc<AtomicBool>,
        watch: &Watch<'_>,
    ) -> Result<Self> {
        let training = &recipe.training;
        if resume.is_none() {
            refuse_used(&training.output_dir)?;
        }
        refuse_own(training)?;
        std::fs::create_dir_all(&training.output_dir).map_err(Error::io(&training.output_dir))?;
        tidy(&training.output_dir, "checkpoint-")?;
        if let Some(dir) = resume {
            check_recipe(dir, &recipe)?;
        }
        let counted = |done, all| watch(Event::Counted(done, all));
        let samples = Samples::open(training, recipe.stage(), &cancelled, &counted)?;
        let curriculum = Curriculum::new(training, samples.order(training), samples.train.clone());
        let total_steps = curriculum.total_steps();
        let schedule = Schedule::new(
            training.lr_scheduler_type,
            training.warmup_steps,
            training.warmup_ratio,
            total_steps,
        );
        let base = Checkpoint::open(&training.model)?;
        let objective = O::prepare(&Preparation {
            recipe: &recipe,
            samples: &samples,
            curriculum: &curriculum,
            base: &base,
            cancelled: &cancelled,
            watch,
        })?;
        let model = load(&recipe, &base, resume)?;
        let mut optimizer = optimizer(training, &model)?;
        let mut state = new_state(training, &samples, total_steps);
        if let Some(dir) = resume {
            state = resumed(dir, state)?;
            state.restore(dir, &mut optimizer)?;
        }
        let resumed_step = resume.is_some().then_some(state.global_step);
        let metrics = metrics
            .map(|path| MetricsFile::open(path, resumed_step))
            .transpose()?;
        let events = training
            .logging_dir
            .as_deref()
            .map(EventWriter::create)
            .transpose()?;
        recipe.save(&training.output_dir.join(Recipe::FILE))?;
        Ok(Self {
            recipe,
            objective,
            base,
            model,
            samples,
            curriculum,
            schedule,
            optimizer,
            state,
            metrics,
            events,
            cancelled,
        })
    }

    /// Trains to the end, or until it is interrupted.
    ///
    /// # Errors
    /// A loss that is not a number, a full disk, what candle says. The last checkpoint is whole in every case.
    pub fn run(mut self, watch: &Watch<'_>) -> Result<Outcome> {
        watch(Event::Started(
            self.state.global_step,
            self.curriculum.total_steps(),
            &self.samples.shortage,
        ));
        let mut outcome = Outcome {
            step: self.state.global_step,
            interrupted: false,
            output: self.recipe.training.output_dir.clone(),
            loss: None,
            best_eval_loss: None,
            left_out: self.samples.shortage.too_long.len() + self.samples.shortage.unusable.len(),
        };
        self.before_steps(watch)?;
        while self.state.global_step < self.curriculum.total_steps() {
            let interrupted = self.train_epoch(&mut outcome, watch)?;
            if interrupted {
                outcome.interrupted = true;
                outcome.output = self.save_checkpoint(watch)?;
                break;
            }
        }
        if !outcome.interrupted {
            self.finish(watch)?;
        }
        outcome.step = self.state.global_step;
        outcome.best_eval_loss = self.state.best_metric;
        Ok(outcome)
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// What the recipe says is trained.
pub(crate) fn selection(recipe: &TrainingRecipe, start: Option<&Path>) -> Selection {
    let parts = [
        (recipe.freeze_vision_tower, Part::VisionTower),
        (recipe.freeze_multi_modal_projector, Part::Projector),
        (recipe.freeze_language_model, Part::LanguageModel),
    ];
    let lora = Lora {
        rank: recipe.lora_rank,
        alpha: recipe.alpha(),
        rslora: recipe.use_rslora,
        targets: recipe.lora_target.clone(),
        seed: recipe.seed,
        start: start.or(recipe.adapter.as_deref()).map(Path::to_owned),
    };
    Selection {
        frozen: parts
            .into_iter()
            .filter(|(frozen, _)| *frozen)
            .map(|(_, part)| part)
            .collect(),
        lora: (recipe.finetuning_type == FinetuningType::Lora).then_some(lora),
    }
}

/// The model with the weights of `base`, or of the checkpoint that training goes on from, where those are whole: in
/// fewer bits than the base's, frozen weights would not be what they were. Trained ones are then in its state.
fn load(recipe: &Recipe, base: &Checkpoint, resume: Option<&Path>) -> Result<Model> {
    let training = &recipe.training;
    let is_whole = matches!(training.save_dtype, SaveType::Auto | SaveType::F32);
    let saved = match resume {
        Some(dir) if training.finetuning_type == FinetuningType::Full && is_whole => {
            Some(Checkpoint::open(dir)?)
        }
        _ => None,
    };
    let weights = saved.as_ref().unwrap_or(base);
    let model = load_selected(recipe, weights, &selection(training, resume))?;
    if trained(model.parameters()).next().is_none() {
        return Err(Error::NothingToTrain);
    }
    Ok(model)
}

/// The model that training starts from, with nothing to train: with a LoRA, its adapter is switched off, unless training
/// goes on with one that was there before.
pub(crate) fn load_reference(recipe: &Recipe, base: &Checkpoint) -> Result<Model> {
    let start = selection(&recipe.training, None);
    let frozen = Selection {
        frozen: vec![Part::VisionTower, Part::Projector, Part::LanguageModel],
        lora: None,
    };
    let adapted = start.lora.as_ref().is_some_and(|lora| lora.start.is_some());
    load_selected(recipe, base, if adapted { &start } else { &frozen })
}

fn load_selected(recipe: &Recipe, weights: &Checkpoint, selection: &Selection) -> Result<Model> {
    let training = &recipe.training;
    let device = device(training)?;
    let dtype = compute_type(training, &device);
    let config = ModelConfig::from_dir(&training.model)?;
    weights.check(&config)?;
    let parameters = selection.load(weights, &config, &device, dtype)?;
    let model = Model::new(config, parameters, device, dtype, training.recompute);
    // The reference computes features as training does, alone or together, so that both agree to the bit at first.
    let is_frozen = training.freeze_vision_tower && training.freeze_multi_modal_projector;
    Ok(match &recipe.preference {
        Some(preference) if is_frozen => model.with_feature_cache(preference.vision_cache_mib << 20),
        _ => model,
    })
}

/// What the network computes in.
pub(crate) fn compute_type(recipe: &TrainingRecipe, device: &Device) -> DType {
    match recipe.dtype {
        ComputeType::F32 => DType::F32,
        ComputeType::Bf16 => DType::BF16,
        ComputeType::Auto if device.is_cpu() => DType::F32,
        ComputeType::Auto => DType::BF16,
    }
}

/// Where the network computes.
pub(crate) fn device(recipe: &TrainingRecipe) -> Result<Device> {
    use crate::recipe::DeviceType;
    match recipe.device {
        DeviceType::Cpu => Ok(Device::Cpu),
        DeviceType::Cuda => open_device("cuda"),
        DeviceType::Auto => Ok(open_device("cuda").unwrap_or(Device::Cpu)),
    }
}

fn optimizer(recipe: &TrainingRecipe, model: &Model) -> Result<AdamW> {
    let settings = AdamWSettings {
        beta1: recipe.adam_beta1,
        beta2: recipe.adam_beta2,
        epsilon: recipe.adam_epsilon,
        weight_decay: recipe.weight_decay,
    };
    let parameters: Vec<_> = trained(model.parameters()).cloned().collect();
    let elements: usize = parameters
        .iter()
        .map(|parameter| parameter.exact().elem_count())
        .sum();
    let offload = is_offloaded(recipe, elements).then_some(recipe.output_dir.as_path());
    AdamW::new(settings, parameters, offload)
}

/// Whether the moments of so many numbers are kept on disk, where training runs on the CPU.
pub(crate) fn is_offloaded(recipe: &TrainingRecipe, elements: usize) -> bool {
    match recipe.optimizer_offload {
        OptimizerOffload::Auto => 8 * elements > OFFLOADED_BYTES,
        OptimizerOffload::None => false,
        OptimizerOffload::Disk => true,
    }
}

fn new_state(recipe: &TrainingRecipe, samples: &Samples, max_steps: usize) -> TrainingState {
    TrainingState {
        global_step: 0,
        epoch: 0.0,
        max_steps,
        best_metric: None,
        best_model_checkpoint: None,
        seed: recipe.seed,
        data_fingerprint: samples.fingerprint.clone(),
        parameter_steps: Default::default(),
    }
}

/// Refuses to mix the checkpoints of two trainings in one folder.
fn refuse_used(output_dir: &Path) -> Result<()> {
    let Some(newest) = TrainingState::newest(output_dir)? else {
        return Ok(());
    };
    Err(Error::Resume {
        path: newest,
        message:
            "an earlier training has left it in `output-dir`; add `--resume`, or train into another folder"
                .into(),
    })
}

/// Refuses to put the trained model in the place of the one that training starts from.
fn refuse_own(recipe: &TrainingRecipe) -> Result<()> {
    let starts = [Some(&recipe.model), recipe.adapter.as_ref()];
    let output = recipe.output_dir.canonicalize().ok();
    for start in starts.into_iter().flatten() {
        if output.is_some() && start.canonicalize().ok() == output {
            return Err(Error::Setting {
                field: "output-dir".into(),
                value: recipe.output_dir.display().to_string(),
                origin: String::new(),
                reason: "training starts from it; choose another folder".into(),
            });
        }
    }
    Ok(())
}

/// Refuses to go on with another recipe than the checkpoint's.
fn check_recipe(dir: &Path, recipe: &Recipe) -> Result<()> {
    let saved = Recipe::load(&dir.join(Recipe::FILE))?;
    let differences = saved.differences(recipe)?;
    let Some(first) = differences.first() else {
        return Ok(());
    };
    Err(Error::Resume {
        path: dir.to_owned(),
        message: format!(
            "`{}` was {}, now it is {}; train into another folder, or set it back",
            first.field, first.old, first.new
        ),
    })
}

/// The saved state, if it is of the same samples as the new one.
fn resumed(dir: &Path, new: TrainingState) -> Result<TrainingState> {
    let saved = TrainingState::read(dir)?;
    if saved.data_fingerprint == new.data_fingerprint {
        return Ok(saved);
    }
    Err(Error::Resume {
        path: dir.to_owned(),
        message: "the dataset has changed since".into(),
    })
}
