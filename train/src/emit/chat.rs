use lwv_data::Conversation;
use lwv_model::{Family, ModelConfig};
use lwv_processor::{ChatTemplate, Content, Message, Processor};

use crate::{Error, Result};

/// What a picture is in the text of Qwen's templates, before it is as many tokens as it has patches.
const PICTURE: &str = "<|vision_start|><|image_pad|><|vision_end|>";

/// What stands for media in LLaMA-Factory's texts.
const PLACEHOLDERS: [&str; 3] = ["<image>", "<video>", "<audio>"];

/// How LLaMA-Factory writes conversations: turns between `<|im_start|>` and `<|im_end|>`, as its templates `qwen2_vl`,
/// `qwen` and `smollm` have them, the latter two without pictures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chat {
    /// Name of LLaMA-Factory's template.
    pub(super) template: &'static str,
    /// The system prompt of conversations that have none of their own; empty where they then get none.
    pub(super) default_system: String,
}

impl Chat {
    /// The template that writes what the checkpoint's own writes.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn new(config: &ModelConfig, processor: &Processor) -> Result<Self> {
        let own = own_template(processor)?;
        let chat = Self {
            template: match config.family {
                _ if config.vision.is_some() => "qwen2_vl",
                Family::Llama => "smollm",
                _ => "qwen",
            },
            default_system: default_system(own)?,
        };
        let probe = [Message::text("user", "a"), Message::text("assistant", "b")];
        let ids = processor.transcript(&probe, &[])?.input_ids;
        let text = chat.text(&probe).unwrap_or_default();
        if processor.tokenizer().encode(&text, false)? == ids {
            return Ok(chat);
        }
        Err(Error::Emit(
            "the tokenizer puts tokens around a conversation that LLaMA-Factory's templates do not".into(),
        ))
    }

    /// Whether LLaMA-Factory writes this conversation as the checkpoint's template does.
    ///
    /// # Errors
    /// It does not.
    pub(super) fn check(&self, processor: &Processor, conversation: &Conversation) -> Result<()> {
        let refuse = |reason: &str| Err(Error::Emit(format!("{}: {reason}", conversation.origin)));
        if self.template == "qwen2_vl" && has_placeholder(&conversation.messages) {
            return refuse("its text has `<image>`, `<video>` or `<audio>`, which would be taken for one");
        }
        let Some(text) = self.text(&conversation.messages) else {
            return refuse(
                "LLaMA-Factory takes turns of user and assistant only, with a system prompt before them",
            );
        };
        if own_template(processor)?.render(&conversation.messages, false)? == text {
            return Ok(());
        }
        refuse("the checkpoint's chat template writes it otherwise than LLaMA-Factory")
    }

    /// What LLaMA-Factory writes; nothing where it would leave the conversation out.
    fn text(&self, messages: &[Message]) -> Option<String> {
        let (system, turns) = match messages {
            [first, rest @ ..] if first.role == "system" && first.image_count() == 0 => {
                (written(first), rest)
            }
            all => (String::new(), all),
        };
        let roles = ["user", "assistant"].into_iter().cycle();
        if turns.len() % 2 == 1 || turns.iter().zip(roles).any(|(turn, role)| turn.role != role) {
            return None;
        }
        let system = if system.is_empty() {
            &self.default_system
        } else {
            &system
        };
        let mut text = String::new();
        if !system.is_empty() {
            text += &turn("system", system);
        }
        text.extend(turns.iter().map(|message| turn(&message.role, &written(message))));
        Some(text)
    }
}

fn own_template(processor: &Processor) -> Result<&ChatTemplate> {
    let none = || Error::Emit("the checkpoint has no chat template".into());
    processor.chat_template().ok_or_else(none)
}

/// What the checkpoint's template says to a conversation without a system prompt.
fn default_system(template: &ChatTemplate) -> Result<String> {
    let conversation = [Message::text("user", "a"), Message::text("assistant", "b")];
    let text = template.render(&conversation, false)?;
    let before = text.strip_suffix(&(turn("user", "a") + &turn("assistant", "b")));
    let system = before.and_then(|before| match before {
        "" => Some(""),
        before => before
            .strip_prefix("<|im_start|>system\n")?
            .strip_suffix("<|im_end|>\n"),
    });
    system.map(str::to_owned).ok_or_else(|| {
        Error::Emit(format!(
            "it has no template that writes conversations as the checkpoint's does: `{}`",
            text.escape_debug()
        ))
    })
}

fn turn(role: &str, text: &str) -> String {
    format!("<|im_start|>{role}\n{text}<|im_end|>\n")
}

fn written(message: &Message) -> String {
    let parts = message.content.iter().map(|part| match part {
        Content::Text(text) => text.as_str(),
        Content::Image => PICTURE,
    });
    parts.collect()
}

fn has_placeholder(messages: &[Message]) -> bool {
    let mut parts = messages.iter().flat_map(|message| &message.content);
    parts.any(|part| match part {
        Content::Text(text) => PLACEHOLDERS.iter().any(|placeholder| text.contains(placeholder)),
        Content::Image => false,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use lwv_data::{Origin, Place};

    use super::*;

    const TURNS: &str =
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::parse(source.to_owned(), "chat_template.jinja".into(), Vec::new()).unwrap()
    }

    fn chat() -> (Chat, Processor) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny/nested_f32");
        let processor = Processor::from_dir(&dir).unwrap();
        let config = ModelConfig::from_dir(&dir).unwrap();
        (Chat::new(&config, &processor).unwrap(), processor)
    }

    fn refusal(messages: Vec<Message>) -> String {
        let (chat, processor) = chat();
        let conversation = Conversation {
            messages,
            images: Vec::new(),
            origin: Origin {
                file: "x.jsonl".into(),
                place: Place::Line(7),
            },
        };
        match chat.check(&processor, &conversation) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_default_system_prompt_is_the_templates() {
        assert_eq!(chat().0.default_system, "You are a helpful assistant.");
        assert_eq!(default_system(&template(TURNS)).unwrap(), "");
        let other = default_system(&template(
            "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}",
        ));
        assert!(other.unwrap_err().to_string().contains("`[user]a[assistant]b`"));
    }

    #[test]
    fn conversations_are_compared_with_the_checkpoints_template() {
        let (user, answer) = (Message::text("user", "a"), Message::text("assistant", "b"));
        assert_eq!(refusal(vec![user.clone(), answer.clone()]), "");
        let shown = Message::with_images("user", 2, "a");
        assert_eq!(
            refusal(vec![Message::text("system", "s"), shown, answer.clone()]),
            ""
        );
        let twice = refusal(vec![user.clone(), user, answer.clone()]);
        assert!(twice.contains("x.jsonl:7") && twice.contains("turns"), "{twice}");
        let empty_system = refusal(vec![
            Message::text("system", ""),
            Message::text("user", "a"),
            answer.clone(),
        ]);
        assert!(empty_system.contains("otherwise"), "{empty_system}");
        let named = refusal(vec![Message::text("user", "what is <video>?"), answer]);
        assert!(named.contains("`<video>`"), "{named}");
    }
}
