//! Eigenvectors of small symmetric matrices, in f64.

use super::jacobi::{Columns, dot};

/// Iterations for one eigenvalue at most; two or three are usual.
const MOST_ITERATIONS: usize = 60;

/// A reflection I - 2 v v^T on the coordinates from `first` on; none where v is empty.
struct Reflector {
    first: usize,
    v: Vec<f64>,
}

/// Eigenvalues, falling, and orthonormal eigenvectors of a symmetric matrix, [n,n]. `None` if the matrix is not
/// finite.
///
/// Householder's reduction to a tridiagonal matrix, then implicit QL with Wilkinson's shifts (Golub and Van Loan,
/// Matrix Computations, 8.3). Eigenvalues are accurate to rounding of the largest one.
pub(super) fn eigen(mut a: Columns) -> Option<(Vec<f64>, Columns)> {
    let n = a.len();
    if a.iter().flatten().any(|x| !x.is_finite()) {
        return None;
    }
    let (mut diagonal, mut beside, reflectors) = tridiagonal(&mut a);
    let mut vectors: Columns = (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    ql(&mut diagonal, &mut beside, &mut vectors)?;
    for vector in &mut vectors {
        for Reflector { first, v } in reflectors.iter().rev() {
            reflect(v, &mut vector[*first..]);
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| diagonal[j].total_cmp(&diagonal[i]));
    Some((order.iter().map(|&i| diagonal[i]).collect(), order.iter().map(|&i| vectors[i].clone()).collect()))
}

fn reflect(v: &[f64], x: &mut [f64]) {
    let twice = 2.0 * dot(v, &x[..v.len()]);
    x.iter_mut().zip(v).for_each(|(x, v)| *x -= twice * v);
}

/// Diagonal and subdiagonal of T in a = Q T Q^T, and the reflections whose product is Q. Overwrites `a`.
fn tridiagonal(a: &mut Columns) -> (Vec<f64>, Vec<f64>, Vec<Reflector>) {
    let n = a.len();
    let (mut diagonal, mut beside) = (vec![0.0; n], vec![0.0; n]);
    let mut reflectors = Vec::with_capacity(n);
    // What is left of equal rows is rounding of rounding, down to numbers whose squares are 0.
    let least = f64::EPSILON * a.iter().flatten().fold(0.0, |most: f64, x| most.max(x.abs()));
    for k in 0..n {
        diagonal[k] = a[k][k];
        let first = k + 1;
        let mut v = a[k][first..].to_vec();
        let length = dot(&v, &v).sqrt();
        if v.len() < 2 || length <= least {
            beside[k] = v.first().copied().unwrap_or(0.0);
            continue;
        }
        beside[k] = -length.copysign(v[0]);
        v[0] -= beside[k];
        let scale = 1.0 / dot(&v, &v).sqrt();
        v.iter_mut().for_each(|v| *v *= scale);
        // The rest R becomes R - 2 v w^T - 2 w v^T with p = R v and w = p - (v p) v.
        let mut w: Vec<f64> = a[first..].iter().map(|column| dot(&column[first..], &v)).collect();
        let along = dot(&w, &v);
        w.iter_mut().zip(&v).for_each(|(w, v)| *w -= along * v);
        for (i, column) in a[first..].iter_mut().enumerate() {
            let (by_w, by_v) = (2.0 * v[i], 2.0 * w[i]);
            for ((x, w), v) in column[first..].iter_mut().zip(&w).zip(&v) {
                *x -= by_w * w + by_v * v;
            }
        }
        reflectors.push(Reflector { first, v });
    }
    (diagonal, beside, reflectors)
}

/// Turns a tridiagonal matrix into its eigenvalues (in `d`) and applies the rotations to columns. `None` if it does
/// not converge.
fn ql(d: &mut [f64], e: &mut [f64], columns: &mut Columns) -> Option<()> {
    let n = d.len();
    // Beside neighbours that are 0 but for rounding nothing is small, so small is what is so beside the largest.
    let least = f64::EPSILON * d.iter().zip(e.iter()).map(|(d, e)| d.abs() + e.abs()).fold(0.0, f64::max);
    for l in 0..n {
        for iteration in 0.. {
            let is_cut = |m: usize| m + 1 == n || e[m].abs() <= least;
            let m = (l..n).find(|&m| is_cut(m))?;
            if m == l {
                break;
            }
            if iteration == MOST_ITERATIONS {
                return None;
            }
            let half = (d[l + 1] - d[l]) / (2.0 * e[l]);
            let mut g = d[m] - d[l] + e[l] / (half + half.hypot(1.0).copysign(half));
            let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
            let mut is_split = false;
            for i in (l..m).rev() {
                let (f, b) = (s * e[i], c * e[i]);
                let r = f.hypot(g);
                e[i + 1] = r;
                if r == 0.0 {
                    d[i + 1] -= p;
                    e[m] = 0.0;
                    is_split = true;
                    break;
                }
                (s, c) = (f / r, g / r);
                g = d[i + 1] - p;
                let r = (d[i] - g) * s + 2.0 * c * b;
                p = s * r;
                d[i + 1] = g + p;
                g = c * r - b;
                let (low, high) = columns.split_at_mut(i + 1);
                for (x, y) in low[i].iter_mut().zip(&mut high[0]) {
                    (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
                }
            }
            if !is_split {
                d[l] -= p;
                e[l] = g;
                e[m] = 0.0;
            }
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// A = sum of values x v v^T, the vectors orthonormal.
    fn check(a: &Columns) {
        let n = a.len();
        let (values, vectors) = eigen(a.clone()).unwrap();
        assert!(values.windows(2).all(|w| w[0] >= w[1]));
        let largest = values.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        for i in 0..n {
            for j in 0..n {
                let made: f64 = values.iter().zip(&vectors).map(|(s, v)| s * v[i] * v[j]).sum();
                assert!((a[i][j] - made).abs() <= 1e-14 * n as f64 * largest, "{i}, {j}: {} {made}", a[i][j]);
                let unit = f64::from(u8::from(i == j));
                assert!((dot(&vectors[i], &vectors[j]) - unit).abs() < 1e-13 * n as f64);
            }
        }
    }

    fn symmetric(n: usize) -> Columns {
        let mut rng = Rng::keyed(&[n as u64]);
        let half: Columns = (0..n).map(|_| (0..n).map(|_| rng.normal()).collect()).collect();
        (0..n).map(|i| (0..n).map(|j| half[i][j] + half[j][i]).collect()).collect()
    }

    #[test]
    fn eigenvectors_make_the_matrix_again() {
        (1..=9).chain([40]).for_each(|n| check(&symmetric(n)));
        check(&vec![vec![0.0; 5]; 5]);
        check(&vec![vec![1.0; 6]; 6]);
        // Diagonal, with equal values; two blocks.
        check(&vec![vec![2.0, 0.0, 0.0], vec![0.0, 2.0, 0.0], vec![0.0, 0.0, -1.0]]);
        check(&vec![
            vec![1.0, 3.0, 0.0, 0.0],
            vec![3.0, 1.0, 0.0, 0.0],
            vec![0.0, 0.0, 0.0, 5.0],
            vec![0.0, 0.0, 5.0, 0.0],
        ]);
    }

    /// Rows that stand several times, as states of equal beginnings do: most eigenvalues are 0 but for rounding.
    #[test]
    fn most_eigenvalues_may_be_zero() {
        for (n, width, different) in [(60, 96, 7), (96, 40, 40), (120, 96, 30), (90, 16, 3)] {
            let mut rng = Rng::keyed(&[n as u64, different as u64]);
            let rows: Columns = (0..different).map(|_| (0..width).map(|_| rng.normal()).collect()).collect();
            let row = |i: usize| &rows[i * i % different];
            check(&(0..n).map(|i| (0..n).map(|j| dot(row(i), row(j))).collect()).collect());
        }
    }

    /// [[2, 1], [1, 2]] has 3 along (1, 1) and 1 along (1, -1).
    #[test]
    fn hand_check_and_edges() {
        let (values, vectors) = eigen(vec![vec![2.0, 1.0], vec![1.0, 2.0]]).unwrap();
        assert!((values[0] - 3.0).abs() < 1e-15 && (values[1] - 1.0).abs() < 1e-15);
        assert!((vectors[0][0] - vectors[0][1]).abs() < 1e-15 && (vectors[1][0] + vectors[1][1]).abs() < 1e-15);
        assert!(eigen(vec![vec![f64::NAN, 1.0], vec![1.0, 2.0]]).is_none());
        assert_eq!(eigen(Vec::new()).unwrap().0.len(), 0);
    }
}
