/// Bytes of a pixel.
const PIXEL: usize = 3;

/// A picture in memory: rows of pixels, of which each is a byte of red, green and blue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbImage {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

impl RgbImage {
    /// A black picture.
    pub fn new(width: u32, height: u32) -> Self {
        Self::from_pixel(width, height, [0; PIXEL])
    }

    /// A picture of one colour.
    pub fn from_pixel(width: u32, height: u32, pixel: [u8; PIXEL]) -> Self {
        Self::from_fn(width, height, |_, _| pixel)
    }

    /// The picture whose pixel in column `x` of row `y` is `pixel(x, y)`.
    pub fn from_fn(width: u32, height: u32, pixel: impl Fn(u32, u32) -> [u8; PIXEL]) -> Self {
        let mut pixels = Vec::with_capacity(width as usize * height as usize * PIXEL);
        for y in 0..height {
            for x in 0..width {
                pixels.extend(pixel(x, y));
            }
        }
        Self {
            width,
            height,
            pixels,
        }
    }

    /// Takes pixels, row by row; `None` if they are not as many as the size says.
    pub fn from_raw(width: u32, height: u32, pixels: Vec<u8>) -> Option<Self> {
        let expected = u128::from(width) * u128::from(height) * PIXEL as u128;
        (pixels.len() as u128 == expected).then_some(Self {
            width,
            height,
            pixels,
        })
    }

    /// Pixels in a row.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Width and height.
    pub fn dimensions(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// Pixels, row by row.
    pub fn pixels(&self) -> &[[u8; PIXEL]] {
        self.pixels.as_chunks().0
    }

    /// All bytes, row by row.
    pub fn as_raw(&self) -> &[u8] {
        &self.pixels
    }

    /// All bytes, row by row.
    pub fn into_raw(self) -> Vec<u8> {
        self.pixels
    }

    /// All bytes, to be overwritten.
    pub(crate) fn as_raw_mut(&mut self) -> &mut [u8] {
        &mut self.pixels
    }

    /// The pixel in column `x` of row `y`, which must be in the picture.
    pub(crate) fn pixel(&self, x: u32, y: u32) -> [u8; PIXEL] {
        let at = (y as usize * self.width as usize + x as usize) * PIXEL;
        [self.pixels[at], self.pixels[at + 1], self.pixels[at + 2]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_one_after_the_other() {
        let image = RgbImage::from_fn(2, 2, |x, y| [x as u8, y as u8, 9]);
        assert_eq!(image.as_raw(), [0, 0, 9, 1, 0, 9, 0, 1, 9, 1, 1, 9]);
        assert_eq!((image.pixel(1, 0), image.pixel(0, 1)), ([1, 0, 9], [0, 1, 9]));
        assert_eq!(RgbImage::from_raw(2, 2, image.clone().into_raw()), Some(image));
        assert_eq!(RgbImage::from_raw(2, 2, vec![0; 11]), None);
        assert_eq!(RgbImage::from_raw(u32::MAX, u32::MAX, vec![0; 12]), None);
    }
}
