//! What must stand in the environment before a process starts.
//!
//! - **Weights on huge pages.** Every token reads all weights once, and with pages of 4 KiB much of that time goes into looking
//!   up addresses: on huge pages a 135M model in f32 decodes a tenth faster. Where the system gives them only on request,
//!   glibc's allocator requests them if a variable says so.
//! - **A cache of 8 bits.** ONNX Runtime's default attention over such a cache is slower, for one token, than its older one,
//!   which a variable chooses: at 4,096 tokens a 135M model decodes an eighth faster with it.
//!
//! So the process starts itself anew. Variables that somebody has set are left alone.

use std::path::Path;

use lwv_model::{ElementType, Manifest, contract};

/// Read by glibc when a process starts.
const ALLOCATOR: &str = "GLIBC_TUNABLES";

/// Read by ONNX Runtime when a graph is loaded.
const ATTENTION: &str = "ORT_GQA_DISABLE_FLASH_ATTENTION";

/// Starts this program anew with what `bundle` runs best with, where that is possible and anything is missing. Returns
/// otherwise, and then nothing has changed.
pub(crate) fn prepare(bundle: &Path) {
    let policy = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let wanted = [
        wants_huge_pages(&policy).then_some((ALLOCATOR, "glibc.malloc.hugetlb=1")),
        has_byte_cache(bundle).then_some((ATTENTION, "1")),
    ];
    let is_missing = |(variable, _): &(&str, &str)| std::env::var_os(variable).is_none();
    let missing: Vec<_> = wanted.into_iter().flatten().filter(is_missing).collect();
    if !missing.is_empty() {
        restart(&missing);
    }
}

/// Only the policy `madvise` waits for requests.
fn wants_huge_pages(policy: &str) -> bool {
    cfg!(all(target_os = "linux", target_env = "gnu")) && policy.contains("[madvise]")
}

/// Whether the bundle caches in 8 bits. What is no bundle is reported later, by who opens it.
fn has_byte_cache(bundle: &Path) -> bool {
    let Ok(manifest) = Manifest::from_dir(bundle) else {
        return false;
    };
    let decoder = manifest.graphs.get(contract::DECODER);
    let mut inputs = decoder.into_iter().flat_map(|graph| &graph.contract.inputs);
    inputs.any(|input| input.element_type == ElementType::Int8)
}

#[cfg(unix)]
fn restart(variables: &[(&str, &str)]) {
    use std::os::unix::process::CommandExt;
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    // On success this does not return; on failure the program goes on as it is.
    let _failure = std::process::Command::new(program)
        .args(std::env::args_os().skip(1))
        .envs(variables.iter().copied())
        .exec();
}

#[cfg(not(unix))]
fn restart(_: &[(&str, &str)]) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn huge_pages_are_requested_under_madvise_only() {
        assert!(wants_huge_pages("always [madvise] never\n"));
        assert!(!wants_huge_pages("[always] madvise never\n"));
        assert!(!wants_huge_pages(""));
    }

    #[test]
    fn what_is_no_bundle_has_no_cache() {
        assert!(!has_byte_cache(Path::new("/nowhere")));
    }
}
