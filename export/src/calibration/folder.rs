use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lwv_model::Checkpoint;
use lwv_quantize::BlockMatrix;
use safetensors::tensor::{Dtype, TensorView};

use super::failed;
use super::rounded_input::RoundedInput;
use crate::Error;

/// Scheme of each matrix of a file, as JSON in its header.
const SCHEMES: &str = "schemes";
const KEY: &str = "calibration.json";
const HEAD: &str = "head.safetensors";

/// What a calibration has made so far: files for each layer beside the bundle's place. It stays until the bundle is whole.
#[derive(Debug)]
pub(crate) struct CalibrationFolder {
    path: PathBuf,
    layers: usize,
}

impl CalibrationFolder {
    /// Opens the folder at `path`, which is emptied where it was made by another calibration than `key` describes.
    ///
    /// # Errors
    /// The folder cannot be read or written.
    pub(crate) fn open(path: PathBuf, key: &str, layers: usize) -> Result<Self, Error> {
        let file = path.join(KEY);
        if std::fs::read_to_string(&file).ok().as_deref() != Some(key) {
            if path.exists() {
                std::fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
            }
            std::fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
            lwv_onnx::write_atomically(&file, key.as_bytes())?;
        }
        Ok(Self { path, layers })
    }

    pub(crate) fn has_layer(&self, layer: usize) -> bool {
        self.layer_path(layer).exists()
    }

    /// Whether every layer is there.
    pub(crate) fn has_layers(&self) -> bool {
        (0..self.layers).all(|layer| self.has_layer(layer))
    }

    pub(crate) fn has_head(&self) -> bool {
        self.path.join(HEAD).exists()
    }

    /// The files with matrices.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let head = self.has_head().then(|| self.path.join(HEAD));
        (0..self.layers)
            .map(|layer| self.layer_path(layer))
            .chain(head)
            .collect()
    }

    /// Writes what a layer has become, and the scales of its cache.
    pub(crate) fn write_layer(
        &self,
        layer: usize,
        matrices: &[(String, BlockMatrix)],
        cache: &[Vec<f32>; 2],
    ) -> Result<(), Error> {
        write(&self.layer_path(layer), matrices, cache)
    }

    /// Writes what the head has become.
    pub(crate) fn write_head(&self, name: &str, matrix: &BlockMatrix) -> Result<(), Error> {
        write(
            &self.path.join(HEAD),
            &[(name.to_owned(), matrix.clone())],
            &Default::default(),
        )
    }

    /// The matrices of a layer.
    pub(crate) fn read_layer(&self, layer: usize) -> Result<Vec<(String, BlockMatrix)>, Error> {
        let path = self.layer_path(layer);
        let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
        let damaged = |message: String| failed(format!("`{}`: {message}; remove it", path.display()));
        let (_, header) =
            safetensors::SafeTensors::read_metadata(&bytes).map_err(|e| damaged(e.to_string()))?;
        let tensors = safetensors::SafeTensors::deserialize(&bytes).map_err(|e| damaged(e.to_string()))?;
        let schemes = header
            .metadata()
            .as_ref()
            .and_then(|metadata| metadata.get(SCHEMES))
            .cloned();
        let schemes: BTreeMap<String, lwv_quantize::BlockScheme> =
            serde_json::from_str(&schemes.unwrap_or_default()).map_err(|e| damaged(e.to_string()))?;
        let matrix = |(name, scheme): (String, _)| {
            let part = |part: &str| {
                tensors
                    .tensor(&format!("{name}.{part}"))
                    .map_err(|e| damaged(e.to_string()))
            };
            let (codes, scales) = (part("codes")?, part("scales")?);
            let columns = part("columns")?
                .data()
                .iter()
                .rev()
                .fold(0, |all, byte| all << 8 | usize::from(*byte));
            Ok((
                name.clone(),
                BlockMatrix {
                    scheme,
                    rows: scales.shape()[0],
                    columns,
                    codes: codes.data().to_vec(),
                    scales: floats(scales.data()),
                },
            ))
        };
        schemes.into_iter().map(matrix).collect()
    }

    pub(crate) fn has_inputs(&self, prefix: &str) -> bool {
        self.inputs_path(prefix).exists()
    }

    /// How what the matrices read whose names begin with `prefix` is rounded.
    pub(crate) fn read_inputs(&self, prefix: &str) -> Result<Vec<RoundedInput>, Error> {
        let path = self.inputs_path(prefix);
        let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
        let damaged = |message| failed(format!("`{}`: {message}; remove it", path.display()));
        serde_json::from_slice(&bytes).map_err(damaged)
    }

    /// Writes how what they read is rounded.
    pub(crate) fn write_inputs(&self, prefix: &str, inputs: &[RoundedInput]) -> Result<(), Error> {
        let json = serde_json::to_vec(inputs).map_err(failed)?;
        lwv_onnx::write_atomically(self.inputs_path(prefix), &json)?;
        Ok(())
    }

    /// Scales of each layer's cache, of keys and of values.
    pub(crate) fn cache_scales(&self) -> Result<Vec<[Vec<f32>; 2]>, Error> {
        let of_layer = |layer| {
            let file = Checkpoint::open_file(&self.layer_path(layer))?;
            let [keys, values] =
                ["keys", "values"].map(|part| file.view(part).map(|view| floats(view.data())));
            Ok([keys?, values?])
        };
        (0..self.layers).map(of_layer).collect()
    }

    /// Removes the folder.
    pub(crate) fn remove(self) -> Result<(), Error> {
        std::fs::remove_dir_all(&self.path).map_err(Error::io("remove", &self.path))
    }

    fn inputs_path(&self, prefix: &str) -> PathBuf {
        self.path
            .join(format!("{}.inputs.json", prefix.trim_end_matches('.')))
    }

    fn layer_path(&self, layer: usize) -> PathBuf {
        self.path.join(format!("layer-{layer:05}.safetensors"))
    }
}

fn write(path: &Path, matrices: &[(String, BlockMatrix)], cache: &[Vec<f32>; 2]) -> Result<(), Error> {
    let schemes: BTreeMap<_, _> = matrices
        .iter()
        .map(|(name, matrix)| (name, matrix.scheme))
        .collect();
    let schemes = serde_json::to_string(&schemes).map_err(failed)?;
    let mut parts: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, matrix) in matrices {
        let blocks = matrix.scheme.blocks(matrix.columns);
        let codes = vec![matrix.rows, blocks * matrix.scheme.block_bytes()];
        parts.push((format!("{name}.codes"), Dtype::U8, codes, matrix.codes.clone()));
        parts.push((
            format!("{name}.scales"),
            Dtype::F32,
            vec![matrix.rows, blocks],
            bytes(&matrix.scales),
        ));
        let columns = (matrix.columns as u64).to_le_bytes().to_vec();
        parts.push((format!("{name}.columns"), Dtype::U64, vec![1], columns));
    }
    for (name, scales) in ["keys", "values"].into_iter().zip(cache) {
        parts.push((name.to_owned(), Dtype::F32, vec![scales.len()], bytes(scales)));
    }
    let views = parts.iter().map(|(name, dtype, shape, data)| {
        TensorView::new(*dtype, shape.clone(), data)
            .map(|view| (name.as_str(), view))
            .map_err(failed)
    });
    let views = views.collect::<Result<Vec<_>, _>>()?;
    let metadata = [(SCHEMES.to_owned(), schemes)].into();
    let file = safetensors::serialize(views, Some(metadata)).map_err(failed)?;
    lwv_onnx::write_atomically(path, &file)?;
    Ok(())
}

fn bytes(floats: &[f32]) -> Vec<u8> {
    floats.iter().flat_map(|float| float.to_le_bytes()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}

#[cfg(test)]
mod tests {
    use lwv_quantize::{Bits, BlockScheme, round_to_nearest};

    use super::*;
    use crate::calibration::readers::{Maker, Readers};

    fn matrix(bits: Bits) -> BlockMatrix {
        let weights: Vec<f32> = (0..80).map(|i| (i as f32 * 0.7).sin()).collect();
        round_to_nearest(&weights, 40, BlockScheme::new(bits, 32).unwrap()).unwrap()
    }

    #[test]
    fn layers_survive_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let calibration = CalibrationFolder::open(folder.path().join("x"), "key", 1).unwrap();
        assert!(!calibration.has_layer(0) && !calibration.has_head());
        let matrices = [Bits::Four, Bits::Eight].map(|bits| (format!("{bits:?}.weight"), matrix(bits)));
        let cache = [vec![0.5, 1.0], vec![2.0, 4.0]];
        calibration.write_layer(0, &matrices, &cache).unwrap();
        let mut read = calibration.read_layer(0).unwrap();
        read.sort_by_key(|(name, _)| name != "Four.weight");
        assert_eq!(read, matrices);
        assert_eq!(calibration.cache_scales().unwrap(), [cache]);
        assert_eq!(calibration.files().len(), 1);
    }

    #[test]
    fn another_calibration_begins_anew_and_the_same_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let open = |key| CalibrationFolder::open(folder.path().join("x"), key, 1).unwrap();
        open("one").write_head("head", &matrix(Bits::Four)).unwrap();
        assert!(open("one").has_head());
        assert!(!open("two").has_head());
    }

    #[test]
    fn rounded_inputs_survive_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let calibration = CalibrationFolder::open(folder.path().join("x"), "key", 1).unwrap();
        let input = |factors| RoundedInput {
            readers: Readers {
                matrices: vec!["layer.0.weight".into()],
                maker: Maker::Norm("layer.0.norm".into()),
            },
            factors,
            step: 0.1,
            error: 1.0 / 3.0,
        };
        let inputs = [
            input((1..99).map(|i| 1.0 / i as f32).collect()),
            input(Vec::new()),
        ];
        assert!(!calibration.has_inputs("layer.0."));
        calibration.write_inputs("layer.0.", &inputs).unwrap();
        assert!(calibration.has_inputs("layer.0."));
        assert_eq!(calibration.read_inputs("layer.0.").unwrap(), inputs);
        std::fs::write(calibration.inputs_path("layer.0."), b"[{").unwrap();
        let error = calibration.read_inputs("layer.0.").unwrap_err().to_string();
        assert!(error.contains("layer.0.inputs.json"), "{error}");
    }

    #[test]
    fn a_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let calibration = CalibrationFolder::open(folder.path().join("x"), "key", 1).unwrap();
        std::fs::write(calibration.layer_path(0), b"cut").unwrap();
        let error = calibration.read_layer(0).unwrap_err().to_string();
        assert!(
            error.contains("layer-00000.safetensors") && error.contains("remove it"),
            "{error}"
        );
    }
}
