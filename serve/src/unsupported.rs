//! Fields of OpenAI's that say nothing about the text, or ask for what there is not here.

use serde_json::{Map, Value, json};

use crate::fields::Fields;
use crate::refusal::Refusal;

/// Fields that say who asks, or how a service keeps and bills a text. The text is the same without them.
const WITHOUT_EFFECT: [&str; 7] = [
    "metadata",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
];

const NO_TOOLS: &str = "cannot be used: the model calls no tools";
const NO_PROBABILITIES: &str = "cannot be had: probabilities are not kept";

/// A field that clients send with values that ask for nothing.
struct Unsupported {
    name: &'static str,
    asks_for_nothing: fn(&Value) -> bool,
    /// Why there is nothing else to ask for.
    reason: &'static str,
}

impl Unsupported {
    const fn new(name: &'static str, asks_for_nothing: fn(&Value) -> bool, reason: &'static str) -> Self {
        Self {
            name,
            asks_for_nothing,
            reason,
        }
    }
}

const UNSUPPORTED: [Unsupported; 10] = [
    Unsupported::new(
        "n",
        |n| n.as_f64() == Some(1.0),
        "must be 1: one text is written at a time",
    ),
    Unsupported::new("logprobs", |asked| asked == false, NO_PROBABILITIES),
    Unsupported::new("top_logprobs", is_zero, NO_PROBABILITIES),
    Unsupported::new(
        "response_format",
        |form| form["type"] == "text",
        "must be of type `text`: answers are free text",
    ),
    Unsupported::new(
        "modalities",
        |kinds| *kinds == json!(["text"]),
        "must be `[\"text\"]`: answers are text",
    ),
    Unsupported::new("tools", is_empty, NO_TOOLS),
    Unsupported::new("tool_choice", is_none_or_auto, NO_TOOLS),
    Unsupported::new("parallel_tool_calls", Value::is_boolean, NO_TOOLS),
    Unsupported::new("functions", is_empty, NO_TOOLS),
    Unsupported::new("function_call", is_none_or_auto, NO_TOOLS),
];

/// Takes these fields out of a request, and refuses those that ask for something.
pub(crate) fn take(request: &mut Fields) -> Result<(), Refusal> {
    for name in WITHOUT_EFFECT {
        request.take::<Value>(name)?;
    }
    for field in UNSUPPORTED {
        request.take_usual(field.name, field.asks_for_nothing, field.reason)?;
    }
    Ok(())
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
}

fn is_none_or_auto(value: &Value) -> bool {
    value == "none" || value == "auto"
}

fn is_zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_from(request: Value) -> Result<(), Value> {
        let mut fields = Fields::of(request, "").unwrap();
        take(&mut fields)
            .and_then(|()| fields.finish())
            .map_err(|refusal| refusal.body()["error"].clone())
    }

    #[test]
    fn what_clients_send_by_habit_is_taken() {
        let habits = json!({"n": 1, "user": "me", "store": false, "logprobs": false, "top_logprobs": null, "tools": [],
            "tool_choice": "auto", "parallel_tool_calls": true, "response_format": {"type": "text"},
            "modalities": ["text"]});
        assert_eq!(take_from(habits), Ok(()));
    }

    #[test]
    fn what_would_ask_for_something_is_refused() {
        let something = json!({"n": 2, "logprobs": true, "top_logprobs": 5, "tools": [{}], "tool_choice": "required",
            "functions": [{}], "function_call": {"name": "f"}, "response_format": {"type": "json_object"},
            "modalities": ["audio"],
            "parallel_tool_calls": "x"});
        let something = something.as_object().unwrap();
        assert_eq!(something.len(), UNSUPPORTED.len());
        for (name, value) in something {
            let error = take_from(json!({name: value})).unwrap_err();
            assert_eq!(
                (&error["param"], &error["code"]),
                (&json!(name), &json!("unsupported_value")),
                "{error}"
            );
        }
    }
}
