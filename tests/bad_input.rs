//! What is wrong is named, and nothing half-written is left.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use lwv_model::Precision;
use lwv_tests::{Case, Run, bundle, copy_folder, fixtures, lwv_export, lwv_write, read_json, write_json};
use tempfile::TempDir;

/// A checkpoint that a test may spoil, and the folder that an export of it is to be written in.
struct Spoiled {
    folder: TempDir,
}

impl Spoiled {
    fn new(case: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy_folder(&Case::load(case).dir, &folder.path().join("checkpoint"));
        std::fs::create_dir(folder.path().join("out")).unwrap();
        Self { folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("checkpoint").join(name)
    }

    fn edit_config(&self, edit: impl FnOnce(&mut serde_json::Value)) {
        let path = self.file("config.json");
        let mut config = read_json(&path);
        edit(&mut config);
        write_json(&path, &config);
    }

    fn edit_bytes(&self, name: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = std::fs::read(self.file(name)).unwrap();
        edit(&mut bytes);
        std::fs::write(self.file(name), bytes).unwrap();
    }

    /// Exports, and fails unless the exporter names all of `words` and leaves nothing behind.
    fn assert_refused(&self, words: &[&str]) {
        let out = self.folder.path().join("out");
        let run = Run::of(
            lwv_export()
                .arg(self.folder.path().join("checkpoint"))
                .arg(out.join("bundle"))
                .arg("--fp32"),
        );
        run.assert_failed(1, words);
        let left: Vec<_> = std::fs::read_dir(&out)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn unsound_weights() {
    let truncated = Spoiled::new("flat_f32");
    truncated.edit_bytes("model.safetensors", |bytes| bytes.truncate(bytes.len() - 100));
    truncated.assert_refused(&["model.safetensors", "cut short"]);

    let lying = Spoiled::new("flat_f32");
    lying.edit_bytes("model.safetensors", |bytes| {
        let at = bytes.windows(8).position(|w| w == b"\"shape\":").unwrap() + 9;
        bytes[at] = if bytes[at] == b'9' { b'8' } else { bytes[at] + 1 };
    });
    lying.assert_refused(&["model.safetensors"]);

    let huge_header = Spoiled::new("flat_f32");
    huge_header.edit_bytes("model.safetensors", |bytes| bytes[..8].fill(0xff));
    huge_header.assert_refused(&["model.safetensors"]);

    let empty = Spoiled::new("flat_f32");
    empty.edit_bytes("model.safetensors", Vec::clear);
    empty.assert_refused(&["model.safetensors", "empty"]);
}

#[test]
fn missing_and_unfitting_weights() {
    let shard = Spoiled::new("nested_f32");
    std::fs::remove_file(shard.file("model-00002-of-00002.safetensors")).unwrap();
    shard.assert_refused(&["model-00002-of-00002.safetensors", "missing"]);

    let none = Spoiled::new("flat_f32");
    std::fs::remove_file(none.file("model.safetensors")).unwrap();
    none.assert_refused(&["model.safetensors", "checkpoint"]);

    let shape = Spoiled::new("flat_f32");
    shape.edit_config(|config| config["intermediate_size"] = 50.into());
    shape.assert_refused(&["mlp.gate_proj.weight", "[50, 32]", "[48, 32]"]);

    let deeper = Spoiled::new("flat_f32");
    deeper.edit_config(|config| config["num_hidden_layers"] = 3.into());
    deeper.assert_refused(&["model.layers.2"]);
}

#[test]
fn unusable_settings() {
    let family = Spoiled::new("flat_f32");
    family.edit_config(|config| config["model_type"] = "mamba".into());
    family.assert_refused(&["mamba", "qwen2_5_vl"]);

    let tokenizer = Spoiled::new("flat_f32");
    std::fs::remove_file(tokenizer.file("tokenizer.json")).unwrap();
    tokenizer.assert_refused(&["tokenizer.json"]);

    let json = Spoiled::new("flat_f32");
    std::fs::write(json.file("config.json"), "{\"model_type\": ").unwrap();
    json.assert_refused(&["config.json"]);
}

#[test]
fn unwritable_places() {
    let case = Case::load("flat_f32");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    let export = |to: &Path| Run::of(lwv_export().arg(&case.dir).arg(to).arg("--fp32"));
    export(&file.join("bundle")).assert_failed(1, &["file"]);
    export(&file).assert_failed(1, &["file", "not a bundle"]);
    let somebodys = folder.path().join("photos");
    std::fs::create_dir(&somebodys).unwrap();
    std::fs::write(somebodys.join("a.jpg"), "x").unwrap();
    export(&somebodys).assert_failed(1, &["photos", "not a bundle"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    assert!(somebodys.join("a.jpg").exists());
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that was skipped says so")]
fn a_full_disk() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=128k", "tmpfs"])
        .arg(&disk)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        eprintln!("skipped: mounting a small file system needs more rights");
        return;
    }
    let run = Run::of(
        lwv_export()
            .arg(&Case::load("flat_f32").dir)
            .arg(disk.join("bundle"))
            .arg("--fp32"),
    );
    let left = std::fs::read_dir(&disk).unwrap().count();
    std::process::Command::new("umount").arg(&disk).status().unwrap();
    run.assert_failed(1, &["bundle.partial", "space"]);
    assert_eq!(left, 0);
}

#[test]
fn a_killed_export_leaves_the_old_bundle_and_can_be_run_again() {
    let case = Case::load("flat_f32");
    let large = tempfile::tempdir().unwrap();
    let checkpoint = large.path().join("checkpoint");
    copy_folder(&case.dir, &checkpoint);
    enlarge(&checkpoint);
    let bundle = large.path().join("bundle");
    let partial = large.path().join("bundle.partial");
    assert_eq!(
        Run::of(lwv_export().arg(&case.dir).arg(&bundle).arg("--fp32")).status,
        Some(0)
    );
    let before = std::fs::read(bundle.join("lwv.json")).unwrap();

    let mut child = lwv_export()
        .arg(&checkpoint)
        .arg(&bundle)
        .arg("--fp32")
        .spawn()
        .unwrap();
    let started = Instant::now();
    while !partial.join("onnx").exists() {
        assert!(child.try_wait().unwrap().is_none() && started.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    assert!(
        !child.wait().unwrap().success(),
        "the export was over before it could be killed"
    );
    assert_eq!(std::fs::read(bundle.join("lwv.json")).unwrap(), before);

    assert_eq!(
        Run::of(lwv_export().arg(&checkpoint).arg(&bundle).arg("--fp32")).status,
        Some(0)
    );
    assert_ne!(std::fs::read(bundle.join("lwv.json")).unwrap(), before);
    assert!(!partial.exists());
}

/// Gives the checkpoint a vocabulary of 2 million tokens, half a gigabyte of embedding and head.
fn enlarge(checkpoint: &Path) {
    let rows = 2_000_000;
    let mut config = read_json(&checkpoint.join("config.json"));
    config["vocab_size"] = rows.into();
    write_json(&checkpoint.join("config.json"), &config);
    let path = checkpoint.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let (mut new_header, mut offset, mut data) = (serde_json::Map::new(), 0, Vec::new());
    for (name, tensor) in header
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| *name != "__metadata__")
    {
        let mut tensor = tensor.clone();
        let range: Vec<usize> = serde_json::from_value(tensor["data_offsets"].clone()).unwrap();
        let mut values = bytes[8 + length + range[0]..8 + length + range[1]].to_vec();
        if name.contains("embed_tokens") || name.contains("lm_head") {
            let width = tensor["shape"][1].as_u64().unwrap() as usize;
            values = vec![0; rows * width * 4];
            tensor["shape"] = serde_json::json!([rows, width]);
        }
        tensor["data_offsets"] = serde_json::json!([offset, offset + values.len()]);
        offset += values.len();
        new_header.insert(name.clone(), tensor);
        data.push(values);
    }
    let header = serde_json::to_vec(&new_header).unwrap();
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&header).unwrap();
    data.iter().for_each(|values| file.write_all(values).unwrap());
}

#[test]
fn pictures_that_are_none() {
    let case = Case::load("flat_f32");
    let bundle = bundle(&case.dir, Precision::Fp32);
    let folder = tempfile::tempdir().unwrap();
    let refuse = |name: &str, bytes: &[u8], words: &[&str]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let run = Run::of(
            lwv_write()
                .arg(&bundle)
                .args(["--prompt", "x", "--image"])
                .arg(&path),
        );
        run.assert_failed(1, &[&[name], words].concat());
    };
    refuse("empty.png", b"", &["empty"]);
    refuse("text.jpg", b"this is not a picture", &["not an image"]);
    refuse("long.png", &png(50_000, 1), &["50000"]);
    refuse("bomb.png", &png(60_000, 60_000), &["60000"]);
    let picture = std::fs::read(fixtures().join("images/a_64x48.png")).unwrap();
    refuse("cut.png", &picture[..picture.len() / 2], &[]);
    let missing = Run::of(
        lwv_write()
            .arg(&bundle)
            .args(["--prompt", "x", "--image", "no-such.png"]),
    );
    missing.assert_failed(1, &["no-such.png"]);
}

/// What fails before the first word leaves no file, and an older text as it was.
#[test]
fn a_text_that_was_never_begun() {
    let case = Case::load("flat_f32");
    let bundle = bundle(&case.dir, Precision::Fp32);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("text.md");
    std::fs::write(&out, "older").unwrap();
    let failures: [(&Path, &[&str], &str); 3] = [
        (&bundle, &["--image", "no-such.png"], "no-such.png"),
        (Path::new("no-such-bundle"), &[], "no-such-bundle"),
        (&bundle, &["--device", "cuda"], "cuda"),
    ];
    for (bundle, arguments, culprit) in failures {
        let mut command = lwv_write();
        command
            .arg(bundle)
            .args(["--prompt", "x", "--out"])
            .arg(&out)
            .args(arguments);
        Run::of(&mut command).assert_failed(1, &[culprit]);
        let left: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["text.md"], "after {arguments:?}");
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "older");
    }
}

/// A grey PNG that says it has that size and holds next to nothing.
fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8; 4], data: &[u8]| {
        let body = [kind.as_slice(), data].concat();
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(&body);
        bytes.extend(crc(&body).to_be_bytes());
    };
    chunk(
        b"IHDR",
        &[&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 0, 0, 0, 0]].concat(),
    );
    chunk(b"IDAT", &[0x78, 0x9c, 0x63, 0, 0, 0, 1, 0, 1]);
    chunk(b"IEND", &[]);
    bytes
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 {
                (crc >> 1) ^ 0xEDB8_8320
            } else {
                crc >> 1
            }
        })
    })
}

#[test]
fn prompts_that_do_not_fit() {
    let case = Case::load("flat_bf16");
    let bundle = bundle(&case.dir, Precision::Fp32);
    let run = |arguments: &[&str]| {
        Run::of(
            lwv_write()
                .arg(&bundle)
                .args(["--raw-prompt", "--prompt"])
                .args(arguments),
        )
    };
    let long = "a b c d ".repeat(4000);
    run(&[&long]).assert_failed(1, &["4096"]);
    let budget = run(&["a", "--max-new-tokens", "4000", "--kv-budget-mib", "1"]);
    budget.assert_failed(1, &["MiB", "budget"]);
}

#[test]
fn bundles_and_libraries_that_are_broken() {
    let case = Case::load("flat_f32");
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("bundle");
    assert_eq!(
        Run::of(lwv_export().arg(&case.dir).arg(&broken).arg("--fp32")).status,
        Some(0)
    );
    let write = || {
        let mut command = lwv_write();
        command
            .arg(&broken)
            .args(["--prompt", "x", "--max-new-tokens", "1", "--raw-prompt"]);
        command
    };
    let data = broken.join("onnx/embed_tokens.onnx_data");
    let whole = std::fs::read(&data).unwrap();
    let mut flipped = whole.clone();
    flipped[100] ^= 1;
    std::fs::write(&data, &flipped).unwrap();
    Run::of(write().arg("--check-hashes")).assert_failed(1, &["embed_tokens.onnx_data"]);
    std::fs::write(&data, &whole[..whole.len() - 1]).unwrap();
    Run::of(&mut write()).assert_failed(1, &["embed_tokens.onnx_data"]);
    std::fs::write(&data, &whole).unwrap();
    assert_eq!(Run::of(write().arg("--check-hashes")).status, Some(0));

    Run::of(write().env("LWV_ONNXRUNTIME", "/nowhere/libonnxruntime.so"))
        .assert_failed(1, &["/nowhere/libonnxruntime.so"]);
    let mut nowhere = write();
    nowhere.env_remove("LWV_ONNXRUNTIME").env_remove("ORT_DYLIB_PATH");
    let run = Run::of(&mut nowhere);
    if run.status != Some(0) {
        run.assert_failed(1, &["ORT_DYLIB_PATH", "onnxruntime"]);
    }

    let config = broken.join("lwv.json");
    let mut manifest = read_json(&config);
    manifest["graphs"]["decoder_model_merged"]["inputs"][1]["name"] = "mask".into();
    write_json(&config, &manifest);
    Run::of(&mut write()).assert_failed(1, &["decoder_model_merged", "mask"]);
    manifest["format_version"] = 99.into();
    write_json(&config, &manifest);
    Run::of(&mut write()).assert_failed(1, &["lwv.json", "99"]);
    std::fs::remove_file(&config).unwrap();
    Run::of(&mut write()).assert_failed(1, &["lwv.json"]);
}
