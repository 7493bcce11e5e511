//! perpGrad on a model's gradients: the arithmetic is in `candlewick_algorithms::optim::perp`.

use anyhow::Result;
use candle_core::{DType, Tensor};
use candlewick_algorithms::optim::perp::coefficient;

use super::square_sum;
use crate::model::params::{Grads, Params};

/// Takes off each matrix's gradient its part along the matrix; embeddings, heads and vectors stay as they are.
pub(super) fn project(params: &Params, grads: &Grads) -> Result<()> {
    for (id, param) in params.iter().enumerate() {
        let is_matrix = param.value.rank() == 2 && param.value.dim(0)? > 1;
        let is_table = ["embed_tokens.weight", "lm_head.weight"].iter().any(|name| param.name.ends_with(name));
        let Some(grad) = grads.get(id).filter(|_| is_matrix && !is_table) else { continue };
        project_one(&param.value, grad)?;
    }
    Ok(())
}

fn project_one(weight: &Tensor, grad: &Tensor) -> Result<()> {
    let wide = if grad.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let weight = weight.to_dtype(grad.dtype())?;
    let dot = (&weight * grad)?.to_dtype(wide)?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
    let threshold = if grad.dtype() == DType::F64 { 1e-6 } else { 1e-3 };
    let projection = coefficient(dot, square_sum(&weight)?, square_sum(grad)?, threshold);
    let rest = match projection.is_zero {
        true => grad.zeros_like()?,
        false => (grad - (&weight * projection.along)?)?,
    };
    Ok(grad.slice_set(&rest.contiguous()?, 0, 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ops::tests::normal;

    #[test]
    fn matrices_are_projected_and_the_rest_is_not() {
        let mut params = Params::default();
        params.add("model.q_proj.weight", normal(1, &[3, 4]), true).unwrap();
        params.add("model.embed_tokens.weight", normal(2, &[3, 4]), true).unwrap();
        params.add("model.norm.weight", normal(3, &[4]), true).unwrap();
        let mut grads = Grads::new(&params);
        for id in 0..3 {
            let like = normal(10 + id as u64, params.value(id).dims());
            let slot = grads.slot(&params, id).unwrap().unwrap();
            crate::model::ops::add_in_place(slot, &like).unwrap();
        }
        let dot = |id: usize, grads: &Grads| {
            (params.value(id) * grads.get(id).unwrap()).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap()
        };
        let before: Vec<f64> = (0..3).map(|id| dot(id, &grads)).collect();
        project(&params, &grads).unwrap();
        assert!(before[0].abs() > 0.1 && dot(0, &grads).abs() < 1e-12);
        assert_eq!((dot(1, &grads), dot(2, &grads)), (before[1], before[2]));
    }
}
