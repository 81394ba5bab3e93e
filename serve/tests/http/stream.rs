use std::time::{Duration, Instant};

use lwv_serve::Settings;
use serde_json::{Value, json};

use crate::served::chat;
use crate::{quick, slow};

/// The server must have noticed by then that a client is gone.
const SOON: Duration = Duration::from_millis(250);

fn chunks(events: &[String]) -> Vec<Value> {
    let (last, chunks) = events.split_last().unwrap();
    assert_eq!(last, "[DONE]");
    chunks
        .iter()
        .map(|chunk| serde_json::from_str(chunk).unwrap())
        .collect()
}

#[test]
fn a_stream_gives_the_text_in_pieces_and_ends_with_what_it_cost() {
    let served = quick();
    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let mut connection = served.begin(&chat("a naïve text", options));
    let head = connection.head();
    assert!(
        head.starts_with("http/1.1 200") && head.contains("content-type: text/event-stream"),
        "{head}"
    );
    let chunks = chunks(&connection.events());
    let (usage, chunks) = chunks.split_last().unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert!(
        usage["usage"]["completion_tokens"].as_u64().unwrap() > 2,
        "{usage}"
    );
    assert_eq!(
        chunks[0]["choices"][0]["delta"],
        json!({"role": "assistant", "content": ""})
    );
    let pieces: Vec<&str> = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert!(pieces.len() > 3, "{pieces:?}");
    assert_eq!(pieces.concat(), "a naïve text");
    let reasons: Vec<&Value> = chunks
        .iter()
        .map(|chunk| &chunk["choices"][0]["finish_reason"])
        .collect();
    let (last, before) = reasons.split_last().unwrap();
    assert!(
        *last == "stop" && before.iter().all(|reason| reason.is_null()),
        "{reasons:?}"
    );
    for chunk in chunks {
        assert_eq!((&chunk["id"], &chunk["usage"]), (&usage["id"], &Value::Null));
        assert_eq!(chunk["object"], "chat.completion.chunk");
    }
}

#[test]
fn a_stream_without_options_tells_no_cost() {
    let events = quick().begin(&chat("x", json!({"stream": true}))).events();
    assert!(
        chunks(&events).iter().all(|chunk| chunk.get("usage").is_none()),
        "{events:?}"
    );
}

/// What was sent cannot be taken back, so it is held until it is sure to stay.
#[test]
fn a_text_that_is_taken_back_was_not_sent() {
    let served = quick();
    let circle = "The river goes to the sea again. ".repeat(6);
    let guarded = |stream: bool| {
        chat(
            &circle,
            json!({"stream": stream, "seed": 1, "lwv": {"loop_guard": true}}),
        )
    };
    let whole = served.ask(&guarded(false));
    let chunks = chunks(&served.begin(&guarded(true)).events());
    let pieces = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
    assert_eq!(pieces.collect::<String>(), whole.text());
    assert_ne!(whole.text(), circle, "the guard did not act");
    assert_eq!(served.chat(&circle, json!({})).text(), circle);
}

/// What is known before the first text has a status of its own, in a stream too.
#[test]
fn a_prompt_that_is_too_long_is_no_stream() {
    let reply = quick().chat(&"word ".repeat(1000), json!({"stream": true}));
    reply.assert_refused(400, "context_length_exceeded");
}

#[test]
fn who_leaves_a_stream_cancels_it() {
    let (served, seen) = slow(Duration::from_millis(20), Settings::default());
    let mut connection = served.begin(&chat(&"on and on ".repeat(20), json!({"stream": true})));
    connection.wait_for_text();
    let left = Instant::now();
    drop(connection);
    served.wait_until(false, 0);
    let cancelled = seen.interrupted.at.lock().unwrap().unwrap();
    assert!(cancelled - left < SOON, "{:?}", cancelled - left);
}

/// One step takes a minute here, and nothing was answered yet.
#[test]
fn who_leaves_before_the_answer_cancels_it() {
    let (served, seen) = slow(Duration::from_secs(60), Settings::default());
    for stream in [false, true] {
        let connection = served.begin(&chat("x", json!({"stream": stream})));
        served.wait_until(true, 1);
        // It computes, rather than being about to.
        std::thread::sleep(Duration::from_millis(50));
        let left = Instant::now();
        drop(connection);
        served.wait_until(false, 0);
        let cancelled = seen.interrupted.at.lock().unwrap().take().unwrap();
        assert!(cancelled - left < SOON, "{:?}", cancelled - left);
    }
}

/// What was written for who is gone does no harm to who comes next.
#[test]
fn a_cancelled_text_leaves_a_session_that_answers() {
    let (served, _) = slow(Duration::from_millis(5), Settings::default());
    let mut connection = served.begin(&chat(&"on and on ".repeat(20), json!({"stream": true})));
    connection.wait_for_text();
    drop(connection);
    assert_eq!(served.chat("short", json!({})).text(), "short");
}

#[test]
fn stopping_lets_the_text_come_to_its_end() {
    let (mut served, _) = slow(Duration::from_millis(10), Settings::default());
    let text = "a text that takes a while";
    let mut written = served.begin(&chat(text, json!({"stream": true})));
    written.wait_for_text();
    let waiting = served.begin(&chat("x", json!({})));
    served.wait_until(true, 2);
    served.stop.finish();
    waiting.reply().assert_refused(503, "shutting_down");
    let chunks = chunks(&written.events());
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop");
    served.join();
    assert!(std::net::TcpStream::connect(served.address).is_err());
}

#[test]
fn ending_cuts_the_text_off() {
    let (mut served, seen) = slow(Duration::from_secs(60), Settings::default());
    let _connection = served.begin(&chat("x", json!({})));
    served.wait_until(true, 1);
    served.stop.end();
    served.join();
    assert!(seen.interrupted.at.lock().unwrap().is_some());
}
