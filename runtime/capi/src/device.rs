use std::ffi::{CString, c_char};

use lwv_runtime::{Card, available_bytes};

use crate::border::{c_string, call};
use crate::failure::{Failure, Result};
use crate::status::lwv_status;
use crate::structure::{Structure, write};

/// Bytes of a device's name and description, the zero included.
const NAME: usize = 32;
const DESCRIPTION: usize = 128;

/// More cards than this are not looked for.
const MOST_CARDS: u32 = 64;

/// Something that graphs run on. Set `size` before it is asked for.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lwv_device {
    /// Bytes of this structure.
    pub size: usize,
    /// Its name for `lwv_engine_options`, such as `cpu` or `cuda:1`.
    pub name: [c_char; 32],
    /// What it is, for people; cut where it is long.
    pub description: [c_char; 128],
    /// Bytes of memory: of a card all, of the processor what can be had now. 0 where it is not known.
    pub memory: u64,
}

// SAFETY: `repr(C)`, `size` first, numbers of at most 8 bytes.
unsafe impl Structure for lwv_device {
    fn usual() -> Self {
        Self {
            size: size_of::<Self>(),
            name: [0; NAME],
            description: [0; DESCRIPTION],
            memory: 0,
        }
    }
}

/// The processor and the cards whose driver answers. Whether ONNX Runtime can use a card is known only when an engine is
/// opened on it.
fn devices() -> impl Iterator<Item = lwv_device> {
    let processor = described("cpu", "the processor", available_bytes().unwrap_or(0));
    let cards = (0..MOST_CARDS).map_while(|index| Some((index, Card::find(index).ok()?)));
    std::iter::once(processor)
        .chain(cards.map(|(index, card)| described(&format!("cuda:{index}"), &card.describe(), card.memory)))
}

fn described(name: &str, description: &str, memory: u64) -> lwv_device {
    lwv_device {
        size: size_of::<lwv_device>(),
        name: array(&c_string(name)),
        description: array(&c_string(description)),
        memory,
    }
}

/// A text in an array, cut between characters where it is too long for it.
fn array<const LENGTH: usize>(text: &CString) -> [c_char; LENGTH] {
    let text = text.to_string_lossy();
    let end = text.floor_char_boundary(LENGTH - 1);
    let mut array = [0; LENGTH];
    for (place, byte) in array.iter_mut().zip(text[..end].bytes()) {
        *place = byte as c_char;
    }
    array
}

/// How many devices there are: the processor, and the cards whose driver answers.
#[unsafe(no_mangle)]
pub extern "C" fn lwv_device_count() -> usize {
    let mut count = 0;
    call(|| {
        count = devices().count();
        Ok(())
    });
    count
}

/// Tells about device `index`, from 0, which is the processor.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_device_at(index: usize, device: *mut lwv_device) -> lwv_status {
    call(|| write(nth(index)?, device, "device"))
}

fn nth(index: usize) -> Result<lwv_device> {
    devices()
        .nth(index)
        .ok_or_else(|| Failure::argument("index", &format!("is {index}, but there are fewer devices")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_the_first() {
        let mut device = lwv_device::usual();
        unsafe {
            assert_eq!(lwv_device_at(0, &raw mut device), lwv_status::Ok);
            assert_eq!(std::ffi::CStr::from_ptr(device.name.as_ptr()), c"cpu");
            assert_eq!(lwv_device_at(1000, &raw mut device), lwv_status::Argument);
            assert_eq!(lwv_device_at(0, std::ptr::null_mut()), lwv_status::Argument);
        }
        assert!(lwv_device_count() >= 1);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let array: [c_char; 4] = array(&c_string("aéé"));
        assert_eq!(array.map(|byte| byte as u8), [b'a', 0xC3, 0xA9, 0]);
    }
}
