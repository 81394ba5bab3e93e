use serde_json::{Map, Value};

use crate::draft::Draft;
use crate::media::MediaDir;
use crate::{Problem, alpaca, openai, sharegpt};

/// Reads one JSON record of any of the formats.
pub(crate) fn draft(record: &Value, media: &MediaDir) -> Result<Draft, Problem> {
    let unknown = |found| Err(Problem::Format { found });
    let Value::Object(record) = record else {
        return unknown(kind(record).to_owned());
    };
    if ["chosen", "rejected"]
        .iter()
        .all(|field| record.contains_key(*field))
    {
        return Err(Problem::Pair);
    }
    let mut draft = if record.contains_key("messages") {
        openai::draft(record, "messages", media)?
    } else if record.contains_key("conversations") {
        sharegpt::draft(record)?
    } else if record.contains_key("instruction") {
        alpaca::draft(record)?
    } else {
        let keys: Vec<String> = record.keys().map(|key| format!("`{key}`")).collect();
        return unknown(format!("the keys {}", keys.join(", ")));
    };
    draft.images = media.sources("images", record.get("images"))?;
    draft.instruct(optional_text(record, "system")?);
    Ok(draft)
}

/// A field that must be a string. `place` is the object's own, such as `messages[2].`, or empty.
pub(crate) fn text<'a>(object: &'a Map<String, Value>, place: &str, field: &str) -> Result<&'a str, Problem> {
    match object.get(field) {
        Some(Value::String(text)) => Ok(text),
        other => Err(not("a string", &format!("{place}{field}"), other)),
    }
}

/// A field of the record that may be missing or null, which is the same as empty.
pub(crate) fn optional_text<'a>(record: &'a Map<String, Value>, field: &str) -> Result<&'a str, Problem> {
    match record.get(field) {
        None | Some(Value::Null) => Ok(""),
        Some(_) => text(record, "", field),
    }
}

/// A field of the record that must be a list.
pub(crate) fn list<'a>(record: &'a Map<String, Value>, field: &str) -> Result<&'a [Value], Problem> {
    match record.get(field) {
        Some(Value::Array(items)) => Ok(items),
        other => Err(not("a list", field, other)),
    }
}

/// An item of a list that must be an object.
pub(crate) fn object<'a>(item: &'a Value, place: &str) -> Result<&'a Map<String, Value>, Problem> {
    item.as_object()
        .ok_or_else(|| not("an object", place, Some(item)))
}

/// Something of the wrong kind.
pub(crate) fn not(expected: &str, field: &str, found: Option<&Value>) -> Problem {
    let message = match found {
        None => format!("is missing; expected {expected}"),
        Some(value) => format!("is {}; expected {expected}", kind(value)),
    };
    Problem::field(field, message)
}

pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error(record: &Value) -> String {
        draft(record, &MediaDir("".into())).unwrap_err().to_string()
    }

    #[test]
    fn what_is_of_no_format_is_told() {
        let start =
            "no known format: expected an object with `messages`, `conversations` or `instruction`, got ";
        assert_eq!(error(&json!([1])), format!("{start}a list"));
        assert_eq!(
            error(&json!({"text": "x", "id": 1})),
            format!("{start}the keys `text`, `id`")
        );
    }

    #[test]
    fn pairs_are_no_conversations() {
        let pair = json!({"instruction": "x", "chosen": "y", "rejected": "z"});
        assert!(error(&pair).contains("a pair of answers"));
    }

    #[test]
    fn fields_are_checked() {
        let no_list = json!({"conversations": "x"});
        assert_eq!(error(&no_list), "`conversations` is a string; expected a list");
        let system = json!({"instruction": "x", "output": "y", "system": 1});
        assert_eq!(error(&system), "`system` is a number; expected a string");
        let images = json!({"instruction": "x", "output": "y", "images": {}});
        assert_eq!(error(&images), "`images` is no list of paths");
    }
}
