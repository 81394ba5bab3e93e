//! The runtime as a library for C: opaque handles, structures that may grow, status codes.
//!
//! What callers must know (threads, lifetimes, versions) is said where they read it, at the head of `include/lwv.h`,
//! which is generated from these sources and from `cbindgen.toml`; a test holds the two together.
//!
//! - `border` is the only way in and out: it catches panics and keeps the text of the last error.
//! - `argument` and `structure` are the only places that follow a caller's pointer.
//! - All else is a file for each handle or structure.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]
#![allow(
    unsafe_code,
    reason = "a C interface is pointers; what must hold for them is said in the header, once for all functions"
)]
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "every function of the interface is one unsafe operation: it believes its pointers"
)]
#![allow(
    clippy::missing_safety_doc,
    reason = "the same for all functions, and said in the header: pointers are NULL or of live values of their type"
)]
#![allow(non_camel_case_types, reason = "the names are those of the C interface")]

mod argument;
mod border;
mod cancel_token;
mod device;
mod draft;
mod draft_header;
mod engine;
mod estimate;
mod event;
mod failure;
mod finish_reason;
mod generation;
mod image;
mod message;
mod revision;
mod sampler;
mod section;
mod session;
mod stats;
mod status;
mod structure;
mod text;
mod version;
mod writer;

pub use border::lwv_last_error;
pub use cancel_token::{
    lwv_cancel_token, lwv_cancel_token_cancel, lwv_cancel_token_close, lwv_cancel_token_is_cancelled,
    lwv_cancel_token_open,
};
pub use device::{lwv_device, lwv_device_at, lwv_device_count};
pub use draft::{
    lwv_draft, lwv_draft_close, lwv_draft_describe, lwv_draft_info, lwv_draft_open, lwv_draft_remove,
    lwv_draft_text,
};
pub use draft_header::lwv_draft_create;
pub use engine::{
    LWV_CHECK_HASHES, LWV_DEQUANTIZE_ONCE, LWV_IGNORE_MEMORY, lwv_engine, lwv_engine_close,
    lwv_engine_describe, lwv_engine_info, lwv_engine_open, lwv_engine_options, lwv_engine_options_init,
    lwv_engine_with_adapter, lwv_load_stage, lwv_progress, lwv_progress_callback,
};
pub use estimate::{lwv_bundle_estimate, lwv_engine_estimate, lwv_memory_estimate};
pub use event::{lwv_event, lwv_event_callback, lwv_event_kind};
pub use finish_reason::lwv_finish_reason;
pub use generation::{
    LWV_IGNORE_EOS, LWV_LOOP_GUARD, lwv_generate, lwv_generation, lwv_generation_close, lwv_generation_next,
    lwv_generation_settings, lwv_generation_settings_init, lwv_generation_start,
};
pub use image::{lwv_image, lwv_image_close, lwv_image_from_rgb, lwv_image_open, lwv_image_size};
pub use message::lwv_message;
pub use revision::{lwv_draft_revise, lwv_draft_write, lwv_revision_settings, lwv_revision_settings_init};
pub use sampler::{LWV_GREEDY, LWV_PENALIZE_PROMPT, lwv_sampler_settings, lwv_sampler_settings_init};
pub use section::{lwv_draft_section, lwv_draft_variant, lwv_section_info};
pub use session::{
    lwv_session, lwv_session_add_text, lwv_session_close, lwv_session_describe, lwv_session_info,
    lwv_session_open, lwv_session_rewind, lwv_session_set_messages, lwv_session_set_text, lwv_session_tokens,
};
pub use stats::lwv_stats;
pub use status::lwv_status;
pub use text::{lwv_text, lwv_text_close, lwv_text_data};
pub use version::{LWV_ABI_VERSION, lwv_abi_version, lwv_version};
pub use writer::{
    LWV_AT_ONCE, LWV_DETERMINISTIC, lwv_plan, lwv_write, lwv_writer_settings, lwv_writer_settings_init,
};
