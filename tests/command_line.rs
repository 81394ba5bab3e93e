//! What scripts rely on: last lines, keys, exit statuses, help.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use lwv_model::{Manifest, Precision};
use lwv_tests::{Case, Run, bundle, fixtures, lwv_export, lwv_serve, lwv_write};

#[test]
fn the_writer_ends_with_the_promised_object() {
    let case = Case::load("flat_f32");
    let bundle = bundle(&case.dir, Precision::Fp32);
    let prompt = &case.prompts["one_image"];
    let run = Run::of(
        lwv_write()
            .arg(&bundle)
            .args([
                "--raw-prompt",
                "--greedy",
                "--ignore-eos",
                "--max-new-tokens",
                "16",
                "--json",
            ])
            .arg("--image")
            .arg(fixtures().join(&prompt.images[0]))
            .arg("--prompt")
            .arg(&prompt.text),
    );
    let result = run.json();
    let mut keys: Vec<&str> = result.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    let promised = [
        "decode_tokens_per_second",
        "finish_reason",
        "loop_interventions",
        "guessed_tokens",
        "accepted_tokens",
        "peak_rss_bytes",
        "prefill_tokens_per_second",
        "prompt_tokens",
        "provider",
        "text",
        "token_ids",
    ];
    for key in promised {
        assert!(keys.contains(&key), "`{key}` is not among {keys:?}");
    }
    let tokens: Vec<u32> = serde_json::from_value(result["token_ids"].clone()).unwrap();
    assert_eq!(tokens, prompt.greedy_ids[..16]);
    assert_eq!(result["prompt_tokens"], prompt.input_ids.len());
    assert_eq!(result["finish_reason"], "max_tokens");
    assert!(result["peak_rss_bytes"].as_u64().unwrap() > 1 << 20);
}

/// Without `--raw-prompt` the request goes through the chat template, with what `--system` says in front.
#[test]
fn the_writer_puts_requests_into_the_chat_template() {
    for (name, prompt, system) in [
        ("nested_f32", "text", None),
        ("llama", "chat", Some("You write.")),
    ] {
        let case = Case::load(name);
        let expected = &case.prompts[prompt];
        let user = expected.messages.as_array().unwrap().last().unwrap();
        let mut command = lwv_write();
        command
            .arg(bundle(&case.dir, Precision::Fp32))
            .args(["--prompt", user["content"].as_str().unwrap()])
            .args(["--greedy", "--max-new-tokens", "64", "--json"]);
        if let Some(system) = system {
            command.args(["--system", system]);
        }
        let result = Run::of(&mut command).json();
        let tokens: Vec<u32> = serde_json::from_value(result["token_ids"].clone()).unwrap();
        assert_eq!(tokens, expected.greedy_ids, "{name}");
        assert_eq!(result["prompt_tokens"], expected.input_ids.len(), "{name}");
        assert_eq!(result["text"], expected.greedy_text.as_str(), "{name}");
        assert_eq!(result["provider"], "CPUExecutionProvider");
    }
}

#[test]
fn a_seed_repeats_a_text_and_out_holds_all_of_it() {
    let case = Case::load("llama");
    let bundle = bundle(&case.dir, Precision::Fp32);
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, seed: &str| {
        let file = folder.path().join(name);
        let run = Run::of(
            lwv_write()
                .arg(&bundle)
                .args([
                    "--raw-prompt",
                    "--prompt",
                    "a b c",
                    "--ignore-eos",
                    "--max-new-tokens",
                    "24",
                    "--json",
                ])
                .args(["--temperature", "1.5", "--seed", seed, "--out"])
                .arg(&file),
        );
        let text = run.json()["text"].as_str().unwrap().to_owned();
        assert_eq!(
            std::fs::read_to_string(file).unwrap().trim_end_matches('\n'),
            text.trim_end_matches('\n')
        );
        text
    };
    let first = write("a.txt", "7");
    assert_eq!(first, write("b.txt", "7"));
    assert_ne!(first, write("c.txt", "8"));
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        left.iter()
            .all(|name| !name.to_string_lossy().contains("partial")),
        "{left:?}"
    );
}

#[test]
fn the_exporter_ends_with_the_promised_object() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::of(
        lwv_export()
            .arg(&Case::load("nested_f32").dir)
            .arg(folder.path().join("bundle"))
            .args(["--fp16", "--verify", "--json", "--onnxruntime"])
            .arg(lwv_tests::library()),
    );
    let result = run.json();
    assert!(
        result["seconds"].as_f64().unwrap() > 0.0 && result["peak_rss_bytes"].as_u64().unwrap() > 1 << 20
    );
    assert!(result["bytes_written"].as_u64().unwrap() > 100_000);
    for graph in [
        "vision_encoder",
        "embed_tokens",
        "embedding",
        "decoder_model_merged",
    ] {
        let graph = &result["graphs"][graph];
        assert!(graph["nodes"].as_u64().unwrap() > 0 && graph["opset"] == 18 && graph["precision"] == "fp16");
    }
    assert_eq!(result["parity"]["passed"], true);
    assert!(folder.path().join("bundle/parity.json").exists());
}

#[test]
fn help_has_examples_and_wrong_usage_is_two() {
    for command in [lwv_export, lwv_write, lwv_serve] {
        let help = Run::of(command().arg("--help"));
        assert_eq!(help.status, Some(0));
        assert!(help.stdout.contains("Examples:"), "{}", help.stdout);
        assert_eq!(Run::of(command().arg("--no-such-flag")).status, Some(2));
        assert_eq!(Run::of(&mut command()).status, Some(2));
    }
}

#[test]
fn what_texts_take_is_told_without_writing() {
    let case = Case::load("llama");
    let bundle = bundle(&case.dir, Precision::Fp32);
    // No library is needed for it.
    let run = Run::of(
        lwv_write()
            .arg(&bundle)
            .args(["--estimate", "--bandwidth", "1"])
            .env("LWV_ONNXRUNTIME", "/nowhere"),
    );
    assert_eq!(run.status, Some(0), "{}", run.stderr);
    let lines: Vec<&str> = run.stdout.lines().collect();
    let context = Manifest::from_dir(&bundle).unwrap().context_length.to_string();
    assert!(
        lines.iter().any(|line| line.trim_start().starts_with(&context)),
        "{}",
        run.stdout
    );
    assert!(lines[0].ends_with("tokens/s at most"), "{}", run.stdout);
}

/// Tokens of a file are read as often as it takes, and a length beyond the context is an error that says so.
#[test]
fn speed_is_measured_at_the_lengths_that_were_named() {
    let folder = tempfile::tempdir().unwrap();
    let ids = folder.path().join("ids.json");
    std::fs::write(&ids, "[5, 6, 7]").unwrap();
    let bundle = bundle(&Case::load("llama").dir, Precision::Fp32);
    let measure = |lengths: &str| {
        let mut command = lwv_write();
        command.arg("bench").arg(&bundle).arg("--prompt-ids").arg(&ids);
        Run::of(command.args([
            "--lengths",
            lengths,
            "--new-tokens",
            "4",
            "--runs",
            "2",
            "--threads",
            "1",
            "--json",
        ]))
    };
    let run = measure("2,8");
    run.assert_done();
    let rows: Vec<serde_json::Value> = run
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows.iter().map(|row| &row["tokens"]).collect::<Vec<_>>(), [2, 8]);
    for row in &rows {
        assert_eq!((&row["runs"], &row["threads"]), (&2.into(), &1.into()));
        for figure in [
            "prefill_tokens_per_second",
            "decode_tokens_per_second",
            "time_to_first_token",
            "decode_bytes_per_second",
        ] {
            assert!(row[figure].as_f64().unwrap() > 0.0, "{figure}: {row}");
        }
    }
    let context = Manifest::from_dir(&bundle).unwrap().context_length;
    measure(&context.to_string()).assert_failed(1, &[&context.to_string(), "--lengths"]);
}

#[test]
fn engines_that_are_kept_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::of(
        lwv_write()
            .arg("--list-engines")
            .arg("--engines")
            .arg(folder.path()),
    );
    assert_eq!((run.status, run.stdout.trim()), (Some(0), "0 engines, 0.0 MB"));
    Run::of(&mut lwv_write()).assert_failed(2, &["--list-engines"]);
}

/// A device that is named runs or says why not, before minutes are spent.
#[test]
fn devices_that_run_engines_want_bundles_for_them() {
    let case = Case::load("llama");
    let bundle = bundle(&case.dir, Precision::Fp32);
    for device in ["tensorrt", "tensorrt-rtx"] {
        let mut command = lwv_write();
        command.arg(&bundle).args(["--prompt", "x", "--device", device]);
        Run::of(&mut command).assert_failed(1, &[device, "--target tensorrt"]);
    }
}
