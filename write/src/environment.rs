//! What must stand in the environment before a process starts.
//!
//! - **Weights on huge pages.** Every token reads all weights once, and with pages of 4 KiB much of that time goes into looking
//!   up addresses: on huge pages a 135M model in f32 decodes a tenth faster. Where the system gives them only on request,
//!   glibc's allocator requests them if a variable says so.
//!
//! So the process starts itself anew. A variable that somebody has set is left alone.

/// Read by glibc when a process starts.
const ALLOCATOR: &str = "GLIBC_TUNABLES";

/// Starts this program anew with what it runs best with, where that is possible and missing. Returns otherwise, and then
/// nothing has changed.
pub fn prepare() {
    let policy = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    if wants_huge_pages(&policy) && std::env::var_os(ALLOCATOR).is_none() {
        restart(ALLOCATOR, "glibc.malloc.hugetlb=1");
    }
}

/// Only the policy `madvise` waits for requests.
fn wants_huge_pages(policy: &str) -> bool {
    cfg!(all(target_os = "linux", target_env = "gnu")) && policy.contains("[madvise]")
}

#[cfg(unix)]
fn restart(variable: &str, value: &str) {
    use std::os::unix::process::CommandExt;
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    // On success this does not return; on failure the program goes on as it is.
    let _failure = std::process::Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(variable, value)
        .exec();
}

#[cfg(not(unix))]
fn restart(_: &str, _: &str) {}

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
}
