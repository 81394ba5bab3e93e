//! Writes long texts from a bundle, offline.
