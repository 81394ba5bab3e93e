use std::ffi::c_char;
use std::path::PathBuf;

use lwv_processor::{MAX_PIXELS, RgbImage, open_image};

use crate::argument::{clear, close, list, offer, open, path, required};
use crate::border::call;
use crate::failure::{Failure, Result};
use crate::status::lwv_status;

/// A picture in memory.
pub struct lwv_image {
    image: RgbImage,
    /// Where it comes from; `None` is memory.
    file: Option<PathBuf>,
}

/// The pictures of a list of handles.
pub(crate) unsafe fn images_of(images: *const *const lwv_image, count: usize) -> Result<Vec<RgbImage>> {
    list(images, count, "images")?
        .iter()
        .enumerate()
        .map(|(index, image)| Ok(required(*image, &format!("images[{index}]"))?.image.clone()))
        .collect()
}

/// The files that the pictures of a list come from. A draft is gone on with by another process, which has to find them.
pub(crate) unsafe fn files_of(images: *const *const lwv_image, count: usize) -> Result<Vec<PathBuf>> {
    list(images, count, "images")?
        .iter()
        .enumerate()
        .map(|(index, image)| {
            let name = format!("images[{index}]");
            let file = required(*image, &name)?.file.clone();
            file.ok_or_else(|| {
                Failure::argument(
                    &name,
                    "was copied from memory, but a draft names its pictures by their files; save it and open it by \
                     `lwv_image_open`",
                )
            })
        })
        .collect()
}

/// Reads a JPEG, PNG or WebP file, turned as its metadata says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_image_open(file: *const c_char, image: *mut *mut lwv_image) -> lwv_status {
    call(|| {
        clear(image, "image")?;
        let file = path(file, "file")?;
        let read = open_image(file).map_err(|error| Failure::image(&error))?;
        let file = Some(std::path::absolute(file).unwrap_or_else(|_| file.to_owned()));
        open(lwv_image { image: read, file }, image);
        Ok(())
    })
}

/// Copies a picture from memory: `height` rows of `width` pixels, of which each is a byte of red, green and blue. Rows begin
/// `stride` bytes apart; 0 means that nothing is between them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_image_from_rgb(
    pixels: *const u8,
    width: u32,
    height: u32,
    stride: usize,
    image: *mut *mut lwv_image,
) -> lwv_status {
    call(|| {
        clear(image, "image")?;
        let row = checked_row(width, height)?;
        let stride = if stride == 0 { row } else { stride };
        if stride < row {
            return Err(Failure::argument(
                "stride",
                &format!("is {stride}, but a row has {row} bytes"),
            ));
        }
        if pixels.is_null() {
            return Err(Failure::argument("pixels", "is NULL"));
        }
        let mut copied = Vec::with_capacity(row * height as usize);
        for index in 0..height as usize {
            copied.extend_from_slice(std::slice::from_raw_parts(pixels.add(index * stride), row));
        }
        let made = RgbImage::from_raw(width, height, copied)
            .ok_or_else(|| Failure::argument("pixels", "are fewer than width times height"))?;
        let file = None;
        open(lwv_image { image: made, file }, image);
        Ok(())
    })
}

/// Bytes of a row, of an image that can be.
fn checked_row(width: u32, height: u32) -> Result<usize> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 || pixels > MAX_PIXELS {
        return Err(Failure::argument(
            "width",
            &format!(
                "and `height` are {width} and {height}; use at least 1, and at most {MAX_PIXELS} pixels"
            ),
        ));
    }
    Ok(width as usize * 3)
}

/// Width and height in pixels; each place may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_image_size(
    image: *const lwv_image,
    width: *mut u32,
    height: *mut u32,
) -> lwv_status {
    call(|| {
        let image = &required(image, "image")?.image;
        offer(image.width(), width, "width")?;
        offer(image.height(), height, "height")
    })
}

/// Frees a picture. NULL is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_image_close(image: *mut lwv_image) {
    call(|| close(image, "image"));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn from_rgb(pixels: *const u8, width: u32, height: u32, stride: usize) -> Result<RgbImage, lwv_status> {
        let mut image = std::ptr::null_mut();
        unsafe {
            match lwv_image_from_rgb(pixels, width, height, stride, &raw mut image) {
                lwv_status::Ok => {
                    let copied = (*image).image.clone();
                    lwv_image_close(image);
                    Ok(copied)
                }
                failed => {
                    assert!(image.is_null());
                    Err(failed)
                }
            }
        }
    }

    #[test]
    fn rows_may_be_apart() {
        let pixels: Vec<u8> = (0..16).collect();
        assert_eq!(
            from_rgb(pixels.as_ptr(), 2, 2, 8).unwrap().into_raw(),
            [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]
        );
        assert_eq!(
            from_rgb(pixels.as_ptr(), 2, 2, 0).unwrap().into_raw(),
            (0..12).collect::<Vec<u8>>()
        );
    }

    #[test]
    fn sizes_that_cannot_be_are_refused_before_memory_is_touched() {
        let pixel = [0_u8; 3];
        for (width, height, stride) in [(0, 1, 0), (1, 0, 0), (u32::MAX, u32::MAX, 0), (2, 1, 3)] {
            assert_eq!(
                from_rgb(pixel.as_ptr(), width, height, stride),
                Err(lwv_status::Argument),
                "{width} {height} {stride}"
            );
        }
        assert_eq!(from_rgb(std::ptr::null(), 1, 1, 0), Err(lwv_status::Argument));
    }

    /// A draft names pictures by files.
    #[test]
    fn a_picture_knows_its_file() {
        let (mut image, mut drawn) = (std::ptr::null_mut(), std::ptr::null_mut());
        let file = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/fixtures/processor/images/bits_40x40.png\0"
        );
        unsafe {
            assert_eq!(
                lwv_image_open(file.as_ptr().cast(), &raw mut image),
                lwv_status::Ok
            );
            let made = lwv_image_from_rgb([0_u8; 3].as_ptr(), 1, 1, 0, &raw mut drawn);
            assert_eq!(made, lwv_status::Ok);
            let images = [image.cast_const(), drawn.cast_const()];
            assert_eq!(
                files_of(images.as_ptr(), 1).unwrap(),
                [Path::new(file.trim_end_matches('\0'))]
            );
            let refused = files_of(images.as_ptr(), 2).unwrap_err();
            assert!(
                refused.text.contains("`images[1]` was copied from memory"),
                "{}",
                refused.text
            );
            lwv_image_close(image);
            lwv_image_close(drawn);
        }
    }
}
