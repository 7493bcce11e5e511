//! The engine as a whole: sampling against scoring, batches against single rows, micro-batches.

use std::ops::ControlFlow;

use candle_core::{DType, Device};
use candlewick::model::decoder::{Decoder, Pass};
use candlewick::model::packed::Packed;
use candlewick::model::spec::DecoderSpec;
use candlewick::rollout::{self, Completion, Request, Sampling, Settings};
use candlewick_algorithms::row::token::TokenLogp;

fn random(dtype: DType) -> Decoder {
    let config = serde_json::json!({"model_type": "qwen3", "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "max_position_embeddings": 64, "tie_word_embeddings": true, "rms_norm_eps": 1e-6});
    let mut decoder = Decoder::random(DecoderSpec::from_config(config).unwrap(), 3, dtype, &Device::Cpu).unwrap();
    // Larger weights than a fresh model's, so that distributions are far from uniform.
    for param in decoder.params.iter_mut().filter(|p| p.value.rank() > 1) {
        param.value = (&param.value * 8.0).unwrap();
    }
    decoder
}

fn settings(max_rows: usize) -> Settings {
    Settings {
        sampling: Sampling { temperature: 0.8, ..Sampling::default() },
        thinking: None,
        eos: vec![5],
        stop: None,
        key: vec![11, 2],
        max_rows,
        has_adapter: true,
    }
}

fn sample(decoder: &Decoder, requests: &[Request], max_rows: usize) -> Vec<Completion> {
    rollout::generate(decoder, requests, &settings(max_rows), |_| ControlFlow::Continue(())).unwrap()
}

fn requests() -> Vec<Request> {
    let prompt = |n: u32| (0..n).map(|i| 7 + (i * 13 + n) % 80).collect();
    (0..4).map(|i| Request { id: i, prompt: prompt(3 + i as u32 * 4), samples: 0..4, cap: 20 }).collect()
}

#[test]
fn tokens_and_log_probs_do_not_depend_on_neighbours() {
    let decoder = random(DType::F32);
    let requests = requests();
    let whole = sample(&decoder, &requests, 16);
    assert_eq!(whole.len(), 16);
    assert!(whole.iter().any(|c| c.tokens.len() < 20), "some rows finish early");
    for max_rows in [1, 3] {
        assert_eq!(sample(&decoder, &requests, max_rows), whole, "{max_rows} rows at a time");
    }
    // Alone, and in another order.
    let alone = sample(&decoder, &[Request { samples: 2..3, ..requests[1].clone() }], 1);
    assert_eq!(alone[0].tokens, whole[6].tokens);
    assert_eq!(alone[0].logp, whole[6].logp);
}

#[test]
fn sampled_log_probs_equal_scored_ones() {
    let decoder = random(DType::F32);
    let requests = requests();
    for completion in sample(&decoder, &requests, 16) {
        let prompt = &requests[completion.request].prompt;
        let mut pack = Packed::new();
        pack.push(prompt);
        pack.push_continuation(&completion.tokens);
        let tape = decoder.forward(&pack, Pass::SCORE).unwrap();
        let at: Vec<u32> = (0..completion.tokens.len()).map(|t| (prompt.len() + t - 1) as u32).collect();
        let function = TokenLogp { tokens: &completion.tokens, temperature: 0.8, with_entropy: true };
        let rows = decoder.rows_forward(&tape.hidden, &at, &function).unwrap();
        for (t, row) in rows.iter().enumerate() {
            assert!((row.logp - completion.logp[t]).abs() < 1e-4, "{} against {}", row.logp, completion.logp[t]);
            assert!((row.entropy - completion.entropy[t]).abs() < 1e-4);
            assert_eq!(completion.logp[t], completion.drawn_logp[t]);
        }
    }
}

#[test]
fn a_stop_rule_and_the_context_end_completions() {
    use candlewick_algorithms::batch::Finish;
    let decoder = random(DType::F64);
    let mut settings = settings(4);
    settings.eos = vec![];
    let long = Request { id: 1, prompt: vec![9; 60], samples: 0..2, cap: 20 };
    let whole =
        rollout::generate(&decoder, std::slice::from_ref(&long), &settings, |_| ControlFlow::Continue(())).unwrap();
    assert!(whole.iter().all(|c| c.tokens.len() == 4 && c.finish == Finish::Length));
    settings.stop = Some(std::sync::Arc::new(|tokens: &[u32]| tokens.len() == 2));
    let stopped = rollout::generate(&decoder, &[long], &settings, |_| ControlFlow::Continue(())).unwrap();
    assert!(stopped.iter().zip(&whole).all(|(s, w)| s.finish == Finish::Stop && s.tokens == w.tokens[..2]));
    let too_long = Request { id: 1, prompt: vec![9; 64], samples: 0..1, cap: 2 };
    let error = rollout::generate(&decoder, &[too_long], &settings, |_| ControlFlow::Continue(())).unwrap_err();
    assert!(error.to_string().contains("context of 64"));
}
