//! The geometry of images, computed inside the graph from `image_grid_thw`.
//!
//! The runtimes that run a bundle of target `ort` hand over grids and nothing else, so the graph derives what
//! `lwv_processor::VisionGeometry` computes on the host: row and column of every patch, and the two ways of grouping
//! patches. Everything is elementwise integer arithmetic over ranges, without loops or data-dependent branches.

use lwv_model::{Segments, VisionConfig, contract};
use lwv_onnx::{Attribute, DataType};

use crate::emitter::Emitter;

/// What the vision tower reads beside the pixels; names of values in the graph, shaped as in
/// [`lwv_model::VisionInputs`].
pub(crate) struct VisionGeometry {
    pub(crate) positions: String,
    pub(crate) windows: Segments<String>,
    pub(crate) frames: Segments<String>,
}

/// Sizes of every image, each i64 `[images]`.
struct Images {
    /// Frames.
    frames: String,
    /// Patches in a frame.
    frame: String,
    /// Merged squares in a row and in a column.
    columns: String,
    rows: String,
    /// First patch.
    first: String,
    /// Patches up to the image's end.
    end: String,
    /// Windows in a row, and in a frame.
    window_columns: String,
    frame_windows: String,
}

/// Where every patch lies, each i64 `[patches]`.
struct Patches {
    image: String,
    /// Frame in its image, and place in its frame.
    frame: String,
    place: String,
    /// Row and column of its square, and place inside the square.
    row: String,
    column: String,
    inner: String,
}

impl VisionGeometry {
    /// The geometry that a graph is told.
    pub(crate) fn of_inputs() -> Self {
        Self {
            positions: contract::PATCH_POSITIONS.into(),
            windows: Segments {
                gather: contract::WINDOW_ROWS.into(),
                lengths: contract::WINDOW_LENGTHS.into(),
                scatter: contract::WINDOW_PLACES.into(),
            },
            frames: Segments {
                gather: contract::FRAME_ROWS.into(),
                lengths: contract::FRAME_LENGTHS.into(),
                scatter: contract::FRAME_PLACES.into(),
            },
        }
    }

    /// Appends the computation to `graph`.
    pub(crate) fn append(graph: &mut Emitter<'_, '_>, vision: &VisionConfig) -> Self {
        graph.enter("geometry");
        let mut g = Integers { graph };
        let window = vision.window_tokens() as i64;
        let merge = vision.spatial_merge_size as i64;
        let images = g.images(merge, window);
        let patches = g.patches(&images, merge);
        let positions = g.positions(&patches, merge);
        let frames = g.frame_segments(&images, &patches);
        let windows = g.window_segments(&images, &patches, merge * merge, window);
        Self {
            positions,
            windows,
            frames,
        }
    }
}

/// Integer arithmetic on a graph.
struct Integers<'g, 'a, 'w> {
    graph: &'g mut Emitter<'a, 'w>,
}

impl Integers<'_, '_, '_> {
    fn images(&mut self, merge: i64, window: i64) -> Images {
        let [frames, h, w] = [0, 1, 2].map(|column| {
            let column = self.scalar(column);
            self.graph.op(
                "Gather",
                &[contract::IMAGE_GRID_THW, &column],
                [Attribute::int("axis", 1)],
            )
        });
        let frame = self.mul(&h, &w);
        let count = self.mul(&frames, &frame);
        let end = self.cumulative(&count);
        let first = self.sub(&end, &count);
        let merge = self.scalar(merge);
        let (rows, columns) = (self.div(&h, &merge), self.div(&w, &merge));
        let window_rows = self.div_up(&rows, window);
        let window_columns = self.div_up(&columns, window);
        let frame_windows = self.mul(&window_rows, &window_columns);
        Images {
            frames,
            frame,
            columns,
            rows,
            first,
            end,
            window_columns,
            frame_windows,
        }
    }

    fn patches(&mut self, images: &Images, merge: i64) -> Patches {
        let bounds = [Attribute::int("start", 0), Attribute::int("end", 1)];
        let count = self.graph.op("Shape", &[contract::PIXEL_VALUES], bounds);
        let index = self.range(&count);
        let image = self.owner(&index, &images.end);
        let first = self.at(&images.first, &image);
        let local = self.sub(&index, &first);
        let size = self.at(&images.frame, &image);
        let (frame, place) = self.div_rem(&local, &size);
        let square_size = self.scalar(merge * merge);
        let (square, inner) = self.div_rem(&place, &square_size);
        let columns = self.at(&images.columns, &image);
        let (row, column) = self.div_rem(&square, &columns);
        Patches {
            image,
            frame,
            place,
            row,
            column,
            inner,
        }
    }

    fn positions(&mut self, patches: &Patches, merge: i64) -> String {
        let merge = self.scalar(merge);
        let (inner_row, inner_column) = self.div_rem(&patches.inner, &merge);
        let axis = self.graph.vector(&[0]);
        let [rows, columns] =
            [(&patches.row, inner_row), (&patches.column, inner_column)].map(|(square, inner)| {
                let scaled = self.mul(square, &merge);
                let position = self.add(&scaled, &inner);
                self.graph.op("Unsqueeze", &[&position, &axis], [])
            });
        self.graph
            .op("Concat", &[&rows, &columns], [Attribute::int("axis", 0)])
    }

    /// One segment a frame, padded to the longest.
    fn frame_segments(&mut self, images: &Images, patches: &Patches) -> Segments<String> {
        let frame_end = self.cumulative(&images.frames);
        let frame_first = self.sub(&frame_end, &images.frames);
        let longest = self
            .graph
            .op("ReduceMax", &[&images.frame], [Attribute::int("keepdims", 0)]);
        let first = self.at(&frame_first, &patches.image);
        let segment = self.add(&first, &patches.frame);
        let start = self.mul(&segment, &longest);
        let scatter = self.add(&start, &patches.place);

        let count = self
            .graph
            .op("ReduceSum", &[&images.frames], [Attribute::int("keepdims", 0)]);
        let segment = self.range(&count);
        let image = self.owner(&segment, &frame_end);
        let length = self.at(&images.frame, &image);
        let first_segment = self.at(&frame_first, &image);
        let frame = self.sub(&segment, &first_segment);
        let before = self.mul(&frame, &length);
        let first_patch = self.at(&images.first, &image);
        let start = self.add(&first_patch, &before);
        let place = self.range(&longest);
        let [start, limit] = [&start, &length].map(|column| self.as_column(column));
        let zero = self.scalar(0);
        let inside = self.graph.op("Less", &[&place, &limit], []);
        let place = self.graph.op("Where", &[&inside, &place, &zero], []);
        let gather = self.add(&start, &place);
        Segments {
            gather,
            lengths: self.graph.cast(&length, DataType::Int32),
            scatter,
        }
    }

    /// One segment a window, each padded to a whole window of `window²` squares of `unit` patches.
    fn window_segments(
        &mut self,
        images: &Images,
        patches: &Patches,
        unit: i64,
        window: i64,
    ) -> Segments<String> {
        let windows = self.mul(&images.frames, &images.frame_windows);
        let window_end = self.cumulative(&windows);
        let window_first = self.sub(&window_end, &windows);
        let slots = self.scalar(window * window * unit);
        let side = self.scalar(window);
        let unit = self.scalar(unit);
        let scatter = self.window_places(images, patches, &window_first, [&slots, &side, &unit]);

        let count = self
            .graph
            .op("ReduceSum", &[&windows], [Attribute::int("keepdims", 0)]);
        let segment = self.range(&count);
        let image = self.owner(&segment, &window_end);
        let first = self.at(&window_first, &image);
        let local = self.sub(&segment, &first);
        let frame_windows = self.at(&images.frame_windows, &image);
        let (frame, local) = self.div_rem(&local, &frame_windows);
        let window_columns = self.at(&images.window_columns, &image);
        let (window_row, window_column) = self.div_rem(&local, &window_columns);
        let (columns, rows) = (self.at(&images.columns, &image), self.at(&images.rows, &image));
        let (top, left) = (self.mul(&window_row, &side), self.mul(&window_column, &side));
        let (height, width) = (
            self.clipped(&rows, &top, &side),
            self.clipped(&columns, &left, &side),
        );
        let squares = self.mul(&height, &width);
        let frame_size = self.at(&images.frame, &image);
        let before = self.mul(&frame, &frame_size);
        let first_patch = self.at(&images.first, &image);
        let start = self.add(&first_patch, &before);
        let lengths = self.mul(&squares, &unit);

        let [top, left, width, squares, columns, start] =
            [&top, &left, &width, &squares, &columns, &start].map(|column| self.as_column(column));
        let place = self.range(&slots);
        let (square, inner) = self.div_rem(&place, &unit);
        let zero = self.scalar(0);
        let inside = self.graph.op("Less", &[&square, &squares], []);
        let square = self.graph.op("Where", &[&inside, &square, &zero], []);
        let (row, column) = self.div_rem(&square, &width);
        let (row, column) = (self.add(&top, &row), self.add(&left, &column));
        let row_start = self.mul(&row, &columns);
        let square = self.add(&row_start, &column);
        let patch = self.mul(&square, &unit);
        let patch = self.add(&patch, &inner);
        let gather = self.add(&start, &patch);
        Segments {
            gather,
            lengths: self.graph.cast(&lengths, DataType::Int32),
            scatter,
        }
    }

    /// For every patch its place in the padded layout of windows.
    fn window_places(
        &mut self,
        images: &Images,
        patches: &Patches,
        window_first: &str,
        [slots, side, unit]: [&str; 3],
    ) -> String {
        let (window_row, row) = self.div_rem(&patches.row, side);
        let (window_column, column) = self.div_rem(&patches.column, side);
        let first = self.at(window_first, &patches.image);
        let frame_windows = self.at(&images.frame_windows, &patches.image);
        let before = self.mul(&patches.frame, &frame_windows);
        let window_columns = self.at(&images.window_columns, &patches.image);
        let row_windows = self.mul(&window_row, &window_columns);
        let local = self.add(&row_windows, &window_column);
        let local = self.add(&before, &local);
        let segment = self.add(&first, &local);
        let columns = self.at(&images.columns, &patches.image);
        let left = self.mul(&window_column, side);
        let width = self.clipped(&columns, &left, side);
        let row_start = self.mul(&row, &width);
        let square = self.add(&row_start, &column);
        let place = self.mul(&square, unit);
        let place = self.add(&place, &patches.inner);
        let start = self.mul(&segment, slots);
        self.add(&start, &place)
    }

    /// What is left of `total` from `start` on, at most `side`.
    fn clipped(&mut self, total: &str, start: &str, side: &str) -> String {
        let rest = self.sub(total, start);
        self.graph.op("Min", &[&rest, side], [])
    }

    /// For each index the first group whose end lies beyond it.
    fn owner(&mut self, index: &str, ends: &str) -> String {
        let column = self.as_column(index);
        let passed = self.graph.op("GreaterOrEqual", &[&column, ends], []);
        let passed = self.graph.cast(&passed, DataType::Int64);
        let axis = self.graph.vector(&[1]);
        self.graph
            .op("ReduceSum", &[&passed, &axis], [Attribute::int("keepdims", 0)])
    }

    fn scalar(&mut self, value: i64) -> String {
        self.graph.scalar(value)
    }

    fn range(&mut self, count: &str) -> String {
        let count = self.graph.op("Squeeze", &[count], []);
        let (zero, one) = (self.scalar(0), self.scalar(1));
        self.graph.op("Range", &[&zero, &count, &one], [])
    }

    fn cumulative(&mut self, values: &str) -> String {
        let axis = self.scalar(0);
        self.graph.op("CumSum", &[values, &axis], [])
    }

    fn at(&mut self, values: &str, index: &str) -> String {
        self.graph.op("Gather", &[values, index], [])
    }

    fn as_column(&mut self, values: &str) -> String {
        let axis = self.graph.vector(&[1]);
        self.graph.op("Unsqueeze", &[values, &axis], [])
    }

    fn add(&mut self, a: &str, b: &str) -> String {
        self.graph.op("Add", &[a, b], [])
    }

    fn sub(&mut self, a: &str, b: &str) -> String {
        self.graph.op("Sub", &[a, b], [])
    }

    fn mul(&mut self, a: &str, b: &str) -> String {
        self.graph.op("Mul", &[a, b], [])
    }

    fn div(&mut self, a: &str, b: &str) -> String {
        self.graph.op("Div", &[a, b], [])
    }

    fn div_up(&mut self, a: &str, b: i64) -> String {
        let (rest, divisor) = (self.scalar(b - 1), self.scalar(b));
        let raised = self.add(a, &rest);
        self.div(&raised, &divisor)
    }

    fn div_rem(&mut self, a: &str, b: &str) -> (String, String) {
        (self.div(a, b), self.graph.op("Mod", &[a, b], []))
    }
}
