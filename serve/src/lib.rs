//! Answers OpenAI's chat completions from a bundle, so that editors which speak that protocol write with it.
//!
//! 1. [`Server::bind`] takes the port, and refuses an address that other machines reach unless there is a [`Token`].
//! 2. [`Model`] is what is served: an engine, or any maker of sessions.
//! 3. [`Server::run`] answers until [`Stop`] says otherwise.
//!
//! One text is written at a time, on one session that is kept: of a conversation's next turn only what is new is computed.
//! Nothing is fetched and nobody is called; pictures come inside of requests.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod access;
mod answer;
mod body;
mod chat_request;
mod completion;
mod conversation;
mod error;
mod event_stream;
mod extension;
mod fields;
mod model;
mod picture;
mod queue;
mod refusal;
mod server;
mod service;
mod stop;
mod token;
mod unsupported;
mod usage;
mod worker;

pub use access::Origin;
pub use error::{Error, Result};
pub use model::Model;
pub use server::{Server, Settings};
pub use stop::Stop;
pub use token::{TOKEN_VARIABLE, Token};
