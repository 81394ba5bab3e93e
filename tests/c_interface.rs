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

use lwv_export::convert_adapter;
use lwv_model::Precision;
use lwv_processor::{Message, Processor};
use lwv_runtime::{GenerationSettings, SamplerSettings};
use lwv_tests::{
    Case, Run, bundle, bundle_for_adapters, engine, fixtures, installed_c_library, library, scratch,
    workspace,
};

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

fn write_draft() -> Command {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    example(&PROGRAM, "cc", "-std=c99", "write_draft.c")
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

/// An adapter in another handle of an engine whose first handle is closed before anything is written.
#[test]
fn a_program_in_c_writes_with_an_adapter() {
    let case = Case::load("nested_f32");
    let folder = bundle_for_adapters(&case.dir, Precision::Fp32);
    let adapter = scratch().join("c-interface.onnx_adapter");
    convert_adapter(&fixtures().join("sft/lora/all_linear"), &folder, &adapter).unwrap();
    let answer = |arguments: &[&Path]| {
        Run::of(
            write_article()
                .arg(&folder)
                .args(["Write about bees.", "0"])
                .args(arguments),
        )
    };
    let (plain, adapted) = (answer(&[]), answer(&[&adapter]));
    assert_eq!(adapted.status, Some(0), "{}", adapted.stderr);
    let engine = engine(&folder, 512);
    let [by_plain, by_adapted] = [engine.clone(), engine.with_adapter(&adapter).unwrap()].map(|engine| {
        let messages = [Message::text("user", "Write about bees.")];
        let mut session = engine.session().unwrap();
        session
            .replace(engine.processor().prompt(&messages, &[]).unwrap())
            .unwrap();
        let settings = GenerationSettings {
            sampler: SamplerSettings::greedy(),
            max_new_tokens: 64,
            ..GenerationSettings::default()
        };
        session.generate(settings).unwrap().complete().unwrap().text
    });
    assert_eq!(
        (plain.stdout, adapted.stdout),
        (by_plain.clone(), by_adapted.clone())
    );
    assert_ne!(by_plain, by_adapted);
    answer(&[Path::new("/nowhere")]).assert_failed(1, &["cannot read the adapter", "/nowhere"]);
}

#[test]
fn a_program_in_c_goes_on_with_its_draft() {
    let bundle = bundle(&Case::load("llama").dir, Precision::Fp32);
    let folder = tempfile::tempdir().unwrap();
    let on = |draft: &str, command: &str, arguments: &[&str]| {
        let path = folder.path().join(draft);
        let bundle = (!matches!(command, "show" | "finish")).then_some(&bundle);
        let run = Run::of(write_draft().arg(command).arg(path).args(bundle).args(arguments));
        assert_eq!(run.status, Some(0), "{}", run.stderr);
        run
    };
    let request = ["Write about bees.", "60"];
    let whole = on("whole", "begin", &request).stdout;
    assert_eq!(whole.matches("## ").count(), 2, "{whole}");

    let cut = on("cut", "begin", &[request[0], request[1], "9"]);
    assert!(cut.stderr.contains("ended for reason 5"), "{}", cut.stderr);
    assert!(whole.starts_with(&cut.stdout) && whole.len() > cut.stdout.len());
    let shown = on("cut", "show", &[]);
    assert!(whole.starts_with(&shown.stdout), "{}", shown.stdout);
    assert!(
        shown.stderr.contains("not whole") && shown.stderr.contains("0 variants, open\n2. "),
        "{}",
        shown.stderr
    );
    for tokens in ["40", "150"] {
        let further = on("cut", "resume", &[tokens]);
        assert!(
            further.stderr.contains("ended for reason 5"),
            "{}",
            further.stderr
        );
        assert!(further.stdout.len() > cut.stdout.len());
    }
    assert_eq!(on("cut", "resume", &[]).stdout, whole);
    let shown = on("cut", "show", &[]);
    assert_eq!(shown.stdout, whole);
    assert!(shown.stderr.contains(" words, whole"), "{}", shown.stderr);

    let text = || on("cut", "show", &[]).stdout;
    let (first, second) = whole.split_at(whole.rfind("## ").unwrap());
    let rewritten = on("cut", "rewrite", &["2", "5"]);
    assert!(
        rewritten.stderr.contains("ended for reason 5"),
        "{}",
        rewritten.stderr
    );
    assert_eq!(text(), whole, "until it is finished");
    on("cut", "resume", &[]);
    let after = text();
    assert!(after.starts_with(first) && !after.ends_with(second), "{after}");
    let again = on("cut", "rewrite", &["2"]).stdout;
    assert_ne!(after, text(), "another seed");
    assert!(text().ends_with(&again), "{again}");
    on("cut", "extend", &["1", "20"]);
    let longer = text();
    assert!(
        longer.starts_with(first.trim_end()) && longer.len() > after.len(),
        "{longer}"
    );

    let finished = on("cut", "finish", &[]);
    assert_eq!(finished.stdout, longer);
    assert!(finished.stderr.contains(" 1 variants\n") && finished.stderr.contains(" 2 variants\n"));
    assert!(!folder.path().join("cut").exists());
    let gone = Run::of(write_draft().arg("show").arg(folder.path().join("cut")));
    gone.assert_failed(1, &["cannot read the draft", "cut"]);
}

/// The draft finds the picture again, and notices when it is another one.
#[test]
fn a_draft_of_a_program_in_c_has_its_picture() {
    let case = Case::load("flat_f32");
    let bundle = bundle(&case.dir, Precision::Fp32);
    let folder = tempfile::tempdir().unwrap();
    let (draft, picture) = (folder.path().join("draft"), folder.path().join("picture.png"));
    let images = fixtures().join("processor/images");
    std::fs::copy(images.join("bits_40x40.png"), &picture).unwrap();
    let begin = |draft: &Path, tokens: &str| {
        let mut command = write_draft();
        command.arg("begin").arg(draft).arg(&bundle);
        Run::of(command.args(["What is this?", "20", tokens]).arg(&picture))
    };
    let resume = || Run::of(write_draft().arg("resume").arg(&draft).arg(&bundle));
    let whole = begin(&folder.path().join("whole"), "1000000");
    assert_eq!(whole.status, Some(0), "{}", whole.stderr);
    let cut = begin(&draft, "4");
    assert!(cut.stderr.contains("ended for reason 5"), "{}", cut.stderr);
    std::fs::copy(images.join("grey16_40x30.png"), &picture).unwrap();
    resume().assert_failed(1, &["picture.png", "was changed"]);
    std::fs::copy(images.join("bits_40x40.png"), &picture).unwrap();
    let resumed = resume();
    assert_eq!(resumed.status, Some(0), "{}", resumed.stderr);
    assert_eq!(resumed.stdout, whole.stdout);
    begin(&draft, "4").assert_failed(1, &["cannot begin the draft", "is a draft already"]);
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
