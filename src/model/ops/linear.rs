//! y = x W^T + b, with the weight's gradient only where the weight trains.

use candle_core::{Result, Tensor};

use super::{Float, Operand, View, gemm, mutate, on_cpu, tensor, unfilled};

/// y [N,out] = x [N,in] W^T + b, W [out,in], b [out].
pub fn forward(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    on_cpu!(x, cpu_forward(x, w, bias), {
        let y = x.matmul(&w.t()?)?;
        match bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    })
}

/// dx [N,in] = dy [N,out] W.
pub fn backward_input(dy: &Tensor, w: &Tensor) -> Result<Tensor> {
    on_cpu!(dy, cpu_backward_input(dy, w), dy.matmul(w))
}

/// dx += scale dy W, in place.
pub fn accumulate_input(dx: &Tensor, dy: &Tensor, w: &Tensor, scale: f64) -> Result<()> {
    fn kernel<F: Float>(dx: &Tensor, dy: &Tensor, w: &Tensor, scale: f64) -> Result<()> {
        let (out, inner) = w.dims2()?;
        let n = dy.dim(0)?;
        let (dy, w) = (View::<F>::new(dy)?, View::<F>::new(w)?);
        mutate::<F, _>(dx, |dx| {
            assert_eq!(dx.len(), n * inner, "the gradient has its input's shape");
            // SAFETY: extents checked above; `dx` is borrowed exclusively.
            unsafe {
                let (a, b) = (Operand::rows(&dy, out), Operand::rows(&w, inner));
                gemm((n, inner, out), dx.as_mut_ptr(), inner, true, a, b, F::of(scale), true);
            }
        })
    }
    on_cpu!(dx, kernel(dx, dy, w, scale), super::add_in_place(dx, &(dy.matmul(w)? * scale)?))
}

/// dW [out,in] += scale dy^T x, in place.
pub fn accumulate_weight(dw: &Tensor, dy: &Tensor, x: &Tensor, scale: f64) -> Result<()> {
    fn kernel<F: Float>(dw: &Tensor, dy: &Tensor, x: &Tensor, scale: f64) -> Result<()> {
        let (n, out) = dy.dims2()?;
        let inner = x.dim(1)?;
        let (dy, x) = (View::<F>::new(dy)?, View::<F>::new(x)?);
        mutate::<F, _>(dw, |dw| {
            assert_eq!(dw.len(), out * inner, "the gradient has its weight's shape");
            assert_eq!(x.len(), n * inner, "input and output gradient have one row a token");
            // SAFETY: extents checked above; `dw` is borrowed exclusively.
            unsafe {
                let (a, b) = (Operand::transposed(&dy, out), Operand::rows(&x, inner));
                gemm((out, inner, n), dw.as_mut_ptr(), inner, true, a, b, F::of(scale), true);
            }
        })
    }
    on_cpu!(dw, kernel(dw, dy, x, scale), super::add_in_place(dw, &(dy.t()?.matmul(x)? * scale)?))
}

/// db [out] += column sums of dy [N,out], in place.
pub fn accumulate_bias(db: &Tensor, dy: &Tensor) -> Result<()> {
    super::add_in_place(db, &dy.to_dtype(db.dtype())?.sum(0)?)
}

fn cpu_forward<F: Float>(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (n, inner) = x.dims2()?;
    let (out, w_inner) = w.dims2()?;
    if inner != w_inner {
        candle_core::bail!("linear: input {:?} does not fit weight {:?}", x.shape(), w.shape());
    }
    let (x, w) = (View::<F>::new(x)?, View::<F>::new(w)?);
    let mut y = unfilled::<F>(n * out);
    if let Some(bias) = bias {
        let bias = View::<F>::new(bias)?;
        for row in y.chunks_mut(out) {
            row.copy_from_slice(&bias);
        }
    }
    // SAFETY: `y` holds n x out elements and is ours; x and w hold n x in and out x in.
    unsafe {
        let (a, b) = (Operand::rows(&x, inner), Operand::transposed(&w, inner));
        gemm((n, out, inner), y.as_mut_ptr(), out, bias.is_some(), a, b, F::ONE, true);
    }
    tensor(y, (n, out))
}

fn cpu_backward_input<F: Float>(dy: &Tensor, w: &Tensor) -> Result<Tensor> {
    let (n, out) = dy.dims2()?;
    let (w_out, inner) = w.dims2()?;
    if out != w_out {
        candle_core::bail!("linear: gradient {:?} does not fit weight {:?}", dy.shape(), w.shape());
    }
    let (dy, w) = (View::<F>::new(dy)?, View::<F>::new(w)?);
    let mut dx = unfilled::<F>(n * inner);
    // SAFETY: as above.
    unsafe {
        let (a, b) = (Operand::rows(&dy, out), Operand::rows(&w, inner));
        gemm((n, inner, out), dx.as_mut_ptr(), inner, false, a, b, F::ONE, true);
    }
    tensor(dx, (n, inner))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check_gradient, distance, dot, normal};
    use super::*;

    #[test]
    fn gradients_match_finite_differences() {
        let (x, w, b, g) = (normal(1, &[5, 7]), normal(2, &[3, 7]), normal(3, &[3]), normal(4, &[5, 3]));
        let y = forward(&x, &w, Some(&b)).unwrap();
        assert!(distance(&y, &x.matmul(&w.t().unwrap()).unwrap().broadcast_add(&b).unwrap()) < 1e-12);
        check_gradient(&x, &backward_input(&g, &w).unwrap(), |x| dot(&forward(x, &w, Some(&b)).unwrap(), &g));
        let dw = normal(9, &[3, 7]).zeros_like().unwrap();
        accumulate_weight(&dw, &g, &x, 1.0).unwrap();
        check_gradient(&w, &dw, |w| dot(&forward(&x, w, Some(&b)).unwrap(), &g));
        let db = b.zeros_like().unwrap();
        accumulate_bias(&db, &g).unwrap();
        check_gradient(&b, &db, |b| dot(&forward(&x, &w, Some(b)).unwrap(), &g));
    }

    #[test]
    fn accumulation_adds_to_what_is_there() {
        let (x, w, g) = (normal(1, &[5, 7]), normal(2, &[3, 7]), normal(4, &[5, 3]));
        let dx = normal(5, &[5, 7]);
        let expected = (&dx + (g.matmul(&w).unwrap() * 0.5).unwrap()).unwrap();
        accumulate_input(&dx, &g, &w, 0.5).unwrap();
        assert!(distance(&dx, &expected) < 1e-12);
        let dw = normal(6, &[3, 7]);
        let expected = (&dw + (g.t().unwrap().matmul(&x).unwrap() * 2.0).unwrap()).unwrap();
        accumulate_weight(&dw, &g, &x, 2.0).unwrap();
        assert!(distance(&dw, &expected) < 1e-12);
    }
}
