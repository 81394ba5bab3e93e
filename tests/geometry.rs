//! The vision graph works out windows and frames by itself; candle gets them from the processor. Both on the same lists
//! of images.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use lwv_model::{Precision, contract};
use lwv_processor::{Grid, Patches};
use lwv_tests::{Case, Difference, Random, bundle, graph};
use lwv_train::Network;
use ort::session::Session;
use ort::value::TensorRef;

/// Most that a feature may differ between the engines.
const FEATURES: f32 = 1e-4;

/// Lists of images for each case.
const LISTS: usize = 40;

/// Merged squares on the longest side: more than two windows, and not too slow.
const LONGEST_SIDE: usize = 11;

/// Windows of 2 and of 4 squares a side; attention over windows only, over frames only, and both.
const CASES: [&str; 4] = ["flat_f32", "nested_f32", "flat_f16_wide_pictures", "nested_f16"];

fn image(random: &mut Random, thw: [usize; 3]) -> Patches {
    let [t, h, w] = thw;
    let grid = Grid { t, h, w };
    let elements = 3 * 2 * 14 * 14;
    let values = (0..grid.patches() * elements)
        .map(|_| 2.0 * random.signed())
        .collect();
    Patches { grid, values }
}

fn random_list(random: &mut Random) -> Vec<Patches> {
    let count = random.between(1, 4);
    let list = (0..count).map(|_| {
        let frames = if random.between(0, 3) == 0 {
            random.between(2, 3)
        } else {
            1
        };
        let sides = [(); 2].map(|()| 2 * random.between(1, LONGEST_SIDE));
        image(random, [frames, sides[0], sides[1]])
    });
    list.collect()
}

/// Sizes around a window's: one square less, exactly, one more; the smallest; several frames; equal neighbours.
fn special_lists(random: &mut Random) -> Vec<Vec<Patches>> {
    let lists: [&[[usize; 3]]; 8] = [
        &[[1, 2, 2]],
        &[[1, 2, 2], [1, 2, 2], [1, 2, 2]],
        &[[1, 4, 4], [1, 8, 8]],
        &[[1, 6, 10], [1, 10, 6]],
        &[[1, 2, 22], [1, 22, 2]],
        &[[3, 6, 10]],
        &[[2, 2, 2], [1, 8, 4], [3, 10, 2]],
        &[[1, 16, 16], [4, 4, 6], [1, 2, 2], [2, 18, 14]],
    ];
    let make = |list: &&[[usize; 3]]| list.iter().map(|thw| image(random, *thw)).collect();
    lists.iter().map(make).collect()
}

fn of_bundle(session: &mut Session, images: &[Patches]) -> Vec<f32> {
    let values: Vec<f32> = images
        .iter()
        .flat_map(|image| image.values.iter().copied())
        .collect();
    let grids: Vec<i64> = images.iter().flat_map(|image| image.grid.thw()).collect();
    let patches: usize = images.iter().map(|image| image.grid.patches()).sum();
    let pixels = TensorRef::from_array_view(([patches, values.len() / patches], values.as_slice())).unwrap();
    let grids = TensorRef::from_array_view(([images.len(), 3], grids.as_slice())).unwrap();
    let inputs = ort::inputs![contract::PIXEL_VALUES => pixels, contract::IMAGE_GRID_THW => grids];
    let outputs = session.run(inputs).unwrap();
    let (_, features) = outputs[contract::IMAGE_FEATURES]
        .try_extract_tensor::<f32>()
        .unwrap();
    features.to_vec()
}

#[test]
fn both_engines_see_the_same_geometry() {
    let mut difference = Difference::default();
    for name in CASES {
        let case = Case::load(name);
        let mut network = Network::open(&case.dir, None).unwrap();
        let mut session = graph(&bundle(&case.dir, Precision::Fp32), contract::VISION_ENCODER);
        let mut random = Random::new(5);
        let mut lists = special_lists(&mut random);
        lists.extend((0..LISTS).map(|_| random_list(&mut random)));
        assert!(lists.iter().flatten().any(|image| image.grid.t > 1));
        for images in lists {
            let expected = network.image_features(&images).unwrap();
            let expected: Vec<f32> = expected.flatten_all().unwrap().to_vec1().unwrap();
            let got = of_bundle(&mut session, &images);
            let grids: Vec<_> = images.iter().map(|image| image.grid.thw()).collect();
            difference.add(|| format!("{name} {grids:?}"), &expected, &got);
        }
    }
    difference.assert_within("image features of candle and ONNX Runtime", FEATURES);
}

/// A picture's features do not depend on the pictures beside it, so those of a list are those of its pictures.
#[test]
fn pictures_do_not_see_each_other() {
    let mut difference = Difference::default();
    for name in CASES {
        let case = Case::load(name);
        let mut session = graph(&bundle(&case.dir, Precision::Fp32), contract::VISION_ENCODER);
        let mut random = Random::new(6);
        for _ in 0..LISTS / 4 {
            let images = random_list(&mut random);
            let together = of_bundle(&mut session, &images);
            let one_by_one: Vec<f32> = images
                .chunks(1)
                .flat_map(|one| of_bundle(&mut session, one))
                .collect();
            difference.add(|| name.to_owned(), &one_by_one, &together);
        }
    }
    difference.assert_within("image features together and one by one", FEATURES);
}

/// Lest the engines agree because the sizes change nothing.
#[test]
fn sizes_matter() {
    for name in CASES {
        let case = Case::load(name);
        let mut session = graph(&bundle(&case.dir, Precision::Fp32), contract::VISION_ENCODER);
        let wide = image(&mut Random::new(7), [1, 6, 18]);
        let features = of_bundle(&mut session, std::slice::from_ref(&wide));
        for [t, h, w] in [[1, 18, 6], [3, 6, 6]] {
            let other = Patches {
                grid: Grid { t, h, w },
                values: wide.values.clone(),
            };
            let others = of_bundle(&mut session, &[other]);
            let apart = features
                .iter()
                .zip(&others)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(
                apart > 100.0 * FEATURES,
                "{name}: {apart} between 1×6×18 and {t}×{h}×{w}"
            );
        }
    }
}
