use lwv_processor::{Content, Message};
use lwv_runtime::Task;
use serde_json::Value;

use crate::fields::Fields;
use crate::picture::{self, Picture};
use crate::refusal::Refusal;

/// The `messages` of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conversation {
    pub(crate) messages: Vec<Message>,
    /// In the order of their places in the messages.
    pub(crate) pictures: Vec<Picture>,
}

impl Conversation {
    /// Reads a list of messages.
    pub(crate) fn parse(messages: Vec<Value>) -> Result<Self, Refusal> {
        if messages.is_empty() {
            return Err(Refusal::field("messages", "is empty; send at least one"));
        }
        let mut conversation = Self {
            messages: Vec::new(),
            pictures: Vec::new(),
        };
        for (index, message) in messages.into_iter().enumerate() {
            conversation.push(Fields::of(message, &format!("messages[{index}]"))?)?;
        }
        Ok(conversation)
    }

    /// The conversation as a writer's task: a user's message, and perhaps a system's before it. A writer shows all pictures
    /// before what is said, so none may stand between two texts.
    pub(crate) fn task(&self) -> Result<Task, Refusal> {
        let (system, user) = match self.messages.as_slice() {
            [user] if user.role == "user" => (None, user),
            [system, user] if system.role == "system" && user.role == "user" => (Some(system.said()), user),
            _ => {
                let reason = "must be one message of role `user`, and at most one of role `system` before it, where \
                              `lwv.words` is given";
                return Err(Refusal::field("messages", reason));
            }
        };
        let texts = user.content.split(|part| *part == Content::Image);
        if texts.filter(|texts| !texts.is_empty()).count() > 1 {
            let reason = "has a picture between two texts; where `lwv.words` is given put pictures first";
            return Err(Refusal::field("messages", reason));
        }
        Ok(Task {
            instruction: user.said(),
            images: picture::decode(&self.pictures)?,
            system,
        })
    }

    fn push(&mut self, mut fields: Fields) -> Result<(), Refusal> {
        let role: String = fields.require("role")?;
        let role = match role.as_str() {
            // What newer models of OpenAI call it.
            "developer" => "system",
            role @ ("system" | "user" | "assistant") => role,
            other => {
                let reason = format!("is `{other}`; `system`, `developer`, `user` and `assistant` are known");
                return Err(Refusal::field(fields.path("role"), reason));
            }
        };
        let place = fields.path("content");
        let content = match fields.require("content")? {
            Value::String(text) => vec![Content::Text(text)],
            Value::Array(parts) => {
                let part = |(index, part)| self.part(Fields::of(part, &format!("{place}[{index}]"))?, role);
                parts
                    .into_iter()
                    .enumerate()
                    .map(part)
                    .collect::<Result<_, _>>()?
            }
            _ => return Err(Refusal::field(place, "must be a text or a list of parts")),
        };
        self.messages.push(Message {
            role: role.to_owned(),
            content,
        });
        fields.finish()
    }

    fn part(&mut self, mut fields: Fields, role: &str) -> Result<Content, Refusal> {
        let kind: String = fields.require("type")?;
        let content = match kind.as_str() {
            "text" => Content::Text(fields.require("text")?),
            "image_url" if role == "user" => {
                self.pictures.push(take_picture(&mut fields)?);
                Content::Image
            }
            "image_url" => {
                let reason =
                    format!("is a picture in a message of role `{role}`; put it into one of role `user`");
                return Err(Refusal::field(fields.path("type"), reason));
            }
            other => {
                let reason = format!("is `{other}`; `text` and `image_url` are known");
                return Err(Refusal::field(fields.path("type"), reason));
            }
        };
        fields.finish()?;
        Ok(content)
    }
}

fn take_picture(part: &mut Fields) -> Result<Picture, Refusal> {
    let place = part.path("image_url");
    let mut fields = Fields::of(part.require("image_url")?, &place)?;
    let is_whole = |detail: &Value| detail == "auto" || detail == "high";
    fields.take_usual(
        "detail",
        is_whole,
        "cannot be chosen: pictures are read whole, as `auto` and `high` say",
    )?;
    let url: String = fields.require("url")?;
    let picture = Picture::new(fields.path("url"), &url)?;
    fields.finish()?;
    Ok(picture)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(messages: Value) -> Result<Conversation, String> {
        let Value::Array(messages) = messages else {
            panic!("no list")
        };
        Conversation::parse(messages)
            .map_err(|refusal| refusal.body()["error"]["param"].as_str().unwrap().to_owned())
    }

    #[test]
    fn texts_and_pictures_keep_their_order() {
        let parsed = parse(json!([
            {"role": "developer", "content": "You write."},
            {"role": "user", "content": [
                {"type": "text", "text": "Compare "},
                {"type": "image_url", "image_url": {"url": "data:a", "detail": "auto"}},
                {"type": "text", "text": " and "},
                {"type": "image_url", "image_url": {"url": "data:b"}}]},
            // As the client got it.
            {"role": "assistant", "content": "They differ.", "refusal": null, "tool_calls": null, "annotations": []},
            {"role": "user", "content": "How?"}
        ]));
        let Conversation { messages, pictures } = parsed.unwrap();
        assert_eq!(messages[0], Message::text("system", "You write."));
        assert_eq!(messages[1].image_count(), 2);
        assert_eq!(messages[1].content[1], Content::Image);
        assert_eq!(messages[3].said(), "How?");
        let url = |index: usize| format!("messages[1].content[{index}].image_url.url");
        let expected =
            [(1, "data:a"), (3, "data:b")].map(|(index, data)| Picture::new(url(index), data).unwrap());
        assert_eq!(pictures, expected);
    }

    #[test]
    fn what_would_be_lost_is_refused_with_its_place() {
        let user = |content: Value| json!([{"role": "user", "content": content}]);
        let cases = [
            (json!([]), "messages"),
            (json!(["x"]), "messages[0]"),
            (json!([{"content": "x"}]), "messages[0].role"),
            (json!([{"role": "tool", "content": "x"}]), "messages[0].role"),
            (json!([{"role": "user"}]), "messages[0].content"),
            (
                json!([{"role": "user", "content": "x", "name": "me"}]),
                "messages[0].name",
            ),
            (
                json!([{"role": "assistant", "content": "", "tool_calls": [{}]}]),
                "messages[0].tool_calls",
            ),
            (user(json!(7)), "messages[0].content"),
            (
                user(json!([{"type": "input_audio"}])),
                "messages[0].content[0].type",
            ),
            (
                user(json!([{"type": "image_url", "image_url": "data:a"}])),
                "messages[0].content[0].image_url",
            ),
            (
                user(json!([{"type": "image_url", "image_url": {"url": "data:a", "detail": "low"}}])),
                "messages[0].content[0].image_url.detail",
            ),
            (
                json!([{"role": "system", "content": [{"type": "image_url", "image_url": {"url": "data:a"}}]}]),
                "messages[0].content[0].type",
            ),
        ];
        for (messages, place) in cases {
            assert_eq!(parse(messages.clone()), Err(place.to_owned()), "{messages}");
        }
    }

    #[test]
    fn a_task_is_one_message() {
        let task = |messages: Value| parse(messages).unwrap().task();
        let task_of =
            task(json!([{"role": "system", "content": "s"}, {"role": "user", "content": "u"}])).unwrap();
        assert_eq!(
            (task_of.system.as_deref(), task_of.instruction.as_str()),
            (Some("s"), "u")
        );
        let picture = json!({"type": "image_url", "image_url": {"url": "data:a"}});
        let text = json!({"type": "text", "text": "u"});
        let refused = [
            json!([{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]),
            json!([{"role": "user", "content": [text, picture, text]}]),
        ];
        for messages in refused {
            let refusal = task(messages.clone()).unwrap_err();
            assert_eq!(refusal.body()["error"]["param"], "messages", "{messages}");
        }
        // In this order the picture itself is what is wrong.
        let refusal = task(json!([{"role": "user", "content": [text, picture]}])).unwrap_err();
        assert_eq!(refusal.body()["error"]["code"], "invalid_image");
    }
}
