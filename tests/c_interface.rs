//! Programs in C and C++ write what the Rust library writes.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use lwv_model::Precision;
use lwv_processor::Processor;
use lwv_tests::{Case, Run, bundle, fixtures, installed_c_library, library, scratch, workspace};

/// An example, compiled once, with everything that compilers complain of.
fn example(place: &'static OnceLock<PathBuf>, compiler: &str, standard: &str, file: &str) -> Command {
    let program = place.get_or_init(|| {
        let prefix = installed_c_library();
        let program = scratch().join(file).with_extension("bin");
        let mut command = Command::new(compiler);
        command
            .args([
                "-Wall",
                "-Wextra",
                "-Werror",
                "-pedantic",
                standard,
                "-pthread",
                "-I",
            ])
            .arg(prefix.join("include"))
            .arg(workspace().join("runtime/capi/examples").join(file))
            .arg("-L")
            .arg(prefix.join("lib"))
            .arg(format!("-Wl,-rpath,{}", prefix.join("lib").display()))
            .args(["-llwv", "-o"])
            .arg(&program);
        let run = Run::of(&mut command);
        assert_eq!(run.status, Some(0), "{}", run.stderr);
        program
    });
    let mut command = Command::new(program);
    command.env("LWV_ONNXRUNTIME", library());
    command
}

fn write_article() -> Command {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    example(&PROGRAM, "cc", "-std=c99", "write_article.c")
}

fn describe_picture() -> Command {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    example(&PROGRAM, "c++", "-std=c++17", "describe_picture.cpp")
}

#[test]
fn a_program_in_c_answers_as_transformers_does() {
    let case = Case::load("nested_f32");
    let expected = &case.prompts["text"];
    let user = expected.messages.as_array().unwrap().last().unwrap();
    let run = Run::of(
        write_article()
            .arg(bundle(&case.dir, Precision::Fp32))
            .arg(user["content"].as_str().unwrap()),
    );
    assert_eq!(run.status, Some(0), "{}", run.stderr);
    assert_eq!(run.stdout, expected.greedy_text);
    assert!(
        run.stderr.contains("(1 of ") && run.stderr.contains("computing on cpu"),
        "{}",
        run.stderr
    );
}

#[test]
fn a_program_in_c_plans_and_writes() {
    let case = Case::load("llama");
    let run = Run::of(
        write_article()
            .arg(bundle(&case.dir, Precision::Fp32))
            .args(["Write about bees.", "20"]),
    );
    assert_eq!(run.status, Some(0), "{}", run.stderr);
    assert_eq!(run.stdout.matches("## ").count(), 2, "{}", run.stdout);
    assert!(
        run.stderr.contains("section 2: ") && run.stderr.contains("ended for reason "),
        "{}",
        run.stderr
    );
}

/// The prompt of a picture, and what transformers writes after it, 16 tokens of it.
fn about_a_picture(case: &Case, bundle: &Path) -> (String, PathBuf, String) {
    let prompt = &case.prompts["one_image"];
    let tokenizer = Processor::from_dir(bundle).unwrap().tokenizer().clone();
    let text = tokenizer.decode(&prompt.greedy_ids[..16], true).unwrap();
    (prompt.text.clone(), fixtures().join(&prompt.images[0]), text)
}

#[test]
fn a_program_in_cpp_sees_what_transformers_sees() {
    let case = Case::load("flat_f32");
    let bundle = bundle(&case.dir, Precision::Fp32);
    let (prompt, picture, text) = about_a_picture(&case, &bundle);
    let run = Run::of(
        describe_picture()
            .arg(&bundle)
            .arg(&prompt)
            .arg(picture)
            .arg("16"),
    );
    assert_eq!(run.status, Some(0), "{}", run.stderr);
    // Of a character that is cut off nothing is written.
    assert_eq!(run.stdout, text.trim_end_matches(char::REPLACEMENT_CHARACTER));
    assert!(
        run.stderr.contains("16 tokens") && run.stderr.contains("ended for reason 3"),
        "{}",
        run.stderr
    );
    let drawn = Run::of(describe_picture().arg(&bundle).arg(&prompt).args(["-", "4"]));
    assert_eq!(drawn.status, Some(0), "{}", drawn.stderr);
    assert!(drawn.stderr.contains("the picture takes "), "{}", drawn.stderr);
}

#[test]
fn a_program_in_cpp_stops_from_another_thread() {
    let case = Case::load("flat_f32");
    let bundle = bundle(&case.dir, Precision::Fp32);
    let (prompt, picture, _) = about_a_picture(&case, &bundle);
    let run = Run::of(
        describe_picture()
            .arg(&bundle)
            .arg(&prompt)
            .arg(picture)
            .args(["100000", "0"]),
    );
    assert_eq!(run.status, Some(0), "{}", run.stderr);
    assert!(run.stderr.contains("ended for reason 5"), "{}", run.stderr);
}

#[test]
fn a_program_in_cpp_tells_what_is_wrong() {
    let run = Run::of(describe_picture().args(["/nowhere", "x", "-", "4"]));
    run.assert_failed(1, &["/nowhere"]);
}

/// What `pkg-config` says is enough to compile and link with, where there is one.
#[test]
fn the_library_can_be_found_by_pkg_config() {
    let prefix = installed_c_library();
    let file = std::fs::read_to_string(prefix.join("lib/pkgconfig/lwv.pc")).unwrap();
    assert!(
        file.contains(&format!("prefix={}", prefix.display())) && !file.contains('@'),
        "{file}"
    );
    assert!(
        file.contains(&format!("Version: {}", env!("CARGO_PKG_VERSION"))),
        "{file}"
    );
}

/// Nothing but the interface is exported, so that the library cannot clash with another in the same program.
#[test]
fn the_library_exports_its_interface_alone() {
    let library = installed_c_library().join("lib/liblwv.so");
    let run = Run::of(Command::new("nm").args(["-D", "--defined-only"]).arg(library));
    assert_eq!(run.status, Some(0), "{}", run.stderr);
    let names: Vec<&str> = run
        .stdout
        .lines()
        .filter_map(|line| line.split(' ').nth(2))
        .collect();
    assert!(names.len() > 30, "{names:?}");
    let foreign: Vec<_> = names.iter().filter(|name| !name.starts_with("lwv_")).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
}
