use std::path::{Path, PathBuf};

use lwv_model::EngineEntry;

use crate::bundle::Bundle;
use crate::card::{Card, library_version, tensorrt_version};
use crate::engine_cache::{EngineCache, EngineState, Fingerprint};
use crate::error::{Error, Result};
use crate::graph::{Graph, GraphSettings};
use crate::provider::{Device, tensorrt_rtx};
use crate::self_test::self_test;

/// What the small graph is called among engines.
const SELF_TEST: &str = "self_test";

/// Where the engines of a bundle's graphs come from, on one card.
pub(crate) struct EngineShelf {
    cache: EngineCache,
    device: Device,
    /// What all graphs' engines depend on; graph, precision and profiles are filled in for each.
    common: Fingerprint,
    plugin: Option<PathBuf>,
    card: Card,
}

impl EngineShelf {
    /// For a device that runs engines, with the library of ONNX Runtime that was loaded.
    ///
    /// # Errors
    /// The bundle is for another target; no card, no TensorRT, no plug-in.
    pub(crate) fn of(
        device: Device,
        bundle: &Bundle,
        onnxruntime: &Path,
        cache: EngineCache,
    ) -> Result<Self> {
        let failed = |reason: &str| Error::provider(&device.to_string(), reason);
        let target = bundle.manifest().target;
        if target != lwv_model::Target::TensorRt {
            return Err(failed(
                "the bundle is for target `ort`; export the checkpoint again with `--target tensorrt`, or use `--device cuda`",
            ));
        }
        let plugin = match device {
            Device::TensorRtRtx => Some(tensorrt_rtx::find(onnxruntime)?),
            _ => None,
        };
        let tensorrt = match &plugin {
            Some(plugin) => tensorrt_rtx::needed(plugin)
                .iter()
                .find_map(|library| library_version(library)),
            None => tensorrt_version(),
        };
        let card = Card::find(0)?;
        let common = Fingerprint {
            bundle: bundle.id(),
            graph: String::new(),
            precision: lwv_model::Precision::Fp16,
            profiles: std::collections::BTreeMap::new(),
            provider: device.provider_name().to_owned(),
            onnxruntime: ort::info().to_owned(),
            tensorrt: tensorrt.ok_or_else(|| failed("TensorRT's library was not found"))?,
            card: card.describe(),
            driver: card.driver.clone(),
        };
        Ok(Self {
            cache,
            device,
            common,
            plugin,
            card,
        })
    }

    /// The bundle's own engine of a graph, where it has one for this card and this library.
    fn ready_made(&self, bundle: &Bundle, graph: &str) -> Option<PathBuf> {
        let [major, minor] = self.card.compute_capability;
        let card = format!("sm{major}{minor}");
        let manifest = bundle.manifest();
        let source = manifest
            .graphs
            .get(graph)
            .and_then(|entry| manifest.files.get(&entry.file));
        let fits = |engine: &&EngineEntry| {
            engine.graph == graph
                && engine.provider == self.device.to_string()
                && engine.card == card
                && is_of_library(&engine.version, &self.common.tensorrt)
                && source.is_some_and(|source| source.sha256 == engine.graph_sha256)
        };
        let engine = manifest.engines.iter().find(fits)?;
        Some(bundle.dir().join(&engine.file))
    }

    fn fingerprint(&self, bundle: &Bundle, graph: &str) -> Fingerprint {
        let mut fingerprint = self.common.clone();
        graph.clone_into(&mut fingerprint.graph);
        if let Some(entry) = bundle.manifest().graphs.get(graph) {
            fingerprint.precision = entry.precision;
            if let Some(profiles) = bundle.manifest().profiles.get(&entry.file) {
                fingerprint.profiles.clone_from(profiles);
            }
        }
        fingerprint
    }

    /// Has the card compute a small graph, whose engine is kept as others are: built once for a card and its libraries.
    ///
    /// # Errors
    /// The provider cannot be had, or the card computes nothing or something else than the processor.
    pub(crate) fn self_test(&self, settings: &GraphSettings) -> Result<()> {
        let mut fingerprint = self.common.clone();
        (fingerprint.bundle, fingerprint.graph) = (String::new(), SELF_TEST.to_owned());
        let with_engine = |folder: &Path| {
            self_test(&GraphSettings {
                engines: Some(folder.to_owned()),
                plugin: self.plugin.clone(),
                ..settings.clone()
            })
        };
        if self.device == Device::TensorRtRtx {
            return with_engine(&self.cache.compiled_folder(&fingerprint)?);
        }
        let state = self.cache.state(&fingerprint);
        self.cache.load(&fingerprint, &state, with_engine)
    }

    /// Loads a graph with its engine, or builds one; `building` is called before, with the reason where an engine was there.
    ///
    /// # Errors
    /// The provider cannot be had or refuses the graph.
    pub(crate) fn load(
        &self,
        bundle: &Bundle,
        graph: &'static str,
        settings: &GraphSettings,
        building: &mut dyn FnMut(Option<String>),
    ) -> Result<Graph> {
        let fingerprint = self.fingerprint(bundle, graph);
        let with_engine = |folder: &Path| {
            let settings = GraphSettings {
                engines: Some(folder.to_owned()),
                plugin: self.plugin.clone(),
                file: self.ready_made(bundle, graph),
                ..settings.clone()
            };
            Graph::load(bundle, graph, &settings)
        };
        if self.device == Device::TensorRtRtx {
            // What it compiles it writes when the graph is dropped, and checks itself when it reads it.
            return with_engine(&self.cache.compiled_folder(&fingerprint)?);
        }
        let state = self.cache.state(&fingerprint);
        if let EngineState::Missing(reason) = &state {
            building(reason.clone());
        }
        self.cache.load(&fingerprint, &state, with_engine)
    }
}

/// Whether the version of an engine, `1.7.1.116`, is that of a library, `1.7.1`, which does not tell its build.
fn is_of_library(engine: &str, library: &str) -> bool {
    let rest = engine.strip_prefix(library);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_of_other_versions_do_not_fit() {
        assert!(is_of_library("1.7.1.116", "1.7.1"));
        assert!(is_of_library("1.7.1", "1.7.1"));
        assert!(!is_of_library("1.7.10.3", "1.7.1"));
        assert!(!is_of_library("1.8.0.9", "1.7.1"));
    }

    #[test]
    #[ignore = "needs ONNX Runtime; scripts/check fetches it and runs this"]
    fn a_card_is_tested_once_and_one_that_fails_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = |device: Device, driver: &str| EngineShelf {
            cache: EngineCache::new(folder.path(), u64::MAX),
            device,
            common: Fingerprint {
                bundle: "any".to_owned(),
                graph: String::new(),
                precision: lwv_model::Precision::Fp16,
                profiles: std::collections::BTreeMap::new(),
                provider: device.to_string(),
                onnxruntime: "1.32".to_owned(),
                tensorrt: "10.3".to_owned(),
                card: "a processor".to_owned(),
                driver: driver.to_owned(),
            },
            plugin: None,
            card: Card {
                name: "a processor".to_owned(),
                compute_capability: [8, 9],
                memory: 1 << 30,
                driver: driver.to_owned(),
            },
        };
        let settings = GraphSettings::plain;
        // This library has no TensorRT.
        let missing = shelf(Device::TensorRt, "1");
        let error = missing.self_test(&settings(Device::TensorRt)).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Provider);
        assert!(missing.cache.engines().unwrap().is_empty());
        for driver in ["1", "1", "2"] {
            shelf(Device::Cpu, driver)
                .self_test(&settings(Device::Cpu))
                .unwrap();
        }
        let tested = shelf(Device::Cpu, "1").cache.engines().unwrap();
        let drivers: Vec<_> = tested.iter().map(|engine| &engine.fingerprint.driver).collect();
        assert_eq!(drivers.len(), 2, "one for a card and its driver: {drivers:?}");
        assert!(tested.iter().all(|engine| engine.fingerprint.graph == SELF_TEST));
    }
}
