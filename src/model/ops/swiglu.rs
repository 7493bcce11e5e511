//! The gated activation y = silu(a) u.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::{Float, View, on_cpu, tensor, unfilled};

/// Elements computed together.
pub(crate) const CHUNK: usize = 4096;

/// y = silu(a) u elementwise, silu(a) = a / (1 + exp(-a)); a, u of one shape.
pub fn forward(a: &Tensor, u: &Tensor) -> Result<Tensor> {
    on_cpu!(a, cpu_forward(a, u), candle_nn::ops::silu(a)? * u)
}

/// (da, du) with s = sigmoid(a): da = g u s (1 + a (1 - s)), du = g a s.
pub fn backward(dy: &Tensor, a: &Tensor, u: &Tensor) -> Result<(Tensor, Tensor)> {
    on_cpu!(a, cpu_backward(dy, a, u), composed_backward(dy, a, u))
}

/// sigmoid of every element of `a`, into `s`.
fn sigmoid<F: Float>(a: &[F], s: &mut [F]) {
    for (s, &a) in s.iter_mut().zip(a) {
        *s = -a;
    }
    F::exp_all(s);
    for s in s.iter_mut() {
        *s = F::ONE / (F::ONE + *s);
    }
}

/// y = silu(a) u over one chunk; the decode step calls it directly.
pub(crate) fn gate_chunk<F: Float>(a: &[F], u: &[F], y: &mut [F]) {
    sigmoid(a, y);
    for ((y, &a), &u) in y.iter_mut().zip(a).zip(u) {
        *y = *y * a * u;
    }
}

fn cpu_forward<F: Float>(a: &Tensor, u: &Tensor) -> Result<Tensor> {
    let shape = a.shape().clone();
    let (a, u) = (View::<F>::new(a)?, View::<F>::new(u)?);
    let mut y = unfilled::<F>(a.len());
    y.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK).zip(u.par_chunks(CHUNK))).for_each(|(y, (a, u))| {
        gate_chunk(a, u, y);
    });
    tensor(y, shape)
}

fn cpu_backward<F: Float>(dy: &Tensor, a: &Tensor, u: &Tensor) -> Result<(Tensor, Tensor)> {
    let shape = a.shape().clone();
    let (dy, a, u) = (View::<F>::new(dy)?, View::<F>::new(a)?, View::<F>::new(u)?);
    let (mut da, mut du) = (unfilled::<F>(a.len()), unfilled::<F>(a.len()));
    (da.par_chunks_mut(CHUNK).zip(du.par_chunks_mut(CHUNK)))
        .zip(dy.par_chunks(CHUNK).zip(a.par_chunks(CHUNK).zip(u.par_chunks(CHUNK))))
        .for_each(|((da, du), (g, (a, u)))| {
            sigmoid(a, da);
            for i in 0..a.len() {
                let s = da[i];
                du[i] = g[i] * a[i] * s;
                da[i] = g[i] * u[i] * s * (F::ONE + a[i] * (F::ONE - s));
            }
        });
    Ok((tensor(da, shape.clone())?, tensor(du, shape)?))
}

fn composed_backward(dy: &Tensor, a: &Tensor, u: &Tensor) -> Result<(Tensor, Tensor)> {
    let (dtype, wide) = (a.dtype(), super::wide(a.dtype()));
    let (dy, a, u) = (&dy.to_dtype(wide)?, &a.to_dtype(wide)?, &u.to_dtype(wide)?);
    let s = (a.neg()?.exp()? + 1.0)?.recip()?;
    let du = ((dy * a)? * &s)?;
    let slope = ((a * (1.0 - &s)?)? + 1.0)?;
    let da = (((dy * u)? * s)? * slope)?;
    Ok((da.to_dtype(dtype)?, du.to_dtype(dtype)?))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check_gradient, distance, dot, normal};
    use super::*;

    #[test]
    fn gradients_match_finite_differences_and_the_composed_version() {
        let (a, u, g) = (normal(1, &[4, 5]), normal(2, &[4, 5]), normal(3, &[4, 5]));
        let (da, du) = backward(&g, &a, &u).unwrap();
        check_gradient(&a, &da, |a| dot(&forward(a, &u).unwrap(), &g));
        check_gradient(&u, &du, |u| dot(&forward(&a, u).unwrap(), &g));
        let (ca, cu) = composed_backward(&g, &a, &u).unwrap();
        assert!(distance(&da, &ca) < 1e-12 && distance(&du, &cu) < 1e-12);
    }

    #[test]
    fn large_arguments_stay_finite() {
        let a = Tensor::new(&[[-2000.0_f32, 2000.0, 0.0]], &candle_core::Device::Cpu).unwrap();
        let y = forward(&a, &a.ones_like().unwrap()).unwrap();
        assert_eq!(y.to_vec2::<f32>().unwrap(), [[0.0, 2000.0, 0.0]]);
    }
}
