use lwv_serve::{Error, Server, Settings, Token};
use serde_json::json;

use crate::echo::{self, Seen};
use crate::quick;
use crate::served::Served;

const TOKEN: &str = "a-token-of-the-tests";
const MODELS: &str = "GET /v1/models HTTP/1.1";

#[test]
fn a_token_is_required_where_there_is_one() {
    let settings = Settings {
        token: Some(Token::new(TOKEN).unwrap()),
        ..Settings::default()
    };
    let served = Served::start(echo::model(Seen::default()), settings);
    let ask = |authorization: &str| served.send(&[MODELS, authorization], b"").reply();
    let refused = served.get("/v1/models");
    refused.assert_refused(401, "invalid_api_key");
    assert!(
        refused.head.contains("www-authenticate: bearer"),
        "{}",
        refused.head
    );
    ask("Authorization: Bearer a-token-of-the-testS").assert_refused(401, "invalid_api_key");
    assert_eq!(ask(&format!("Authorization: Bearer {TOKEN}")).status, 200);
    served.chat("x", json!({})).assert_refused(401, "invalid_api_key");
    assert_eq!(served.get("/health").status, 200);
}

#[test]
fn other_machines_are_not_listened_to_without_a_token() {
    for address in ["0.0.0.0:0", "[::]:0"] {
        let settings = |token| Settings {
            address: address.parse().unwrap(),
            token,
            ..Settings::default()
        };
        let error = Server::bind(settings(None)).unwrap_err();
        assert!(
            matches!(error, Error::NoToken { .. }) && error.to_string().contains("--token-file"),
            "{error}"
        );
        match Server::bind(settings(Some(Token::new(TOKEN).unwrap()))) {
            Ok(server) => assert!(!server.address().unwrap().ip().is_loopback()),
            // Not every machine has both families.
            Err(error) => assert!(
                matches!(error, Error::Listen { .. }) && address.contains("::"),
                "{error}"
            ),
        }
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    let served = quick();
    let settings = Settings {
        address: served.address,
        ..Settings::default()
    };
    let error = Server::bind(settings).unwrap_err().to_string();
    assert!(
        error.contains(&served.address.to_string()) && error.contains("--listen"),
        "{error}"
    );
}

#[test]
fn foreign_names_and_pages_are_refused() {
    let served = quick();
    let with = |header: &str| served.send(&[MODELS, header], b"").reply();
    assert_eq!(with("Host: localhost").status, 200);
    with("Host: evil.example").assert_refused(403, "host_not_allowed");
    with("Origin: https://evil.example").assert_refused(403, "origin_not_allowed");
    with("Sec-Fetch-Site: cross-site").assert_refused(403, "origin_not_allowed");
    // What a form on a page can send without asking first.
    let form = served
        .send(
            &["POST /v1/chat/completions HTTP/1.1", "Content-Type: text/plain"],
            b"{}",
        )
        .reply();
    form.assert_refused(415, "unsupported_media_type");
}

#[test]
fn pages_of_an_allowed_site_may_ask() {
    let settings = Settings {
        allowed_origins: vec!["http://localhost:3000".parse().unwrap()],
        ..Settings::default()
    };
    let served = Served::start(echo::model(Seen::default()), settings);
    let origin = "Origin: http://localhost:3000";
    let reply = served
        .send(&[MODELS, origin, "Sec-Fetch-Site: same-site"], b"")
        .reply();
    assert_eq!(reply.status, 200);
    assert!(
        reply
            .head
            .contains("access-control-allow-origin: http://localhost:3000"),
        "{}",
        reply.head
    );
    let asked = "Access-Control-Request-Headers: authorization,content-type";
    let preflight = ["OPTIONS /v1/chat/completions HTTP/1.1", origin, asked];
    let reply = served.send(&preflight, b"").reply();
    assert_eq!(reply.status, 204);
    assert!(
        reply
            .head
            .contains("access-control-allow-headers: authorization,content-type"),
        "{}",
        reply.head
    );
    let foreign = served
        .send(
            &["OPTIONS /v1/models HTTP/1.1", "Origin: http://localhost:3001"],
            b"",
        )
        .reply();
    assert!(
        !foreign.head.contains("access-control-allow-origin"),
        "{}",
        foreign.head
    );
    foreign.assert_refused(403, "origin_not_allowed");
}
