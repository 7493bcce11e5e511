//! Training step and decoding on a real checkpoint, one JSON line each.
//!
//! `RAYON_NUM_THREADS=2 cargo bench --bench engine -- MODEL_FOLDER`; the peers' figures for the same
//! settings come from `benches/peers/`. A step is forward, backward and AdamW on 4 x 256 random
//! tokens in f32; the gradient norm and the loss of the first and last step are printed with it.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::{DType, Device};
use candlewick::config::OptimConfig;
use candlewick::model::decoder::{Decoder, Keep, Pass};
use candlewick::model::memory::{peak, read_bandwidth};
use candlewick::model::packed::Packed;
use candlewick::model::params::Grads;
use candlewick::model::spec::DecoderSpec;
use candlewick::model::weights::Weights;
use candlewick::optim::AdamW;
use candlewick::rollout::{Request, Sampling, Settings, generate};
use candlewick_algorithms::rng::Rng;
use candlewick_algorithms::row::RowGrad;
use candlewick_algorithms::row::token::TokenLogp;

const STEPS: usize = 8;

fn main() {
    candlewick::allocator::settle();
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let Some(folder) = arguments.first() else {
        println!("usage: cargo bench --bench engine -- MODEL_FOLDER [step|checkpointed|decode]");
        return;
    };
    let folder = Path::new(folder);
    let load = || {
        let spec = DecoderSpec::read(folder).unwrap();
        Decoder::load(spec, &Weights::open(folder).unwrap(), DType::F32, &Device::Cpu).unwrap()
    };
    match arguments.get(1).map(String::as_str) {
        Some("step") => step(&load(), Keep::Activations),
        Some("checkpointed") => step(&load(), Keep::Inputs),
        Some("decode") => [1, 16].into_iter().for_each(|rows| decode(&load(), rows)),
        _ => println!("name what to measure: step, checkpointed or decode"),
    }
}

fn step(decoder: &Decoder, keep: Keep) {
    let mut rng = Rng::keyed(&[1]);
    let (mut pack, mut at, mut targets) = (Packed::new(), Vec::new(), Vec::new());
    for _ in 0..4 {
        let tokens: Vec<u32> = (0..256).map(|_| rng.below(decoder.spec.vocab_size as u64) as u32).collect();
        let start = pack.len();
        pack.push(&tokens);
        at.extend((0..255).map(|t| (start + t) as u32));
        targets.extend_from_slice(&tokens[1..]);
    }
    let mut optimiser = AdamW::new(&OptimConfig::default(), &decoder.params);
    let mut grads = Grads::new(&decoder.params);
    let (mut times, mut losses, mut norm) = (Vec::new(), Vec::new(), 0.0);
    for _ in 0..STEPS {
        let started = Instant::now();
        grads.clear();
        let tape = decoder.forward(&pack, Pass { keep, ..Pass::SCORE }).unwrap();
        let function = TokenLogp { tokens: &targets, temperature: 1.0, with_entropy: false };
        let rows = decoder.rows_forward(&tape.hidden, &at, &function).unwrap();
        losses.push(-rows.iter().map(|r| r.logp).sum::<f64>() / rows.len() as f64);
        let upstream = vec![RowGrad { logp: -1.0 / rows.len() as f64, ..RowGrad::default() }; rows.len()];
        let d_hidden = decoder.rows_backward(&tape.hidden, &at, &function, &rows, &upstream, &mut grads).unwrap();
        decoder.backward(tape, &pack, &d_hidden, &mut grads).unwrap();
        norm = optimiser.step(&decoder.params, &grads, 1e-5).unwrap().grad_norm;
        times.push(started.elapsed().as_secs_f64());
    }
    times.drain(..2);
    times.sort_by(f64::total_cmp);
    println!(
        "{{\"measure\": \"train_step\", \"keep\": \"{keep:?}\", \"median_seconds\": {:.4}, \"min_seconds\": {:.4}, \"grad_norm\": {norm:.4}, \"first_loss\": {:.4}, \"last_loss\": {:.4}, \"peak_rss_bytes\": {}}}",
        times[times.len() / 2],
        times[0],
        losses[0],
        losses[STEPS - 1],
        peak().unwrap_or(0)
    );
}

fn decode(decoder: &Decoder, rows: u64) {
    let prompt: Vec<u32> = (0..64).map(|i| 100 + i * 7).collect();
    let run = |cap: usize| {
        let settings = Settings {
            sampling: Sampling::greedy(),
            thinking: None,
            eos: Vec::new(),
            stop: None,
            key: vec![1],
            max_rows: rows as usize,
            has_adapter: true,
        };
        let request = Request { id: 1, prompt: prompt.clone(), samples: 0..rows, cap };
        let started = Instant::now();
        generate(decoder, &[request], &settings, |_| ControlFlow::Continue(())).unwrap();
        started.elapsed().as_secs_f64()
    };
    run(4);
    let bandwidth = read_bandwidth(Duration::from_secs(1));
    // The difference of two lengths leaves the prefill out.
    let seconds = (0..3).map(|_| (run(68) - run(4)) / 64.0).fold(f64::INFINITY, f64::min);
    let bandwidth = bandwidth.max(read_bandwidth(Duration::from_secs(1)));
    let bytes = decoder.spec.parameters() as f64 * 4.0;
    println!(
        "{{\"measure\": \"decode\", \"rows\": {rows}, \"seconds_a_token_step\": {seconds:.5}, \"tokens_per_second\": {:.1}, \"weight_bytes_per_second\": {:.3e}, \"read_bandwidth\": {bandwidth:.3e}, \"share\": {:.3}}}",
        rows as f64 / seconds,
        bytes / seconds,
        bytes / seconds / bandwidth
    );
}
