use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{PreferenceRecipe, PreferenceSettings, Recipe, RunArgs, Stage, TrainingSettings, fields};
use crate::Error;

/// What a recipe is made of.
pub(super) struct Layers {
    stage: Stage,
    file: Option<RecipeFile>,
    /// What the command line gives.
    given: Map<String, Value>,
}

impl Layers {
    pub(super) fn new(run: &RunArgs, stage: Stage, mut given: Map<String, Value>) -> Result<Self, Error> {
        if run.no_recompute {
            given.insert("recompute".into(), false.into());
        }
        let read = |path: &PathBuf| RecipeFile::read(path, stage);
        let file = run.recipe.as_ref().map(read).transpose()?;
        Ok(Self { stage, file, given })
    }

    /// The training that the settings are of: IterDPO if any of its own is among them.
    pub(super) fn stage(&self) -> Result<Stage, Error> {
        let is_own = self.preference()?.is_some();
        Ok(if is_own { Stage::IterDpo } else { Stage::Sft })
    }

    /// A setting that only IterDPO has.
    fn preference(&self) -> Result<Option<&String>, Error> {
        let own = fields(&PreferenceRecipe::default())?;
        let in_file = self.file.iter().flat_map(|file| file.settings.keys());
        Ok(self
            .given
            .keys()
            .chain(in_file)
            .find(|field| own.contains_key(*field)))
    }

    pub(super) fn resolve(&self) -> Result<Recipe, Error> {
        if let (Stage::Sft, Some(field)) = (self.stage, self.preference()?) {
            return Err(Error::Setting {
                field: field.clone(),
                value: self.given.get(field).map(Value::to_string).unwrap_or_default(),
                origin: String::new(),
                reason: "only iter-dpo has this setting".into(),
            });
        }
        let mut merged = Recipe::of(self.stage).fields()?;
        if let Some(file) = &self.file {
            lay_over(&mut merged, file.settings.clone());
        }
        lay_over(&mut merged, self.given.clone());
        let recipe = Recipe::from_fields(merged).map_err(|e| Error::RecipeFile {
            path: Recipe::FILE.into(),
            line: e.line(),
            message: e.to_string(),
        })?;
        if let Some(field) = recipe.training.missing() {
            return Err(Error::MissingSetting(field));
        }
        match recipe.refusal() {
            None => Ok(recipe),
            Some((field, reason)) => Err(self.refused(&recipe, field, reason)?),
        }
    }

    /// The error for the value of `field`, which says where the value was given.
    fn refused(&self, recipe: &Recipe, field: &str, reason: &str) -> Result<Error, Error> {
        let value = recipe.fields()?.remove(field).unwrap_or_default().to_string();
        let in_file = self
            .file
            .as_ref()
            .and_then(|file| Some((file, file.line(field)?)));
        let origin = match in_file {
            Some((file, line)) if !self.given.contains_key(field) => {
                format!(" in `{}`, line {line}", file.path.display())
            }
            _ => String::new(),
        };
        Ok(Error::Setting {
            field: field.to_owned(),
            value,
            origin,
            reason: reason.to_owned(),
        })
    }
}

/// Puts the settings of a higher layer over those of a lower one. Warm-up is one setting with two spellings: a layer
/// that gives the ratio takes the steps of the lower one away.
fn lay_over(lower: &mut Map<String, Value>, higher: Map<String, Value>) {
    if higher.contains_key("warmup-ratio") {
        lower.insert("warmup-steps".into(), Value::Null);
    }
    lower.extend(higher);
}

/// A parsed recipe file.
struct RecipeFile {
    path: PathBuf,
    text: String,
    settings: Map<String, Value>,
}

impl RecipeFile {
    fn read(path: &Path, stage: Stage) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let table: toml::Table = toml::from_str(&text).map_err(|e| Error::RecipeFile {
            path: path.to_owned(),
            line: line_at(&text, e.span().map_or(0, |span| span.start)),
            message: e.message().to_owned(),
        })?;
        let mut file = Self {
            path: path.to_owned(),
            text,
            settings: Map::new(),
        };
        let own = fields(&PreferenceRecipe::default())?;
        for (field, value) in table {
            let setting = toml::Table::from_iter([(field.clone(), value)]);
            let parsed = if stage == Stage::IterDpo && own.contains_key(&field) {
                setting.try_into::<PreferenceSettings>().map(|s| fields(&s))
            } else {
                setting.try_into::<TrainingSettings>().map(|s| fields(&s))
            };
            let parsed = parsed.map_err(|e| Error::RecipeFile {
                path: path.to_owned(),
                line: file.line(&field).unwrap_or(1),
                message: e.message().to_owned(),
            })?;
            file.settings.extend(parsed?);
        }
        Ok(file)
    }

    /// Line, from 1, in which `field` is set. Recipes have no tables, so that a setting begins its line.
    fn line(&self, field: &str) -> Option<usize> {
        let sets = |line: &str| {
            line.trim_start()
                .strip_prefix(field)
                .is_some_and(|rest| rest.trim_start().starts_with('='))
        };
        Some(self.text.lines().position(sets)? + 1)
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}
