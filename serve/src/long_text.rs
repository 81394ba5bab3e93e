use crate::fields::Fields;
use crate::refusal::Refusal;

/// The field `lwv`, which OpenAI does not have: the [`Writer`](lwv_runtime::Writer) writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LongText {
    pub(crate) words: usize,
    pub(crate) plan: bool,
    pub(crate) sections: Option<usize>,
}

impl LongText {
    /// Takes the field out of a request.
    pub(crate) fn take(request: &mut Fields) -> Result<Option<Self>, Refusal> {
        let Some(value) = request.take("lwv")? else {
            return Ok(None);
        };
        let mut fields = Fields::of(value, "lwv")?;
        let long_text = Self {
            words: fields
                .take_count("words")?
                .ok_or_else(|| Refusal::field("lwv.words", "is missing: say how many words to write"))?,
            plan: fields.take("plan")?.unwrap_or(false),
            sections: fields.take_count("sections")?,
        };
        fields.finish()?;
        if long_text.sections.is_some() && !long_text.plan {
            return Err(Refusal::field("lwv.sections", "needs `lwv.plan`"));
        }
        Ok(Some(long_text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn take(lwv: Value) -> Result<Option<LongText>, Value> {
        let mut request = Fields::of(json!({"lwv": lwv}), "").unwrap();
        LongText::take(&mut request).map_err(|refusal| refusal.body()["error"]["param"].clone())
    }

    #[test]
    fn words_are_required_and_sections_need_a_plan() {
        let whole = LongText {
            words: 900,
            plan: true,
            sections: Some(3),
        };
        assert_eq!(
            take(json!({"words": 900, "plan": true, "sections": 3})),
            Ok(Some(whole))
        );
        assert_eq!(take(Value::Null), Ok(None));
        let cases = [
            (json!({"plan": true}), "lwv.words"),
            (json!({"words": 0}), "lwv.words"),
            (json!({"words": 100, "sections": 2}), "lwv.sections"),
            (json!({"words": 100, "pages": 2}), "lwv.pages"),
            (json!(100), "lwv"),
        ];
        for (lwv, place) in cases {
            assert_eq!(take(lwv.clone()), Err(place.into()), "{lwv}");
        }
    }
}
