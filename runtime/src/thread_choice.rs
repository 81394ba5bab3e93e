mod measurement;
mod other_work;

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::engine_cache::EngineCache;
use crate::error::Result;
use crate::file_hash::hash_bytes;
pub(crate) use measurement::seconds_for_a_token;
pub(crate) use other_work::OtherWork;

/// A choice that is not the usual one must be so much faster: less is chance.
const CLEARLY: f64 = 1.03;

/// How a processor computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ThreadChoice {
    pub(crate) threads: usize,
    /// Whether threads that wait for work keep their cores busy: work begins sooner then, and whatever else runs has less of them.
    pub(crate) spinning: bool,
}

impl ThreadChoice {
    /// So many threads, ready at any time.
    pub(crate) fn spinning(threads: usize) -> Self {
        Self {
            threads,
            spinning: true,
        }
    }
}

/// Remembers how many threads a bundle is computed with fastest on this machine, a small file for each.
#[derive(Debug, Clone)]
pub struct ThreadChoices {
    folder: PathBuf,
    beside_other_work: bool,
}

/// All that a choice depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Circumstances {
    pub(crate) bundle: String,
    pub(crate) onnxruntime: String,
    pub(crate) processor: String,
    /// Cores that the process may use.
    pub(crate) cores: usize,
    pub(crate) own_kernels: bool,
}

#[derive(Serialize, Deserialize)]
struct Remembered {
    circumstances: Circumstances,
    choice: ThreadChoice,
}

impl ThreadChoices {
    /// Remembers in `folder`, which is made when it is needed. What was measured while other programs took the processor is not
    /// believed: the usual choice is made then, and measured at the next load.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            beside_other_work: false,
        }
    }

    /// Believes what is measured while other programs take the processor too, for machines where they always do.
    pub fn beside_other_work(mut self) -> Self {
        self.beside_other_work = true;
        self
    }

    /// Whether a choice among up to `threads` threads, measured while `others` was watched, is to be believed.
    pub(crate) fn believe(&self, others: &OtherWork, threads: usize) -> bool {
        self.beside_other_work || !others.disturbed(threads)
    }

    /// Beside the engines that are kept, in the user's cache.
    pub fn usual_folder() -> PathBuf {
        EngineCache::usual_folder().with_file_name("threads")
    }

    /// What was chosen in these circumstances. A file that cannot be understood counts as none.
    pub(crate) fn recall(&self, circumstances: &Circumstances) -> Option<ThreadChoice> {
        let text = fs::read(self.file(circumstances)).ok()?;
        let remembered: Remembered = serde_json::from_slice(&text).ok()?;
        let is_usable = remembered.circumstances == *circumstances && remembered.choice.threads > 0;
        is_usable.then_some(remembered.choice)
    }

    /// Remembers a choice as well as it can: where nothing can be written, it is made again at the next load.
    pub(crate) fn remember(&self, circumstances: Circumstances, choice: ThreadChoice) {
        let file = self.file(&circumstances);
        let remembered = Remembered {
            circumstances,
            choice,
        };
        let text = serde_json::to_vec_pretty(&remembered).unwrap_or_default();
        // Two processes may be at it at once; each renames a file of its own.
        let staged = file.with_extension(std::process::id().to_string());
        let written = fs::create_dir_all(&self.folder)
            .and_then(|()| fs::write(&staged, text))
            .and_then(|()| fs::rename(&staged, &file));
        if written.is_err() {
            let _ = fs::remove_file(staged);
        }
    }

    fn file(&self, circumstances: &Circumstances) -> PathBuf {
        let key = hash_bytes(&serde_json::to_vec(circumstances).unwrap_or_default());
        self.folder.join(&key[..32]).with_extension("json")
    }
}

/// Tries numbers of threads, and the best of them with threads that sleep. `seconds` measures a token; it is told which measurement it
/// is, from 0, and how many there are.
///
/// # Errors
/// What `seconds` says.
pub(crate) fn choose(
    cores: usize,
    usual: usize,
    mut seconds: impl FnMut(ThreadChoice, [usize; 2]) -> Result<f64>,
) -> Result<ThreadChoice> {
    let numbers = candidates(cores, usual);
    let count = numbers.len() + 1;
    let mut tried = Vec::with_capacity(count);
    for (index, threads) in numbers.into_iter().enumerate() {
        let choice = ThreadChoice::spinning(threads);
        tried.push((choice, seconds(choice, [index, count])?));
    }
    let best = fastest(&tried);
    let sleeping = ThreadChoice {
        spinning: false,
        ..best.0
    };
    Ok(fastest(&[best, (sleeping, seconds(sleeping, [count - 1, count])?)]).0)
}

/// Numbers of threads that are tried, the usual one first. Writing is bound by memory, which fewer cores than there are can keep busy;
/// and siblings that share a core help some processors.
fn candidates(cores: usize, usual: usize) -> Vec<usize> {
    let mut candidates = vec![usual, usual.div_ceil(2), usual * 3 / 4, cores];
    candidates.retain(|threads| *threads > 0);
    let mut seen = Vec::new();
    candidates.retain(|threads| {
        let is_new = !seen.contains(threads);
        seen.push(*threads);
        is_new
    });
    candidates
}

/// The fastest of what was tried, in seconds a token: the first, which is the usual one, unless another is clearly faster.
fn fastest(tried: &[(ThreadChoice, f64)]) -> (ThreadChoice, f64) {
    let usual = tried[0];
    let faster = tried
        .iter()
        .copied()
        .filter(|(_, seconds)| seconds * CLEARLY < usual.1);
    faster.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or(usual)
}

/// The processor's name, where the system tells.
pub(crate) fn processor() -> String {
    let text = fs::read_to_string(Path::new("/proc/cpuinfo")).unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(
        || std::env::consts::ARCH.to_owned(),
        |(_, name)| name.trim().to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circumstances(bundle: &str) -> Circumstances {
        Circumstances {
            bundle: bundle.to_owned(),
            onnxruntime: "1.32".to_owned(),
            processor: "some".to_owned(),
            cores: 8,
            own_kernels: true,
        }
    }

    #[test]
    fn a_choice_is_remembered_for_its_circumstances_only() {
        let folder = tempfile::tempdir().unwrap();
        let choices = ThreadChoices::new(folder.path().join("threads"));
        let choice = ThreadChoice {
            threads: 5,
            spinning: false,
        };
        assert_eq!(choices.recall(&circumstances("a")), None);
        choices.remember(circumstances("a"), choice);
        assert_eq!(choices.recall(&circumstances("a")), Some(choice));
        let changes: [fn(&mut Circumstances); 5] = [
            |other| other.bundle.push('x'),
            |other| other.onnxruntime.push('x'),
            |other| other.processor.push('x'),
            |other| other.cores += 1,
            |other| other.own_kernels = false,
        ];
        for change in changes {
            let mut other = circumstances("a");
            change(&mut other);
            assert_eq!(choices.recall(&other), None, "{other:?}");
        }
        assert_eq!(
            fs::read_dir(&choices.folder).unwrap().count(),
            1,
            "nothing else is left"
        );
    }

    #[test]
    fn a_damaged_file_counts_as_none_and_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let choices = ThreadChoices::new(folder.path());
        choices.remember(circumstances("a"), ThreadChoice::spinning(4));
        let file = choices.file(&circumstances("a"));
        for text in ["", "{", r#"{"choice": {"threads": 0, "spinning": true}}"#] {
            fs::write(&file, text).unwrap();
            assert_eq!(choices.recall(&circumstances("a")), None, "{text}");
        }
        choices.remember(circumstances("a"), ThreadChoice::spinning(2));
        assert_eq!(
            choices.recall(&circumstances("a")),
            Some(ThreadChoice::spinning(2))
        );
    }

    #[test]
    fn nowhere_to_write_is_no_failure() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "x").unwrap();
        let choices = ThreadChoices::new(file);
        choices.remember(circumstances("a"), ThreadChoice::spinning(2));
        assert_eq!(choices.recall(&circumstances("a")), None);
    }

    #[test]
    fn the_usual_number_comes_first_and_none_twice() {
        assert_eq!(candidates(1, 1), [1]);
        assert_eq!(candidates(2, 2), [2, 1]);
        assert_eq!(candidates(16, 8), [8, 4, 6, 16]);
    }

    #[test]
    fn another_choice_must_be_clearly_faster() {
        let chosen = |seconds: fn(ThreadChoice) -> f64| {
            let mut told = Vec::new();
            let choice = choose(16, 8, |choice, which| {
                told.push(which);
                Ok(seconds(choice))
            });
            assert_eq!(told, [[0, 5], [1, 5], [2, 5], [3, 5], [4, 5]]);
            choice.unwrap()
        };
        assert_eq!(
            chosen(|choice| if choice.threads == 4 { 0.98 } else { 1.0 }),
            ThreadChoice::spinning(8)
        );
        assert_eq!(
            chosen(|choice| if choice.threads == 4 { 0.9 } else { 1.0 }),
            ThreadChoice::spinning(4)
        );
        let sleeping = chosen(|choice| choice.threads as f64 - if choice.spinning { 0.0 } else { 1.0 });
        assert_eq!((sleeping.threads, sleeping.spinning), (4, false));
    }
}
