//! TensorRT for RTX is a plug-in: a library that ONNX Runtime is told of, which needs others that lie beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lwv_model::Profile;
use ort::{memory::DeviceType, session::builder::SessionBuilder};

use super::{Assignment, Device};
use crate::error::{Error, Result};

/// Environment variable that names the plug-in, or the folder that holds it.
pub const PLUGIN_VARIABLE: &str = "LWV_TENSORRT_RTX";

/// Beginnings of the names of what the plug-in needs, in the order in which they need each other.
const NEEDED: [&str; 3] = [
    "libcudart.so",
    "libtensorrt_rtx.so",
    "libtensorrt_onnxparser_rtx.so",
];

/// The plug-in's library.
pub(crate) fn file_name() -> String {
    let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    format!("{prefix}onnxruntime_providers_nv_tensorrt_rtx{suffix}")
}

/// Finds the plug-in: where [`PLUGIN_VARIABLE`] says, else beside ONNX Runtime's library.
///
/// # Errors
/// It is at neither place; both are told.
pub(crate) fn find(onnxruntime: &Path) -> Result<PathBuf> {
    let named = std::env::var_os(PLUGIN_VARIABLE).filter(|value| !value.is_empty());
    let file = match named.map(PathBuf::from) {
        Some(place) if place.is_dir() => place.join(file_name()),
        Some(file) => file,
        None => onnxruntime.with_file_name(file_name()),
    };
    if file.exists() {
        return Ok(file);
    }
    let reason = format!(
        "its plug-in `{}` is not there; get it from the package `onnxruntime-ep-nv-tensorrt-rtx-cu13` of PyPI and name it with \
         `{PLUGIN_VARIABLE}`",
        file.display()
    );
    Err(Error::provider("tensorrt-rtx", reason))
}

/// What the plug-in needs of what lies beside it, in order. Packages have names with a version that the loader does not look for.
pub(crate) fn needed(plugin: &Path) -> Vec<PathBuf> {
    let folder = plugin.parent().unwrap_or(Path::new("."));
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let of_library = |library: &&str| {
        let names = names.iter().filter(|name| name.starts_with(*library));
        Some(folder.join(names.max_by_key(|name| name.len())?))
    };
    NEEDED.iter().filter_map(of_library).collect()
}

/// Loads the plug-in once in a process, and registers it for a graph.
///
/// # Errors
/// A library cannot be loaded, or sees no card.
pub(crate) fn register(
    device: Device,
    builder: SessionBuilder,
    assignment: &Assignment<'_>,
) -> Result<SessionBuilder> {
    let (name, environment) = (device.provider_name(), assignment.environment);
    let plugin = assignment
        .plugin
        .ok_or_else(|| device.failed("no plug-in was named"))?;
    let is_wanted = |found: &ort::device::Device<'_>| {
        found.ep().is_ok_and(|ep| ep == name) && found.hardware_device().ty() == DeviceType::GPU
    };
    if !environment.devices().any(|found| is_wanted(&found)) {
        load_needed(device, plugin)?;
        environment
            .register_ep_library(name, plugin)
            .map_err(|e| device.failed(e.message()))?;
    }
    let found: Vec<_> = environment.devices().filter(is_wanted).take(1).collect();
    if found.is_empty() {
        return Err(device.failed("the plug-in sees no RTX card"));
    }
    let options: Vec<_> = options(assignment.profiles, assignment.engines)
        .into_iter()
        .map(|(option, value)| (format!("{name}.{option}"), value))
        .collect();
    builder
        .with_config_entry("session.disable_cpu_ep_fallback", "1")?
        .with_devices(found, Some(&options))
        .map_err(|e| device.failed(e.message()))
}

fn load_needed(device: Device, plugin: &Path) -> Result<()> {
    for library in needed(plugin) {
        #[expect(unsafe_code, reason = "a library runs code when it is loaded")]
        // SAFETY: these are the libraries that the plug-in itself would load, from the folder that the user has named.
        let loaded = unsafe { libloading::Library::new(&library) };
        let loaded = loaded.map_err(|e| device.failed(format!("`{}`: {e}", library.display())))?;
        // The plug-in finds it by its name as long as it is loaded.
        std::mem::forget(loaded);
    }
    Ok(())
}

/// Options of the provider.
fn options(profiles: Option<&BTreeMap<String, Profile>>, engines: Option<&Path>) -> Vec<(String, String)> {
    let mut options = Vec::new();
    if let Some(profiles) = profiles {
        for (which, shapes) in super::tensorrt::shapes(profiles) {
            options.push((format!("nv_profile_{which}_shapes"), shapes));
        }
    }
    if let Some(folder) = engines {
        let folder = folder.to_string_lossy().into_owned();
        options.push(("nv_runtime_cache_path".to_owned(), folder));
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_loaded_in_the_order_of_need() {
        let folder = tempfile::tempdir().unwrap();
        let names = [
            "libtensorrt_onnxparser_rtx.so.1.7.1",
            "libtensorrt_rtx.so.1",
            "libtensorrt_rtx.so.1.7.1",
            "libcudart.so.13.4.36",
            "libother.so",
        ];
        for name in names {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        let found = needed(&folder.path().join(file_name()));
        let found: Vec<_> = found.iter().map(|path| path.file_name().unwrap()).collect();
        assert_eq!(found, [names[3], names[2], names[0]]);
    }

    #[test]
    fn a_missing_plugin_says_where_to_get_it() {
        let error = find(Path::new("/nowhere/libonnxruntime.so")).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Provider);
        let text = error.to_string();
        assert!(
            text.contains("/nowhere/") && text.contains(PLUGIN_VARIABLE),
            "{text}"
        );
    }

    #[test]
    fn its_cache_lies_where_it_is_told() {
        let expected = ("nv_runtime_cache_path".to_owned(), "/engines/x".to_owned());
        assert_eq!(options(None, Some(Path::new("/engines/x"))), [expected]);
    }
}
