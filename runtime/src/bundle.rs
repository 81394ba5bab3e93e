use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lwv_model::{Dimension, GraphContract, Manifest, ModelConfig, TensorContract, contract};

use crate::cancel::CancelToken;
use crate::error::{Inner, Result};
use crate::file_hash::{hash_bytes, hash_file};

/// A bundle folder whose manifest was checked: every file is there with its size, and the graphs promise what the
/// runtime needs.
#[derive(Debug, Clone)]
pub struct Bundle {
    dir: PathBuf,
    manifest: Manifest,
    config: ModelConfig,
}

impl Bundle {
    /// Opens the folder `dir` and checks its manifest. Hashes are not checked here, since that reads every byte:
    /// see [`verify_hashes`](Self::verify_hashes).
    ///
    /// # Errors
    /// No manifest, one of another format or family, a file that is missing or has another size, a graph that is
    /// missing or has other inputs or outputs than this version knows. The text names the file or graph.
    pub fn open(dir: &Path) -> Result<Self> {
        let not_a_bundle = |source| Inner::Manifest {
            path: dir.to_owned(),
            source,
        };
        let manifest = Manifest::from_dir(dir).map_err(not_a_bundle)?;
        check_files(dir, &manifest)?;
        let config = ModelConfig::from_dir(dir).map_err(not_a_bundle)?;
        let bundle = Self {
            dir: dir.to_owned(),
            manifest,
            config,
        };
        bundle.check_family()?;
        bundle.check_graphs()?;
        Ok(bundle)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What `lwv.json` says.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What `config.json` says.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Hash of what `lwv.json` says of all files, by which bundles are told apart.
    pub fn id(&self) -> String {
        hash_bytes(&serde_json::to_vec(&self.manifest.files).unwrap_or_default())
    }

    /// Sum of the sizes of all files in bytes.
    pub fn bytes(&self) -> u64 {
        self.manifest.files.values().map(|file| file.bytes).sum()
    }

    /// Reads every file and compares its SHA-256 with the manifest's. `progress` is called with the bytes read so far
    /// and the bytes in all.
    ///
    /// # Errors
    /// A file that cannot be read or has another hash; the text names it.
    pub fn verify_hashes(&self, progress: impl FnMut(u64, u64)) -> Result<()> {
        self.verify_hashes_under(&CancelToken::new(), progress)
    }

    /// The same, until `cancel` is cancelled.
    pub(crate) fn verify_hashes_under(
        &self,
        cancel: &CancelToken,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<()> {
        let (mut done, total) = (0, self.bytes());
        for (name, entry) in &self.manifest.files {
            let path = self.dir.join(name);
            let found = hash_file(&path, |bytes| {
                done += bytes;
                progress(done, total);
                cancel.check()
            })?;
            if !found.eq_ignore_ascii_case(&entry.sha256) {
                return Err(Inner::FileHash {
                    path,
                    found,
                    expected: entry.sha256.clone(),
                }
                .into());
            }
        }
        Ok(())
    }

    /// File of `graph`.
    pub(crate) fn graph_path(&self, graph: &str) -> PathBuf {
        let file = self.manifest.graphs.get(graph).map(|entry| entry.file.clone());
        self.dir.join(file.unwrap_or_else(|| contract::graph_file(graph)))
    }

    /// The graphs that the runtime runs.
    pub(crate) fn graphs(&self) -> Vec<&'static str> {
        let vision = self.config.vision.as_ref().map(|_| contract::VISION_ENCODER);
        [contract::DECODER, contract::EMBED_TOKENS]
            .into_iter()
            .chain(vision)
            .collect()
    }

    /// Most new tokens that the decoder takes in one run: what its engines are built for, where it has any.
    pub(crate) fn longest_chunk(&self) -> usize {
        let profiles = self
            .manifest
            .profiles
            .get(&contract::graph_file(contract::DECODER));
        let embeds = profiles.and_then(|inputs| inputs.get(contract::INPUTS_EMBEDS));
        embeds
            .and_then(|profile| profile.max.get(1).copied())
            .unwrap_or(usize::MAX)
    }

    fn check_family(&self) -> Result<()> {
        let config = self.config.family.model_type();
        if self.manifest.family == config {
            return Ok(());
        }
        Err(Inner::Family {
            manifest: self.manifest.family.clone(),
            config: config.to_owned(),
        }
        .into())
    }

    fn check_graphs(&self) -> Result<()> {
        for graph in self.graphs() {
            let Some(entry) = self.manifest.graphs.get(graph) else {
                let family = self.manifest.family.clone();
                return Err(Inner::MissingGraph {
                    graph: graph.to_owned(),
                    family,
                }
                .into());
            };
            compare_contracts(graph, &self.expected_contract(graph), &entry.contract)?;
        }
        Ok(())
    }

    /// What this version expects at the borders of `graph`.
    fn expected_contract(&self, graph: &str) -> GraphContract {
        match (graph, &self.config.vision) {
            (contract::VISION_ENCODER, Some(vision)) => {
                contract::vision_encoder(vision, self.manifest.target)
            }
            (contract::EMBED_TOKENS, _) => contract::embed_tokens(&self.config.text),
            _ => self.expected_decoder(),
        }
    }

    fn expected_decoder(&self) -> GraphContract {
        let mut decoder = match self.scores_several() {
            true => contract::scoring_decoder(&self.config, self.cache_type()),
            false => contract::decoder(&self.config, self.cache_type()),
        };
        let of_adapters = contract::adapter_inputs(&self.manifest.adapted);
        decoder.optional_inputs.extend(of_adapters);
        decoder
    }

    /// Whether the decoder scores more than the last position when it is asked to, as the manifest says.
    pub(crate) fn scores_several(&self) -> bool {
        let decoder = self.manifest.graphs.get(contract::DECODER);
        let mut optional = decoder
            .into_iter()
            .flat_map(|entry| &entry.contract.optional_inputs);
        optional.any(|input| input.name == contract::SCORED_POSITIONS)
    }

    /// Type of the cache's elements, as the manifest says.
    pub(crate) fn cache_type(&self) -> lwv_model::ElementType {
        let decoder = self.manifest.graphs.get(contract::DECODER);
        let key = contract::past_key(0);
        decoder
            .and_then(|entry| entry.contract.inputs.iter().find(|input| input.name == key))
            .map_or(lwv_model::ElementType::Float32, |input| input.element_type)
    }
}

fn check_files(dir: &Path, manifest: &Manifest) -> Result<()> {
    for (name, entry) in &manifest.files {
        let path = dir.join(name);
        let found = match std::fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Inner::MissingFile { path }.into());
            }
            Err(source) => return Err(Inner::Read { path, source }.into()),
        };
        if found != entry.bytes {
            return Err(Inner::FileSize {
                path,
                found,
                expected: entry.bytes,
            }
            .into());
        }
    }
    Ok(())
}

/// Compares the borders of `graph` with what is expected: every tensor is there, none is too many, types are equal, and
/// dimensions that are fixed in both are equal.
pub(crate) fn compare_contracts(graph: &str, expected: &GraphContract, found: &GraphContract) -> Result<()> {
    compare_tensors(graph, "input", &expected.inputs, &found.inputs)?;
    let optional = [&expected.optional_inputs, &found.optional_inputs];
    compare_tensors(graph, "optional input", optional[0], optional[1])?;
    compare_tensors(graph, "output", &expected.outputs, &found.outputs)
}

fn compare_tensors(
    graph: &str,
    what: &'static str,
    expected: &[TensorContract],
    found: &[TensorContract],
) -> Result<()> {
    let wrong = |tensor: &str, problem: String| {
        Err(Inner::Contract {
            graph: graph.to_owned(),
            what,
            tensor: tensor.to_owned(),
            problem,
        }
        .into())
    };
    for tensor in expected {
        let Some(found) = found.iter().find(|found| found.name == tensor.name) else {
            return wrong(&tensor.name, "is missing".to_owned());
        };
        if found.element_type != tensor.element_type {
            return wrong(
                &tensor.name,
                format!("has type {:?}, not {:?}", found.element_type, tensor.element_type),
            );
        }
        if !dims_agree(&tensor.dims, &found.dims) {
            return wrong(
                &tensor.name,
                format!("has shape {}, not {}", dims(&found.dims), dims(&tensor.dims)),
            );
        }
    }
    let known: BTreeSet<&str> = expected.iter().map(|tensor| tensor.name.as_str()).collect();
    match found.iter().find(|tensor| !known.contains(tensor.name.as_str())) {
        Some(tensor) => wrong(&tensor.name, "is not known to this version".to_owned()),
        None => Ok(()),
    }
}

fn dims_agree(expected: &[Dimension], found: &[Dimension]) -> bool {
    expected.len() == found.len()
        && expected.iter().zip(found).all(|pair| match pair {
            (Dimension::Size(a), Dimension::Size(b)) => a == b,
            _ => true,
        })
}

fn dims(dims: &[Dimension]) -> String {
    let names = dims.iter().map(|dim| match dim {
        Dimension::Size(size) => size.to_string(),
        Dimension::Symbol(name) => name.clone(),
    });
    format!("[{}]", names.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use lwv_model::{ElementType, FileEntry, GraphEntry, Precision, Target};

    fn llama() -> serde_json::Value {
        serde_json::json!({"model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 20, "max_position_embeddings": 64,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "eos_token_id": 2})
    }

    /// A bundle of empty graphs, whose manifest can be spoilt before it is written.
    fn write(dir: &Path, spoil: impl FnOnce(&mut Manifest)) {
        std::fs::write(dir.join("config.json"), llama().to_string()).unwrap();
        let config = ModelConfig::from_value(&llama()).unwrap();
        let entry = |graph: &str, contract| GraphEntry {
            file: contract::graph_file(graph),
            precision: Precision::Fp32,
            opset: 21,
            nodes: 1,
            contract,
        };
        let decoder = contract::decoder(&config, ElementType::Float32);
        let graphs = [
            (contract::DECODER, decoder),
            (contract::EMBED_TOKENS, contract::embed_tokens(&config.text)),
        ];
        let bytes = llama().to_string().len() as u64;
        let sha256 = hash_file(&dir.join("config.json"), |_| Ok(())).unwrap();
        let mut manifest = Manifest {
            format_version: lwv_model::FORMAT_VERSION,
            producer: "test".into(),
            family: "llama".into(),
            target: Target::Ort,
            tensorrt_version: None,
            source: String::new(),
            graphs: graphs
                .map(|(name, contract)| (name.to_owned(), entry(name, contract)))
                .into(),
            files: [("config.json".to_owned(), FileEntry { bytes, sha256 })].into(),
            images: None,
            context_length: 64,
            profiles: std::collections::BTreeMap::new(),
            islands: std::collections::BTreeMap::new(),
            quantization: None,
            adapted: Vec::new(),
            engines: Vec::new(),
            parity: None,
        };
        spoil(&mut manifest);
        std::fs::write(
            dir.join(Manifest::FILE),
            serde_json::to_string(&manifest).unwrap(),
        )
        .unwrap();
    }

    fn error_after(spoil: impl FnOnce(&mut Manifest)) -> String {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), spoil);
        let error = Bundle::open(dir.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Bundle);
        error.to_string()
    }

    #[test]
    fn a_good_bundle_opens_and_its_hashes_agree() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), |_| ());
        let bundle = Bundle::open(dir.path()).unwrap();
        let mut seen = 0;
        bundle
            .verify_hashes(|done, total| seen = done * 100 / total)
            .unwrap();
        assert_eq!((seen, bundle.cache_type()), (100, ElementType::Float32));
    }

    #[test]
    fn errors_name_the_file() {
        let missing = FileEntry {
            bytes: 1,
            sha256: String::new(),
        };
        assert!(error_after(|m| drop(m.files.insert("x.bin".into(), missing))).contains("x.bin` is missing"));
        assert!(
            error_after(|m| m.files.values_mut().for_each(|file| file.bytes += 1))
                .contains("config.json` has")
        );
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), |m| {
            m.files.values_mut().for_each(|file| file.sha256 = "0".repeat(64))
        });
        let error = Bundle::open(dir.path())
            .unwrap()
            .verify_hashes(|_, _| ())
            .unwrap_err()
            .to_string();
        assert!(error.contains("config.json` has SHA-256"), "{error}");
        let empty = tempfile::tempdir().unwrap();
        assert!(
            Bundle::open(empty.path())
                .unwrap_err()
                .to_string()
                .contains("lwv.json")
        );
    }

    #[test]
    fn errors_name_graph_and_tensor() {
        let graph = |m: &mut Manifest| m.graphs.get_mut(contract::DECODER).unwrap().contract.clone();
        let set = |m: &mut Manifest, c| m.graphs.get_mut(contract::DECODER).unwrap().contract = c;
        let message = error_after(|m| {
            let mut contract = graph(m);
            contract.inputs.retain(|input| input.name != "attention_mask");
            set(m, contract);
        });
        assert!(
            message.contains("`decoder_model_merged`, input `attention_mask`: is missing"),
            "{message}"
        );
        let message = error_after(|m| {
            let mut contract = graph(m);
            contract.outputs[0].dims[2] = Dimension::Size(21);
            set(m, contract);
        });
        assert!(
            message.contains("has shape [batch_size, 1, 21], not [batch_size, 1, 20]"),
            "{message}"
        );
        assert!(error_after(|m| drop(m.graphs.remove("embed_tokens"))).contains("no graph `embed_tokens`"));
        assert!(error_after(|m| m.family = "qwen2".into()).contains("family `qwen2`"));
        assert!(error_after(|m| m.format_version = 9).contains("format_version"));
    }
}
