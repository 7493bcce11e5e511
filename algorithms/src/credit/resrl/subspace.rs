//! The low-rank subspace of the right completions' hidden states, and what of a state lies outside it.

use candle_core::{DType, Device, Tensor};
use faer::{Mat, MatRef};

use crate::rng::Rng;
use crate::{Error, Result};

/// Added to the variance of the layer norm.
const NORM_EPS: f64 = 1e-5;
/// Up to this many rows or columns the decomposition is exact, beyond it randomised.
const EXACT_UP_TO: usize = 512;
/// Directions of the randomised search beyond those wanted.
const OVERSAMPLING: usize = 10;
/// Power steps of the randomised search, with an orthonormal basis after every product.
const POWER_STEPS: usize = 2;

/// A centre and k orthonormal directions.
pub struct Subspace {
    /// Mean of the fitted rows, [1,H].
    pub centre: Tensor,
    /// Directions, orthonormal rows, [k,H]; fewer than `rank` where the rows span less.
    pub directions: Tensor,
    /// min(rank wanted, M - 1, H).
    pub rank: usize,
    /// The largest singular values of the centred rows, falling: all of them if the decomposition is exact.
    pub singular_values: Vec<f64>,
    /// Share of the centred rows' squared length that lies in the subspace; 1 if there is none.
    pub energy: f64,
}

/// Rows to mean 0 and (population) variance 1, without scale or bias: [M,H], f64 stays, all else is f32.
pub fn layer_norm(states: &Tensor) -> Result<Tensor> {
    let dtype = if states.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let x = states.to_device(&Device::Cpu)?.to_dtype(dtype)?;
    let x = x.broadcast_sub(&x.mean_keepdim(1)?)?;
    let deviation = (x.sqr()?.mean_keepdim(1)? + NORM_EPS)?.sqrt()?; // [M,1]
    Ok(x.broadcast_div(&deviation)?)
}

impl Subspace {
    /// The `rank` leading principal directions of rows [M,H] about their mean; M >= 1.
    ///
    /// Exact (thin SVD in f64) while M or H is small, else randomised subspace iteration (Halko and
    /// others, arXiv 0909.4061) whose tall products are in the rows' own type. Rows that are all the
    /// same give no direction.
    ///
    /// Errors: [`Error::Tensor`] if a decomposition fails.
    pub fn fit(rows: &Tensor, rank: usize) -> Result<Self> {
        let (m, h) = rows.dims2()?;
        let centre = rows.mean_keepdim(0)?; // [1,H]
        let centred = rows.broadcast_sub(&centre)?; // [M,H]
        let total = squares(&centred)?;
        let rank = rank.min(m - 1).min(h);
        if rank == 0 || total == 0.0 {
            let directions = Tensor::zeros((0, h), rows.dtype(), &Device::Cpu)?;
            return Ok(Self { centre, directions, rank, singular_values: vec![0.0; m.min(h)], energy: 1.0 });
        }
        let (values, right) = match m.min(h) <= EXACT_UP_TO {
            true => svd(matrix(&centred)?.as_ref())?,
            false => randomised(&centred, rank)?,
        };
        // A direction without length is any direction: it would take a random part out of the residual.
        let least = if rows.dtype() == DType::F64 { 1e-12 } else { 1e-6 };
        let kept = values.iter().take(rank).filter(|s| **s > least * values[0]).count();
        let energy = values[..kept].iter().map(|s| s * s).sum::<f64>() / total;
        let flat: Vec<f64> = (0..kept).flat_map(|k| (0..h).map(move |j| (j, k))).map(|(j, k)| right[(j, k)]).collect();
        let directions = Tensor::from_vec(flat, (kept, h), &Device::Cpu)?.to_dtype(rows.dtype())?;
        Ok(Self { centre, directions, rank, singular_values: values, energy })
    }

    /// Energy outside the subspace, R = max(0, ||x||^2 - ||V^T x||^2) / H with x = row - centre, of rows [n,H].
    pub fn residual(&self, rows: &Tensor) -> Result<Vec<f64>> {
        let h = rows.dim(1)? as f64;
        let x = rows.broadcast_sub(&self.centre)?; // [n,H]
        let mut residual = row_squares(&x)?;
        if self.directions.dim(0)? > 0 {
            let inside = row_squares(&x.matmul(&self.directions.t()?)?)?; // of [n,k]
            residual.iter_mut().zip(inside).for_each(|(r, i)| *r -= i);
        }
        Ok(residual.into_iter().map(|r| r.max(0.0) / h).collect())
    }
}

fn row_squares(x: &Tensor) -> Result<Vec<f64>> {
    Ok(x.to_dtype(DType::F64)?.sqr()?.sum(1)?.to_vec1()?)
}

fn squares(x: &Tensor) -> Result<f64> {
    Ok(row_squares(x)?.into_iter().sum())
}

fn matrix(x: &Tensor) -> Result<Mat<f64>> {
    let (m, h) = x.dims2()?;
    let data: Vec<f64> = x.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    Ok(Mat::from_fn(m, h, |i, j| data[i * h + j]))
}

fn tensor(x: MatRef<f64>, dtype: DType) -> Result<Tensor> {
    let data: Vec<f64> = (0..x.nrows()).flat_map(|i| (0..x.ncols()).map(move |j| x[(i, j)])).collect();
    Ok(Tensor::from_vec(data, (x.nrows(), x.ncols()), &Device::Cpu)?.to_dtype(dtype)?)
}

/// Singular values, falling, and right singular vectors, [H,min(M,H)].
fn svd(x: MatRef<f64>) -> Result<(Vec<f64>, Mat<f64>)> {
    let failed = |e| Error::Tensor(candle_core::Error::Msg(format!("the singular value decomposition failed: {e:?}")));
    let svd = x.thin_svd().map_err(failed)?;
    let values = svd.S().column_vector();
    Ok(((0..values.nrows()).map(|i| values[i]).collect(), svd.V().to_owned()))
}

/// An orthonormal basis of the columns of x [N,l], in x's type.
fn basis(x: &Tensor) -> Result<Tensor> {
    let q = matrix(x)?.qr().compute_thin_Q();
    tensor(q.as_ref(), x.dtype())
}

fn randomised(x: &Tensor, rank: usize) -> Result<(Vec<f64>, Mat<f64>)> {
    let (m, h) = x.dims2()?;
    let width = (rank + OVERSAMPLING).min(m).min(h);
    let mut rng = Rng::keyed(&[0x5b5b, m as u64, h as u64]);
    let start: Vec<f64> = (0..h * width).map(|_| rng.normal()).collect();
    let start = Tensor::from_vec(start, (h, width), &Device::Cpu)?.to_dtype(x.dtype())?;
    let turned = x.t()?.contiguous()?; // [H,M]
    let mut left = basis(&x.matmul(&start)?)?; // [M,l]
    for _ in 0..POWER_STEPS {
        let right = basis(&turned.matmul(&left)?)?; // [H,l]
        left = basis(&x.matmul(&right)?)?;
    }
    svd(matrix(&left.t()?.matmul(x)?)?.as_ref()) // of [l,H]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows with a spectrum falling as 1/j plus noise.
    fn rows(m: usize, h: usize, dtype: DType) -> Tensor {
        let mut rng = Rng::keyed(&[m as u64, h as u64]);
        let mut normal = |n: usize| -> Vec<f64> { (0..n).map(|_| rng.normal()).collect() };
        let spectrum: Vec<f64> = (0..40).map(|j| 1.0 / (1.0 + j as f64)).collect();
        let left = Tensor::from_vec(normal(m * 40), (m, 40), &Device::Cpu).unwrap();
        let right = Tensor::from_vec(normal(40 * h), (40, h), &Device::Cpu).unwrap();
        let spectrum = Tensor::from_vec(spectrum, (1, 40), &Device::Cpu).unwrap();
        let noise = Tensor::from_vec(normal(m * h), (m, h), &Device::Cpu).unwrap();
        let x = (left.broadcast_mul(&spectrum).unwrap().matmul(&right).unwrap() + (noise * 1e-3).unwrap()).unwrap();
        x.to_dtype(dtype).unwrap()
    }

    fn defect(directions: &Tensor) -> f64 {
        let gram = directions.matmul(&directions.t().unwrap()).unwrap().to_dtype(DType::F64).unwrap();
        let unit = Tensor::eye(gram.dim(0).unwrap(), DType::F64, &Device::Cpu).unwrap();
        squares(&(gram - unit).unwrap()).unwrap().sqrt()
    }

    #[test]
    fn the_randomised_search_finds_what_the_exact_one_does() {
        let x = rows(700, 600, DType::F32);
        let found = Subspace::fit(&x, 8).unwrap();
        assert!(defect(&found.directions) < 1e-4, "{}", defect(&found.directions));
        let centred = x.broadcast_sub(&x.mean_keepdim(0).unwrap()).unwrap();
        let (values, right) = svd(matrix(&centred).unwrap().as_ref()).unwrap();
        let energy = values[..8].iter().map(|s| s * s).sum::<f64>() / values.iter().map(|s| s * s).sum::<f64>();
        assert!(found.energy > 0.9999 * energy, "{} of {energy}", found.energy);
        let exact = tensor(right.as_ref().subcols(0, 8).transpose(), DType::F32).unwrap();
        let exact = Subspace { directions: exact, ..Subspace::fit(&x, 1).unwrap() };
        let (a, b) = (found.residual(&x).unwrap(), exact.residual(&x).unwrap());
        let gap = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(gap < 1e-3 * b.iter().copied().fold(0.0, f64::max), "{gap}");
    }

    #[test]
    fn equal_rows_have_no_direction_and_few_rows_cap_the_rank() {
        let same = Tensor::ones((5, 4), DType::F64, &Device::Cpu).unwrap();
        let found = Subspace::fit(&same, 3).unwrap();
        assert_eq!((found.directions.dim(0).unwrap(), found.rank, found.energy), (0, 3, 1.0));
        assert_eq!(found.residual(&(same * 3.0).unwrap()).unwrap(), [4.0; 5]);
        let few = Subspace::fit(&rows(3, 6, DType::F64), 64).unwrap();
        assert_eq!((few.rank, few.directions.dim(0).unwrap()), (2, 2));
        assert!((few.energy - 1.0).abs() < 1e-12);
    }
}
