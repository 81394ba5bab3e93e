//! Settings of a training. Names, defaults and meanings stand in `recipe/settings.rs`, once for the command line, the
//! recipe file and the recipe that is saved beside the output.

mod arguments;
mod choices;
mod settings;
mod values;

use std::path::Path;

use serde_json::{Map, Value};

use crate::Error;

pub use arguments::SftArgs;
pub use choices::{
    ComputeType, DeviceType, EmitEngine, FinetuningType, OptimizerOffload, SaveStrategy, SaveType,
};
pub use settings::{SftRecipe, SftSettings};

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

impl SftRecipe {
    /// Name of the recipe beside the output.
    pub const FILE: &'static str = "recipe.json";

    /// Writes the recipe to `path` as JSON, whole or not at all.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let value = Value::Object(fields(self)?);
        crate::staging::write_atomically(path, format!("{value:#}\n").as_bytes())
    }

    /// Reads a recipe that [`Self::save`] has written.
    ///
    /// # Errors
    /// A file that cannot be read, or is no recipe.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        serde_json::from_str(&text).map_err(|e| Error::RecipeFile {
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
        let (old, new) = (fields(self)?, fields(other)?);
        let changed = |(field, old): (String, Value)| {
            let new = new.get(&field).unwrap_or(&Value::Null);
            let same = *new == old || WITHOUT_EFFECT.contains(&field.as_str());
            (!same).then(|| Difference {
                field,
                old: old.to_string(),
                new: new.to_string(),
            })
        };
        Ok(old.into_iter().filter_map(changed).collect())
    }
}

/// Settings by their names.
fn fields(settings: &impl serde::Serialize) -> Result<Map<String, Value>, Error> {
    let value = serde_json::to_value(settings).map_err(|e| Error::RecipeFile {
        path: SftRecipe::FILE.into(),
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
        let path = dir.path().join(SftRecipe::FILE);
        let recipe = SftRecipe {
            max_length: Some(77),
            ..SftRecipe::default()
        };
        recipe.save(&path).unwrap();
        assert_eq!(SftRecipe::load(&path).unwrap(), recipe);
    }

    #[test]
    fn only_settings_that_change_the_weights_are_differences() {
        let old = SftRecipe::default();
        let new = SftRecipe {
            output_dir: "elsewhere".into(),
            dataloader_workers: 9,
            learning_rate: 1e-5,
            ..SftRecipe::default()
        };
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
    fn what_has_no_effect_is_a_setting() {
        let known = fields(&SftRecipe::default()).unwrap();
        assert!(WITHOUT_EFFECT.iter().all(|field| known.contains_key(*field)));
    }
}
