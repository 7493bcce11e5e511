//! Orthonormal bases and singular vectors of small matrices, in f64.
//!
//! The matrices that ResRL decomposes have few columns (the tall products around them run on Candle),
//! so two short classical methods serve, and repeat bit for bit.

/// A matrix as columns of one length.
pub(super) type Columns = Vec<Vec<f64>>;

/// Sweeps over all pairs of columns at most; about ten are usual.
const MOST_SWEEPS: usize = 40;
/// Columns whose cosine is below this are orthogonal, as far as rounding lets one tell. Convergence is
/// quadratic, so cosines end far below.
const LEAST_COSINE: f64 = 1e-14;

/// Sums that run side by side in [`dot`], so that it is not bound by the latency of an addition.
const LANES: usize = 8;
/// A squared length that a rotation shrinks by more than this is computed anew: its update has cancelled.
const CANCELLED: f64 = 1e-4;

/// The scalar product of vectors of one length.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f64 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    let mut sums = [0.0; LANES];
    for (a, b) in a.zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// Singular values, falling, and left singular vectors of a matrix given by its columns: [n] and n columns;
/// a singular value of 0 has the zero vector. `None` if the matrix is not finite.
///
/// One-sided Jacobi: columns are rotated in pairs until all are orthogonal; their lengths are then the
/// singular values, accurate to their own size (Hestenes, 1958; Demmel and Veselic, 1992). Squared lengths are
/// computed once a sweep and carried through its rotations.
pub(super) fn svd(mut a: Columns) -> Option<(Vec<f64>, Columns)> {
    let n = a.len();
    let mut is_turned = true;
    for _ in 0..MOST_SWEEPS {
        if !is_turned {
            break;
        }
        is_turned = false;
        let mut squares: Vec<f64> = a.iter().map(|column| dot(column, column)).collect();
        for p in 0..n {
            for q in p + 1..n {
                is_turned |= rotate(&mut a, &mut squares, p, q);
            }
        }
    }
    let lengths: Vec<f64> = a.iter().map(|column| dot(column, column).sqrt()).collect();
    if lengths.iter().any(|l| !l.is_finite()) {
        return None;
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| lengths[j].total_cmp(&lengths[i]));
    let unit = |&i: &usize| a[i].iter().map(|x| if lengths[i] > 0.0 { x / lengths[i] } else { 0.0 }).collect();
    Some((order.iter().map(|&i| lengths[i]).collect(), order.iter().map(unit).collect()))
}

/// Makes columns p < q orthogonal; whether they were not.
fn rotate(a: &mut Columns, squares: &mut [f64], p: usize, q: usize) -> bool {
    let (head, tail) = a.split_at_mut(q);
    let (x, y) = (&mut head[p], &mut tail[0]);
    let (xx, yy, xy) = (squares[p], squares[q], dot(x, y));
    if xy == 0.0 || xy.abs() <= LEAST_COSINE * (xx * yy).sqrt() {
        return false;
    }
    let zeta = (yy - xx) / (2.0 * xy);
    let t = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
    let c = 1.0 / (1.0 + t * t).sqrt();
    let s = c * t;
    for (x, y) in x.iter_mut().zip(y.iter_mut()) {
        (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
    }
    let carried = |new: f64, old: f64, column: &[f64]| if new > CANCELLED * old { new } else { dot(column, column) };
    (squares[p], squares[q]) = (carried(xx - t * xy, xx, x), carried(yy + t * xy, yy, y));
    true
}

/// An orthonormal basis of the span of columns, by Gram and Schmidt, twice over; a column within the span of
/// those before it becomes zero.
pub(super) fn orthonormal(mut a: Columns) -> Columns {
    for k in 0..a.len() {
        let (before, rest) = a.split_at_mut(k);
        let column = &mut rest[0];
        let length = dot(column, column).sqrt();
        for _ in 0..2 {
            for other in before.iter() {
                let along = dot(column, other);
                column.iter_mut().zip(other).for_each(|(c, o)| *c -= along * o);
            }
        }
        let left = dot(column, column).sqrt();
        let scale = if left > 1e-14 * length && left > 0.0 { 1.0 / left } else { 0.0 };
        column.iter_mut().for_each(|c| *c *= scale);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn random(rows: usize, columns: usize) -> Columns {
        let mut rng = Rng::keyed(&[rows as u64, columns as u64]);
        (0..columns).map(|_| (0..rows).map(|_| rng.normal()).collect()).collect()
    }

    fn defect(a: &Columns) -> f64 {
        let entry = |(i, j): (usize, usize)| (dot(&a[i], &a[j]) - f64::from(u8::from(i == j))).abs();
        (0..a.len()).flat_map(|i| (0..a.len()).map(move |j| (i, j))).map(entry).fold(0.0, f64::max)
    }

    /// U S is what the rotations made of A, so A A^T = U S^2 U^T.
    #[test]
    fn singular_vectors_make_the_matrix_again() {
        let a = random(9, 6);
        let (values, left) = svd(a.clone()).unwrap();
        assert!(values.windows(2).all(|w| w[0] >= w[1]) && defect(&left) < 1e-14);
        for i in 0..9 {
            for j in 0..9 {
                let gram: f64 = a.iter().map(|c| c[i] * c[j]).sum();
                let made: f64 = values.iter().zip(&left).map(|(s, u)| s * s * u[i] * u[j]).sum();
                assert!((gram - made).abs() < 1e-13, "{i}, {j}: {gram} {made}");
            }
        }
    }

    /// [[3, 0], [4, 5]] has singular values sqrt(45) and sqrt(5).
    #[test]
    fn hand_check_and_edges() {
        let (values, _) = svd(vec![vec![3.0, 4.0], vec![0.0, 5.0]]).unwrap();
        assert!((values[0] - 45f64.sqrt()).abs() < 1e-14 && (values[1] - 5f64.sqrt()).abs() < 1e-14);
        let (values, left) = svd(vec![vec![1.0, 2.0], vec![2.0, 4.0]]).unwrap();
        assert!((values[0] - 5.0).abs() < 1e-14 && values[1].abs() < 1e-15, "{values:?}");
        assert!((left[0][1] / left[0][0] - 2.0).abs() < 1e-14);
        assert!(svd(vec![vec![f64::NAN, 1.0], vec![1.0, 2.0]]).is_none());
    }

    #[test]
    fn bases_are_orthonormal_and_drop_what_is_spanned() {
        assert!(defect(&orthonormal(random(40, 12))) < 1e-14);
        let basis = orthonormal(vec![vec![1.0, 1.0, 0.0], vec![2.0, 2.0, 0.0], vec![0.0, 1.0, 3.0]]);
        assert_eq!(basis[1], [0.0; 3]);
        assert!(dot(&basis[0], &basis[2]).abs() < 1e-15);
    }
}
