use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

/// Becomes the server, or waits for it where a process cannot become another one.
///
/// # Errors
/// It is not there, or cannot be started.
pub(crate) fn serve(arguments: &[OsString]) -> Result<ExitCode> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    start(&own, "lwv-serve", arguments)
}

/// Starts the program `name` that lies beside `own`. No other place is looked at: what opens a port must not come from a folder
/// that happens to be searched first.
fn start(own: &Path, name: &str, arguments: &[OsString]) -> Result<ExitCode> {
    let program = own.with_file_name(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    if !program.is_file() {
        bail!(
            "`{}` is not there: the server is a program of its own; build it with `cargo build --release -p {name}` and put it \
             beside `lwv-write`",
            program.display()
        );
    }
    become_program(Command::new(&program).args(arguments))
        .with_context(|| format!("cannot start `{}`", program.display()))
}

#[cfg(unix)]
fn become_program(command: &mut Command) -> std::io::Result<ExitCode> {
    use std::os::unix::process::CommandExt;
    // Returns only if it failed.
    Err(command.exec())
}

#[cfg(not(unix))]
fn become_program(command: &mut Command) -> std::io::Result<ExitCode> {
    let status = command.status()?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = start(&folder.path().join("lwv-write"), "lwv-serve", &[]).unwrap_err();
        let expected = folder
            .path()
            .join(format!("lwv-serve{}", std::env::consts::EXE_SUFFIX));
        assert!(
            error.to_string().contains(&expected.display().to_string()),
            "{error}"
        );
    }
}
