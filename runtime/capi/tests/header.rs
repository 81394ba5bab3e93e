//! The header is what its sources say.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::path::Path;

/// Says that the header is to be written instead of compared.
const WRITE: &str = "LWV_WRITE_HEADER";

/// In the order in which the header has them.
const SOURCES: [&str; 23] = [
    "version",
    "status",
    "border",
    "text",
    "cancel_token",
    "image",
    "device",
    "engine",
    "estimate",
    "sampler",
    "finish_reason",
    "stats",
    "event",
    "message",
    "session",
    "generation",
    "writer",
    "draft_header",
    "draft",
    "section",
    "revision",
    "argument",
    "structure",
];

fn generated() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(folder.join("cbindgen.toml")).unwrap();
    let builder = SOURCES
        .iter()
        .fold(cbindgen::Builder::new().with_config(config), |builder, name| {
            builder.with_src(folder.join("src").join(name).with_extension("rs"))
        });
    let mut text = Vec::new();
    builder.generate().unwrap().write(&mut text);
    String::from_utf8(text).unwrap()
}

#[test]
fn the_header_is_what_its_sources_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/lwv.h");
    let generated = generated();
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = there
        .lines()
        .zip(generated.lines())
        .position(|(there, generated)| there != generated);
    assert!(
        there == generated,
        "`{}` is not what its sources say (line {:?}); run `{WRITE}=1 cargo test -p lwv-capi --test header`",
        path.display(),
        differs.map(|line| line + 1)
    );
}

/// A function that is exported and not in the header could not be called by anyone.
#[test]
fn every_exported_function_is_in_the_header() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let header = generated();
    let mut functions = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let source = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for after in source.split("extern \"C\" fn lwv_").skip(1) {
            let name = after.split('(').next().unwrap();
            assert!(
                header.contains(&format!(" lwv_{name}(")) || header.contains(&format!("*lwv_{name}(")),
                "{name}"
            );
            functions += 1;
        }
    }
    assert!(functions > 30, "{functions}");
}
