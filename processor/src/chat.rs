use std::path::{Path, PathBuf};

use minijinja::{Environment, Value as TemplateValue};
use serde_json::Value;

use crate::json::{read_json, read_json_if_there};
use crate::template::environment;
use crate::{Error, Message, Result};

/// The name under which the template stands in its environment.
const TEMPLATE: &str = "chat";

/// Special tokens that templates may name, as in transformers' `special_tokens_map`.
const TOKEN_VARIABLES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// A checkpoint's chat template: turns messages into the text that the model was trained to continue.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    path: PathBuf,
    tokens: Vec<(String, String)>,
    /// Whether text alone, too, has to be a list of parts.
    in_parts: bool,
}

impl ChatTemplate {
    /// Reads the template of a checkpoint or bundle folder.
    ///
    /// Looked for in transformers' order (`processing_utils.py`): `chat_template.json`, `chat_template.jinja`,
    /// `chat_template` in `tokenizer_config.json` (a string, or a list of which the one named `default` is taken).
    ///
    /// # Errors
    /// There is none, a file cannot be read, or the template does not parse.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        Self::find(dir)?.ok_or_else(|| Error::NoChatTemplate { path: dir.to_owned() })
    }

    /// As [`from_dir`](Self::from_dir), but a folder without a template is no error.
    pub(crate) fn find(dir: &Path) -> Result<Option<Self>> {
        let config_path = dir.join("tokenizer_config.json");
        let config = read_json_if_there(&config_path)?.unwrap_or_default();
        let found = match find_in_own_file(dir)? {
            Some(found) => Some(found),
            None => inline_template(&config, &config_path)?.map(|source| (source, config_path)),
        };
        found
            .map(|(source, path)| Self::parse(source, path, special_tokens(&config)))
            .transpose()
    }

    /// Takes a template's source. `tokens` become template variables, such as `("bos_token", "<s>")`; `path` stands
    /// in error messages.
    ///
    /// # Errors
    /// The template does not parse.
    pub fn parse(source: String, path: PathBuf, tokens: Vec<(String, String)>) -> Result<Self> {
        let compiled = environment().and_then(|mut environment| {
            environment.add_template_owned(TEMPLATE, without_generation_tags(&source))?;
            Ok(environment)
        });
        match compiled {
            Ok(environment) => {
                let mut template = Self {
                    environment,
                    path,
                    tokens,
                    in_parts: false,
                };
                template.in_parts = template.wants_parts();
                Ok(template)
            }
            Err(error) => Err(Error::ChatTemplate {
                path,
                message: describe(&error),
            }),
        }
    }

    /// Whether the template loses the text of messages that are one string and keeps that of messages in parts: those of Idefics3 and
    /// SmolVLM look into each message's first part.
    fn wants_parts(&self) -> bool {
        const SAID: &str = "what is said";
        let keeps = |in_parts| {
            let asked = Self {
                in_parts,
                ..self.clone()
            };
            let text = asked.render(&[Message::text("user", SAID)], true);
            text.is_ok_and(|text| text.contains(SAID))
        };
        !keeps(false) && keeps(true)
    }

    /// The conversation as text. With `add_generation_prompt` it ends where the assistant begins to speak.
    ///
    /// # Errors
    /// The template refuses the messages or fails on them.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let messages: TemplateValue = messages
            .iter()
            .map(|message| message.to_template_value(self.in_parts))
            .collect();
        let variables = self
            .tokens
            .iter()
            .map(|(name, token)| (name.as_str(), TemplateValue::from(token.as_str())));
        let fixed = [
            ("messages", messages),
            ("tools", TemplateValue::from(())),
            ("documents", TemplateValue::from(())),
            (
                "add_generation_prompt",
                TemplateValue::from(add_generation_prompt),
            ),
        ];
        let context = TemplateValue::from_pairs(fixed.into_iter().chain(variables));
        self.environment
            .get_template(TEMPLATE)
            .and_then(|template| template.render(context))
            .map_err(|error| Error::ChatTemplate {
                path: self.path.clone(),
                message: describe(&error),
            })
    }

    /// The token that begins a text, where the tokenizer has one.
    pub(crate) fn bos_token(&self) -> Option<&str> {
        self.tokens
            .iter()
            .find(|(name, _)| name == "bos_token")
            .map(|(_, token)| token.as_str())
    }
}

fn describe(error: &minijinja::Error) -> String {
    let detail = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    error
        .line()
        .map_or_else(|| detail.clone(), |line| format!("line `{line}`: {detail}"))
}

/// The template that stands in a file of its own, and that file.
fn find_in_own_file(dir: &Path) -> Result<Option<(String, PathBuf)>> {
    let json = dir.join("chat_template.json");
    if json.exists() {
        return match read_json(&json)?.get("chat_template").and_then(Value::as_str) {
            Some(source) => Ok(Some((source.to_owned(), json))),
            None => Err(Error::field(&json, "chat_template", "is missing or not a string")),
        };
    }
    let jinja = dir.join("chat_template.jinja");
    if !jinja.exists() {
        return Ok(None);
    }
    match std::fs::read_to_string(&jinja) {
        Ok(source) => Ok(Some((source, jinja))),
        Err(source) => Err(Error::Read { path: jinja, source }),
    }
}

/// The template in `tokenizer_config.json`, if any.
fn inline_template(config: &Value, path: &Path) -> Result<Option<String>> {
    let named = match config.get("chat_template") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(source)) => return Ok(Some(source.clone())),
        Some(Value::Array(named)) => named,
        Some(_) => {
            return Err(Error::field(
                path,
                "chat_template",
                "is neither a string nor a list of templates",
            ));
        }
    };
    let of_item = |item: &Value, key: &str| item.get(key).and_then(Value::as_str).map(str::to_owned);
    let default = named
        .iter()
        .find(|item| of_item(item, "name").as_deref() == Some("default"));
    match default.and_then(|item| of_item(item, "template")) {
        Some(source) => Ok(Some(source)),
        None => Err(Error::field(
            path,
            "chat_template",
            "has no template named `default`",
        )),
    }
}

/// The special tokens in `tokenizer_config.json`: strings, or objects with `content`.
fn special_tokens(config: &Value) -> Vec<(String, String)> {
    TOKEN_VARIABLES
        .iter()
        .filter_map(|name| {
            let token = config.get(*name)?;
            let text = token.as_str().or_else(|| token.get("content")?.as_str())?;
            Some(((*name).to_owned(), text.to_owned()))
        })
        .collect()
}

/// Makes the `{% generation %}` blocks of transformers, which only mark the assistant's words, plain blocks.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else {
            break;
        };
        let inside = &rest[start + 2..start + length];
        let word = inside.trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace());
        out.push_str(&rest[..start + 2]);
        match word {
            "generation" => out.push_str(&inside.replace(word, "if true")),
            "endgeneration" => out.push_str(&inside.replace(word, "endif")),
            _ => out.push_str(inside),
        }
        rest = &rest[start + length..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Content;

    fn template(source: &str) -> ChatTemplate {
        let tokens = vec![("bos_token".to_owned(), "<s>".to_owned())];
        ChatTemplate::parse(source.to_owned(), PathBuf::from("chat_template.jinja"), tokens).unwrap()
    }

    fn render(source: &str, messages: &[Message]) -> String {
        template(source).render(messages, true).unwrap()
    }

    #[test]
    fn text_alone_is_a_string_and_pictures_make_a_list() {
        let source = "{% for m in messages %}{% if m.content is string %}S:{{ m.content }}{% else %}\
                      {% for c in m.content %}[{{ c.type }}{{ c.text }}]{% endfor %}{% endif %};{% endfor %}";
        let two_texts = Message {
            role: "user".into(),
            content: vec![Content::Text("a".into()), Content::Text("b".into())],
        };
        let messages = [two_texts, Message::with_images("user", 2, "c")];
        assert_eq!(render(source, &messages), "S:ab;[image][image][textc];");
    }

    #[test]
    fn a_template_that_looks_into_parts_gets_parts() {
        // As published with SmolVLM.
        let source = "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}{% if message['content'][0]['type'] \
                      == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}{% for line in message['content'] %}{% if line['type'] == \
                      'text' %}{{line['text']}}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}\
                      <end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}";
        let messages = [
            Message::text("system", "Write."),
            Message::with_images("user", 1, "What is it?"),
        ];
        let want = "<|im_start|>System: Write.<end_of_utterance>\nUser:<image>What is it?<end_of_utterance>\nAssistant:";
        assert_eq!(render(source, &messages), want);
    }

    #[test]
    fn tokens_and_the_generation_prompt_are_variables() {
        let source = "{{ bos_token }}{{ eos_token }}{% if add_generation_prompt %}A{% endif %}{% if not tools %}T{% endif %}";
        assert_eq!(render(source, &[]), "<s>AT");
        assert_eq!(template(source).render(&[], false).unwrap(), "<s>T");
    }

    #[test]
    fn blocks_are_trimmed_and_loops_can_be_left() {
        let source = "  {% for i in range(5) %}\n  {% if i == 2 %}{% break %}{% endif %}\n{{ i }}\n{% endfor %}\nend\n";
        // The newline after a block and the blanks before one go, as with trim_blocks and lstrip_blocks in Jinja.
        assert_eq!(render(source, &[]), "0\n1\nend");
    }

    #[test]
    fn generation_marks_are_plain_blocks() {
        let source =
            "{% for m in messages %}{%- generation -%} {{ m.content }} {%- endgeneration %}{% endfor %}";
        assert_eq!(render(source, &[Message::text("assistant", "x")]), "x");
    }

    #[test]
    fn a_template_can_refuse() {
        let error = template("{{ raise_exception('roles must alternate') }}")
            .render(&[], true)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "the chat template of `chat_template.jinja` failed: line `1`: roles must alternate"
        );
        let broken = ChatTemplate::parse("{% if %}".into(), PathBuf::from("t.jinja"), Vec::new());
        assert!(matches!(broken, Err(Error::ChatTemplate { .. })));
    }

    #[test]
    fn named_templates_need_a_default() {
        let path = Path::new("tokenizer_config.json");
        let named = |name| serde_json::json!({"chat_template": [{"name": name, "template": "x"}]});
        assert_eq!(
            inline_template(&named("default"), path).unwrap().as_deref(),
            Some("x")
        );
        let error = inline_template(&named("tool_use"), path).unwrap_err().to_string();
        assert_eq!(
            error,
            "`chat_template` in `tokenizer_config.json` has no template named `default`"
        );
        assert_eq!(
            inline_template(&serde_json::json!({"chat_template": null}), path).unwrap(),
            None
        );
    }

    #[test]
    fn special_tokens_are_strings_or_objects() {
        let config =
            serde_json::json!({"bos_token": null, "eos_token": {"content": "</s>"}, "pad_token": "<p>"});
        let tokens = special_tokens(&config);
        assert_eq!(
            tokens,
            [
                ("eos_token".into(), "</s>".into()),
                ("pad_token".into(), "<p>".into())
            ]
        );
    }
}
