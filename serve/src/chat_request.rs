use hyper::StatusCode;
use lwv_runtime::{GenerationSettings, Sampler, SamplerSettings};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::conversation::Conversation;
use crate::extension::{Extension, LongText};
use crate::fields::Fields;
use crate::refusal::Refusal;
use crate::unsupported;

/// A chat completion that is asked for (`CreateChatCompletionRequest` in OpenAI's OpenAPI description), checked as far as
/// that is possible without the model.
#[derive(Debug, Clone)]
pub(crate) struct ChatRequest {
    pub(crate) conversation: Conversation,
    /// Its token cancels this request alone.
    pub(crate) settings: GenerationSettings,
    /// Where a text of a number of words is asked for.
    pub(crate) long_text: Option<LongText>,
    pub(crate) stream: bool,
    /// Whether a stream ends with what it cost.
    pub(crate) include_usage: bool,
}

impl ChatRequest {
    /// Reads a request for `model`.
    pub(crate) fn parse(body: &[u8], model: &str) -> Result<Self, Refusal> {
        let value = serde_json::from_slice(body).map_err(|error| {
            let message = format!("the request is no JSON: {error}");
            Refusal::request(StatusCode::BAD_REQUEST, "invalid_json", message)
        })?;
        let mut fields = Fields::of(value, "")?;
        check_model(&mut fields, model)?;
        let stream = fields.take("stream")?.unwrap_or(false);
        let extension = Extension::take(&mut fields)?;
        let request = Self {
            conversation: Conversation::parse(fields.require("messages")?)?,
            settings: generation_settings(&mut fields, extension)?,
            long_text: extension.long_text,
            stream,
            include_usage: include_usage(&mut fields, stream)?,
        };
        unsupported::take(&mut fields)?;
        fields.finish()?;
        Ok(request)
    }
}

fn check_model(fields: &mut Fields, model: &str) -> Result<(), Refusal> {
    match fields.take::<String>("model")? {
        Some(asked) if asked != model => Err(unknown_model(&asked, model)),
        _ => Ok(()),
    }
}

/// The refusal of a model that is not `served`.
pub(crate) fn unknown_model(asked: &str, served: &str) -> Refusal {
    let message = format!("there is no model `{asked}` here; the one that is served is `{served}`");
    Refusal::request(StatusCode::NOT_FOUND, "model_not_found", message)
}

fn generation_settings(fields: &mut Fields, extension: Extension) -> Result<GenerationSettings, Refusal> {
    let usual = GenerationSettings::default();
    let settings = GenerationSettings {
        sampler: sampler(fields)?,
        max_new_tokens: max_tokens(fields, extension.long_text)?,
        stop: stop(fields)?,
        loop_guard: extension.loop_guard,
        lookup_tokens: extension.lookup_tokens.unwrap_or(usual.lookup_tokens),
        ..usual
    };
    // Tells of settings out of their range before the request waits for its turn.
    Sampler::new(settings.sampler.clone())?;
    Ok(settings)
}

/// All settings of the sampler under their own names, some of which OpenAI has too. What is not said is as in `lwv-write`, but
/// for the seed: who asks again wants another answer. Its 32 bits are told with the answer, and no client's numbers are too
/// small for them.
fn sampler(fields: &mut Fields) -> Result<SamplerSettings, Refusal> {
    let seed = fields.take("seed")?;
    let usual = serde_json::to_value(SamplerSettings::default());
    let usual = usual.map_err(|error| Refusal::failure(error.to_string()))?;
    let mut settings = Map::new();
    for name in usual.as_object().into_iter().flat_map(Map::keys) {
        let Some(value) = fields.take::<Value>(name)? else {
            continue;
        };
        // By itself, so that an error has its place.
        Fields::parse_as::<SamplerSettings>(json!({name: value}), name)?;
        settings.insert(name.clone(), value);
    }
    Ok(SamplerSettings {
        seed: seed.map_or_else(|| rand::random::<u32>().into(), i64::cast_unsigned),
        ..Fields::parse_as(settings.into(), "")?
    })
}

/// The limit, which has two names. Words are a limit too, and the only one of a text that is planned.
fn max_tokens(fields: &mut Fields, long_text: Option<LongText>) -> Result<usize, Refusal> {
    let old = fields.take_count("max_tokens")?;
    let new = fields.take_count("max_completion_tokens")?;
    match (old.or(new), long_text) {
        (Some(tokens), _) if new.is_some_and(|new| new != tokens) => {
            let reason = "is another number than `max_completion_tokens`; send one of them";
            Err(Refusal::field("max_tokens", reason))
        }
        (Some(_), Some(LongText { plan: true, .. })) => {
            let name = if old.is_some() {
                "max_tokens"
            } else {
                "max_completion_tokens"
            };
            let reason = "cannot limit a text that is planned; `lwv.words` says how long it is to be";
            Err(Refusal::field(name, reason))
        }
        (Some(tokens), _) => Ok(tokens),
        (None, Some(_)) => Ok(usize::MAX),
        (None, None) => Ok(GenerationSettings::default().max_new_tokens),
    }
}

fn stop(fields: &mut Fields) -> Result<Vec<String>, Refusal> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stop {
        One(String),
        Several(Vec<String>),
    }
    let stop = match fields.take("stop")? {
        None => Vec::new(),
        Some(Stop::One(text)) => vec![text],
        Some(Stop::Several(texts)) => texts,
    };
    if stop.iter().any(String::is_empty) {
        return Err(Refusal::field(
            "stop",
            "has an empty text, which would end every answer before it begins",
        ));
    }
    Ok(stop)
}

fn include_usage(request: &mut Fields, stream: bool) -> Result<bool, Refusal> {
    let Some(value) = request.take("stream_options")? else {
        return Ok(false);
    };
    if !stream {
        return Err(Refusal::field("stream_options", "needs `stream`"));
    }
    let mut fields = Fields::of(value, "stream_options")?;
    let include = fields.take("include_usage")?.unwrap_or(false);
    // Asks for random padding against who listens to an encrypted connection; this one is not encrypted.
    fields.take::<bool>("include_obfuscation")?;
    fields.finish()?;
    Ok(include)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lwv_runtime::LogitBias;

    fn parse(fields: Value) -> Result<ChatRequest, Value> {
        let mut request = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
        request
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        ChatRequest::parse(request.to_string().as_bytes(), "m")
            .map_err(|refusal| refusal.body()["error"].clone())
    }

    #[test]
    fn settings_are_what_was_asked_for() {
        let request = parse(
            json!({"temperature": 0, "top_p": 0.5, "max_completion_tokens": 7, "stop": "\n", "seed": -1,
            "top_k": 3, "min_p": 0.1, "repetition_penalty": 1.5, "presence_penalty": 0.5, "frequency_penalty": -0.5,
            "logit_bias": {"7": -100}, "dry_multiplier": 0.8, "no_repeat_ngram_size": 12, "stream": true,
            "stream_options": {"include_usage": true}}),
        )
        .unwrap();
        let expected = SamplerSettings {
            temperature: 0.0,
            top_p: 0.5,
            top_k: 3,
            min_p: 0.1,
            repetition_penalty: 1.5,
            presence_penalty: 0.5,
            frequency_penalty: -0.5,
            logit_bias: LogitBias::from_iter([(7, -100.0)]),
            dry_multiplier: 0.8,
            no_repeat_ngram_size: 12,
            seed: u64::MAX,
            ..SamplerSettings::default()
        };
        assert_eq!(request.settings.sampler, expected);
        assert_eq!(
            (request.settings.max_new_tokens, request.settings.stop),
            (7, vec!["\n".to_owned()])
        );
        assert!(request.stream && request.include_usage && request.long_text.is_none());
    }

    #[test]
    fn what_is_not_said_is_as_on_the_command_line() {
        let request = parse(
            json!({"stop": null, "user": "me", "metadata": {}, "n": 1, "presence_penalty": 0.0, "logit_bias": {},
            "tools": [], "response_format": {"type": "text"}, "max_tokens": null}),
        )
        .unwrap();
        let expected = SamplerSettings {
            seed: request.settings.sampler.seed,
            ..SamplerSettings::default()
        };
        assert_eq!(request.settings.sampler, expected);
        assert_eq!(
            request.settings.max_new_tokens,
            GenerationSettings::default().max_new_tokens
        );
        let again = parse(json!({})).unwrap();
        assert_ne!(request.settings.sampler.seed, again.settings.sampler.seed);
    }

    #[test]
    fn nothing_that_would_change_the_text_is_overlooked() {
        let cases = [
            (json!({"n": 2}), "n"),
            (json!({"logprobs": true}), "logprobs"),
            (json!({"tools": [{"type": "function"}]}), "tools"),
            (
                json!({"response_format": {"type": "json_object"}}),
                "response_format",
            ),
            (json!({"reasoning_effort": "low"}), "reasoning_effort"),
            (json!({"typo_temperature": 1}), "typo_temperature"),
            (json!({"temperature": "hot"}), "temperature"),
            (json!({"logit_bias": {"word": 1}}), "logit_bias"),
            (json!({"max_tokens": 0}), "max_tokens"),
            (json!({"max_tokens": 1, "max_completion_tokens": 2}), "max_tokens"),
            (
                json!({"max_completion_tokens": 9, "lwv": {"words": 9, "plan": true}}),
                "max_completion_tokens",
            ),
            (json!({"lwv": {"plan": true}}), "lwv.words"),
            (json!({"stop": ["a", ""]}), "stop"),
            (json!({"stop": 7}), "stop"),
            (
                json!({"stream_options": {"include_usage": true}}),
                "stream_options",
            ),
            (
                json!({"stream": true, "stream_options": {"x": 1}}),
                "stream_options.x",
            ),
        ];
        for (fields, place) in cases {
            let error = parse(fields.clone()).unwrap_err();
            assert_eq!(error["param"], place, "{fields}: {error}");
        }
        assert!(
            parse(json!({"temperature": -1})).unwrap_err()["message"]
                .as_str()
                .unwrap()
                .contains("temperature")
        );
        assert_eq!(
            parse(json!({"model": "gpt"})).unwrap_err()["code"],
            "model_not_found"
        );
        let broken = ChatRequest::parse(b"{\"model\": ", "m").unwrap_err();
        assert_eq!(broken.body()["error"]["code"], "invalid_json");
    }
}
