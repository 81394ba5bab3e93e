use std::io::{ErrorKind, Read, Seek, SeekFrom};

use crate::orientation::Orientation;
use crate::{Error, Result};

const START: u8 = 0xD8;
const END: u8 = 0xD9;
const SCAN: u8 = 0xDA;
const APP1: u8 = 0xE1;
const EXIF: &[u8] = b"Exif\0\0";

/// Width, height and orientation of a JPEG image, without reading its pixels: what lies before the first scan is
/// walked through segment by segment (ITU-T T.81, annex B).
pub(crate) fn read(reader: &mut (impl Read + Seek), name: &str) -> Result<(u32, u32, Orientation)> {
    walk(reader).map_err(|failure| failure.named(name))
}

enum Failure {
    Io(std::io::Error),
    Structure(&'static str),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl Failure {
    fn named(self, name: &str) -> Error {
        let name = name.to_owned();
        match self {
            Self::Io(error) if error.kind() == ErrorKind::UnexpectedEof => Error::TruncatedImage { name },
            Self::Io(source) => Error::Read {
                path: name.into(),
                source,
            },
            Self::Structure(message) => Error::DamagedImage {
                name,
                message: message.to_owned(),
            },
        }
    }
}

fn walk(reader: &mut (impl Read + Seek)) -> Result<(u32, u32, Orientation), Failure> {
    let (mut size, mut orientation) = (None, None);
    loop {
        let marker = next_marker(reader)?;
        match marker {
            START | 0x01 | 0xD0..=0xD7 => continue,
            SCAN | END => break,
            _ => {}
        }
        let length = u64::from(be16(reader)?)
            .checked_sub(2)
            .ok_or(Failure::Structure("a segment has no length"))?;
        let next = reader.stream_position()? + length;
        match marker {
            APP1 if orientation.is_none() => orientation = exif_orientation(reader, length)?,
            _ if is_frame(marker) => size = Some(frame_size(reader)?),
            _ => {}
        }
        reader.seek(SeekFrom::Start(next))?;
    }
    let (width, height) = size.ok_or(Failure::Structure("no frame header before the first scan"))?;
    Ok((width, height, orientation.unwrap_or(Orientation::UPRIGHT)))
}

/// Skips to the next marker; any number of fill bytes may stand before its code.
fn next_marker(reader: &mut impl Read) -> Result<u8, Failure> {
    if byte(reader)? != 0xFF {
        return Err(Failure::Structure("a marker was expected"));
    }
    loop {
        match byte(reader)? {
            0xFF => {}
            code => return Ok(code),
        }
    }
}

/// SOF0 to SOF15, without the three codes in between that are tables.
fn is_frame(marker: u8) -> bool {
    matches!(marker, 0xC0..=0xCF) && !matches!(marker, 0xC4 | 0xC8 | 0xCC)
}

fn frame_size(reader: &mut impl Read) -> Result<(u32, u32), Failure> {
    let _bits = byte(reader)?;
    let height = be16(reader)?;
    Ok((u32::from(be16(reader)?), u32::from(height)))
}

fn exif_orientation(reader: &mut impl Read, length: u64) -> Result<Option<Orientation>, Failure> {
    let mut segment = Vec::new();
    reader.take(length).read_to_end(&mut segment)?;
    Ok(segment.strip_prefix(EXIF).map(Orientation::of_exif))
}

fn byte(reader: &mut impl Read) -> Result<u8, Failure> {
    let mut byte = [0];
    reader.read_exact(&mut byte)?;
    Ok(byte[0])
}

fn be16(reader: &mut impl Read) -> Result<u16, Failure> {
    let mut bytes = [0; 2];
    reader.read_exact(&mut bytes)?;
    Ok(u16::from_be_bytes(bytes))
}
