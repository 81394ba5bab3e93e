use std::convert::Infallible;

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_REQUEST_HEADERS, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    RETRY_AFTER, VARY, WWW_AUTHENTICATE,
};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::access::Access;
use crate::body;
use crate::chat_request::{ChatRequest, unknown_model};
use crate::completion::{Completion, unix_seconds};
use crate::event_stream::EventStream;
use crate::queue::Queue;
use crate::refusal::Refusal;

/// Seconds after which it is worth while to ask again.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("5");

/// Requests that are read at a time; further ones wait, so that those which are not in the queue yet take no more memory.
const READ_AT_A_TIME: usize = 4;

/// Chromium asks so before a page may reach this machine (Private Network Access, WICG).
const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");

pub(crate) type Body = Either<Full<Bytes>, EventStream>;

/// What is answered, and to whom.
pub(crate) struct Service {
    access: Access,
    queue: Queue,
    model: String,
    context_length: usize,
    /// Seconds since 1970.
    created: u64,
    max_request_bytes: u64,
    reads: Semaphore,
}

impl Service {
    /// A service of the model with that name.
    pub(crate) fn new(
        access: Access,
        queue: Queue,
        model: &str,
        context_length: usize,
        max_request_bytes: u64,
    ) -> Self {
        Self {
            access,
            queue,
            model: model.to_owned(),
            context_length,
            created: unix_seconds(),
            max_request_bytes,
            reads: Semaphore::new(READ_AT_A_TIME),
        }
    }

    /// Answers a request, be it with a refusal.
    pub(crate) async fn respond(&self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let (parts, body) = request.into_parts();
        let answer = self.answer(&parts, body).await;
        let mut response = answer.unwrap_or_else(|refusal| refused(&refusal));
        if let Some(origin) = self.access.allowed_origin(&parts) {
            response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            response
                .headers_mut()
                .insert(VARY, HeaderValue::from_static("origin"));
        }
        Ok(response)
    }

    async fn answer(&self, request: &Parts, body: Incoming) -> Result<Response<Body>, Refusal> {
        let endpoint = match self.admit(request) {
            Ok(endpoint) => endpoint,
            Err(refusal) => {
                // What is left unread would take the answer with it.
                let _ = body::read(body, 0).await;
                return Err(refusal);
            }
        };
        match endpoint {
            Endpoint::Preflight => Ok(preflight(&request.headers)),
            Endpoint::Health => Ok(json_response(StatusCode::OK, &self.health())),
            Endpoint::Models => {
                let list = json!({"object": "list", "data": [self.model_object()]});
                Ok(json_response(StatusCode::OK, &list))
            }
            Endpoint::Model => Ok(json_response(StatusCode::OK, &self.model_object())),
            Endpoint::ChatCompletions => self.complete(self.read(body).await?).await,
        }
    }

    /// What the request is for, once it is clear that its sender may ask.
    fn admit(&self, request: &Parts) -> Result<Endpoint, Refusal> {
        self.access.check_sender(request)?;
        if request.method == Method::OPTIONS {
            // Browsers send no token here.
            return Ok(Endpoint::Preflight);
        }
        let path = request.uri.path();
        if path != HEALTH {
            self.access.check_token(request)?;
        }
        let endpoint = self.endpoint(path)?;
        if request.method != endpoint.method() {
            let message = format!("`{path}` takes {} only", endpoint.method());
            return Err(Refusal::request(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                message,
            ));
        }
        if request.method == Method::POST && !is_json(&request.headers) {
            let message = "the header `Content-Type` must be `application/json`";
            return Err(Refusal::request(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                message,
            ));
        }
        Ok(endpoint)
    }

    fn endpoint(&self, path: &str) -> Result<Endpoint, Refusal> {
        let named = path.strip_prefix("/v1/models/");
        match (
            path,
            named.map(|name| percent_decode_str(name).decode_utf8_lossy()),
        ) {
            (HEALTH, _) => Ok(Endpoint::Health),
            ("/v1/models", _) => Ok(Endpoint::Models),
            ("/v1/chat/completions", _) => Ok(Endpoint::ChatCompletions),
            (_, Some(model)) if model == self.model => Ok(Endpoint::Model),
            (_, Some(model)) => Err(unknown_model(&model, &self.model)),
            _ => {
                let message = format!(
                    "there is no `{path}`; there are `/v1/chat/completions`, `/v1/models` and `{HEALTH}`, and clients want \
                     the address up to `/v1`"
                );
                Err(Refusal::request(StatusCode::NOT_FOUND, "unknown_url", message))
            }
        }
    }

    async fn read(&self, body: Incoming) -> Result<ChatRequest, Refusal> {
        // Never closed, so this never fails.
        let _turn = self.reads.acquire().await.ok();
        let bytes = body::read(body, self.max_request_bytes).await?;
        let model = self.model.clone();
        // Megabytes of pictures, which other connections do not wait for.
        let parsed = tokio::task::spawn_blocking(move || ChatRequest::parse(&bytes, &model)).await;
        parsed.map_err(|error| Refusal::failure(error.to_string()))?
    }

    async fn complete(&self, request: ChatRequest) -> Result<Response<Body>, Refusal> {
        let (stream, include_usage) = (request.stream, request.include_usage);
        let answer = self.queue.submit(request).await?;
        let completion = Completion::new(&self.model);
        if stream {
            return Ok(event_stream(EventStream::new(answer, completion, include_usage)));
        }
        let (text, outcome) = answer.whole().await?;
        Ok(json_response(StatusCode::OK, &completion.whole(&text, &outcome)))
    }

    fn health(&self) -> Value {
        json!({"status": "ok", "writing": self.queue.is_writing(), "requests": self.queue.requests()})
    }

    fn model_object(&self) -> Value {
        json!({"id": self.model, "object": "model", "created": self.created, "owned_by": "lwv",
            "context_length": self.context_length})
    }
}

const HEALTH: &str = "/health";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Preflight,
    Health,
    Models,
    Model,
    ChatCompletions,
}

impl Endpoint {
    fn method(self) -> Method {
        match self {
            Self::Preflight => Method::OPTIONS,
            Self::Health | Self::Models | Self::Model => Method::GET,
            Self::ChatCompletions => Method::POST,
        }
    }
}

/// A page can send a form to any address unasked, but no JSON.
fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or("");
    let kind = kind.split(';').next().unwrap_or("").trim();
    kind.eq_ignore_ascii_case("application/json")
}

/// Only allowed origins come this far; they may send what their client wants to send.
fn preflight(headers: &HeaderMap) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::default()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let answered = response.headers_mut();
    answered.insert(
        ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, POST"),
    );
    answered.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
    if let Some(asked) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        answered.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
    response
}

fn refused(refusal: &Refusal) -> Response<Body> {
    let status = refusal.status();
    let mut response = json_response(status, &refusal.body());
    let more = match status {
        StatusCode::UNAUTHORIZED => Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Some((RETRY_AFTER, RETRY_SECONDS)),
        StatusCode::METHOD_NOT_ALLOWED => Some((ALLOW, HeaderValue::from_static("GET, POST"))),
        _ => None,
    };
    response.headers_mut().extend(more);
    response
}

fn json_response(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::from(value.to_string())));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn event_stream(stream: EventStream) -> Response<Body> {
    let mut response = Response::new(Either::Right(stream));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
