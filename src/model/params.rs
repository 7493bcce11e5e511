//! The parameters of a model and the gradients that belong to them.

use std::collections::HashMap;

use anyhow::{Result, bail};
use candle_core::{DType, Device, Tensor};

/// Index of a parameter.
pub type ParamId = usize;

/// A named parameter.
#[derive(Debug, Clone)]
pub struct Param {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its value; the optimiser changes the elements in place.
    pub value: Tensor,
    /// Whether it is trained.
    pub is_trainable: bool,
}

/// Every parameter of a model, in a fixed order.
#[derive(Debug, Clone, Default)]
pub struct Params {
    list: Vec<Param>,
    by_name: HashMap<String, ParamId>,
}

impl Params {
    /// Adds a parameter; its name must be new.
    pub fn add(&mut self, name: impl Into<String>, value: Tensor, is_trainable: bool) -> Result<ParamId> {
        let name = name.into();
        if self.by_name.contains_key(&name) {
            bail!("there is already a parameter `{name}`");
        }
        self.by_name.insert(name.clone(), self.list.len());
        self.list.push(Param { name, value, is_trainable });
        Ok(self.list.len() - 1)
    }

    /// The parameter's id, by name.
    pub fn id(&self, name: &str) -> Option<ParamId> {
        self.by_name.get(name).copied()
    }

    /// A parameter's value.
    pub fn value(&self, id: ParamId) -> &Tensor {
        &self.list[id].value
    }

    /// All parameters, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Param> {
        self.list.iter()
    }

    /// All parameters, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Param> {
        self.list.iter_mut()
    }

    /// One parameter.
    pub fn get(&self, id: ParamId) -> &Param {
        &self.list[id]
    }

    /// Number of parameters (tensors).
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Number of elements that are trained.
    pub fn trainable_elements(&self) -> usize {
        self.list.iter().filter(|p| p.is_trainable).map(|p| p.value.elem_count()).sum()
    }

    /// Device of the parameters.
    pub fn device(&self) -> &Device {
        self.list[0].value.device()
    }

    /// Float type of the parameters.
    pub fn dtype(&self) -> DType {
        self.list[0].value.dtype()
    }
}

/// Gradients by parameter, f32 for half-precision weights. Buffers are made when first needed and used again after [`Grads::clear`].
#[derive(Debug)]
pub struct Grads {
    slots: Vec<Option<Tensor>>,
    is_touched: Vec<bool>,
}

impl Grads {
    /// No gradients yet.
    pub fn new(params: &Params) -> Self {
        Self { slots: vec![None; params.len()], is_touched: vec![false; params.len()] }
    }

    /// The buffer to add a parameter's gradient to; `None` if it is frozen.
    pub fn slot(&mut self, params: &Params, id: ParamId) -> candle_core::Result<Option<&Tensor>> {
        let param = params.get(id);
        if !param.is_trainable {
            return Ok(None);
        }
        if self.slots[id].is_none() {
            // Sums over many tokens need more digits than half-precision weights have.
            let dtype = super::ops::wide(param.value.dtype());
            self.slots[id] = Some(Tensor::zeros(param.value.dims(), dtype, param.value.device())?);
        } else if !self.is_touched[id] {
            let buffer = self.slots[id].as_ref().expect("checked above");
            zero(buffer)?;
        }
        self.is_touched[id] = true;
        Ok(self.slots[id].as_ref())
    }

    /// The gradient of a parameter; `None` if nothing was added since the last [`Grads::clear`].
    pub fn get(&self, id: ParamId) -> Option<&Tensor> {
        self.slots[id].as_ref().filter(|_| self.is_touched[id])
    }

    /// Forgets the gradients but keeps their buffers.
    pub fn clear(&mut self) {
        self.is_touched.fill(false);
    }

    /// Names of trainable parameters that got no gradient, or one that is zero throughout.
    ///
    /// Asked once at the first step of a run: a parameter listed here is not being trained.
    pub fn untouched<'a>(&self, params: &'a Params) -> candle_core::Result<Vec<&'a str>> {
        let mut names = Vec::new();
        for (id, param) in params.iter().enumerate().filter(|(_, p)| p.is_trainable) {
            let largest = match self.get(id) {
                Some(grad) => grad.abs()?.flatten_all()?.max(0)?.to_dtype(DType::F64)?.to_scalar::<f64>()?,
                None => 0.0,
            };
            if largest == 0.0 {
                names.push(param.name.as_str());
            }
        }
        Ok(names)
    }
}

fn zero(tensor: &Tensor) -> candle_core::Result<()> {
    use super::ops::mutate;
    match (super::ops::has_kernels(tensor.device(), tensor.dtype()), tensor.dtype()) {
        (true, DType::F32) => mutate::<f32, _>(tensor, |t| t.fill(0.0)),
        (true, DType::F64) => mutate::<f64, _>(tensor, |t| t.fill(0.0)),
        _ => tensor.zero_set(),
    }
}
