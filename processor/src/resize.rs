use crate::RgbImage;

/// How pixels are weighted when an image is resized. The names are Pillow's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Triangle over one pixel to each side.
    Bilinear,
    /// Cubic convolution with a = −½ over two pixels to each side.
    Bicubic,
    /// Windowed sinc over three pixels to each side.
    Lanczos,
}

/// Weights are stored as integers with this many bits after the point, so that the sum of 8-bit pixels times weights
/// fits in 32 bits (`PRECISION_BITS` in Pillow's `Resample.c`).
const PRECISION_BITS: u32 = 32 - 8 - 2;

const CHANNELS: usize = 3;

impl Filter {
    /// The filter with this number in Pillow and in `preprocessor_config.json`.
    pub fn from_number(number: u64) -> Option<Self> {
        match number {
            1 => Some(Self::Lanczos),
            2 => Some(Self::Bilinear),
            3 => Some(Self::Bicubic),
            _ => None,
        }
    }

    /// The filter's number in Pillow and in `preprocessor_config.json`.
    pub fn number(self) -> u64 {
        match self {
            Self::Lanczos => 1,
            Self::Bilinear => 2,
            Self::Bicubic => 3,
        }
    }

    /// How far the filter reaches, in pixels.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    /// The filter's weight at a distance of `x` pixels. The order of operations is Pillow's.
    fn weight(self, x: f64) -> f64 {
        match self {
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
            Self::Bicubic => cubic(x.abs()),
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
        }
    }
}

fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * std::f64::consts::PI;
    x.sin() / x
}

/// Resizes to `width`×`height` pixels, bit for bit as Pillow 13's `Image.resize` does: when shrinking, the filter is
/// widened so that every source pixel counts; each direction is a pass of its own, with 8-bit pixels in between, and
/// is left out where the size stays. An image without pixels gives a black one.
pub fn resize(image: &RgbImage, width: u32, height: u32, filter: Filter) -> RgbImage {
    let rows = |image: &RgbImage| resize_rows(image, width, &Weights::new(image.width(), width, filter));
    let columns =
        |image: &RgbImage| resize_columns(image, height, &Weights::new(image.height(), height, filter));
    if [width, height, image.width(), image.height()].contains(&0) {
        return RgbImage::new(width, height);
    }
    match (width == image.width(), height == image.height()) {
        (true, true) => image.clone(),
        (false, true) => rows(image),
        (true, false) => columns(image),
        (false, false) if columns_first(image, width, height) => rows(&columns(image)),
        (false, false) => columns(&rows(image)),
    }
}

/// Whether Pillow works on the columns first: since release 13, where the height shrinks by more than twice as many
/// pixels as the width. The order shows in the result, because the pixels in between are clipped to 8 bits.
fn columns_first(image: &RgbImage, width: u32, height: u32) -> bool {
    let shrink = |from: u32, to: u32| i64::from(from) - i64::from(to);
    let rows_lost = shrink(image.height(), height);
    rows_lost > 0 && rows_lost > 2 * shrink(image.width(), width)
}

/// For each pixel of the result along one side: where its source pixels begin, and their weights.
struct Weights {
    taps: Vec<(usize, Vec<i32>)>,
}

impl Weights {
    fn new(from: u32, to: u32, filter: Filter) -> Self {
        let scale = f64::from(from) / f64::from(to);
        // Enlarging interpolates between neighbours; shrinking covers all source pixels of a result pixel.
        let stretch = scale.max(1.0);
        let support = filter.support() * stretch;
        let taps = (0..to)
            .map(|x| {
                let center = (f64::from(x) + 0.5) * scale;
                // `as` cuts off the fraction and negative numbers, as the C casts and clamps do.
                let first = (center - support + 0.5) as usize;
                let end = ((center + support + 0.5) as usize).min(from as usize);
                (first, fixed_point(first, end, center, stretch, filter))
            })
            .collect();
        Self { taps }
    }
}

/// Weights of the source pixels `first..end`, summing to one, as fixed-point numbers.
fn fixed_point(first: usize, end: usize, center: f64, stretch: f64, filter: Filter) -> Vec<i32> {
    let per_pixel = 1.0 / stretch;
    let mut weights: Vec<f64> = (first..end)
        .map(|x| filter.weight((x as f64 - center + 0.5) * per_pixel))
        .collect();
    let sum: f64 = weights.iter().sum();
    if sum != 0.0 {
        weights.iter_mut().for_each(|weight| *weight /= sum);
    }
    let one = f64::from(1_u32 << PRECISION_BITS);
    // Away from zero: `as` cuts off the fraction, so half is added with the weight's sign.
    weights
        .iter()
        .map(|weight| (weight * one + 0.5_f64.copysign(*weight)) as i32)
        .collect()
}

/// A sum of pixels times fixed-point weights as a pixel.
fn to_pixel(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Half a pixel level, so that [`to_pixel`] rounds.
const HALF: i32 = 1 << (PRECISION_BITS - 1);

fn resize_rows(image: &RgbImage, width: u32, weights: &Weights) -> RgbImage {
    let mut out = RgbImage::new(width, image.height());
    let source_row = image.width() as usize * CHANNELS;
    let result_row = width as usize * CHANNELS;
    for (from, to) in image
        .as_raw()
        .chunks_exact(source_row)
        .zip(out.as_raw_mut().chunks_exact_mut(result_row))
    {
        for ((first, weights), pixel) in weights.taps.iter().zip(to.chunks_exact_mut(CHANNELS)) {
            let mut sums = [HALF; CHANNELS];
            for (source, weight) in from[first * CHANNELS..].chunks_exact(CHANNELS).zip(weights) {
                for (sum, value) in sums.iter_mut().zip(source) {
                    *sum += i32::from(*value) * weight;
                }
            }
            for (value, sum) in pixel.iter_mut().zip(sums) {
                *value = to_pixel(sum);
            }
        }
    }
    out
}

fn resize_columns(image: &RgbImage, height: u32, weights: &Weights) -> RgbImage {
    let mut out = RgbImage::new(image.width(), height);
    let row = image.width() as usize * CHANNELS;
    let mut sums = vec![HALF; row];
    for ((first, weights), to) in weights.taps.iter().zip(out.as_raw_mut().chunks_exact_mut(row)) {
        sums.fill(HALF);
        for (from, weight) in image.as_raw()[first * row..].chunks_exact(row).zip(weights) {
            for (sum, value) in sums.iter_mut().zip(from) {
                *sum += i32::from(*value) * weight;
            }
        }
        for (value, sum) in to.iter_mut().zip(&sums) {
            *value = to_pixel(*sum);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture without a pattern that a wrong order of pixels or channels would leave as it is.
    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            [0, 1, 2].map(|channel| ((x * 97 + y * 61 + channel * 53 + x * y * 29) % 256) as u8)
        })
    }

    #[test]
    fn results_are_those_of_pillow_13() {
        type Case = ((u32, u32), (u32, u32), Filter, &'static [u8]);
        #[rustfmt::skip]
        let cases: [Case; 7] = [
            // shrinking
            ((4, 4), (2, 2), Filter::Bicubic, &[88, 140, 131, 122, 180, 96, 110, 167, 140, 121, 120, 111]),
            // enlarging
            ((2, 2), (3, 3), Filter::Bicubic, &[0, 43, 95, 44, 97, 158, 97, 150, 221, 27, 77, 138, 87, 140, 129, 149, 202, 119, 56, 110, 181, 129, 182, 99, 201, 254, 16]),
            // rows first
            ((9, 3), (4, 4), Filter::Bicubic, &[75, 128, 134, 114, 164, 140, 160, 95, 148, 84, 140, 78, 103, 155, 116, 116, 173, 112, 130, 146, 107, 95, 149, 89, 106, 162, 123, 129, 158, 97, 116, 153, 114, 107, 162, 103, 83, 144, 150, 143, 130, 106, 126, 112, 165, 113, 173, 112]),
            // columns first
            ((3, 9), (4, 4), Filter::Bicubic, &[38, 98, 160, 89, 145, 135, 129, 182, 106, 133, 186, 93, 182, 168, 109, 134, 165, 131, 102, 160, 116, 104, 157, 72, 117, 113, 149, 118, 140, 147, 103, 149, 140, 81, 135, 133, 186, 145, 77, 157, 94, 109, 107, 87, 157, 69, 128, 189]),
            // one direction only
            ((5, 4), (5, 2), Filter::Bicubic, &[36, 89, 151, 129, 182, 117, 135, 188, 93, 101, 163, 99, 107, 129, 192, 147, 200, 136, 79, 132, 155, 98, 151, 96, 157, 93, 115, 176, 112, 47]),
            ((4, 2), (2, 2), Filter::Bilinear, &[69, 122, 139, 112, 165, 108, 114, 167, 111, 130, 183, 89]),
            ((6, 2), (3, 2), Filter::Lanczos, &[70, 119, 135, 115, 184, 126, 159, 91, 162, 114, 167, 112, 120, 173, 98, 126, 179, 84]),
        ];
        for (from, to, filter, want) in cases {
            let got = resize(&picture(from.0, from.1), to.0, to.1, filter);
            assert_eq!(got.dimensions(), to);
            assert_eq!(got.as_raw(), want, "{from:?} to {to:?}");
        }
    }

    #[test]
    fn the_same_size_changes_nothing() {
        let picture = picture(5, 3);
        assert_eq!(resize(&picture, 5, 3, Filter::Bicubic), picture);
    }

    #[test]
    fn no_pixels_are_no_panic() {
        assert_eq!(
            resize(&RgbImage::new(0, 4), 2, 2, Filter::Bicubic),
            RgbImage::new(2, 2)
        );
        assert_eq!(resize(&picture(3, 3), 0, 2, Filter::Bicubic).dimensions(), (0, 2));
    }

    #[test]
    fn flat_colours_stay_flat() {
        let grey = RgbImage::from_pixel(31, 17, [0, 128, 255]);
        for filter in [Filter::Bilinear, Filter::Bicubic, Filter::Lanczos] {
            let resized = resize(&grey, 12, 40, filter);
            assert!(
                resized
                    .as_raw()
                    .chunks_exact(3)
                    .all(|pixel| pixel == [0, 128, 255])
            );
        }
    }
}
