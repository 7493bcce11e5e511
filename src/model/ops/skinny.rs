//! Products of a few rows with a large weight, for sampling: y [R,out] = x [R,k] W^T.
//!
//! A general matrix product is slow at few rows and its result for a row may depend on how many
//! rows stand beside it. Here every output is one dot product with one accumulator of fixed width,
//! whatever the number of rows, so a row's result never depends on its neighbours; weights are read
//! once for all rows, in parallel over outputs.

use super::{Columns, Float, team};

/// Weights a parallel task reads: 32 Ki elements, 128 KiB of f32. Small enough that no thread waits long
/// for another at the end of a product, of which a decoding step has more than a hundred.
const ELEMENTS_A_TASK: usize = 1 << 15;

/// y [rows, out] = x [rows, k] W^T for each (W [out, k], y) in `jobs`, all in one parallel region.
pub(crate) fn products<F: Float>(x: &[F], k: usize, jobs: &mut [(&[F], &mut [F])]) {
    let rows = x.len() / k;
    let mut tasks = Vec::new();
    for (w, y) in jobs.iter_mut() {
        let out = w.len() / k;
        assert_eq!(y.len(), rows * out, "one output a row and weight row");
        let columns = Columns::new(y, out);
        let step = (ELEMENTS_A_TASK / k).clamp(4, out.max(4)).next_multiple_of(4);
        tasks.extend((0..out).step_by(step).map(|first| (*w, columns, first, step.min(out - first))));
    }
    team::for_each(&mut tasks, |&mut (w, columns, first, count)| {
        let x = Rows { data: x, stride: k, count: rows };
        let w = Rows { data: &w[first * k..], stride: k, count };
        F::dots(x, w, k, columns, first);
    });
}

/// Rows of a matrix, `stride` elements apart.
#[derive(Clone, Copy)]
pub struct Rows<'a, F> {
    /// From the first row's first element on.
    pub data: &'a [F],
    /// Elements from one row to the next.
    pub stride: usize,
    /// Number of rows.
    pub count: usize,
}

impl<F> Rows<'_, F> {
    fn check(&self, k: usize) {
        assert!(self.count == 0 || (self.count - 1) * self.stride + k <= self.data.len(), "rows lie within their data");
    }
}

/// out[r, first + o] = x_r . w_o, compiled for whatever the machine has.
pub(crate) fn dots_f32(x: Rows<f32>, w: Rows<f32>, k: usize, out: Columns<f32>, first: usize) {
    x.check(k);
    w.check(k);
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the instruction set is there; extents were checked above.
            return unsafe { avx512::dots(x, w, k, out, first) };
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: as above.
            return unsafe { avx2::dots(x, w, k, out, first) };
        }
    }
    dots_plain(x, w, k, out, first);
}

/// The same in portable code.
pub(crate) fn dots_plain<F: Float>(x: Rows<F>, w: Rows<F>, k: usize, out: Columns<F>, first: usize) {
    x.check(k);
    w.check(k);
    for o in 0..w.count {
        let weight = &w.data[o * w.stride..][..k];
        for r in 0..x.count {
            out.set(r, first + o, super::norm::lane_dot(&x.data[r * x.stride..][..k], weight));
        }
    }
}

/// out [D] += sum_t p_t v_t over rows v_t [D], in row order.
pub(crate) fn weighted_sum_f32(p: &[f32], v: Rows<f32>, out: &mut [f32]) {
    v.check(out.len());
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the instruction set is there.
            return unsafe { avx512::weighted_sum(p, v, out) };
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: as above.
            return unsafe { avx2::weighted_sum(p, v, out) };
        }
    }
    weighted_sum_plain(p, v, out);
}

/// The same in portable code.
#[inline(always)]
pub(crate) fn weighted_sum_plain<F: Float>(p: &[F], v: Rows<F>, out: &mut [F]) {
    for (t, &p) in p.iter().enumerate() {
        for (out, &v) in out.iter_mut().zip(&v.data[t * v.stride..][..]) {
            *out += p * v;
        }
    }
}

/// One instruction set: `dots` in tiles of up to 4 weights x 4 rows, one accumulator an output.
macro_rules! instruction_set {
    ($name:ident, $features:literal, $lanes:literal, $zero:ident, $load:ident, $fma:ident, $sum:expr) => {
        #[cfg(target_arch = "x86_64")]
        mod $name {
            use super::{Columns, Rows};
            use std::arch::x86_64::*;

            #[target_feature(enable = $features)]
            pub(super) fn dots(x: Rows<f32>, w: Rows<f32>, k: usize, out: Columns<f32>, first: usize) {
                let mut o = 0;
                while o < w.count {
                    let mut r = 0;
                    let wide = w.count - o >= 4;
                    while r < x.count {
                        // SAFETY: rows r.. and o.. up to the tile's extent exist, see `Rows::check`.
                        unsafe {
                            match (wide, x.count - r) {
                                (true, 4..) => tile::<4, 4>(x, w, k, out, first, r, o),
                                (true, 2..) => tile::<2, 4>(x, w, k, out, first, r, o),
                                (true, _) => tile::<1, 4>(x, w, k, out, first, r, o),
                                (false, 4..) => tile::<4, 1>(x, w, k, out, first, r, o),
                                (false, 2..) => tile::<2, 1>(x, w, k, out, first, r, o),
                                (false, _) => tile::<1, 1>(x, w, k, out, first, r, o),
                            }
                        }
                        r += match x.count - r {
                            4.. => 4,
                            2.. => 2,
                            _ => 1,
                        };
                    }
                    o += if wide { 4 } else { 1 };
                }
            }

            /// # Safety
            /// Rows r..r+R of x and o..o+O of w exist and hold k elements.
            #[target_feature(enable = $features)]
            #[inline]
            unsafe fn tile<const R: usize, const O: usize>(
                x: Rows<f32>,
                w: Rows<f32>,
                k: usize,
                out: Columns<f32>,
                first: usize,
                r: usize,
                o: usize,
            ) {
                let mut sums = [[$zero(); O]; R];
                // SAFETY: offsets stay below k in rows that exist.
                unsafe {
                    let xp: [*const f32; R] = std::array::from_fn(|i| x.data.as_ptr().add((r + i) * x.stride));
                    let wp: [*const f32; O] = std::array::from_fn(|j| w.data.as_ptr().add((o + j) * w.stride));
                    let whole = k - k % $lanes;
                    let mut at = 0;
                    while at < whole {
                        let mut xs = [$zero(); R];
                        for i in 0..R {
                            xs[i] = $load(xp[i].add(at));
                        }
                        for j in 0..O {
                            // The same place in the next tile: rows are too short for the processor's own prefetching to
                            // find its pace. A prefetch past the end does nothing.
                            _mm_prefetch::<_MM_HINT_T0>(wp[j].wrapping_add(O * w.stride + at).cast());
                            let weight = $load(wp[j].add(at));
                            for i in 0..R {
                                sums[i][j] = $fma(xs[i], weight, sums[i][j]);
                            }
                        }
                        at += $lanes;
                    }
                    for i in 0..R {
                        for j in 0..O {
                            let mut sum: f32 = $sum(sums[i][j]);
                            for t in whole..k {
                                sum += *xp[i].add(t) * *wp[j].add(t);
                            }
                            out.set(r + i, first + o + j, sum);
                        }
                    }
                }
            }

            #[target_feature(enable = $features)]
            pub(super) fn weighted_sum(p: &[f32], v: Rows<f32>, out: &mut [f32]) {
                super::weighted_sum_plain(p, v, out);
            }
        }
    };
}

instruction_set!(avx512, "avx512f", 16, _mm512_setzero_ps, _mm512_loadu_ps, _mm512_fmadd_ps, _mm512_reduce_add_ps);
instruction_set!(avx2, "avx2,fma", 8, _mm256_setzero_ps, _mm256_loadu_ps, _mm256_fmadd_ps, |v| {
    let mut lanes = [0.0_f32; 8];
    _mm256_storeu_ps(lanes.as_mut_ptr(), v);
    ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]))
});

#[cfg(test)]
mod tests {
    use super::*;
    use candlewick_algorithms::rng::Rng;

    fn numbers(seed: u64, n: usize) -> Vec<f32> {
        let mut rng = Rng::keyed(&[seed]);
        (0..n).map(|_| rng.normal() as f32).collect()
    }

    fn run(x: &[f32], w: &[f32], k: usize) -> Vec<f32> {
        let mut y = vec![f32::NAN; (x.len() / k) * (w.len() / k)];
        products(x, k, &mut [(w, &mut y)]);
        y
    }

    #[test]
    fn a_row_does_not_depend_on_its_neighbours() {
        for k in [64, 37] {
            let (x, w) = (numbers(1, 16 * k), numbers(2, 103 * k));
            let whole = run(&x, &w, k);
            for rows in [1, 3, 5] {
                for first in [0, 7, 11] {
                    let part = run(&x[first * k..(first + rows) * k], &w, k);
                    assert_eq!(part, whole[first * 103..(first + rows) * 103], "{rows} rows from {first}");
                }
            }
            for (r, row) in whole.chunks(103).enumerate() {
                for (o, &y) in row.iter().enumerate() {
                    let exact: f64 = (0..k).map(|i| f64::from(x[r * k + i]) * f64::from(w[o * k + i])).sum();
                    assert!((f64::from(y) - exact).abs() < 2e-4, "row {r}, output {o}: {y} against {exact}");
                }
            }
        }
    }

    #[test]
    fn weighted_sums_match_the_definition() {
        let (p, v) = (numbers(1, 9), numbers(2, 9 * 20));
        let mut out = vec![0.5; 12];
        weighted_sum_f32(&p, Rows { data: &v[3..], stride: 20, count: 9 }, &mut out);
        for (d, &o) in out.iter().enumerate() {
            let exact: f32 = 0.5 + (0..9).map(|t| p[t] * v[3 + t * 20 + d]).sum::<f32>();
            assert!((o - exact).abs() < 1e-4);
        }
    }
}
