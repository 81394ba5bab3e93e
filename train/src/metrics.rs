use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::staging::write_atomically;

use crate::Share;

/// What one optimizer step did.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// The step, from 1.
    pub step: usize,
    /// Mean loss of the step's learned tokens, in nats, or of its pairs.
    pub loss: f64,
    /// Norm of the gradients before clipping.
    pub grad_norm: f64,
    /// Learning rate of the language model.
    pub learning_rate: f64,
    /// Tokens of the step's samples, prompts included.
    pub tokens: u64,
    /// Seconds that the step took.
    pub seconds: f64,
    /// What is told of pairs.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub preference: Option<PreferenceMetrics>,
}

/// Means over pairs of answers, log-probabilities and rewards being sums over the tokens of an answer, weighted as the
/// settings weigh them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PreferenceMetrics {
    /// Share of the pairs whose better answer has the higher reward.
    pub reward_accuracy: f64,
    /// Reward of the better answer less that of the worse one.
    pub reward_margin: f64,
    /// Reward of the better answer: β times how much its log-probability has grown.
    pub reward_chosen: f64,
    /// Reward of the worse answer.
    pub reward_rejected: f64,
    /// Log-probability of the better answer, in nats.
    pub logp_chosen: f64,
    /// Log-probability of the worse answer, in nats.
    pub logp_rejected: f64,
}

impl PreferenceMetrics {
    /// All of them with their names.
    pub fn named(&self) -> [(&'static str, f64); 6] {
        [
            ("reward_accuracy", self.reward_accuracy),
            ("reward_margin", self.reward_margin),
            ("reward_chosen", self.reward_chosen),
            ("reward_rejected", self.reward_rejected),
            ("logp_chosen", self.logp_chosen),
            ("logp_rejected", self.logp_rejected),
        ]
    }
}

/// What the held-out samples were measured to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct EvaluationMetrics {
    step: usize,
    eval_loss: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    eval_tokens: Option<usize>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pairs: Option<EvaluatedPairs>,
}

/// The same of pairs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct EvaluatedPairs {
    eval_pairs: usize,
    eval_reward_accuracy: f64,
    eval_reward_margin: f64,
    eval_logp_chosen: f64,
    eval_logp_rejected: f64,
}

impl EvaluationMetrics {
    pub(crate) fn new(step: usize, sums: &Share) -> Self {
        let pairs = sums.pairs.metrics().map(|means| EvaluatedPairs {
            eval_pairs: sums.pairs.count,
            eval_reward_accuracy: means.reward_accuracy,
            eval_reward_margin: means.reward_margin,
            eval_logp_chosen: means.logp_chosen,
            eval_logp_rejected: means.logp_rejected,
        });
        Self {
            step,
            eval_loss: sums.mean(),
            eval_tokens: pairs.is_none().then_some(sums.divisor as usize),
            pairs,
        }
    }
}

/// A file with one JSON object a step. A line is handed to the system when it is appended.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Opens `path` for appending. Lines of steps after `resumed`, and a line that was cut short, are taken out first,
    /// so that a training that goes on from step `resumed` has every step once; from step 0 it does everything again.
    /// A new training keeps all lines.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn open(path: &Path, resumed: Option<usize>) -> Result<Self, Error> {
        if let Some(step) = resumed
            && path.exists()
        {
            drop_later(path, step)?;
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(Error::io(path))?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    /// Appends one line: [`StepMetrics`], or another object with a `step`. Numbers that are not finite become null.
    ///
    /// # Errors
    /// A disk that is full.
    pub fn append(&mut self, metrics: &impl Serialize) -> Result<(), Error> {
        let mut line = serde_json::to_vec(metrics).map_err(|e| Error::Json {
            path: self.path.clone(),
            message: e.to_string(),
        })?;
        line.push(b'\n');
        self.file
            .write_all(&line)
            .and_then(|()| self.file.flush())
            .map_err(Error::io(&self.path))
    }
}

fn drop_later(path: &Path, last: usize) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Line {
        step: usize,
    }
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let is_kept =
        |line: &&str| serde_json::from_str::<Line>(line).is_ok_and(|line| line.step <= last && last > 0);
    let kept: String = text
        .lines()
        .filter(is_kept)
        .flat_map(|line| [line, "\n"])
        .collect();
    write_atomically(path, kept.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(step: usize) -> StepMetrics {
        StepMetrics {
            step,
            loss: 1.5,
            grad_norm: 0.25,
            learning_rate: 1e-5,
            tokens: 10,
            seconds: 0.5,
            preference: None,
        }
    }

    #[test]
    fn a_resumed_training_has_every_step_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("steps.jsonl");
        let mut file = MetricsFile::open(&path, None).unwrap();
        for step in 1..=4 {
            file.append(&metrics(step)).unwrap();
        }
        file.file.write_all(b"{\"step\": 2, \"lo").unwrap();
        let mut file = MetricsFile::open(&path, Some(2)).unwrap();
        file.append(&metrics(3)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let read: Vec<StepMetrics> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(read, [metrics(1), metrics(2), metrics(3)]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn lines_have_the_promised_keys() {
        let line = serde_json::to_string(&metrics(1)).unwrap();
        let expected = "{\"step\":1,\"loss\":1.5,\"grad_norm\":0.25,\"learning_rate\":0.00001,\"tokens\":10,\"seconds\":0.5}";
        assert_eq!(line, expected);
        let preference = PreferenceMetrics {
            reward_accuracy: 1.0,
            reward_margin: 0.5,
            reward_chosen: 0.25,
            reward_rejected: -0.25,
            logp_chosen: -9.0,
            logp_rejected: -11.0,
        };
        let told = StepMetrics {
            preference: Some(preference),
            ..metrics(1)
        };
        let line = serde_json::to_string(&told).unwrap();
        let names = preference
            .named()
            .map(|(name, value)| format!(",\"{name}\":{value:?}"));
        assert_eq!(line, expected.replace('}', "") + &names.concat() + "}");
        assert_eq!(serde_json::from_str::<StepMetrics>(&line).unwrap(), told);
    }
}
