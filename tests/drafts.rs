//! Long texts that are killed while they are written, and gone on with.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lwv_model::Precision;
use lwv_runtime::Draft;
use lwv_tests::{Case, Random, Run, bundle, lwv_write};

fn tiny() -> PathBuf {
    bundle(&Case::load("llama").dir, Precision::Fp32)
}

/// The command of a text in sections. A model with random weights writes few words to many tokens.
fn begin(out: &Path) -> Command {
    let mut command = lwv_write();
    command
        .arg(tiny())
        .args([
            "--prompt",
            "Write about bees.",
            "--words",
            "300",
            "--plan",
            "--sections",
            "3",
        ])
        .args([
            "--temperature",
            "1.2",
            "--seed",
            "5",
            "--deterministic",
            "--threads",
            "1",
            "--out",
        ])
        .arg(out);
    command
}

fn resume(draft: &Path) -> Command {
    let mut command = lwv_write();
    command.arg(tiny()).arg("--resume").arg(draft);
    command
}

fn draft_of(out: &Path) -> PathBuf {
    PathBuf::from(format!("{}.draft", out.display()))
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// Runs a command for so long, or to its end; returns whether it was killed.
fn kill_after(command: &mut Command, time: Duration) -> bool {
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    while begin.elapsed() < time {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    // SIGKILL, on systems that have it.
    child.kill().unwrap();
    child.wait().unwrap();
    true
}

/// The words of a draft, read as a program does that finds it after a crash.
fn words_kept(draft: &Path) -> usize {
    let (draft, _) = Draft::open(draft).unwrap();
    draft.state().so_far().words()
}

#[test]
fn a_text_that_is_killed_again_and_again_ends_as_if_nothing_had_been() {
    const KILLS: usize = 8;
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole.md");
    let begun = Instant::now();
    Run::of(&mut begin(&whole)).assert_done();
    let time = usize::try_from(begun.elapsed().as_millis()).unwrap();
    assert!(
        !draft_of(&whole).exists(),
        "a draft of a text that is in its place"
    );

    let mut random = Random::new(11);
    let (mut kills, mut kept_after_kills) = (0, 0);
    for round in 0.. {
        if kills >= KILLS {
            break;
        }
        let out = folder.path().join(format!("{round}.md"));
        let draft = draft_of(&out);
        let mut kept = 0;
        while !out.exists() {
            let mut command = if draft.exists() {
                resume(&draft)
            } else {
                begin(&out)
            };
            let moment = if kills < KILLS {
                random.between(20, time)
            } else {
                600_000
            };
            if !kill_after(&mut command, Duration::from_millis(moment as u64)) {
                break;
            }
            kills += 1;
            if draft.exists() {
                let now = words_kept(&draft);
                assert!(now >= kept, "{now} words are left of {kept}");
                kept = now;
                kept_after_kills += usize::from(kept > 0);
            }
        }
        if draft.exists() {
            // It was killed when the text was in its place already.
            Run::of(&mut resume(&draft)).assert_done();
        }
        assert_eq!(text(&out), text(&whole));
        assert!(!draft.exists());
    }
    assert!(kept_after_kills > 0, "all kills came before there was any text");
}

#[test]
fn a_draft_that_is_kept_is_revised_and_one_that_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("text.md");
    let draft = draft_of(&out);
    Run::of(begin(&out).arg("--keep-draft")).assert_done();
    let before = text(&out);
    Run::of(resume(&draft).args(["--rewrite-section", "2"])).assert_done();
    let after = text(&out);
    let parts = |text: &str| text.split("\n\n## ").map(str::to_owned).collect::<Vec<_>>();
    let (old, new) = (parts(&before), parts(&after));
    assert_eq!((&old[0], &old[2], old.len()), (&new[0], &new[2], new.len()));
    assert_ne!(old[1], new[1]);
    let (opened, _) = Draft::open(&draft).unwrap();
    let variant = &opened.state().variants[0];
    assert!(
        variant.index == 1 && old[1].ends_with(&variant.section.text),
        "{variant:?}"
    );
    Run::of(&mut resume(&draft)).assert_failed(1, &["another process", "text.md.draft"]);
    drop(opened);
    Run::of(&mut begin(&out)).assert_failed(1, &["text.md.draft", "--resume"]);
    let other = bundle(&Case::load("qwen2").dir, Precision::Fp32);
    Run::of(lwv_write().arg(other).arg("--resume").arg(&draft))
        .assert_failed(1, &["written by bundle", "text.md.draft"]);
    Run::of(resume(&draft).args(["--rewrite-section", "9"])).assert_failed(1, &["`9`", "no such section"]);
    Run::of(resume(&draft).args(["--seed", "3"])).assert_failed(2, &["--rewrite-section"]);
}

#[test]
fn a_plan_is_written_edited_and_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (plan, out) = (folder.path().join("plan.md"), folder.path().join("text.md"));
    let request = ["--prompt", "Write about bees."];
    let plan_only = ["--words", "40", "--sections", "2", "--plan-only"];
    Run::of(lwv_write().arg(tiny()).args(request).args(plan_only).arg(&plan)).assert_done();
    assert_eq!(
        text(&plan).matches("Word Count: 20 words").count(),
        2,
        "{}",
        text(&plan)
    );
    std::fs::write(&plan, "# Bees\n\n- What they eat (30 words)\n- Where they live\n").unwrap();
    let write = |words: &[&str]| {
        Run::of(
            lwv_write()
                .arg(tiny())
                .args(request)
                .args(words)
                .arg("--plan-file")
                .arg(&plan)
                .arg("--out")
                .arg(&out),
        )
    };
    write(&[]).assert_failed(1, &["plan.md", "line 4", "--words"]);
    write(&["--words", "60"]).assert_done();
    let text = text(&out);
    assert!(
        text.starts_with("## What they eat\n\n") && text.contains("\n\n## Where they live\n\n"),
        "{text}"
    );
}
