//! Small constants, each stored once.

use crate::{DataType, Error, GraphBuilder, Tensor};

/// Constants are inline initializers with names of the builder's choice. Two of the same type, shape and
/// contents are one initializer.
impl GraphBuilder {
    /// The value of a tensor.
    pub fn constant(&mut self, tensor: Tensor) -> String {
        if let Some(name) = self.constants.get(&tensor) {
            return name.clone();
        }
        let name = self
            .values
            .fresh(&format!("/constants/{}_{}", tensor.dtype(), self.constants.len()));
        self.constants.insert(tensor.clone(), name.clone());
        self.initializers.add(tensor.into_proto(&name));
        name
    }

    /// The value of a [`DataType::Int64`] tensor.
    ///
    /// # Errors
    ///
    /// Those of [`Tensor::new`].
    pub fn constant_i64(&mut self, values: &[i64], dims: &[i64]) -> Result<String, Error> {
        Ok(self.constant(Tensor::i64(values, dims)?))
    }

    /// The value of a [`DataType::Int32`] tensor.
    ///
    /// # Errors
    ///
    /// Those of [`Tensor::new`].
    pub fn constant_i32(&mut self, values: &[i32], dims: &[i64]) -> Result<String, Error> {
        Ok(self.constant(Tensor::i32(values, dims)?))
    }

    /// The value of a [`DataType::Float32`] tensor.
    ///
    /// # Errors
    ///
    /// Those of [`Tensor::new`].
    pub fn constant_f32(&mut self, values: &[f32], dims: &[i64]) -> Result<String, Error> {
        Ok(self.constant(Tensor::f32(values, dims)?))
    }

    /// The value of a tensor of any floating-point type, each element rounded to it.
    ///
    /// # Errors
    ///
    /// Those of [`Tensor::floats`].
    pub fn constant_floats(
        &mut self,
        dtype: DataType,
        values: &[f32],
        dims: &[i64],
    ) -> Result<String, Error> {
        Ok(self.constant(Tensor::floats(dtype, values, dims)?))
    }

    /// The value of a [`DataType::Int64`] tensor of no dimensions.
    pub fn scalar_i64(&mut self, value: i64) -> String {
        self.constant(value.into())
    }

    /// The value of a [`DataType::Int32`] tensor of no dimensions.
    pub fn scalar_i32(&mut self, value: i32) -> String {
        self.constant(value.into())
    }

    /// The value of a [`DataType::Float32`] tensor of no dimensions.
    pub fn scalar_f32(&mut self, value: f32) -> String {
        self.constant(value.into())
    }

    /// The value of a [`DataType::Bool`] tensor of no dimensions.
    pub fn scalar_bool(&mut self, value: bool) -> String {
        self.constant(value.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_constants_are_one() {
        let mut graph = GraphBuilder::new("g");
        let one = graph.scalar_i64(1);
        assert_eq!(graph.scalar_i64(1), one);
        assert_eq!(graph.constant_i64(&[1], &[]).unwrap(), one);
        let others = [
            graph.scalar_i64(2),
            graph.constant_i64(&[1], &[1]).unwrap(),
            graph.constant_i64(&[1], &[1, 1]).unwrap(),
            graph.scalar_i32(1),
            graph.scalar_f32(1.0),
            graph.scalar_bool(true),
            graph.constant_floats(DataType::Float16, &[1.0], &[]).unwrap(),
        ];
        assert!(!others.contains(&one));
        assert_eq!(graph.constant_f32(&[1.0], &[]).unwrap(), others[4]);
        assert_eq!(graph.finish().unwrap().initializers().count(), 1 + others.len());
    }

    #[test]
    fn zero_and_minus_zero_differ() {
        let mut graph = GraphBuilder::new("g");
        assert_ne!(graph.scalar_f32(0.0), graph.scalar_f32(-0.0));
    }

    #[test]
    fn misshapen_constants_are_refused() {
        let mut graph = GraphBuilder::new("g");
        let error = graph.constant_i64(&[1, 2], &[3]).unwrap_err();
        assert!(
            matches!(
                error,
                Error::DataLength {
                    expected: 24,
                    actual: 16,
                    ..
                }
            ),
            "{error}"
        );
        let error = graph.constant_floats(DataType::Int64, &[1.0], &[]).unwrap_err();
        assert!(matches!(error, Error::NotFloat { .. }), "{error}");
    }
}
