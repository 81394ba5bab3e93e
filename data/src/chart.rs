use std::path::Path;

use image::{ImageFormat, Rgb, RgbImage};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::canvas::Canvas;
use crate::{Error, Result};

/// What can be drawn into a picture, whether of lines or of pixels.
pub trait Chart {
    /// Width and height in pixels.
    fn size(&self) -> (u32, u32);

    /// Draws onto a white area of [`size`](Self::size).
    ///
    /// # Errors
    /// What the picture says.
    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>>;
}

/// Draws a chart into an SVG or PNG file, whichever its ending says. PNG files have letters of one size, 16 pixels, from
/// a built-in font.
///
/// # Errors
/// Another ending, a file that cannot be written, or a chart that cannot be drawn.
pub fn save_chart(chart: &impl Chart, path: &Path) -> Result<()> {
    let size = chart.size();
    let failed = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("svg") => {
            let mut text = String::new();
            draw(
                chart,
                &SVGBackend::with_string(&mut text, size).into_drawing_area(),
            )?;
            std::fs::write(path, text).map_err(failed)
        }
        Some("png") => {
            let mut image = RgbImage::from_pixel(size.0, size.1, Rgb([255; 3]));
            draw(chart, &Canvas(&mut image).into_drawing_area())?;
            image
                .save_with_format(path, ImageFormat::Png)
                .map_err(|error| failed(std::io::Error::other(error)))
        }
        _ => Err(Error::ChartEnding {
            path: path.to_owned(),
        }),
    }
}

fn draw<B: DrawingBackend>(chart: &impl Chart, area: &DrawingArea<B, Shift>) -> Result<()> {
    // The backends' own errors do not outlive their picture.
    let failed = |error: DrawingAreaErrorKind<B::ErrorType>| Error::Chart(error.to_string());
    area.fill(&WHITE).map_err(failed)?;
    chart.draw(area).map_err(failed)?;
    area.present().map_err(failed)
}
