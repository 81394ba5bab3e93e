use std::path::{Path, PathBuf};

use lwv_data::{Chart, save_chart};
use plotters::coord::Shift;
use plotters::prelude::*;
use serde::Deserialize;

use crate::{Error, Result};

/// Pixels of a picture of curves.
const SIZE: (u32, u32) = (900, 420);

/// Colours of a training's loss and of its held-out loss, from matplotlib's `tab10`; a fifth training has those of the
/// first again.
const COLORS: [[RGBColor; 2]; 4] = [
    [RGBColor(31, 119, 180), RGBColor(255, 127, 14)],
    [RGBColor(44, 160, 44), RGBColor(214, 39, 40)],
    [RGBColor(148, 103, 189), RGBColor(140, 86, 75)],
    [RGBColor(23, 190, 207), RGBColor(127, 127, 127)],
];

/// What a smoothed loss keeps of the one before it.
const SMOOTHING: f64 = 0.9;

/// Losses of a training over its steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// The metrics file.
    pub path: PathBuf,
    /// Steps and mean losses of their learned tokens, in nats.
    pub training: Vec<(usize, f64)>,
    /// Steps and mean losses of the held-out samples' learned tokens, in nats.
    pub held_out: Vec<(usize, f64)>,
}

/// A line of a metrics file, of which other numbers than these do not matter here.
#[derive(Deserialize)]
struct Line {
    step: usize,
    loss: Option<f64>,
    eval_loss: Option<f64>,
}

impl Curve {
    /// Reads a metrics file: of `lwv-train sft --metrics`, or any with one JSON object a line that has a `step`, and a
    /// `loss` or an `eval_loss`. Where several trainings were appended to one file, the last of them counts. A last line
    /// without an end is still being written and does not count.
    ///
    /// # Errors
    /// A file that cannot be read, has another line, or no loss.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let wrong = |message: String| Error::Json {
            path: path.to_owned(),
            message,
        };
        let mut curve = Self {
            path: path.to_owned(),
            training: Vec::new(),
            held_out: Vec::new(),
        };
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let mut before = 0;
        for (index, line) in whole.enumerate() {
            let line: Line =
                serde_json::from_str(line).map_err(|e| wrong(format!("line {}: {e}", index + 1)))?;
            if line.step < before {
                curve.training.clear();
                curve.held_out.clear();
            }
            before = line.step;
            curve.training.extend(line.loss.map(|loss| (line.step, loss)));
            curve
                .held_out
                .extend(line.eval_loss.map(|loss| (line.step, loss)));
        }
        if curve.training.is_empty() && curve.held_out.is_empty() {
            return Err(Error::NoLoss(path.to_owned()));
        }
        Ok(curve)
    }

    /// The training's loss as an exponential moving average, without the bias to its start (as TensorBoard smooths).
    pub fn smoothed(&self) -> Vec<(usize, f64)> {
        let (mut sum, mut weight) = (0.0, 0.0);
        let average = |&(step, loss): &(usize, f64)| {
            sum = SMOOTHING * sum + (1.0 - SMOOTHING) * loss;
            weight = SMOOTHING * weight + (1.0 - SMOOTHING);
            (step, sum / weight)
        };
        self.training.iter().map(average).collect()
    }

    fn points(&self) -> impl Iterator<Item = &(usize, f64)> {
        self.training.iter().chain(&self.held_out)
    }
}

/// Draws curves into one SVG or PNG file: the training's loss, thin, and over it smoothed; and the held-out loss, with
/// its points. The legend has the names of the metrics files.
///
/// # Errors
/// Another ending of the name, or a file that cannot be written.
pub fn plot_curves(curves: &[Curve], path: &Path) -> Result<()> {
    Ok(save_chart(&Curves(curves), path)?)
}

struct Curves<'a>(&'a [Curve]);

impl Curves<'_> {
    /// The curve's name in the legend: its file's, or its path where files of one name are drawn.
    fn name(&self, curve: &Curve) -> String {
        let same = |other: &&Curve| other.path.file_stem() == curve.path.file_stem();
        match curve.path.file_stem() {
            Some(name) if self.0.iter().filter(same).count() == 1 => name.to_string_lossy().into_owned(),
            _ => curve.path.display().to_string(),
        }
    }

    fn last_step(&self) -> usize {
        let steps = self.0.iter().flat_map(Curve::points).map(|(step, _)| *step);
        steps.max().unwrap_or(0).max(1)
    }

    /// From below the lowest loss to above the highest.
    fn losses(&self) -> std::ops::Range<f64> {
        let losses = self.0.iter().flat_map(Curve::points).map(|(_, loss)| *loss);
        let (low, high) = losses.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), loss| {
            (low.min(loss), high.max(loss))
        });
        let margin = ((high - low) * 0.05).max(1e-3);
        (low - margin)..(high + margin)
    }
}

impl Chart for Curves<'_> {
    fn size(&self) -> (u32, u32) {
        SIZE
    }

    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let mut chart = ChartBuilder::on(area)
            .margin(16)
            .x_label_area_size(52)
            .y_label_area_size(80)
            .build_cartesian_2d(0..self.last_step(), self.losses())?;
        chart
            .configure_mesh()
            .max_light_lines(1)
            .label_style(("sans-serif", 16))
            .axis_desc_style(("sans-serif", 16))
            .x_desc("step")
            .y_desc("loss (nats a token)")
            .draw()?;
        for (curve, [training, held_out]) in self.0.iter().zip(COLORS.iter().cycle()) {
            let name = self.name(curve);
            let thin = training.mix(0.35).stroke_width(1);
            chart.draw_series(LineSeries::new(curve.training.iter().copied(), thin))?;
            if !curve.training.is_empty() {
                let style = training.stroke_width(2);
                chart
                    .draw_series(LineSeries::new(curve.smoothed(), style))?
                    .label(format!("{name}: training"))
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
            }
            if !curve.held_out.is_empty() {
                let style = held_out.stroke_width(2);
                let points = LineSeries::new(curve.held_out.iter().copied(), style).point_size(3);
                chart
                    .draw_series(points)?
                    .label(format!("{name}: held-out"))
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
            }
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .label_font(("sans-serif", 16))
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Curve, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        std::fs::write(&path, text).unwrap();
        Curve::read(&path).map_err(|e| e.to_string())
    }

    #[test]
    fn losses_are_those_of_the_last_training() {
        let text = "{\"step\": 8, \"loss\": 9.0}\n{\"step\":0,\"eval_loss\":3.0,\"eval_tokens\":7}\n\
            {\"step\":1,\"loss\":2.5,\"grad_norm\":1.0}\n{\"step\":2,\"loss\":null}\n{\"step\":2,\"eval_loss\":2.0}\n\
            {\"step\":3,\"lo";
        let curve = read(text).unwrap();
        assert_eq!(curve.training, [(1, 2.5)]);
        assert_eq!(curve.held_out, [(0, 3.0), (2, 2.0)]);
        let wrong = read("{\"step\":1,\"loss\":1.0}\n{}\n").unwrap_err();
        assert!(wrong.contains("a.jsonl` is not valid JSON: line 2: "), "{wrong}");
        let none = read("{\"step\":1}\n").unwrap_err();
        assert!(none.contains("a.jsonl` has no `loss`"), "{none}");
    }

    #[test]
    fn smoothing_has_no_bias_to_the_start() {
        let curve = |losses: &[f64]| Curve {
            path: "a".into(),
            training: losses.iter().copied().enumerate().collect(),
            held_out: vec![],
        };
        assert!(
            curve(&[2.0; 5])
                .smoothed()
                .iter()
                .all(|(_, loss)| (loss - 2.0).abs() < 1e-12)
        );
        // 0.9 and 1 part of 1.9.
        let (step, loss) = curve(&[1.0, 3.0]).smoothed()[1];
        assert!(step == 1 && (loss - 3.9 / 1.9).abs() < 1e-12, "{loss}");
    }

    #[test]
    fn pictures_have_labels_and_a_legend() {
        let dir = tempfile::tempdir().unwrap();
        let curve = |path: &str| Curve {
            path: path.into(),
            training: (1..50).map(|step| (step, 3.0 / step as f64)).collect(),
            held_out: vec![(0, 3.0), (25, 1.0), (49, 0.5)],
        };
        let svg = dir.path().join("x.svg");
        let curves = [curve("r/a.jsonl"), curve("s/a.jsonl"), curve("b.jsonl")];
        plot_curves(&curves, &svg).unwrap();
        let text = std::fs::read_to_string(&svg).unwrap();
        for label in [
            "step",
            "loss (nats a token)",
            "r/a.jsonl: training",
            "s/a.jsonl: held-out",
            "b: training",
        ] {
            assert!(text.contains(label), "{label}");
        }
        let png = dir.path().join("x.png");
        plot_curves(&curves[..1], &png).unwrap();
        let image = lwv_processor::open_image(&png).unwrap();
        assert_eq!(image.dimensions(), SIZE);
        let orange = image
            .pixels()
            .iter()
            .filter(|pixel| **pixel == [255, 127, 14])
            .count();
        assert!(orange > 200, "{orange}");
        let one = Curve {
            training: vec![],
            held_out: vec![(0, 1.0)],
            ..curve("c")
        };
        plot_curves(&[one], &png).unwrap();
        assert!(plot_curves(&curves, Path::new("x.gif")).is_err());
    }
}
