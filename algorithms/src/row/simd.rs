//! Vectorised exponential sums over a row, compiled for several instruction sets and chosen at run time.

/// Row kernels of a float type.
pub trait Kernels: Sized {
    /// (max, sum exp(z s - m), sum exp(z s - m)(z s - m)) with m = max(z) s, for scale s > 0.
    ///
    /// Terms with z = -inf contribute nothing. A row that is all -inf, or holds a NaN, gives NaN sums.
    fn exp_sums(z: &[Self], scale: Self) -> (f64, f64, f64);

    /// z_k <- c exp(z_k s - lse) + d exp(z_k s - lse)(z_k s - lse), the softmax part of the
    /// gradients of log-prob and entropy. -inf gives 0.
    fn softmax_combine(z: &mut [Self], scale: Self, lse: Self, c: Self, d: Self);

    /// exp of every element, in place.
    fn exp_in_place(values: &mut [Self]);
}

/// Exponential of every element (temporary portable form).
impl Kernels for f32 {
    fn exp_sums(_z: &[Self], _scale: Self) -> (f64, f64, f64) { unimplemented!() }
    fn softmax_combine(_z: &mut [Self], _scale: Self, _lse: Self, _c: Self, _d: Self) { unimplemented!() }
    fn exp_in_place(v: &mut [Self]) { for x in v { *x = x.exp() } }
}
impl Kernels for f64 {
    fn exp_sums(_z: &[Self], _scale: Self) -> (f64, f64, f64) { unimplemented!() }
    fn softmax_combine(_z: &mut [Self], _scale: Self, _lse: Self, _c: Self, _d: Self) { unimplemented!() }
    fn exp_in_place(v: &mut [Self]) { for x in v { *x = x.exp() } }
}
