use minijinja::Value as TemplateValue;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`; other roles where the template knows them.
    pub role: String,
    /// What is said and shown, in order.
    pub content: Vec<Content>,
}

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Some text.
    Text(String),
    /// A picture. Which one follows from the order: the n-th `Image` of a conversation is its n-th picture.
    Image,
}

impl Message {
    /// A message of text alone.
    pub fn text(role: &str, text: impl Into<String>) -> Self {
        Self {
            role: role.to_owned(),
            content: vec![Content::Text(text.into())],
        }
    }

    /// A message that shows `images` pictures and then says something.
    pub fn with_images(role: &str, images: usize, text: impl Into<String>) -> Self {
        let pictures = std::iter::repeat_n(Content::Image, images);
        Self {
            role: role.to_owned(),
            content: pictures.chain([Content::Text(text.into())]).collect(),
        }
    }

    /// What is said in it, without its pictures.
    pub fn said(&self) -> String {
        self.content.iter().filter_map(Content::as_text).collect()
    }

    /// Number of pictures in it.
    pub fn image_count(&self) -> usize {
        self.content
            .iter()
            .filter(|part| **part == Content::Image)
            .count()
    }

    /// The message as templates expect it: text alone as one string, which text-only templates need, unless it has to be `in_parts`;
    /// else a list of `{"type": …}` items.
    pub(crate) fn to_template_value(&self, in_parts: bool) -> TemplateValue {
        let content = if self.image_count() == 0 && !in_parts {
            TemplateValue::from(self.said())
        } else {
            self.content.iter().map(Content::to_template_value).collect()
        };
        TemplateValue::from_pairs([
            ("role", TemplateValue::from(self.role.as_str())),
            ("content", content),
        ])
    }
}

impl Content {
    fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Image => None,
        }
    }

    fn to_template_value(&self) -> TemplateValue {
        match self {
            Self::Text(text) => TemplateValue::from_pairs([("type", "text"), ("text", text)]),
            Self::Image => TemplateValue::from_pairs([("type", "image")]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_come_before_the_text() {
        let message = Message::with_images("user", 2, "x");
        assert_eq!(
            message.content,
            [Content::Image, Content::Image, Content::Text("x".into())]
        );
        assert_eq!(
            (message.image_count(), Message::text("user", "x").image_count()),
            (2, 0)
        );
    }

    #[test]
    fn templates_see_a_string_or_a_list() {
        let text = Message::text("user", "x").to_template_value(false);
        assert_eq!(text.to_string(), "{'role': 'user', 'content': 'x'}");
        let shown = Message::with_images("user", 1, "x").to_template_value(false);
        let want = "{'role': 'user', 'content': [{'type': 'image'}, {'type': 'text', 'text': 'x'}]}";
        assert_eq!(shown.to_string(), want);
    }
}
