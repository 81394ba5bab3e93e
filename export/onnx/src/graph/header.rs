//! What a model says of itself besides its graph.

use onnx_protobuf::{OperatorSetIdProto, StringStringEntryProto};

use crate::GraphBuilder;

impl GraphBuilder {
    /// Imports a version of a domain's operators; `""` is the domain of the standard ones.
    ///
    /// A second version of one domain takes the place of the first.
    pub fn opset(&mut self, domain: &str, version: i64) -> &mut Self {
        let opsets = &mut self.model.opset_import;
        match opsets.iter_mut().find(|opset| opset.domain == domain) {
            Some(opset) => opset.version = version,
            None => opsets.push(OperatorSetIdProto {
                domain: domain.to_owned(),
                version,
                ..Default::default()
            }),
        }
        self
    }

    /// Sets the version of the file format itself; 8 if never called.
    pub fn ir_version(&mut self, version: i64) -> &mut Self {
        self.model.ir_version = version;
        self
    }

    /// Sets the program that the model says made it; [`PRODUCER`](crate::PRODUCER) and this crate's version if never called.
    pub fn producer(&mut self, name: &str, version: &str) -> &mut Self {
        name.clone_into(&mut self.model.producer_name);
        version.clone_into(&mut self.model.producer_version);
        self
    }

    /// Sets the text that describes the model to people.
    pub fn doc_string(&mut self, text: &str) -> &mut Self {
        text.clone_into(&mut self.model.doc_string);
        self
    }

    /// Adds a text that programs can look up; a second value of one key takes the place of the first.
    pub fn metadata(&mut self, key: &str, value: &str) -> &mut Self {
        let entries = &mut self.model.metadata_props;
        match entries.iter_mut().find(|entry| entry.key == key) {
            Some(entry) => value.clone_into(&mut entry.value),
            None => entries.push(StringStringEntryProto {
                key: key.to_owned(),
                value: value.to_owned(),
                ..Default::default()
            }),
        }
        self
    }
}
