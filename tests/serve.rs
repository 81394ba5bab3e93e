//! `lwv-write serve` on real bundles: what is answered over HTTP is what transformers writes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lwv_model::Precision;
use lwv_tests::{Case, ExpectedPrompt, Run, bundle, fixtures, lwv_write};
use serde_json::{Value, json};

/// A server that ends with the test.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(case: &Case, options: &[&str]) -> Self {
        let mut command = lwv_write();
        command
            .arg("serve")
            .arg(bundle(&case.dir, Precision::Fp32))
            .args(["--listen", "127.0.0.1:0", "--model-name", "tiny"])
            .args(options)
            .stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line
            .trim()
            .strip_prefix("http://")
            .unwrap()
            .strip_suffix("/v1")
            .unwrap();
        Self {
            address: address.to_owned(),
            process,
        }
    }

    /// Status and body of a response.
    fn ask(&self, path: &str, more: &str, body: Option<&Value>) -> (u16, Value) {
        let body = body.map_or(String::new(), Value::to_string);
        let method = if body.is_empty() { "GET" } else { "POST" };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n{more}\r\n{body}",
            self.address,
            body.len()
        );
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap())
    }

    fn complete(&self, prompt: &ExpectedPrompt) -> Value {
        let request = json!({"model": "tiny", "temperature": 0, "max_tokens": prompt.greedy_ids.len(),
            "messages": with_data_urls(&prompt.messages)});
        let (status, completion) = self.ask("/v1/chat/completions", "", Some(&request));
        assert_eq!(status, 200, "{completion}");
        completion
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// A recorded conversation as OpenAI's API wants it.
fn with_data_urls(messages: &Value) -> Value {
    let mut messages = messages.clone();
    let contents = messages
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .map(|message| &mut message["content"]);
    for part in contents.filter_map(Value::as_array_mut).flatten() {
        if part["type"] == "image" {
            let png = std::fs::read(fixtures().join(part["image"].as_str().unwrap())).unwrap();
            let url = format!("data:image/png;base64,{}", STANDARD.encode(png));
            *part = json!({"type": "image_url", "image_url": {"url": url}});
        }
    }
    messages
}

/// Texts, pictures, several turns: one after the other on one session, so that nothing of an earlier one shows in a later one.
#[test]
fn conversations_are_answered_as_transformers_answers_them() {
    for name in ["nested_f32", "llama"] {
        let case = Case::load(name);
        let server = Server::start(&case, &[]);
        let chats: Vec<&ExpectedPrompt> = case
            .prompts
            .values()
            .filter(|prompt| prompt.messages.is_array())
            .collect();
        assert!(!chats.is_empty());
        for prompt in chats {
            let completion = server.complete(prompt);
            // The limit of tokens may cut a character off, which is no text here.
            let whole = |text: &str| text.trim_end_matches(char::REPLACEMENT_CHARACTER).to_owned();
            let text = completion["choices"][0]["message"]["content"].as_str().unwrap();
            assert_eq!(whole(text), whole(&prompt.greedy_text), "{name}, {}", prompt.text);
            assert_eq!(completion["usage"]["prompt_tokens"], prompt.input_ids.len());
        }
    }
}

#[test]
fn the_token_of_a_file_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "0123456789abcdef\n").unwrap();
    let server = Server::start(&Case::load("llama"), &["--token-file", file.to_str().unwrap()]);
    assert_eq!(server.ask("/v1/models", "", None).0, 401);
    let (status, models) = server.ask("/v1/models", "Authorization: Bearer 0123456789abcdef\r\n", None);
    assert_eq!((status, &models["data"][0]["id"]), (200, &json!("tiny")));
}

/// Before minutes are spent on loading a model.
#[test]
fn an_address_that_others_reach_is_refused_without_a_token() {
    let mut command = lwv_write();
    command.args(["serve", "/nowhere", "--listen", "0.0.0.0:0"]);
    Run::of(&mut command).assert_failed(1, &["0.0.0.0:0", "--token-file", "LWV_SERVE_TOKEN"]);
    let mut command = lwv_write();
    command
        .args(["serve", "/nowhere"])
        .env("LWV_SERVE_TOKEN", "short");
    Run::of(&mut command).assert_failed(1, &["LWV_SERVE_TOKEN", "openssl"]);
}
