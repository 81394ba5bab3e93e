//! From text and pictures to what a model is fed, as plain vectors.
//!
//! - [`Processor`] reads a checkpoint or bundle folder and makes a [`Prompt`]: token ids and image [`Patches`]; or a
//!   [`Transcript`] of a whole conversation, to learn from.
//! - [`Tokenizer`], [`TokenStream`] and [`ChatTemplate`] are the text side, [`decode_image`] and [`ImageProcessor`], or
//!   [`TileProcessor`], the image side; each can be used alone.
//! - [`VisionGeometry`] computes what the vision tower must know about the picture sizes, [`PositionBuilder`] the
//!   decoder's position ids.
//!
//! The reference for every number is Hugging Face transformers with its Pillow image processor. Nothing here depends
//! on a tensor library or opens a socket.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod chat;
mod error;
mod grid;
mod image;
mod image_format;
mod image_size;
mod jpeg;
mod jpeg_header;
mod json;
mod message;
mod orientation;
mod patches;
mod png;
mod positions;
mod preprocessor;
mod prompt;
mod resize;
mod rgb_image;
mod samples;
mod size;
mod stream;
mod strftime;
mod template;
mod tiles;
mod tokenizer;
mod transcript;
mod vision;
mod webp;
mod window;

pub use chat::ChatTemplate;
pub use error::{Error, Result};
pub use grid::Grid;
pub use image::{MAX_ASPECT_RATIO, MAX_PIXELS, decode_image, open_image};
pub use image_size::image_size;
pub use message::{Content, Message};
pub use patches::{ImageProcessor, Patches};
pub use positions::PositionBuilder;
pub use prompt::{Processor, Prompt};
pub use resize::{Filter, resize};
pub use rgb_image::RgbImage;
pub use size::smart_resize;
pub use stream::TokenStream;
pub use tiles::{Split, TileProcessor, Tiles};
pub use tokenizer::Tokenizer;
pub use transcript::Transcript;
pub use window::{Segments, VisionGeometry, VisionLayout};
