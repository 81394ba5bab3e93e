use serde_json::{Map, Value};

use crate::Problem;
use crate::draft::{Draft, Part, Turn};
use crate::media::MediaDir;
use crate::record::{list, not, object, text};

/// OpenAI's format: `messages`, or another field, of `role` and `content`. A string may hold placeholders; in a list of typed parts,
/// texts are taken as they are, and a picture brings its source with it or stands for the next of `images`.
pub(crate) fn draft(record: &Map<String, Value>, field: &str, media: &MediaDir) -> Result<Draft, Problem> {
    let mut draft = Draft::default();
    for (message, item) in list(record, field)?.iter().enumerate() {
        let place = format!("{field}[{message}]");
        draft.turns.push(turn(item, &place, message, media)?);
    }
    Ok(draft)
}

/// One message, which is number `message` of its conversation.
pub(crate) fn turn(item: &Value, place: &str, message: usize, media: &MediaDir) -> Result<Turn, Problem> {
    let item = object(item, place)?;
    let role = role(text(item, &format!("{place}."), "role")?, message)?;
    let place = format!("{place}.content");
    let parts = match item.get("content") {
        Some(Value::String(text)) => vec![Part::Marked(text.clone())],
        Some(Value::Array(parts)) => {
            let parts = parts.iter().enumerate();
            parts
                .map(|(index, item)| part(item, &format!("{place}[{index}]"), media))
                .collect::<Result<_, _>>()?
        }
        other => return Err(not("a string or a list", &place, other)),
    };
    Ok(Turn { role, parts })
}

fn role(role: &str, message: usize) -> Result<&'static str, Problem> {
    match role {
        "user" => Ok("user"),
        "assistant" => Ok("assistant"),
        "system" => Ok("system"),
        _ => Err(Problem::Role {
            role: role.to_owned(),
            message,
            expected: "`system`, `user` or `assistant`",
        }),
    }
}

fn part(item: &Value, place: &str, media: &MediaDir) -> Result<Part, Problem> {
    let item = object(item, place)?;
    let inner = format!("{place}.");
    let source = match text(item, &inner, "type")? {
        "text" => return Ok(Part::Plain(text(item, &inner, "text")?.to_owned())),
        "image" => ["image", "path", "url"]
            .into_iter()
            .find_map(|field| Some((field, item.get(field)?))),
        "image_url" => match item.get("image_url") {
            Some(Value::Object(address)) => address.get("url").map(|url| ("image_url.url", url)),
            address => address.map(|address| ("image_url", address)),
        },
        other => {
            let message = format!("is `{other}`; expected `text`, `image` or `image_url`");
            return Err(Problem::field(format!("{inner}type"), message));
        }
    };
    match source {
        None | Some((_, Value::Null)) => Ok(Part::Place),
        Some((field, Value::String(path))) => media.source(&format!("{inner}{field}"), path).map(Part::Image),
        Some((field, other)) => Err(not("a path", &format!("{inner}{field}"), Some(other))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(messages: Value) -> Result<Draft, String> {
        let record = json!({"messages": messages});
        draft(record.as_object().unwrap(), "messages", &MediaDir("m".into()))
            .map_err(|problem| problem.to_string())
    }

    fn parts(content: Value) -> Result<Vec<Part>, String> {
        let draft = read(json!([{"role": "user", "content": content}]))?;
        Ok(draft.turns.into_iter().flat_map(|turn| turn.parts).collect())
    }

    #[test]
    fn pictures_bring_their_source_or_wait_for_one() {
        let parts = parts(json!([
            {"type": "text", "text": "a <image>"}, {"type": "image"},
            {"type": "image", "image": "a.png"}, {"type": "image_url", "image_url": {"url": "b.png"}},
            {"type": "image_url", "image_url": "data:image/png;base64,AQID"},
        ]))
        .unwrap();
        let shown: Vec<String> = parts.iter().map(|part| format!("{part:?}")).collect();
        let expected = [
            r#"Plain("a <image>")"#,
            "Place",
            r#"Image(File("m/a.png"))"#,
            r#"Image(File("m/b.png"))"#,
            "Image(Bytes(3 bytes))",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_is_unknown_is_named_with_its_place() {
        let video = parts(json!([{"type": "video"}])).unwrap_err();
        assert_eq!(
            video,
            "`messages[0].content[0].type` is `video`; expected `text`, `image` or `image_url`"
        );
        let number = parts(json!([{"type": "image", "image": 1}])).unwrap_err();
        assert_eq!(
            number,
            "`messages[0].content[0].image` is a number; expected a path"
        );
        assert_eq!(
            parts(Value::Null).unwrap_err(),
            "`messages[0].content` is null; expected a string or a list"
        );
        let tool = read(json!([{"role": "tool", "content": "x"}])).unwrap_err();
        assert!(tool.starts_with("unknown role `tool` of message `0`"), "{tool}");
    }
}
