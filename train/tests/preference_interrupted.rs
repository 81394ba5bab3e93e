//! The reference is asked about every pair once, however often that is broken off.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/pairs.rs"]
mod pairs;
#[path = "support/training.rs"]
mod training;

use std::process::{Command, Stdio};

use crc::{CRC_32_ISO_HDLC, Crc};
use pairs::{CHECK, HEAD, ends, many, reference, reference_file};
use training::{Training, assert_same, names};

/// Settings of a training of two steps, together on all pairs.
const SHORT: &str = "--max-steps 2 --gradient-accumulation-steps 200 --learning-rate 1e-3";

/// Starts a training with [`many`] pairs and kills it as soon as some are asked about.
fn killed_while_asking() -> (Training, Vec<u8>) {
    let training = Training::preferred("llama", SHORT).with_pairs(&many());
    let mut child = training
        .command("")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let folder = training.out("reference");
    let is_asking = || {
        folder.exists()
            && !names(&folder).is_empty()
            && std::fs::metadata(reference_file(&folder)).unwrap().len() > 2000
    };
    while !is_asking() {
        assert!(child.try_wait().unwrap().is_none(), "it was over before it asked");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!training.out("reference.json").exists(), "all were asked about");
    let bytes = reference(&training);
    assert!((2..many().len()).contains(&ends(&bytes).len()));
    (training, bytes)
}

#[test]
fn killed_while_asking_it_goes_on_asking() {
    let whole = Training::preferred("llama", SHORT).with_pairs(&many());
    whole.finish("");
    assert_eq!(ends(&reference(&whole)).len(), many().len());
    let (resumed, there) = killed_while_asking();
    resumed.finish("--resume");
    assert!(reference(&resumed).starts_with(&there));
    assert_same(&whole, &resumed);
}

/// A record that is there stays as it is, even if it says something else than the model would.
#[test]
fn what_was_asked_is_not_asked_again() {
    let (resumed, mut there) = killed_while_asking();
    let end = ends(&there)[0];
    there[HEAD..HEAD + 4].copy_from_slice(&(-77.0_f32).to_le_bytes());
    let sum = Crc::<u32>::new(&CRC_32_ISO_HDLC).checksum(&there[..end - CHECK]);
    there[end - CHECK..end].copy_from_slice(&sum.to_le_bytes());
    std::fs::write(reference_file(&resumed.out("reference")), &there).unwrap();
    resumed.finish("");
    let bytes = reference(&resumed);
    assert!(bytes.starts_with(&there) && ends(&bytes).len() == many().len());
}

#[test]
fn interrupted_while_asking() {
    let training = Training::preferred("llama", SHORT).with_pairs(&many());
    let mut child = training.command("").stderr(Stdio::null()).spawn().unwrap();
    while !training.out("reference").exists() {
        assert!(child.try_wait().unwrap().is_none(), "it was over before it asked");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let signalled = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(signalled.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!training.out("reference.json").exists(), "all were asked about");
    training.finish("");
    assert_eq!(ends(&reference(&training)).len(), many().len());
}
