//! GGUF to checkpoint.
