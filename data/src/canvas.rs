use std::convert::Infallible;

use image::{Rgb, RgbImage};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};
use plotters_backend::text_anchor::{HPos, VPos};
use plotters_backend::{BackendColor, BackendCoord, BackendTextStyle, DrawingBackend, DrawingErrorKind};

const WEIGHT: FontWeight = FontWeight::Regular;
const SIZE: RasterHeight = RasterHeight::Size16;

type Drawn<T = ()> = Result<T, DrawingErrorKind<Infallible>>;

/// A picture that plots are drawn on, with a built-in font, so that no font of the system is needed. Text is of one size.
pub(crate) struct Canvas<'a>(pub(crate) &'a mut RgbImage);

impl DrawingBackend for Canvas<'_> {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        self.0.dimensions()
    }

    fn ensure_prepared(&mut self) -> Drawn {
        Ok(())
    }

    fn present(&mut self) -> Drawn {
        Ok(())
    }

    fn draw_pixel(&mut self, (x, y): BackendCoord, color: BackendColor) -> Drawn {
        let place = u32::try_from(x).ok().zip(u32::try_from(y).ok());
        let pixel = place.and_then(|(x, y)| self.0.get_pixel_mut_checked(x, y));
        if let Some(Rgb(pixel)) = pixel {
            let (r, g, b) = color.rgb;
            for (under, over) in pixel.iter_mut().zip([r, g, b]) {
                let mixed = f64::from(over) * color.alpha + f64::from(*under) * (1.0 - color.alpha);
                *under = mixed.round() as u8;
            }
        }
        Ok(())
    }

    fn draw_text<S: BackendTextStyle>(&mut self, text: &str, style: &S, at: BackendCoord) -> Drawn {
        let (width, height) = size_of_text(text);
        let left = match style.anchor().h_pos {
            HPos::Left => 0,
            HPos::Center => -width / 2,
            HPos::Right => -width,
        };
        let top = match style.anchor().v_pos {
            VPos::Top => 0,
            VPos::Center => -height / 2,
            VPos::Bottom => -height,
        };
        for (x, y, opacity) in ink(text) {
            let (x, y) = style.transform().transform(left + x, top + y);
            let color = style.color();
            let alpha = color.alpha * f64::from(opacity) / 255.0;
            self.draw_pixel((at.0 + x, at.1 + y), BackendColor { alpha, ..color })?;
        }
        Ok(())
    }

    fn estimate_text_size<S: BackendTextStyle>(&self, text: &str, _style: &S) -> Drawn<(u32, u32)> {
        let (width, height) = size_of_text(text);
        Ok((width.unsigned_abs(), height.unsigned_abs()))
    }
}

/// Width and height in pixels. Labels are short, so their widths fit.
fn size_of_text(text: &str) -> (i32, i32) {
    let width = text.chars().count() * get_raster_width(WEIGHT, SIZE);
    (width as i32, SIZE.val() as i32)
}

/// Pixels of a text that are not empty: place from the upper left corner, and opacity.
fn ink(text: &str) -> impl Iterator<Item = (i32, i32, u8)> {
    let width = get_raster_width(WEIGHT, SIZE);
    let letters = text.chars().enumerate();
    let letters = letters.filter_map(|(index, letter)| Some((index, get_raster(letter, WEIGHT, SIZE)?)));
    letters.flat_map(move |(index, letter)| {
        let lines = letter.raster().iter().enumerate();
        lines.flat_map(move |(y, line)| {
            let pixels = line.iter().enumerate().filter(|(_, opacity)| **opacity > 0);
            pixels.map(move |(x, opacity)| ((index * width + x) as i32, y as i32, *opacity))
        })
    })
}
