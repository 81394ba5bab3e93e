use candle_core::{D, Result, Tensor};

use super::gemm::{Matrix, Target, Threads, multiply, product};
use super::gradient::Gradient;
use super::{Float, host, on_host};

/// `x · weightᵀ + bias`: `[…, in]` to `[…, out]`; `weight` is `[out, in]`.
pub(crate) fn forward(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let x = x.contiguous()?;
    on_host!(x, forward_host(&x, weight, bias), {
        let (out, width) = weight.dims2()?;
        let rows = x.reshape(((), width))?.matmul(&weight.t()?)?;
        let rows = match bias {
            Some(bias) => rows.broadcast_add(bias)?,
            None => rows,
        };
        rows.reshape(with_width(&x, out))
    })
}

/// Gradient of `x`, given that of the result: `grad · weight`.
pub(crate) fn input_gradient(grad: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let grad = grad.contiguous()?;
    on_host!(grad, input_gradient_host(&grad, weight), {
        let (out, width) = weight.dims2()?;
        let rows = grad.reshape(((), out))?.matmul(weight)?;
        rows.reshape(with_width(&grad, width))
    })
}

/// Adds the gradient of `weight`, `gradᵀ · x`, to `sum`.
pub(crate) fn add_weight_gradient(grad: &Tensor, x: &Tensor, shape: &[usize], sum: &Gradient) -> Result<()> {
    let (grad, x) = (grad.contiguous()?, x.contiguous()?);
    on_host!(grad, add_weight_gradient_host(&grad, &x, shape, sum), {
        let rows = |t: &Tensor| t.reshape(((), t.dim(D::Minus1)?));
        sum.add(&rows(&grad)?.t()?.matmul(&rows(&x)?)?.reshape(shape)?)
    })
}

/// Adds the gradient of `bias`, the sum of `grad` over all rows, to `sum`.
pub(crate) fn add_bias_gradient(grad: &Tensor, sum: &Gradient) -> Result<()> {
    let grad = grad.contiguous()?;
    on_host!(grad, add_bias_gradient_host(&grad, sum), {
        let width = grad.dim(D::Minus1)?;
        sum.add(&super::gradient::wide(&grad)?.reshape(((), width))?.sum(0)?)
    })
}

/// The shape of `x` with another width.
pub(crate) fn with_width(x: &Tensor, width: usize) -> Vec<usize> {
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = width;
    }
    shape
}

fn forward_host<T: Float>(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (out, width) = weight.dims2()?;
    let rows = x.elem_count() / width;
    let (x_values, weight) = (host::elements::<T>(x)?, host::elements::<T>(weight)?);
    let left = Matrix::new(x_values.slice()?, rows, width, width);
    let right = Matrix::new(weight.slice()?, out, width, width).t();
    let result = match bias {
        None => product(left, right),
        Some(bias) => {
            let mut result = host::elements::<T>(bias)?.slice()?.repeat(rows);
            multiply(
                (&mut result, out),
                Target::Add,
                left,
                right,
                T::one(),
                Threads::Pool,
            );
            result
        }
    };
    host::tensor(result, with_width(x, out))
}

fn input_gradient_host<T: Float>(grad: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (out, width) = weight.dims2()?;
    let rows = grad.elem_count() / out;
    let (values, weight) = (host::elements::<T>(grad)?, host::elements::<T>(weight)?);
    let left = Matrix::new(values.slice()?, rows, out, out);
    let right = Matrix::new(weight.slice()?, out, width, width);
    host::tensor(product(left, right), with_width(grad, width))
}

fn add_weight_gradient_host<T: Float>(
    grad: &Tensor,
    x: &Tensor,
    shape: &[usize],
    sum: &Gradient,
) -> Result<()> {
    let (out, width) = (grad.dim(D::Minus1)?, x.dim(D::Minus1)?);
    let rows = grad.elem_count() / out;
    let (grad, x) = (host::elements::<T>(grad)?, host::elements::<T>(x)?);
    let left = Matrix::new(grad.slice()?, rows, out, out).t();
    let right = Matrix::new(x.slice()?, rows, width, width);
    sum.add_with(shape, |sum, keep| {
        multiply((sum, width), keep, left, right, T::one(), Threads::Pool);
    })
}

fn add_bias_gradient_host<T: Float>(grad: &Tensor, sum: &Gradient) -> Result<()> {
    let width = grad.dim(D::Minus1)?;
    let grad = host::elements::<T>(grad)?;
    let columns = host::column_sums(grad.slice()?, width, |row, _, sums| {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += *value);
    });
    sum.add_with(&[width], |sum, keep| host::store(sum, &columns, keep))
}
