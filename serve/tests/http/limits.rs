use std::time::Duration;

use lwv_serve::Settings;
use serde_json::json;

use crate::echo::{self, Seen};
use crate::served::{Served, chat};
use crate::slow;

#[test]
fn requests_beyond_the_queue_are_refused_and_places_come_free() {
    let settings = Settings {
        waiting: 1,
        ..Settings::default()
    };
    let (served, _) = slow(Duration::from_secs(60), settings);
    let written = served.begin(&chat("x", json!({})));
    served.wait_until(true, 1);
    let waiting = served.begin(&chat("x", json!({})));
    served.wait_until(true, 2);
    let refused = served.chat("x", json!({"stream": true}));
    refused.assert_refused(429, "queue_full");
    assert!(refused.head.contains("retry-after: "), "{}", refused.head);
    // Who leaves the queue frees the place while the other is still written.
    drop(waiting);
    served.wait_until(true, 1);
    let next = served.begin(&chat("x", json!({})));
    served.wait_until(true, 2);
    drop((written, next));
    served.wait_until(false, 0);
}

#[test]
fn waiting_requests_are_answered_in_their_turn() {
    let (served, _) = slow(Duration::from_millis(5), Settings::default());
    let first = served.begin(&chat("the first", json!({})));
    served.wait_until(true, 1);
    let second = served.begin(&chat("the second", json!({})));
    assert_eq!(
        (first.reply().text(), second.reply().text()),
        ("the first", "the second")
    );
}

/// The answer arrives even though the request was not wanted.
#[test]
fn requests_that_are_too_long_are_refused() {
    let settings = Settings {
        max_request_bytes: 1 << 20,
        ..Settings::default()
    };
    let served = Served::start(echo::model(Seen::default()), settings);
    let long = "x".repeat(5 << 20);
    served
        .chat(&long, json!({}))
        .assert_refused(413, "request_too_large");
    // Without a length that tells it in advance.
    let head = [
        "POST /v1/chat/completions HTTP/1.1",
        "Content-Type: application/json",
        "Transfer-Encoding: chunked",
    ];
    let chunked = format!("{:x}\r\n{long}\r\n0\r\n\r\n", long.len());
    served
        .send_as_is(&head, chunked.as_bytes())
        .reply()
        .assert_refused(413, "request_too_large");
    assert_eq!(served.chat("x", json!({})).text(), "x");
}
