//! The low-rank subspace of the right completions' hidden states, and what of a state lies outside it.

use candle_core::{DType, Device, Tensor};

use super::eigen::eigen;
use super::jacobi::{self, Columns};
use crate::rng::Rng;
use crate::{Error, Result};

/// Added to the variance of the layer norm.
const NORM_EPS: f64 = 1e-5;
/// Up to this many rows or columns the decomposition is exact, beyond it randomised.
const EXACT_UP_TO: usize = 128;
/// Directions of the randomised search beyond those wanted.
const OVERSAMPLING: usize = 10;
/// Power steps of the randomised search, with an orthonormal basis after every product.
const POWER_STEPS: usize = 4;

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
    /// Exact (in f64) while M or H is small, else randomised subspace iteration (Halko and
    /// others, arXiv 0909.4061) whose tall products are in the rows' own type. Rows in f64 are decomposed
    /// themselves, others through their Gram matrix, which loses what lies 8 digits below the largest singular value.
    /// Rows that are all the same give no direction.
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
            true => exact(&centred)?,
            false => randomised(&centred, rank)?,
        };
        // A direction without length is any direction: it would take a random part out of the residual.
        let least = if rows.dtype() == DType::F64 { 1e-12 } else { 1e-6 };
        let kept = values.iter().take(rank).filter(|s| **s > least * values[0]).count();
        let energy = values[..kept].iter().map(|s| s * s).sum::<f64>() / total;
        let directions = jacobi::orthonormal(right[..kept].to_vec());
        let directions = tensor(&directions, h)?.to_dtype(rows.dtype())?;
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

/// The rows of x [N,d], each as a column of the transposed.
fn rows_of(x: &Tensor) -> Result<Columns> {
    Ok(x.to_dtype(DType::F64)?.to_vec2()?)
}

/// Rows [k,d] in f64.
fn tensor(rows: &[Vec<f64>], d: usize) -> Result<Tensor> {
    Ok(Tensor::from_vec(rows.concat(), (rows.len(), d), &Device::Cpu)?)
}

fn failed() -> Error {
    Error::Tensor(candle_core::Error::Msg("the hidden states have no singular value decomposition".into()))
}

/// Singular values, falling, and right singular vectors of x [M,H], each [H].
fn exact(x: &Tensor) -> Result<(Vec<f64>, Columns)> {
    let (m, h) = x.dims2()?;
    let wide = x.to_dtype(DType::F64)?;
    if m <= h {
        // The rows are the columns of X^T, whose left singular vectors are the right ones of X.
        if x.dtype() == DType::F64 {
            return jacobi::svd(rows_of(x)?).ok_or_else(failed);
        }
        let (values, left) = through_gram(&wide)?;
        return Ok((values.clone(), turned(&wide, &left, &values)?));
    }
    let columns = wide.t()?.contiguous()?;
    if x.dtype() != DType::F64 {
        return through_gram(&columns);
    }
    let (values, left) = jacobi::svd(rows_of(&columns)?).ok_or_else(failed)?;
    Ok((values.clone(), turned(&wide, &left, &values)?))
}

/// Singular values, falling, and left singular vectors of x [n,N], each [n], from x x^T.
fn through_gram(x: &Tensor) -> Result<(Vec<f64>, Columns)> {
    let (squares, left) = eigen(rows_of(&x.matmul(&x.t()?)?)?).ok_or_else(failed)?;
    Ok((squares.into_iter().map(|s| s.max(0.0).sqrt()).collect(), left))
}

/// Right singular vectors of x [M,H] from left ones: v = x^T u / s; 0 where s is.
fn turned(x: &Tensor, left: &Columns, values: &[f64]) -> Result<Columns> {
    let mut right: Columns = tensor(left, x.dim(0)?)?.matmul(x)?.to_vec2()?; // [n,H], row i = s_i v_i
    for (v, s) in right.iter_mut().zip(values).filter(|(_, s)| **s > 0.0) {
        v.iter_mut().for_each(|v| *v /= s);
    }
    Ok(right)
}

/// An orthonormal basis of the columns of x [N,l], as rows, [l,N], in x's type.
fn basis(x: &Tensor) -> Result<Tensor> {
    let n = x.dim(0)?;
    let rows = jacobi::orthonormal(rows_of(&x.t()?.contiguous()?)?);
    Ok(tensor(&rows, n)?.to_dtype(x.dtype())?)
}

fn randomised(x: &Tensor, rank: usize) -> Result<(Vec<f64>, Columns)> {
    let (m, h) = x.dims2()?;
    let width = (rank + OVERSAMPLING).min(m).min(h);
    let mut rng = Rng::keyed(&[0x5b5b, m as u64, h as u64]);
    let start: Vec<f64> = (0..h * width).map(|_| rng.normal()).collect();
    let start = Tensor::from_vec(start, (h, width), &Device::Cpu)?.to_dtype(x.dtype())?;
    let mut left = basis(&x.matmul(&start)?)?; // [l,M]
    for _ in 0..POWER_STEPS {
        let right = basis(&left.matmul(x)?.t()?.contiguous()?)?; // [l,H]
        left = basis(&x.matmul(&right.t()?.contiguous()?)?)?;
    }
    exact(&left.matmul(x)?) // of [l,H]
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
        let x = rows(300, 200, DType::F32);
        let found = Subspace::fit(&x, 8).unwrap();
        assert!(defect(&found.directions) < 1e-4, "{}", defect(&found.directions));
        let centred = x.broadcast_sub(&x.mean_keepdim(0).unwrap()).unwrap();
        let (values, right) = exact(&centred).unwrap();
        let energy = values[..8].iter().map(|s| s * s).sum::<f64>() / values.iter().map(|s| s * s).sum::<f64>();
        assert!(found.energy > 0.9999 * energy, "{} of {energy}", found.energy);
        let directions = tensor(&right[..8], 200).unwrap().to_dtype(DType::F32).unwrap();
        let whole = Subspace { directions, ..Subspace::fit(&x, 1).unwrap() };
        let (a, b) = (found.residual(&x).unwrap(), whole.residual(&x).unwrap());
        let gap = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        // Without a gap in the spectrum at the rank, the last directions are only nearly found.
        assert!(gap < 1e-3 * b.iter().copied().fold(0.0, f64::max), "{gap}");
    }

    #[test]
    fn rows_in_f32_are_decomposed_as_those_in_f64() {
        for (m, h) in [(50, 70), (70, 50)] {
            let x = rows(m, h, DType::F32);
            let (a, b) = (Subspace::fit(&x, 8).unwrap(), Subspace::fit(&x.to_dtype(DType::F64).unwrap(), 8).unwrap());
            let least = 1e-5 * a.singular_values[0];
            let is_near = |(a, b): (&f64, &f64)| (a - b).abs() < least;
            assert!(a.singular_values.iter().zip(&b.singular_values).all(is_near), "{m} {h}");
            let (of_a, of_b) = (a.residual(&x).unwrap(), b.residual(&x.to_dtype(DType::F64).unwrap()).unwrap());
            assert!(of_a.iter().zip(&of_b).all(|(a, b)| (a - b).abs() < 1e-5), "{m} {h}");
        }
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
