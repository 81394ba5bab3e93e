use lwv_processor::Message;
use serde_json::{Map, Value};

use crate::draft::{Draft, Part, Turn};
use crate::media::MediaDir;
use crate::record::{kind, list, not, optional_text};
use crate::{Conversation, Origin, Problem, alpaca, openai, sharegpt};

/// One sample of a preference: two answers to the same prompt, of which one is better.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// The prompt, and the better answer as the last message.
    pub chosen: Conversation,
    /// The same prompt with the same pictures, and the worse answer, which may be empty.
    pub rejected: Conversation,
    /// How much it counts among others; above 0. A record's `weight`, or 1.
    pub weight: f64,
    /// Whether both answers are beginnings, so that it must not be learned that they end where they do. A record's
    /// `open`, or false.
    pub is_open: bool,
}

impl Pair {
    /// Reads a record.
    pub(crate) fn read(record: &Value, media: &MediaDir, origin: Origin) -> Result<Self, Problem> {
        let Value::Object(record) = record else {
            let found = kind(record).to_owned();
            return Err(Problem::Format { found });
        };
        let Drafts { mut prompt, answers } = Drafts::read(record, media)?;
        prompt.images = media.sources("images", record.get("images"))?;
        prompt.instruct(optional_text(record, "system")?);
        let [chosen, rejected] = answers;
        let with = |answer: Turn| {
            let mut draft = prompt.clone();
            draft.turns.push(answer);
            draft
        };
        let chosen = with(chosen).finish(origin.clone())?;
        let rejected = with(rejected).place(origin)?;
        let last = |conversation: &Conversation| conversation.messages.last().map(said);
        if last(&chosen) == last(&rejected) {
            return Err(Problem::SameAnswers);
        }
        Ok(Self {
            chosen,
            rejected,
            weight: weight(record)?,
            is_open: is_open(record)?,
        })
    }
}

fn said(answer: &Message) -> String {
    answer.said().trim().to_owned()
}

fn is_open(record: &Map<String, Value>) -> Result<bool, Problem> {
    match record.get("open") {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(open)) => Ok(*open),
        other => Err(not("true or false", "open", other)),
    }
}

fn weight(record: &Map<String, Value>) -> Result<f64, Problem> {
    match record.get("weight") {
        None | Some(Value::Null) => Ok(1.0),
        Some(weight) => weight
            .as_f64()
            .filter(|weight| *weight > 0.0 && weight.is_finite())
            .ok_or_else(|| Problem::field("weight", "is no number above 0")),
    }
}

/// A record before its pictures are put in their places.
struct Drafts {
    prompt: Draft,
    /// The better one, the worse one.
    answers: [Turn; 2],
}

impl Drafts {
    fn read(record: &Map<String, Value>, media: &MediaDir) -> Result<Self, Problem> {
        let has = |field: &str| record.contains_key(field);
        if has("rejected_response") && has("messages") {
            return Self::with_rejected_response(record, media);
        }
        if !has("chosen") || !has("rejected") {
            let keys: Vec<String> = record.keys().map(|key| format!("`{key}`")).collect();
            let found = format!(
                "the keys {}; a pair has `chosen` and `rejected` too",
                keys.join(", ")
            );
            return Err(Problem::Format { found });
        }
        let prompt = if has("messages") {
            openai::draft(record, "messages", media)?
        } else if has("prompt") {
            openai::draft(record, "prompt", media)?
        } else if has("conversations") {
            sharegpt::draft(record)?
        } else if has("instruction") {
            alpaca::prompt(record)?
        } else {
            return Self::with_prompts(record, media);
        };
        let answer = |field: &str| answer(&record[field], field, media);
        Ok(Self {
            answers: [answer("chosen")?, answer("rejected")?],
            prompt,
        })
    }

    /// ms-swift: the conversation ends with the better answer.
    fn with_rejected_response(record: &Map<String, Value>, media: &MediaDir) -> Result<Self, Problem> {
        let mut prompt = openai::draft(record, "messages", media)?;
        let chosen = prompt.turns.pop_if(|turn| turn.role == "assistant");
        let rejected = answer(&record["rejected_response"], "rejected_response", media)?;
        Ok(Self {
            answers: [chosen.ok_or(Problem::NoAnswer)?, rejected],
            prompt,
        })
    }

    /// TRL without a prompt of its own: both are whole conversations that differ in their last message only.
    fn with_prompts(record: &Map<String, Value>, media: &MediaDir) -> Result<Self, Problem> {
        let [chosen, rejected] = [list(record, "chosen")?, list(record, "rejected")?];
        let shared = chosen.iter().zip(rejected).take_while(|(a, b)| a == b).count();
        let same = chosen.len() == rejected.len() && shared + 1 >= chosen.len();
        if !same || chosen.is_empty() {
            return Err(Problem::Prompts { message: shared });
        }
        let mut prompt = openai::draft(record, "chosen", media)?;
        let chosen = prompt.turns.pop().ok_or(Problem::NoAnswer)?;
        let mut rejected = openai::draft(record, "rejected", media)?;
        let rejected = rejected.turns.pop().ok_or(Problem::NoAnswer)?;
        Ok(Self {
            answers: [chosen, rejected],
            prompt,
        })
    }
}

/// An answer: a text, a message of either format, or a list of one such message.
fn answer(value: &Value, field: &str, media: &MediaDir) -> Result<Turn, Problem> {
    let turn = match value {
        Value::String(text) => Turn {
            role: "assistant",
            parts: vec![Part::Marked(text.clone())],
        },
        Value::Object(message) if message.contains_key("from") => sharegpt::turn(value, field, 0)?,
        Value::Object(_) => openai::turn(value, field, 0, media)?,
        Value::Array(messages) if messages.len() == 1 && !messages[0].is_array() => {
            return answer(&messages[0], &format!("{field}[0]"), media);
        }
        other => return Err(not("one message of the assistant", field, Some(other))),
    };
    if turn.role == "assistant" {
        Ok(turn)
    } else {
        let message = format!("is a message of `{}`; expected the assistant's", turn.role);
        Err(Problem::field(field, message))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Place;

    fn read(record: &Value) -> Result<Pair, String> {
        let origin = Origin {
            file: "x.jsonl".into(),
            place: Place::Line(1),
        };
        Pair::read(record, &MediaDir("m".into()), origin).map_err(|problem| problem.to_string())
    }

    #[test]
    fn every_format_says_the_same() {
        let user = json!({"role": "user", "content": "q"});
        let assistant = |text: &str| json!({"role": "assistant", "content": text});
        let from = |text: &str| json!({"from": "gpt", "value": text});
        let records = [
            json!({"conversations": [{"from": "human", "value": "q"}], "chosen": from("a"), "rejected": from("b")}),
            json!({"instruction": "q", "chosen": "a", "rejected": "b"}),
            json!({"messages": [user], "chosen": assistant("a"), "rejected": assistant("b")}),
            json!({"messages": [user, assistant("a")], "rejected_response": "b"}),
            json!({"prompt": [user], "chosen": [assistant("a")], "rejected": [assistant("b")]}),
            json!({"chosen": [user, assistant("a")], "rejected": [user, assistant("b")]}),
        ];
        for record in &records {
            let pair = read(record).unwrap();
            let messages = |answer| [Message::text("user", "q"), Message::text("assistant", answer)];
            assert_eq!(pair.chosen.messages, messages("a"), "{record}");
            assert_eq!(pair.rejected.messages, messages("b"), "{record}");
            assert_eq!((pair.weight, pair.is_open), (1.0, false));
        }
    }

    #[test]
    fn both_have_the_pictures_and_a_weight() {
        let pair = read(
            &json!({"instruction": "q", "system": "s", "chosen": "a", "rejected": " ",
            "images": ["1.png", "2.png"], "weight": 0.25, "open": true}),
        )
        .unwrap();
        assert_eq!(pair.chosen.images, pair.rejected.images);
        assert_eq!(pair.chosen.messages[1], Message::with_images("user", 2, "q"));
        assert_eq!(pair.chosen.messages[..2], pair.rejected.messages[..2]);
        assert_eq!((pair.weight, pair.is_open), (0.25, true));
    }

    #[test]
    fn what_cannot_be_compared_is_told() {
        let error = |record| read(&record).unwrap_err();
        let message = |role: &str, content: &str| json!({"role": role, "content": content});
        let whole =
            |question: &str, answer: &str| json!([message("user", question), message("assistant", answer)]);
        assert_eq!(
            error(json!({"chosen": whole("q", "a"), "rejected": whole("r", "b")})),
            "`chosen` and `rejected` have different prompts: their message `0` (from `0`) differs"
        );
        assert_eq!(
            error(json!({"instruction": "q", "chosen": "a", "rejected": "a \n"})),
            "`chosen` and `rejected` are the same, so there is nothing to prefer"
        );
        assert!(error(json!({"instruction": "q", "chosen": " ", "rejected": "a"})).contains("is empty"));
        let role = error(json!({"instruction": "q", "chosen": message("user", "a"), "rejected": "a"}));
        assert_eq!(role, "`chosen` is a message of `user`; expected the assistant's");
        let format = error(json!({"instruction": "q", "output": "a"}));
        assert!(
            format.ends_with("a pair has `chosen` and `rejected` too"),
            "{format}"
        );
        let weight = error(json!({"instruction": "q", "chosen": "a", "rejected": "b", "weight": 0}));
        assert_eq!(weight, "`weight` is no number above 0");
        let open = error(json!({"instruction": "q", "chosen": "a", "rejected": "b", "open": "yes"}));
        assert_eq!(open, "`open` is a string; expected true or false");
        let system = error(json!({"instruction": "q", "chosen": "a", "rejected": "b", "system": 1}));
        assert_eq!(system, "`system` is a number; expected a string");
    }
}
