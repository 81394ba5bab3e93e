use std::time::{SystemTime, UNIX_EPOCH};

use lwv_runtime::FinishReason;
use serde_json::{Value, json};

use crate::worker::Outcome;

/// What all objects of one answer say alike.
#[derive(Debug, Clone)]
pub(crate) struct Completion {
    id: String,
    created: u64,
    model: String,
}

impl Completion {
    /// An answer that begins now.
    pub(crate) fn new(model: &str) -> Self {
        Self {
            id: format!("chatcmpl-{:032x}", rand::random::<u128>()),
            created: unix_seconds(),
            model: model.to_owned(),
        }
    }

    /// The whole answer (`CreateChatCompletionResponse` in OpenAI's OpenAPI description).
    pub(crate) fn whole(&self, text: &str, outcome: &Outcome) -> Value {
        let choice = json!({
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": null},
            "logprobs": null,
            "finish_reason": finish_reason(outcome.reason),
        });
        self.object(
            "chat.completion",
            json!([choice]),
            &[("usage", outcome.usage.body()), ("lwv", extension(outcome))],
        )
    }

    /// The first chunk of a stream (`CreateChatCompletionStreamResponse`).
    pub(crate) fn first_chunk(&self) -> Value {
        self.chunk(json!({"role": "assistant", "content": ""}), Value::Null, &[])
    }

    /// A chunk with text.
    pub(crate) fn text_chunk(&self, text: &str) -> Value {
        self.chunk(json!({"content": text}), Value::Null, &[])
    }

    /// The chunk that says why the text ended.
    pub(crate) fn last_chunk(&self, outcome: &Outcome) -> Value {
        let reason = finish_reason(outcome.reason);
        self.chunk(json!({}), reason.into(), &[("lwv", extension(outcome))])
    }

    /// The chunk after the last, with what the text cost.
    pub(crate) fn usage_chunk(&self, outcome: &Outcome) -> Value {
        self.object(
            "chat.completion.chunk",
            json!([]),
            &[("usage", outcome.usage.body())],
        )
    }

    fn chunk(&self, delta: Value, finish_reason: Value, more: &[(&str, Value)]) -> Value {
        let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason});
        self.object("chat.completion.chunk", json!([choice]), more)
    }

    fn object(&self, object: &str, choices: Value, more: &[(&str, Value)]) -> Value {
        let mut value = json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        });
        for (name, field) in more {
            value[*name] = field.clone();
        }
        value
    }
}

/// Seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

/// OpenAI tells an end from a text that was cut off, and no more.
fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Eos | FinishReason::StopString | FinishReason::WordBudget => "stop",
        _ => "length",
    }
}

/// What OpenAI has no field for.
fn extension(outcome: &Outcome) -> Value {
    json!({"finish_reason": outcome.reason, "words": outcome.words, "seed": outcome.seed.cast_signed()})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::Usage;

    #[test]
    fn ends_are_told_from_cuts() {
        let completion = Completion::new("m");
        let outcome = |reason| Outcome {
            reason,
            words: 2,
            seed: u64::MAX,
            usage: Usage::default(),
        };
        let whole = completion.whole("a b", &outcome(FinishReason::Eos));
        assert_eq!(whole["choices"][0]["finish_reason"], "stop");
        assert_eq!(whole["choices"][0]["message"]["content"], "a b");
        assert_eq!(
            whole["lwv"],
            json!({"finish_reason": "eos", "words": 2, "seed": -1})
        );
        for (reason, told) in [
            (FinishReason::MaxTokens, "length"),
            (FinishReason::WordBudget, "stop"),
        ] {
            assert_eq!(
                completion.last_chunk(&outcome(reason))["choices"][0]["finish_reason"],
                told
            );
        }
        assert_ne!(Completion::new("m").id, completion.id);
    }
}
