//! Engines of TensorRT for RTX, built ahead of time by NVIDIA's own compiler, which needs no card.
//!
//! An engine is put beside the graphs, with a graph of one node that ONNX Runtime's provider runs it by.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use lwv_model::{EngineEntry, GraphContract, Manifest, contract};
use lwv_onnx::{Attribute, GraphBuilder, Node, Output};
use serde::{Deserialize, Serialize};

use crate::graphs::{data_type, dimensions};
use crate::{Error, Progress};

/// The compiler's driver, which also compiles without this program.
const SCRIPT: &str = include_str!("../../scripts/tensorrt/compile.py");

/// What has to be installed for it.
const PACKAGES: &str = include_str!("../../scripts/tensorrt/requirements.txt");

/// Folder of engines in a bundle.
const FOLDER: &str = "engines";

/// Name of the provider, as devices are named.
const PROVIDER: &str = "tensorrt-rtx";

/// Engines to build with a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EngineRequest {
    /// Compute capabilities of the cards that they are for, such as `sm89`.
    pub cards: Vec<String>,
    /// Python interpreter that has TensorRT for RTX.
    pub python: PathBuf,
}

impl EngineRequest {
    /// Reads `rtx:sm89,sm120`.
    ///
    /// # Errors
    /// Other words.
    pub fn parse(words: &str, python: &Path) -> Result<Self, Error> {
        let refuse = |reason: String| Err(Error::Setting("--engine", reason));
        let Some(cards) = words.strip_prefix("rtx:") else {
            return refuse(format!(
                "`{words}` does not begin with `rtx:`, such as `rtx:sm89,sm120`"
            ));
        };
        let cards: Vec<String> = cards.split(',').map(str::to_lowercase).collect();
        let is_card = |card: &String| {
            let digits = card.strip_prefix("sm").unwrap_or("");
            (2..=3).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit())
        };
        match cards.iter().find(|card| !is_card(card)) {
            Some(card) => refuse(format!("`{card}` is no compute capability, such as `sm89`")),
            None => Ok(Self {
                cards,
                python: python.to_owned(),
            }),
        }
    }
}

/// What the driver tells of an engine.
#[derive(Debug, Deserialize)]
struct Built {
    graph: String,
    card: String,
    version: String,
}

/// Builds engines of all graphs of the bundle in `folder` and returns what its manifest says of them.
///
/// # Errors
/// The compiler cannot be had, or refuses a graph; files that cannot be written.
pub(crate) fn build_engines(
    request: &EngineRequest,
    folder: &Path,
    manifest: &Manifest,
    progress: &dyn Progress,
) -> Result<Vec<EngineEntry>, Error> {
    let count = manifest.graphs.len() * request.cards.len();
    let mut compiler = Compiler::start(request, folder)?;
    let mut entries = Vec::new();
    let stdout = compiler.process.stdout.take().map(BufReader::new);
    for line in stdout.into_iter().flat_map(BufRead::lines) {
        let line = line.map_err(Error::io("read from", &request.python))?;
        progress.step("building engines", entries.len(), count);
        // The compiler's own words are no objects.
        if let Ok(built) = serde_json::from_str::<Built>(&line)
            && manifest.graphs.contains_key(&built.graph)
        {
            entries.push(entry(&built, folder, manifest)?);
        }
    }
    compiler.finish(&request.python)?;
    Ok(entries)
}

/// A running compiler.
struct Compiler {
    process: Child,
    /// What it complains of; in a file, since nobody reads it before the end.
    complaints: File,
}

impl Compiler {
    /// The script goes in by standard input, so that it needs no place of its own.
    fn start(request: &EngineRequest, folder: &Path) -> Result<Self, Error> {
        let failed = || Error::io("run", &request.python);
        let complaints = tempfile::tempfile().map_err(failed())?;
        let mut process = Command::new(&request.python)
            .arg("-")
            .arg(folder)
            .args(["--keep", "--json", "--cards"])
            .args(request.cards.iter().map(|card| card.to_uppercase()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(complaints.try_clone().map_err(failed())?)
            .spawn()
            .map_err(failed())?;
        if let Some(mut stdin) = process.stdin.take() {
            // Who has ended already says why later.
            let _ended = stdin.write_all(SCRIPT.as_bytes());
        }
        Ok(Self { process, complaints })
    }

    fn finish(mut self, python: &Path) -> Result<(), Error> {
        let failed = || Error::io("wait for", python);
        if self.process.wait().map_err(failed())?.success() {
            return Ok(());
        }
        let mut words = Vec::new();
        self.complaints.rewind().map_err(failed())?;
        self.complaints.read_to_end(&mut words).map_err(failed())?;
        let words = String::from_utf8_lossy(&words);
        let packages = PACKAGES.split_whitespace().collect::<Vec<_>>().join(" ");
        Err(Error::Compiler {
            python: python.to_owned(),
            advice: match words.contains("No module named 'tensorrt_rtx_bindings'") {
                true => format!("; install {packages} for it, or name one that has them with --python"),
                false => String::new(),
            },
            words: words.trim().to_owned(),
        })
    }
}

/// Writes the graph that runs an engine.
fn entry(built: &Built, folder: &Path, manifest: &Manifest) -> Result<EngineEntry, Error> {
    let graph = &manifest.graphs[&built.graph];
    let file = format!("{FOLDER}/{}.{}.onnx", built.graph, built.card);
    runner(built, &graph.contract)?.write(folder.join(&file))?;
    let source = manifest.files.get(&graph.file);
    Ok(EngineEntry {
        graph: built.graph.clone(),
        graph_sha256: source.map(|file| file.sha256.clone()).unwrap_or_default(),
        provider: PROVIDER.to_owned(),
        version: built.version.clone(),
        card: built.card.clone(),
        file,
    })
}

/// A graph of one node, which names the engine's file (onnxruntime's `EPContext`).
fn runner(built: &Built, contract: &GraphContract) -> Result<lwv_onnx::Model, Error> {
    let mut graph = GraphBuilder::new(&built.graph);
    graph.opset("", 18).opset("com.microsoft", 1);
    for input in &contract.inputs {
        graph.input(&input.name, data_type(input.element_type), &dimensions(input))?;
    }
    let engine = format!("{}.{}.engine", built.graph, built.card);
    let inputs: Vec<&str> = contract.inputs.iter().map(|input| input.name.as_str()).collect();
    let node = Node::in_domain("com.microsoft", "EPContext", &inputs).with([
        // Every graph has an engine of its own.
        Attribute::int("main_context", 0),
        Attribute::int("embed_mode", 0),
        Attribute::string("ep_cache_context", &engine),
        Attribute::string("ep_sdk_version", &sdk_version(&built.version)),
        Attribute::string("hardware_architecture", built.card.trim_start_matches("sm")),
        Attribute::string("partition_name", &built.graph),
        Attribute::string("onnx_model_filename", &contract::graph_file(&built.graph)),
        Attribute::string("source", "NvTensorRTRTXExecutionProvider"),
    ]);
    let outputs = contract
        .outputs
        .iter()
        .map(|output| Output::Named(output.name.clone()));
    graph.node_with_outputs(node, &outputs.collect::<Vec<_>>())?;
    for output in &contract.outputs {
        let dtype = data_type(output.element_type);
        graph.output(&output.name, &output.name, dtype, &dimensions(output))?;
    }
    Ok(graph.finish()?)
}

/// A version as the library counts it: `1.7.1.116` is 10701.
fn sdk_version(version: &str) -> String {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next() * 10_000 + next() * 100 + next()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_read_and_others_refused() {
        let request = EngineRequest::parse("rtx:sm89,SM120", Path::new("python3")).unwrap();
        assert_eq!(request.cards, ["sm89", "sm120"]);
        for (words, part) in [
            ("sm89", "rtx:"),
            ("rtx:89", "`89`"),
            ("rtx:", "``"),
            ("rtx:sm8x", "`sm8x`"),
        ] {
            let error = EngineRequest::parse(words, Path::new("python3")).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn versions_are_numbers_as_the_library_has_them() {
        assert_eq!(sdk_version("1.7.1.116"), "10701");
        assert_eq!(sdk_version("10.3"), "100300");
    }

    #[test]
    fn a_python_without_the_compiler_is_told_what_to_install() {
        let folder = tempfile::tempdir().unwrap();
        let python = folder.path().join("python");
        std::fs::write(
            &python,
            "#!/bin/sh\necho \"No module named 'tensorrt_rtx_bindings'\" >&2\nexit 1\n",
        )
        .unwrap();
        std::fs::set_permissions(&python, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let request = EngineRequest::parse("rtx:sm89", &python).unwrap();
        let compiler = Compiler::start(&request, folder.path()).unwrap();
        let error = compiler.finish(&python).unwrap_err().to_string();
        assert!(
            error.contains("--python") && error.contains("tensorrt-rtx-cu13-bindings=="),
            "{error}"
        );
    }
}
