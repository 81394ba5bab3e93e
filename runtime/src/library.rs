use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ort::environment::Environment;

use crate::arena;
use crate::error::{Inner, Result};

/// Environment variable that names ONNX Runtime's shared library.
pub const LIBRARY_VARIABLE: &str = "LWV_ONNXRUNTIME";

/// The variable that programs built on the same binding know.
const BINDING_VARIABLE: &str = "ORT_DYLIB_PATH";

/// The least version 1.N that is taken: 1.22 has all that is called, and aborts when it makes a session.
const LEAST_VERSION: u32 = 23;

/// The least version 1.N that takes operators of ours: 1.23 crashes when it meets them.
const LEAST_VERSION_OF_OPERATORS: u32 = 24;

/// ONNX Runtime allows one environment in a process.
static ENVIRONMENT: Mutex<Option<Library>> = Mutex::new(None);

/// The loaded library.
#[derive(Clone, Debug)]
pub(crate) struct Library {
    pub(crate) environment: Environment,
    /// Where it was found.
    pub(crate) path: PathBuf,
    /// Whether it takes operators that are computed here.
    pub(crate) takes_operators: bool,
}

/// Finds ONNX Runtime's shared library: `explicit`, then the variables [`LIBRARY_VARIABLE`] and `ORT_DYLIB_PATH`, then
/// beside the executable and in `../lib`, then the system's folders. A place that was named must hold it: there is no
/// falling back from `explicit` or from a variable.
///
/// # Errors
/// It is at none of these places; the text lists them all.
pub fn find_library(explicit: Option<&Path>) -> Result<PathBuf> {
    let variable = |name: &'static str| {
        let value = std::env::var_os(name).filter(|value| !value.is_empty())?;
        Some((PathBuf::from(value), name))
    };
    let named = explicit
        .map(|path| (path.to_owned(), "given"))
        .or_else(|| variable(LIBRARY_VARIABLE))
        .or_else(|| variable(BINDING_VARIABLE));
    if let Some((path, by)) = named {
        let found = if path.is_dir() {
            in_folder(&path)
        } else {
            path.exists().then(|| path.clone())
        };
        return found.ok_or_else(|| not_found(vec![format!("{} ({by})", path.display())]));
    }
    let folders: Vec<PathBuf> = beside_executable().into_iter().chain(system_folders()).collect();
    match folders.iter().find_map(|folder| in_folder(folder)) {
        Some(path) => Ok(path),
        None => {
            let unset = [LIBRARY_VARIABLE, BINDING_VARIABLE].map(|name| format!("{name} (not set)"));
            let looked = folders
                .iter()
                .map(|folder| folder.join(file_name()).display().to_string());
            Err(not_found(unset.into_iter().chain(looked).collect()))
        }
    }
}

/// Loads the library, once in a process: later calls get the library of the first, whatever they name.
pub(crate) fn load(explicit: Option<&Path>) -> Result<Library> {
    let mut loaded = ENVIRONMENT
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(loaded) = &*loaded {
        return Ok(loaded.clone());
    }
    let path = find_library(explicit)?;
    let path = path.canonicalize().map_err(|source| Inner::Read {
        path: path.clone(),
        source,
    })?;
    let unusable = |message: String| Inner::LibraryUnusable {
        path: path.clone(),
        message,
    };
    let builder = ort::init_from(&path).map_err(|e| unusable(describe(&e)))?;
    let version = version(&path).unwrap_or_default();
    let minor =
        minor(&version).ok_or_else(|| unusable(format!("its version `{version}` is not readable")))?;
    if minor < LEAST_VERSION {
        return Err(unusable(too_old(&version)).into());
    }
    let built = builder
        .with_name("lwv")
        .with_telemetry(false)
        .build()
        .map_err(|e| unusable(e.message().to_owned()))?;
    built.set_log_level(ort::logging::LogLevel::Error);
    // Refused where someone else in this process, who has the same environment, shares one already. That one is used then.
    let _ = arena::share(&built);
    let library = Library {
        environment: built,
        path,
        takes_operators: minor >= LEAST_VERSION_OF_OPERATORS,
    };
    *loaded = Some(library.clone());
    Ok(library)
}

fn describe(error: &ort::LoadDynamicError) -> String {
    use ort::LoadDynamicError::{BadVersion, Dlopen, InvalidVersionString, MissingApi};
    match error {
        Dlopen { error, .. } => {
            // The cause has the system's words.
            let cause = std::error::Error::source(error).map_or(error.to_string(), ToString::to_string);
            format!("{cause}; is it for another system or processor, or is a library that it needs missing?")
        }
        MissingApi { .. } => "it is another library: it does not export `OrtGetApiBase`".to_owned(),
        InvalidVersionString => "its version is not readable".to_owned(),
        BadVersion { version_str, .. } => too_old(version_str),
    }
}

fn too_old(version: &str) -> String {
    format!("it is version {version}, but 1.{LEAST_VERSION} or later is needed")
}

/// N of version 1.N.
fn minor(version: &str) -> Option<u32> {
    version.split('.').nth(1)?.parse().ok()
}

/// What the library at `path`, which is loaded already, says of itself.
#[expect(unsafe_code, reason = "the binding reads the version and does not tell it")]
fn version(path: &Path) -> Option<String> {
    // SAFETY: loading it again runs nothing of it; the function has this type in all versions, and so has the table that it gives,
    // which lives as long as the library.
    unsafe {
        let library = libloading::Library::new(path).ok()?;
        let base = library
            .get::<unsafe extern "system" fn() -> *const ort::sys::OrtApiBase>(b"OrtGetApiBase")
            .ok()?;
        let version = ((*base()).GetVersionString)();
        Some(CStr::from_ptr(version).to_str().ok()?.to_owned())
    }
}

fn not_found(places: Vec<String>) -> crate::Error {
    Inner::LibraryNotFound {
        name: file_name(),
        places,
    }
    .into()
}

/// The library's name, such as `libonnxruntime.so`.
fn file_name() -> String {
    format!(
        "{}onnxruntime{}",
        std::env::consts::DLL_PREFIX,
        std::env::consts::DLL_SUFFIX
    )
}

fn beside_executable() -> Vec<PathBuf> {
    let executable = std::env::current_exe().ok();
    let folder = executable.as_deref().and_then(Path::parent);
    folder
        .map(|folder| vec![folder.to_owned(), folder.join("../lib")])
        .unwrap_or_default()
}

#[cfg(unix)]
fn system_folders() -> Vec<PathBuf> {
    let listed = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    std::env::split_paths(&listed)
        .filter(|folder| !folder.as_os_str().is_empty())
        .chain(
            [
                "/usr/local/lib",
                "/usr/lib64",
                "/usr/lib",
                &multiarch,
                "/opt/onnxruntime/lib",
            ]
            .map(PathBuf::from),
        )
        .collect()
}

#[cfg(not(unix))]
fn system_folders() -> Vec<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect()
}

/// The library in `folder`, under its plain name or, as the PyPI package has it, with a version behind.
fn in_folder(folder: &Path) -> Option<PathBuf> {
    let name = file_name();
    let plain = folder.join(&name);
    if plain.exists() {
        return Some(plain);
    }
    let versioned = format!("{name}.");
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with(&versioned))
        })
        .collect();
    found.sort();
    found.pop()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn a_named_library_that_is_not_there_is_an_error() {
        let error = find_library(Some(Path::new("/nonexistent/libonnxruntime.so"))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Library);
        assert!(
            error
                .to_string()
                .contains("/nonexistent/libonnxruntime.so (given)"),
            "{error}"
        );
        assert!(error.to_string().contains("PyPI"), "{error}");
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(minor("1.23.2"), Some(23));
        assert_eq!(minor("1.32.0-dev"), Some(32));
        assert_eq!(minor(""), None);
        assert!(too_old("1.22.1").contains("1.22.1, but 1.23 or later"));
    }

    #[test]
    #[ignore = "needs ONNX Runtime; scripts/check fetches it and runs this"]
    fn the_loaded_library_tells_its_version() {
        let library = load(None).unwrap();
        let version = version(&library.path).unwrap();
        assert!(minor(&version).unwrap() >= LEAST_VERSION, "{version}");
        assert_eq!(library.takes_operators, minor(&version).unwrap() >= 24);
    }

    #[test]
    fn a_versioned_name_is_found_in_a_named_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(format!("{}.1.32.0", file_name()));
        std::fs::write(&path, "x").unwrap();
        assert_eq!(find_library(Some(folder.path())).unwrap(), path);
    }

    #[test]
    fn a_file_that_is_no_library_fails_at_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "no library").unwrap();
        // Only meaningful while no other test has loaded the real one.
        if ENVIRONMENT.lock().unwrap().is_none() {
            let error = load(Some(file.path())).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Library);
            assert!(
                error.to_string().contains(&file.path().display().to_string()),
                "{error}"
            );
        }
    }
}
