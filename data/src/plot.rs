use std::path::Path;

use anyhow::Result;
use lwv_data::{Chart, save_chart};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::histogram::Histogram;

/// Pixels of a histogram.
const WIDTH: u32 = 900;
const HEIGHT: u32 = 420;

/// Draws histograms, one below the other, into an SVG or PNG file.
pub(crate) fn plot(path: &Path, histograms: &[&Histogram]) -> Result<()> {
    Ok(save_chart(&Histograms(histograms), path)?)
}

struct Histograms<'a>(&'a [&'a Histogram]);

impl Chart for Histograms<'_> {
    fn size(&self) -> (u32, u32) {
        (WIDTH, HEIGHT * self.0.len() as u32)
    }

    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let areas = area.split_evenly((self.0.len(), 1));
        areas
            .iter()
            .zip(self.0)
            .try_for_each(|(area, histogram)| draw_histogram(area, histogram))
    }
}

fn draw_histogram<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    histogram: &Histogram,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let width = histogram.bar_width;
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .x_label_area_size(52)
        .y_label_area_size(80)
        .build_cartesian_2d(0..histogram.bars.len() * width, 0..histogram.highest() + 1)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .max_light_lines(1)
        .label_style(("sans-serif", 16))
        .axis_desc_style(("sans-serif", 16))
        .x_desc(histogram.measure)
        .y_desc(histogram.unit)
        .draw()?;
    chart.draw_series(histogram.bars.iter().enumerate().map(|(index, count)| {
        let mut bar = Rectangle::new(
            [(index * width, 0), ((index + 1) * width, *count)],
            BLUE.mix(0.6).filled(),
        );
        bar.set_margin(0, 0, 1, 1);
        bar
    }))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histograms() -> [Histogram; 2] {
        let lengths: Vec<usize> = (0..500).map(|i| (i * i) % 4001).collect();
        [
            Histogram::new("words of an answer", "answers", lengths.clone()),
            Histogram::new("tokens of a sample", "samples", lengths),
        ]
    }

    #[test]
    fn both_kinds_have_labels() {
        let folder = tempfile::tempdir().unwrap();
        let [words, tokens] = histograms();
        let svg = folder.path().join("x.svg");
        plot(&svg, &[&words, &tokens]).unwrap();
        let text = std::fs::read_to_string(&svg).unwrap();
        for label in ["words of an answer", "answers", "tokens of a sample", "samples"] {
            assert!(text.contains(label), "{label}");
        }
        let png = folder.path().join("x.png");
        plot(&png, &[&words]).unwrap();
        let image = lwv_processor::open_image(&png).unwrap();
        assert_eq!(image.dimensions(), (WIDTH, HEIGHT));
        // Where the names of the axes stand, and nothing else does, the paper is not white.
        let is_inked = |(x, y): &(u32, u32)| image.pixels()[(y * WIDTH + x) as usize] != [255; 3];
        let below = (HEIGHT - 35..HEIGHT).flat_map(|y| (0..WIDTH).map(move |x| (x, y)));
        let beside = (0..HEIGHT).flat_map(|y| (0..40).map(move |x| (x, y)));
        assert!(below.filter(is_inked).count() > 200, "no label below");
        assert!(beside.filter(is_inked).count() > 100, "no label beside");
    }

    #[test]
    fn other_kinds_are_refused() {
        let [words, _] = histograms();
        let error = plot(Path::new("x.gif"), &[&words]).unwrap_err().to_string();
        assert_eq!(
            error,
            "`x.gif` ends neither in `.svg` nor in `.png`; name one of these"
        );
    }
}
