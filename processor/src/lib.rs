//! Tokenizer, chat template, image patches, positions and masks as plain vectors.
