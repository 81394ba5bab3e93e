//! Engines that a provider has built, kept between runs.
//!
//! Each lies in a folder named after everything that it depends on, so one that does not fit is never found. What was built is
//! recorded with sizes and hashes before the folder gets its name: an engine that was not finished, or was damaged later, is
//! built again.

mod fingerprint;
mod record;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub use fingerprint::Fingerprint;
use record::Record;

use crate::error::{Error, Inner, Result};

/// Environment variable that names the folder of engines.
pub const ENGINES_VARIABLE: &str = "LWV_ENGINES";

/// Bytes that all engines together may take where nothing else was said: 20 GiB.
pub const DEFAULT_ENGINE_LIMIT: u64 = 20 << 30;

/// How a folder is called while its engine is built.
const UNFINISHED: &str = ".unfinished-";

/// After so long, nobody is building any more.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// A folder of engines with a limit to its size.
#[derive(Debug, Clone)]
pub struct EngineCache {
    root: PathBuf,
    limit: u64,
}

/// An engine in the cache.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct CachedEngine {
    /// Its folder.
    pub folder: PathBuf,
    /// What it depends on.
    pub fingerprint: Fingerprint,
    /// Bytes of its files.
    pub bytes: u64,
    /// When it was last used.
    pub last_used: SystemTime,
}

/// What was found for a fingerprint.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EngineState {
    /// An engine that fits and is whole.
    Ready,
    /// None, and why not where there is one that nearly fits, or that is damaged.
    Missing(Option<String>),
}

impl EngineCache {
    /// The cache in the folder `root`, which is created when it is needed. After an engine was built, those that were not used
    /// for longest go until all take no more than `limit` bytes.
    pub fn new(root: impl Into<PathBuf>, limit: u64) -> Self {
        Self {
            root: root.into(),
            limit,
        }
    }

    /// Where engines lie if nothing else was said: the folder that [`ENGINES_VARIABLE`] names, else one in the user's cache.
    pub fn usual_folder() -> PathBuf {
        let named = |variable| std::env::var_os(variable).filter(|value| !value.is_empty());
        if let Some(folder) = named(ENGINES_VARIABLE) {
            return folder.into();
        }
        let cache = named("XDG_CACHE_HOME")
            .or_else(|| named("LOCALAPPDATA"))
            .map(PathBuf::from);
        let cache = cache.or_else(|| named("HOME").map(|home| Path::new(&home).join(".cache")));
        cache
            .unwrap_or_else(std::env::temp_dir)
            .join("longwriter-v-edge/engines")
    }

    /// What is there for `fingerprint`. Files are read whole, to compare their hashes.
    pub fn state(&self, fingerprint: &Fingerprint) -> EngineState {
        let folder = self.folder(fingerprint);
        match Record::read(&folder) {
            Some(record) => match record.damage(&folder) {
                None => EngineState::Ready,
                Some(damage) => EngineState::Missing(Some(damage)),
            },
            None => EngineState::Missing(self.nearest_difference(fingerprint)),
        }
    }

    /// Calls `load` with the folder of the engine of `fingerprint`, as [`state`](Self::state) found it, or with an empty one in
    /// which the engine is to be built. If that goes well, what is in the folder is kept.
    ///
    /// # Errors
    /// What `load` returns, or a folder that cannot be written.
    pub fn load<T>(
        &self,
        fingerprint: &Fingerprint,
        state: &EngineState,
        load: impl FnOnce(&Path) -> Result<T>,
    ) -> Result<T> {
        let folder = self.folder(fingerprint);
        if *state == EngineState::Ready {
            let loaded = load(&folder)?;
            Record::touch(&folder).map_err(unwritable(&folder))?;
            return Ok(loaded);
        }
        let mut name = folder.file_name().unwrap_or_default().to_owned();
        name.push(format!("{UNFINISHED}{}", std::process::id()));
        let unfinished = self.root.join(name);
        remove(&unfinished)?;
        fs::create_dir_all(&unfinished).map_err(unwritable(&unfinished))?;
        let loaded = load(&unfinished).inspect_err(|_| drop(remove(&unfinished)))?;
        Record::of(fingerprint, &unfinished)?
            .write(&unfinished)
            .map_err(unwritable(&unfinished))?;
        remove(&folder)?;
        fs::rename(&unfinished, &folder).map_err(unwritable(&folder))?;
        self.trim(&folder)?;
        Ok(loaded)
    }

    /// All engines, the last used first.
    ///
    /// # Errors
    /// The folder cannot be read; none is no error.
    pub fn engines(&self) -> Result<Vec<CachedEngine>> {
        let mut engines = Vec::new();
        for folder in self.folders()? {
            if let Some(record) = Record::read(&folder) {
                engines.push(CachedEngine {
                    bytes: record.bytes(),
                    last_used: Record::last_used(&folder),
                    fingerprint: record.fingerprint,
                    folder,
                });
            }
        }
        engines.sort_by(|a, b| {
            b.last_used
                .cmp(&a.last_used)
                .then_with(|| a.folder.cmp(&b.folder))
        });
        Ok(engines)
    }

    /// The folder of what a provider compiles and checks by itself; it is not counted.
    ///
    /// # Errors
    /// It cannot be created.
    pub(crate) fn compiled_folder(&self, fingerprint: &Fingerprint) -> Result<PathBuf> {
        let folder = self.root.join("compiled").join(fingerprint.key());
        fs::create_dir_all(&folder).map_err(unwritable(&folder))?;
        Ok(folder)
    }

    fn folder(&self, fingerprint: &Fingerprint) -> PathBuf {
        self.root.join(fingerprint.key())
    }

    fn folders(&self) -> Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(unwritable(&self.root)(error)),
        };
        let folders = entries.filter_map(|entry| Some(entry.ok()?.path()));
        Ok(folders.filter(|path| path.is_dir()).collect())
    }

    /// Removes what was not used for longest, until the rest keeps the limit, and what was begun and never finished; but never
    /// `newest`.
    fn trim(&self, newest: &Path) -> Result<()> {
        let mut total = 0;
        for engine in self.engines()? {
            total += engine.bytes;
            if total > self.limit && engine.folder != newest {
                remove(&engine.folder)?;
            }
        }
        for folder in self.folders()? {
            let is_unfinished = folder.to_string_lossy().contains(UNFINISHED);
            let begun = fs::metadata(&folder).and_then(|metadata| metadata.modified());
            let age = begun.ok().and_then(|begun| begun.elapsed().ok());
            if is_unfinished && age.is_some_and(|age| age > ABANDONED) {
                remove(&folder)?;
            }
        }
        Ok(())
    }

    /// How the engine that is nearest to `fingerprint` differs from it.
    fn nearest_difference(&self, fingerprint: &Fingerprint) -> Option<String> {
        let engines = self.engines().ok()?;
        let differences = engines
            .iter()
            .filter_map(|engine| fingerprint.differences(&engine.fingerprint));
        let nearest = differences.min_by_key(Vec::len)?;
        Some(format!("the engine at hand is for {}", nearest.join(", ")))
    }
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(unwritable(folder)(error)),
        _ => Ok(()),
    }
}

fn unwritable(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Inner::Write { path, source }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(limit: u64) -> (tempfile::TempDir, EngineCache) {
        let root = tempfile::tempdir().unwrap();
        let cache = EngineCache::new(root.path().join("engines"), limit);
        (root, cache)
    }

    /// Loads as a provider does: takes the engine that is there or builds one. Returns whether it was built.
    fn load(cache: &EngineCache, fingerprint: &Fingerprint, bytes: usize) -> bool {
        let build = |folder: &Path| {
            let file = folder.join("decoder.engine");
            let built = !file.exists();
            if built {
                fs::write(file, vec![7_u8; bytes]).unwrap();
            }
            Ok(built)
        };
        cache.load(fingerprint, &cache.state(fingerprint), build).unwrap()
    }

    #[test]
    fn an_engine_is_built_once() {
        let (_root, cache) = cache(u64::MAX);
        let fingerprint = fingerprint::example();
        assert_eq!(cache.state(&fingerprint), EngineState::Missing(None));
        assert!(load(&cache, &fingerprint, 9));
        assert_eq!(cache.state(&fingerprint), EngineState::Ready);
        assert!(!load(&cache, &fingerprint, 9));
        let engines = cache.engines().unwrap();
        assert_eq!((engines.len(), engines[0].bytes), (1, 9));
        assert_eq!(engines[0].fingerprint, fingerprint);
    }

    #[test]
    fn every_ingredient_makes_another_engine_and_is_told() {
        for (changed, word) in fingerprint::variants() {
            let (_root, cache) = cache(u64::MAX);
            assert!(load(&cache, &fingerprint::example(), 1));
            let state = cache.state(&changed);
            let told = matches!(&state, EngineState::Missing(Some(why)) if why.contains(word));
            assert!(
                told || word.is_empty() && state == EngineState::Missing(None),
                "{word}: {state:?}"
            );
            assert!(load(&cache, &changed, 1), "{word}");
            assert!(!load(&cache, &fingerprint::example(), 1), "{word}");
        }
    }

    #[test]
    fn a_damaged_engine_is_built_again_with_a_word() {
        let (_root, cache) = cache(u64::MAX);
        let fingerprint = fingerprint::example();
        for (damaged, word) in [
            (Some(vec![7; 3]), "3 bytes instead of 9"),
            (Some(vec![8; 9]), "is not as it was built"),
            (None, "is missing"),
        ] {
            load(&cache, &fingerprint, 9);
            let file = cache.folder(&fingerprint).join("decoder.engine");
            match damaged {
                Some(bytes) => fs::write(file, bytes).unwrap(),
                None => fs::remove_file(file).unwrap(),
            }
            let state = cache.state(&fingerprint);
            let EngineState::Missing(Some(why)) = &state else {
                panic!("{word}: {state:?}");
            };
            assert!(why.contains("decoder.engine") && why.contains(word), "{why}");
            assert!(load(&cache, &fingerprint, 9), "{word}");
            assert_eq!(cache.state(&fingerprint), EngineState::Ready, "{word}");
        }
    }

    #[test]
    fn an_engine_that_failed_leaves_nothing() {
        let (_root, cache) = cache(u64::MAX);
        let fingerprint = fingerprint::example();
        let fail = |folder: &Path| -> Result<()> {
            fs::write(folder.join("half"), "x").unwrap();
            Err(Inner::Cancelled.into())
        };
        let failed = cache.load(&fingerprint, &cache.state(&fingerprint), fail);
        assert!(failed.is_err());
        assert!(cache.folders().unwrap().is_empty());
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let (_root, cache) = cache(25);
        let variants: Vec<_> = fingerprint::variants().map(|(changed, _)| changed).into();
        for fingerprint in &variants[..2] {
            load(&cache, fingerprint, 10);
        }
        // The first is used again, so the second is the older one.
        let long_ago = SystemTime::now() - Duration::from_secs(60);
        Record::set_last_used(&cache.folder(&variants[1]), long_ago).unwrap();
        load(&cache, &variants[0], 10);
        load(&cache, &variants[2], 10);
        let kept: Vec<_> = variants[..3]
            .iter()
            .map(|fingerprint| cache.state(fingerprint) == EngineState::Ready)
            .collect();
        assert_eq!(kept, [true, false, true]);
    }

    #[test]
    fn one_that_is_larger_than_the_limit_is_kept_alone() {
        let (_root, cache) = cache(5);
        let [(first, _), (second, _), ..] = fingerprint::variants();
        load(&cache, &first, 4);
        load(&cache, &second, 40);
        assert_eq!(cache.state(&second), EngineState::Ready);
        assert_eq!(cache.engines().unwrap().len(), 1);
    }
}
