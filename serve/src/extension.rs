use serde_json::json;

use crate::fields::Fields;
use crate::refusal::Refusal;

/// The field `lwv`, which OpenAI does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extension {
    /// Where a text of a number of words is asked for: the [`Writer`](lwv_runtime::Writer) writes it.
    pub(crate) long_text: Option<LongText>,
    /// Whether the text is kept out of loops; by default where it has a number of words, as in `lwv-write`.
    pub(crate) loop_guard: bool,
    /// Most tokens that are guessed at once, where that was said.
    pub(crate) lookup_tokens: Option<usize>,
}

/// A text of a number of words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LongText {
    pub(crate) words: usize,
    pub(crate) plan: bool,
    pub(crate) sections: Option<usize>,
}

impl Extension {
    /// Takes the field out of a request.
    pub(crate) fn take(request: &mut Fields) -> Result<Self, Refusal> {
        let value = request.take("lwv")?.unwrap_or_else(|| json!({}));
        let mut fields = Fields::of(value, "lwv")?;
        let words = fields.take_count("words")?;
        let plan = fields.take("plan")?.unwrap_or(false);
        let sections = fields.take_count("sections")?;
        let loop_guard = fields.take("loop_guard")?.unwrap_or(words.is_some());
        let lookup_tokens = fields.take("lookup_tokens")?;
        fields.finish()?;
        if plan && words.is_none() {
            return Err(Refusal::field(
                "lwv.words",
                "is missing: say how many words to plan",
            ));
        }
        if sections.is_some() && !plan {
            return Err(Refusal::field("lwv.sections", "needs `lwv.plan`"));
        }
        let long_text = words.map(|words| LongText {
            words,
            plan,
            sections,
        });
        Ok(Self {
            long_text,
            loop_guard,
            lookup_tokens,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn take(lwv: Value) -> Result<Extension, Value> {
        let mut request = Fields::of(json!({"lwv": lwv}), "").unwrap();
        Extension::take(&mut request).map_err(|refusal| refusal.body()["error"]["param"].clone())
    }

    #[test]
    fn texts_of_many_words_are_guarded_and_others_are_not() {
        let long_text = LongText {
            words: 900,
            plan: true,
            sections: Some(3),
        };
        let planned = take(json!({"words": 900, "plan": true, "sections": 3})).unwrap();
        assert_eq!((planned.long_text, planned.loop_guard), (Some(long_text), true));
        let plain = take(Value::Null).unwrap();
        assert_eq!((plain.long_text, plain.loop_guard), (None, false));
        assert!(take(json!({"loop_guard": true})).unwrap().loop_guard);
        assert!(!take(json!({"words": 9, "loop_guard": false})).unwrap().loop_guard);
        assert_eq!(plain.lookup_tokens, None);
        assert_eq!(take(json!({"lookup_tokens": 8})).unwrap().lookup_tokens, Some(8));
    }

    #[test]
    fn plans_need_words_and_sections_need_a_plan() {
        let cases = [
            (json!({"plan": true}), "lwv.words"),
            (json!({"words": 0}), "lwv.words"),
            (json!({"words": 100, "sections": 2}), "lwv.sections"),
            (json!({"words": 100, "pages": 2}), "lwv.pages"),
            (json!({"lookup_tokens": "all"}), "lwv.lookup_tokens"),
            (json!(100), "lwv"),
        ];
        for (lwv, place) in cases {
            assert_eq!(take(lwv.clone()), Err(place.into()), "{lwv}");
        }
    }
}
