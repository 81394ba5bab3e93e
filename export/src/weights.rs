use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use half::f16;
use half::slice::HalfFloatSliceExt;
use lwv_model::{Adapter, Checkpoint, LowRank, StoredType, TensorInfo};
use lwv_onnx::{DataType, ExternalFile, ExternalLocation, ExternalWriter};

use crate::Error;
use crate::activations::ActivationScales;
use crate::calibrated::Calibrated;
use crate::formats::{Formats, WeightFormat};

mod blocks;

pub(crate) use blocks::PlacedBlocks;

/// Where the bytes of a weight went.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Placed {
    /// Into the graph itself.
    Inline(Vec<u8>),
    /// Into a data file beside the graph.
    External(ExternalLocation),
}

/// Moves weights from a checkpoint into a bundle, in bounded memory: each is read, converted and written piece by
/// piece at the moment a graph first asks for it, and once only.
pub(crate) struct WeightStore<'a> {
    checkpoint: &'a Checkpoint,
    adapter: Option<&'a Adapter>,
    formats: Formats<'a>,
    calibrated: Option<&'a Calibrated>,
    folder: PathBuf,
    writer: Option<ExternalWriter>,
    placed: HashMap<(String, DataType), ExternalLocation>,
    placed_blocks: HashMap<String, PlacedBlocks>,
    files: BTreeMap<String, ExternalFile>,
    progress: &'a dyn Fn(u64),
}

impl<'a> WeightStore<'a> {
    /// A store that writes its data files into `folder` and tells `progress` how many bytes it has read. Matrices that
    /// `calibrated` has are taken from there.
    pub(crate) fn new(
        checkpoint: &'a Checkpoint,
        adapter: Option<&'a Adapter>,
        formats: Formats<'a>,
        calibrated: Option<&'a Calibrated>,
        folder: &Path,
        progress: &'a dyn Fn(u64),
    ) -> Self {
        let folder = folder.to_owned();
        Self {
            checkpoint,
            adapter,
            formats,
            calibrated,
            folder,
            writer: None,
            placed: HashMap::new(),
            placed_blocks: HashMap::new(),
            files: BTreeMap::new(),
            progress,
        }
    }

    /// In which format each weight goes into the graphs.
    pub(crate) fn formats(&self) -> &Formats<'a> {
        &self.formats
    }

    /// From here on new weights go into the data file `name`, or with `None` into the graph.
    ///
    /// # Errors
    /// The file before cannot be finished or the new one not be created.
    pub(crate) fn open_file(&mut self, name: Option<&str>) -> Result<(), Error> {
        self.close_file()?;
        self.writer = name
            .map(|name| ExternalWriter::create(self.folder.join(name)))
            .transpose()?;
        Ok(())
    }

    /// Finishes the open data file and returns all that were written.
    ///
    /// # Errors
    /// The open file cannot be finished.
    pub(crate) fn finish(mut self) -> Result<BTreeMap<String, ExternalFile>, Error> {
        self.close_file()?;
        Ok(self.files)
    }

    /// Places weights as `dtype`, f32 or f16, one after the other under `name`. Each has a canonical name and a shape.
    ///
    /// # Errors
    /// A weight is missing or has another shape, or a file cannot be read or written.
    pub(crate) fn place(
        &mut self,
        name: &str,
        weights: &[(&str, &[usize])],
        dtype: DataType,
    ) -> Result<Placed, Error> {
        let key = (name.to_owned(), dtype);
        if let Some(location) = self.placed.get(&key) {
            return Ok(Placed::External(location.clone()));
        }
        let elements = weights.iter().map(|(_, shape)| shape.iter().product::<usize>());
        let bytes = elements.sum::<usize>() * if dtype == DataType::Float16 { 2 } else { 4 };
        let placed = self.place_bytes(bytes, |store, take| {
            weights.iter().try_for_each(|(name, shape)| {
                store.convert(name, &store.checkpoint.find(name, shape)?, dtype, take)
            })
        })?;
        if let Placed::External(location) = &placed {
            self.placed.insert(key, location.clone());
        }
        Ok(placed)
    }

    /// Places floats that are no weight.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(crate) fn place_floats(&mut self, floats: &[f32]) -> Result<Placed, Error> {
        let bytes: Vec<u8> = floats.iter().flat_map(|float| float.to_le_bytes()).collect();
        self.place_bytes(bytes.len(), |_, take| take(&bytes))
    }

    /// Places `bytes` bytes that `fill` hands over piece by piece.
    fn place_bytes(
        &mut self,
        bytes: usize,
        fill: impl FnOnce(&Self, &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error>,
    ) -> Result<Placed, Error> {
        let Some(mut writer) = self.writer.take() else {
            let mut inline = Vec::with_capacity(bytes);
            fill(self, &mut |piece| {
                inline.extend_from_slice(piece);
                Ok(())
            })?;
            return Ok(Placed::Inline(inline));
        };
        let offset = writer.begin_tensor(bytes as u64)?;
        fill(self, &mut |piece| Ok(writer.write(piece)?))?;
        let location = ExternalLocation {
            file: writer.file_name().to_owned(),
            offset,
            length: bytes as u64,
        };
        self.writer = Some(writer);
        Ok(Placed::External(location))
    }

    fn convert(
        &self,
        name: &str,
        info: &TensorInfo,
        dtype: DataType,
        take: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        // Floats of a matrix that is also small integers are the embedding table, whose rows no layer multiplies.
        let is_table = matches!(self.formats.matrix(name), WeightFormat::Channels) && info.shape.len() > 1;
        let moved = self.moved().filter(|moved| moved.has(name) && !is_table);
        let same = matches!(
            (info.stored, dtype),
            (StoredType::F32, DataType::Float32) | (StoredType::F16, DataType::Float16)
        );
        if same && self.update(name, info)?.is_none() && moved.is_none() {
            return self.checkpoint.read_bytes(info, |bytes| {
                (self.progress)(bytes.len() as u64);
                take(bytes)
            });
        }
        let mut bytes = Vec::new();
        let mut halves = Vec::new();
        self.read(name, info, moved, |floats| {
            bytes.clear();
            match dtype {
                DataType::Float16 => narrow(floats, &mut halves, &mut bytes),
                _ => bytes.extend(floats.iter().flat_map(|float| float.to_le_bytes())),
            }
            take(&bytes)
        })
    }

    /// What one level stands for of what the matrix `name` reads, where that is rounded to 8 bits.
    pub(crate) fn activation_step(&self, name: &str) -> Option<f32> {
        self.moved()?.steps.get(name).copied()
    }

    /// What was moved between weights.
    fn moved(&self) -> Option<&'a ActivationScales> {
        self.calibrated?.activations.as_ref()
    }

    /// Reads a weight in pieces, as f32, the adapter merged in and what was `moved` between weights.
    fn read(
        &self,
        name: &str,
        info: &TensorInfo,
        moved: Option<&ActivationScales>,
        mut take: impl FnMut(&mut [f32]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let update = self.update(name, info)?;
        let mut done = 0;
        self.checkpoint.read_f32(info, |floats| {
            if let Some(update) = update {
                update.add_to(floats, done);
            }
            if let Some(moved) = moved {
                moved.apply(name, &info.shape, done, floats);
            }
            done += floats.len();
            (self.progress)((floats.len() * info.stored.size()) as u64);
            take(floats)
        })
    }

    fn update(&self, name: &str, info: &TensorInfo) -> Result<Option<&LowRank>, Error> {
        let update = self.adapter.map(|adapter| adapter.update(name, &info.shape));
        Ok(update.transpose()?.flatten())
    }

    fn close_file(&mut self) -> Result<(), Error> {
        if let Some(writer) = self.writer.take() {
            let file = writer.finish()?;
            self.files.insert(file.file_name.clone(), file);
        }
        Ok(())
    }
}

/// Rounds to the nearest half, ties to even; what is too large becomes infinite.
pub(crate) fn narrow(floats: &[f32], halves: &mut Vec<f16>, bytes: &mut Vec<u8>) {
    halves.resize(floats.len(), f16::ZERO);
    halves.convert_from_f32_slice(floats);
    bytes.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrowing_rounds_to_nearest_even() {
        let (mut halves, mut bytes) = (Vec::new(), Vec::new());
        narrow(&[1.0, 2049.0, 1e6], &mut halves, &mut bytes);
        assert_eq!(halves, [f16::from_f32(1.0), f16::from_f32(2048.0), f16::INFINITY]);
        assert_eq!(bytes[..2], [0x00, 0x3c]);
    }
}
