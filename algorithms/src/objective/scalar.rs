//! Functions of one number with exact derivatives, applied to every entry of a tensor.
//!
//! Written as one operation each: composed of Candle's, log-sigmoid and its kin lose their digits
//! at large arguments, and a tie (|x| at 0) gets half a gradient.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor, bail};

use crate::Result;

/// A function and its derivative.
#[derive(Clone, Copy)]
struct Scalar {
    name: &'static str,
    value: fn(f64) -> f64,
    slope: fn(f64) -> f64,
}

fn map(storage: &CpuStorage, layout: &Layout, f: fn(f64) -> f64) -> candle_core::Result<(CpuStorage, Shape)> {
    let (CpuStorage::F64(data), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
        bail!("leaves are contiguous f64 tensors");
    };
    let values = data[start..end].iter().map(|&x| f(x)).collect();
    Ok((CpuStorage::F64(values), layout.shape().clone()))
}

/// The derivative as an operation of its own; it has none in turn.
struct Slope(fn(f64) -> f64);

impl CustomOp1 for Slope {
    fn name(&self) -> &'static str {
        "slope"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        map(storage, layout, self.0)
    }
}

impl CustomOp1 for Scalar {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        map(storage, layout, self.value)
    }

    fn bwd(&self, argument: &Tensor, _: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let slope = argument.detach().contiguous()?.apply_op1_no_bwd(&Slope(self.slope))?;
        Ok(Some((upstream * slope)?))
    }
}

impl Scalar {
    fn of(self, x: &Tensor) -> Result<Tensor> {
        Ok(x.contiguous()?.apply_op1(self)?)
    }
}

/// 1 / (1 + exp(-x)) of a number.
pub fn logistic(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

/// log(1 + exp(x)) of a number.
pub fn soft_plus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// log(1 - exp(x)) of a negative number.
fn log_rest(x: f64) -> f64 {
    if x > -std::f64::consts::LN_2 { (-x.exp_m1()).ln() } else { (-x.exp()).ln_1p() }
}

/// log sigmoid(x) = -softplus(-x), for any x.
pub fn log_sigmoid(x: &Tensor) -> Result<Tensor> {
    Scalar { name: "log-sigmoid", value: |x| -soft_plus(-x), slope: |x| logistic(-x) }.of(x)
}

/// sigmoid(x), for any x.
pub fn sigmoid(x: &Tensor) -> Result<Tensor> {
    Scalar { name: "sigmoid", value: logistic, slope: |x| logistic(x) * logistic(-x) }.of(x)
}

/// max(0, x); no gradient at 0.
pub fn positive_part(x: &Tensor) -> Result<Tensor> {
    Scalar { name: "positive-part", value: |x| x.max(0.0), slope: |x| f64::from(u8::from(x > 0.0)) }.of(x)
}

/// The largest argument of [`log_one_minus_exp`]: nearer to 0 its value runs to minus infinity.
const NEAREST_TO_ZERO: f64 = -1e-6;

/// log(1 - exp(x)) with x cut at -1e-6, where the slope is 0.
pub fn log_one_minus_exp(x: &Tensor) -> Result<Tensor> {
    let slope = |x: f64| if x > NEAREST_TO_ZERO { 0.0 } else { x.exp() / x.exp_m1() };
    Scalar { name: "log-one-minus-exp", value: |x| log_rest(x.min(NEAREST_TO_ZERO)), slope }.of(x)
}

/// The largest argument that an exponential is taken of: e^80 is about 5e34.
const EXP_LIMIT: f64 = 80.0;

/// exp(x) with x cut at 80, where the slope is 0.
pub fn limited_exp(x: &Tensor) -> Result<Tensor> {
    let slope = |x: f64| if x > EXP_LIMIT { 0.0 } else { x.exp() };
    Scalar { name: "limited-exp", value: |x| x.min(EXP_LIMIT).exp(), slope }.of(x)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    type Function = fn(&Tensor) -> Result<Tensor>;

    fn at(f: Function, x: f64) -> (f64, f64) {
        let x = Var::new(&[x], &Device::Cpu).unwrap();
        let y = f(x.as_tensor()).unwrap();
        let slope = y.backward().unwrap().get(&x).unwrap().to_vec1::<f64>().unwrap()[0];
        (y.to_vec1::<f64>().unwrap()[0], slope)
    }

    #[test]
    fn slopes_are_finite_differences() {
        let all: [Function; 5] = [log_sigmoid, sigmoid, positive_part, log_one_minus_exp, limited_exp];
        for f in all {
            for x in [-3.7, -0.9, -0.4] {
                let difference = (at(f, x + 1e-6).0 - at(f, x - 1e-6).0) / 2e-6;
                assert!((at(f, x).1 - difference).abs() < 1e-8, "{x}: {} {difference}", at(f, x).1);
            }
        }
    }

    #[test]
    fn far_arguments_keep_their_digits() {
        assert_eq!(at(log_sigmoid, -800.0), (-800.0, 1.0));
        let (value, slope) = at(log_sigmoid, 700.0);
        assert!(value < 0.0 && value > -1e-300 && slope == -value);
        assert_eq!(at(sigmoid, -800.0), (0.0, 0.0));
        assert_eq!(at(positive_part, 0.0), (0.0, 0.0));
        assert!(at(log_one_minus_exp, 0.0).0.is_finite());
        assert_eq!(at(log_one_minus_exp, -1e-9).1, 0.0);
        assert!(at(limited_exp, 900.0).0.is_finite());
        assert!((at(log_one_minus_exp, -40.0).0 + (-40.0_f64).exp()).abs() < 1e-30);
    }
}
