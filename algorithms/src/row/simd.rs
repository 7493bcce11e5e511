//! Vectorised exponential sums over a row, compiled for several instruction sets and chosen at run time.
//!
//! The bodies are plain loops over independent elements; compiled inside a function that enables
//! AVX-512 or AVX2 with FMA, they become vector instructions. Sums keep their lanes in a fixed order, so a result depends on the row alone (and on the machine's instruction set), never
//! on threads or neighbours. f64, which serves tests, uses the standard library's exponential.

/// Row kernels of a float type.
pub trait Kernels: Sized {
    /// (max, sum exp(z s - m), sum exp(z s - m)(z s - m)) with m = max(z) s, the first value, for
    /// scale s > 0.
    ///
    /// Terms with z = -inf contribute nothing. A row that is all -inf, or holds a NaN, gives NaN sums.
    fn exp_sums(z: &[Self], scale: Self) -> (f64, f64, f64);

    /// z_k <- c exp(q) + d exp(q) q with q = z_k s - lse, the softmax part of the gradients of
    /// log-prob and entropy. -inf gives 0.
    fn softmax_combine(z: &mut [Self], scale: Self, lse: f64, c: Self, d: Self);

    /// x_k <- exp(x_k). f32: within 2 ulp; 0 below -87.33 (no subnormals), inf above 88.72; NaN stays.
    fn exp_in_place(x: &mut [Self]);
}

/// f32 values of the widest vector.
const LANES: usize = 16;
/// Elements summed in f32 lanes before they are added to the f64 sums, few enough that the rounding
/// of a sum stays near that of one term, and that a block stays in the first cache.
const BLOCK: usize = 32 * LANES;

/// Below this exp is 0: the smallest normal f32 is about exp(-87.336).
const LEAST: f32 = -87.33;
/// Above this exp is infinite in f32.
const MOST: f32 = 88.722_83;

#[inline(always)]
fn fused<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// exp of one lane, without branches.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2, ln 2 in two parts (Cody and Waite); e^r by a polynomial of
/// degree 6 (Cephes' expf), then 2^n in two factors so that n = 128 does not overflow on its own.
#[inline(always)]
fn exp_lane<const FMA: bool>(x: f32) -> f32 {
    // Adding and subtracting 1.5 x 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    // These comparisons are false for NaN, which so passes through.
    let bounded = if x < LEAST { LEAST } else { x };
    let bounded = if bounded > MOST { MOST } else { bounded };
    let shifted = fused::<FMA>(bounded, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fused::<FMA>(n, -0.693_359_4, bounded);
    let r = fused::<FMA>(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    p = fused::<FMA>(p, r, 1.398_199_9e-3);
    p = fused::<FMA>(p, r, 8.333_452e-3);
    p = fused::<FMA>(p, r, 4.166_579_6e-2);
    p = fused::<FMA>(p, r, 1.666_666_5e-1);
    p = fused::<FMA>(p, r, 0.5);
    p = fused::<FMA>(p, r * r, r) + 1.0;
    // The low bits of `shifted` hold n in two's complement.
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    let value = p * power(half) * power(n.wrapping_sub(half));
    let value = if x < LEAST { 0.0 } else { value };
    if x > MOST { f32::INFINITY } else { value }
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

#[inline(always)]
fn max_body(z: &[f32]) -> f32 {
    // Four vectors wide: one chain would wait for itself.
    let mut best = [f32::NEG_INFINITY; 4 * LANES];
    let mut blocks = z.chunks_exact(4 * LANES);
    for block in &mut blocks {
        for (best, &z) in best.iter_mut().zip(block) {
            *best = larger(*best, z);
        }
    }
    let rest = blocks.remainder().iter().copied().fold(f32::NEG_INFINITY, larger);
    best.iter().copied().fold(rest, larger)
}

/// Sum of a block in f32 lanes, then of the lanes in f64.
#[inline(always)]
fn block_sum(block: &[f32; BLOCK]) -> f64 {
    let mut sums = [0.0_f32; 2 * LANES];
    for chunk in block.chunks_exact(2 * LANES) {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += x;
        }
    }
    sums.iter().map(|&x| f64::from(x)).sum()
}

/// Exponents below zero stay; those whose exponential is 0 become 0, so that -inf meets no product.
#[inline(always)]
fn finite_exponent(q: f32) -> f32 {
    if q < LEAST { 0.0 } else { q }
}

#[inline(always)]
fn exp_sums_body<const FMA: bool>(z: &[f32], scale: f32) -> (f64, f64, f64) {
    let max = max_body(z);
    if max == f32::NEG_INFINITY {
        return (f64::NEG_INFINITY, f64::NAN, f64::NAN);
    }
    let (mut sum, mut weighted) = (0.0, 0.0);
    for block in z.chunks(BLOCK) {
        // Independent elements, which the compiler turns into vectors; the tail of the last block is 0.
        let (mut e, mut eq) = ([0.0_f32; BLOCK], [0.0_f32; BLOCK]);
        for ((&z, e), eq) in block.iter().zip(&mut e).zip(&mut eq) {
            // The maximum is taken off first: that difference is exact near it.
            let q = (z - max) * scale;
            *e = exp_lane::<FMA>(q);
            *eq = *e * finite_exponent(q);
        }
        sum += block_sum(&e);
        weighted += block_sum(&eq);
    }
    (f64::from(max) * f64::from(scale), sum, weighted)
}

#[inline(always)]
fn softmax_combine_body<const FMA: bool>(z: &mut [f32], scale: f32, lse: f64, c: f32, d: f32) {
    // lse in two parts: rounded to one f32 it would shift every probability of the row.
    let high = lse as f32;
    let low = (lse - f64::from(high)) as f32;
    for z in z {
        let q = fused::<FMA>(*z, scale, -high) - low;
        *z = exp_lane::<FMA>(q) * fused::<FMA>(d, finite_exponent(q), c);
    }
}

#[inline(always)]
fn exp_body<const FMA: bool>(x: &mut [f32]) {
    for x in x {
        *x = exp_lane::<FMA>(*x);
    }
}

/// Compiles a body for each instruction set and calls the best that the machine has.
macro_rules! dispatched {
    ($(#[$meta:meta])* fn $name:ident($($arg:ident: $type:ty),*) $(-> $out:ty)? = $body:ident) => {
        $(#[$meta])*
        #[inline]
        fn $name($($arg: $type),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $type),*) $(-> $out)? {
                    $body::<true>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $type),*) $(-> $out)? {
                    $body::<true>($($arg),*)
                }
                let has_fma = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
                if has_fma
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                {
                    // SAFETY: the machine has every feature that `avx512` was compiled for.
                    #[allow(unsafe_code)]
                    return unsafe { avx512($($arg),*) };
                }
                if has_fma {
                    // SAFETY: the machine has every feature that `avx2` was compiled for.
                    #[allow(unsafe_code)]
                    return unsafe { avx2($($arg),*) };
                }
            }
            $body::<{ cfg!(target_arch = "aarch64") }>($($arg),*)
        }
    };
}

dispatched!(fn exp_sums_f32(z: &[f32], scale: f32) -> (f64, f64, f64) = exp_sums_body);
dispatched!(fn softmax_combine_f32(z: &mut [f32], scale: f32, lse: f64, c: f32, d: f32) = softmax_combine_body);
dispatched!(fn exp_f32(x: &mut [f32]) = exp_body);

impl Kernels for f32 {
    fn exp_sums(z: &[Self], scale: Self) -> (f64, f64, f64) {
        exp_sums_f32(z, scale)
    }

    fn softmax_combine(z: &mut [Self], scale: Self, lse: f64, c: Self, d: Self) {
        softmax_combine_f32(z, scale, lse, c, d);
    }

    fn exp_in_place(x: &mut [Self]) {
        exp_f32(x);
    }
}

impl Kernels for f64 {
    fn exp_sums(z: &[Self], scale: Self) -> (f64, f64, f64) {
        let max = z.iter().copied().fold(Self::NEG_INFINITY, |a, b| if b > a { b } else { a });
        if max == Self::NEG_INFINITY {
            return (max, Self::NAN, Self::NAN);
        }
        let (mut sum, mut weighted) = (0.0, 0.0);
        for q in z.iter().map(|z| (z - max) * scale) {
            let e = q.exp();
            sum += e;
            weighted += if e == 0.0 { 0.0 } else { e * q };
        }
        (max * scale, sum, weighted)
    }

    fn softmax_combine(z: &mut [Self], scale: Self, lse: f64, c: Self, d: Self) {
        for z in z {
            let q = *z * scale - lse;
            let e = q.exp();
            *z = if e == 0.0 { 0.0 } else { e * (c + d * q) };
        }
    }

    fn exp_in_place(x: &mut [Self]) {
        x.iter_mut().for_each(|x| *x = x.exp());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn exp32(x: f32) -> f32 {
        let mut x = [x];
        f32::exp_in_place(&mut x);
        x[0]
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut worst = 0.0_f64;
        for k in -873_000..887_000 {
            let x = k as f32 * 1e-4;
            let (found, exact) = (f64::from(exp32(x)), f64::from(x).exp());
            let unit = exact * f64::from(f32::EPSILON) / 2.0; // an ulp is between this and twice this
            worst = worst.max((found - exact).abs() / unit);
        }
        assert!(worst <= 4.0, "{worst} half units");
    }

    #[test]
    fn exp_at_the_edges() {
        assert_eq!(exp32(0.0), 1.0);
        assert_eq!(exp32(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp32(-100.0), 0.0);
        assert_eq!(exp32(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp32(89.0), f32::INFINITY);
        assert!(exp32(88.7).is_finite());
        assert!(exp32(f32::NAN).is_nan());
        let mut long = vec![-1.0_f32; 37];
        f32::exp_in_place(&mut long);
        assert!(long.iter().all(|&x| x == long[0]), "the tail is computed as the rest");
    }

    #[test]
    fn f32_sums_agree_with_f64() {
        let mut rng = Rng::keyed(&[11]);
        for n in [1, 15, 16, 17, 64, 511, 513, 49_152] {
            let z: Vec<f32> = (0..n).map(|_| (rng.normal() * 4.0) as f32).collect();
            let wide: Vec<f64> = z.iter().map(|&x| f64::from(x)).collect();
            let (m, s, u) = f32::exp_sums(&z, 1.25);
            let (m64, s64, u64) = f64::exp_sums(&wide, 1.25);
            assert_eq!(m, m64);
            assert!((s - s64).abs() < 1e-6 * s64 && (u - u64).abs() <= 2e-6 * u64.abs(), "{n}: {s} {s64} {u} {u64}");

            let lse = m + s.ln();
            let (mut a, mut b) = (z.clone(), wide.clone());
            f32::softmax_combine(&mut a, 1.25, lse, -0.7, 0.3);
            f64::softmax_combine(&mut b, 1.25, lse, -0.7, 0.3);
            for (a, b) in a.iter().zip(&b) {
                assert!((f64::from(*a) - b).abs() < 4e-6 * b.abs() + 1e-9, "{a} {b}");
            }
        }
    }

    #[test]
    fn infinities_and_nan() {
        let inf = f32::NEG_INFINITY;
        let (m, s, u) = f32::exp_sums(&[inf, 1.0, inf], 2.0);
        assert_eq!((m, s, u), (2.0, 1.0, 0.0));
        let mut z = [inf, 1.0];
        f32::softmax_combine(&mut z, 1.0, 1.0, 3.0, 5.0);
        assert_eq!(z, [0.0, 3.0]);
        for bad in [vec![inf; 20], vec![], vec![0.0, f32::NAN, 1.0], vec![f32::NAN; 3]] {
            assert!(f32::exp_sums(&bad, 1.0).1.is_nan(), "{bad:?}");
            let wide: Vec<f64> = bad.iter().map(|&x| f64::from(x)).collect();
            assert!(f64::exp_sums(&wide, 1.0).1.is_nan(), "{bad:?}");
        }
    }

    /// Every instruction set gives the portable body's result up to the rounding of fused products.
    #[test]
    fn the_portable_body_agrees() {
        let mut rng = Rng::keyed(&[12]);
        let z: Vec<f32> = (0..1000).map(|_| (rng.normal() * 5.0) as f32).collect();
        let (a, b) = (f32::exp_sums(&z, 0.9), exp_sums_body::<false>(&z, 0.9));
        assert!((a.1 - b.1).abs() < 1e-6 * a.1 && (a.2 - b.2).abs() < 2e-6 * a.2.abs());
    }

    /// Not a bound on other machines: prints the rate and only fails if the loop is not vectorised at all.
    #[test]
    fn a_vocabulary_takes_microseconds() {
        let mut rng = Rng::keyed(&[13]);
        let z: Vec<f32> = (0..49_152).map(|_| (rng.normal() * 4.0) as f32).collect();
        let best = (0..50)
            .map(|_| {
                let start = std::time::Instant::now();
                std::hint::black_box(f32::exp_sums(std::hint::black_box(&z), 1.0));
                start.elapsed().as_secs_f64()
            })
            .fold(f64::INFINITY, f64::min);
        assert!(best < 2e-3, "{} exponentials a second", 49_152.0 / best);
        #[allow(clippy::print_stderr)]
        {
            eprintln!("{:.0} million exponentials a second", 49_152e-6 / best);
        }
    }
}
