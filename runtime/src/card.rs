use std::ffi::{CStr, c_char, c_int, c_uint};
use std::path::Path;

use libloading::Library;

use crate::error::{Error, Result};

/// Attributes of a card, as `cuda.h` numbers them.
const COMPUTE_CAPABILITY_MAJOR: c_int = 75;
const COMPUTE_CAPABILITY_MINOR: c_int = 76;

/// The driver's library.
const DRIVER: &str = if cfg!(windows) {
    "nvcuda.dll"
} else {
    "libcuda.so.1"
};

/// TensorRT's libraries, newest first.
const TENSORRT: [&str; 4] = [
    "libnvinfer.so.11",
    "libnvinfer.so.10",
    "libnvinfer.so",
    "nvinfer_10.dll",
];

/// A card, as its driver tells. Nothing is set up on it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Card {
    /// Its name.
    pub name: String,
    /// Generation of its processors, major and minor.
    pub compute_capability: [u32; 2],
    /// Bytes of its memory; on boards that share it with the processor, all of it.
    pub memory: u64,
    /// Version of CUDA that the driver speaks, such as `12.6`.
    pub driver: String,
}

impl Card {
    /// The card of this number.
    ///
    /// # Errors
    /// No driver, or no such card.
    pub fn find(index: u32) -> Result<Self> {
        Self::of_driver(Path::new(DRIVER), index)
    }

    /// Its name and compute capability, as engines are told apart by.
    pub fn describe(&self) -> String {
        let [major, minor] = self.compute_capability;
        format!("{} ({major}.{minor})", self.name)
    }

    fn of_driver(library: &Path, index: u32) -> Result<Self> {
        let failed = |reason: String| Error::provider(&format!("cuda:{index}"), reason);
        let driver = Driver::open(library).map_err(|e| failed(format!("there is no driver: {e}")))?;
        driver
            .card(index)
            .map_err(|(call, code)| failed(format!("the driver's `{call}` says error {code}")))
    }
}

/// Version of TensorRT, in the first of its libraries that can be loaded.
pub(crate) fn tensorrt_version() -> Option<String> {
    TENSORRT.iter().find_map(|name| library_version(Path::new(name)))
}

/// Version that a library of TensorRT, or of TensorRT for RTX, has.
pub(crate) fn library_version(library: &Path) -> Option<String> {
    #[expect(unsafe_code, reason = "a foreign library")]
    // SAFETY: NVIDIA's libraries have no requirements on being loaded; the function takes nothing and gives a number.
    let number = unsafe {
        let library = Library::new(library).ok()?;
        let version = library
            .get::<unsafe extern "C" fn() -> c_int>(b"getInferLibVersion\0")
            .ok()?;
        let number = version();
        // What has once set up a card is not to be unloaded.
        std::mem::forget(library);
        number
    };
    Some(format!(
        "{}.{}.{}",
        number / 10_000,
        number / 100 % 100,
        number % 100
    ))
}

/// The driver's library.
struct Driver {
    library: Library,
}

/// A function that failed, and its error.
type Failure = (&'static str, c_int);

/// Error of a function that the driver does not have.
const NOT_FOUND: c_int = 500;

impl Driver {
    fn open(path: &Path) -> std::result::Result<Self, libloading::Error> {
        #[expect(unsafe_code, reason = "a foreign library")]
        // SAFETY: the driver's library has no requirements on being loaded.
        let library = unsafe { Library::new(path) }?;
        Ok(Self { library })
    }

    fn card(&self, index: u32) -> std::result::Result<Card, Failure> {
        let ordinal = c_int::try_from(index).unwrap_or(c_int::MAX);
        let (mut version, mut device) = (0, 0);
        let (mut name, mut memory) = ([0_u8; 256], 0_usize);
        #[expect(unsafe_code, reason = "functions of the C interface of CUDA's driver")]
        // SAFETY: names and types are those of `cuda.h`; every pointer is to a live value of the type that the function
        // writes, and the name's buffer is as long as said.
        unsafe {
            type Init = unsafe extern "C" fn(c_uint) -> c_int;
            type Version = unsafe extern "C" fn(*mut c_int) -> c_int;
            type Get = unsafe extern "C" fn(*mut c_int, c_int) -> c_int;
            type Name = unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int;
            type Memory = unsafe extern "C" fn(*mut usize, c_int) -> c_int;
            self.call("cuInit", |init: Init| init(0))?;
            self.call("cuDriverGetVersion", |get: Version| get(&raw mut version))?;
            self.call("cuDeviceGet", |get: Get| get(&raw mut device, ordinal))?;
            let length = name.len() as c_int;
            self.call("cuDeviceGetName", |get: Name| {
                get(name.as_mut_ptr().cast(), length, device)
            })?;
            self.call("cuDeviceTotalMem_v2", |get: Memory| get(&raw mut memory, device))?;
        }
        let attribute = |attribute| self.attribute(attribute, device);
        let capability = [
            attribute(COMPUTE_CAPABILITY_MAJOR)?,
            attribute(COMPUTE_CAPABILITY_MINOR)?,
        ];
        let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();
        Ok(Card {
            name: name.to_string_lossy().into_owned(),
            compute_capability: capability.map(|number| u32::try_from(number).unwrap_or(0)),
            memory: memory as u64,
            driver: format!("{}.{}", version / 1000, version % 1000 / 10),
        })
    }

    fn attribute(&self, attribute: c_int, device: c_int) -> std::result::Result<c_int, Failure> {
        type Get = unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int;
        let mut value = 0;
        #[expect(unsafe_code, reason = "a function of the C interface of CUDA's driver")]
        // SAFETY: name and types are those of `cuda.h`, and the pointer is to a live value.
        unsafe {
            self.call("cuDeviceGetAttribute", |get: Get| {
                get(&raw mut value, attribute, device)
            })?;
        }
        Ok(value)
    }

    /// Calls the function `name`.
    ///
    /// # Safety
    /// `F` is its type.
    #[expect(unsafe_code, reason = "the library does not know the types of its functions")]
    unsafe fn call<F: Copy>(
        &self,
        name: &'static str,
        call: impl FnOnce(F) -> c_int,
    ) -> std::result::Result<(), Failure> {
        // SAFETY: the caller says so.
        let function = unsafe { self.library.get::<F>(name.as_bytes()) }.map_err(|_| (name, NOT_FOUND))?;
        match call(*function) {
            0 => Ok(()),
            code => Err((name, code)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A driver of one card, compiled on the spot.
    const DRIVER_SOURCE: &str = r#"
        int cuInit(unsigned flags) { return flags; }
        int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
        int cuDeviceGet(int *device, int ordinal) { *device = 5; return ordinal ? 101 : 0; }
        int cuDeviceGetName(char *name, int length, int device) {
            const char *text = "Orin";
            for (int i = 0; i < 5 && i < length; i++) name[i] = text[i];
            return device != 5;
        }
        int cuDeviceTotalMem_v2(unsigned long *bytes, int device) { *bytes = 8ul << 30; return device != 5; }
        int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 8 : 7; return device != 5; }
        int getInferLibVersion(void) { return 100300; }
    "#;

    fn driver(folder: &Path) -> std::path::PathBuf {
        let (source, library) = (folder.join("driver.c"), folder.join("libcuda.so"));
        std::fs::write(&source, DRIVER_SOURCE).unwrap();
        let compiled = std::process::Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .status();
        assert!(compiled.unwrap().success());
        library
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_card_is_what_its_driver_says() {
        let folder = tempfile::tempdir().unwrap();
        let driver = driver(folder.path());
        let card = Card::of_driver(&driver, 0).unwrap();
        assert_eq!(card.describe(), "Orin (8.7)");
        assert_eq!((card.memory, card.driver.as_str()), (8 << 30, "12.6"));
        let error = Card::of_driver(&driver, 1).unwrap_err();
        assert!(
            error.to_string().contains("`cuDeviceGet` says error 101"),
            "{error}"
        );
        assert_eq!(library_version(&driver).unwrap(), "10.3.0");
    }

    #[test]
    fn without_a_driver_that_is_said() {
        let error = Card::of_driver(Path::new("/nowhere/libcuda.so"), 0).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Provider);
        assert!(error.to_string().contains("there is no driver"), "{error}");
        assert_eq!(library_version(Path::new("/nowhere")), None);
    }
}
