use std::borrow::Cow;
use std::path::{Path, PathBuf};

use lwv_model::StoredType;

use super::{Event, Trainer, Watch};
use crate::recipe::{FinetuningType, Recipe, SaveStrategy, SaveType};
use crate::staging::discard;
use crate::training_state::{checkpoint_name, checkpoints};
use crate::{
    AdapterSettings, AdapterWriter, CheckpointWriter, Error, LoraUpdate, Objective, Parameter, Parameters,
    Result, Staging, TrainingState, WeightSource,
};

impl<O: Objective> Trainer<O> {
    /// Writes a checkpoint to go on from, whole or not at all, and removes those that are too many.
    pub(super) fn save_checkpoint(&mut self, watch: &Watch<'_>) -> Result<PathBuf> {
        let dir = self
            .recipe
            .training
            .output_dir
            .join(checkpoint_name(self.state.global_step));
        let steps = self.optimizer.parameters().iter();
        self.state.parameter_steps = steps
            .map(|parameter| {
                (
                    parameter.name().to_owned(),
                    self.optimizer.steps(parameter.name()),
                )
            })
            .collect();
        let staging = self.stage(&dir)?;
        self.state
            .write(staging.folder(), &self.optimizer, self.saves_narrow())?;
        self.recipe.save(&staging.folder().join(Recipe::FILE))?;
        staging.commit()?;
        self.remove_old()?;
        watch(Event::Saved(&dir));
        Ok(dir)
    }

    /// Puts the trained model into the output folder itself.
    pub(super) fn finish(&mut self, watch: &Watch<'_>) -> Result<()> {
        let output = self.recipe.training.output_dir.clone();
        let last = output.join(checkpoint_name(self.state.global_step));
        let best = self
            .state
            .best_model_checkpoint
            .as_ref()
            .map(|name| output.join(name));
        let source = match best {
            Some(best) if self.recipe.training.keep_best && best.exists() => Some(best),
            _ if self.recipe.training.save_strategy != SaveStrategy::No && last.exists() => Some(last),
            _ => None,
        };
        let staging = match source {
            None => self.stage(&output.join("model"))?,
            Some(checkpoint) => link(&checkpoint, &output.join("model"))?,
        };
        staging.move_into(&output)?;
        watch(Event::Saved(&output));
        Ok(())
    }

    fn stage(&self, dir: &Path) -> Result<Staging> {
        let parameters = self.model.parameters();
        if self.recipe.training.finetuning_type == FinetuningType::Full {
            let writer = CheckpointWriter::new(&self.base, self.model.config())
                .with_type(self.recipe.training.save_dtype);
            return writer.stage(dir, &Trained(parameters), &mut |_| ());
        }
        let settings = AdapterSettings {
            base_model: self.recipe.training.model.display().to_string(),
            rank: self.recipe.training.lora_rank,
            alpha: self.recipe.training.alpha(),
            use_rslora: self.recipe.training.use_rslora,
        };
        let updates: Vec<LoraUpdate<'_>> = updates(parameters)?;
        AdapterWriter::new(self.model.config(), &settings).stage(dir, &updates)
    }

    /// Whether the weights of a checkpoint are saved in less than f32, so that going on needs more.
    fn saves_narrow(&self) -> bool {
        let stored_narrow = || {
            let mut parameters = self
                .model
                .parameters()
                .values()
                .filter(|p| p.gradient().is_some());
            parameters.any(|parameter| {
                let info = self.base.find(parameter.name(), parameter.shape());
                info.is_ok_and(|info| info.stored != StoredType::F32)
            })
        };
        match self.recipe.training.save_dtype {
            _ if self.recipe.training.finetuning_type == FinetuningType::Lora => false,
            SaveType::F32 => false,
            SaveType::Auto => stored_narrow(),
            _ => true,
        }
    }

    fn remove_old(&self) -> Result<()> {
        let Some(limit) = self.recipe.training.save_total_limit else {
            return Ok(());
        };
        let best = self.state.best_model_checkpoint.as_deref();
        let mut removable = checkpoints(&self.recipe.training.output_dir)?;
        let excess = removable.len().saturating_sub(limit.max(1));
        removable.truncate(excess);
        for (step, dir) in removable {
            // Going on from an older checkpoint, the newest one is not the last in the folder.
            let is_new = step == self.state.global_step;
            if !is_new && dir.file_name().and_then(|name| name.to_str()) != best {
                discard(&dir)?;
            }
        }
        Ok(())
    }
}

/// The files of a checkpoint without those to go on from, under the same inodes: nothing is written twice.
fn link(checkpoint: &Path, destination: &Path) -> Result<Staging> {
    let staging = Staging::create(destination)?;
    link_files(checkpoint, staging.folder())?;
    Ok(staging)
}

fn link_files(from: &Path, to: &Path) -> Result<()> {
    let only_to_go_on = [TrainingState::FILE, TrainingState::OPTIMIZER_FILE];
    for entry in std::fs::read_dir(from).map_err(Error::io(from))? {
        let path = entry.map_err(Error::io(from))?.path();
        let name = path.file_name().unwrap_or_default();
        let target = to.join(name);
        if path.is_dir() {
            std::fs::create_dir(&target).map_err(Error::io(&target))?;
            link_files(&path, &target)?;
        } else if !only_to_go_on.iter().any(|file| name == *file) {
            // Some file systems know no links.
            if std::fs::hard_link(&path, &target).is_err() {
                std::fs::copy(&path, &target).map_err(Error::io(&target))?;
            }
        }
    }
    Ok(())
}

/// Weights that were trained; all others are the base's.
struct Trained<'a>(&'a Parameters);

impl WeightSource for Trained<'_> {
    fn weight(&self, name: &str) -> Result<Option<Cow<'_, [f32]>>> {
        match self.0.get(name) {
            Some(parameter) if parameter.gradient().is_some() => Ok(Some(values(parameter)?.into())),
            _ => Ok(None),
        }
    }
}

fn values(parameter: &Parameter) -> Result<Vec<f32>> {
    Ok(parameter.exact().flatten_all()?.to_vec1()?)
}

fn updates(parameters: &Parameters) -> Result<Vec<LoraUpdate<'static>>> {
    let pairs = parameters
        .values()
        .filter_map(|parameter| Some((parameter, parameter.low_rank()?)));
    pairs
        .map(|(parameter, pair)| {
            Ok(LoraUpdate {
                weight: parameter.name().to_owned(),
                a: values(&pair.a)?.into(),
                b: values(&pair.b)?.into(),
            })
        })
        .collect()
}
