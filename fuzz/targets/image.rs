//! Pictures: whatever a file holds, it is a picture of the size that its header says, or an error.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use lwv_processor::{decode_image, image_size};

/// Larger pictures only take time.
const MOST_PIXELS: u64 = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let size = image_size(Cursor::new(bytes), "fuzz");
    match &size {
        Ok((width, height)) if u64::from(*width) * u64::from(*height) > MOST_PIXELS => return,
        Ok(_) => {}
        // What has no size may be large.
        Err(_) => return,
    }
    if let (Ok(size), Ok(image)) = (size, decode_image(bytes, "fuzz")) {
        assert_eq!(image.dimensions(), size);
        assert_eq!(image.as_raw().len(), size.0 as usize * size.1 as usize * 3);
    }
});
