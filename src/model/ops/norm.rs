//! RMSNorm: y = w x / sqrt(mean(x^2) + eps).

use candle_core::{D, Result, Tensor};
use rayon::prelude::*;

use super::{Float, View, mutate, on_cpu, rows_a_task, tensor, unfilled};

/// Rows whose weight gradients are summed together before they join the others, in row order.
const ROWS_A_PARTIAL: usize = 64;

/// y [N,C] = w x r with r = 1 / sqrt(mean(x^2) + eps) a row; x [N,C], w [C].
///
/// Half-precision inputs are normalised in f32 and cast last, as the reference models do.
pub fn forward(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    on_cpu!(x, cpu_forward(x, w, eps), composed_forward(x, w, eps))
}

/// dx [N,C] = r w g - x r^3 mean(w g x), and, where `dw` [C] is given, dw += column sums of g x r.
pub fn backward(dy: &Tensor, x: &Tensor, w: &Tensor, eps: f64, dw: Option<&Tensor>) -> Result<Tensor> {
    on_cpu!(x, cpu_backward(dy, x, w, eps, dw), composed_backward(dy, x, w, eps, dw))
}

/// Sum of products over fixed lanes, so that the compiler may vectorise it in a fixed order.
#[inline(always)]
pub(crate) fn lane_dot<F: Float>(a: &[F], b: &[F]) -> F {
    const LANES: usize = 16;
    let mut lanes = [F::ZERO; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (a_rest, b_rest) = (a_chunks.remainder(), b_chunks.remainder());
    for (a, b) in a_chunks.zip(b_chunks) {
        for l in 0..LANES {
            lanes[l] += a[l] * b[l];
        }
    }
    let mut sum = F::ZERO;
    for lane in lanes {
        sum += lane;
    }
    for (&a, &b) in a_rest.iter().zip(b_rest) {
        sum += a * b;
    }
    sum
}

fn rstd<F: Float>(x: &[F], eps: f64) -> F {
    let mean = lane_dot(x, x).wide() / x.len() as f64;
    F::of(1.0 / (mean + eps).sqrt())
}

fn cpu_forward<F: Float>(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    let (n, c) = x.dims2()?;
    if w.dims() != [c] {
        candle_core::bail!("rms norm: input {:?} does not fit weight {:?}", x.shape(), w.shape());
    }
    let (x, w) = (View::<F>::new(x)?, View::<F>::new(w)?);
    let mut y = unfilled::<F>(n * c);
    let (x, w): (&[F], &[F]) = (&x, &w);
    y.par_chunks_mut(c).zip(x.par_chunks(c)).with_min_len(rows_a_task(c)).for_each(|(y, x)| {
        normalise_row(x, w, eps, y);
    });
    tensor(y, (n, c))
}

/// One row of the forward pass; the decode step calls it directly.
pub(crate) fn normalise_row<F: Float>(x: &[F], w: &[F], eps: f64, y: &mut [F]) {
    let r = rstd(x, eps);
    for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
        *y = w * (x * r);
    }
}

fn cpu_backward<F: Float>(dy: &Tensor, x: &Tensor, w: &Tensor, eps: f64, dw: Option<&Tensor>) -> Result<Tensor> {
    let (n, c) = x.dims2()?;
    let (dy, x, w) = (View::<F>::new(dy)?, View::<F>::new(x)?, View::<F>::new(w)?);
    let (dy, x, w): (&[F], &[F], &[F]) = (&dy, &x, &w);
    let mut dx = unfilled::<F>(n * c);
    let wants_dw = dw.is_some();
    let rows = ROWS_A_PARTIAL * c;
    let partials: Vec<Vec<F>> = dx
        .par_chunks_mut(rows)
        .zip(dy.par_chunks(rows).zip(x.par_chunks(rows)))
        .map(|(dx, (dy, x))| {
            let mut partial = vec![F::ZERO; if wants_dw { c } else { 0 }];
            let mut wg = vec![F::ZERO; c];
            for ((dx, dy), x) in dx.chunks_mut(c).zip(dy.chunks(c)).zip(x.chunks(c)) {
                let r = rstd(x, eps);
                for ((wg, &w), &g) in wg.iter_mut().zip(w).zip(dy) {
                    *wg = w * g;
                }
                let mean = F::of(lane_dot(&wg, x).wide() / c as f64);
                let pull = r * r * r * mean;
                for ((dx, &wg), &x) in dx.iter_mut().zip(&wg).zip(x) {
                    *dx = r * wg - x * pull;
                }
                for ((p, &g), &x) in partial.iter_mut().zip(dy).zip(x) {
                    *p += g * (x * r);
                }
            }
            partial
        })
        .collect();
    if let Some(dw) = dw {
        mutate::<F, _>(dw, |dw| {
            for partial in &partials {
                for (dw, &p) in dw.iter_mut().zip(partial) {
                    *dw += p;
                }
            }
        })?;
    }
    tensor(dx, (n, c))
}

fn composed_forward(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    let dtype = x.dtype();
    let x = widened(x)?;
    let r = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
    x.broadcast_mul(&r)?.to_dtype(dtype)?.broadcast_mul(w)
}

fn composed_backward(dy: &Tensor, x: &Tensor, w: &Tensor, eps: f64, dw: Option<&Tensor>) -> Result<Tensor> {
    let dtype = x.dtype();
    let (dy, x, w) = (widened(dy)?, widened(x)?, widened(w)?);
    let r = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?; // [N,1]
    let unit = x.broadcast_mul(&r)?; // [N,C]
    let wg = dy.broadcast_mul(&w)?;
    let mean = (&wg * &unit)?.mean_keepdim(D::Minus1)?; // [N,1]
    if let Some(dw) = dw {
        super::add_in_place(dw, &(&dy * &unit)?.sum(0)?.to_dtype(dw.dtype())?)?;
    }
    (wg - unit.broadcast_mul(&mean)?)?.broadcast_mul(&r)?.to_dtype(dtype)
}

fn widened(x: &Tensor) -> Result<Tensor> {
    match x.dtype() {
        candle_core::DType::F64 => Ok(x.clone()),
        _ => x.to_dtype(candle_core::DType::F32),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check_gradient, distance, dot, normal};
    use super::*;

    #[test]
    fn gradients_match_finite_differences_and_the_composed_version() {
        let (x, w, g) = (normal(1, &[70, 5]), normal(2, &[5]), normal(3, &[70, 5]));
        let eps = 1e-3;
        assert!(distance(&forward(&x, &w, eps).unwrap(), &composed_forward(&x, &w, eps).unwrap()) < 1e-12);
        let dw = w.zeros_like().unwrap();
        let dx = backward(&g, &x, &w, eps, Some(&dw)).unwrap();
        check_gradient(&x, &dx, |x| dot(&forward(x, &w, eps).unwrap(), &g));
        check_gradient(&w, &dw, |w| dot(&forward(&x, w, eps).unwrap(), &g));
        assert!(distance(&dx, &composed_backward(&g, &x, &w, eps, None).unwrap()) < 1e-12);
        assert!(distance(&dx, &backward(&g, &x, &w, eps, None).unwrap()) == 0.0);
    }
}
