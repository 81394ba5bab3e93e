//! Weights under names of the caller's choice.

use onnx_protobuf::TensorProto;

use crate::{
    DataType, Dimension, Error, ExternalLocation, GraphBuilder, Tensor, initializer::external_proto,
    tensor::check_length,
};

impl GraphBuilder {
    /// Defines `name` as a tensor stored in the model, and returns `name`.
    ///
    /// `bytes` are its elements as [`Tensor::new`] wants them. The same definition again changes nothing.
    ///
    /// # Errors
    ///
    /// Those of [`Tensor::new`], [`Error::InitializerConflict`] when `name` is another initializer,
    /// [`Error::DuplicateValue`] when it is another value, and [`Error::EmptyName`] for the empty name.
    pub fn initializer_inline(
        &mut self,
        name: &str,
        dtype: DataType,
        dims: &[i64],
        bytes: Vec<u8>,
    ) -> Result<String, Error> {
        check_length(name, dtype, dims, bytes.len() as u64)?;
        self.initializer(Tensor::new(dtype, dims, bytes)?.into_proto(name))
    }

    /// Defines `name` as a tensor stored in a file beside the model, and returns `name`.
    ///
    /// The file need not exist yet. The same definition again changes nothing.
    ///
    /// # Errors
    ///
    /// As [`GraphBuilder::initializer_inline`], and [`Error::ExternalPath`] when the file is not below the
    /// model's folder.
    pub fn initializer_external(
        &mut self,
        name: &str,
        dtype: DataType,
        dims: &[i64],
        location: ExternalLocation,
    ) -> Result<String, Error> {
        self.initializer(external_proto(name, dtype, dims, &location)?)
    }

    /// Declares an input of shape `dims` that a run may leave out, which then has the value of `tensor`, and returns `name`.
    ///
    /// # Errors
    ///
    /// [`Error::DuplicateValue`] when the value is defined already, [`Error::EmptyName`] for the empty name.
    pub fn input_with_default(
        &mut self,
        name: &str,
        dims: &[Dimension],
        tensor: Tensor,
    ) -> Result<String, Error> {
        let name = self.input(name, tensor.dtype(), dims)?;
        self.initializers.add(tensor.into_proto(&name));
        Ok(name)
    }

    /// Whether `name` is an initializer of the graph so far.
    #[must_use]
    pub fn has_initializer(&self, name: &str) -> bool {
        self.initializers.contains(name)
    }

    fn initializer(&mut self, proto: TensorProto) -> Result<String, Error> {
        let name = proto.name.clone();
        if !self.initializers.holds(&proto)? {
            self.define(&name, || "an initializer".to_owned())?;
            self.initializers.add(proto);
        }
        Ok(name)
    }
}
