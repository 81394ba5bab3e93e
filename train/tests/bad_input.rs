//! What is wrong is named, and what was saved before stays whole.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/training.rs"]
mod training;

use std::path::Path;
use std::process::{Command, Stdio};

use training::{Training, assert_loads, contents, copy_folder, fixtures, lines, names, spoil, tiny};

const GOOD: &str = r#"{"instruction": "Write a story.", "output": "The house stood beside the river."}"#;

/// Settings of a training of two steps, each saved.
const SHORT: &str = "--max-steps 2 --save-steps 1 --learning-rate 1e-3";

/// A dataset with one sample that cannot be used is trained on without it, unless that is forbidden.
fn check_left_out(case: &str, line: &str, words: &[&str]) {
    let training = Training::of(case, SHORT).with_lines(&[GOOD, line, GOOD]);
    let run = training.finish("");
    run.assert_says(&["warning", "1 samples", "data.jsonl:2"]);
    run.assert_says(words);
    assert_eq!(run.json()["left_out"], 1);

    let strict = Training::of(case, SHORT).with_lines(&[GOOD, line, GOOD]);
    let run = strict.run("--strict");
    run.assert_failed(1, &["data.jsonl:2", "--strict"]);
    run.assert_says(words);
    assert!(!strict.out("config.json").exists());
}

#[test]
fn samples_that_cannot_be_used() {
    check_left_out("llama", r#"{"instruction": "a", "#, &["JSON"]);
    check_left_out("llama", r#"{"text": "a"}"#, &["text", "messages"]);
    check_left_out(
        "llama",
        r#"{"instruction": "a", "output": ""}"#,
        &["answer", "empty"],
    );
    let question = r#"{"messages": [{"role": "user", "content": "a"}]}"#;
    check_left_out("llama", question, &["assistant"]);
    let picture = r#"{"instruction": "<image> a", "output": "b", "images": ["images/a_64x48.png"]}"#;
    check_left_out("llama", picture, &["image"]);
}

#[test]
fn pictures_that_cannot_be_used() {
    let missing = r#"{"instruction": "<image> a", "output": "b", "images": ["images/none.png"]}"#;
    check_left_out("nested_f32", missing, &["images/none.png"]);
    let count = r#"{"instruction": "<image><image> a", "output": "b", "images": ["images/a_64x48.png"]}"#;
    check_left_out("nested_f32", count, &["`1`", "`2`", "<image>"]);
}

/// A picture whose header is sound is counted, and found out when it is decoded.
#[test]
fn a_picture_that_breaks_off() {
    let training = Training::of("nested_f32", SHORT);
    let cut = training.file("cut.png");
    let picture = std::fs::read(fixtures().join("images/b_100x60.png")).unwrap();
    std::fs::write(&cut, &picture[..picture.len() / 2]).unwrap();
    let line = format!(
        r#"{{"instruction": "<image> a", "output": "b", "images": ["{}"]}}"#,
        cut.display()
    );
    let training = training.with_lines(&[&line, GOOD]);
    let run = training.finish("");
    run.assert_says(&["warning", "data.jsonl:1"]);
    assert_eq!(run.json()["left_out"], 1);
    std::fs::remove_dir_all(training.output()).unwrap();
    training.run("--strict").assert_failed(1, &["data.jsonl:1"]);
}

/// What was left out is looked at again when it may have been mended.
#[test]
fn a_picture_that_comes_later() {
    let training = Training::of("nested_f32", SHORT);
    let late = training.file("late.png");
    let line = format!(
        r#"{{"instruction": "<image> a", "output": "b", "images": ["{}"]}}"#,
        late.display()
    );
    let training = training.with_lines(&[&line, GOOD]);
    assert_eq!(training.finish("").json()["left_out"], 1);
    for step in training.checkpoints() {
        std::fs::remove_dir_all(training.checkpoint(step)).unwrap();
    }
    std::fs::copy(fixtures().join("images/a_64x48.png"), &late).unwrap();
    assert_eq!(training.finish("").json()["left_out"], 0);
}

#[test]
fn datasets_that_cannot_be_used() {
    let none = Training::of("llama", SHORT).with_lines(&[r#"{"instruction": "a", "output": ""}"#]);
    none.run("").assert_failed(1, &["data.jsonl:1", "empty"]);
    let long = Training::of("llama", SHORT).with_lines(&[GOOD]);
    long.run("--max-length 3").assert_failed(1, &["max-length"]);
    let blank = Training::of("llama", SHORT).with_lines(&["", " "]);
    blank.run("").assert_failed(1, &["data.jsonl"]);
    let missing = Training::of("llama", SHORT).with_lines(&[GOOD]);
    std::fs::remove_file(missing.dataset()).unwrap();
    missing.run("").assert_failed(1, &["data.jsonl"]);
    let few = Training::of("llama", SHORT).with_lines(&[GOOD, GOOD]);
    few.run("--val-size 2").assert_failed(1, &["hold out `2` of `2`"]);
}

#[test]
fn models_that_take_tiles_are_not_trained() {
    let training = Training::of("llama", SHORT)
        .with_model(&tiny("smolvlm"))
        .with_lines(&[GOOD]);
    training
        .run("")
        .assert_failed(1, &["`smolvlm`", "cannot be trained"]);
    assert!(!training.out("config.json").exists());
}

#[test]
fn models_that_cannot_be_used() {
    let missing = Training::of("llama", SHORT).with_model(Path::new("no-such-model"));
    missing.run("").assert_failed(1, &["no-such-model"]);
    let training = Training::of("llama", SHORT);
    let model = training.file("model");
    copy_folder(&tiny("llama"), &model);
    let weights = model.join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() - 10]).unwrap();
    let training = training.with_model(&model);
    training
        .run("")
        .assert_failed(1, &["model.safetensors", "cut short"]);
    std::fs::write(&weights, &bytes).unwrap();
    let own = training.with_output(&model);
    own.run("").assert_failed(1, &["output-dir"]);
    assert!(std::fs::read(&weights).unwrap() == bytes);
}

#[test]
fn settings_that_cannot_be_used() {
    let training = Training::of("llama", "");
    training
        .run("--lerning-rate 1")
        .assert_failed(2, &["--lerning-rate"]);
    training
        .run("--learning-rate fast")
        .assert_failed(2, &["fast", "--learning-rate"]);
    training
        .run("--learning-rate 0")
        .assert_failed(1, &["learning-rate", "above 0"]);
    training
        .run("--finetuning-type half")
        .assert_failed(2, &["half", "full", "lora"]);
    training
        .run("--finetuning-type lora --lora-target no_such_layer")
        .assert_failed(1, &["lora-target"]);
    training
        .run("--keep-best")
        .assert_failed(1, &["keep-best", "val-size"]);
    training
        .run("--keep-best --val-size 1 --save-strategy no")
        .assert_failed(1, &["keep-best", "save-strategy"]);
    training
        .run("--recipe no-such.toml")
        .assert_failed(1, &["no-such.toml"]);
    let recipe = training.file("my.toml");
    std::fs::write(&recipe, "seed = 1\nlerning-rate = 1e-3\n").unwrap();
    training
        .run(&format!("--recipe {}", recipe.display()))
        .assert_failed(1, &["my.toml", "line 2", "lerning-rate"]);
    if !cfg!(feature = "cuda") {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lwv-train"));
        command.args(["sft", "--device", "cuda", "--dataset"]);
        command.arg(training.dataset()).arg("--model").arg(tiny("llama"));
        command.arg("--output-dir").arg(training.output());
        training::Run::of(&mut command).assert_failed(1, &["cuda"]);
    }
}

#[test]
fn weights_that_are_no_numbers() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let training = Training::of("llama", SHORT);
        let model = training.file("model");
        copy_folder(&tiny("llama"), &model);
        spoil(&model, "model.norm.weight", value);
        let training = training.with_model(&model).with_lines(&[GOOD]);
        training
            .run("")
            .assert_failed(1, &["step 1", "loss", "data.jsonl:1"]);
        assert!(training.checkpoints().is_empty());
        assert!(!training.out("config.json").exists());
    }
}

/// Far too large a learning rate: the steps before are saved and stay.
#[test]
fn a_training_that_diverges() {
    let settings = "--max-steps 20 --save-steps 1 --learning-rate 1e37 --max-grad-norm 0";
    let training = Training::of("llama", settings);
    let run = training.run("");
    run.assert_failed(1, &["step", "text.jsonl:"]);
    let last = training.steps_done();
    run.assert_says(&[&format!("step {}:", last + 1)]);
    assert_eq!(training.checkpoints(), (1..=last).collect::<Vec<_>>());
    assert!(last >= 1 && !training.out("config.json").exists());
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that was skipped says so")]
fn a_full_disk() {
    let sample = Training::of("llama", SHORT);
    sample.finish("");
    let pages = |bytes: &Vec<u8>| bytes.len().div_ceil(4096) * 4;
    let checkpoint: usize = contents(&sample.checkpoint(1)).values().map(pages).sum();

    let disk = sample.file("disk");
    std::fs::create_dir(&disk).unwrap();
    // Room for one checkpoint and half of another.
    let mounted = Command::new("mount")
        .args([
            "-t",
            "tmpfs",
            "-o",
            &format!("size={}k", checkpoint * 3 / 2),
            "tmpfs",
        ])
        .arg(&disk)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        eprintln!("skipped: mounting a small file system needs more rights");
        return;
    }
    let full = Training::of("llama", SHORT).with_output(&disk.join("out"));
    let run = full.run("");
    let left = names(full.output());
    let [expected, got] = [&sample, &full].map(|training| {
        let mut files = contents(&training.checkpoint(1));
        files.remove("recipe.json");
        files
    });
    let loads = std::panic::catch_unwind(|| assert_loads(&full.checkpoint(1)));
    Command::new("umount").arg(&disk).status().unwrap();
    run.assert_failed(1, &["checkpoint-2.partial", "space"]);
    assert_eq!(run.stderr.matches("space").count(), 1, "{}", run.stderr);
    assert_eq!(left, ["checkpoint-1", "lengths.json", "recipe.json"]);
    assert!(loads.is_ok());
    assert!(expected == got);
}

#[test]
fn going_on_with_something_else() {
    let training = Training::of("llama", "--max-steps 2 --save-steps 1");
    let lines = lines(training.dataset());
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let training = training.with_lines(&lines);
    training.finish("--learning-rate 1e-3");
    let before = contents(&training.checkpoint(2));
    let refuse = |arguments: &str, words: &[&str]| {
        training.run(arguments).assert_failed(1, words);
        assert!(contents(&training.checkpoint(2)) == before);
    };
    refuse(
        "--resume --learning-rate 1e-4",
        &["learning-rate", "0.001", "0.0001"],
    );
    refuse("--resume --learning-rate 1e-3 --seed 7", &["seed", "42", "7"]);
    refuse(
        "--resume --learning-rate 1e-3 --finetuning-type lora",
        &["finetuning-type", "lora"],
    );
    refuse("--learning-rate 1e-3", &["checkpoint-2", "--resume"]);
    refuse(
        "--learning-rate 1e-3 --resume no-such-checkpoint",
        &["no-such-checkpoint"],
    );

    let training = training.with_lines(&[&lines[..], &[GOOD]].concat());
    training
        .run("--resume --learning-rate 1e-3")
        .assert_failed(1, &["checkpoint-2", "dataset has changed"]);
    let training = training.with_lines(&lines);
    training.finish("--resume --learning-rate 1e-3");
}

#[test]
fn checkpoints_that_are_broken() {
    let training = Training::of("llama", SHORT);
    training.finish("");
    for (name, words) in [
        ("optimizer.safetensors", ["optimizer.safetensors", "cut short"]),
        ("model.safetensors", ["model.safetensors", "cut short"]),
        ("trainer_state.json", ["trainer_state.json", "JSON"]),
        ("recipe.json", ["recipe.json", "line"]),
    ] {
        let path = training.checkpoint(2).join(name);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        training.run("--resume").assert_failed(1, &words);
        std::fs::write(&path, whole).unwrap();
    }
    let optimizer = training.checkpoint(2).join("optimizer.safetensors");
    std::fs::copy(training.checkpoint(2).join("model.safetensors"), &optimizer).unwrap();
    training
        .run("--resume")
        .assert_failed(1, &["optimizer.safetensors", "exp_avg"]);
    std::fs::remove_file(&optimizer).unwrap();
    training
        .run("--resume")
        .assert_failed(1, &["optimizer.safetensors"]);
}

#[test]
fn places_that_cannot_be_written() {
    let training = Training::of("llama", SHORT);
    let file = training.file("file");
    std::fs::write(&file, "mine").unwrap();
    let training = training.with_output(&file.join("out"));
    training.run("").assert_failed(1, &["file/out"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
}
