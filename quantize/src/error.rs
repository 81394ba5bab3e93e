/// Why weights cannot be quantized.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A block size that no kernel takes.
    #[error("blocks of {0} weights are not to be had; use 16, 32, 64, 128 or 256")]
    BlockSize(usize),
    /// A weight that is no number.
    #[error("weight {column} of row {row} is {value}; weights must be finite")]
    NotFinite {
        /// Row, from 0.
        row: usize,
        /// Column, from 0.
        column: usize,
        /// What it is.
        value: f32,
    },
    /// Weights that are no whole number of rows.
    #[error("{weights} weights are no whole number of rows of {columns}")]
    Rows {
        /// Weights.
        weights: usize,
        /// Inputs of the layer.
        columns: usize,
    },
    /// What a layer reads cannot be inverted, even damped: it overflowed.
    #[error("what the layer reads has no inverse; a calibration sample holds infinite or missing numbers")]
    Singular,
}
