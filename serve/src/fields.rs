use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::refusal::Refusal;

/// Characters of a parser's message that are passed on: it repeats the value, which may be a picture.
const MESSAGE_LENGTH: usize = 160;

/// An object of a request, whose fields are taken out one by one. What nobody has taken at the end is not known here, and
/// is refused: a setting that is overlooked would give another text than the one that was asked for.
pub(crate) struct Fields {
    map: Map<String, Value>,
    path: String,
}

impl Fields {
    /// The fields of the object `value` that stands at `path`; empty for the whole request.
    pub(crate) fn of(value: Value, path: &str) -> Result<Self, Refusal> {
        let Value::Object(map) = value else {
            let place = if path.is_empty() { "the request" } else { path };
            return Err(Refusal::field(place, "must be an object"));
        };
        Ok(Self {
            map,
            path: path.to_owned(),
        })
    }

    /// Where the field `name` stands in the request.
    pub(crate) fn path(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    /// Takes a field out. `null` is as good as nothing.
    pub(crate) fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, Refusal> {
        let value = self.map.remove(name).filter(|value| !value.is_null());
        value
            .map(|value| Self::parse_as(value, &self.path(name)))
            .transpose()
    }

    /// Reads a value that stood at `path`.
    pub(crate) fn parse_as<T: DeserializeOwned>(value: Value, path: &str) -> Result<T, Refusal> {
        T::deserialize(value).map_err(|error| {
            let message: String = error.to_string().chars().take(MESSAGE_LENGTH).collect();
            Refusal::field(path, format!("cannot be used: {message}"))
        })
    }

    /// Takes a number out that must be at least 1.
    pub(crate) fn take_count(&mut self, name: &str) -> Result<Option<usize>, Refusal> {
        match self.take(name)? {
            Some(0) => Err(Refusal::field(self.path(name), "must be at least 1")),
            count => Ok(count),
        }
    }

    /// Takes a field out that must be there.
    pub(crate) fn require<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, Refusal> {
        self.take(name)?
            .ok_or_else(|| Refusal::field(self.path(name), "is missing"))
    }

    /// Takes a field out that may only ask for nothing, as `is_usual` tells.
    pub(crate) fn take_usual(
        &mut self,
        name: &str,
        is_usual: fn(&Value) -> bool,
        reason: &str,
    ) -> Result<(), Refusal> {
        match self.map.remove(name) {
            Some(value) if !value.is_null() && !is_usual(&value) => {
                Err(Refusal::field(self.path(name), reason).with_code("unsupported_value"))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what was not taken. Clients send messages back with all fields of an answer, most of which hold nothing.
    pub(crate) fn finish(self) -> Result<(), Refusal> {
        let holds_something =
            |value: &Value| !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty());
        match self.map.iter().find(|(_, value)| holds_something(value)) {
            Some((name, _)) => {
                let reason = "is not known here, so it would not act; leave it out";
                Err(Refusal::field(self.path(name), reason).with_code("unknown_parameter"))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn message(refusal: &Refusal) -> String {
        refusal.body()["error"]["message"].as_str().unwrap().to_owned()
    }

    #[test]
    fn fields_are_taken_once_and_the_rest_is_refused() {
        let mut fields = Fields::of(json!({"a": 1, "b": null, "c": [], "d": "x"}), "lwv").unwrap();
        assert_eq!(fields.take::<u32>("a").unwrap(), Some(1));
        assert_eq!(fields.take::<u32>("b").unwrap(), None);
        let refusal = fields.finish().unwrap_err();
        assert_eq!(
            message(&refusal),
            "`lwv.d` is not known here, so it would not act; leave it out"
        );
        assert_eq!(refusal.body()["error"]["param"], "lwv.d");
    }

    #[test]
    fn a_wrong_type_is_told_in_few_words() {
        let mut fields = Fields::of(json!({"a": "x".repeat(10_000)}), "").unwrap();
        let refusal = fields.take::<u32>("a").unwrap_err();
        assert!(message(&refusal).starts_with("`a` cannot be used: invalid type: string"));
        assert!(message(&refusal).len() < 250);
        assert!(Fields::of(json!([]), "").is_err());
    }
}
