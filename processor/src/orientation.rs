use crate::RgbImage;

/// The tag of the orientation, and the type `SHORT` (TIFF 6.0, sections 2 and 8).
const ORIENTATION: u16 = 0x112;
const SHORT: u16 = 3;

/// Bytes of an entry in a directory.
const ENTRY: usize = 12;

/// How a picture that a camera wrote must be turned to be upright: the number of EXIF, from 1, which is as it is, to 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Orientation(u8);

impl Orientation {
    /// As it is.
    pub(crate) const UPRIGHT: Self = Self(1);

    /// What an EXIF block says, which is a TIFF file without pixels; where it says nothing that can be, upright.
    pub(crate) fn of_exif(block: &[u8]) -> Self {
        find(block).and_then(Self::of_number).unwrap_or(Self::UPRIGHT)
    }

    /// The orientation of this number, if there is one.
    pub(crate) fn of_number(number: u16) -> Option<Self> {
        u8::try_from(number)
            .ok()
            .filter(|number| (1..=8).contains(number))
            .map(Self)
    }

    /// Whether width and height change places.
    pub(crate) fn swaps_sides(self) -> bool {
        self.0 > 4
    }

    /// Turns a picture upright.
    pub(crate) fn apply(self, image: RgbImage) -> RgbImage {
        let (width, height) = image.dimensions();
        let (right, bottom) = (width.saturating_sub(1), height.saturating_sub(1));
        let turned = |pixel: &dyn Fn(u32, u32) -> [u8; 3]| {
            let (width, height) = if self.swaps_sides() {
                (height, width)
            } else {
                (width, height)
            };
            RgbImage::from_fn(width, height, pixel)
        };
        // Where the pixel in column x of row y comes from.
        match self.0 {
            2 => turned(&|x, y| image.pixel(right - x, y)),
            3 => turned(&|x, y| image.pixel(right - x, bottom - y)),
            4 => turned(&|x, y| image.pixel(x, bottom - y)),
            5 => turned(&|x, y| image.pixel(y, x)),
            6 => turned(&|x, y| image.pixel(y, bottom - x)),
            7 => turned(&|x, y| image.pixel(right - y, bottom - x)),
            8 => turned(&|x, y| image.pixel(right - y, x)),
            _ => image,
        }
    }
}

/// The number in the first directory.
fn find(block: &[u8]) -> Option<u16> {
    let (numbers, rest) = match block.split_first_chunk::<4>()? {
        (b"II*\0", rest) => (Numbers { little: true }, rest),
        (b"MM\0*", rest) => (Numbers { little: false }, rest),
        _ => return None,
    };
    let directory = block.get(numbers.u32(rest)? as usize..)?;
    let count = numbers.u16(directory)?;
    let entries = directory[2..].chunks_exact(ENTRY).take(usize::from(count));
    entries
        .map(|entry| {
            (
                numbers.u16(entry),
                numbers.u16(&entry[2..]),
                numbers.u32(&entry[4..]),
                &entry[8..],
            )
        })
        .find(|(tag, kind, count, _)| (*tag, *kind, *count) == (Some(ORIENTATION), Some(SHORT), Some(1)))
        .and_then(|(.., value)| numbers.u16(value))
}

/// How numbers stand in a block.
#[derive(Clone, Copy)]
struct Numbers {
    little: bool,
}

impl Numbers {
    fn u16(self, bytes: &[u8]) -> Option<u16> {
        let bytes = *bytes.first_chunk()?;
        Some(if self.little {
            u16::from_le_bytes(bytes)
        } else {
            u16::from_be_bytes(bytes)
        })
    }

    fn u32(self, bytes: &[u8]) -> Option<u32> {
        let bytes = *bytes.first_chunk()?;
        Some(if self.little {
            u32::from_le_bytes(bytes)
        } else {
            u32::from_be_bytes(bytes)
        })
    }
}

#[cfg(test)]
mod tests {
    use image::DynamicImage;
    use image::metadata::Orientation as Reference;

    use super::*;

    /// A block that holds only an orientation.
    fn block(little: bool, number: u16) -> Vec<u8> {
        let (short, long) = match little {
            true => (
                u16::to_le_bytes as fn(u16) -> [u8; 2],
                u32::to_le_bytes as fn(u32) -> [u8; 4],
            ),
            false => (
                u16::to_be_bytes as fn(u16) -> [u8; 2],
                u32::to_be_bytes as fn(u32) -> [u8; 4],
            ),
        };
        let start = if little { b"II*\0" } else { b"MM\0*" };
        let mut bytes = [
            start.as_slice(),
            &long(8),
            &short(1),
            &short(ORIENTATION),
            &short(SHORT),
            &long(1),
        ]
        .concat();
        bytes.extend([short(number), [0; 2]].concat());
        bytes
    }

    #[test]
    fn every_orientation_is_found_and_applied_as_the_image_crate_does() {
        let image = RgbImage::from_fn(5, 3, |x, y| [x as u8, y as u8, 7]);
        for number in 0..=9 {
            for little in [true, false] {
                let block = block(little, number);
                let expected = Reference::from_exif_chunk(&block).unwrap_or(Reference::NoTransforms);
                let raw = image::RgbImage::from_raw(5, 3, image.as_raw().to_vec()).unwrap();
                let mut reference = DynamicImage::ImageRgb8(raw);
                reference.apply_orientation(expected);
                let turned = Orientation::of_exif(&block).apply(image.clone());
                assert_eq!(
                    (turned.dimensions(), turned.as_raw()),
                    ((reference.width(), reference.height()), reference.as_bytes()),
                    "{number}"
                );
            }
        }
    }

    #[test]
    fn a_block_that_is_cut_off_or_points_outside_says_nothing() {
        let whole = block(true, 6);
        for length in 0..whole.len() - 3 {
            assert_eq!(
                Orientation::of_exif(&whole[..length]),
                Orientation::UPRIGHT,
                "{length}"
            );
        }
        assert_eq!(Orientation::of_exif(&whole), Orientation(6));
        let mut outside = whole;
        outside[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Orientation::of_exif(&outside), Orientation::UPRIGHT);
    }
}
