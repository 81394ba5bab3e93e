//! Preference pairs of corrected texts, by the real program.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::process::{Command, Output};

use lwv_data::Dataset;
use serde_json::{Value, json};

/// A folder with `corrections.jsonl` of these rows, and pictures `1.png` to `12.png`.
fn folder(rows: &[Value]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    std::fs::write(folder.path().join("corrections.jsonl"), lines).unwrap();
    for page in 1..=12 {
        std::fs::write(folder.path().join(format!("{page}.png")), "x").unwrap();
    }
    folder
}

fn images(count: usize) -> Vec<String> {
    (1..=count).map(|page| format!("{page}.png")).collect()
}

fn deck(id: &str, original: &[&str], revised: &[&str]) -> Value {
    json!({"id": id, "instruction": "Write a lecture.", "images": images(original.len()),
        "original": original, "revised": revised})
}

struct Run {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

fn pairs(folder: &Path, arguments: &str) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lwv-data"));
    command
        .current_dir(folder)
        .args(["pairs", "corrections.jsonl", "--out", "pairs.jsonl"]);
    let Output {
        status,
        stdout,
        stderr,
    } = command.args(arguments.split_whitespace()).output().unwrap();
    let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(!stderr.contains("panicked"), "{stderr}");
    Run {
        status: status.code(),
        stdout,
        stderr,
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Pairs of a run that must succeed.
fn made(folder: &Path, arguments: &str) -> Vec<Value> {
    let run = pairs(folder, arguments);
    assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""));
    lines(&folder.join("pairs.jsonl"))
}

fn json_of(run: &Run) -> Value {
    serde_json::from_str(run.stdout.lines().last().unwrap()).unwrap()
}

#[test]
fn a_pair_is_exactly_this() {
    let folder = folder(&[deck("deck-1", &["One.", "Two."], &["One!", "Two."])]);
    let text = |folder: &Path| {
        made(folder, "");
        std::fs::read_to_string(folder.join("pairs.jsonl")).unwrap()
    };
    let expected = [
        r#"{"id":"deck-1/1","conversations":[{"from":"human","value":"<image>Write a lecture."}],"chosen":{"from":"gpt","value":"One!"},"rejected":{"from":"gpt","value":"One."},"images":["1.png"],"weight":1.0,"open":false,"script":"deck-1","prefix":1,"pages":2}"#,
        r#"{"id":"deck-1/2","conversations":[{"from":"human","value":"<image><image>Write a lecture."}],"chosen":{"from":"gpt","value":"One!\n\nTwo."},"rejected":{"from":"gpt","value":"One.\n\nTwo."},"images":["1.png","2.png"],"weight":1.0,"open":false,"script":"deck-1","prefix":2,"pages":2}"#,
    ];
    assert_eq!(text(folder.path()), expected.join("\n") + "\n");
    assert!(folder.path().join("pairs.jsonl.recipe.json").exists());
    // Nothing but what was asked for is left.
    let names = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(names, 12 + 3);
}

#[test]
fn the_trainer_reads_what_is_written() {
    let folder = folder(&[deck("d", &["", "b"], &["A", "B"])]);
    made(folder.path(), "--script-weight equal-scripts");
    let dataset = Dataset::open(&[folder.path().join("pairs.jsonl")], None).unwrap();
    assert_eq!(dataset.len(), 2);
    let first = dataset.pair(0).unwrap();
    assert_eq!(
        (first.weight, first.is_open, first.chosen.images.len()),
        (0.5, false, 1)
    );
    assert_eq!(first.rejected.messages[1].said(), "");
    assert_eq!(dataset.pair(1).unwrap().chosen.messages[1].said(), "A\n\nB");
}

#[test]
fn identical_prefixes_are_dropped_and_counted() {
    let original: Vec<String> = (1..=12).map(|page| format!("Page {page}.")).collect();
    let mut revised = original.clone();
    revised[6] = "Page seven.".into();
    let row = json!({"id": "d", "instruction": "Write.", "images": images(12), "original": original, "revised": revised});
    let folder = folder(&[row, deck("same", &["a"], &["a"])]);
    let run = pairs(folder.path(), "--json");
    let counts = &json_of(&run)["train"];
    assert_eq!(
        (
            &counts["pairs"],
            &counts["identical"],
            &counts["untouched"],
            &counts["first_corrections"][6]
        ),
        (&6.into(), &7.into(), &1.into(), &1.into())
    );
    let prefixes: Vec<u64> = lines(&folder.path().join("pairs.jsonl"))
        .iter()
        .map(|pair| pair["prefix"].as_u64().unwrap())
        .collect();
    assert_eq!(prefixes, [7, 8, 9, 10, 11, 12]);
}

#[test]
fn rows_that_do_not_fit_are_named_and_left_out() {
    let good = deck("good", &["a"], &["A"]);
    let folder = folder(&[
        deck("short", &["a", "b"], &["A"]),
        good,
        json!({"id": "x", "instruction": "Write.", "original": ["a"]}),
        json!({"id": "lost", "instruction": "Write.", "images": ["lost.png"], "original": ["a"], "revised": ["A"]}),
    ]);
    let run = pairs(folder.path(), "--json");
    assert_eq!(
        (run.status, json_of(&run)["unusable"].as_u64()),
        (Some(1), Some(3))
    );
    for words in [
        "corrections.jsonl:1`: `revised` of `short` has `1` pages, but `original` has `2`",
        "corrections.jsonl:3`: `revised` is missing",
        "corrections.jsonl:4`: `images` names `lost.png`, which is no file",
    ] {
        assert!(run.stderr.contains(words), "{words} is not in {}", run.stderr);
    }
    assert_eq!(lines(&folder.path().join("pairs.jsonl")).len(), 1);
    std::fs::remove_file(folder.path().join("pairs.jsonl")).unwrap();
    let strict = pairs(folder.path(), "--strict");
    assert_eq!(strict.status, Some(1));
    assert!(!folder.path().join("pairs.jsonl").exists());
}

#[test]
fn nothing_corrected_writes_nothing() {
    let folder = folder(&[deck("same", &["a", "b"], &["a", "b "])]);
    let run = pairs(folder.path(), "");
    assert_eq!(run.status, Some(1));
    assert!(
        run.stderr
            .contains("no pair was made: of `1` texts, nothing was corrected in `1`"),
        "{}",
        run.stderr
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 13);
}

#[test]
fn texts_are_held_out_whole() {
    let rows: Vec<Value> = (0..10)
        .map(|i| deck(&format!("deck-{i}"), &["a", "b", "c"], &["A", "b", "c"]))
        .collect();
    let folder = folder(&rows);
    let scripts = |name: &str| {
        let mut scripts: Vec<String> = lines(&folder.path().join(name))
            .iter()
            .map(|pair| pair["script"].to_string())
            .collect();
        scripts.dedup();
        scripts
    };
    made(folder.path(), "--val-size 0.3 --eval-out held-out.jsonl --seed 7");
    let (train, held_out) = (scripts("pairs.jsonl"), scripts("held-out.jsonl"));
    assert_eq!((train.len(), held_out.len()), (7, 3));
    assert!(held_out.iter().all(|script| !train.contains(script)));
    made(folder.path(), "--val-size 3 --eval-out held-out.jsonl --seed 8");
    assert_ne!(held_out, scripts("held-out.jsonl"));
    let without = pairs(folder.path(), "--val-size 0.3");
    assert_eq!(without.status, Some(2));
}

#[test]
fn what_would_mix_the_two_files_is_refused() {
    let folder = folder(&[deck("d", &["a"], &["A"]), deck("d", &["b"], &["B"])]);
    let run = pairs(folder.path(), "");
    assert_eq!(run.status, Some(1));
    assert!(
        run.stderr
            .contains("corrections.jsonl:2`: `id` is `d`, as in an earlier row"),
        "{}",
        run.stderr
    );
    for arguments in [
        "--val-size 0.5 --eval-out pairs.jsonl",
        "--val-size nan --eval-out x.jsonl",
    ] {
        let run = pairs(folder.path(), arguments);
        assert!(
            run.status == Some(1) && run.stderr.contains("error: "),
            "{}",
            run.stderr
        );
    }
}

#[test]
fn shorter_pages_null_fields_and_a_system_prompt() {
    let row = json!({"id": "d", "instruction": "写。", "system": "You write.", "images": null,
        "original": ["第一页是河和房子。", "二"], "revised": ["第一页是河。", "二"]});
    let folder = folder(&[row]);
    let pairs = made(folder.path(), "--script-weight equal-scripts");
    assert_eq!(
        pairs[1]["conversations"][0],
        json!({"from": "system", "value": "You write."})
    );
    assert_eq!(pairs[1]["chosen"]["value"], "第一页是河。\n\n二");
    assert_eq!(pairs[1]["rejected"]["value"], "第一页是河和房子。\n\n二");
    assert!(pairs.iter().all(|pair| pair["weight"] == 0.5));
}

#[test]
fn texts_without_pages_are_cut_where_they_were_corrected() {
    let text = |id: &str, original: &str, revised: &str| json!({"id": id, "instruction": "Write.", "original": original, "revised": revised});
    let folder = folder(&[
        text("sections", "# A\nOne.\n# B\nTwo.", "# A\nOne!\n# B\nTwo."),
        text(
            "edits",
            "第一页是河。第二页是房子。第三页是花园。",
            "第一页是河。第二页是桥。第三页是花园。",
        ),
    ]);
    let pairs = made(folder.path(), "");
    let shown: Vec<_> = pairs
        .iter()
        .map(|pair| (pair["chosen"]["value"].as_str().unwrap(), pair["open"] == true))
        .collect();
    let expected = [
        ("# A\nOne!\n", true),
        ("# A\nOne!\n# B\nTwo.", false),
        ("第一页是河。第二页是桥。", true),
        ("第一页是河。第二页是桥。第三页是花园。", false),
    ];
    assert_eq!(shown, expected);
    assert!(pairs.iter().all(|pair| pair.get("images").is_none()));
    let closed = made(folder.path(), "--ends closed");
    assert!(closed.iter().all(|pair| pair["open"] == false));
    let whole = made(folder.path(), "--prefixes whole");
    assert_eq!(
        whole.iter().map(|pair| &pair["prefix"]).collect::<Vec<_>>(),
        [2, 2]
    );
}

#[test]
fn pictures_are_found_from_another_folder() {
    let folder = folder(&[deck("d", &["a"], &["A"])]);
    std::fs::create_dir(folder.path().join("out")).unwrap();
    let run = pairs(folder.path(), "--out out/pairs.jsonl");
    assert_eq!(run.status, Some(2), "one file to write to");
    let image = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lwv-data"));
        command
            .current_dir(folder.path())
            .args(["pairs", "corrections.jsonl", "--out", "out/pairs.jsonl"]);
        assert!(command.args(arguments).output().unwrap().status.success());
        lines(&folder.path().join("out/pairs.jsonl"))[0]["images"][0]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let absolute = image(&[]);
    assert!(Path::new(&absolute).is_absolute() && Path::new(&absolute).is_file());
    assert_eq!(image(&["--media-dir", "."]), "1.png");
}
