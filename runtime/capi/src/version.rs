use std::ffi::{CStr, c_char};

/// Version of the interface that this header is of. It changes only where programs must be compiled again; functions, events
/// and fields that are added do not change it.
pub const LWV_ABI_VERSION: u32 = 1;

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => c"",
};

/// The `LWV_ABI_VERSION` of the library. A program should compare it with that of its header.
#[unsafe(no_mangle)]
pub extern "C" fn lwv_abi_version() -> u32 {
    LWV_ABI_VERSION
}

/// The library's version, such as `0.1.0`. Never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn lwv_version() -> *const c_char {
    VERSION.as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_packages() {
        assert_eq!(VERSION.to_str().unwrap(), env!("CARGO_PKG_VERSION"));
    }
}
