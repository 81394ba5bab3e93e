//! Wrong arguments are errors with words, whatever the function.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]
#![allow(unsafe_code, reason = "the interface is unsafe")]

use std::ffi::CStr;
use std::ptr::{null, null_mut};

use lwv::*;

fn last_error() -> String {
    // SAFETY: never NULL.
    unsafe { CStr::from_ptr(lwv_last_error()) }
        .to_str()
        .unwrap()
        .to_owned()
}

fn refused(status: lwv_status, words: &str) {
    assert_eq!(status, lwv_status::Argument, "{}", last_error());
    assert!(
        last_error().contains(words),
        "`{words}` is not in: {}",
        last_error()
    );
}

#[test]
fn null_is_refused_everywhere_but_where_it_is_freed() {
    // SAFETY: NULL is what functions must bear.
    unsafe {
        refused(lwv_cancel_token_open(null_mut()), "`token` is NULL");
        refused(lwv_cancel_token_cancel(null_mut()), "`token` is NULL");
        assert_eq!(lwv_cancel_token_is_cancelled(null()), 0);
        refused(lwv_image_open(null(), null_mut()), "`image` is NULL");
        refused(lwv_image_from_rgb(null(), 1, 1, 0, null_mut()), "`image` is NULL");
        refused(lwv_image_size(null(), null_mut(), null_mut()), "`image` is NULL");
        refused(lwv_device_at(0, null_mut()), "`device` is NULL");
        refused(lwv_engine_options_init(null_mut(), 96), "`options` is NULL");
        refused(lwv_engine_open(null(), null_mut()), "`engine` is NULL");
        refused(lwv_engine_describe(null(), null_mut()), "`engine` is NULL");
        refused(lwv_engine_estimate(null(), 1, null_mut()), "`engine` is NULL");
        refused(lwv_bundle_estimate(null(), 1, null_mut()), "`bundle` is NULL");
        refused(lwv_sampler_settings_init(null_mut(), 56), "`settings` is NULL");
        refused(lwv_generation_settings_init(null_mut(), 72), "`settings` is NULL");
        refused(lwv_writer_settings_init(null_mut(), 112), "`settings` is NULL");
        refused(lwv_session_open(null(), null_mut()), "`session` is NULL");
        refused(
            lwv_session_set_messages(null_mut(), null(), 1),
            "`messages` is NULL",
        );
        refused(
            lwv_session_set_messages(null_mut(), null(), 0),
            "`session` is NULL",
        );
        refused(
            lwv_session_set_text(null_mut(), null(), null(), 0),
            "`text` is NULL",
        );
        refused(
            lwv_session_add_text(null_mut(), c"x".as_ptr(), null(), 2),
            "`images` is NULL, but has 2",
        );
        refused(lwv_session_rewind(null_mut(), 1), "`session` is NULL");
        refused(
            lwv_session_tokens(null(), null_mut(), 0, null_mut()),
            "`session` is NULL",
        );
        refused(lwv_session_describe(null(), null_mut()), "`session` is NULL");
        refused(
            lwv_generate(null_mut(), null(), None, null_mut(), null_mut()),
            "`session` is NULL",
        );
        refused(
            lwv_generation_start(null_mut(), null(), null_mut()),
            "`generation` is NULL",
        );
        refused(
            lwv_generation_next(null_mut(), null_mut()),
            "`generation` is NULL",
        );
        refused(
            lwv_plan(null(), null(), None, null_mut(), null_mut()),
            "`plan` is NULL",
        );
        refused(
            lwv_write(null(), null(), None, null_mut(), null_mut(), null_mut()),
            "`engine` is NULL",
        );
        refused(
            lwv_engine_with_adapter(null(), null(), null_mut()),
            "`adapted` is NULL",
        );
        refused(
            lwv_draft_create(null(), null(), null(), null_mut()),
            "`draft` is NULL",
        );
        refused(lwv_draft_open(null(), null_mut()), "`draft` is NULL");
        refused(lwv_draft_describe(null(), null_mut()), "`draft` is NULL");
        refused(lwv_draft_text(null(), null_mut()), "`text` is NULL");
        refused(
            lwv_draft_section(null(), 0, null_mut(), null_mut(), null_mut()),
            "`draft` is NULL",
        );
        refused(lwv_draft_variant(null(), 0, 0, null_mut()), "`text` is NULL");
        refused(
            lwv_draft_write(
                null(),
                null_mut(),
                null(),
                None,
                null_mut(),
                null_mut(),
                null_mut(),
            ),
            "`engine` is NULL",
        );
        refused(
            lwv_draft_revise(
                null(),
                null_mut(),
                null(),
                None,
                null_mut(),
                null_mut(),
                null_mut(),
            ),
            "`draft` is NULL",
        );
        refused(lwv_revision_settings_init(null_mut(), 40), "`settings` is NULL");
        refused(lwv_draft_remove(null_mut()), "`draft` is NULL");
        let mut length = 7;
        assert!(lwv_text_data(null(), &raw mut length).is_null() && length == 0);
        lwv_text_close(null_mut());
        lwv_image_close(null_mut());
        lwv_cancel_token_close(null_mut());
        lwv_engine_close(null_mut());
        lwv_session_close(null_mut());
        lwv_generation_close(null_mut());
        lwv_draft_close(null_mut());
    }
}

fn options() -> lwv_engine_options {
    let mut options = std::mem::MaybeUninit::uninit();
    // SAFETY: the function writes all of it.
    unsafe {
        let size = size_of::<lwv_engine_options>();
        assert_eq!(
            lwv_engine_options_init(options.as_mut_ptr(), size),
            lwv_status::Ok
        );
        options.assume_init()
    }
}

fn open(options: &lwv_engine_options) -> lwv_status {
    let mut engine = std::ptr::dangling_mut();
    // SAFETY: the options are whole, and the place is there.
    let status = unsafe { lwv_engine_open(options, &raw mut engine) };
    assert!(engine.is_null(), "what was not made is NULL");
    status
}

#[test]
fn options_that_cannot_be_are_refused_by_name() {
    refused(open(&options()), "`bundle` is NULL");
    let mut wrong = options();
    wrong.bundle = c"\xFF/bundle".as_ptr();
    refused(open(&wrong), "`bundle` is not UTF-8 from byte 0 on");
    let mut wrong = options();
    wrong.flags = 1 << 40;
    refused(
        open(&wrong),
        "`flags` that this library does not know: 0x10000000000",
    );
    let mut wrong = options();
    wrong.size = 3;
    refused(open(&wrong), "`size` of 3");
    let mut wrong = options();
    wrong.device = c"abacus".as_ptr();
    assert_eq!(open(&wrong), lwv_status::Setting);
    assert!(last_error().contains("`abacus`"), "{}", last_error());
    let mut wrong = options();
    wrong.bundle = c"/nowhere".as_ptr();
    assert_eq!(open(&wrong), lwv_status::Bundle);
    assert!(last_error().contains("/nowhere"), "{}", last_error());
}

#[test]
fn a_structure_of_an_older_program_is_as_usual_where_it_ends() {
    let mut old = options();
    old.bundle = c"/nowhere".as_ptr();
    // What lies after the end is not the structure's.
    old.size = std::mem::offset_of!(lwv_engine_options, kv_budget);
    old.flags = u64::MAX;
    assert_eq!(open(&old), lwv_status::Bundle, "{}", last_error());
}

#[test]
fn images_that_are_none_are_told() {
    let mut image = std::ptr::dangling_mut();
    // SAFETY: the place is there.
    unsafe {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml\0");
        assert_eq!(
            lwv_image_open(file.as_ptr().cast(), &raw mut image),
            lwv_status::Image
        );
    }
    assert!(
        image.is_null() && last_error().contains("is not an image"),
        "{}",
        last_error()
    );
}
