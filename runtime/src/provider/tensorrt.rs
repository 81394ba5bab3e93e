use std::collections::BTreeMap;
use std::path::Path;

use lwv_model::Profile;
use ort::ep::ArbitrarilyConfigurableExecutionProvider as _;
use ort::session::builder::SessionBuilder;

use super::{Assignment, Device};
use crate::error::Result;

/// Registers the TensorRT provider, and CUDA's for what it leaves over. What neither takes is an error, not the processor's.
///
/// # Errors
/// A provider cannot be had.
pub(crate) fn register(
    device: Device,
    builder: SessionBuilder,
    assignment: &Assignment<'_>,
) -> Result<SessionBuilder> {
    let options = options(assignment.profiles, assignment.engines);
    let add = |provider: ort::ep::TensorRT, (name, value): (String, String)| {
        provider.with_arbitrary_config(name, value)
    };
    let tensorrt = options.into_iter().fold(ort::ep::TensorRT::default(), add);
    let providers = [
        tensorrt.build().error_on_failure(),
        super::cuda::provider(0).build().error_on_failure(),
    ];
    builder
        .with_config_entry("session.disable_cpu_ep_fallback", "1")?
        .with_execution_providers(providers)
        .map_err(|e| device.failed(e.message()))
}

/// Options of the provider. Precision is not among them: it is in the graph.
fn options(profiles: Option<&BTreeMap<String, Profile>>, engines: Option<&Path>) -> Vec<(String, String)> {
    let mut options = Vec::new();
    let mut set = |name: &str, value: String| options.push((format!("trt_{name}"), value));
    if let Some(profiles) = profiles {
        for (which, shapes) in shapes(profiles) {
            set(&format!("profile_{which}_shapes"), shapes);
        }
    }
    if let Some(folder) = engines.map(Path::to_string_lossy) {
        set("engine_cache_enable", "1".to_owned());
        set("engine_cache_path", folder.to_string());
        set("timing_cache_enable", "1".to_owned());
        set("timing_cache_path", folder.into_owned());
    }
    options
}

/// The smallest, usual and largest shapes of all inputs as both providers read them: `name:1x2,other:3`.
pub(crate) fn shapes(profiles: &BTreeMap<String, Profile>) -> [(&'static str, String); 3] {
    let shape = |of: fn(&Profile) -> &[usize]| {
        let inputs = profiles.iter().map(|(name, profile)| {
            let sizes: Vec<String> = of(profile).iter().map(ToString::to_string).collect();
            format!("{name}:{}", sizes.join("x"))
        });
        inputs.collect::<Vec<_>>().join(",")
    };
    [
        ("min", shape(|profile| &profile.min)),
        ("opt", shape(|profile| &profile.opt)),
        ("max", shape(|profile| &profile.max)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_of_all_inputs_are_told_and_nothing_of_precision() {
        let profile = |size| Profile {
            min: vec![1, 1],
            opt: vec![1, 64],
            max: vec![1, size],
        };
        let profiles = [
            ("attention_mask".to_owned(), profile(512)),
            ("position_ids".to_owned(), profile(256)),
        ];
        let profiles = profiles.into();
        let options = options(Some(&profiles), Some(Path::new("/engines/x")));
        let options: BTreeMap<_, _> = options.into_iter().collect();
        assert_eq!(
            options["trt_profile_max_shapes"],
            "attention_mask:1x512,position_ids:1x256"
        );
        assert_eq!(options["trt_engine_cache_path"], "/engines/x");
        assert!(
            !options
                .keys()
                .any(|name| name.contains("fp16") || name.contains("int8"))
        );
    }

    #[test]
    fn without_profiles_and_cache_there_are_no_options() {
        assert!(options(None, None).is_empty());
    }
}
