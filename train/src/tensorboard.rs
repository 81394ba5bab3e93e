use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crc::{CRC_32_ISCSI, Crc};

use crate::Error;

static CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// A file of TensorBoard events with scalars: `Event` messages (tensorflow `core/util/event.proto`) in the framing of
/// TFRecord.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: BufWriter<File>,
}

impl EventWriter {
    /// Begins a new file of events in `dir`, which is made where it is missing. A continued training begins another
    /// one; TensorBoard shows the files of a folder as one run.
    ///
    /// # Errors
    /// A folder or file that cannot be written.
    pub fn create(dir: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
        let name = format!(
            "events.out.tfevents.{:017.6}.lwv-train.{}",
            now(),
            std::process::id()
        );
        let path = dir.join(name);
        let file = BufWriter::new(File::create_new(&path).map_err(Error::io(&path))?);
        let mut writer = Self { path, file };
        writer.record(&version_event(now()))?;
        writer.flush()?;
        Ok(writer)
    }

    /// Records that the scalar `tag` was `value` at optimizer step `step`.
    ///
    /// # Errors
    /// A disk that is full.
    pub fn scalar(&mut self, tag: &str, step: usize, value: f32) -> Result<(), Error> {
        self.record(&scalar_event(now(), tag, step, value))
    }

    /// Hands everything to the system.
    ///
    /// # Errors
    /// A disk that is full.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.file.flush().map_err(Error::io(&self.path))
    }

    fn record(&mut self, event: &[u8]) -> Result<(), Error> {
        self.file.write_all(&framed(event)).map_err(Error::io(&self.path))
    }
}

/// Length, its checksum, data, its checksum (tensorflow `core/lib/io/record_writer.h`).
fn framed(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [
        &length[..],
        &masked_crc(&length).to_le_bytes(),
        data,
        &masked_crc(data).to_le_bytes(),
    ]
    .concat()
}

/// CRC-32C, rotated and shifted so that a checksum of data with checksums is sound (tensorflow `core/lib/hash/crc32c.h`).
fn masked_crc(bytes: &[u8]) -> u32 {
    CRC.checksum(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// `Event { wall_time = 1, file_version = 3 }`.
fn version_event(wall_time: f64) -> Vec<u8> {
    let mut event = Message::default();
    event.double(1, wall_time);
    event.bytes(3, b"brain.Event:2");
    event.0
}

/// `Event { wall_time = 1, step = 2, summary = 5 }`, `Summary { value = 1 }`, `Value { tag = 1, simple_value = 2 }`.
fn scalar_event(wall_time: f64, tag: &str, step: usize, value: f32) -> Vec<u8> {
    let mut scalar = Message::default();
    scalar.bytes(1, tag.as_bytes());
    scalar.float(2, value);
    let mut summary = Message::default();
    summary.bytes(1, &scalar.0);
    let mut event = Message::default();
    event.double(1, wall_time);
    event.integer(2, step as u64);
    event.bytes(5, &summary.0);
    event.0
}

/// A protobuf message, field by field.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn integer(&mut self, field: u8, value: u64) {
        self.key(field, 0);
        self.variable_length(value);
    }

    fn double(&mut self, field: u8, value: f64) {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u8, value: &[u8]) {
        self.key(field, 2);
        self.variable_length(value.len() as u64);
        self.0.extend(value);
    }

    fn float(&mut self, field: u8, value: f32) {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
    }

    fn key(&mut self, field: u8, wire_type: u8) {
        self.0.push(field << 3 | wire_type);
    }

    fn variable_length(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |time| time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The events of a file, their framing checked.
    fn read(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut events = Vec::new();
        while !bytes.is_empty() {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let event = &bytes[12..12 + length];
            let checksums = [&bytes[8..12], &bytes[12 + length..16 + length]];
            assert_eq!(checksums[0], masked_crc(&bytes[..8]).to_le_bytes());
            assert_eq!(checksums[1], masked_crc(event).to_le_bytes());
            events.push(event.to_vec());
            bytes = &bytes[16 + length..];
        }
        events
    }

    #[test]
    fn the_checksum_is_castagnoli() {
        assert_eq!(CRC.checksum(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_file_has_a_version_and_the_scalars() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(&dir.path().join("runs")).unwrap();
        writer.scalar("train/loss", 300, 1.5).unwrap();
        writer.flush().unwrap();
        let events = read(&std::fs::read(&writer.path).unwrap());
        assert_eq!(events.len(), 2);
        assert_eq!(events[0][9..], *b"\x1a\x0dbrain.Event:2");
        let expected = b"\x10\xac\x02\x2a\x13\x0a\x11\x0a\x0atrain/loss\x15\x00\x00\xc0\x3f";
        assert_eq!(events[1][9..], *expected);
    }
}
