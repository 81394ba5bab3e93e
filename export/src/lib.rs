//! Checkpoint to ONNX bundle, with a parity report.
