//! The server over real connections, on a made-up decoder.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

mod access;
mod chat;
mod echo;
mod limits;
mod served;
mod stream;

use std::time::Duration;

use lwv_serve::Settings;

use crate::echo::Seen;
use crate::served::Served;

/// A server that answers at once.
fn quick() -> Served {
    Served::start(echo::model(Seen::default()), Settings::default())
}

/// A server whose tokens take `pace` each, and what its decoder does.
fn slow(pace: Duration, settings: Settings) -> (Served, Seen) {
    let seen = Seen {
        pace,
        ..Seen::default()
    };
    (Served::start(echo::model(seen.clone()), settings), seen)
}
