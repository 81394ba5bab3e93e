use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use lwv_data::{Conversation, ImageSource, Pair};
use lwv_processor::{Content, Message};
use serde_json::{Value, json};

use super::chat::Chat;
use crate::recipe::Stage;
use crate::{Error, Result, Samples};

/// Folder of the pictures that stood in the dataset itself.
const IMAGES: &str = "images";

/// Writes conversations or pairs in LLaMA-Factory's sharegpt format.
pub(super) struct Records<'a> {
    /// How LLaMA-Factory writes them.
    pub(super) chat: &'a Chat,
    /// Where they come from.
    pub(super) samples: &'a Samples,
    /// The folder that is filled.
    pub(super) folder: &'a Path,
}

/// A file of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    /// Name of the dataset, and of its file without the ending.
    pub(super) name: String,
    stage: Stage,
    has_images: bool,
}

impl Table {
    /// Name and description for `dataset_info.json`.
    pub(super) fn info(&self) -> (String, Value) {
        let mut columns = json!({"messages": "conversations"});
        if self.has_images {
            columns["images"] = "images".into();
        }
        let mut info = json!({
            "file_name": self.file(),
            "formatting": "sharegpt",
            "tags": {
                "role_tag": "from",
                "content_tag": "value",
                "user_tag": "human",
                "assistant_tag": "gpt",
                "system_tag": "system",
            },
        });
        if self.stage == Stage::IterDpo {
            info["ranking"] = true.into();
            for answer in ["chosen", "rejected"] {
                columns[answer] = answer.into();
            }
        }
        info["columns"] = columns;
        (self.name.clone(), info)
    }

    fn file(&self) -> String {
        format!("{}.jsonl", self.name)
    }
}

impl Records<'_> {
    /// Writes these samples, in order, as one table or two: where there are pictures, but the first samples have none, those
    /// make a table of their own. Otherwise LLaMA-Factory's reader, which looks at the first megabytes only, would take the
    /// column of pictures for an empty one.
    ///
    /// # Errors
    /// A sample that LLaMA-Factory would not train on as we do; a file that cannot be read or written.
    pub(super) fn write(&self, name: &str, indices: &[usize]) -> Result<Vec<Table>> {
        let (plain, rest) = indices.split_at(self.first_with_images(indices)?);
        let only = rest.is_empty();
        let plain_name = if only {
            name.to_owned()
        } else {
            format!("{name}_text")
        };
        let parts = [(plain_name, plain, false), (name.to_owned(), rest, true)];
        let mut tables = Vec::new();
        for (name, indices, has_images) in parts {
            if !indices.is_empty() {
                let table = Table {
                    name,
                    stage: self.samples.stage,
                    has_images,
                };
                self.write_table(&table, indices)?;
                tables.push(table);
            }
        }
        Ok(tables)
    }

    /// How many samples come before the first that has pictures.
    fn first_with_images(&self, indices: &[usize]) -> Result<usize> {
        for (place, index) in indices.iter().enumerate() {
            if !self.samples.conversation(*index)?.images.is_empty() {
                return Ok(place);
            }
        }
        Ok(indices.len())
    }

    fn write_table(&self, table: &Table, indices: &[usize]) -> Result<()> {
        let path = self.folder.join(table.file());
        let mut file = BufWriter::new(File::create(&path).map_err(Error::io(&path))?);
        for &index in indices {
            let (mut record, images) = self.record(index)?;
            if table.has_images {
                record["images"] = self.images(index, &images)?.into();
            }
            writeln!(file, "{record}").map_err(Error::io(&path))?;
        }
        file.flush().map_err(Error::io(&path))
    }

    /// What is said in a sample, and its pictures.
    fn record(&self, index: usize) -> Result<(Value, Vec<ImageSource>)> {
        let processor = self.samples.encoder.processor();
        let check = |conversation: &Conversation| self.chat.check(processor, conversation);
        match self.samples.stage {
            Stage::Sft => {
                let conversation = self.samples.dataset.get(index)?;
                check(&conversation)?;
                let turns: Vec<Value> = conversation.messages.iter().map(turn).collect();
                Ok((json!({"conversations": turns}), conversation.images))
            }
            Stage::IterDpo => {
                let pair = self.samples.dataset.pair(index)?;
                self.check_alike(&pair)?;
                check(&pair.chosen)?;
                check(&pair.rejected)?;
                let mut turns: Vec<Value> = pair.chosen.messages.iter().map(turn).collect();
                let chosen = turns.pop();
                let rejected = pair.rejected.messages.last().map(turn);
                let record = json!({"conversations": turns, "chosen": chosen, "rejected": rejected});
                Ok((record, pair.chosen.images))
            }
        }
    }

    /// LLaMA-Factory knows of no pairs that count more than others, or whose answers do not end.
    fn check_alike(&self, pair: &Pair) -> Result<()> {
        let refuse = |reason: &str| Err(Error::Emit(format!("{}: {reason}", pair.chosen.origin)));
        if pair.is_open {
            return refuse("its answers are beginnings (`open`), which it would teach to end there");
        }
        let others = self.samples.train.first();
        let others = others.map_or(1.0, |&sample| self.samples.measures[sample].weight);
        if pair.weight != others {
            return refuse(&format!(
                "its `weight` is `{}`, that of others `{others}`, and there all pairs count the same",
                pair.weight
            ));
        }
        Ok(())
    }

    /// Paths of a sample's pictures; embedded ones are written out.
    fn images(&self, index: usize, images: &[ImageSource]) -> Result<Vec<String>> {
        let images = images.iter().enumerate();
        images
            .map(|(image, source)| match source {
                ImageSource::File(path) => absolute(path),
                ImageSource::Bytes(bytes) => {
                    let name = format!("{IMAGES}/{index}_{image}.{}", ending(bytes));
                    self.write_image(&name, bytes)?;
                    Ok(name)
                }
            })
            .collect()
    }

    fn write_image(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let images = self.folder.join(IMAGES);
        std::fs::create_dir_all(&images).map_err(Error::io(&images))?;
        let path = self.folder.join(name);
        std::fs::write(&path, bytes).map_err(Error::io(&path))
    }
}

/// A path as text that holds in every folder.
///
/// # Errors
/// A path that is not UTF-8.
pub(super) fn absolute(path: &Path) -> Result<String> {
    let absolute = std::path::absolute(path).map_err(Error::io(path))?;
    let text = absolute.to_str().map(str::to_owned);
    text.ok_or_else(|| Error::Emit(format!("the path `{}` is not UTF-8", absolute.display())))
}

fn turn(message: &Message) -> Value {
    json!({"from": speaker(&message.role), "value": marked(message)})
}

fn speaker(role: &str) -> &str {
    match role {
        "user" => "human",
        "assistant" => "gpt",
        other => other,
    }
}

/// What is said, with `<image>` where a picture goes.
fn marked(message: &Message) -> String {
    let parts = message.content.iter().map(|part| match part {
        Content::Text(text) => text.as_str(),
        Content::Image => "<image>",
    });
    parts.collect()
}

/// The usual ending of an encoded picture's name. Readers go by the content.
fn ending(bytes: &[u8]) -> &'static str {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => "png",
        [0xff, 0xd8, ..] => "jpg",
        [b'R', b'I', b'F', b'F', ..] => "webp",
        _ => "img",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use lwv_model::ModelConfig;

    use super::*;
    use crate::recipe::Stage;
    use crate::recipe::TrainingRecipe;

    /// Two samples without pictures, then one with a file and one with a picture in the dataset itself.
    fn dataset(dir: &Path, fixtures: &Path) -> TrainingRecipe {
        let text = r#"{"instruction": "a", "output": "b"}"#;
        let file = r#"{"instruction": "a", "output": "b", "images": ["images/d_28x28.png"]}"#;
        // One white pixel.
        let png =
            "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTqxXgAAAABJRU5ErkJggg==";
        let bytes =
            format!(r#"{{"instruction": "a", "output": "b", "images": ["data:image/png;base64,{png}"]}}"#);
        let path = dir.join("x.jsonl");
        std::fs::write(&path, [text, text, file, &bytes].join("\n")).unwrap();
        TrainingRecipe {
            model: fixtures.join("tiny/nested_f32"),
            dataset: vec![path],
            media_dir: Some(fixtures.to_owned()),
            output_dir: dir.join("out"),
            ..TrainingRecipe::default()
        }
    }

    #[test]
    fn samples_without_pictures_at_the_beginning_stand_apart() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
        let dir = tempfile::tempdir().unwrap();
        let recipe = dataset(dir.path(), &fixtures);
        let samples = Samples::open(&recipe, Stage::Sft, &AtomicBool::new(false), &|_, _| {}).unwrap();
        let config = ModelConfig::from_dir(&recipe.model).unwrap();
        let records = Records {
            chat: &Chat::new(&config, samples.encoder.processor()).unwrap(),
            samples: &samples,
            folder: dir.path(),
        };
        let tables = records.write("sft", &samples.train).unwrap();
        let names: Vec<(&str, bool)> = tables.iter().map(|t| (t.name.as_str(), t.has_images)).collect();
        assert_eq!(names, [("sft_text", false), ("sft", true)]);
        assert_eq!(
            tables[0].info().1["columns"],
            json!({"messages": "conversations"})
        );
        let lines = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(lines("sft_text.jsonl").lines().count(), 2);
        let last: Value = serde_json::from_str(lines("sft.jsonl").lines().last().unwrap()).unwrap();
        assert_eq!(last["images"], json!(["images/3_0.png"]));
        assert_eq!(last["conversations"][0]["value"], "<image>a");
        assert!(dir.path().join("images/3_0.png").is_file());
        assert_eq!(
            records.write("only", &samples.train[..2]).unwrap()[0].name,
            "only"
        );
        assert!(records.write("none", &[]).unwrap().is_empty());
    }
}
