use serde_json::Value;

/// A YAML file of settings without nesting, in the order in which they are set.
#[derive(Debug, Default)]
pub(super) struct Yaml(String);

impl Yaml {
    /// Begins a group of settings.
    pub(super) fn group(&mut self, title: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.0 += &format!("### {title}\n");
    }

    /// Adds a setting.
    pub(super) fn set(&mut self, key: &str, value: impl Into<Value>) {
        let value = value.into();
        let text = match value.as_f64().filter(|_| value.is_f64()) {
            Some(number) => float(number),
            None => value.to_string(),
        };
        self.0 += &format!("{key}: {text}\n");
    }

    /// The file's text.
    pub(super) fn into_text(self) -> String {
        self.0
    }
}

/// A number as YAML 1.1 knows it for a float: with a point, and an exponent that has a sign.
fn float(number: f64) -> String {
    let magnitude = number.abs();
    if magnitude == 0.0 || (1e-3..1e15).contains(&magnitude) {
        return format!("{number:?}");
    }
    let text = format!("{number:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let point = if mantissa.contains('.') { "" } else { ".0" };
    let sign = if exponent.starts_with('-') { "" } else { "+" };
    format!("{mantissa}{point}e{sign}{exponent}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_yaml_takes_them_for() {
        let mut yaml = Yaml::default();
        yaml.group("a");
        yaml.set("strategy", "no");
        yaml.set("text", "a \"b\"\nc: #d");
        yaml.group("b");
        yaml.set("flag", true);
        yaml.set("count", 8usize);
        let text = "### a\nstrategy: \"no\"\ntext: \"a \\\"b\\\"\\nc: #d\"\n\n### b\nflag: true\ncount: 8\n";
        assert_eq!(yaml.into_text(), text);
    }

    #[test]
    fn floats_have_a_point_and_a_sign() {
        let cases = [
            (1e-5, "1.0e-5"),
            (7.5e-6, "7.5e-6"),
            (0.1, "0.1"),
            (3.0, "3.0"),
            (0.0, "0.0"),
            (1e20, "1.0e+20"),
        ];
        for (number, text) in cases {
            assert_eq!(float(number), text);
        }
    }
}
