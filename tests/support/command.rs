use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;

use crate::engine::library;
use crate::folder::{scratch, target_folder, workspace};

/// What a command did.
pub struct Run {
    /// Exit status; `None` after a signal.
    pub status: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Run {
    /// Runs `command` to its end.
    pub fn of(command: &mut Command) -> Self {
        let Output {
            status,
            stdout,
            stderr,
        } = command.output().unwrap();
        Self {
            status: status.code(),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }

    /// Fails unless the command did what it was told to. Returns its last line, which is JSON.
    pub fn json(&self) -> Value {
        self.assert_done();
        serde_json::from_str(self.stdout.lines().last().unwrap()).unwrap()
    }

    /// Fails unless the command did what it was told to.
    pub fn assert_done(&self) {
        assert_eq!(self.status, Some(0), "{}", self.stderr);
    }

    /// Fails unless the command failed with `status` and one error that has all of `words`.
    pub fn assert_failed(&self, status: i32, words: &[&str]) {
        let Self { stderr, stdout, .. } = self;
        assert_eq!(self.status, Some(status), "stderr: {stderr}\nstdout: {stdout}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        assert_eq!(stderr.matches("error:").count(), 1, "{stderr}");
        for word in words {
            assert!(stderr.contains(word), "`{word}` is not in: {stderr}");
        }
    }
}

/// The exporter.
pub fn lwv_export() -> Command {
    Command::new(binary("lwv-export"))
}

/// The quantizer, on the library that all tests use.
pub fn lwv_quantize() -> Command {
    let mut command = Command::new(binary("lwv-quantize"));
    command.env("LWV_ONNXRUNTIME", library());
    command
}

/// The server, as it is started without the writer.
pub fn lwv_serve() -> Command {
    Command::new(binary("lwv-serve"))
}

/// The writer, on the library that all tests use.
pub fn lwv_write() -> Command {
    let mut command = Command::new(binary("lwv-write"));
    command.env("LWV_ONNXRUNTIME", library());
    command
}

/// The folder that the C library is installed under, by its own script, once in this process.
pub fn installed_c_library() -> &'static Path {
    static PREFIX: OnceLock<PathBuf> = OnceLock::new();
    PREFIX.get_or_init(|| {
        let prefix = scratch().join("c-library");
        let mut install = Command::new(workspace().join("runtime/capi/install"));
        let run = Run::of(install.arg(&prefix).arg(built()));
        assert_eq!(run.status, Some(0), "{}", run.stderr);
        prefix
    })
}

/// A binary of another package of the workspace.
fn binary(name: &str) -> PathBuf {
    built().join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
}

/// The folder of what other packages of the workspace build. Cargo builds the package under test only, so they are built
/// here; that is quick where they are up to date, and a stale one is never run.
fn built() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = target_folder();
        build(&folder);
        folder
    })
}

fn build(folder: &Path) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let profile = match folder.file_name().unwrap().to_str().unwrap() {
        "debug" => "dev",
        named => named,
    };
    let mut command = Command::new(cargo);
    command
        .current_dir(workspace())
        .args(["build", "--quiet", "--locked", "--offline", "--bins", "--lib"])
        .args(["-p", "lwv-export", "-p", "lwv-write"])
        .args(["-p", "lwv-serve", "-p", "lwv-capi"])
        .args(["--profile", profile])
        .arg("--target-dir")
        .arg(folder.parent().unwrap());
    let built = Run::of(&mut command);
    assert_eq!(built.status, Some(0), "{}", built.stderr);
}
