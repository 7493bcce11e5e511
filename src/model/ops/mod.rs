//! Operations of the decoder, each a forward and a hand-written backward.
//!
//! Candle's fused kernels end the graph silently and its differentiable ones are slow on the CPU,
//! so training does not use Candle's graph at all: the decoder calls these functions in both
//! directions and decides itself what is kept. Every operation has a CPU kernel over slices (f32
//! in runs, f64 in tests; parallel over rows, with reductions in a fixed order so that results do
//! not depend on timing) and a version composed of Candle's tensor calls, which serves other
//! devices and checks the kernel in tests.
//!
//! All activations are packed: a tensor [N,C] holds N tokens of several sequences one after the
//! other, without padding (see [`crate::model::packed`]).
#![allow(unsafe_code)]

pub mod attention;
pub mod embedding;
pub mod linear;
pub mod norm;
pub mod rope;
pub mod skinny;
pub mod swiglu;

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::ops::{Deref, Range};

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Storage, StorageRef, Tensor, WithDType};
use candlewick_algorithms::row::Real;

/// A float type of CPU kernels.
pub trait Float:
    WithDType
    + Real
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::Neg<Output = Self>
    + std::ops::AddAssign
    + std::ops::SubAssign
    + std::ops::MulAssign
    + std::iter::Sum
{
    /// From f64, rounded.
    fn of(value: f64) -> Self;
    /// To f64.
    fn wide(self) -> f64;
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Square root.
    fn root(self) -> Self;
    /// The larger of two numbers.
    fn larger(self, other: Self) -> Self;
    /// The natural exponential of every element.
    fn exp_all(values: &mut [Self]);
    /// out[r, first + o] = x_r . w_o over k elements, see [`skinny`].
    fn dots(x: skinny::Rows<Self>, w: skinny::Rows<Self>, k: usize, out: Columns<Self>, first: usize);
    /// out += sum_t p_t v_t, in row order.
    fn weighted_sum(p: &[Self], v: skinny::Rows<Self>, out: &mut [Self]);
}

/// A matrix [rows, stride] of which several threads write different columns.
#[derive(Clone, Copy)]
pub struct Columns<F> {
    data: *mut F,
    stride: usize,
    rows: usize,
}

// SAFETY: `Columns` is handed out by functions of this module alone, which give each thread a
// range of columns of its own.
unsafe impl<F: Send> Send for Columns<F> {}
// SAFETY: as above.
unsafe impl<F: Send> Sync for Columns<F> {}

impl<F: Copy> Columns<F> {
    fn new(data: &mut [F], stride: usize) -> Self {
        Self { data: data.as_mut_ptr(), stride, rows: data.len() / stride.max(1) }
    }

    /// Writes one element. Concurrent callers must write different columns.
    #[inline(always)]
    fn set(self, row: usize, column: usize, value: F) {
        debug_assert!(row < self.rows && column < self.stride);
        // SAFETY: in bounds (checked above in debug builds; callers iterate over rows x stride),
        // and no two threads write one column.
        unsafe { *self.data.add(row * self.stride + column) = value }
    }

    /// A pointer to one element, for matrix products into a block of columns.
    fn at(self, row: usize, column: usize) -> *mut F {
        debug_assert!(row <= self.rows && column <= self.stride);
        // SAFETY: within, or one past, the allocation.
        unsafe { self.data.add(row * self.stride + column) }
    }
}

impl Float for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    fn of(value: f64) -> Self {
        value as Self
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
    fn root(self) -> Self {
        self.sqrt()
    }
    fn larger(self, other: Self) -> Self {
        self.max(other)
    }
    fn exp_all(values: &mut [Self]) {
        <Self as candlewick_algorithms::row::simd::Kernels>::exp_in_place(values);
    }
    fn dots(x: skinny::Rows<Self>, w: skinny::Rows<Self>, k: usize, out: Columns<Self>, first: usize) {
        skinny::dots_f32(x, w, k, out, first);
    }
    fn weighted_sum(p: &[Self], v: skinny::Rows<Self>, out: &mut [Self]) {
        skinny::weighted_sum_f32(p, v, out);
    }
}

impl Float for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    fn of(value: f64) -> Self {
        value
    }
    fn wide(self) -> f64 {
        self
    }
    fn root(self) -> Self {
        self.sqrt()
    }
    fn larger(self, other: Self) -> Self {
        self.max(other)
    }
    fn exp_all(values: &mut [Self]) {
        <Self as candlewick_algorithms::row::simd::Kernels>::exp_in_place(values);
    }
    fn dots(x: skinny::Rows<Self>, w: skinny::Rows<Self>, k: usize, out: Columns<Self>, first: usize) {
        skinny::dots_plain(x, w, k, out, first);
    }
    fn weighted_sum(p: &[Self], v: skinny::Rows<Self>, out: &mut [Self]) {
        skinny::weighted_sum_plain(p, v, out);
    }
}

thread_local! {
    static IS_COMPOSED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` on this thread with the composed versions in place of the CPU kernels: what a GPU
/// computes, on the CPU. Tests compare the two; runs never call it.
pub fn composed<R>(work: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            IS_COMPOSED.set(self.0);
        }
    }
    let _restore = Restore(IS_COMPOSED.replace(true));
    work()
}

/// Runs `work` on a thread of the pool, where a parallel loop begins at once.
///
/// A caller from outside hands each loop over and sleeps until it is done, and a decoding step has more than a hundred loops.
pub(crate) fn in_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    // The choice of versions belongs to this thread.
    if IS_COMPOSED.get() { work() } else { rayon::scope(|_| work()) }
}

/// Where the kernels' numbers of a tensor lie in memory: address and bytes.
pub(crate) fn block(tensor: &Tensor) -> Option<(usize, usize)> {
    let (storage, _) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(CpuStorage::F32(data)) => Some((data.as_ptr() as usize, size_of_val(data.as_slice()))),
        Storage::Cpu(CpuStorage::F64(data)) => Some((data.as_ptr() as usize, size_of_val(data.as_slice()))),
        _ => None,
    }
}

/// Whether the CPU kernels serve tensors of this device and type.
pub(crate) fn has_kernels(device: &Device, dtype: DType) -> bool {
    device.is_cpu() && matches!(dtype, DType::F32 | DType::F64) && !IS_COMPOSED.get()
}

/// Calls a generic CPU kernel in the tensor's float type, or evaluates the composed version.
macro_rules! on_cpu {
    ($tensor:expr, $kernel:ident ( $($arg:expr),* $(,)? ), $composed:expr) => {
        match (crate::model::ops::has_kernels($tensor.device(), $tensor.dtype()), $tensor.dtype()) {
            (true, candle_core::DType::F32) => $kernel::<f32>($($arg),*),
            (true, candle_core::DType::F64) => $kernel::<f64>($($arg),*),
            _ => $composed,
        }
    };
}
pub(crate) use on_cpu;

/// Read access to the elements of a contiguous tensor on the CPU.
pub(crate) struct View<'a, F> {
    storage: StorageRef<'a>,
    range: Range<usize>,
    element: PhantomData<F>,
}

impl<'a, F: Float> View<'a, F> {
    pub(crate) fn new(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("expected a contiguous tensor, found strides {:?}", layout.stride())
        };
        match &*storage {
            Storage::Cpu(cpu) => cpu.as_slice::<F>()?,
            _ => candle_core::bail!("expected a tensor on the CPU"),
        };
        Ok(Self { storage, range: start..end, element: PhantomData })
    }
}

impl<F: Float> Deref for View<'_, F> {
    type Target = [F];

    fn deref(&self) -> &[F] {
        match &*self.storage {
            Storage::Cpu(cpu) => &cpu.as_slice::<F>().expect("checked when the view was made")[self.range.clone()],
            _ => unreachable!("checked when the view was made"),
        }
    }
}

/// Changes the elements of a contiguous tensor on the CPU where they are.
///
/// Every handle to the tensor sees the change; callers own the tensor or mean just that
/// (weights under the optimiser, accumulated gradients).
pub(crate) fn mutate<F: Float, R>(tensor: &Tensor, change: impl FnOnce(&mut [F]) -> R) -> Result<R> {
    struct Change<C, R, F> {
        change: RefCell<Option<C>>,
        result: RefCell<Option<R>>,
        element: PhantomData<F>,
    }
    impl<F: Float, R, C: FnOnce(&mut [F]) -> R> InplaceOp1 for Change<C, R, F> {
        fn name(&self) -> &'static str {
            "mutate"
        }
        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            let Some((start, end)) = layout.contiguous_offsets() else {
                candle_core::bail!("only a contiguous tensor can be changed in place")
            };
            let slice = storage_slice_mut::<F>(storage)?;
            if let Some(change) = self.change.borrow_mut().take() {
                *self.result.borrow_mut() = Some(change(&mut slice[start..end]));
            }
            Ok(())
        }
    }
    let op = Change { change: RefCell::new(Some(change)), result: RefCell::new(None), element: PhantomData };
    tensor.inplace_op1(&op)?;
    op.result
        .into_inner()
        .ok_or_else(|| candle_core::Error::Msg("an in-place change did not run: the tensor is not on the CPU".into()))
}

fn storage_slice_mut<F: Float>(storage: &mut CpuStorage) -> Result<&mut [F]> {
    use std::any::Any;
    let found = storage.dtype();
    let slice: Option<&mut Vec<F>> = match storage {
        CpuStorage::F32(v) => (v as &mut dyn Any).downcast_mut(),
        CpuStorage::F64(v) => (v as &mut dyn Any).downcast_mut(),
        _ => None,
    };
    slice
        .map(Vec::as_mut_slice)
        .ok_or_else(|| candle_core::Error::Msg(format!("expected {:?} elements, found {found:?}", F::DTYPE)))
}

/// A tensor that owns these elements.
pub(crate) fn tensor<F: Float, S: Into<candle_core::Shape>>(data: Vec<F>, shape: S) -> Result<Tensor> {
    Tensor::from_vec(data, shape, &Device::Cpu)
}

/// A vector whose elements are about to be overwritten.
#[allow(clippy::uninit_vec)]
pub(crate) fn unfilled<F: Float>(len: usize) -> Vec<F> {
    let mut data = Vec::with_capacity(len);
    // SAFETY: `Float` is f32 or f64, for which any bits are a value, and every caller writes each
    // element before it reads one.
    unsafe { data.set_len(len) };
    data
}

/// One operand of a matrix product: where it starts and how far apart its rows and columns are.
#[derive(Clone, Copy)]
pub(crate) struct Operand<F> {
    pub(crate) data: *const F,
    pub(crate) row_stride: usize,
    pub(crate) column_stride: usize,
}

impl<F> Operand<F> {
    /// A row-major matrix with `stride` elements a row.
    pub(crate) fn rows(data: &[F], stride: usize) -> Self {
        Self { data: data.as_ptr(), row_stride: stride, column_stride: 1 }
    }

    /// The transpose of a row-major matrix.
    pub(crate) fn transposed(data: &[F], stride: usize) -> Self {
        Self { data: data.as_ptr(), row_stride: 1, column_stride: stride }
    }
}

/// dst [m,n] (row stride `dst_stride`) = (accumulate ? dst : 0) + alpha a [m,k] b [k,n].
///
/// # Safety
/// The operands must cover the extents given, and nobody else may touch the destination block.
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn gemm<F: Float>(
    (m, n, k): (usize, usize, usize),
    dst: *mut F,
    dst_stride: usize,
    accumulate: bool,
    a: Operand<F>,
    b: Operand<F>,
    alpha: F,
    is_parallel: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    let parallelism =
        if is_parallel { gemm::Parallelism::Rayon(rayon::current_num_threads()) } else { gemm::Parallelism::None };
    // SAFETY: extents and exclusiveness are the caller's promise.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst,
            1,
            dst_stride as isize,
            accumulate,
            a.data,
            a.column_stride as isize,
            a.row_stride as isize,
            b.data,
            b.column_stride as isize,
            b.row_stride as isize,
            F::ONE,
            alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Rows that one parallel task handles so that it is worth its start: about 64 Ki elements.
pub(crate) fn rows_a_task(width: usize) -> usize {
    (65_536 / width.max(1)).max(1)
}

/// The type that sums are taken in: f32 for half precision, else the tensor's own.
pub(crate) fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// a += b, elementwise and in place; b is converted to a's type.
pub fn add_in_place(a: &Tensor, b: &Tensor) -> Result<()> {
    fn kernel<F: Float>(a: &Tensor, b: &Tensor) -> Result<()> {
        use rayon::prelude::*;
        let b = View::<F>::new(b)?;
        mutate::<F, _>(a, |a| {
            a.par_chunks_mut(65_536).zip(b.par_chunks(65_536)).for_each(|(a, b)| {
                for (a, &b) in a.iter_mut().zip(b) {
                    *a += b;
                }
            });
        })
    }
    if a.shape() != b.shape() {
        candle_core::bail!("add in place: shapes differ, {:?} and {:?}", a.shape(), b.shape());
    }
    let b = &b.to_dtype(a.dtype())?;
    on_cpu!(a, kernel(a, b), a.slice_set(&(a + b)?.contiguous()?, 0, 0))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use candlewick_algorithms::rng::Rng;

    /// Standard normal numbers, f64, on the CPU.
    pub(crate) fn normal(seed: u64, shape: &[usize]) -> Tensor {
        let mut rng = Rng::keyed(&[seed]);
        let data: Vec<f64> = (0..shape.iter().product()).map(|_| rng.normal()).collect();
        Tensor::from_vec(data, shape, &Device::Cpu).unwrap()
    }

    /// Largest absolute difference of two tensors.
    pub(crate) fn distance(a: &Tensor, b: &Tensor) -> f64 {
        assert_eq!(a.dims(), b.dims());
        let (a, b) = (to_vec(a), to_vec(b));
        a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    }

    pub(crate) fn to_vec(t: &Tensor) -> Vec<f64> {
        t.to_dtype(candle_core::DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Compares an analytic gradient with central differences of `loss` at `x`, in f64.
    pub(crate) fn check_gradient(x: &Tensor, gradient: &Tensor, loss: impl Fn(&Tensor) -> f64) {
        let (values, gradient) = (to_vec(x), to_vec(gradient));
        assert!(gradient.iter().any(|g| *g != 0.0), "the gradient is all zero");
        for i in 0..values.len() {
            let at = |delta: f64| {
                let mut values = values.clone();
                values[i] += delta;
                loss(&Tensor::from_vec(values, x.dims(), &Device::Cpu).unwrap())
            };
            let numeric = (at(1e-5) - at(-1e-5)) / 2e-5;
            let scale = 1.0_f64.max(numeric.abs());
            assert!((numeric - gradient[i]).abs() < 1e-7 * scale, "element {i}: {numeric} against {}", gradient[i]);
        }
    }

    /// sum(a * b) of two f64 tensors.
    pub(crate) fn dot(a: &Tensor, b: &Tensor) -> f64 {
        to_vec(a).iter().zip(to_vec(b)).map(|(a, b)| a * b).sum()
    }
}
