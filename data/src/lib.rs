//! Supervised data: conversations with pictures, from files to what a model is trained on.
//!
//! - [`Dataset`] finds the samples of JSON and Parquet files and reads any of them as a [`Conversation`].
//! - Where two answers to one prompt are compared, it reads a [`Pair`] instead.
//! - [`Scripts`] reads long texts that people have corrected, page by page, and a [`ScriptRow`] makes pairs of them.
//! - [`Encoder`] makes an [`Example`] or a [`PairExample`] of it: token ids, labels and image patches.
//! - [`Order`] and [`split`] say which sample comes when, [`Loader`] encodes them ahead in other threads.
//! - [`count_words`] measures answers as the paper does.
//! - [`save_chart`] draws a [`Chart`] into a file.
//!
//! Every error names the file and line, or row, of the sample.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod alpaca;
mod canvas;
mod chart;
mod conversation;
mod dataset;
mod draft;
mod encoder;
mod error;
mod image_source;
mod json_file;
mod json_list;
mod loader;
mod media;
mod openai;
mod order;
mod origin;
mod pair;
mod pair_example;
mod parquet_file;
mod parquet_row;
mod prefixes;
mod record;
#[cfg(test)]
mod samples;
mod script;
mod scripts;
mod segments;
mod sharegpt;
mod words;

pub use chart::{Chart, save_chart};
pub use conversation::Conversation;
pub use dataset::Dataset;
pub use encoder::{Encoded, Encoder, EncoderSettings, Example, IGNORED, TooLong};
pub use error::{Error, Problem, Result};
pub use image_source::ImageSource;
pub use loader::Loader;
pub use order::{LengthGrouping, Order, Validation, split};
pub use origin::{Origin, Place};
pub use pair::Pair;
pub use pair_example::{Answered, PairExample};
pub use prefixes::{PrefixCounts, PrefixPair, PrefixRule};
pub use script::{Script, ScriptRow, ScriptText};
pub use scripts::Scripts;
pub use words::count_words;
