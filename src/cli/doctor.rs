//! `candlewick doctor`: what this build and this machine can do, measured.

use std::hint::black_box;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use candlewick::model::memory::{machine, read_bandwidth, size};
use candlewick::model::smoke;
use console::style;

use super::table;

/// Show what this build and this machine can do: features, memory, measured rates.
///
/// Takes a few seconds. Builds with CUDA also run a smoke test on each GPU: matrix products in
/// three number types with their error, a small gradient, and a small decoder that scores, learns and
/// samples there as on the CPU.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run the GPUs' smoke test on the CPU as well.
    #[arg(long)]
    smoke: bool,
}

/// How long one rate is measured.
const MEASURE: Duration = Duration::from_millis(800);

/// Prints the tables.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut out = std::io::stdout().lock();
    section(&mut out, "build", &build())?;
    section(&mut out, "machine", &machine_rows())?;
    section(
        &mut out,
        "rates",
        &[
            row(
                "read bandwidth",
                &format!("{:.1} GB/s, {} threads", read_bandwidth(MEASURE) / 1e9, rayon::current_num_threads()),
            ),
            row("read, one thread", &format!("{:.1} GB/s", one_thread(|| read_bandwidth(MEASURE))? / 1e9)),
            row(
                "f32 matmul",
                &format!("{:.0} GFLOP/s at 1024 x 1024 x 1024", matmul_rate(&Device::Cpu, DType::F32, 1024)? / 1e9),
            ),
            row("f32 matmul, 16 rows", &format!("{:.0} GFLOP/s at 16 x 1024 x 1024", skinny_rate()? / 1e9)),
        ],
    )?;
    if arguments.smoke {
        section(&mut out, "cpu, by a GPU's tensor calls", &smoke_test(&Device::Cpu)?)?;
    }
    gpus(&mut out)
}

fn section(out: &mut impl Write, title: &str, rows: &[Vec<String>]) -> Result<()> {
    writeln!(out, "{}", style(title).bold())?;
    writeln!(out, "{}", table::columns(rows, 2))?;
    Ok(())
}

fn row(name: &str, value: &str) -> Vec<String> {
    vec![name.into(), value.into()]
}

fn build() -> Vec<Vec<String>> {
    let features = [
        ("hub", cfg!(feature = "hub")),
        ("parquet", cfg!(feature = "parquet")),
        ("gguf", cfg!(feature = "gguf")),
        ("cuda", cfg!(feature = "cuda")),
    ];
    let named =
        |on: bool| features.iter().filter(|(_, is_on)| *is_on == on).map(|(n, _)| *n).collect::<Vec<_>>().join(", ");
    let profile = if cfg!(debug_assertions) { "with checks (dev profile)" } else { "optimised (release profile)" };
    vec![
        row("version", concat!("candlewick ", env!("CARGO_PKG_VERSION"))),
        row("profile", profile),
        row("features", &named(true)),
        row("without", &named(false)),
    ]
}

fn machine_rows() -> Vec<Vec<String>> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let mut rows = vec![
        row("system", &format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)),
        row("cores", &cores.to_string()),
        row("threads", &format!("{}, set by RAYON_NUM_THREADS", rayon::current_num_threads())),
        row("instructions", &instruction_sets().join(", ")),
    ];
    match machine() {
        Some((total, free)) => rows.push(row("memory", &format!("{}, {} free", size(total), size(free)))),
        None => rows.push(row("memory", "not known on this system")),
    }
    rows
}

/// The CPU's vector instruction sets that matter to matrix products.
fn instruction_sets() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let sets = [
            ("sse4.2", is_x86_feature_detected!("sse4.2")),
            ("avx2", is_x86_feature_detected!("avx2")),
            ("fma", is_x86_feature_detected!("fma")),
            ("f16c", is_x86_feature_detected!("f16c")),
            ("avx512f", is_x86_feature_detected!("avx512f")),
            ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
        ];
        sets.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name).collect()
    }
    #[cfg(target_arch = "aarch64")]
    {
        let sets = [
            ("neon", std::arch::is_aarch64_feature_detected!("neon")),
            ("fp16", std::arch::is_aarch64_feature_detected!("fp16")),
            ("bf16", std::arch::is_aarch64_feature_detected!("bf16")),
        ];
        sets.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name).collect()
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    Vec::new()
}

/// Runs a measurement in a pool of one thread.
fn one_thread(measure: impl Fn() -> f64 + Send + Sync) -> Result<f64> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().context("no thread could be started")?;
    Ok(pool.install(measure))
}

/// The shortest of the passes that fit into the measuring time, after one that warms up.
fn seconds_a_pass<T>(mut pass: impl FnMut() -> T) -> f64 {
    black_box(pass());
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed() < MEASURE {
        let begun = Instant::now();
        black_box(pass());
        best = best.min(begun.elapsed().as_secs_f64());
    }
    best
}

/// Floating-point operations a second of an n x n x n product.
fn matmul_rate(device: &Device, dtype: DType, n: usize) -> Result<f64> {
    let a = Tensor::randn(0f32, 1.0, (n, n), device)?.to_dtype(dtype)?;
    let b = Tensor::randn(0f32, 1.0, (n, n), device)?.to_dtype(dtype)?;
    product_rate(&a, &b, device)
}

/// The same at the shape of decoding a batch of 16.
fn skinny_rate() -> Result<f64> {
    let a = Tensor::randn(0f32, 1.0, (16, 1024), &Device::Cpu)?;
    let b = Tensor::randn(0f32, 1.0, (1024, 1024), &Device::Cpu)?;
    product_rate(&a, &b, &Device::Cpu)
}

fn product_rate(a: &Tensor, b: &Tensor, device: &Device) -> Result<f64> {
    let (m, k) = a.dims2()?;
    let n = b.dim(1)?;
    a.matmul(b)?;
    let mut failure = None;
    let seconds = seconds_a_pass(|| {
        if let Err(error) = a.matmul(b).and_then(|_| device.synchronize()) {
            failure.get_or_insert(error);
        }
    });
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(2.0 * (m * k * n) as f64 / seconds),
    }
}

#[cfg(not(feature = "cuda"))]
fn gpus(out: &mut impl Write) -> Result<()> {
    writeln!(out, "{}\n  this build has no CUDA: cargo build --release --features cuda adds it", style("gpu").bold())?;
    Ok(())
}

/// The smoke test on every GPU; a machine without one is told why.
#[cfg(feature = "cuda")]
fn gpus(out: &mut impl Write) -> Result<()> {
    let mut found = 0;
    for number in 0.. {
        match Device::new_cuda(number) {
            Ok(device) => {
                section(out, &format!("gpu {number}"), &smoke_test(&device)?)?;
                found += 1;
            }
            Err(error) if found == 0 => {
                let first = error.to_string();
                writeln!(out, "{}\n  none: {}", style("gpu").bold(), first.lines().next().unwrap_or_default())?;
                break;
            }
            Err(_) => break,
        }
    }
    Ok(())
}

/// Name, products in three number types with their error, a gradient, and a decoder at work.
fn smoke_test(device: &Device) -> Result<Vec<Vec<String>>> {
    let mut rows = Vec::new();
    #[cfg(feature = "cuda")]
    if let Device::Cuda(cuda) = device {
        rows.push(row("name", &cuda.cuda_stream().context().name().unwrap_or_else(|e| format!("unknown: {e}"))));
    }
    // Half precision is so slow on the CPU that a large product would take minutes.
    let n = if device.is_cpu() { 256 } else { 4096 };
    for (name, dtype) in [("f32", DType::F32), ("f16", DType::F16), ("bf16", DType::BF16)] {
        let rate = matmul_rate(device, dtype, n)?;
        let error = corner_error(device, dtype)?;
        let value = format!("{:.3} TFLOP/s at {n}, relative error {error:.1e}", rate / 1e12);
        rows.push(row(&format!("{name} matmul"), &value));
    }
    let gradient = format!("log-softmax and gather, largest difference from the CPU {:.1e}", gradient_error(device)?);
    rows.push(row("gradient", &gradient));
    for (name, dtype) in [("f32", DType::F32), ("bf16", DType::BF16)] {
        let d = smoke::decoder_distance(device, dtype)?;
        let value = format!(
            "log-probs differ by {:.1e}, gradients by {:.1e}, a step by {:.1e} of itself, {} of {} sampled tokens are the same",
            d.logp, d.gradient, d.update, d.tokens.0, d.tokens.1
        );
        rows.push(row(&format!("{name} decoder"), &value));
    }
    Ok(rows)
}

/// Largest relative error of a 64 x 64 corner of a 4096-deep product against f64.
fn corner_error(device: &Device, dtype: DType) -> Result<f64> {
    let a = Tensor::randn(0f32, 1.0, (64, 4096), &Device::Cpu)?.to_dtype(dtype)?;
    let b = Tensor::randn(0f32, 1.0, (4096, 64), &Device::Cpu)?.to_dtype(dtype)?;
    let exact = a.to_dtype(DType::F64)?.matmul(&b.to_dtype(DType::F64)?)?;
    let found = a.to_device(device)?.matmul(&b.to_device(device)?)?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
    let scale = exact.abs()?.max_all()?.to_scalar::<f64>()?;
    Ok((found - exact)?.abs()?.max_all()?.to_scalar::<f64>()? / scale)
}

/// Largest difference between the device's and the CPU's gradient of the sum of chosen log-probs.
fn gradient_error(device: &Device) -> Result<f64> {
    let logits = Tensor::randn(0f32, 1.0, (8, 100), &Device::Cpu)?;
    let chosen = Tensor::arange(0u32, 8, &Device::Cpu)?.reshape((8, 1))?;
    let gradient = |device: &Device| -> Result<Tensor> {
        let variable = candle_core::Var::from_tensor(&logits.to_device(device)?)?;
        let shifted = variable.broadcast_sub(&variable.max_keepdim(1)?)?;
        let logp = shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(1)?.log()?)?;
        let gradients = logp.gather(&chosen.to_device(device)?, 1)?.sum_all()?.backward()?;
        let gradient = gradients.get(&variable).context("no gradient reached the logits")?;
        Ok(gradient.to_device(&Device::Cpu)?)
    };
    let difference = (gradient(device)? - gradient(&Device::Cpu)?)?;
    Ok(f64::from(difference.abs()?.max_all()?.to_scalar::<f32>()?))
}
