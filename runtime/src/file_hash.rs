use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Inner, Result};

/// Bytes read at a time.
const BLOCK: usize = 1 << 20;

/// SHA-256 of a file, lower-case hexadecimal. `progress` is called with the number of bytes after each piece.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn hash_file(path: &Path, mut progress: impl FnMut(u64)) -> Result<String> {
    let unreadable = |source| Inner::Read {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(unreadable)?;
    let mut hasher = Sha256::new();
    let mut block = vec![0; BLOCK];
    loop {
        let read = file.read(&mut block).map_err(unreadable)?;
        if read == 0 {
            break;
        }
        hasher.update(&block[..read]);
        progress(read as u64);
    }
    Ok(hexadecimal(&hasher.finalize()))
}

/// SHA-256 of bytes, lower-case hexadecimal.
pub(crate) fn hash_bytes(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
