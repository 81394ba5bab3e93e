use candle_core::{Result, Tensor};

use super::gradient::wide;
use super::{Float, host, on_host};

/// Elementwise sum of equal shapes.
pub(crate) fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    on_host!(a, map2_host(&a, &b, Pair::Sum), &a + &b)
}

/// Elementwise product of equal shapes.
pub(crate) fn mul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    on_host!(a, map2_host(&a, &b, Pair::Product), &a * &b)
}

/// `x · sigmoid(x)`.
pub(crate) fn silu(x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    on_host!(x, silu_host(&x), x.silu())
}

/// Gradient of `x` through [`silu`]: `grad · s · (1 + x · (1 − s))` with `s = sigmoid(x)`.
pub(crate) fn silu_backward(grad: &Tensor, x: &Tensor) -> Result<Tensor> {
    let (grad, x) = (grad.contiguous()?, x.contiguous()?);
    on_host!(x, map2_host(&grad, &x, Pair::SiluGradient), {
        let (wide_grad, wide_x) = (wide(&grad)?, wide(&x)?);
        let sigmoid = (wide_x.neg()?.exp()? + 1.0)?.recip()?;
        let slope = (&sigmoid * (((1.0 - &sigmoid)? * wide_x)? + 1.0)?)?;
        (wide_grad * slope)?.to_dtype(x.dtype())
    })
}

/// `x · Φ(x)`, exact.
pub(crate) fn gelu(x: &Tensor) -> Result<Tensor> {
    x.gelu_erf()
}

/// Gradient of `x` through [`gelu`]: `grad · (Φ(x) + x · φ(x))`.
pub(crate) fn gelu_backward(grad: &Tensor, x: &Tensor) -> Result<Tensor> {
    let wide_x = wide(x)?;
    let cumulative = (((&wide_x * std::f64::consts::FRAC_1_SQRT_2)?.erf()? + 1.0)? * 0.5)?;
    let density = ((wide_x.sqr()? * -0.5)?.exp()?
        * (0.5 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2))?;
    (wide(grad)? * (cumulative + (wide_x * density)?)?)?.to_dtype(x.dtype())
}

/// Functions of two elements.
#[derive(Clone, Copy)]
enum Pair {
    Sum,
    Product,
    SiluGradient,
}

fn map2_host<T: Float>(a: &Tensor, b: &Tensor, pair: Pair) -> Result<Tensor> {
    let (left, right) = (host::elements::<T>(a)?, host::elements::<T>(b)?);
    let (left, right) = (left.slice()?, right.slice()?);
    let out = match pair {
        Pair::Sum => host::map2(
            left,
            right,
            #[inline(always)]
            |a, b| a + b,
        ),
        Pair::Product => host::map2(
            left,
            right,
            #[inline(always)]
            |a, b| a * b,
        ),
        Pair::SiluGradient => host::map2(
            left,
            right,
            #[inline(always)]
            |grad, x| {
                let sigmoid = (T::one() + (-x).fast_exp()).recip();
                grad * sigmoid * (T::one() + x * (T::one() - sigmoid))
            },
        ),
    };
    host::tensor(out, a.shape())
}

fn silu_host<T: Float>(x: &Tensor) -> Result<Tensor> {
    let values = host::elements::<T>(x)?;
    let out = host::map(
        values.slice()?,
        #[inline(always)]
        |x| x / (T::one() + (-x).fast_exp()),
    );
    host::tensor(out, x.shape())
}
