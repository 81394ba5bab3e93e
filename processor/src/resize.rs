use image::RgbImage;

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
        .zip(out.chunks_exact_mut(result_row))
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
    for ((first, weights), to) in weights.taps.iter().zip(out.chunks_exact_mut(row)) {
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
