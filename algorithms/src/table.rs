//! A dense [N,T] table of f64, rows first: the shape of every per-token column of a batch.

use candle_core::{Device, Tensor};

use crate::{Error, Result};

/// A dense table of `rows` x `cols` f64 values in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    rows: usize,
    cols: usize,
    data: Vec<f64>,
}

impl Table {
    /// A table filled with one value.
    pub fn filled(rows: usize, cols: usize, value: f64) -> Self {
        Self { rows, cols, data: vec![value; rows * cols] }
    }

    /// A table of zeros.
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Self::filled(rows, cols, 0.0)
    }

    /// A table from row-major data; its length must be `rows * cols`.
    pub fn new(rows: usize, cols: usize, data: Vec<f64>) -> Result<Self> {
        if data.len() != rows * cols {
            return Err(Error::Shape {
                what: "table data".into(),
                expected: format!("{rows} x {cols} = {} values", rows * cols),
                found: format!("{}", data.len()),
            });
        }
        Ok(Self { rows, cols, data })
    }

    /// A table from rows of unequal length, padded at the right with `pad`.
    pub fn ragged<R: AsRef<[f64]>>(rows: &[R], pad: f64) -> Self {
        let cols = rows.iter().map(|r| r.as_ref().len()).max().unwrap_or(0);
        let mut table = Self::filled(rows.len(), cols, pad);
        for (i, row) in rows.iter().enumerate() {
            table.row_mut(i)[..row.as_ref().len()].copy_from_slice(row.as_ref());
        }
        table
    }

    /// From a tensor [N,T] of any float type.
    pub fn from_tensor(tensor: &Tensor) -> Result<Self> {
        let (rows, cols) = tensor.dims2()?;
        let tensor = tensor.to_dtype(candle_core::DType::F64)?.to_device(&Device::Cpu)?;
        Self::new(rows, cols, tensor.flatten_all()?.to_vec1()?)
    }

    /// As an f64 tensor [N,T] on the CPU.
    pub fn tensor(&self) -> Result<Tensor> {
        Ok(Tensor::from_slice(&self.data, (self.rows, self.cols), &Device::Cpu)?)
    }

    /// Number of rows, N.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns, T.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// All values, row by row.
    pub fn data(&self) -> &[f64] {
        &self.data
    }

    /// All values, row by row, to be written.
    pub fn data_mut(&mut self) -> &mut [f64] {
        &mut self.data
    }

    /// One row.
    pub fn row(&self, i: usize) -> &[f64] {
        &self.data[i * self.cols..(i + 1) * self.cols]
    }

    /// One row, to be written.
    pub fn row_mut(&mut self, i: usize) -> &mut [f64] {
        &mut self.data[i * self.cols..(i + 1) * self.cols]
    }

    /// The rows named, in that order.
    pub fn select(&self, rows: &[usize]) -> Self {
        let data = rows.iter().flat_map(|&i| self.row(i).iter().copied()).collect();
        Self { rows: rows.len(), cols: self.cols, data }
    }

    /// Elementwise combination of two tables of one shape.
    pub fn zip(&self, other: &Self, f: impl Fn(f64, f64) -> f64) -> Self {
        assert_eq!((self.rows, self.cols), (other.rows, other.cols), "tables of one batch have one shape");
        let data = self.data.iter().zip(&other.data).map(|(&a, &b)| f(a, b)).collect();
        Self { rows: self.rows, cols: self.cols, data }
    }

    /// Sum of all values.
    pub fn sum(&self) -> f64 {
        self.data.iter().sum()
    }
}
