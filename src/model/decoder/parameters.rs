//! How a decoder comes to its parameters: those of a checkpoint, random ones, an adapter's.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use candlewick_algorithms::rng::Rng;

use super::{Block, Decoder, Linear};
use crate::model::lora::{self, LoraConfig};
use crate::model::ops::{self, rope};
use crate::model::params::Params;
use crate::model::spec::DecoderSpec;
use crate::model::weights::Weights;

impl Decoder {
    /// Loads a checkpoint's weights, all trainable.
    ///
    /// Errors: a tensor that is missing or of another shape than the config says; one that the config does not
    /// have, but for a head beside a tied embedding, which is the embedding once more.
    pub fn load(spec: DecoderSpec, weights: &Weights, dtype: DType, device: &Device) -> Result<Self> {
        Self::load_beside(spec, weights, &[], dtype, device)
    }

    /// The same where the checkpoint holds `others` too, which someone else reads.
    pub fn load_beside(
        spec: DecoderSpec,
        weights: &Weights,
        others: &[&str],
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let mut params = Params::default();
        let tensors = spec.tensors();
        let known: HashSet<&str> = tensors.iter().map(|(name, _)| name.as_str()).chain(["lm_head.weight"]).collect();
        let is_read = |name: &str| known.contains(name) || others.contains(&name);
        weights.check_all_read(is_read, &format!("a model of {} blocks as `config.json` has it", spec.layers))?;
        for (name, shape) in tensors {
            let value = weights.load(&name, &shape, dtype, device)?;
            params.add(name, value, true)?;
        }
        crate::allocator::on_huge_pages(params.iter().filter_map(|param| ops::block(&param.value)).collect());
        Self::assemble(spec, params)
    }

    /// A model with random weights: normal with deviation 0.02 (0.02 / sqrt(2 L) into the residual
    /// stream), norms 1, biases 0.
    pub fn random(spec: DecoderSpec, seed: u64, dtype: DType, device: &Device) -> Result<Self> {
        let mut params = Params::default();
        for (index, (name, shape)) in spec.tensors().into_iter().enumerate() {
            let mut rng = Rng::keyed(&[seed, 0x1417, index as u64]);
            let count: usize = shape.iter().product();
            let deviation = if name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight") {
                0.02 / (2.0 * spec.layers as f64).sqrt()
            } else {
                0.02
            };
            let data: Vec<f64> = match () {
                () if name.ends_with("norm.weight") => vec![1.0; count],
                () if name.ends_with(".bias") => vec![0.0; count],
                () => (0..count).map(|_| rng.normal() * deviation).collect(),
            };
            let value = Tensor::from_vec(data, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?;
            params.add(name, value, true)?;
        }
        Self::assemble(spec, params)
    }

    /// The decoder of parameters that are all there.
    fn assemble(spec: DecoderSpec, params: Params) -> Result<Self> {
        let id = |name: String| params.id(&name).with_context(|| format!("parameter `{name}` is missing"));
        let linear = |name: String| -> Result<Linear> {
            Ok(Linear { weight: id(format!("{name}.weight"))?, bias: params.id(&format!("{name}.bias")), lora: None })
        };
        let mut blocks = Vec::with_capacity(spec.layers);
        for layer in 0..spec.layers {
            let at = |name: &str| format!("model.layers.{layer}.{name}");
            let qk_norm = match spec.has_qk_norm {
                true => Some((id(at("self_attn.q_norm.weight"))?, id(at("self_attn.k_norm.weight"))?)),
                false => None,
            };
            blocks.push(Block {
                input_norm: id(at("input_layernorm.weight"))?,
                q: linear(at("self_attn.q_proj"))?,
                k: linear(at("self_attn.k_proj"))?,
                v: linear(at("self_attn.v_proj"))?,
                o: linear(at("self_attn.o_proj"))?,
                qk_norm,
                post_norm: id(at("post_attention_layernorm.weight"))?,
                gate: linear(at("mlp.gate_proj"))?,
                up: linear(at("mlp.up_proj"))?,
                down: linear(at("mlp.down_proj"))?,
            });
        }
        let embedding = id("model.embed_tokens.weight".into())?;
        let head = if spec.is_tied { embedding } else { id("lm_head.weight".into())? };
        let final_norm = id("model.norm.weight".into())?;
        let rope = rope::Table::new(&spec.frequencies, spec.max_positions, 1.0);
        Ok(Self { spec, params, lora: None, embedding, blocks, final_norm, head, rope })
    }

    /// Freezes the model and adds a fresh adapter.
    pub fn add_lora(&mut self, config: &LoraConfig, seed: u64) -> Result<()> {
        self.attach_lora(config, |layer, _, shape, dtype, device| {
            lora::fresh(seed, layer, shape, config.rank, dtype, device)
        })
    }

    /// Freezes the model and adds the adapter of a PEFT folder.
    pub fn load_lora(&mut self, folder: &std::path::Path) -> Result<()> {
        let (config, _) = lora::read_config(folder)?;
        let weights = lora::open_weights(folder)?;
        let rank = config.rank;
        self.attach_lora(&config, |_, name, [out, inner], dtype, device| {
            let load = |part: &str, shape: &[usize]| {
                weights.load(&lora::peft_name(&format!("{name}.{part}.weight")), shape, dtype, device)
            };
            Ok((load("lora_A", &[rank, inner])?, load("lora_B", &[out, rank])?))
        })?;
        let known: HashSet<String> = self.params.iter().map(|param| lora::peft_name(&param.name)).collect();
        weights.check_all_read(|name| name.contains(".lora_") && known.contains(name), "this adapter on its base model")
    }

    fn attach_lora(
        &mut self,
        config: &LoraConfig,
        mut make: impl FnMut(u64, &str, [usize; 2], DType, &Device) -> Result<(Tensor, Tensor)>,
    ) -> Result<()> {
        ensure!(self.lora.is_none(), "the model has an adapter already: merge it first");
        config.validate()?;
        for param in self.params.iter_mut() {
            param.is_trainable = false;
        }
        let (params, mut count) = (&mut self.params, 0);
        for block in &mut self.blocks {
            for linear in [
                &mut block.q,
                &mut block.k,
                &mut block.v,
                &mut block.o,
                &mut block.gate,
                &mut block.up,
                &mut block.down,
            ] {
                let weight = params.get(linear.weight);
                let name = weight.name.trim_end_matches(".weight").to_owned();
                if !config.targets.iter().any(|t| name.ends_with(&format!(".{t}"))) {
                    continue;
                }
                let (out, inner) = weight.value.dims2()?;
                let (dtype, device) = (weight.value.dtype(), weight.value.device().clone());
                let (a, b) = make(count, &name, [out, inner], dtype, &device)?;
                let a = params.add(format!("{name}.lora_A.weight"), a, true)?;
                linear.lora = Some((a, params.add(format!("{name}.lora_B.weight"), b, true)?));
                count += 1;
            }
        }
        self.lora = Some(config.clone());
        Ok(())
    }

    /// Adds the adapter into the weights and drops it; the model is then as trainable as it was.
    pub fn merge_lora(&mut self) -> Result<()> {
        let Some(config) = self.lora.take() else { return Ok(()) };
        let mut merged = Params::default();
        for param in self.params.iter().filter(|p| !p.name.contains(".lora_")) {
            let stem = param.name.trim_end_matches(".weight");
            let pair =
                (self.params.id(&format!("{stem}.lora_A.weight")), self.params.id(&format!("{stem}.lora_B.weight")));
            let value = match pair {
                (Some(a), Some(b)) => {
                    let wide = if param.value.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
                    let (a, b) = (self.params.value(a).to_dtype(wide)?, self.params.value(b).to_dtype(wide)?);
                    (param.value.to_dtype(wide)? + (b.matmul(&a)? * config.scale())?)?.to_dtype(param.value.dtype())?
                }
                _ => param.value.clone(),
            };
            merged.add(param.name.clone(), value, true)?;
        }
        *self = Self::assemble(self.spec.clone(), merged)?;
        Ok(())
    }
}
