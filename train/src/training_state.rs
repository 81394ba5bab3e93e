use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use lwv_model::Checkpoint;
use safetensors::{Dtype, SafeTensorError, View};
use serde::{Deserialize, Serialize};

use crate::{AdamW, Error, Parameter, Result};

/// Where a training stands, beside the weights and the optimizer's memory. Names as in transformers'
/// `trainer_state.json`, where it has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingState {
    /// Optimizer steps that are done. The data's position and the learning rate follow from it.
    pub global_step: usize,
    /// Passes over the data that are done.
    pub epoch: f64,
    /// Optimizer steps of the whole training.
    pub max_steps: usize,
    /// Lowest evaluation loss so far.
    pub best_metric: Option<f64>,
    /// Folder of the checkpoint with it.
    pub best_model_checkpoint: Option<String>,
    /// Seed of the order of samples.
    pub seed: u64,
    /// Of the samples, so that going on with others is refused.
    pub data_fingerprint: String,
    /// Steps that each parameter has taken.
    pub parameter_steps: BTreeMap<String, u64>,
}

impl TrainingState {
    /// The state's file in a checkpoint.
    pub const FILE: &'static str = "trainer_state.json";
    /// The file of moments, and of weights in f32 where the checkpoint's are narrower.
    pub const OPTIMIZER_FILE: &'static str = "optimizer.safetensors";

    /// Reads the state in the checkpoint `dir`.
    ///
    /// # Errors
    /// A file that cannot be read or is no state.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(Self::FILE);
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        serde_json::from_str(&text).map_err(|e| Error::Json {
            path,
            message: e.to_string(),
        })
    }

    /// Writes the state, and what `optimizer` remembers, into the folder `dir`; with `exact`, the weights in f32 too,
    /// for a checkpoint that holds them in 16 bits.
    ///
    /// # Errors
    /// A full disk, or moments that cannot be read.
    pub fn write(&self, dir: &Path, optimizer: &AdamW, exact: bool) -> Result<()> {
        let path = dir.join(Self::FILE);
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::Json {
            path: path.clone(),
            message: e.to_string(),
        })?;
        std::fs::write(&path, text + "\n").map_err(Error::io(&path))?;
        let path = dir.join(Self::OPTIMIZER_FILE);
        let kinds: &[Kind] = if exact {
            &[Kind::First, Kind::Second, Kind::Exact]
        } else {
            &[Kind::First, Kind::Second]
        };
        let failure = RefCell::new(None);
        let tensors = optimizer.parameters().iter().flat_map(|parameter| {
            kinds.iter().map(|kind| Remembered {
                optimizer,
                parameter,
                kind: *kind,
                shape: parameter.shape().to_vec(),
                failure: &failure,
            })
        });
        let named: Vec<(String, Remembered<'_>)> = tensors.map(|tensor| (tensor.name(), tensor)).collect();
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let written = safetensors::serialize_to_file(named, Some(metadata), &path);
        if let Some(failure) = failure.take() {
            return Err(failure);
        }
        written.map_err(|e| Error::Io {
            path,
            source: match e {
                SafeTensorError::IoError(source) => source,
                other => std::io::Error::other(other),
            },
        })
    }

    /// Puts back what [`Self::write`] has written: moments into `optimizer`, exact weights into its parameters.
    ///
    /// # Errors
    /// A file that is cut short, or is of other parameters.
    pub fn restore(&self, dir: &Path, optimizer: &mut AdamW) -> Result<()> {
        let path = dir.join(Self::OPTIMIZER_FILE);
        let file = Checkpoint::open_file(&path)?;
        let names: HashSet<&str> = file.names().collect();
        for parameter in optimizer.parameters().to_vec() {
            let read = |kind: Kind| -> Result<Vec<f32>> {
                let name = kind.of(parameter.name());
                if !names.contains(name.as_str()) {
                    return Err(Error::Resume {
                        path: path.clone(),
                        message: format!("it is of another training, as it has no `{name}`"),
                    });
                }
                Ok(file.to_f32(&file.info(&name)?)?)
            };
            if names.contains(Kind::Exact.of(parameter.name()).as_str()) {
                let exact = parameter.exact();
                let saved = Tensor::from_vec(read(Kind::Exact)?, exact.shape(), exact.device())?;
                parameter.replace(saved)?;
            }
            let steps = self.parameter_steps.get(parameter.name()).copied().unwrap_or(0);
            optimizer.restore(parameter.name(), steps, [read(Kind::First)?, read(Kind::Second)?])?;
        }
        Ok(())
    }

    /// The newest whole checkpoint in `output_dir`, where there is one.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn newest(output_dir: &Path) -> Result<Option<PathBuf>> {
        Ok(checkpoints(output_dir)?.pop().map(|(_, dir)| dir))
    }
}

/// Name of the checkpoint after `step` steps, as transformers has it.
pub(crate) fn checkpoint_name(step: usize) -> String {
    format!("checkpoint-{step}")
}

/// Step and folder of every whole checkpoint in `output_dir`, ascending.
pub(crate) fn checkpoints(output_dir: &Path) -> Result<Vec<(usize, PathBuf)>> {
    if !output_dir.exists() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(output_dir).map_err(Error::io(output_dir))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io(output_dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let step = name.and_then(|name| name.strip_prefix("checkpoint-")?.parse().ok());
        if let Some(step) = step.filter(|_| path.join(TrainingState::FILE).exists()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// What is remembered of a parameter.
#[derive(Clone, Copy)]
enum Kind {
    First,
    Second,
    Exact,
}

impl Kind {
    fn of(self, parameter: &str) -> String {
        let ending = match self {
            Self::First => "exp_avg",
            Self::Second => "exp_avg_sq",
            Self::Exact => "exact",
        };
        format!("{parameter}.{ending}")
    }
}

/// One tensor of the optimizer's file, read when it is written, so that one at a time is in memory.
struct Remembered<'a> {
    optimizer: &'a AdamW,
    parameter: &'a Parameter,
    kind: Kind,
    shape: Vec<usize>,
    /// What went wrong, as a view has no way to say so.
    failure: &'a RefCell<Option<Error>>,
}

impl Remembered<'_> {
    fn name(&self) -> String {
        self.kind.of(self.parameter.name())
    }

    fn values(&self) -> Result<Vec<f32>> {
        match self.kind {
            Kind::Exact => Ok(self.parameter.exact().flatten_all()?.to_vec1()?),
            Kind::First => Ok(std::mem::take(
                &mut self.optimizer.moments(self.parameter.name())?[0],
            )),
            Kind::Second => Ok(std::mem::take(
                &mut self.optimizer.moments(self.parameter.name())?[1],
            )),
        }
    }
}

impl View for Remembered<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let values = self.values().unwrap_or_else(|error| {
            self.failure.replace(Some(error));
            Vec::new()
        });
        bytemuck::cast_slice(&values).to_vec().into()
    }

    fn data_len(&self) -> usize {
        4 * self.shape.iter().product::<usize>()
    }
}
