use std::path::{Path, PathBuf};

use lwv_processor::open_image;
use serde::{Deserialize, Serialize};

use crate::error::{Inner, Result};
use crate::file_hash::hash_file;
use crate::plan::Plan;
use crate::sampler::SamplerSettings;
use crate::writer::Task;

/// Version of the form of drafts that this build writes and reads.
pub(crate) const DRAFT_VERSION: u32 = 1;

/// What a draft is of: all that is needed to go on with it on the same bundle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DraftHeader {
    /// Version of the draft's form.
    pub lwv_draft: u32,
    /// [`Engine::id`](crate::Engine::id) of the bundle, and of the adapter where there is one, that writes it.
    pub bundle: String,
    /// What is to be written.
    pub task: DraftTask,
    /// How the text is divided.
    pub outline: Outline,
    /// How it is to be written.
    pub settings: DraftSettings,
    /// Where the text belongs when it is whole.
    pub out: Option<PathBuf>,
    /// Whether the draft stays when the text is whole.
    pub keep: bool,
}

/// A [`Task`] with the files that its pictures come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DraftTask {
    /// What the reader asks for.
    pub instruction: String,
    /// Pictures that go with it.
    pub images: Vec<DraftImage>,
    /// What the model is told before all else.
    pub system: Option<String>,
}

/// A picture of a draft.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DraftImage {
    /// Its file.
    pub path: PathBuf,
    /// The file's SHA-256, hexadecimal.
    pub sha256: String,
}

/// How a text is divided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outline {
    /// By a plan that the model makes.
    ToMake {
        /// Words of the whole text.
        words: usize,
        /// How many sections; as many as are usual where nothing is said.
        sections: Option<usize>,
    },
    /// By a plan that was given; [`Plan::in_one_piece`] is one too.
    Given(Plan),
}

/// How a draft is to be written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DraftSettings {
    /// How tokens are chosen.
    pub sampler: SamplerSettings,
    /// Most tokens of a section, whatever its word target.
    pub max_section_tokens: Option<usize>,
    /// Texts that end a section.
    pub stop: Vec<String>,
    /// Whether the model is watched for turning in circles.
    pub loop_guard: bool,
    /// Most tokens that are guessed at once.
    #[serde(default)]
    pub lookup_tokens: usize,
    /// Whether the text is to be the same to the token after an interruption.
    pub deterministic: bool,
    /// Most tokens of a prompt that are computed at once.
    pub prefill_chunk: usize,
    /// Threads that compute.
    pub threads: usize,
    /// The device, as it is named on the command line.
    pub device: String,
}

impl DraftHeader {
    /// The header of a new draft.
    pub fn new(
        bundle: String,
        task: DraftTask,
        outline: Outline,
        settings: DraftSettings,
        out: Option<PathBuf>,
    ) -> Self {
        Self {
            lwv_draft: DRAFT_VERSION,
            bundle,
            task,
            outline,
            settings,
            out: out.map(|out| std::path::absolute(&out).unwrap_or(out)),
            keep: false,
        }
    }
}

impl Outline {
    /// Words of the whole text.
    pub fn words(&self) -> usize {
        match self {
            Self::ToMake { words, .. } => *words,
            Self::Given(plan) => plan.words(),
        }
    }
}

impl DraftTask {
    /// A task with pictures from files.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn new(instruction: &str, system: Option<&str>, images: &[PathBuf]) -> Result<Self> {
        let images = images.iter().map(|path| {
            let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            Ok(DraftImage {
                sha256: hash_file(&absolute, |_| Ok(()))?,
                path: absolute,
            })
        });
        Ok(Self {
            instruction: instruction.to_owned(),
            system: system.map(str::to_owned),
            images: images.collect::<Result<_>>()?,
        })
    }

    /// Opens the pictures.
    ///
    /// # Errors
    /// One is missing, is another than when the draft was begun, or is no picture.
    pub fn open(&self) -> Result<Task> {
        let images = self.images.iter().map(|image| {
            image.check(&image.path)?;
            Ok(open_image(&image.path)?)
        });
        Ok(Task {
            instruction: self.instruction.clone(),
            images: images.collect::<Result<_>>()?,
            system: self.system.clone(),
        })
    }
}

impl DraftImage {
    fn check(&self, path: &Path) -> Result<()> {
        let found = hash_file(path, |_| Ok(()))?;
        if found == self.sha256 {
            return Ok(());
        }
        let path = path.to_owned();
        Err(Inner::DraftImage { path }.into())
    }
}

/// Checks that the draft in the file `path`, which the [engine](crate::Engine::id) `begun` has begun, is gone on with by the same one.
///
/// # Errors
/// It was another bundle, or the same one with another adapter.
pub(crate) fn check_engine(path: &Path, begun: &str, now: &str) -> Result<()> {
    let parts = |id: &str| match id.split_once('+') {
        Some((bundle, adapter)) => (bundle.to_owned(), Some(adapter.to_owned())),
        None => (id.to_owned(), None),
    };
    let (wants, found) = (parts(begun), parts(now));
    let path = path.to_owned();
    if wants.0 != found.0 {
        let (wants, found) = (wants.0, found.0);
        return Err(Inner::DraftBundle { path, wants, found }.into());
    }
    if wants.1 != found.1 {
        let (wants, found) = (wants.1, found.1);
        return Err(Inner::DraftAdapter { path, wants, found }.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_knows_bundle_and_adapter() {
        let check = |begun: &str, now: &str| {
            let checked = check_engine(Path::new("d.draft"), begun, now);
            checked.err().map(|error| error.to_string())
        };
        for same in ["one", "one+formal"] {
            assert_eq!(check(same, same), None);
        }
        let text = check("one+formal", "two+formal").unwrap();
        assert!(
            text.contains("written by bundle one, but this is bundle two"),
            "{text}"
        );
        let text = check("one+formal", "one").unwrap();
        assert!(
            text.contains("with adapter formal, this") && text.contains("without an adapter"),
            "{text}"
        );
        let text = check("one", "one+lively").unwrap();
        assert!(
            text.contains("d.draft") && text.contains("with adapter lively"),
            "{text}"
        );
    }

    #[test]
    fn a_picture_that_was_exchanged_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        std::fs::write(&path, "one").unwrap();
        let task = DraftTask::new("x", None, std::slice::from_ref(&path)).unwrap();
        std::fs::write(&path, "two").unwrap();
        let error = task.open().unwrap_err().to_string();
        assert!(
            error.contains("a.png") && error.contains("was changed"),
            "{error}"
        );
        std::fs::remove_file(&path).unwrap();
        assert!(task.open().unwrap_err().to_string().contains("a.png"));
    }
}
