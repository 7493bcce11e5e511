//! A decoder with a sequence-classification head: one or more scores for a whole text.
//!
//! Checkpoints are those of transformers' `...ForSequenceClassification`: the decoder's own tensors under
//! `model.`, and `score.weight` [L,C] in the place of a language-model head (no bias in these families).

use std::path::Path;

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};

use super::decoder::{Decoder, Pass};
use super::ops::embedding;
use super::packed::Packed;
use super::spec::DecoderSpec;
use super::weights::Weights;

/// Name of the head's weight in a checkpoint.
pub const SCORE: &str = "score.weight";

/// A sequence classifier.
#[derive(Debug)]
pub struct Classifier {
    /// The decoder; its language-model head is not used.
    pub decoder: Decoder,
    /// The head, [L,C] for L labels.
    pub score: Tensor,
}

impl Classifier {
    /// Loads the checkpoint in a folder.
    ///
    /// Errors: a family that the decoder does not know; a checkpoint without `score.weight`, or of another shape.
    pub fn load(folder: &Path, dtype: DType, device: &Device) -> Result<Self> {
        // Without a head of its own, the decoder takes the embedding's place for it and asks for no other tensor.
        let spec = DecoderSpec { is_tied: true, ..DecoderSpec::read(folder)? };
        let weights = Weights::open(folder)?;
        ensure!(
            weights.contains(SCORE),
            "{} holds no `{SCORE}`: it is no sequence-classification checkpoint",
            folder.display()
        );
        let shape = weights.shape(SCORE)?;
        ensure!(
            shape.len() == 2 && shape[0] > 0 && shape[1] == spec.hidden_size,
            "`{SCORE}` of {} has shape {shape:?} where [labels, {}] is needed",
            folder.display(),
            spec.hidden_size
        );
        let score = weights.load(SCORE, &shape, dtype, device)?;
        let mut decoder = Decoder::load_beside(spec, &weights, &[SCORE], dtype, device)?;
        for param in decoder.params.iter_mut() {
            param.is_trainable = false;
        }
        Ok(Self { decoder, score })
    }

    /// Scores of every label, [L] a row, read at each row's last token; f32 or wider.
    ///
    /// Rows are run in packs of about `limit` tokens, which changes memory and not the result.
    /// `None` for a row without tokens. Errors: a row longer than the model's context.
    pub fn scores(&self, rows: &[Vec<u32>], limit: usize) -> Result<Vec<Option<Vec<f64>>>> {
        let mut scores = vec![None; rows.len()];
        let filled: Vec<usize> = (0..rows.len()).filter(|&i| !rows[i].is_empty()).collect();
        for part in packs(&filled, rows, limit) {
            let mut pack = Packed::new();
            part.iter().for_each(|&i| {
                pack.push(&rows[i]);
            });
            let at: Vec<u32> = (0..part.len()).map(|s| pack.range(s).end as u32 - 1).collect();
            let hidden = self.decoder.forward(&pack, Pass::SCORE)?.hidden; // [N,C]
            let wide = if hidden.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
            let last = embedding::forward(&at, &hidden)?.to_dtype(wide)?; // [R,C]
            let values = last.matmul(&self.score.to_dtype(wide)?.t()?)?; // [R,L]
            let values: Vec<Vec<f64>> = values.to_dtype(DType::F64)?.to_device(&Device::Cpu)?.to_vec2()?;
            for (&i, row) in part.iter().zip(values) {
                scores[i] = Some(row);
            }
        }
        Ok(scores)
    }
}

/// Cuts rows into runs of about `limit` tokens; a longer row stands alone.
pub(crate) fn packs(indices: &[usize], rows: &[Vec<u32>], limit: usize) -> Vec<Vec<usize>> {
    let (mut packs, mut size): (Vec<Vec<usize>>, usize) = (Vec::new(), 0);
    for &i in indices {
        if packs.is_empty() || size + rows[i].len() > limit {
            packs.push(Vec::new());
            size = 0;
        }
        size += rows[i].len();
        packs.last_mut().expect("just pushed").push(i);
    }
    packs
}
