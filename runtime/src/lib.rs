//! Writes long texts from a bundle, offline.
//!
//! 1. [`Engine::builder`] loads a bundle: it checks the manifest, finds ONNX Runtime's shared library and loads the
//!    graphs on a [`Device`].
//! 2. [`Engine::session`] makes a [`Session`]: one text with its cache. [`Session::extend`] takes a prompt with images
//!    from [`Engine::processor`]; more turns can follow.
//! 3. [`Session::generate`] is an iterator of [`Event`]s: progress, tokens with their text, and the reason for the end.
//!    A [`CancelToken`] stops it from another thread.
//! 4. [`Writer`] plans a long text and writes it section by section.
//!
//! Nothing here opens a socket. Errors name the file, graph, tensor or setting and say what to do.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod adapter;
mod arena;
mod binding;
mod bundle;
mod cancel;
mod card;
mod decoder;
mod draft;
mod engine;
mod engine_cache;
mod engine_shelf;
mod error;
mod estimate;
mod file_hash;
mod generation;
mod graph;
mod group_query_attention;
mod huge_pages;
mod kv_cache;
mod library;
mod lookup;
mod loop_guard;
mod manuscript;
mod markup;
mod matmul_nbits;
mod operator_tensors;
mod operators;
mod ort_decoder;
mod plan;
mod provider;
mod request;
mod sampler;
#[cfg(test)]
mod scripted;
mod section;
mod self_test;
mod sentence;
mod session;
mod shown_text;
mod stats;
mod stop;
mod thread_choice;
mod values;
mod vision_inputs;
mod words;
mod writer;
mod written;

pub use bundle::Bundle;
pub use cancel::{CancelToken, Interrupt};
pub use card::Card;
pub use decoder::Decoder;
pub use draft::{
    Draft, DraftHeader, DraftImage, DraftSettings, DraftState, DraftTask, OpenPass, OpenSection, Outline,
    Recovery, Revision, Variant,
};
pub use engine::{DEFAULT_KV_BUDGET, DEFAULT_PREFILL_CHUNK, Engine, EngineBuilder, LoadProgress};
pub use engine_cache::{
    CachedEngine, DEFAULT_ENGINE_LIMIT, ENGINES_VARIABLE, EngineCache, EngineState, Fingerprint,
};
pub use error::{Error, ErrorKind, Result};
pub use estimate::MemoryEstimate;
pub use generation::{Begun, Event, FinishReason, Generation, GenerationSettings, Output};
pub use library::{LIBRARY_VARIABLE, find_library};
pub use loop_guard::LoopAttempts;
pub use manuscript::Manuscript;
pub use plan::{Plan, PlannedSection};
pub use provider::{Device, PLUGIN_VARIABLE};
pub use sampler::{History, LogitBias, Sampler, SamplerSettings, SamplerState, TokenMark};
pub use section::WrittenSection;
pub use session::{Session, SessionContext};
pub use stats::{Stats, available_bytes, peak_rss_bytes, rss_bytes};
pub use thread_choice::ThreadChoices;
pub use words::{WordCounter, count_words};
pub use writer::{Task, Writer, WriterEvent, WriterSettings};
