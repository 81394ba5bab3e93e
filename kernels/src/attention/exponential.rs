/// `e` to the power of `x`, in a form that the compiler turns into vector instructions. Below about −87 the result stays at
/// the smallest normal number.
///
/// Cephes' `expf`: the argument is split into a multiple of ln 2 and a rest, whose exponential is a polynomial of degree 7.
/// Within 1 unit in the last place or two.
#[inline(always)]
pub fn fast_exp(x: f32) -> f32 {
    /// Adding this to a small number rounds it to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.3, 88.3);
    let rounded = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = 1.987_569_1e-4_f32
        .mul_add(r, 1.398_199_9e-3)
        .mul_add(r, 8.333_452e-3)
        .mul_add(r, 4.166_579_6e-2)
        .mul_add(r, 1.666_666_5e-1)
        .mul_add(r, 0.5);
    let y = p.mul_add(r * r, r + 1.0);
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    y * f32::from_bits(exponent << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_right_to_the_last_digits() {
        for step in -870..880 {
            let x = step as f32 / 10.0;
            let want = f64::from(x).exp();
            let error = (f64::from(fast_exp(x)) - want).abs() / want;
            assert!(error < 2e-7, "{x}: {error}");
        }
        assert!(fast_exp(-1000.0) < 2e-38);
    }
}
