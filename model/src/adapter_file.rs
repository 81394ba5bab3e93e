//! ONNX Runtime's adapter files (`.onnx_adapter`): a FlatBuffer of named tensors, which become inputs of a graph when it runs.
//!
//! The schema is `adapter_schema.fbs` of ONNX Runtime, format version 1. Its two tables have four fields of four bytes each, so one
//! vtable serves both, and with every reference pointing forward a file is written from front to back.

use std::collections::BTreeSet;

use crate::ElementType;

/// What files of this format begin with, after the position of the root.
const IDENTIFIER: &[u8; 4] = b"TORT";

/// `format_version` that is written and read.
const VERSION: u32 = 1;

/// Sizes of vtable and table, and where the four fields stand in the table.
const VTABLE: [u16; 6] = [12, 20, 4, 8, 12, 16];

/// Where the vtable is written.
const VTABLE_AT: usize = 8;

/// Bytes that a FlatBuffer may have: offsets in it are signed numbers of 32 bits in some readers.
const MOST_BYTES: usize = i32::MAX as usize;

/// A tensor of an adapter file: the value of a graph's input.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterParameter<'a> {
    /// The input's name.
    pub name: &'a str,
    /// `Float32` or `Float16`.
    pub element_type: ElementType,
    /// Shape, row-major.
    pub dims: Vec<usize>,
    /// The elements, little-endian.
    pub data: &'a [u8],
}

/// Why an adapter file cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterFileError {
    /// It does not begin as adapter files do.
    #[error("it is no adapter file of ONNX Runtime")]
    NotAnAdapter,
    /// It is of another version of the format.
    #[error("it has format version {0}, this version reads {VERSION}")]
    Version(u32),
    /// It points to something outside of itself.
    #[error("it is damaged: nothing stands at byte {0}, where it points to")]
    Outside(usize),
    /// Something that every adapter has is not there.
    #[error("it is damaged: {0} is missing")]
    Missing(&'static str),
    /// A name is not UTF-8.
    #[error("it is damaged: the name at byte {0} is no text")]
    Name(usize),
    /// Two tensors have one name.
    #[error("tensor `{0}` is there twice")]
    Twice(String),
    /// A tensor's elements are of a type that no adapter of ours has.
    #[error("tensor `{name}` has element type {code}; supported are 1 (f32) and 10 (f16)")]
    ElementType {
        /// The tensor.
        name: String,
        /// As ONNX numbers types.
        code: u32,
    },
    /// A tensor has another size than its shape says.
    #[error("tensor `{name}` of shape {dims:?} has {bytes} bytes")]
    Size {
        /// The tensor.
        name: String,
        /// Its shape.
        dims: Vec<i64>,
        /// What it has.
        bytes: usize,
    },
    /// The format has no room for so much.
    #[error("the adapter takes {0} bytes, and a file of this format holds 2 GiB at most")]
    TooLarge(usize),
}

/// The bytes of an adapter file that holds `parameters`.
///
/// # Errors
/// More than 2 GiB, an element type that is no float, data of another size than its shape says.
pub fn write_adapter_file(parameters: &[AdapterParameter<'_>]) -> Result<Vec<u8>, AdapterFileError> {
    let mut file = Writer { bytes: vec![0; 4] };
    file.bytes.extend(IDENTIFIER);
    file.bytes
        .extend(VTABLE.iter().flat_map(|size| size.to_le_bytes()));
    let [root, .., list] = file.table([VERSION, 0, 0, 0]);
    file.point(0, root)?;
    file.begin_vector(list, parameters.len(), 4)?;
    let places = file.bytes.len();
    file.bytes.resize(places + 4 * parameters.len(), 0);
    for (index, parameter) in parameters.iter().enumerate() {
        let code = code(parameter.element_type);
        element_type(parameter.name, code)?;
        let dims: Vec<i64> = parameter.dims.iter().map(|size| *size as i64).collect();
        check_size(
            parameter.name,
            &dims,
            parameter.element_type,
            parameter.data.len(),
        )?;
        let [table, name, shape, _, data] = file.table([0, 0, code, 0]);
        file.point(places + 4 * index, table)?;
        file.begin_vector(name, parameter.name.len(), 4)?;
        file.bytes.extend(parameter.name.as_bytes());
        // Texts end with a zero that does not count.
        file.bytes.push(0);
        file.begin_vector(shape, dims.len(), 8)?;
        file.bytes.extend(dims.iter().flat_map(|size| size.to_le_bytes()));
        file.begin_vector(data, parameter.data.len(), 8)?;
        file.bytes.extend(parameter.data);
    }
    match file.bytes.len() > MOST_BYTES {
        true => Err(AdapterFileError::TooLarge(file.bytes.len())),
        false => Ok(file.bytes),
    }
}

/// The tensors of an adapter file, all of whose bounds are checked: ONNX Runtime itself believes the shapes.
///
/// # Errors
/// The bytes are no adapter file, or of another version; the file is damaged or cut short; a tensor is there twice, has another
/// size than its shape says, or is not of floats of 16 or 32 bits.
pub fn read_adapter_file(bytes: &[u8]) -> Result<Vec<AdapterParameter<'_>>, AdapterFileError> {
    let file = Reader { bytes };
    if bytes.get(4..8) != Some(IDENTIFIER) {
        return Err(AdapterFileError::NotAnAdapter);
    }
    let adapter = file.table(file.follow(0)?)?;
    let version = adapter.number(0)?;
    if version != VERSION {
        return Err(AdapterFileError::Version(version));
    }
    let list = adapter.vector(3, 4, "the list of tensors")?;
    let mut names = BTreeSet::new();
    let mut parameters = Vec::new();
    for at in (list.start..list.end).step_by(4) {
        let parameter = file.parameter(file.follow(at)?)?;
        if !names.insert(parameter.name) {
            return Err(AdapterFileError::Twice(parameter.name.to_owned()));
        }
        parameters.push(parameter);
    }
    Ok(parameters)
}

/// The number of a type in ONNX.
fn code(element_type: ElementType) -> u32 {
    match element_type {
        ElementType::Float32 => 1,
        ElementType::Int8 => 3,
        ElementType::Int32 => 6,
        ElementType::Int64 => 7,
        ElementType::Float16 => 10,
    }
}

/// The type with this number, where an adapter may have it.
fn element_type(name: &str, code: u32) -> Result<ElementType, AdapterFileError> {
    match code {
        1 => Ok(ElementType::Float32),
        10 => Ok(ElementType::Float16),
        _ => Err(AdapterFileError::ElementType {
            name: name.to_owned(),
            code,
        }),
    }
}

/// The shape, if `bytes` bytes are what it calls for.
fn check_size(
    name: &str,
    dims: &[i64],
    element: ElementType,
    bytes: usize,
) -> Result<Vec<usize>, AdapterFileError> {
    let sizes: Option<Vec<usize>> = dims.iter().map(|size| usize::try_from(*size).ok()).collect();
    let wrong = || AdapterFileError::Size {
        name: name.to_owned(),
        dims: dims.to_vec(),
        bytes,
    };
    let sizes = sizes.ok_or_else(wrong)?;
    let called_for = sizes
        .iter()
        .try_fold(element.size(), |bytes, size| bytes.checked_mul(*size));
    match called_for == Some(bytes) {
        true => Ok(sizes),
        false => Err(wrong()),
    }
}

struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Appends a table with these fields, and returns its position and those of its fields.
    fn table(&mut self, fields: [u32; 4]) -> [usize; 5] {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        let at = self.bytes.len();
        let words = [(at - VTABLE_AT) as u32].into_iter().chain(fields);
        self.bytes.extend(words.flat_map(u32::to_le_bytes));
        [at, at + 4, at + 8, at + 12, at + 16]
    }

    /// Lets the field at `field` point to `target`, which comes later.
    fn point(&mut self, field: usize, target: usize) -> Result<(), AdapterFileError> {
        if target > MOST_BYTES {
            return Err(AdapterFileError::TooLarge(target));
        }
        self.bytes[field..field + 4].copy_from_slice(&((target - field) as u32).to_le_bytes());
        Ok(())
    }

    /// Begins a vector of `length` elements, the first of which will stand at a multiple of `alignment`.
    fn begin_vector(
        &mut self,
        field: usize,
        length: usize,
        alignment: usize,
    ) -> Result<(), AdapterFileError> {
        let elements = (self.bytes.len() + 4).next_multiple_of(alignment);
        self.point(field, elements - 4)?;
        self.bytes.resize(elements - 4, 0);
        let length = u32::try_from(length).map_err(|_| AdapterFileError::TooLarge(length))?;
        self.bytes.extend(length.to_le_bytes());
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Reader<'a> {
    bytes: &'a [u8],
}

/// A table of a file that is read.
struct Table<'a> {
    file: Reader<'a>,
    at: usize,
    vtable: usize,
    /// Bytes of the vtable.
    length: usize,
}

impl<'a> Reader<'a> {
    fn slice(self, at: usize, length: usize) -> Result<&'a [u8], AdapterFileError> {
        let end = at
            .checked_add(length)
            .ok_or(AdapterFileError::Outside(usize::MAX))?;
        self.bytes.get(at..end).ok_or(AdapterFileError::Outside(end))
    }

    fn number(self, at: usize) -> Result<u32, AdapterFileError> {
        let bytes = self.slice(at, 4)?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }

    fn short(self, at: usize) -> Result<usize, AdapterFileError> {
        let bytes = self.slice(at, 2)?;
        Ok(usize::from(bytes[0]) | usize::from(bytes[1]) << 8)
    }

    /// Where the reference at `at` points to.
    fn follow(self, at: usize) -> Result<usize, AdapterFileError> {
        Ok(at.saturating_add(self.number(at)? as usize))
    }

    fn table(self, at: usize) -> Result<Table<'a>, AdapterFileError> {
        let back = self.number(at)?.cast_signed();
        let vtable = at.checked_add_signed(-(back as isize));
        let vtable = vtable.ok_or(AdapterFileError::Outside(0))?;
        let length = self.short(vtable)?;
        Ok(Table {
            file: self,
            at,
            vtable,
            length,
        })
    }

    fn parameter(self, at: usize) -> Result<AdapterParameter<'a>, AdapterFileError> {
        let table = self.table(at)?;
        let name = table.vector(0, 1, "a tensor's name")?;
        let name_at = name.start;
        let name = std::str::from_utf8(&self.bytes[name]).map_err(|_| AdapterFileError::Name(name_at))?;
        let (dims, _) = self.bytes[table.vector(1, 8, "a tensor's shape")?].as_chunks();
        let dims: Vec<i64> = dims.iter().map(|size| i64::from_le_bytes(*size)).collect();
        let element_type = element_type(name, table.number(2)?)?;
        let data = &self.bytes[table.vector(3, 1, "a tensor's data")?];
        Ok(AdapterParameter {
            name,
            element_type,
            dims: check_size(name, &dims, element_type, data.len())?,
            data,
        })
    }
}

impl Table<'_> {
    /// Where field `index` stands, if the table has it.
    fn field(&self, index: usize) -> Result<Option<usize>, AdapterFileError> {
        let entry = 4 + 2 * index;
        if entry + 2 > self.length {
            return Ok(None);
        }
        let offset = self.file.short(self.vtable + entry)?;
        Ok(Some(self.at + offset).filter(|_| offset != 0))
    }

    /// A number, 0 where it is left out.
    fn number(&self, index: usize) -> Result<u32, AdapterFileError> {
        self.field(index)?.map_or(Ok(0), |at| self.file.number(at))
    }

    /// The bytes of a vector with elements of `size` bytes; all of them are there.
    fn vector(
        &self,
        index: usize,
        size: usize,
        what: &'static str,
    ) -> Result<std::ops::Range<usize>, AdapterFileError> {
        let field = self.field(index)?.ok_or(AdapterFileError::Missing(what))?;
        let at = self.file.follow(field)?;
        let bytes = (self.file.number(at)? as usize).saturating_mul(size);
        self.file.slice(at + 4, bytes)?;
        Ok(at + 4..at + 4 + bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters() -> [AdapterParameter<'static>; 2] {
        let data: &[u8] = &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        [
            AdapterParameter {
                name: "model.layers.0.mlp.up_proj.lora_A.weight",
                element_type: ElementType::Float32,
                dims: vec![3, 1],
                data,
            },
            AdapterParameter {
                name: "b",
                element_type: ElementType::Float16,
                dims: vec![1, 6],
                data,
            },
        ]
    }

    #[test]
    fn what_is_written_is_read_and_lies_as_the_format_wants() {
        let file = write_adapter_file(&parameters()).unwrap();
        let read = read_adapter_file(&file).unwrap();
        assert_eq!(read, parameters());
        for parameter in read {
            let start = parameter.data.as_ptr() as usize - file.as_ptr() as usize;
            assert_eq!(start % 8, 0, "{}", parameter.name);
        }
        assert!(
            read_adapter_file(&write_adapter_file(&[]).unwrap())
                .unwrap()
                .is_empty()
        );
    }

    /// Offsets are laid out otherwise there, and fields may be left out.
    #[test]
    fn files_of_onnxruntime_are_read() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/fixtures/written_by_onnxruntime.onnx_adapter"
        );
        let file = std::fs::read(path).unwrap();
        let mut read = read_adapter_file(&file).unwrap();
        read.sort_by_key(|parameter| parameter.name);
        let [a, b] = read.as_slice() else {
            panic!("{read:?}");
        };
        assert_eq!(
            (a.name, a.element_type, &*a.dims),
            ("a", ElementType::Float32, &[2, 3][..])
        );
        let floats = [0.0_f32, 0.5, 1.0, 1.5, 2.0, 2.5].map(f32::to_le_bytes);
        assert_eq!(a.data, floats.concat());
        assert_eq!(
            (b.name, b.element_type, &*b.dims),
            ("b", ElementType::Float16, &[3, 1][..])
        );
        // -1, 0.25 and 8.
        assert_eq!(
            b.data,
            [0xbc00_u16, 0x3400, 0x4800].map(u16::to_le_bytes).concat()
        );
    }

    /// Wherever a file is cut or changed, it is read or refused.
    #[test]
    fn damaged_files_are_refused() {
        let file = write_adapter_file(&parameters()).unwrap();
        for length in 0..file.len() {
            assert!(read_adapter_file(&file[..length]).is_err(), "{length} bytes");
        }
        for at in 0..file.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut damaged = file.clone();
                damaged[at] = value;
                if let Ok(read) = read_adapter_file(&damaged) {
                    assert!(read.len() <= 2);
                }
            }
        }
    }

    #[test]
    fn errors_name_the_tensor() {
        let [first, second] = parameters();
        let error = |parameters: &[AdapterParameter<'_>]| match write_adapter_file(parameters) {
            Ok(file) => read_adapter_file(&file).unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        let twice = error(&[second.clone(), second.clone()]);
        assert!(twice.contains("`b` is there twice"), "{twice}");
        let short = AdapterParameter {
            dims: vec![4, 1],
            ..first.clone()
        };
        assert!(error(&[short]).contains("lora_A.weight` of shape [4, 1] has 12 bytes"));
        let integers = AdapterParameter {
            element_type: ElementType::Int32,
            ..first.clone()
        };
        assert!(error(&[integers]).contains("element type 6"));
        let mut later = write_adapter_file(&[first]).unwrap();
        // The first field of the first table.
        later[VTABLE_AT + 12 + 4] = 2;
        let error = read_adapter_file(&later).unwrap_err().to_string();
        assert!(error.contains("format version 2"), "{error}");
    }
}
