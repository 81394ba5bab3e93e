//! What the C compiler makes of the header is what Rust makes of its sources.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]
#![allow(unsafe_code, reason = "the interface is unsafe")]

use std::fmt::Write;
use std::mem::{align_of, offset_of, size_of};
use std::path::Path;
use std::process::Command;

use lwv::*;

/// A structure's name, size, alignment and the offsets of its fields.
struct Layout {
    name: &'static str,
    size: usize,
    alignment: usize,
    fields: Vec<(&'static str, usize)>,
}

/// The layout of a structure whose fields are all named: one that is left out does not compile.
macro_rules! layout {
    ($name:ident: $($field:ident),*) => {{
        let _ = |structure: $name| {
            let $name { $($field: _),* } = structure;
        };
        Layout {
            name: stringify!($name),
            size: size_of::<$name>(),
            alignment: align_of::<$name>(),
            fields: vec![$((stringify!($field), offset_of!($name, $field))),*],
        }
    }};
}

fn layouts() -> Vec<Layout> {
    vec![
        layout!(lwv_device: size, name, description, memory),
        layout!(lwv_progress: size, stage, done, total, graph),
        layout!(lwv_engine_options: size, bundle, device, onnxruntime, engines, kv_budget, prefill_chunk, threads, flags,
            cancel, progress, user_data, adapter),
        layout!(lwv_engine_info: size, device, provider, context_length, threads, reads_images, id),
        layout!(lwv_memory_estimate: size, weights, kv, buffers, total, read_for_a_token),
        layout!(lwv_sampler_settings: size, seed, flags, temperature, top_p, min_p, typical_p, xtc_probability, xtc_threshold,
            repetition_penalty, presence_penalty, frequency_penalty, dry_multiplier, dry_base, reserved, top_k,
            penalty_window, dry_allowed_length, dry_range, dry_sequence_breakers, dry_breaker_count, no_repeat_ngram_size,
            biased_tokens, biases, bias_count),
        layout!(lwv_message: role, text, images, image_count),
        layout!(lwv_session_info: size, tokens, cached_tokens, context_length, kv_bytes),
        layout!(lwv_generation_settings: size, sampler, max_new_tokens, min_new_tokens, min_words, stop, stop_count, flags,
            written_tokens, cancel, lookup_tokens),
        layout!(lwv_stats: size, prompt_tokens, prefilled_tokens, generated_tokens, loop_interventions, prefill_tokens_per_second,
            decode_tokens_per_second, image_seconds, time_to_first_token, kv_bytes, peak_rss_bytes, provider,
            guessed_tokens, accepted_tokens),
        layout!(lwv_event: size, kind, reason, index, done, total, token, text, text_length, stats),
        layout!(lwv_writer_settings: size, instruction, system, images, image_count, words, sections, plan, sampler,
            max_section_tokens, stop, stop_count, flags, cancel, lookup_tokens),
        layout!(lwv_draft_info: size, instruction, system, engine, device, threads, prefill_chunk, flags, words, written_words,
            sections, finished_sections, is_whole, loss),
        layout!(lwv_section_info: size, reason, words, written_words, is_open, variants),
        layout!(lwv_revision_settings: size, section, extend_by, sampler, cancel),
    ]
}

/// Enumerations are as wide in both languages.
const ENUMERATIONS: [(&str, usize); 4] = [
    ("lwv_status", size_of::<lwv_status>()),
    ("lwv_load_stage", size_of::<lwv_load_stage>()),
    ("lwv_event_kind", size_of::<lwv_event_kind>()),
    ("lwv_finish_reason", size_of::<lwv_finish_reason>()),
];

/// A program that does not compile where the two differ.
fn assertions(assert: &str) -> String {
    let mut source = format!("#include <lwv.h>\n#define CHECK(what, text) {assert}\n");
    for layout in layouts() {
        let Layout {
            name,
            size,
            alignment,
            fields,
        } = layout;
        writeln!(source, "CHECK(sizeof({name}) == {size}, size_of_{name});").unwrap();
        assert_eq!(alignment, 8, "{name}: sizes are held to be multiples of 8");
        for (field, offset) in fields {
            writeln!(
                source,
                "CHECK(offsetof({name}, {field}) == {offset}, offset_in_{name}_of_{field});"
            )
            .unwrap();
        }
    }
    for (name, size) in ENUMERATIONS {
        writeln!(source, "CHECK(sizeof({name}) == {size}, size_of_{name});").unwrap();
    }
    source
}

fn compile(compiler: &str, standard: &str, file: &str, source: &str) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(file);
    std::fs::write(&path, source).unwrap();
    let output = Command::new(compiler)
        .args([
            "-Wall",
            "-Wextra",
            "-Werror",
            "-pedantic",
            "-fsyntax-only",
            standard,
            "-I",
        ])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("include"))
        .arg(&path)
        .output()
        .unwrap_or_else(|error| panic!("`{compiler}`: {error}"));
    (
        output.status.success(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// C99 has no static assertions; an array of -1 items does not compile.
const C99: &str = "typedef char text[(what) ? 1 : -1]";

#[test]
fn structures_are_the_same_in_c_and_rust() {
    for (standard, assert) in [
        ("-std=c99", C99),
        ("-std=c11", "_Static_assert(what, #text)"),
        ("-std=c2x", "_Static_assert(what, #text)"),
    ] {
        let (compiles, messages) = compile("cc", standard, "abi.c", &assertions(assert));
        assert!(compiles, "{standard}: {messages}");
    }
    let (compiles, messages) = compile(
        "c++",
        "-std=c++17",
        "abi.cpp",
        &assertions("static_assert(what, #text)"),
    );
    assert!(compiles, "{messages}");
}

#[test]
fn a_difference_would_be_seen() {
    let wrong = assertions(C99).replace("sizeof(lwv_message) == 32", "sizeof(lwv_message) == 40");
    let (compiles, messages) = compile("cc", "-std=c99", "abi.c", &wrong);
    assert!(
        !compiles && messages.contains("size_of_lwv_message"),
        "{messages}"
    );
}

/// Programs that were compiled with a header of version 1 rely on these sizes.
#[test]
fn no_structure_is_smaller_than_in_the_first_version() {
    let first = [176, 40, 96, 48, 48, 152, 32, 40, 80, 96, 72, 112, 112, 48, 40];
    assert_eq!(layouts().len(), first.len());
    for (layout, first) in layouts().iter().zip(first) {
        assert!(
            layout.size >= first,
            "{}: {} bytes, once {first}",
            layout.name,
            layout.size
        );
    }
}
