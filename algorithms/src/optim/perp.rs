//! perpGrad: the part of a gradient that does not scale its weight.

/// The coefficient c = <w,g> / (<w,w> + 1e-30) of the gradient along its weight, and whether what is left, g - c w, is more
/// than rounding: its norm is above `threshold` times that of g.
///
/// A gradient parallel to its weight leaves only residue, which counts as 0 (the authors' code blows it up to the full norm);
/// a zero weight leaves the gradient as it is. Source: "Grokking at the Edge of Numerical Stability", arXiv 2501.04697.
pub fn coefficient(dot: f64, weight_square: f64, gradient_square: f64, threshold: f64) -> Projection {
    let along = dot / (weight_square + 1e-30);
    // |g - c w|^2 = |g|^2 - c <w,g>.
    let rest = (gradient_square - along * dot).max(0.0);
    Projection { along, is_zero: rest.sqrt() <= threshold * gradient_square.sqrt() }
}

/// How a gradient is projected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Projection {
    /// The multiple of the weight to take off.
    pub along: f64,
    /// Nothing but rounding is left: the gradient becomes 0.
    pub is_zero: bool,
}

/// g - c w, or 0 where that is rounding; `weight` and `gradient` flattened.
pub fn project(weight: &[f64], gradient: &[f64], threshold: f64) -> Vec<f64> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let along = dot(weight, gradient) / (dot(weight, weight) + 1e-30);
    let rest: Vec<f64> = weight.iter().zip(gradient).map(|(w, g)| g - along * w).collect();
    match dot(&rest, &rest).sqrt() <= threshold * dot(gradient, gradient).sqrt() {
        true => vec![0.0; rest.len()],
        false => rest,
    }
}

/// The vector at the norm of another; 0 stays 0.
pub fn rescale(vector: &[f64], like: &[f64]) -> Vec<f64> {
    let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    let factor = norm(like) / (norm(vector) + 1e-30);
    vector.iter().map(|x| x * factor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_orthogonal_and_the_two_forms_agree() {
        let (w, g) = ([1.0, -2.0, 0.5], [0.3, 0.4, -1.0]);
        let rest = project(&w, &g, 1e-6);
        assert!(rest.iter().zip(&w).map(|(a, b)| a * b).sum::<f64>().abs() < 1e-15);
        let projection = coefficient(0.3 - 0.8 - 0.5, 5.25, 1.25, 1e-6);
        assert!(!projection.is_zero && (g[0] - projection.along * w[0] - rest[0]).abs() < 1e-15);
        let parallel = coefficient(-2.0 * 5.25, 5.25, 4.0 * 5.25, 1e-6);
        assert!(parallel.is_zero);
        assert_eq!(project(&w, &w.map(|x| -2.0 * x), 1e-6), [0.0; 3]);
        assert_eq!(project(&[0.0; 3], &g, 1e-6), g);
    }
}
