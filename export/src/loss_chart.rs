use std::path::Path;

use lwv_data::{Chart, save_chart};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::{Error, PartLoss};

/// Pixels of a chart.
const SIZE: (u32, u32) = (1100, 420);

/// Draws what each part of a decoder loses into an SVG or PNG file, in the order of the network: attention and feed-forward
/// layers in two colours, the head in a third.
///
/// # Errors
/// Another ending, or a file that cannot be written.
pub fn plot_losses(losses: &[PartLoss], path: &Path) -> Result<(), Error> {
    save_chart(&Losses(losses), path).map_err(|e| Error::Calibration(e.to_string()))
}

struct Losses<'a>(&'a [PartLoss]);

impl Chart for Losses<'_> {
    fn size(&self) -> (u32, u32) {
        SIZE
    }

    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let most = self
            .0
            .iter()
            .map(|part| part.mean_divergence)
            .fold(1e-9, f64::max);
        let mut chart = ChartBuilder::on(area)
            .margin(16)
            .x_label_area_size(52)
            .y_label_area_size(80)
            .build_cartesian_2d(0..self.0.len(), 0.0..most * 1.05)?;
        let words = ("sans-serif", 16);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .max_light_lines(1)
            .label_style(words)
            .axis_desc_style(words)
            .x_desc("part of the decoder: attention (blue), feed-forward (green), head (red)")
            .y_desc("mean divergence, nats")
            .draw()?;
        chart.draw_series(self.0.iter().enumerate().map(|(index, part)| {
            let colour = match part.part.rsplit('.').next() {
                Some("self_attn") => BLUE,
                Some("mlp") => GREEN,
                _ => RED,
            };
            Rectangle::new(
                [(index, 0.0), (index + 1, part.mean_divergence)],
                colour.mix(0.6).filled(),
            )
        }))?;
        Ok(())
    }
}
