//! The rules of `ARCHITECTURE.md` that a machine can hold.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use lwv_tests::workspace;
use serde_json::Value;

/// Package, features off?, and the crates it must never stand on.
const NEVER: &[(&str, bool, &[&str])] = &[
    (
        "lwv-model",
        false,
        &["candle-core", "ort", "protobuf", "onnx-protobuf", "image"],
    ),
    ("lwv-processor", false, &["candle-core", "ort"]),
    (
        "lwv-data",
        false,
        &["candle-core", "ort", "lwv-train", "lwv-export", "lwv-runtime"],
    ),
    ("lwv-train", false, &["ort", "onnx-protobuf", "lwv-onnx"]),
    ("lwv-onnx", false, &["candle-core", "ort", "lwv-model"]),
    ("lwv-export", true, &["candle-core", "ort"]),
    (
        "lwv-quantize",
        false,
        &["candle-core", "ort", "lwv-model", "onnx-protobuf", "lwv-onnx"],
    ),
    ("lwv-kernels", false, &["candle-core", "ort", "lwv-model"]),
    (
        "lwv-runtime",
        false,
        &[
            "candle-core",
            "lwv-onnx",
            "onnx-protobuf",
            "lwv-train",
            "lwv-export",
            "clap",
            "indicatif",
        ],
    ),
    (
        "lwv-capi",
        false,
        &[
            "candle-core",
            "lwv-onnx",
            "lwv-train",
            "lwv-export",
            "clap",
            "cbindgen",
        ],
    ),
];

/// Crates that the runtime may stand on, itself and those that only compile included.
const MOST_CRATES: usize = 100;

/// Crates that talk to a network, or that only those need.
const NETWORK: &[&str] = &[
    "reqwest",
    "ureq",
    "hyper",
    "h2",
    "rustls",
    "native-tls",
    "openssl",
    "openssl-sys",
    "curl",
    "attohttpc",
    "isahc",
    "tungstenite",
    "quinn",
    "tokio",
    "hf-hub",
];

const LICENCES: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "Unicode-3.0",
    "MPL-2.0",
    "CC0-1.0",
    "BSL-1.0",
    "Unlicense",
    "MIT-0",
    "IJG",
];

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--offline", "--locked"])
        .current_dir(workspace())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Names of all crates that `package` stands on.
fn tree(package: &str, without_features: bool) -> BTreeSet<String> {
    let mut arguments = vec![
        "tree", "-p", package, "-e", "normal", "--prefix", "none", "--format", "{p}",
    ];
    if without_features {
        arguments.push("--no-default-features");
    }
    let names = cargo(&arguments);
    names
        .lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect()
}

fn metadata() -> Value {
    // Only what this platform needs is certain to be here without a network.
    let version = Command::new("rustc").arg("-vV").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .unwrap();
    serde_json::from_str(&cargo(&[
        "metadata",
        "--format-version",
        "1",
        "--filter-platform",
        host,
    ]))
    .unwrap()
}

#[test]
fn dependencies_point_one_way() {
    for (package, without_features, never) in NEVER {
        let tree = tree(package, *without_features);
        assert!(tree.contains(*package), "{package}: {tree:?}");
        for name in *never {
            assert!(
                !tree.contains(*name),
                "`{package}` stands on `{name}`; see `cargo tree -p {package} -i {name}`"
            );
        }
    }
}

/// Who embeds the library builds, audits and ships all of it. `scripts/slim` also weighs the program.
#[test]
fn the_runtime_stands_on_few_crates() {
    let arguments = "tree -p lwv-runtime -e normal --prefix none --format {p}";
    let listed = cargo(&arguments.split(' ').collect::<Vec<_>>());
    let crates: BTreeSet<&str> = listed.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    assert!(
        crates.len() > 20 && crates.len() <= MOST_CRATES,
        "lwv-runtime stands on {} crates, at most {MOST_CRATES} are wanted; see `cargo tree -p lwv-runtime -e normal`, and \
         with `-d` what is there in two versions, which `cargo update --precise` may bring together",
        crates.len()
    );
}

#[test]
fn nothing_that_reaches_users_talks_to_a_network() {
    for package in ["lwv-write", "lwv-capi", "lwv-export", "lwv-train", "lwv-data"] {
        let tree = tree(package, false);
        for name in NETWORK {
            assert!(
                !tree.contains(*name),
                "`{package}` stands on `{name}`; see `cargo tree -p {package} -i {name}`"
            );
        }
    }
}

/// The server listens, and calls nobody.
#[test]
fn the_server_alone_listens_and_it_has_no_client() {
    let tree = tree("lwv-serve", false);
    let listens = ["hyper", "tokio"];
    assert!(listens.iter().all(|name| tree.contains(*name)), "{tree:?}");
    for name in NETWORK.iter().filter(|name| !listens.contains(name)) {
        assert!(
            !tree.contains(*name),
            "`lwv-serve` stands on `{name}`; see `cargo tree -p lwv-serve -i {name}`"
        );
    }
    let features = cargo(&[
        "tree",
        "-p",
        "lwv-serve",
        "-e",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p} {f}",
    ]);
    let hyper = features.lines().find(|line| line.starts_with("hyper v")).unwrap();
    assert!(hyper.contains("server") && !hyper.contains("client"), "{hyper}");
}

#[test]
fn nobody_depends_on_the_leaves() {
    for package in metadata()["packages"].as_array().unwrap() {
        for dependency in package["dependencies"].as_array().unwrap() {
            let name = dependency["name"].as_str().unwrap();
            assert!(
                !["lwv-tests", "lwv-examples", "lwv-serve"].contains(&name),
                "{} depends on {name}",
                package["name"]
            );
        }
    }
}

#[test]
fn every_licence_is_allowed() {
    let used: BTreeSet<String> = [
        "lwv-write",
        "lwv-serve",
        "lwv-capi",
        "lwv-export",
        "lwv-train",
        "lwv-data",
    ]
    .iter()
    .flat_map(|package| tree(package, false))
    .collect();
    for package in metadata()["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        if !used.contains(name) {
            continue;
        }
        let licence = package["license"]
            .as_str()
            .unwrap_or_else(|| panic!("`{name}` states no licence"));
        assert!(is_allowed(licence), "`{name}` is under `{licence}`");
    }
}

/// Whether some alternative of the expression consists of allowed licences. Parentheses occur around alternatives only.
fn is_allowed(expression: &str) -> bool {
    let plain = expression.replace(['(', ')'], "").replace('/', " OR ");
    // Every part that is joined by AND must have an allowed alternative: stricter than the expression never.
    plain.split(" AND ").all(|part| {
        part.split(" OR ")
            .any(|licence| LICENCES.contains(&licence.trim()))
    })
}

#[test]
fn licence_expressions_are_understood() {
    assert!(
        is_allowed("MIT OR Apache-2.0")
            && is_allowed("(MIT OR GPL-3.0) AND Unicode-3.0")
            && is_allowed("MIT/GPL-2.0")
    );
    assert!(!is_allowed("GPL-3.0-only") && !is_allowed("MIT AND GPL-3.0"));
}

#[test]
fn every_crate_has_the_lints_the_licence_and_the_compiler_of_the_workspace() {
    let root = std::fs::read_to_string(workspace().join("Cargo.toml")).unwrap();
    assert_eq!(root.matches("rust-version = ").count(), 1);
    let metadata = metadata();
    let members = metadata["workspace_members"].as_array().unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    for package in packages.iter().filter(|package| members.contains(&package["id"])) {
        let manifest = std::fs::read_to_string(package["manifest_path"].as_str().unwrap()).unwrap();
        for line in [
            "[lints]\nworkspace = true",
            "rust-version.workspace = true",
            "license.workspace = true",
        ] {
            assert!(manifest.contains(line), "{} lacks `{line}`", package["name"]);
        }
    }
}

#[test]
fn no_file_is_named_for_nothing() {
    let mut folders: Vec<PathBuf> = [
        "model",
        "processor",
        "data",
        "train",
        "export",
        "runtime",
        "write",
        "serve",
        "tests",
        "examples",
    ]
    .iter()
    .map(|folder| workspace().join(folder))
    .collect();
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
            assert!(!is_named_for_nothing(&path, &stem), "{}", path.display());
            seen += usize::from(path.extension().is_some_and(|extension| extension == "rs"));
            if path.is_dir() && stem != "target" {
                folders.push(path);
            }
        }
    }
    assert!(seen > 50, "only {seen} source files were found");
}

fn is_named_for_nothing(path: &Path, stem: &str) -> bool {
    let counts = path.is_dir() || path.extension().is_some_and(|extension| extension == "rs");
    counts && ["utils", "util", "common", "helpers", "helper", "misc"].contains(&stem)
}

/// What the README of boards says was computed, by the estimator that users have.
#[test]
fn the_table_of_boards_is_what_the_example_prints() {
    let printed = Command::new(env!("CARGO"))
        .args([
            "run",
            "--quiet",
            "--locked",
            "-p",
            "lwv-examples",
            "--example",
            "boards",
        ])
        .current_dir(workspace())
        .output()
        .unwrap();
    assert!(
        printed.status.success(),
        "{}",
        String::from_utf8_lossy(&printed.stderr)
    );
    let table = String::from_utf8(printed.stdout).unwrap();
    let readme = std::fs::read_to_string(workspace().join("scripts/jetson/README.md")).unwrap();
    assert!(table.lines().count() > 5 && readme.contains(&table), "{table}");
}
