use std::fmt::Write;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};

use crate::strftime::{local_time, strftime};

/// An environment that renders chat templates as transformers' does (`utils/chat_template_utils.py`).
pub(crate) fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("tojson", to_json);
    Ok(environment)
}

/// Lets a template refuse its messages.
fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// The local time in a format of `strftime`.
fn strftime_now(format: String) -> Result<String, Error> {
    strftime(&local_time(), &format).ok_or_else(|| {
        let message = format!("`{format}` is no format of a date");
        Error::new(ErrorKind::InvalidOperation, message)
    })
}

/// JSON as Python's `json.dumps` writes it, with the arguments that transformers takes.
fn to_json(value: &Value, arguments: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = arguments.get("indent")?;
    let separators: Option<Vec<String>> = arguments.get("separators")?;
    // Python puts no blank after a comma that ends a line.
    let default_item = if indent.is_some() { "," } else { ", " };
    let mut separators = separators.unwrap_or_default().into_iter();
    let item = separators.next().unwrap_or_else(|| default_item.to_owned());
    let key = separators.next().unwrap_or_else(|| ": ".to_owned());
    let mut writer = JsonWriter {
        out: String::new(),
        indent,
        item,
        key,
        ensure_ascii: arguments.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: arguments.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    arguments.assert_all_used()?;
    writer.write(value, 0)?;
    Ok(writer.out)
}

struct JsonWriter {
    out: String,
    indent: Option<usize>,
    item: String,
    key: String,
    ensure_ascii: bool,
    sort_keys: bool,
}

impl JsonWriter {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&value.to_string()),
            ValueKind::String => self.write_string(value.as_str().unwrap_or_default()),
            ValueKind::Map => self.write_map(value, depth)?,
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.write_items(['[', ']'], items.len(), depth, |writer, i| {
                    writer.write(&items[i], depth + 1)
                })?;
            }
            kind => {
                let message = format!("a value of type {kind} cannot be written as JSON");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        }
        Ok(())
    }

    fn write_map(&mut self, map: &Value, depth: usize) -> Result<(), Error> {
        let mut keys: Vec<Value> = map.try_iter()?.collect();
        if self.sort_keys {
            keys.sort();
        }
        self.write_items(['{', '}'], keys.len(), depth, |writer, i| {
            let key = &keys[i];
            writer.write_string(key.as_str().unwrap_or(&key.to_string()));
            writer.out.push_str(&writer.key.clone());
            writer.write(&map.get_item(key)?, depth + 1)
        })
    }

    fn write_items(
        &mut self,
        brackets: [char; 2],
        count: usize,
        depth: usize,
        mut write: impl FnMut(&mut Self, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(brackets[0]);
        for i in 0..count {
            if i > 0 {
                self.out.push_str(&self.item.clone());
            }
            self.new_line(depth + 1);
            write(self, i)?;
        }
        if count > 0 {
            self.new_line(depth);
        }
        self.out.push(brackets[1]);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn write_string(&mut self, text: &str) {
        self.out.push('"');
        for character in text.chars() {
            match character {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                ' '..='~' => self.out.push(character),
                '\0'..' ' => self.write_escape(character as u16),
                _ if self.ensure_ascii => {
                    let mut units = [0; 2];
                    for unit in character.encode_utf16(&mut units) {
                        self.write_escape(*unit);
                    }
                }
                _ => self.out.push(character),
            }
        }
        self.out.push('"');
    }

    fn write_escape(&mut self, unit: u16) {
        // Writing to a string cannot fail.
        let _ = write!(self.out, "\\u{unit:04x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> String {
        environment().unwrap().render_str(source, ()).unwrap()
    }

    #[test]
    fn json_is_pythons() {
        // What `json.dumps(…, ensure_ascii=False)` gives.
        let value = "{% set v = {'b': [1, 2.5, true, none], 'a': '<é&\\'>\\n'} %}";
        assert_eq!(
            render(&format!("{value}{{{{ v|tojson }}}}")),
            "{\"b\": [1, 2.5, true, null], \"a\": \"<é&'>\\n\"}"
        );
        let sorted = render(&format!(
            "{value}{{{{ v|tojson(sort_keys=true, ensure_ascii=true) }}}}"
        ));
        assert_eq!(sorted, "{\"a\": \"<\\u00e9&'>\\n\", \"b\": [1, 2.5, true, null]}");
        assert_eq!(
            render("{{ {'a': [1, {}], 'b': []}|tojson(separators=(',', ':')) }}"),
            "{\"a\":[1,{}],\"b\":[]}"
        );
        assert_eq!(
            render("{{ '\u{7f}😀'|tojson(ensure_ascii=true) }}"),
            "\"\\u007f\\ud83d\\ude00\""
        );
    }

    #[test]
    fn indented_json_is_pythons() {
        assert_eq!(
            render("{{ {'a': [1, {}], 'b': {'c': 2}}|tojson(indent=2) }}"),
            "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": {\n    \"c\": 2\n  }\n}"
        );
    }

    #[test]
    fn values_print_as_in_python() {
        assert_eq!(
            render("{{ true }} {{ none }} {{ [1, 'a'] }} {{ {'k': 1.0} }}"),
            "True None [1, 'a'] {'k': 1.0}"
        );
    }

    #[test]
    fn strings_have_pythons_methods() {
        assert_eq!(render("{{ ' a,b '.strip().split(',')[-1].upper() }}"), "B");
    }

    #[test]
    fn the_date_is_formatted() {
        let year = render("{{ strftime_now('%Y') }}");
        assert!(year.len() == 4 && year.as_str() >= "2025", "{year}");
        assert!(
            environment()
                .unwrap()
                .render_str("{{ strftime_now('%!') }}", ())
                .is_err()
        );
    }
}
