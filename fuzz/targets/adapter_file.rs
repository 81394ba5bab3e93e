//! Adapter files: whatever the bytes are, they are tensors that lie within them and can be written again, or an error with words.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lwv_model::{read_adapter_file, write_adapter_file};

fuzz_target!(|bytes: &[u8]| {
    match read_adapter_file(bytes) {
        Ok(parameters) => {
            // Several tensors may point to the same data.
            if parameters.len() < 1000 {
                let again = write_adapter_file(&parameters).expect("what was read can be written");
                assert_eq!(read_adapter_file(&again).expect("a file of ours"), parameters);
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
