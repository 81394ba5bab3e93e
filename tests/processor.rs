//! The processor against transformers: prompts, positions, window geometry and pixels.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::path::PathBuf;

use lwv_processor::{
    ChatTemplate, Grid, ImageProcessor, PositionBuilder, Processor, RgbImage, Split, Tokenizer,
    VisionGeometry, VisionLayout, open_image, resize, smart_resize,
};
use lwv_tests::{Case, Difference, ExpectedPrompt, fixtures, messages, read_json, vectors};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Of a normalised pixel. Both sides divide in f32, so they may differ in the last bit.
const PIXELS: f32 = 1e-5;

/// Where decoders are free (JPEG, lossy WebP): one of 255 levels, as a normalised pixel, whose standard deviation is a
/// quarter of the range.
const ONE_LEVEL: f32 = 1.0 / 255.0 / 0.26 + PIXELS;

/// Of every 97th value a fixture keeps one.
const SAMPLE_STRIDE: usize = 97;

fn samples(values: &[f32]) -> Vec<f32> {
    values.iter().step_by(SAMPLE_STRIDE).copied().collect()
}

fn each_prompt(cases: Vec<Case>, check: impl Fn(&Case, &str, &ExpectedPrompt, &Processor)) {
    for case in cases {
        let processor = case.processor();
        for (name, expected) in &case.prompts {
            check(&case, name, expected, &processor);
        }
    }
}

#[test]
fn prompts_are_the_same_tokens() {
    each_prompt(Case::all(), |case, name, expected, processor| {
        let place = format!("{} {name}", case.name);
        if !expected.messages.is_null() {
            let template = processor.chat_template().unwrap();
            let text = template.render(&messages(&expected.messages), true).unwrap();
            assert_eq!(text, expected.text, "{place}");
        }
        let prompt = expected.prompt(processor);
        assert_eq!(prompt.input_ids, expected.input_ids, "{place}");
        let grids: Vec<Grid> = prompt.images.iter().map(|image| image.grid).collect();
        assert_eq!(grids, expected.grids(), "{place}");
    });
}

#[test]
fn greedy_tokens_are_the_same_text() {
    each_prompt(Case::all(), |case, name, expected, processor| {
        let text = processor.tokenizer().decode(&expected.greedy_ids, true).unwrap();
        assert_eq!(text, expected.greedy_text, "{} {name}", case.name);
    });
}

#[test]
fn positions_are_the_same() {
    each_prompt(Case::with_vision(), |case, name, expected, _| {
        let mut builder = PositionBuilder::of(&case.config());
        let rows = builder.extend(&expected.input_ids, &expected.grids()).unwrap();
        assert_eq!(rows, expected.position_ids.concat(), "{} {name}", case.name);
        let next = expected.input_ids.len() as i64 + expected.rope_delta;
        assert_eq!(builder.next_position(), next, "{} {name}", case.name);
        assert_eq!(builder.extend_text(1), vec![next; expected.position_ids.len()]);
    });
}

/// Split wherever a split is possible: between any two tokens that are not of one image.
#[test]
fn positions_are_the_same_turn_by_turn() {
    each_prompt(Case::with_vision(), |case, name, expected, processor| {
        let (ids, image_token) = (&expected.input_ids, processor.image_token_id().unwrap());
        let splits = (1..ids.len()).filter(|at| ids[at - 1] != image_token || ids[*at] != image_token);
        for at in splits {
            let (first, second) = ids.split_at(at);
            let runs = |ids: &[u32]| {
                ids.chunk_by(|a, b| a == b)
                    .filter(|run| run[0] == image_token)
                    .count()
            };
            let grids = expected.grids();
            let (first_grids, second_grids) = grids.split_at(runs(first));
            let mut builder = PositionBuilder::of(&case.config());
            let before = builder.extend(first, first_grids).unwrap();
            let after = builder.extend(second, second_grids).unwrap();
            for axis in 0..builder.axes() {
                let row = [
                    &before[axis * at..][..at],
                    &after[axis * second.len()..][..second.len()],
                ]
                .concat();
                assert_eq!(
                    row, expected.position_ids[axis],
                    "{} {name} split at {at}",
                    case.name
                );
            }
        }
    });
}

#[test]
fn windows_are_the_same() {
    for case in Case::with_windows() {
        let vision = case.config().vision.unwrap();
        let layout = VisionLayout::from(vision.windows().unwrap());
        let mut compared = 0;
        for (name, expected) in case
            .prompts
            .iter()
            .filter(|(_, expected)| !expected.images.is_empty())
        {
            let place = format!("{} {name}", case.name);
            let geometry = VisionGeometry::new(&expected.grids(), &layout).unwrap();
            assert_eq!(geometry.window_index, expected.window_index, "{place}");
            assert_eq!(geometry.cu_window_seqlens, expected.cu_window_seqlens, "{place}");
            assert_eq!(geometry.cu_seqlens, expected.cu_seqlens, "{place}");
            compared += 1;
        }
        assert!(compared >= 5, "{}: {compared} prompts with images", case.name);
    }
}

#[test]
fn pixels_of_prompts_are_the_same() {
    let (mut sized, mut resized) = (Difference::default(), Difference::default());
    for case in Case::with_windows() {
        let processor = case.processor();
        for (name, expected) in case
            .prompts
            .iter()
            .filter(|(_, expected)| !expected.images.is_empty())
        {
            let prompt = expected.prompt(&processor);
            let values: Vec<f32> = prompt
                .images
                .iter()
                .flat_map(|image| image.values.clone())
                .collect();
            let place = || format!("{} {name}", case.name);
            let difference = if name.ends_with("_sized") {
                &mut sized
            } else {
                &mut resized
            };
            let (kept, _) = case.tensor(&format!("{name}.pixel_samples")).unwrap();
            difference.add(place, &kept, &samples(&values));
            if let Some((all, _)) = case.tensor(&format!("{name}.pixel_values")) {
                difference.add(place, &all, &values);
            }
        }
    }
    sized.assert_within("pixels of pictures that need no resize", PIXELS);
    resized.assert_within("pixels of pictures that were resized", PIXELS);
}

/// The pixels of whole tiles, channel by channel and line by line, as transformers has them.
#[test]
fn pixels_of_tiles_are_the_same() {
    let mut pixels = Difference::default();
    for case in Case::with_tiles() {
        let processor = case.processor();
        let vision = case.config().vision.unwrap();
        let tower = vision.tiles().unwrap();
        let (order, side, patch) = (tower.position_order(), tower.side(), tower.patch_size);
        for (name, expected) in &case.prompts {
            let Some((kept, _)) = case.tensor(&format!("{name}.pixel_samples")) else {
                continue;
            };
            let mut values = Vec::new();
            for tile in expected.prompt(&processor).images {
                let mut tile_values = vec![0.0; tile.values.len()];
                let patches = tile.values.chunks_exact(tower.patch_elements());
                for (place, patch_values) in order.iter().zip(patches) {
                    let (top, left) = (place / side * patch, place % side * patch);
                    for (index, value) in patch_values.iter().enumerate() {
                        let (channel, line, column) =
                            (index / patch / patch, index / patch % patch, index % patch);
                        let row = channel * side * patch + top + line;
                        tile_values[row * side * patch + left + column] = *value;
                    }
                }
                values.extend(tile_values);
            }
            pixels.add(|| format!("{} {name}", case.name), &kept, &samples(&values));
        }
    }
    pixels.assert_within("pixels of tiles", PIXELS);
}

#[test]
fn pictures_are_split_into_the_same_tiles() {
    let mut whole = 0;
    for case in Case::with_tiles() {
        let processor = case.processor();
        let tiles = processor.tile_processor().unwrap();
        for expected in case.prompts.values() {
            assert_eq!(expected.splits.len(), expected.images.len());
            for (picture, split) in expected.pictures().iter().zip(&expected.splits) {
                let found = tiles.split(picture.width(), picture.height());
                whole += usize::from(found.is_none());
                let found = found.map_or([0, 0], |Split { rows, columns }| [rows, columns]);
                assert_eq!(found, *split, "{} {:?}", case.name, picture.dimensions());
            }
        }
    }
    assert!(whole > 0, "one case does not split");
}

/// One row of `images.json`.
struct Picture {
    file: String,
    exact: bool,
    row: Value,
    image: RgbImage,
}

impl Picture {
    fn all() -> Vec<Self> {
        let rows = read_json(&folder().join("images.json"));
        let pictures: Vec<Self> = rows.as_array().unwrap().iter().map(Self::open).collect();
        assert!(pictures.len() >= 20);
        pictures
    }

    fn open(row: &Value) -> Self {
        let file = row["file"].as_str().unwrap().to_owned();
        Self {
            image: open_image(&folder().join(&file)).unwrap(),
            exact: row["exact"].as_bool().unwrap(),
            row: row.clone(),
            file,
        }
    }

    fn processor(&self) -> ImageProcessor {
        let pixels = |key: &str| self.row[key].as_u64().unwrap() as usize;
        ImageProcessor {
            min_pixels: pixels("min_pixels"),
            max_pixels: pixels("max_pixels"),
            ..ImageProcessor::default()
        }
    }
}

fn folder() -> PathBuf {
    fixtures().join("processor")
}

fn most_levels_apart(a: &RgbImage, b: &RgbImage) -> u8 {
    assert_eq!(a.dimensions(), b.dimensions());
    let pairs = a.as_raw().iter().zip(b.as_raw());
    pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn pictures_decode_to_the_same_pixels() {
    for picture in Picture::all() {
        let (row, file) = (&picture.row, &picture.file);
        let size = (row["width"].as_u64().unwrap(), row["height"].as_u64().unwrap());
        let (width, height) = picture.image.dimensions();
        assert_eq!((u64::from(width), u64::from(height)), size, "{file}");
        let digest: String = Sha256::digest(picture.image.as_raw())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        if picture.exact {
            assert_eq!(digest, row["rgb_sha256"].as_str().unwrap(), "{file}");
        }
    }
}

#[test]
fn pictures_are_resized_as_pillow_does() {
    for picture in Picture::all() {
        let (processor, file) = (picture.processor(), &picture.file);
        let grid = processor
            .grid(picture.image.width(), picture.image.height())
            .unwrap();
        let thw: Vec<i64> = serde_json::from_value(picture.row["grid_thw"].clone()).unwrap();
        assert_eq!(grid.thw().to_vec(), thw, "{file}");
        let expected = open_image(&folder().join(picture.row["resized"].as_str().unwrap())).unwrap();
        let (width, height) = expected.dimensions();
        let got = resize(&picture.image, width, height, processor.resample);
        let allowed = u8::from(!picture.exact);
        let apart = most_levels_apart(&expected, &got);
        assert!(
            apart <= allowed,
            "{file}: {apart} levels apart, allowed are {allowed}"
        );
    }
}

#[test]
fn pixel_values_of_pictures_are_the_same() {
    let expected = vectors(&folder().join("images.safetensors"));
    let (mut exact, mut free) = (Difference::default(), Difference::default());
    for picture in Picture::all() {
        let patches = picture.processor().process(&picture.image).unwrap();
        let difference = if picture.exact { &mut exact } else { &mut free };
        let key = picture.file.rsplit('/').next().unwrap();
        let kept = expected.get(key).or_else(|| expected.get(&picture.file)).unwrap();
        difference.add(|| picture.file.clone(), kept, &samples(&patches.values));
    }
    exact.assert_within("pixels of odd pictures", PIXELS);
    free.assert_within("pixels where the decoder is free", ONE_LEVEL);
}

/// Height, width, fewest and most pixels, and the height and width to resize to where there is one.
type SizeRow = (u32, u32, usize, usize, Option<[u32; 2]>);

#[test]
fn sizes_are_the_same() {
    let rows = read_json(&folder().join("sizes.json"));
    let rows: Vec<SizeRow> = serde_json::from_value(rows).unwrap();
    assert!(rows.len() >= 200);
    for (height, width, min_pixels, max_pixels, expected) in rows {
        let got = smart_resize(width, height, 28, min_pixels, max_pixels).ok();
        let expected = expected.map(|[height, width]| (width, height));
        assert_eq!(
            got, expected,
            "{width}×{height}, {min_pixels} to {max_pixels} pixels"
        );
    }
}

#[test]
fn conversations_are_the_same_text() {
    let chat = read_json(&folder().join("chat.json"));
    let mut compared = 0;
    for (name, source) in chat["templates"].as_object().unwrap() {
        let source = source.as_str().unwrap().to_owned();
        let template = ChatTemplate::parse(source, PathBuf::from(name), Vec::new()).unwrap();
        for conversation in chat["conversations"].as_array().unwrap() {
            let Some(expected) = conversation[name].as_object() else {
                continue;
            };
            // A video takes the template's other branch, and this project reads pictures only.
            if conversation["messages"].to_string().contains("\"video\"") {
                continue;
            }
            let messages = messages(&conversation["messages"]);
            for (key, with_prompt) in [("plain", false), ("generation", true)] {
                let Some(expected) = expected[key].as_str() else {
                    continue;
                };
                let got = template.render(&messages, with_prompt).unwrap();
                assert_eq!(got, expected, "{name} {key} {}", conversation["messages"]);
                compared += 1;
            }
        }
    }
    assert!(compared >= 28, "{compared} conversations were compared");
}

#[test]
fn texts_are_the_same_tokens() {
    let tokenizer = Tokenizer::from_dir(&Case::load("flat_f32").dir).unwrap();
    let rows = read_json(&folder().join("tokens.json"));
    let rows = rows.as_array().unwrap();
    assert!(rows.len() >= 100);
    for row in rows {
        let text = row["text"].as_str().unwrap();
        let ids: Vec<u32> = serde_json::from_value(row["ids"].clone()).unwrap();
        assert_eq!(tokenizer.encode(text, false).unwrap(), ids, "{text:?}");
        for (key, skip_special) in [("decoded", true), ("decoded_with_special", false)] {
            let decoded = tokenizer.decode(&ids, skip_special).unwrap();
            assert_eq!(decoded, row[key].as_str().unwrap(), "{key} of {text:?}");
            let mut stream = tokenizer.stream(skip_special);
            let pieces: String = ids.iter().filter_map(|id| stream.push(*id)).collect();
            assert_eq!(
                pieces + &stream.finish().unwrap_or_default(),
                decoded,
                "stream of {text:?}"
            );
        }
    }
}
