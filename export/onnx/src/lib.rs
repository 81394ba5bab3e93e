//! The ONNX file format: graphs, external data, atomic files.
