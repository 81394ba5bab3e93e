use std::fs;

use super::*;
use crate::{file_digest, partial::names_in};

const MIB: u64 = 1 << 20;

#[test]
fn tensors_land_where_the_writer_says_and_gaps_are_zero() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.data");
    let mut writer = ExternalWriter::create(&path).unwrap();
    assert_eq!(writer.begin_tensor(3).unwrap(), 0);
    writer.write(&[1, 2]).unwrap();
    writer.write(&[3]).unwrap();
    let small = writer.append::<Error>(5, |chunk| {
        assert_eq!(chunk, [0; 5]);
        chunk.fill(7);
        Ok(())
    });
    let small = small.unwrap();
    assert_eq!(
        small,
        ExternalLocation {
            file: "weights.data".to_owned(),
            offset: 4096,
            length: 5
        }
    );
    assert_eq!(writer.begin_tensor(0).unwrap(), 8192);
    assert_eq!(writer.begin_tensor(MIB).unwrap(), 64 << 10);
    writer.write(&vec![9; MIB as usize]).unwrap();
    assert_eq!(writer.position(), (64 << 10) + MIB);
    let file = writer.finish().unwrap();

    let contents = fs::read(&path).unwrap();
    let mut expected = vec![0; 64 << 10];
    expected[..3].copy_from_slice(&[1, 2, 3]);
    expected[4096..4101].fill(7);
    expected.resize((64 << 10) + MIB as usize, 9);
    assert!(contents == expected);
    assert_eq!(file.file_name, "weights.data");
    let digest = file_digest(&path).unwrap();
    assert_eq!((file.bytes, file.sha256), (digest.bytes, digest.sha256));
    assert_eq!(names_in(folder.path()), ["weights.data"]);
}

#[test]
fn chunks_of_a_long_tensor_are_aligned_zeroed_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.data");
    let mut writer = ExternalWriter::create(&path).unwrap();
    writer.begin_tensor(10).unwrap();
    writer.write(&[255; 10]).unwrap();
    // More than all buffers hold, so that each is used again.
    let length = 41 * MIB + 3;
    let mut lengths = Vec::new();
    let location = writer.append::<Error>(length, |chunk| {
        assert!(chunk.iter().all(|&byte| byte == 0));
        lengths.push(chunk.len());
        chunk.fill(lengths.len() as u8);
        Ok(())
    });
    assert_eq!(location.unwrap().offset, 64 << 10);
    let (last, full) = lengths.split_last().unwrap();
    assert!(full.iter().all(|length| length % 4096 == 0 && *length <= BUFFER));
    assert_eq!(full.iter().sum::<usize>() + last, length as usize);

    let file = writer.finish().unwrap();
    let contents = fs::read(&path).unwrap();
    let chunks: Vec<u8> = (1_u8..)
        .zip(&lengths)
        .flat_map(|(fill, &length)| vec![fill; length])
        .collect();
    assert!(contents[64 << 10..] == chunks);
    assert_eq!(file.sha256, file_digest(&path).unwrap().sha256);
}

#[test]
fn layout_is_known_without_data() {
    assert_eq!(aligned_offset(0, 5), Some(0));
    assert_eq!(aligned_offset(4096, MIB - 1), Some(4096));
    assert_eq!(aligned_offset(4097, MIB - 1), Some(8192));
    assert_eq!(aligned_offset(4097, MIB), Some(64 << 10));
    assert_eq!(aligned_offset(u64::MAX, 1), None);
}

#[test]
fn tensor_takes_exactly_its_length() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.data");
    let mut writer = ExternalWriter::create(&path).unwrap();
    writer.begin_tensor(4).unwrap();
    writer.write(&[1, 2]).unwrap();
    let overrun = writer.write(&[3, 4, 5]).unwrap_err();
    assert!(
        matches!(
            overrun,
            Error::TensorOverrun {
                length: 4,
                excess: 1,
                ..
            }
        ),
        "{overrun}"
    );
    let early = writer.begin_tensor(4).unwrap_err();
    assert!(
        matches!(
            early,
            Error::TensorIncomplete {
                length: 4,
                missing: 2,
                ..
            }
        ),
        "{early}"
    );
    let early = writer.finish().unwrap_err();
    assert!(matches!(early, Error::TensorIncomplete { .. }), "{early}");
    assert!(names_in(folder.path()).is_empty());
}

#[test]
fn failed_fill_ends_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = ExternalWriter::create(folder.path().join("weights.data")).unwrap();
    let refused = writer.append(4, |_| Err(Error::MissingGraph)).unwrap_err();
    assert!(matches!(refused, Error::MissingGraph));
    assert!(matches!(writer.write(&[1]), Err(Error::WriterFailed { .. })));
    assert!(matches!(writer.begin_tensor(1), Err(Error::WriterFailed { .. })));
    assert!(matches!(writer.finish(), Err(Error::WriterFailed { .. })));
    assert!(names_in(folder.path()).is_empty());
}

#[test]
fn dropped_writer_leaves_the_file_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.data");
    fs::write(&path, b"before").unwrap();
    let mut writer = ExternalWriter::create(&path).unwrap();
    writer.append::<Error>(9 * MIB, |_| Ok(())).unwrap();
    drop(writer);
    assert_eq!(names_in(folder.path()), ["weights.data"]);
    assert_eq!(fs::read(&path).unwrap(), b"before");
}

#[test]
fn impossible_length_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = ExternalWriter::create(folder.path().join("weights.data")).unwrap();
    writer.append::<Error>(1, |_| Ok(())).unwrap();
    assert!(matches!(
        writer.begin_tensor(u64::MAX),
        Err(Error::FileTooLarge { .. })
    ));
}

#[test]
fn refusal_by_the_disk_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.data");
    // A writer whose handle may not write stands for a disk that takes nothing.
    let mut writer = ExternalWriter::create(&path).unwrap();
    let read_only = File::open(folder.path().join("weights.data.partial")).unwrap();
    writer.pipeline = Some(Pipeline::start(read_only).unwrap());
    let error = writer.append::<Error>(100 * MIB, |_| Ok(())).unwrap_err();
    assert!(
        matches!(&error, Error::Io { action: "write", path: named, .. } if *named == path),
        "{error}"
    );
    assert!(matches!(writer.begin_tensor(1), Err(Error::WriterFailed { .. })));
    drop(writer);
    assert!(names_in(folder.path()).is_empty());
}

#[test]
fn refusal_of_the_last_buffer_comes_back_from_finish() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = ExternalWriter::create(folder.path().join("weights.data")).unwrap();
    let read_only = File::open(folder.path().join("weights.data.partial")).unwrap();
    writer.pipeline = Some(Pipeline::start(read_only).unwrap());
    writer.append::<Error>(1, |_| Ok(())).unwrap();
    assert!(matches!(writer.finish(), Err(Error::Io { action: "write", .. })));
    assert!(names_in(folder.path()).is_empty());
}
