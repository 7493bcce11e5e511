//! Rotary position encoding, half-split layout.

use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;

use super::{Float, mutate, on_cpu, rows_a_task};

/// Cosines and sines of every position, f64 [positions, D/2].
#[derive(Debug, Clone)]
pub struct Table {
    half: usize,
    cos: Vec<f64>,
    sin: Vec<f64>,
}

impl Table {
    /// Angles position x frequency, for positions 0..`positions`; `scale` multiplies both tables.
    pub fn new(frequencies: &[f64], positions: usize, scale: f64) -> Self {
        let angles = (0..positions).flat_map(|p| frequencies.iter().map(move |f| p as f64 * f));
        let (cos, sin) = angles.map(|a| (a.cos() * scale, a.sin() * scale)).unzip();
        Self { half: frequencies.len(), cos, sin }
    }

    /// Number of positions.
    pub fn positions(&self) -> usize {
        self.cos.len() / self.half
    }

    fn rows(&self, position: usize) -> (&[f64], &[f64]) {
        let range = position * self.half..(position + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

/// Rotates every head of x [N, H D] to its row's position, in place:
/// (x1, x2) -> (x1 c - x2 s, x2 c + x1 s) with x1, x2 the halves of a head.
pub fn rotate(x: &Tensor, table: &Table, positions: &[u32]) -> Result<()> {
    turn(x, table, positions, 1.0)
}

/// Rotates back, which is also the backward pass of [`rotate`]: dx from dy, in place.
pub fn rotate_back(x: &Tensor, table: &Table, positions: &[u32]) -> Result<()> {
    turn(x, table, positions, -1.0)
}

fn turn(x: &Tensor, table: &Table, positions: &[u32], sign: f64) -> Result<()> {
    let (n, width) = x.dims2()?;
    if n != positions.len() || width % (2 * table.half) != 0 {
        candle_core::bail!(
            "rope: {:?} does not fit {} positions and head size {}",
            x.shape(),
            positions.len(),
            2 * table.half
        );
    }
    if let Some(p) = positions.iter().find(|&&p| p as usize >= table.positions()) {
        candle_core::bail!("position {p} lies beyond the model's context of {}", table.positions());
    }
    on_cpu!(x, cpu_turn(x, table, positions, sign), composed_turn(x, table, positions, sign))
}

/// Rotates one row of heads; the decode step calls it directly.
pub(crate) fn turn_row<F: Float>(row: &mut [F], table: &Table, position: usize, sign: f64) {
    let half = table.half;
    let (cos, sin) = table.rows(position);
    for head in row.chunks_mut(2 * half) {
        let (first, second) = head.split_at_mut(half);
        for i in 0..half {
            let (c, s) = (F::of(cos[i]), F::of(sign * sin[i]));
            let (a, b) = (first[i], second[i]);
            first[i] = a * c - b * s;
            second[i] = b * c + a * s;
        }
    }
}

fn cpu_turn<F: Float>(x: &Tensor, table: &Table, positions: &[u32], sign: f64) -> Result<()> {
    let width = x.dim(1)?;
    mutate::<F, _>(x, |x| {
        x.par_chunks_mut(width).zip(positions).with_min_len(rows_a_task(width)).for_each(|(row, &p)| {
            turn_row(row, table, p as usize, sign);
        });
    })
}

/// Cosines and sines of `positions` [N,1,D/2], sines times `sign`, in the type and place of `like`.
pub(crate) fn angles(table: &Table, positions: &[u32], sign: f64, like: &Tensor) -> Result<(Tensor, Tensor)> {
    let gather = |values: fn(&Table, usize) -> &[f64], sign: f64| -> Result<Tensor> {
        let rows: Vec<f32> =
            positions.iter().flat_map(|&p| values(table, p as usize)).map(|v| (v * sign) as f32).collect();
        let shape = (positions.len(), 1, table.half);
        match like.dtype() {
            DType::F64 => {
                let rows: Vec<f64> =
                    positions.iter().flat_map(|&p| values(table, p as usize)).map(|v| v * sign).collect();
                Tensor::from_vec(rows, shape, like.device())
            }
            _ => Tensor::from_vec(rows, shape, like.device()),
        }
    };
    Ok((gather(|t, p| t.rows(p).0, 1.0)?, gather(|t, p| t.rows(p).1, sign)?))
}

/// x [N, H D] rotated by `angles`, by tensor calls; half precision is rotated in f32.
pub(crate) fn turned(x: &Tensor, (c, s): &(Tensor, Tensor)) -> Result<Tensor> {
    let ((n, width), half) = (x.dims2()?, c.dim(2)?);
    let split = x.to_dtype(c.dtype())?.reshape((n, width / (2 * half), 2, half))?;
    let (a, b) = (split.narrow(2, 0, 1)?.squeeze(2)?, split.narrow(2, 1, 1)?.squeeze(2)?); // [N,H,D/2]
    let first = (a.broadcast_mul(c)? - b.broadcast_mul(s)?)?;
    let second = (b.broadcast_mul(c)? + a.broadcast_mul(s)?)?;
    Tensor::stack(&[first, second], 2)?.reshape((n, width))?.to_dtype(x.dtype())
}

fn composed_turn(x: &Tensor, table: &Table, positions: &[u32], sign: f64) -> Result<()> {
    x.slice_set(&turned(x, &angles(table, positions, sign, x)?)?.contiguous()?, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check_gradient, distance, dot, normal};
    use super::*;

    #[test]
    fn backward_is_the_inverse_rotation() {
        let table = Table::new(&[1.0, 0.3, 0.01], 9, 1.0);
        let positions = [0, 8, 3, 3];
        let rotated = |x: &Tensor| {
            let y = x.copy().unwrap();
            rotate(&y, &table, &positions).unwrap();
            y
        };
        let (x, g) = (normal(1, &[4, 12]), normal(2, &[4, 12]));
        let dx = g.copy().unwrap();
        rotate_back(&dx, &table, &positions).unwrap();
        check_gradient(&x, &dx, |x| dot(&rotated(x), &g));
        let composed = x.copy().unwrap();
        composed_turn(&composed, &table, &positions, 1.0).unwrap();
        assert!(distance(&rotated(&x), &composed) < 1e-12);
        assert!(rotate(&x, &table, &[0, 1, 2, 9]).unwrap_err().to_string().contains("context of 9"));
    }
}
