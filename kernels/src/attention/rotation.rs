/// Turns pairs of channels by angles that grow with the position (rotary embedding, arXiv 2104.09864), channel i with channel
/// i + dim/2, as transformers does in `rotate_half`.
#[derive(Debug, Clone, Copy)]
pub struct Rotation<'a> {
    /// Cosines, `[positions, half]`.
    pub cosines: &'a [f32],
    /// Sines, `[positions, half]`.
    pub sines: &'a [f32],
    /// Pairs of a head that are turned; channels behind them stay.
    pub half: usize,
}

impl Rotation<'_> {
    /// Turns the heads in `row`, `[heads, dim]`, of the token at `position`.
    ///
    /// # Panics
    /// The tables do not reach so far.
    pub fn turn(&self, row: &mut [f32], dim: usize, position: usize) {
        let angles = position * self.half..(position + 1) * self.half;
        let (cosines, sines) = (&self.cosines[angles.clone()], &self.sines[angles]);
        for head in row.chunks_exact_mut(dim) {
            let (first, second) = head[..2 * self.half].split_at_mut(self.half);
            let pairs = first.iter_mut().zip(second).zip(cosines.iter().zip(sines));
            for ((a, b), (cosine, sine)) in pairs {
                (*a, *b) = (*a * cosine - *b * sine, *b * cosine + *a * sine);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_turned_and_the_rest_stays() {
        let rotation = Rotation {
            cosines: &[1.0, 1.0, 0.0, 0.6],
            sines: &[0.0, 0.0, 1.0, 0.8],
            half: 2,
        };
        let mut row = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        rotation.turn(&mut row, 6, 0);
        assert_eq!(row, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        rotation.turn(&mut row, 6, 1);
        assert_eq!(
            row,
            [-3.0, 2.0 * 0.6 - 4.0 * 0.8, 1.0, 4.0 * 0.6 + 2.0 * 0.8, 5.0, 6.0]
        );
    }
}
