//! What the test files beside this one share: fixtures, bundles made of them, both engines, and the real binaries.
//!
//! Everything here panics where it cannot go on: a test that cannot run has failed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

#[path = "support/alarm.rs"]
mod alarm;
#[path = "support/bundle.rs"]
mod bundle;
#[path = "support/command.rs"]
mod command;
#[path = "support/difference.rs"]
mod difference;
#[path = "support/engine.rs"]
mod engine;
#[path = "support/fixture.rs"]
mod fixture;
#[path = "support/folder.rs"]
mod folder;
#[path = "support/onnx.rs"]
mod onnx;
#[path = "support/random.rs"]
mod random;
#[path = "support/random_adapter.rs"]
mod random_adapter;
#[path = "support/random_checkpoint.rs"]
mod random_checkpoint;
#[path = "support/safetensors.rs"]
mod safetensors;

pub use alarm::cancelled;
pub use bundle::{
    Quiet, bundle, bundle_for, bundle_for_adapters, bundle_for_tensorrt, bundle_with_adapter, export_into,
    recipe,
};
pub use command::{Run, installed_c_library, lwv_export, lwv_quantize, lwv_serve, lwv_write};
pub use difference::{Difference, cosine, highest};
pub use engine::{OrtText, engine, graph, least_cosine, library, mean_cosine, session};
pub use fixture::{Case, ExpectedPrompt, fixtures, messages, vectors};
pub use folder::{copy_folder, read_json, scratch, target_folder, workspace, write_json};
pub use onnx::{Border, OnnxFile};
pub use random::Random;
pub use random_adapter::random_adapter;
pub use random_checkpoint::{coarse_checkpoint, random_checkpoint};
