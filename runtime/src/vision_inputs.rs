use lwv_model::{Target, Vision, contract};
use lwv_processor::{Patches, VisionGeometry, VisionLayout};
use ort::session::SessionInputValue;
use ort::value::{Tensor, TensorRef};

use crate::bundle::Bundle;
use crate::error::{Error, Result};
use crate::graph::{Graph, RunControl};

/// What a bundle's vision encoder wants to know of an image beside its pixels.
#[derive(Debug, Clone, Copy)]
pub(crate) enum VisionInputs {
    /// The grid, from which the graph derives all else.
    Grid,
    /// Positions of patches, windows and frames.
    Geometry(VisionLayout),
    /// Nothing: it is a tile.
    Nothing,
}

impl VisionInputs {
    pub(crate) fn of(bundle: &Bundle) -> Self {
        match (bundle.manifest().target, &bundle.config().vision) {
            (_, Some(Vision::Tiles(_))) => Self::Nothing,
            (Target::TensorRt, Some(Vision::Windows(vision))) => Self::Geometry(vision.into()),
            _ => Self::Grid,
        }
    }

    /// Features of an image, one row a token.
    ///
    /// # Errors
    /// A grid that the tower cannot read, or what ONNX Runtime says.
    pub(crate) fn run(self, graph: &Graph, image: &Patches, control: &RunControl) -> Result<Vec<f32>> {
        let failed = |e: ort::Error| Error::inference(graph.name(), &e);
        let patches = image.grid.patches();
        let shape = [patches, image.values.len() / patches.max(1)];
        let pixels = TensorRef::from_array_view((shape, image.values.as_slice())).map_err(failed)?;
        let mut inputs = ort::inputs![contract::PIXEL_VALUES => pixels];
        inputs.extend(match self {
            Self::Grid => {
                let grid = Tensor::from_array(([1_usize, 3], image.grid.thw().to_vec())).map_err(failed)?;
                vec![(contract::IMAGE_GRID_THW.into(), grid.into())]
            }
            Self::Geometry(layout) => {
                let geometry = VisionGeometry::new(&[image.grid], &layout)?;
                geometry_inputs(geometry).map_err(failed)?
            }
            Self::Nothing => Vec::new(),
        });
        let mut session = graph.lock();
        let outputs = session.run_with_options(inputs, &control.large).map_err(failed)?;
        let (_, features) = outputs[contract::IMAGE_FEATURES]
            .try_extract_tensor::<f32>()
            .map_err(failed)?;
        Ok(features.to_vec())
    }
}

type Named = (std::borrow::Cow<'static, str>, SessionInputValue<'static>);

fn geometry_inputs(geometry: VisionGeometry) -> ort::Result<Vec<Named>> {
    let patches = geometry.patches;
    // Axis by axis instead of patch by patch.
    let axis = |axis: usize| geometry.rotary_positions.iter().skip(axis).step_by(2).copied();
    let positions: Vec<i64> = axis(0).chain(axis(1)).collect();
    let mut inputs: Vec<Named> = vec![(
        contract::PATCH_POSITIONS.into(),
        Tensor::from_array(([2, patches], positions))?.into(),
    )];
    let windows = [
        contract::WINDOW_ROWS,
        contract::WINDOW_LENGTHS,
        contract::WINDOW_PLACES,
    ];
    let frames = [
        contract::FRAME_ROWS,
        contract::FRAME_LENGTHS,
        contract::FRAME_PLACES,
    ];
    for ([rows, lengths, places], segments) in [(windows, geometry.windows), (frames, geometry.frames)] {
        let shape = [segments.count, segments.length];
        inputs.extend([
            (rows.into(), Tensor::from_array((shape, segments.gather))?.into()),
            (
                lengths.into(),
                Tensor::from_array(([segments.count], segments.lengths))?.into(),
            ),
            (
                places.into(),
                Tensor::from_array(([patches], segments.scatter))?.into(),
            ),
        ]);
    }
    Ok(inputs)
}
