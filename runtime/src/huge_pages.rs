//! Weights on huge pages.
//!
//! Every token reads all weights once, and with pages of 4 KiB much of that time goes into looking up addresses: on huge
//! pages a 135M model in f32 decodes a tenth faster. Where the system gives them only on request, glibc's allocator
//! requests them if an environment variable says so before the process starts; so the process starts itself anew.

use std::ffi::OsStr;

/// Read by glibc when a process starts.
const VARIABLE: &str = "GLIBC_TUNABLES";

/// Starts this program anew with huge pages for large allocations, where that is possible and nobody set the variable.
/// Returns otherwise, and then nothing has changed.
pub(crate) fn request() {
    let policy = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    if is_wanted(&policy, std::env::var_os(VARIABLE).as_deref()) {
        restart();
    }
}

/// Only the policy `madvise` waits for requests.
fn is_wanted(policy: &str, variable: Option<&OsStr>) -> bool {
    cfg!(all(target_os = "linux", target_env = "gnu")) && policy.contains("[madvise]") && variable.is_none()
}

#[cfg(unix)]
fn restart() {
    use std::os::unix::process::CommandExt;
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    // On success this does not return; on failure the program goes on with small pages.
    let _failure = std::process::Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(VARIABLE, "glibc.malloc.hugetlb=1")
        .exec();
}

#[cfg(not(unix))]
fn restart() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn only_an_unset_variable_under_madvise_is_changed() {
        assert!(is_wanted("always [madvise] never\n", None));
        assert!(!is_wanted("always [madvise] never\n", Some(OsStr::new(""))));
        assert!(!is_wanted("[always] madvise never\n", None));
        assert!(!is_wanted("", None));
    }
}
