use serde_json::{Map, Value};

use crate::Problem;
use crate::draft::{Draft, Part, Turn};
use crate::record::{list, object, text};

/// LLaMA-Factory's sharegpt format: `conversations` of `from` and `value`.
pub(crate) fn draft(record: &Map<String, Value>) -> Result<Draft, Problem> {
    let mut draft = Draft::default();
    for (message, turn) in list(record, "conversations")?.iter().enumerate() {
        draft
            .turns
            .push(self::turn(turn, &format!("conversations[{message}]"), message)?);
    }
    Ok(draft)
}

/// One message, which is number `message` of its conversation.
pub(crate) fn turn(item: &Value, place: &str, message: usize) -> Result<Turn, Problem> {
    let (item, place) = (object(item, place)?, format!("{place}."));
    let role = role(text(item, &place, "from")?, message)?;
    let parts = vec![Part::Marked(text(item, &place, "value")?.to_owned())];
    Ok(Turn { role, parts })
}

fn role(from: &str, message: usize) -> Result<&'static str, Problem> {
    match from {
        "human" | "user" => Ok("user"),
        "gpt" | "assistant" => Ok("assistant"),
        "system" => Ok("system"),
        _ => Err(Problem::Role {
            role: from.to_owned(),
            message,
            expected: "`human`, `gpt` or `system`",
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(record: Value) -> Result<Vec<&'static str>, String> {
        let draft = draft(record.as_object().unwrap());
        draft
            .map(|draft| draft.turns.iter().map(|turn| turn.role).collect())
            .map_err(|problem| problem.to_string())
    }

    #[test]
    fn speakers_become_roles() {
        let turn = |from| json!({"from": from, "value": "x"});
        let record = json!({"conversations": [turn("system"), turn("human"), turn("gpt")]});
        assert_eq!(read(record).unwrap(), ["system", "user", "assistant"]);
        let error = read(json!({"conversations": [turn("human"), turn("bot")]})).unwrap_err();
        assert_eq!(
            error,
            "unknown role `bot` of message `1` (from `0`); expected `human`, `gpt` or `system`"
        );
    }

    #[test]
    fn fields_are_named_with_their_place() {
        let error = read(json!({"conversations": [{"from": "human", "value": 3}]})).unwrap_err();
        assert_eq!(error, "`conversations[0].value` is a number; expected a string");
        let error = read(json!({"conversations": ["x"]})).unwrap_err();
        assert_eq!(error, "`conversations[0]` is a string; expected an object");
    }
}
