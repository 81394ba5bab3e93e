//! The tensors that a model brings with it.

use std::collections::HashMap;

use onnx_protobuf::{StringStringEntryProto, TensorProto, tensor_proto::DataLocation};

use crate::{DataType, Error, tensor::check_length};

/// A tensor's place in a file beside the model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExternalLocation {
    /// The file, relative to the model's folder, with `/` between folders.
    pub file: String,
    /// Where the tensor starts, in bytes from the start of the file.
    pub offset: u64,
    /// The tensor's length in bytes.
    pub length: u64,
}

/// Where an initializer's elements are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Storage {
    /// In the model itself.
    Inline,
    /// In a file beside the model.
    External(ExternalLocation),
}

/// What a model says of one initializer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Initializer {
    /// The value it defines.
    pub name: String,
    /// The type of its elements.
    pub dtype: DataType,
    /// Its shape, outermost dimension first; empty for a scalar.
    pub dims: Vec<i64>,
    /// Where its elements are.
    pub storage: Storage,
}

impl Initializer {
    pub(crate) fn from_proto(proto: &TensorProto) -> Result<Self, Error> {
        let dtype = DataType::from_onnx_code(proto.data_type).ok_or_else(|| Error::UnsupportedDataType {
            value: proto.name.clone(),
            code: proto.data_type,
        })?;
        let storage = match proto.data_location.enum_value() {
            Ok(DataLocation::EXTERNAL) => Storage::External(read_location(proto, dtype)?),
            _ => Storage::Inline,
        };
        Ok(Self {
            name: proto.name.clone(),
            dtype,
            dims: proto.dims.clone(),
            storage,
        })
    }
}

/// The proto of an initializer whose elements are in another file.
pub(crate) fn external_proto(
    name: &str,
    dtype: DataType,
    dims: &[i64],
    location: &ExternalLocation,
) -> Result<TensorProto, Error> {
    check_file(name, &location.file)?;
    check_length(name, dtype, dims, location.length)?;
    let entry = |key: &str, value: String| StringStringEntryProto {
        key: key.to_owned(),
        value,
        ..Default::default()
    };
    Ok(TensorProto {
        name: name.to_owned(),
        data_type: dtype.onnx_code(),
        dims: dims.to_vec(),
        data_location: DataLocation::EXTERNAL.into(),
        external_data: vec![
            entry("location", location.file.clone()),
            entry("offset", location.offset.to_string()),
            entry("length", location.length.to_string()),
        ],
        ..Default::default()
    })
}

fn read_location(proto: &TensorProto, dtype: DataType) -> Result<ExternalLocation, Error> {
    let text = |key: &str| {
        proto
            .external_data
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| entry.value.as_str())
    };
    let number = |key: &'static str, text: &str| {
        let malformed = |_| Error::ExternalNumber {
            name: proto.name.clone(),
            key,
            text: text.to_owned(),
        };
        text.parse::<u64>().map_err(malformed)
    };
    let file = text("location").unwrap_or_default().to_owned();
    check_file(&proto.name, &file)?;
    let offset = text("offset").map_or(Ok(0), |text| number("offset", text))?;
    let expected = dtype.byte_length(&proto.dims).ok_or_else(|| Error::Shape {
        name: proto.name.clone(),
        dims: proto.dims.clone(),
    })?;
    let length = text("length").map_or(Ok(expected), |text| number("length", text))?;
    check_length(&proto.name, dtype, &proto.dims, length)?;
    Ok(ExternalLocation { file, offset, length })
}

/// Runtimes refuse files outside the model's folder, and a model from elsewhere must not reach one.
fn check_file(name: &str, file: &str) -> Result<(), Error> {
    let inside = !file.contains(['\\', ':', '\0'])
        && file.split('/').all(|part| !part.is_empty() && part != "..")
        && file.rsplit('/').next() != Some(".");
    if inside {
        return Ok(());
    }
    Err(Error::ExternalPath {
        name: name.to_owned(),
        file: file.to_owned(),
    })
}

/// The initializers of a graph in the making, one of each name.
#[derive(Debug, Default)]
pub(crate) struct Initializers {
    protos: Vec<TensorProto>,
    places: HashMap<String, usize>,
}

impl Initializers {
    /// Adds one of a name that is not there yet.
    pub(crate) fn add(&mut self, proto: TensorProto) {
        self.places.insert(proto.name.clone(), self.protos.len());
        self.protos.push(proto);
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Whether this very initializer is there; an error when its name is and stands for another.
    pub(crate) fn holds(&self, proto: &TensorProto) -> Result<bool, Error> {
        let Some(&place) = self.places.get(&proto.name) else {
            return Ok(false);
        };
        let known = &self.protos[place];
        if known == proto {
            return Ok(true);
        }
        let (first, second) = (describe(known), describe(proto));
        Err(Error::InitializerConflict {
            name: proto.name.clone(),
            first,
            second,
        })
    }

    pub(crate) fn into_protos(self) -> Vec<TensorProto> {
        self.protos
    }
}

fn describe(proto: &TensorProto) -> String {
    let dtype = DataType::from_onnx_code(proto.data_type)
        .map_or_else(|| proto.data_type.to_string(), |dtype| dtype.to_string());
    let place: Vec<&str> = proto
        .external_data
        .iter()
        .map(|entry| entry.value.as_str())
        .collect();
    let place = if place.is_empty() {
        format!("inline in {} bytes", proto.raw_data.len())
    } else {
        format!("at {}", place.join(":"))
    };
    format!("`{dtype} {:?} {place}`", proto.dims)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(file: &str, length: u64) -> ExternalLocation {
        ExternalLocation {
            file: file.to_owned(),
            offset: 4096,
            length,
        }
    }

    fn proto() -> TensorProto {
        external_proto("w", DataType::Float16, &[2, 3], &location("a/w.data", 12)).unwrap()
    }

    #[test]
    fn external_location_survives_the_wire_form() {
        let initializer = Initializer::from_proto(&proto()).unwrap();
        assert_eq!(initializer.storage, Storage::External(location("a/w.data", 12)));
        assert_eq!(
            (initializer.dtype, initializer.dims),
            (DataType::Float16, vec![2, 3])
        );
    }

    #[test]
    fn offset_and_length_may_be_left_out() {
        let mut proto = proto();
        proto.external_data.truncate(1);
        let storage = Initializer::from_proto(&proto).unwrap().storage;
        let whole = ExternalLocation {
            offset: 0,
            ..location("a/w.data", 12)
        };
        assert_eq!(storage, Storage::External(whole));
    }

    #[test]
    fn files_outside_the_models_folder_are_refused() {
        for file in [
            "",
            "/etc/w",
            "../w",
            "a/../../w",
            "a//w",
            "c:w",
            "a\\w",
            ".",
            "a/",
        ] {
            let error = external_proto("w", DataType::Int8, &[1], &location(file, 1)).unwrap_err();
            assert!(matches!(error, Error::ExternalPath { .. }), "{file}: {error}");
        }
        let mut proto = proto();
        proto.external_data[0].value = "../w.data".to_owned();
        assert!(matches!(
            Initializer::from_proto(&proto),
            Err(Error::ExternalPath { .. })
        ));
    }

    #[test]
    fn lengths_that_contradict_the_shape_are_refused() {
        let error = external_proto("w", DataType::Float16, &[2, 3], &location("w", 11)).unwrap_err();
        assert!(
            matches!(
                error,
                Error::DataLength {
                    expected: 12,
                    actual: 11,
                    ..
                }
            ),
            "{error}"
        );
        let mut proto = proto();
        proto.external_data[2].value = "24".to_owned();
        assert!(matches!(
            Initializer::from_proto(&proto),
            Err(Error::DataLength { .. })
        ));
        proto.external_data[2].value = "twelve".to_owned();
        let error = Initializer::from_proto(&proto).unwrap_err();
        assert!(
            matches!(error, Error::ExternalNumber { key: "length", .. }),
            "{error}"
        );
        proto.dims = vec![-1];
        assert!(matches!(
            Initializer::from_proto(&proto),
            Err(Error::Shape { .. })
        ));
    }

    #[test]
    fn one_initializer_of_each_name() {
        let mut initializers = Initializers::default();
        assert!(!initializers.holds(&proto()).unwrap());
        initializers.add(proto());
        assert!(initializers.holds(&proto()).unwrap());
        assert!(initializers.contains("w") && !initializers.contains("v"));
        let other = external_proto("w", DataType::Float16, &[3, 2], &location("a/w.data", 12)).unwrap();
        let error = initializers.holds(&other).unwrap_err();
        assert_eq!(
            error.to_string(),
            "initializer `w` is `Float16 [2, 3] at a/w.data:4096:12`, \
             and cannot also be `Float16 [3, 2] at a/w.data:4096:12`",
        );
    }
}
