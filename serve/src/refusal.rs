use hyper::StatusCode;
use lwv_runtime::ErrorKind;
use serde::Serialize;
use serde_json::{Value, json};

/// Why a request is not answered, as OpenAI's API says it.
///
/// The form is `{"error": {"message", "type", "param", "code"}}`; clients tell kinds apart by the status and by `code`
/// (`ErrorObject` in OpenAI's OpenAPI description).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    status: StatusCode,
    error: ErrorObject,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct ErrorObject {
    message: String,
    r#type: &'static str,
    param: Option<String>,
    code: Option<&'static str>,
}

impl Refusal {
    /// A request that no retry makes right.
    pub(crate) fn request(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self::new(status, "invalid_request_error", Some(code), message)
    }

    /// A field whose value cannot be used.
    pub(crate) fn field(path: impl Into<String>, reason: impl AsRef<str>) -> Self {
        let path = path.into();
        let message = format!("`{path}` {}", reason.as_ref());
        let mut refusal = Self::request(StatusCode::BAD_REQUEST, "invalid_value", message);
        refusal.error.param = Some(path);
        refusal
    }

    /// All places are taken.
    pub(crate) fn busy(places: usize) -> Self {
        let message = format!(
            "one text is written and {} wait already, as many as may; ask again later",
            places.saturating_sub(1)
        );
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limit_error",
            Some("queue_full"),
            message,
        )
    }

    /// The server is about to end.
    pub(crate) fn stopping() -> Self {
        let message = "the server is stopping and begins no further text";
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "server_error",
            Some("shutting_down"),
            message,
        )
    }

    /// A failure that is not the request's.
    pub(crate) fn failure(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", None, message)
    }

    fn new(
        status: StatusCode,
        r#type: &'static str,
        code: Option<&'static str>,
        message: impl Into<String>,
    ) -> Self {
        let error = ErrorObject {
            message: message.into(),
            r#type,
            param: None,
            code,
        };
        Self { status, error }
    }

    /// The same with another code.
    pub(crate) fn with_code(mut self, code: &'static str) -> Self {
        self.error.code = Some(code);
        self
    }

    /// Status of the response.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// Body of the response.
    pub(crate) fn body(&self) -> Value {
        json!({"error": self.error})
    }
}

impl From<lwv_runtime::Error> for Refusal {
    fn from(error: lwv_runtime::Error) -> Self {
        let message = error.to_string();
        match error.kind() {
            ErrorKind::Prompt | ErrorKind::Setting => {
                Self::request(StatusCode::BAD_REQUEST, "invalid_value", message)
            }
            // The text that was asked for is too long for the budget.
            ErrorKind::Memory => Self::request(StatusCode::BAD_REQUEST, "kv_budget_exceeded", message),
            ErrorKind::Cancelled => Self::stopping(),
            _ => Self::failure(message),
        }
    }
}

impl From<lwv_processor::Error> for Refusal {
    fn from(error: lwv_processor::Error) -> Self {
        Self::request(StatusCode::BAD_REQUEST, "invalid_prompt", error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_as_clients_expect_it() {
        let refusal = Refusal::field("messages[1].role", "is `tool`");
        assert_eq!(refusal.status(), StatusCode::BAD_REQUEST);
        let expected = json!({"error": {"message": "`messages[1].role` is `tool`", "type": "invalid_request_error",
            "param": "messages[1].role", "code": "invalid_value"}});
        assert_eq!(refusal.body(), expected);
    }

    #[test]
    fn a_setting_out_of_its_range_is_the_requests_fault() {
        let settings = lwv_runtime::SamplerSettings {
            top_p: 7.0,
            ..Default::default()
        };
        let refusal = Refusal::from(lwv_runtime::Sampler::new(settings).unwrap_err());
        assert_eq!(refusal.status(), StatusCode::BAD_REQUEST);
        assert!(
            refusal.error.message.contains("`top_p` is `7`"),
            "{}",
            refusal.error.message
        );
    }
}
