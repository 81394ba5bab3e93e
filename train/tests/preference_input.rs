//! What is wrong with pairs, or with how they are to be learned, is named.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/training.rs"]
mod training;

use std::path::Path;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};
use training::{Training, contents, copy_folder, fixtures, spoil, tiny};

const GOOD: &str =
    r#"{"instruction": "Write a story.", "chosen": "The house.", "rejected": "The river, the river."}"#;

/// Settings of a training of two steps, each saved.
const SHORT: &str = "--max-steps 2 --save-steps 1 --learning-rate 1e-3";

/// A dataset with one pair that cannot be used is trained on without it, unless that is forbidden or nothing else is there.
fn check_left_out(case: &str, pair: &Value, words: &[&str]) {
    let line = pair.to_string();
    let training = Training::preferred(case, SHORT).with_lines(&[GOOD, &line, GOOD]);
    let run = training.finish("");
    run.assert_says(&["warning", "1 samples", "data.jsonl:2"]);
    run.assert_says(words);
    assert_eq!(run.json()["left_out"], 1);

    let strict = Training::preferred(case, SHORT).with_lines(&[GOOD, &line, GOOD]);
    let run = strict.run("--strict");
    run.assert_failed(1, &["data.jsonl:2", "--strict"]);
    run.assert_says(words);
    assert!(!strict.out("config.json").exists());

    let alone = Training::preferred(case, SHORT).with_lines(&[&line, &line]);
    let run = alone.run("");
    run.assert_failed(1, &["2 samples", "data.jsonl:1"]);
    run.assert_says(words);
    assert!(!alone.out("reference").exists());
}

#[test]
fn pairs_that_cannot_be_used() {
    let message = |role: &str, content: &str| json!({"role": role, "content": content});
    let whole = |asked: &str, said: &str| json!([message("user", asked), message("assistant", said)]);
    for (pair, words) in [
        (
            json!({"chosen": whole("a", "c"), "rejected": whole("b", "d")}),
            ["different prompts", "message `0`"],
        ),
        (
            json!({"instruction": "a", "chosen": "b", "rejected": " b\n"}),
            ["the same", "nothing to prefer"],
        ),
        (
            json!({"instruction": "a", "chosen": "b"}),
            ["`rejected`", "`chosen`"],
        ),
        (
            json!({"instruction": "a", "chosen": "b", "rejected": null}),
            ["`rejected`", "null"],
        ),
        (
            json!({"instruction": "a", "chosen": "", "rejected": "b"}),
            ["answer", "empty"],
        ),
        (
            json!({"instruction": "a", "chosen": "b", "rejected": "c", "weight": 0}),
            ["`weight`", "above 0"],
        ),
        (
            json!({"instruction": "a", "chosen": "b", "rejected": "c", "weight": -1.5}),
            ["`weight`", "above 0"],
        ),
        (
            json!({"instruction": "a", "chosen": "b", "rejected": "c", "weight": "2"}),
            ["`weight`", "above 0"],
        ),
        (
            json!({"instruction": "<image>a", "chosen": "b", "rejected": "c", "images": ["images/a_64x48.png"]}),
            ["image", "llama"],
        ),
    ] {
        let words = if words[1] == "llama" {
            &words[..1]
        } else {
            &words[..]
        };
        check_left_out("llama", &pair, words);
    }
}

#[test]
fn lines_that_are_no_pairs() {
    let training = Training::preferred("llama", SHORT).with_lines(&[GOOD, r#"{"instruction": "a", "#, "[]"]);
    let run = training.finish("");
    run.assert_says(&["2 samples", "data.jsonl:2", "JSON"]);
    assert_eq!(run.json()["left_out"], 2);
}

#[test]
fn pictures_of_pairs_that_cannot_be_used() {
    let pair = |asked: &str, image: &str| json!({"instruction": asked, "chosen": "b", "rejected": "c", "images": [image]});
    check_left_out(
        "nested_f32",
        &pair("<image>a", "images/none.png"),
        &["images/none.png"],
    );
    check_left_out(
        "nested_f32",
        &pair("<image><image>a", "images/a_64x48.png"),
        &["`1`", "`2`", "<image>"],
    );
}

/// A picture whose header is sound is counted, and found out when it is decoded: for the reference, and again for a step.
#[test]
fn a_picture_of_a_pair_that_breaks_off() {
    let training = Training::preferred("nested_f32", SHORT);
    let cut = training.file("cut.png");
    let picture = std::fs::read(fixtures().join("images/b_100x60.png")).unwrap();
    std::fs::write(&cut, &picture[..picture.len() / 2]).unwrap();
    let pair =
        json!({"instruction": "<image>a", "chosen": "b", "rejected": "c", "images": [cut]}).to_string();
    let training = training.with_lines(&[&pair, GOOD]);
    let run = training.finish("");
    run.assert_says(&["warning", "data.jsonl:1"]);
    assert_eq!(run.json()["left_out"], 1);
    std::fs::remove_dir_all(training.output()).unwrap();
    training.run("--strict").assert_failed(1, &["data.jsonl:1"]);
}

#[test]
fn pairs_that_are_too_long() {
    let long = format!(
        r#"{{"instruction": "a", "chosen": "b", "rejected": "{}"}}"#,
        "the river ".repeat(60)
    );
    let training = Training::preferred("llama", SHORT).with_lines(&[GOOD, &long]);
    let run = training.finish("--max-length 100");
    assert_eq!(run.json()["left_out"], 1);
    run.assert_says(&["warning", "1 samples are longer than `max-length`"]);
    let strict = Training::preferred("llama", SHORT).with_lines(&[GOOD, &long]);
    strict
        .run("--max-length 100 --strict")
        .assert_failed(1, &["max-length", "--strict"]);
    strict
        .run("--max-length 3")
        .assert_failed(1, &["2 samples", "max-length"]);
}

#[test]
fn datasets_of_another_kind() {
    let conversations = Training::of("llama", SHORT);
    let lines = training::lines(conversations.dataset());
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    Training::preferred("llama", SHORT)
        .with_lines(&lines)
        .run("")
        .assert_failed(1, &["data.jsonl:1", "`chosen` and `rejected`"]);
    for pair in [
        GOOD.to_owned(),
        json!({"conversations": [{"from": "human", "value": "a"}], "chosen": "b", "rejected": "c"})
            .to_string(),
        json!({"messages": [{"role": "user", "content": "a"}], "chosen": "b", "rejected": "c"}).to_string(),
        json!({"chosen": [], "rejected": []}).to_string(),
    ] {
        Training::of("llama", SHORT)
            .with_lines(&[&pair])
            .run("")
            .assert_failed(1, &["data.jsonl:1", "`chosen`", "iter-dpo"]);
    }
    let parquet = Training::preferred("llama", SHORT).with_lines(&[]);
    write_parquet(parquet.dataset());
    parquet
        .run("")
        .assert_failed(1, &["data.jsonl", "JSON only", "one record a line"]);
}

/// Of the published dataset's columns, without a row.
fn write_parquet(path: &Path) {
    let schema = "message schema {
        optional group messages (LIST) { repeated group list { optional group element {
            optional binary content (STRING); optional binary role (STRING); } } }
        optional group images (LIST) { repeated group list { optional group element {
            optional binary bytes; optional binary path (STRING); } } }
    }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let file = std::fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(WriterProperties::default())).unwrap();
    let mut group = writer.next_row_group().unwrap();
    while let Some(mut column) = group.next_column().unwrap() {
        column
            .typed::<ByteArrayType>()
            .write_batch(&[ByteArray::from("user")], Some(&[4]), Some(&[0]))
            .unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn settings_of_pairs_that_cannot_be_used() {
    let training = Training::preferred("llama", "");
    let unknown = training.run("--pref-loss sigmoid,simpo");
    unknown.assert_failed(2, &["simpo", "sigmoid", "apo_zero", "sft"]);
    for (arguments, words) in [
        (
            "--pref-loss sigmoid,sft --pref-loss-weights 1",
            ["pref-loss-weights", "one for each"],
        ),
        ("--pref-loss-weights 1,2", ["pref-loss-weights", "one for each"]),
        ("--pref-loss-weights -1", ["pref-loss-weights", "at least 0"]),
        ("--pref-beta 0", ["pref-beta", "above 0"]),
        ("--pref-ftx -1", ["pref-ftx", "at least 0"]),
        ("--ld-alpha 1.5", ["ld-alpha", "from 0 to 1"]),
        ("--edit-weight 0", ["edit-weight", "above 0"]),
        ("--dpo-label-smoothing 0.5", ["dpo-label-smoothing", "below 0.5"]),
        ("--pref-loss exo_pair", ["dpo-label-smoothing", "exo_pair"]),
        ("--val-size 99", ["hold out", "`99`"]),
    ] {
        let arguments = arguments.replace(" -1", "=-1");
        training.run(&arguments).assert_failed(1, &words);
    }
    Training::of("llama", "")
        .run("--pref-beta 0.1")
        .assert_failed(2, &["--pref-beta"]);
    let recipe = training.file("my.toml");
    std::fs::write(&recipe, "seed = 1\npref-beta = -0.1\n").unwrap();
    training
        .run(&format!("--recipe {}", recipe.display()))
        .assert_failed(1, &["my.toml", "line 2", "pref-beta"]);
}

#[test]
fn a_reference_that_is_no_number() {
    for (settings, more) in [("", ""), ("--finetuning-type lora", ""), ("", "--reference-free")] {
        let training = Training::preferred("llama", &format!("{SHORT} {settings}"));
        let model = training.file("model");
        copy_folder(&tiny("llama"), &model);
        spoil(&model, "model.norm.weight", f32::NAN);
        let training = training.with_model(&model).with_lines(&[GOOD]);
        let words: &[&str] = if more.is_empty() {
            &["reference", "data.jsonl:1", "NaN"]
        } else {
            &["step 1", "loss", "data.jsonl:1"]
        };
        training.run(more).assert_failed(1, words);
        assert!(training.checkpoints().is_empty());
        assert!(!training.out("config.json").exists() && !training.out("reference.json").exists());
    }
}

#[test]
fn going_on_with_another_preference() {
    let training = Training::preferred("llama", SHORT);
    training.finish("");
    let before = contents(&training.checkpoint(2));
    for (arguments, words) in [
        ("--pref-beta 0.2", ["pref-beta", "0.1", "0.2"]),
        ("--edit-weight 2", ["edit-weight", "1", "2"]),
        ("--pref-loss ipo", ["pref-loss", "sigmoid", "ipo"]),
        ("--reference-free", ["reference-free", "false", "true"]),
    ] {
        training
            .run(&format!("--resume {arguments}"))
            .assert_failed(1, &words);
        assert!(contents(&training.checkpoint(2)) == before);
    }
    training.run("").assert_failed(1, &["checkpoint-2", "--resume"]);
    let cache = training.file("cache");
    training.finish(&format!("--resume --reference-cache {}", cache.display()));
}

#[test]
fn going_on_with_another_kind_of_training() {
    let supervised = Training::of("llama", SHORT);
    supervised.finish("");
    let preferred = Training::preferred("llama", SHORT);
    preferred.finish("");
    let before = [&supervised, &preferred].map(|training| contents(training.output()));
    let outputs = [&supervised, &preferred].map(|training| training.output().to_owned());
    let supervised = supervised.with_output(&outputs[1]);
    let preferred = preferred.with_output(&outputs[0]);
    for training in [&supervised, &preferred] {
        training
            .run("--resume")
            .assert_failed(1, &["checkpoint-2", "another folder"]);
        training.run("").assert_failed(1, &["checkpoint-2", "--resume"]);
    }
    assert!(before == outputs.each_ref().map(|output| contents(output)));
}
