use serde_json::{Map, Value};

use crate::Problem;
use crate::draft::Draft;
use crate::record::{not, optional_text, text};

/// LLaMA-Factory's alpaca format: `instruction` and `input` ask, `output` answers, `history` holds earlier pairs.
pub(crate) fn draft(record: &Map<String, Value>) -> Result<Draft, Problem> {
    let mut draft = prompt(record)?;
    draft.say("assistant", text(record, "", "output")?);
    Ok(draft)
}

/// What is asked, without the answer.
pub(crate) fn prompt(record: &Map<String, Value>) -> Result<Draft, Problem> {
    let mut draft = Draft::default();
    for (index, pair) in history(record)?.iter().enumerate() {
        let place = format!("history[{index}]");
        let (asked, answered) = pair_of(pair).ok_or_else(|| not("a pair of strings", &place, Some(pair)))?;
        draft.say("user", asked);
        draft.say("assistant", answered);
    }
    let (instruction, input) = (text(record, "", "instruction")?, optional_text(record, "input")?);
    let asked: Vec<&str> = [instruction, input]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect();
    draft.say("user", asked.join("\n"));
    Ok(draft)
}

fn history(record: &Map<String, Value>) -> Result<&[Value], Problem> {
    match record.get("history") {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(pairs)) => Ok(pairs),
        other => Err(not("a list of pairs", "history", other)),
    }
}

fn pair_of(pair: &Value) -> Option<(&str, &str)> {
    match pair.as_array()?.as_slice() {
        [Value::String(asked), Value::String(answered)] => Some((asked, answered)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(record: Value) -> Result<Draft, String> {
        draft(record.as_object().unwrap()).map_err(|problem| problem.to_string())
    }

    #[test]
    fn history_comes_first_and_input_below_the_instruction() {
        let record = json!({"instruction": "a", "input": "b", "output": "c", "history": [["d", "e"]]});
        let turns = read(record).unwrap().turns;
        let shown: Vec<String> = turns
            .iter()
            .map(|turn| format!("{} {:?}", turn.role, turn.parts))
            .collect();
        let expected = [
            r#"user [Marked("d")]"#,
            r#"assistant [Marked("e")]"#,
            r#"user [Marked("a\nb")]"#,
            r#"assistant [Marked("c")]"#,
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn fields_are_checked() {
        let error = read(json!({"instruction": "a"})).unwrap_err();
        assert_eq!(error, "`output` is missing; expected a string");
        let error = read(json!({"instruction": "a", "output": "b", "history": [["x"]]})).unwrap_err();
        assert_eq!(error, "`history[0]` is a list; expected a pair of strings");
    }
}
