use std::time::Duration;

use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Body, Incoming};

use crate::refusal::Refusal;

/// A request must have come whole by then.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes beyond the limit that are read and thrown away. A connection that is closed while something is sent on it loses
/// the answer too, and the client would not learn why.
const THROWN_AWAY: u64 = 64 << 20;

/// Reads a request's body of at most `limit` bytes.
pub(crate) async fn read(body: Incoming, limit: u64) -> Result<Vec<u8>, Refusal> {
    let read = tokio::time::timeout(PATIENCE, read_all(body, limit)).await;
    read.unwrap_or_else(|_| {
        let message = format!(
            "the request did not come whole within {} seconds",
            PATIENCE.as_secs()
        );
        Err(Refusal::request(
            StatusCode::REQUEST_TIMEOUT,
            "request_timeout",
            message,
        ))
    })
}

async fn read_all(mut body: Incoming, limit: u64) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    let mut length = 0;
    let too_long = body.size_hint().lower() > limit;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let message = format!("the request did not come whole: {error}");
            Refusal::request(StatusCode::BAD_REQUEST, "incomplete_request", message)
        })?;
        let data = frame.into_data().unwrap_or_default();
        length += data.len() as u64;
        if length > limit.saturating_add(THROWN_AWAY) {
            break;
        }
        if too_long || length > limit {
            bytes = Vec::new();
        } else {
            bytes.extend_from_slice(&data);
        }
    }
    if too_long || length > limit {
        let message = format!(
            "the request has more than {} MiB; send fewer or smaller pictures, or raise `--max-request-mib`",
            limit >> 20
        );
        return Err(Refusal::request(
            StatusCode::PAYLOAD_TOO_LARGE,
            "request_too_large",
            message,
        ));
    }
    Ok(bytes)
}
