use std::fs::File;
use std::io::Read;
use std::path::Path;

use hmac_sha256::Hash;

use crate::error::{Inner, Result};

/// Bytes read at a time.
const BLOCK: usize = 1 << 20;

/// SHA-256 of a file, lower-case hexadecimal. `progress` is called with the number of bytes after each piece, and ends it by
/// an error.
///
/// # Errors
/// The file cannot be read, or what `progress` says.
pub(crate) fn hash_file(path: &Path, mut progress: impl FnMut(u64) -> Result<()>) -> Result<String> {
    let unreadable = |source| Inner::Read {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(unreadable)?;
    let mut hasher = Hash::new();
    let mut block = vec![0; BLOCK];
    loop {
        let read = file.read(&mut block).map_err(unreadable)?;
        if read == 0 {
            break;
        }
        hasher.update(&block[..read]);
        progress(read as u64)?;
    }
    Ok(hexadecimal(&hasher.finalize()))
}

/// SHA-256 of bytes, lower-case hexadecimal.
pub(crate) fn hash_bytes(bytes: &[u8]) -> String {
    hexadecimal(&Hash::hash(bytes))
}

fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of FIPS 180-2, appendix B.
    #[test]
    fn hashes_are_those_of_the_standard() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash_bytes(b"abc"), abc);
        let million = vec![b'a'; 1_000_000];
        let of_million = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";
        assert_eq!(hash_bytes(&million), of_million);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("million");
        std::fs::write(&file, million.repeat(3)).unwrap();
        let mut read = 0;
        assert_eq!(
            hash_file(&file, |bytes| {
                read += bytes;
                Ok(())
            })
            .unwrap(),
            hash_bytes(&million.repeat(3))
        );
        assert_eq!(read, 3_000_000);
    }
}
