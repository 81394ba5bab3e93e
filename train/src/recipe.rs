//! Settings of a training. Names, defaults and meanings stand in `recipe/settings.rs`, once for the command line, the
//! recipe file and the recipe that is saved beside the output.

mod arguments;
mod choices;
mod layers;
mod settings;
mod values;

use std::path::Path;

use serde_json::{Map, Value};

use crate::Error;

pub use arguments::{IterDpoArgs, PlanArgs, RunArgs, SftArgs};
pub use choices::{
    ComputeType, DeviceType, EmitEngine, FinetuningType, OptimizerOffload, SaveStrategy, SaveType, Stage,
};
pub use settings::{PreferenceRecipe, PreferenceSettings, TrainingRecipe, TrainingSettings};

/// Settings that may change between a training and its continuation without changing what is trained.
const WITHOUT_EFFECT: &[&str] = &[
    "output-dir",
    "logging-dir",
    "logging-steps",
    "eval-steps",
    "save-steps",
    "save-strategy",
    "save-total-limit",
    "keep-best",
    "dataloader-workers",
    "recompute",
    "optimizer-offload",
    "device",
    "reference-cache",
];

/// A setting that two recipes have different values of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The setting, as the command line spells it.
    pub field: String,
    /// Its value in the recipe that was asked, as JSON.
    pub old: String,
    /// Its value in the other recipe, as JSON.
    pub new: String,
}

/// The settings of one training.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// Those that every training has.
    pub training: TrainingRecipe,
    /// Those of IterDPO; none for supervised fine-tuning.
    pub preference: Option<PreferenceRecipe>,
}

/// The learning rate of IterDPO, which is TRL's of DPO: with that of supervised fine-tuning, whole weights fall apart.
const PREFERENCE_LEARNING_RATE: f64 = 1e-6;

impl Recipe {
    /// Name of the recipe beside the output.
    pub const FILE: &'static str = "recipe.json";

    /// The defaults of a training.
    pub fn of(stage: Stage) -> Self {
        let mut training = TrainingRecipe::default();
        if stage == Stage::IterDpo {
            training.learning_rate = PREFERENCE_LEARNING_RATE;
        }
        Self {
            training,
            preference: (stage == Stage::IterDpo).then(PreferenceRecipe::default),
        }
    }

    /// Which training it is.
    pub fn stage(&self) -> Stage {
        match self.preference {
            None => Stage::Sft,
            Some(_) => Stage::IterDpo,
        }
    }

    /// Writes the recipe to `path` as JSON, whole or not at all.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let value = Value::Object(self.fields()?);
        crate::staging::write_atomically(path, format!("{value:#}\n").as_bytes())
    }

    /// Reads a recipe that [`Self::save`] has written.
    ///
    /// # Errors
    /// A file that cannot be read, or is no recipe.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let read = serde_json::from_str(&text).and_then(Self::from_fields);
        read.map_err(|e| Error::RecipeFile {
            path: path.to_owned(),
            line: e.line(),
            message: e.to_string(),
        })
    }

    /// The settings that bear on the trained weights and have another value in `other`.
    ///
    /// # Errors
    /// None in practice: a recipe is always valid JSON.
    pub fn differences(&self, other: &Self) -> Result<Vec<Difference>, Error> {
        let (old, new) = (self.fields()?, other.fields()?);
        let names = old
            .keys()
            .chain(new.keys().filter(|field| !old.contains_key(*field)));
        let [old, new] =
            [&old, &new].map(|fields| move |field: &str| fields.get(field).unwrap_or(&Value::Null));
        let changed = |field: &String| {
            let (old, new) = (old(field), new(field));
            let same = old == new || WITHOUT_EFFECT.contains(&field.as_str());
            (!same).then(|| Difference {
                field: field.clone(),
                old: old.to_string(),
                new: new.to_string(),
            })
        };
        Ok(names.filter_map(changed).collect())
    }

    /// The first setting whose value cannot be used, and why.
    fn refusal(&self) -> Option<values::Refusal> {
        let preference = self.preference.as_ref().and_then(PreferenceRecipe::refusal);
        self.training.refusal().or(preference)
    }

    /// All settings by their names, on one level.
    fn fields(&self) -> Result<Map<String, Value>, Error> {
        let mut all = fields(&self.training)?;
        if let Some(preference) = &self.preference {
            all.extend(fields(preference)?);
        }
        Ok(all)
    }

    /// The recipe of settings on one level. It is of IterDPO if it has a `pref-beta`.
    fn from_fields(mut all: Map<String, Value>) -> Result<Self, serde_json::Error> {
        let own = serde_json::to_value(PreferenceRecipe::default())?;
        let own = own.as_object().into_iter().flat_map(Map::keys);
        let own: Map<String, Value> = own.filter_map(|field| all.remove_entry(field)).collect();
        let preference = own
            .contains_key("pref-beta")
            .then(|| serde_json::from_value(Value::Object(own)));
        Ok(Self {
            preference: preference.transpose()?,
            training: serde_json::from_value(Value::Object(all))?,
        })
    }
}

/// Settings by their names.
fn fields(settings: &impl serde::Serialize) -> Result<Map<String, Value>, Error> {
    let value = serde_json::to_value(settings).map_err(|e| Error::RecipeFile {
        path: Recipe::FILE.into(),
        line: e.line(),
        message: e.to_string(),
    })?;
    match value {
        Value::Object(fields) => Ok(fields),
        _ => Ok(Map::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_recipe_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(Recipe::FILE);
        for stage in [Stage::Sft, Stage::IterDpo] {
            let mut recipe = Recipe::of(stage);
            recipe.training.max_length = Some(77);
            recipe.save(&path).unwrap();
            assert_eq!(Recipe::load(&path).unwrap(), recipe);
            assert_eq!(recipe.stage(), stage);
        }
    }

    #[test]
    fn only_settings_that_change_the_weights_are_differences() {
        let old = Recipe::of(Stage::Sft);
        let mut new = old.clone();
        new.training.output_dir = "elsewhere".into();
        new.training.dataloader_workers = 9;
        new.training.learning_rate = 1e-5;
        let differences = old.differences(&new).unwrap();
        assert_eq!(
            differences,
            [Difference {
                field: "learning-rate".into(),
                old: "0.00005".into(),
                new: "0.00001".into()
            }]
        );
    }

    #[test]
    fn another_training_is_a_difference() {
        let [sft, iter_dpo] = [Stage::Sft, Stage::IterDpo].map(Recipe::of);
        for (old, new) in [(&sft, &iter_dpo), (&iter_dpo, &sft)] {
            let differences = old.differences(new).unwrap();
            assert!(
                differences
                    .iter()
                    .any(|difference| difference.field == "pref-beta")
            );
        }
    }

    #[test]
    fn what_has_no_effect_is_a_setting() {
        let known = Recipe::of(Stage::IterDpo).fields().unwrap();
        assert!(WITHOUT_EFFECT.iter().all(|field| known.contains_key(*field)));
    }
}
