//! Candle side of the models: forward pass, checkpoints, adapters.
