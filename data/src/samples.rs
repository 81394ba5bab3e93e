//! Small datasets for the tests.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use image::{ImageFormat, RgbImage};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use serde_json::{Map, Value, json};

/// The schema that the `datasets` library writes, with one column that is not read.
const SCHEMA: &str = "message schema {
    optional group messages (LIST) { repeated group list { optional binary element (UTF8); } }
    optional group images (LIST) { repeated group list { optional group element {
        optional binary bytes; optional binary path (UTF8); } } }
    optional binary note (UTF8);
}";

/// A row of the published dataset.
pub(crate) struct ParquetSample<'a> {
    pub(crate) messages: Vec<&'a str>,
    /// Bytes and path of each image.
    pub(crate) images: Vec<(Option<Vec<u8>>, Option<&'a str>)>,
}

/// A chat template of ChatML with pictures.
const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}\
    {% else %}{% for c in m.content %}{% if c.type == 'image' %}<|image_pad|>{% else %}{{ c.text }}{% endif %}\
    {% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Patches of 2×2 pixels, merged by 2, so 4×4 pixels become a token.
const PREPROCESSOR: &str = r#"{"patch_size": 2, "merge_size": 2, "temporal_patch_size": 2, "min_pixels": 16,
    "max_pixels": 1024, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}"#;

/// The folder of a model without weights: every printable ASCII character and the line break are tokens.
pub(crate) fn checkpoint() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: String| std::fs::write(folder.path().join(name), content).unwrap();
    write("tokenizer.json", tokenizer().to_string());
    write("chat_template.jinja", TEMPLATE.to_owned());
    write("preprocessor_config.json", PREPROCESSOR.to_owned());
    write("config.json", config().to_string());
    folder
}

fn tokenizer() -> Value {
    let characters = (' '..='~').chain(['\n']).enumerate();
    let vocab: Map<String, Value> = characters.map(|(id, c)| (c.to_string(), id.into())).collect();
    let added: Vec<Value> = ["<|im_start|>", "<|im_end|>", "<|image_pad|>"]
        .iter()
        .zip(vocab.len()..)
        .map(|(token, id)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        })
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": []},
    })
}

fn config() -> Value {
    json!({
        "model_type": "qwen2_5_vl", "image_token_id": 98,
        "text_config": {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1,
            "num_key_value_heads": 1, "vocab_size": 300, "rms_norm_eps": 1e-6, "rope_theta": 10_000.0,
            "max_position_embeddings": 64, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}},
        "vision_config": {"depth": 1, "hidden_size": 8, "intermediate_size": 16, "num_heads": 1, "patch_size": 2,
            "window_size": 16, "out_hidden_size": 8},
    })
}

/// A grey PNG.
pub(crate) fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_pixel(width, height, image::Rgb([90; 3]))
        .write_to(&mut bytes, ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

/// Writes a table with `group` rows in a row group.
pub(crate) fn write_parquet(path: &Path, samples: &[ParquetSample<'_>], group: usize) {
    let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
    let properties = Arc::new(
        WriterProperties::builder()
            .set_compression(parquet::basic::Compression::SNAPPY)
            .build(),
    );
    let file = std::fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
    for samples in samples.chunks(group) {
        let mut group = writer.next_row_group().unwrap();
        let messages = samples.iter().map(|sample| {
            let texts = sample.messages.iter();
            texts.map(|text| Some(text.as_bytes().to_vec())).collect()
        });
        write_lists(&mut group, messages, 3);
        let bytes = samples
            .iter()
            .map(|sample| sample.images.iter().map(|(bytes, _)| bytes.clone()).collect());
        write_lists(&mut group, bytes, 4);
        let paths = samples.iter().map(|sample| {
            let paths = sample.images.iter();
            paths
                .map(|(_, path)| path.map(|path| path.as_bytes().to_vec()))
                .collect()
        });
        write_lists(&mut group, paths, 4);
        write_column(&mut group, &[], &vec![0; samples.len()], None);
        group.close().unwrap();
    }
    writer.close().unwrap();
}

/// Writes a column of lists of optional values. `full` is the definition level of a value that is there.
fn write_lists(
    group: &mut SerializedRowGroupWriter<'_, std::fs::File>,
    rows: impl Iterator<Item = Vec<Option<Vec<u8>>>>,
    full: i16,
) {
    let (mut values, mut definitions, mut repetitions) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        if row.is_empty() {
            definitions.push(1);
            repetitions.push(0);
        }
        for (index, value) in row.into_iter().enumerate() {
            repetitions.push(i16::from(index > 0));
            definitions.push(if value.is_some() { full } else { full - 1 });
            values.extend(value.map(ByteArray::from));
        }
    }
    write_column(group, &values, &definitions, Some(&repetitions));
}

fn write_column(
    group: &mut SerializedRowGroupWriter<'_, std::fs::File>,
    values: &[ByteArray],
    definitions: &[i16],
    repetitions: Option<&[i16]>,
) {
    let mut column = group.next_column().unwrap().unwrap();
    column
        .typed::<ByteArrayType>()
        .write_batch(values, Some(definitions), repetitions)
        .unwrap();
    column.close().unwrap();
}
