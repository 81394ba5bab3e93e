use std::sync::atomic::Ordering;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lwv_serve::Settings;
use serde_json::{Value, json};

use crate::echo::{self, Seen};
use crate::quick;
use crate::served::Served;

fn picture(name: &str) -> Value {
    let file = format!("{}/../tests/fixtures/images/{name}", env!("CARGO_MANIFEST_DIR"));
    let png = STANDARD.encode(std::fs::read(file).unwrap());
    json!({"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{png}")}})
}

#[test]
fn a_chat_is_answered() {
    let served = quick();
    let reply = served.chat("say this", json!({}));
    assert_eq!(reply.text(), "say this");
    assert!(
        reply.head.contains("content-type: application/json"),
        "{}",
        reply.head
    );
    let body = &reply.body;
    assert_eq!(
        (&body["object"], &body["model"]),
        (&json!("chat.completion"), &json!("echo"))
    );
    assert!(body["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(body["choices"][0]["message"]["role"], "assistant");
    assert_eq!(
        (&body["choices"][0]["finish_reason"], &body["lwv"]["words"]),
        (&json!("stop"), &json!(2))
    );
    let usage = |name: &str| body["usage"][name].as_u64().unwrap();
    assert!(
        usage("prompt_tokens") > 8 && usage("completion_tokens") > 2,
        "{body}"
    );
    assert_eq!(
        usage("total_tokens"),
        usage("prompt_tokens") + usage("completion_tokens")
    );
}

#[test]
fn limits_and_stop_texts_end_it() {
    let served = quick();
    let reply = served.chat("one two three", json!({"max_tokens": 2}));
    assert_eq!(reply.body["choices"][0]["finish_reason"], "length");
    assert_eq!(reply.body["usage"]["completion_tokens"], 2);
    let reply = served.chat("one two three", json!({"stop": ["three", "two"]}));
    assert_eq!(
        (reply.text(), &reply.body["choices"][0]["finish_reason"]),
        ("one ", &json!("stop"))
    );
}

/// The next turn begins with the whole conversation so far, which is in the cache, answer included.
#[test]
fn the_next_turn_computes_only_what_is_new() {
    let served = quick();
    let mut messages = vec![json!({"role": "user", "content": "say a b c"})];
    let first = served.ask(&json!({"messages": messages, "temperature": 0}));
    messages.push(json!({"role": "assistant", "content": first.text()}));
    messages.push(json!({"role": "user", "content": "again"}));
    let second = served.ask(&json!({"messages": messages, "temperature": 0}));
    assert_eq!(second.text(), "again");
    let cached = |reply: &crate::served::Reply| {
        reply.body["usage"]["prompt_tokens_details"]["cached_tokens"]
            .as_u64()
            .unwrap()
    };
    let used = &first.body["usage"];
    assert_eq!(cached(&first), 0);
    // The token that ended the answer was chosen, but nothing was computed from it.
    assert_eq!(
        cached(&second),
        used["total_tokens"].as_u64().unwrap() - 1,
        "{} {used}",
        second.body
    );
}

#[test]
fn pictures_are_read_once_in_a_conversation() {
    let seen = Seen::default();
    let served = Served::start(echo::model(seen.clone()), Settings::default());
    let shown = json!({"role": "user", "content": [picture("a_64x48.png"), {"type": "text", "text": "and"}, picture("b_100x60.png")]});
    let first = served.ask(&json!({"messages": [shown], "temperature": 0}));
    assert_eq!(first.text(), "and");
    assert_eq!(seen.encoded_images.load(Ordering::SeqCst), 2);
    let messages =
        json!([shown, {"role": "assistant", "content": "and"}, {"role": "user", "content": "more"}]);
    assert_eq!(
        served
            .ask(&json!({"messages": messages, "temperature": 0}))
            .text(),
        "more"
    );
    assert_eq!(
        seen.encoded_images.load(Ordering::SeqCst),
        2,
        "nothing of them is new"
    );
}

#[test]
fn what_cannot_be_read_is_refused_before_and_after_its_turn() {
    let served = quick();
    let show = |url: &str| {
        let part = json!({"type": "image_url", "image_url": {"url": url}});
        served.ask(&json!({"messages": [{"role": "user", "content": [part]}]}))
    };
    show("https://example.com/a.png").assert_refused(400, "image_not_fetched");
    show("data:image/png;base64,AQIDBA==").assert_refused(400, "invalid_image");
    let long = "word ".repeat(1000);
    served
        .chat(&long, json!({}))
        .assert_refused(400, "context_length_exceeded");
    served
        .chat("x", json!({"model": "gpt-4o"}))
        .assert_refused(404, "model_not_found");
    served
        .chat("x", json!({"top_p": 3}))
        .assert_refused(400, "invalid_value");
    let head = [
        "POST /v1/chat/completions HTTP/1.1",
        "Content-Type: application/json; charset=utf-8",
    ];
    served
        .send(&head, b"{\"messages\": [")
        .reply()
        .assert_refused(400, "invalid_json");
    assert_eq!(
        served.chat("it still answers", json!({})).text(),
        "it still answers"
    );
}

/// Who asks again wants another answer, and can have the same one.
#[test]
fn the_seed_is_told() {
    let served = quick();
    let seed = |more: Value| served.chat("x", more).body["lwv"]["seed"].clone();
    assert_eq!(seed(json!({"seed": -7})), -7);
    assert_ne!(seed(json!({})), seed(json!({})));
}

#[test]
fn a_long_text_is_planned_and_written() {
    let served = quick();
    let reply = served.chat(
        "Tell of tea.",
        json!({"lwv": {"words": 12, "plan": true, "sections": 2}}),
    );
    let headings = reply
        .text()
        .lines()
        .filter(|line| line.starts_with("## "))
        .count();
    assert_eq!(headings, 2, "{}", reply.text());
    assert!(reply.body["lwv"]["words"].as_u64().unwrap() > 2, "{}", reply.body);
    let reply = served.chat(
        "Tell of tea.",
        json!({"lwv": {"words": 1, "plan": true, "sections": 2}}),
    );
    reply.assert_refused(400, "invalid_value");
    let turns = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]);
    served
        .ask(&json!({"messages": turns, "lwv": {"words": 9}}))
        .assert_refused(400, "invalid_value");
}

#[test]
fn the_model_is_listed() {
    let served = quick();
    let list = served.get("/v1/models").body;
    assert_eq!(
        (&list["object"], &list["data"][0]["id"]),
        (&json!("list"), &json!("echo"))
    );
    for path in ["/v1/models/echo", "/v1/models/%65cho"] {
        assert_eq!(served.get(path).body, list["data"][0]);
    }
    assert_eq!(list["data"][0]["context_length"], 512);
    served
        .get("/v1/models/gpt-4o")
        .assert_refused(404, "model_not_found");
    served.get("/v1/completions").assert_refused(404, "unknown_url");
    served
        .get("/v1/chat/completions")
        .assert_refused(405, "method_not_allowed");
    assert_eq!(
        served.get("/health").body,
        json!({"status": "ok", "writing": false, "requests": 0})
    );
}
