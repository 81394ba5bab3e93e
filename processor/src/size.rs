use crate::image::is_too_long;
use crate::{Error, Result};

/// The width and height that an image is resized to: both multiples of `factor`, the pixels within the limits, the
/// proportions about as before (`smart_resize` in transformers `image_processing_qwen2_vl.py`).
///
/// Rounding is to even at a half, as Python's, so a side of 70 with a factor of 28 becomes 56, not 84.
///
/// # Errors
/// One side is over [`MAX_ASPECT_RATIO`](crate::MAX_ASPECT_RATIO) times the other, or the limits leave no size.
pub fn smart_resize(
    width: u32,
    height: u32,
    factor: usize,
    min_pixels: usize,
    max_pixels: usize,
) -> Result<(u32, u32)> {
    let limits = Error::PixelLimits {
        min_pixels,
        max_pixels,
        factor,
    };
    if factor == 0 || min_pixels == 0 || max_pixels == 0 {
        return Err(limits);
    }
    if width == 0 || height == 0 || is_too_long(width, height) {
        return Err(Error::AspectRatio {
            name: "the image".to_owned(),
            width,
            height,
        });
    }
    let (sides, factor) = ([f64::from(width), f64::from(height)], factor as f64);
    let [w, h] = sides.map(|side| (side / factor).round_ties_even() * factor);
    let pixels = sides[0] * sides[1];
    let sides = if w * h > max_pixels as f64 {
        let shrink = (pixels / max_pixels as f64).sqrt();
        sides.map(|side| ((side / shrink / factor).floor() * factor).max(factor))
    } else if w * h < min_pixels as f64 {
        let grow = (min_pixels as f64 / pixels).sqrt();
        sides.map(|side| (side * grow / factor).ceil() * factor)
    } else {
        [w, h]
    };
    if sides
        .iter()
        .all(|side| (1.0..=f64::from(u32::MAX)).contains(side))
    {
        Ok((sides[0] as u32, sides[1] as u32))
    } else {
        Err(limits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_as_in_python() {
        let size = |width, height| smart_resize(width, height, 28, 56 * 56, 28 * 28 * 1280).unwrap();
        assert_eq!(size(640, 480), (644, 476));
        // 2.5 and 4.5 squares round to even: 2 and 4. Rounding up would give 84×140.
        assert_eq!(size(70, 126), (56, 112));
        assert_eq!(size(640, 60), (644, 56));
        // 0.7 × 10.7 squares are over the fewest pixels.
        assert_eq!(size(20, 300), (28, 308));
        // Enlarged to the fewest pixels, shrunk to the most.
        assert_eq!(size(9, 7), (84, 56));
        assert_eq!(size(4000, 3000), (1148, 840));
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let size = |width, height, max| smart_resize(width, height, 28, 56 * 56, max);
        assert!(matches!(
            size(201, 1, 9999),
            Err(Error::AspectRatio {
                width: 201,
                height: 1,
                ..
            })
        ));
        assert!(size(200, 1, 9999).is_ok());
        assert!(size(0, 0, 9999).is_err());
        assert!(matches!(
            size(10, 10, 0),
            Err(Error::PixelLimits { max_pixels: 0, .. })
        ));
    }
}
