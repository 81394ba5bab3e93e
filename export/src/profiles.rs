//! The sizes that an engine is built for, derived from the model's own limits.

use std::collections::BTreeMap;

use lwv_model::{Dimension, GraphContract, ModelConfig, Profile, Vision, VisionConfig, contract};
use lwv_processor::{ImageProcessor, MAX_ASPECT_RATIO, Processor};

/// Most new tokens that an engine takes in one run: longer prompts come in pieces.
const CHUNK: usize = 512;

/// Cached tokens that engines are tuned for: the middle of a text of some thousand words.
const USUAL_CONTEXT: usize = 4096;

/// Pixels of a picture that engines are tuned for.
const USUAL_PIXELS: usize = 1024 * 1024;

/// Least, usual and largest size of a dimension.
type Sizes = [usize; 3];

/// The profiles of every input of a graph that has free dimensions.
pub(crate) fn profiles(
    graph: &GraphContract,
    config: &ModelConfig,
    processor: &Processor,
) -> BTreeMap<String, Profile> {
    let sizes = symbols(config, processor);
    let is_free = |dim: &Dimension| matches!(dim, Dimension::Symbol(_));
    let free = graph.inputs.iter().filter(|input| input.dims.iter().any(is_free));
    let inputs = free.map(|input| {
        let size = |which: usize| {
            let of = |dim: &Dimension| match dim {
                Dimension::Size(size) => *size,
                Dimension::Symbol(name) => sizes.get(name.as_str()).map_or(1, |sizes| sizes[which]),
            };
            input.dims.iter().map(of).collect()
        };
        let profile = Profile {
            min: size(0),
            opt: size(1),
            max: size(2),
        };
        (input.name.clone(), profile)
    });
    inputs.collect()
}

/// Sizes of every free dimension. Writing takes one token at a time, so that is what engines are tuned for.
fn symbols(config: &ModelConfig, processor: &Processor) -> BTreeMap<&'static str, Sizes> {
    let context = config.text.max_position_embeddings;
    let usual = USUAL_CONTEXT.min(context);
    let mut sizes = BTreeMap::from([
        (contract::BATCH_SIZE, [1; 3]),
        (contract::SEQUENCE_LENGTH, [1, 1, CHUNK.min(context)]),
        (contract::TOTAL_SEQUENCE_LENGTH, [1, usual, context]),
        (contract::PAST_SEQUENCE_LENGTH, [0, usual - 1, context - 1]),
    ]);
    match (&config.vision, processor.image_processor()) {
        (Some(Vision::Windows(vision)), Some(images)) => sizes.extend(picture_sizes(vision, images)),
        // Tiles are all of one size, and the runtime encodes them one by one.
        (Some(Vision::Tiles(vision)), _) => {
            sizes.insert(contract::NUM_PATCHES, [vision.patches(); 3]);
        }
        _ => {}
    }
    sizes
}

/// Sizes of one picture, whatever its shape: the runtime encodes pictures one by one.
fn picture_sizes(vision: &VisionConfig, images: &ImageProcessor) -> [(&'static str, Sizes); 4] {
    let squares = picture_squares(images);
    let patches = squares.map(|squares| squares * vision.merge_unit());
    let side = vision.window_tokens();
    let [least, usual, _] = squares.map(|squares| squares.div_ceil(side * side));
    [
        (contract::NUM_PATCHES, patches),
        (contract::FRAME_LENGTH, patches),
        (contract::NUM_FRAMES, [1; 3]),
        (
            contract::NUM_WINDOWS,
            [least, usual, most_windows(squares[2], side)],
        ),
    ]
}

/// Least, usual and most merged squares of a picture after [`lwv_processor::smart_resize`]: its limits are kept but where a side
/// would fall below one square, or grows to whole squares.
fn picture_squares(images: &ImageProcessor) -> Sizes {
    let square = images.factor() * images.factor();
    let (least, most) = (
        images.min_pixels as f64 / square as f64,
        images.max_pixels as f64 / square as f64,
    );
    let ratio = f64::from(MAX_ASPECT_RATIO);
    let narrow = (most * ratio).sqrt();
    let rounded = ((least * ratio).sqrt() + 1.0) * ((least / ratio).sqrt() + 1.0);
    let most = most.max(narrow).max(rounded).ceil() as usize;
    // Shrunk to the most, sides are cut to whole squares, which at worst halves each.
    let least = (least.ceil() as usize).min(images.max_pixels / square / 4).max(1);
    [least, (USUAL_PIXELS / square).clamp(least, most), most]
}

/// Most windows of `side` squares a side that a picture of so many squares may have: thin ones have more.
fn most_windows(squares: usize, side: usize) -> usize {
    let of_height = |height: usize| height.div_ceil(side) * squares.div_ceil(height).div_ceil(side);
    (1..=squares).map(of_height).max().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lwv_processor::smart_resize;

    /// Every picture from 28×28 to 8,000×200, and with limits so narrow that no shape keeps them.
    #[test]
    fn no_picture_leaves_the_profile() {
        for (min_pixels, max_pixels) in [
            (3136, 12_845_056),
            (56 * 56, 28 * 28 * 1280),
            (784, 784 * 20),
            (784 * 50, 784 * 51),
        ] {
            let images = ImageProcessor {
                min_pixels,
                max_pixels,
                ..ImageProcessor::default()
            };
            let [least, usual, most] = picture_squares(&images);
            let windows = most_windows(most, 4);
            assert!(least <= usual && usual <= most);
            let sides = [28, 29, 57, 100, 200, 333, 640, 1080, 1999, 4000, 5599, 8000];
            for (width, height) in sides.iter().flat_map(|w| sides.map(|h| (*w, h))) {
                let Ok((w, h)) = smart_resize(width, height, 28, min_pixels, max_pixels) else {
                    continue;
                };
                let (columns, rows) = (w as usize / 28, h as usize / 28);
                let place = format!("{width}×{height} within {min_pixels} to {max_pixels}: {columns}×{rows}");
                assert!(
                    (least..=most).contains(&(columns * rows)),
                    "{place}, {least} to {most}"
                );
                assert!(
                    columns.div_ceil(4) * rows.div_ceil(4) <= windows,
                    "{place}, {windows} windows"
                );
            }
        }
    }

    #[test]
    fn thin_pictures_have_the_most_windows() {
        assert_eq!(most_windows(16, 4), 4);
        assert_eq!(most_windows(1, 4), 1);
        assert_eq!(most_windows(64, 8), 8);
    }
}
