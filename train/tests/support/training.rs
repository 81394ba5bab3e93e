#![allow(dead_code, reason = "each test file that takes this in uses a part of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use lwv_model::{Checkpoint, ModelConfig};
use serde_json::Value;
use tempfile::TempDir;

/// `tests/fixtures` of the workspace.
pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

/// A tiny checkpoint.
pub(crate) fn tiny(case: &str) -> PathBuf {
    fixtures().join("tiny").join(case)
}

/// A training by `lwv-train`, in a folder of its own.
pub(crate) struct Training {
    stage: &'static str,
    folder: TempDir,
    model: PathBuf,
    dataset: PathBuf,
    output: PathBuf,
    settings: Vec<String>,
}

impl Training {
    /// By `sft`, of the tiny checkpoint `case`, on the samples that fit it.
    pub(crate) fn of(case: &str, settings: &str) -> Self {
        Self::by("sft", "sft", case, settings)
    }

    /// By `iter-dpo`, of the tiny checkpoint `case`, on the pairs that fit it.
    pub(crate) fn preferred(case: &str, settings: &str) -> Self {
        Self::by("iter-dpo", "dpo", case, settings)
    }

    fn by(stage: &'static str, samples: &str, case: &str, settings: &str) -> Self {
        let has_vision = tiny(case).join("preprocessor_config.json").exists();
        let file = if has_vision { "tiny.jsonl" } else { "text.jsonl" };
        let folder = tempfile::tempdir().unwrap();
        Self {
            stage,
            output: folder.path().join("out"),
            folder,
            model: tiny(case),
            dataset: fixtures().join(samples).join(file),
            settings: settings.split_whitespace().map(str::to_owned).collect(),
        }
    }

    /// The same with another checkpoint.
    pub(crate) fn with_model(self, model: &Path) -> Self {
        let model = model.to_owned();
        Self { model, ..self }
    }

    /// The same with a dataset of these lines.
    pub(crate) fn with_lines(self, lines: &[&str]) -> Self {
        let dataset = self.file("data.jsonl");
        std::fs::write(&dataset, lines.join("\n") + "\n").unwrap();
        Self { dataset, ..self }
    }

    /// The same with a dataset of these records.
    pub(crate) fn with_pairs(self, pairs: &[Value]) -> Self {
        let lines: Vec<String> = pairs.iter().map(Value::to_string).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        self.with_lines(&lines)
    }

    /// The same with another place for its output.
    pub(crate) fn with_output(self, output: &Path) -> Self {
        let output = output.to_owned();
        Self { output, ..self }
    }

    /// A place beside the output.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The dataset's file.
    pub(crate) fn dataset(&self) -> &Path {
        &self.dataset
    }

    /// A place in the output.
    pub(crate) fn out(&self, name: &str) -> PathBuf {
        self.output.join(name)
    }

    /// Its folder of output.
    pub(crate) fn output(&self) -> &Path {
        &self.output
    }

    /// The folder after `step` steps.
    pub(crate) fn checkpoint(&self, step: usize) -> PathBuf {
        self.out(&format!("checkpoint-{step}"))
    }

    /// Its command, with `more` arguments.
    pub(crate) fn command(&self, more: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lwv-train"));
        command.arg(self.stage).args(["--device", "cpu", "--json"]);
        command.arg("--model").arg(&self.model);
        command.arg("--dataset").arg(&self.dataset);
        command.arg("--media-dir").arg(fixtures());
        command.arg("--output-dir").arg(&self.output);
        command.arg("--metrics").arg(self.file("metrics.jsonl"));
        command.args(&self.settings).args(more.split_whitespace());
        command
    }

    /// Runs it to its end, with `more` arguments.
    pub(crate) fn run(&self, more: &str) -> Run {
        Run::of(&mut self.command(more))
    }

    /// Runs it, and fails unless it succeeds.
    pub(crate) fn finish(&self, more: &str) -> Run {
        let run = self.run(more);
        assert_eq!(run.status, Some(0), "{}", run.stderr);
        run
    }

    /// Starts it and waits until it has done `step` steps in all.
    pub(crate) fn start_until(&self, step: usize, more: &str) -> Child {
        let mut child = self
            .command(more)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while self.steps_done() < step {
            assert!(
                child.try_wait().unwrap().is_none(),
                "it was over before step {step}"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        child
    }

    /// Kills it with SIGKILL after `step` steps. Fails if it was over by then.
    pub(crate) fn kill_after(&self, step: usize, more: &str) {
        let mut child = self.start_until(step, more);
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), None, "it was over before it could be killed");
    }

    /// The last step in the metrics.
    pub(crate) fn steps_done(&self) -> usize {
        let text = std::fs::read_to_string(self.file("metrics.jsonl")).unwrap_or_default();
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter_map(|line| line["step"].as_u64()).max().unwrap_or(0) as usize
    }

    /// Lines of the metrics without what depends on the clock.
    pub(crate) fn metrics(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.file("metrics.jsonl")).unwrap();
        let lines = text.lines().map(|line| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            line.as_object_mut().unwrap().remove("seconds");
            line
        });
        lines.collect()
    }

    /// What the metrics say of `step`.
    pub(crate) fn told(&self, step: usize) -> Value {
        let mut lines = self.metrics().into_iter();
        lines
            .find(|line| line["step"] == step && line.get("loss").is_some())
            .unwrap()
    }

    /// Steps of its checkpoints, ascending; fails where one of them does not load.
    pub(crate) fn checkpoints(&self) -> Vec<usize> {
        let mut steps: Vec<usize> = names(&self.output)
            .iter()
            .filter_map(|name| name.strip_prefix("checkpoint-")?.parse().ok())
            .collect();
        steps.sort_unstable();
        for step in &steps {
            assert_loads(&self.checkpoint(*step));
        }
        steps
    }
}

/// Fails unless both have written the same: the trained model, what is remembered, what the reference thought, and every
/// step once.
pub(crate) fn assert_same(whole: &Training, resumed: &Training) {
    let [expected, got] = [whole, resumed].map(|training| {
        let mut files = contents(training.output());
        // They name the folder, or the dataset with its time.
        assert!(files.remove("recipe.json").is_some());
        if training.stage == "iter-dpo" {
            for name in ["lengths.json", "reference.json"] {
                assert!(files.remove(name).is_some(), "`{name}` is missing");
            }
            files.extend(contents(&training.out("reference")));
        }
        files
    });
    let names = |files: &BTreeMap<String, Vec<u8>>| -> Vec<String> { files.keys().cloned().collect() };
    assert_eq!(names(&expected), names(&got));
    for (name, bytes) in &expected {
        assert!(*bytes == got[name], "`{name}` is not the same");
    }
    let last = whole.checkpoints().pop().unwrap();
    for name in ["optimizer.safetensors", "trainer_state.json"] {
        let [expected, got] =
            [whole, resumed].map(|training| std::fs::read(training.checkpoint(last).join(name)).unwrap());
        assert!(expected == got, "`{name}` is not the same");
    }
    assert_eq!(whole.metrics(), resumed.metrics());
}

/// Fails unless the checkpoint can be used and gone on with.
pub(crate) fn assert_loads(dir: &Path) {
    if dir.join("adapter_config.json").exists() {
        lwv_model::Adapter::open(dir).unwrap();
    } else {
        let config = ModelConfig::from_dir(dir).unwrap();
        Checkpoint::open(dir).unwrap().check(&config).unwrap();
    }
    let state = lwv_train::TrainingState::read(dir).unwrap();
    assert!(dir.ends_with(format!("checkpoint-{}", state.global_step)));
    Checkpoint::open_file(&dir.join("optimizer.safetensors")).unwrap();
    lwv_train::recipe::Recipe::load(&dir.join("recipe.json")).unwrap();
}

/// What a command did.
pub(crate) struct Run {
    /// Exit status; `None` after a signal.
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// Runs `command` to its end.
    pub(crate) fn of(command: &mut Command) -> Self {
        let Output {
            status,
            stdout,
            stderr,
        } = command.output().unwrap();
        Self {
            status: status.code(),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }

    /// The last line of stdout, which is JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(self.stdout.lines().last().unwrap()).unwrap()
    }

    /// Fails unless the command failed with `status` and one error that has all of `words`.
    pub(crate) fn assert_failed(&self, status: i32, words: &[&str]) {
        let Self { stderr, stdout, .. } = self;
        assert_eq!(self.status, Some(status), "stderr: {stderr}\nstdout: {stdout}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        assert_eq!(stderr.matches("error:").count(), 1, "{stderr}");
        self.assert_says(words);
    }

    /// Fails unless all of `words` are on stderr.
    pub(crate) fn assert_says(&self, words: &[&str]) {
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is not in: {}", self.stderr);
        }
    }
}

/// Names in a folder, sorted.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Bytes of every file in a folder, by name.
pub(crate) fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = names(folder)
        .into_iter()
        .filter(|name| folder.join(name).is_file());
    files
        .map(|name| (name.clone(), std::fs::read(folder.join(name)).unwrap()))
        .collect()
}

/// Copies the files of a folder into a new one.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for (name, bytes) in contents(from) {
        std::fs::write(to.join(name), bytes).unwrap();
    }
}

/// Lines of a file.
pub(crate) fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Puts `value` in the place of one element of `tensor`.
pub(crate) fn spoil(checkpoint: &Path, tensor: &str, value: f32) {
    let path = checkpoint.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let start = header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[8 + length + start..][..4].copy_from_slice(&value.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
}
