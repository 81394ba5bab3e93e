//! Files of tensors beside a model.

use std::{fs::File, path::Path};

use crate::{
    Error, ExternalLocation,
    partial::Partial,
    pipeline::{BUFFER, Pipeline, Stopped},
};

/// Every tensor starts at a multiple of this: the page of most systems, so that it can be mapped.
const PAGE: u64 = 4096;
/// Tensors of [`LARGE`] bytes and more start at a multiple of this: the granularity at which Windows maps.
const GRANULE: u64 = 64 << 10;
const LARGE: u64 = 1 << 20;

/// Where a tensor of `length` bytes starts in a file of which `position` bytes are used: the next multiple
/// of 4096 bytes, or of 64 KiB when the tensor takes 1 MiB or more.
///
/// [`ExternalWriter`] places tensors by this rule, so that a model can be laid out before its data exists.
/// `None` when the offset does not fit in 64 bits.
#[must_use]
pub const fn aligned_offset(position: u64, length: u64) -> Option<u64> {
    let alignment = if length >= LARGE { GRANULE } else { PAGE };
    position.checked_next_multiple_of(alignment)
}

/// A finished file of tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalFile {
    /// The file's name, without its folder.
    pub file_name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// The SHA-256 of its contents: 64 lower-case hexadecimal digits.
    pub sha256: String,
}

/// Writes one file of tensors, one tensor after the other.
///
/// Writing and hashing run on two threads of their own, through at most 32 MiB of buffers. Until
/// [`ExternalWriter::finish`] the file has `.partial` added to its name; dropping the writer removes it.
pub struct ExternalWriter {
    // None once writing has failed.
    pipeline: Option<Pipeline<File>>,
    partial: Partial,
    file_name: String,
    buffer: Vec<u8>,
    position: u64,
    length: u64,
    missing: u64,
}

impl ExternalWriter {
    /// Starts the file that will be `path`. One that is there already stays until
    /// [`ExternalWriter::finish`] replaces it.
    ///
    /// # Errors
    ///
    /// [`Error::FileName`] when `path` has no Unicode file name, [`Error::Io`] when the file cannot be
    /// created or a thread cannot be started.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let file_name = path
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or_else(|| Error::FileName {
                path: path.to_owned(),
            })?
            .to_owned();
        let (partial, file) = Partial::create(path)?;
        let pipeline = Pipeline::start(file).map_err(Error::io("start a thread to write", path))?;
        Ok(Self {
            pipeline: Some(pipeline),
            partial,
            file_name,
            buffer: Vec::new(),
            position: 0,
            length: 0,
            missing: 0,
        })
    }

    /// The name of the file, without its folder, as [`ExternalLocation::file`] wants it.
    #[must_use]
    pub fn file_name(&self) -> &str {
        &self.file_name
    }

    /// The bytes that the file has so far, padding included.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Pads to where a tensor of `length` bytes may start, and returns that [offset](aligned_offset).
    ///
    /// # Errors
    ///
    /// [`Error::TensorIncomplete`] when bytes of the tensor before are still missing,
    /// [`Error::FileTooLarge`] when the file would pass 64 bits, and those of [`ExternalWriter::write`].
    pub fn begin_tensor(&mut self, length: u64) -> Result<u64, Error> {
        self.check_complete()?;
        let offset = aligned_offset(self.position, length)
            .filter(|offset| offset.checked_add(length).is_some())
            .ok_or_else(|| Error::FileTooLarge {
                path: self.partial.path().to_owned(),
                length,
            })?;
        while self.position < offset {
            let room = self.room()?.min(saturating_usize(offset - self.position));
            self.extend(room, |_| {});
        }
        self.length = length;
        self.missing = length;
        Ok(offset)
    }

    /// Adds bytes to the tensor begun last.
    ///
    /// # Errors
    ///
    /// [`Error::TensorOverrun`] when they are more than the tensor still lacks; none of them is written then.
    /// [`Error::Io`] when the disk refused this or an earlier write, after which every call fails with
    /// [`Error::WriterFailed`].
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        let excess = (bytes.len() as u64).saturating_sub(self.missing);
        if excess > 0 {
            let path = self.partial.path().to_owned();
            return Err(Error::TensorOverrun {
                path,
                length: self.length,
                excess,
            });
        }
        while !bytes.is_empty() {
            let room = self.room()?.min(bytes.len());
            let (now, later) = bytes.split_at(room);
            self.extend(room, |chunk| chunk.copy_from_slice(now));
            self.missing -= room as u64;
            bytes = later;
        }
        Ok(())
    }

    /// Writes one whole tensor by calling `fill` for its bytes, chunk after chunk, without a copy between.
    ///
    /// The chunks arrive zeroed. Each but the last starts at a multiple of 4096 bytes into the tensor and is
    /// one long; the longest has 4 MiB. A tensor of no bytes has no chunks.
    ///
    /// # Errors
    ///
    /// Those of [`ExternalWriter::begin_tensor`] and [`ExternalWriter::write`], and those of `fill`, after
    /// which every call fails with [`Error::WriterFailed`].
    pub fn append<E: From<Error>>(
        &mut self,
        length: u64,
        mut fill: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<ExternalLocation, E> {
        let offset = self.begin_tensor(length)?;
        while self.missing > 0 {
            let room = self.room()?.min(saturating_usize(self.missing));
            if let Err(error) = self.extend(room, &mut fill) {
                self.abandon();
                return Err(error);
            }
            self.missing -= room as u64;
        }
        Ok(ExternalLocation {
            file: self.file_name.clone(),
            offset,
            length,
        })
    }

    /// Waits until the file is on disk, and gives it its name.
    ///
    /// # Errors
    ///
    /// [`Error::TensorIncomplete`] when bytes of the last tensor are missing, [`Error::Io`] when the file
    /// cannot be written, flushed or renamed. The partial file is removed in every case.
    pub fn finish(mut self) -> Result<ExternalFile, Error> {
        self.check_complete()?;
        if !self.buffer.is_empty() {
            self.send()?;
        }
        let path = self.partial.path().to_owned();
        let pipeline = self
            .pipeline
            .take()
            .ok_or_else(|| Error::WriterFailed { path: path.clone() })?;
        let (file, digest) = pipeline.finish().map_err(Error::io("write", path))?;
        self.partial.commit(file)?;
        let file_name = std::mem::take(&mut self.file_name);
        Ok(ExternalFile {
            file_name,
            bytes: digest.bytes,
            sha256: digest.sha256,
        })
    }

    fn check_complete(&self) -> Result<(), Error> {
        let path = self.partial.path().to_owned();
        if self.pipeline.is_none() {
            return Err(Error::WriterFailed { path });
        }
        if self.missing == 0 {
            return Ok(());
        }
        Err(Error::TensorIncomplete {
            path,
            length: self.length,
            missing: self.missing,
        })
    }

    /// How many bytes the buffer in hand can take, never 0.
    ///
    /// Buffers are handed on when full only. So each starts at a multiple of its length in the file, which is
    /// what keeps the chunks of [`ExternalWriter::append`] aligned.
    fn room(&mut self) -> Result<usize, Error> {
        if self.buffer.len() == BUFFER {
            self.send()?;
        }
        if self.buffer.capacity() < BUFFER {
            self.buffer = self.with_pipeline(|pipeline, _| pipeline.buffer())?;
        }
        Ok(BUFFER - self.buffer.len())
    }

    /// Lets `fill` write the next `room` bytes of the buffer, which has that room.
    fn extend<T>(&mut self, room: usize, fill: impl FnOnce(&mut [u8]) -> T) -> T {
        let start = self.buffer.len();
        self.buffer.resize(start + room, 0);
        self.position += room as u64;
        fill(&mut self.buffer[start..])
    }

    fn send(&mut self) -> Result<(), Error> {
        self.with_pipeline(|pipeline, buffer| pipeline.send(std::mem::take(buffer)))
    }

    /// Ends the threads, which closes the file, so that it can be removed.
    fn abandon(&mut self) {
        self.buffer = Vec::new();
        if let Some(pipeline) = self.pipeline.take() {
            // The file is not wanted any more, and neither is what became of it.
            let _ = pipeline.finish();
        }
    }

    /// Turns a stopped pipeline into the error that stopped it.
    fn with_pipeline<T>(
        &mut self,
        act: impl FnOnce(&mut Pipeline<File>, &mut Vec<u8>) -> Result<T, Stopped>,
    ) -> Result<T, Error> {
        let failed = || Error::WriterFailed {
            path: self.partial.path().to_owned(),
        };
        let mut pipeline = self.pipeline.take().ok_or_else(failed)?;
        match act(&mut pipeline, &mut self.buffer) {
            Ok(value) => {
                self.pipeline = Some(pipeline);
                Ok(value)
            }
            Err(Stopped) => match pipeline.finish() {
                Ok(_) => Err(failed()),
                Err(source) => Err(Error::io("write", self.partial.path())(source)),
            },
        }
    }
}

impl Drop for ExternalWriter {
    fn drop(&mut self) {
        self.abandon();
    }
}

fn saturating_usize(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
