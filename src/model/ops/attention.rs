//! Causal attention over packed segments with grouped key/value heads.
//!
//! The probabilities are never kept: the backward pass computes them again tile by tile, so memory
//! grows with the number of tokens and not with its square. Work is divided by family (segments
//! that share a prefix) and key/value head; within one of these the order is fixed.

use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;

use super::skinny::Rows;
use super::{Columns, Float, Operand, View, gemm, on_cpu, tensor, unfilled};
use crate::model::packed::Packed;

/// Queries computed at once.
const TILE: usize = 64;

/// Extents of the heads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heads {
    /// Query heads, H.
    pub queries: usize,
    /// Key/value heads, Hkv; divides H.
    pub keys: usize,
    /// Elements a head, D.
    pub size: usize,
    /// Keys visible to a query, its own included; `None` = all before it.
    pub window: Option<usize>,
    /// Factor on the scores, usually 1 / sqrt(D).
    pub scale: f64,
}

impl Heads {
    fn group(&self) -> usize {
        self.queries / self.keys
    }

    /// First visible column of the query at absolute position `position`.
    fn first_visible(&self, position: usize) -> usize {
        self.window.map_or(0, |w| (position + 1).saturating_sub(w))
    }
}

/// o [N, H D] = softmax(scale q k^T) v within each segment and its prefix.
///
/// q [N, H D], k and v [N, Hkv D].
pub fn forward(q: &Tensor, k: &Tensor, v: &Tensor, pack: &Packed, heads: &Heads) -> Result<Tensor> {
    on_cpu!(q, cpu_forward(q, k, v, pack, heads), composed_forward(q, k, v, pack, heads))
}

/// (dq, dk, dv) from the gradient at the output, with the output itself.
pub fn backward(
    d_out: &Tensor,
    out: &Tensor,
    (q, k, v): (&Tensor, &Tensor, &Tensor),
    pack: &Packed,
    heads: &Heads,
) -> Result<(Tensor, Tensor, Tensor)> {
    on_cpu!(q, cpu_backward(d_out, out, (q, k, v), pack, heads), composed_backward(d_out, (q, k, v), pack, heads))
}

/// Attention of one new token over cached keys and values, for sampling: `out` [H D].
///
/// `spans` are the (keys, values, count) of the tokens before it and itself, in order, each row
/// [Hkv D]; `scores` is scratch. The result depends on nothing but this row.
pub(crate) fn decode_row<F: Float>(
    q: &[F],
    spans: &[(&[F], &[F], usize)],
    heads: &Heads,
    scores: &mut Vec<F>,
    out: &mut [F],
) {
    let (g, d, width) = (heads.group(), heads.size, heads.keys * heads.size);
    let total: usize = spans.iter().map(|s| s.2).sum();
    let hidden = heads.first_visible(total - 1);
    scores.resize(g * total, F::ZERO);
    for head in 0..heads.keys {
        let queries = Rows { data: &q[head * g * d..], stride: d, count: g };
        let columns = Columns::new(scores, total);
        let mut at = 0;
        for &(keys, _, count) in spans {
            if count > 0 {
                F::dots(queries, Rows { data: &keys[head * d..], stride: width, count }, d, columns, at);
            }
            at += count;
        }
        for j in 0..g {
            let row = &mut scores[j * total..(j + 1) * total];
            softmax_row(row, hidden..total, F::of(heads.scale));
            let out = &mut out[(head * g + j) * d..][..d];
            out.fill(F::ZERO);
            let mut at = 0;
            for &(_, values, count) in spans {
                if count > 0 {
                    let values = Rows { data: &values[head * d..], stride: width, count };
                    F::weighted_sum(&row[at..at + count], values, out);
                }
                at += count;
            }
        }
    }
}

/// Scales, takes the softmax over the visible columns and blanks the others.
fn softmax_row<F: Float>(row: &mut [F], visible: std::ops::Range<usize>, scale: F) {
    row[..visible.start].fill(F::ZERO);
    row[visible.end..].fill(F::ZERO);
    let row = &mut row[visible];
    let mut largest = row[0];
    for &s in row.iter() {
        largest = largest.larger(s);
    }
    for s in row.iter_mut() {
        *s = (*s - largest) * scale;
    }
    F::exp_all(row);
    let mut sum = 0.0;
    for chunk in row.chunks(256) {
        let mut part = F::ZERO;
        for &p in chunk {
            part += p;
        }
        sum += part.wide();
    }
    let inverse = F::of(1.0 / sum);
    for p in row.iter_mut() {
        *p *= inverse;
    }
}

/// Where the keys of a segment stand: (first token, count) of the prefix and of the segment itself.
fn spans(pack: &Packed, segment: usize) -> [(usize, usize); 2] {
    let s = pack.segments[segment];
    let prefix = s.prefix.map_or((0, 0), |p| (pack.segments[p].start, pack.segments[p].len));
    [prefix, (s.start, s.len)]
}

/// Families x key/value heads, the units of parallel work.
fn tasks(pack: &Packed, heads: &Heads) -> Vec<(usize, usize)> {
    (0..pack.families.len()).flat_map(|f| (0..heads.keys).map(move |h| (f, h))).collect()
}

/// A tile of queries of one head: its tokens and how many key columns it can see.
struct Tile {
    first: usize,
    rows: usize,
    before: usize,
    columns: usize,
}

fn tiles(pack: &Packed, segment: usize) -> impl Iterator<Item = Tile> {
    let [(_, before), (start, len)] = spans(pack, segment);
    (0..len).step_by(TILE).map(move |i| {
        let rows = TILE.min(len - i);
        Tile { first: start + i, rows, before: before + i, columns: before + i + rows }
    })
}

/// p [rows, columns] of one tile and head.
///
/// # Safety
/// `q` and `k` are the whole packed matrices.
unsafe fn probabilities<F: Float>(
    q: &[F],
    k: &[F],
    spans: [(usize, usize); 2],
    tile: &Tile,
    head: usize,
    heads: &Heads,
    p: &mut [F],
) {
    let (d, qw, kw) = (heads.size, heads.queries * heads.size, heads.keys * heads.size);
    let kv = head / heads.group();
    let queries = Operand::rows(&q[tile.first * qw + head * d..], qw);
    let mut at = 0;
    for (start, count) in spans {
        let count = count.min(tile.columns - at);
        if count > 0 {
            let keys = Operand::transposed(&k[start * kw + kv * d..], kw);
            // SAFETY: the tile's rows and these keys lie inside the packed matrices.
            unsafe {
                gemm((tile.rows, count, d), p[at..].as_mut_ptr(), tile.columns, false, queries, keys, F::ONE, false);
            }
        }
        at += count;
    }
    for (i, row) in p.chunks_mut(tile.columns).take(tile.rows).enumerate() {
        let position = tile.before + i;
        softmax_row(row, heads.first_visible(position)..position + 1, F::of(heads.scale));
    }
}

fn longest(pack: &Packed) -> usize {
    (0..pack.segments.len()).map(|s| spans(pack, s).iter().map(|s| s.1).sum()).max().unwrap_or(0)
}

fn cpu_forward<F: Float>(q: &Tensor, k: &Tensor, v: &Tensor, pack: &Packed, heads: &Heads) -> Result<Tensor> {
    let n = check(q, k, v, pack, heads)?;
    let (qw, kw, d) = (heads.queries * heads.size, heads.keys * heads.size, heads.size);
    let (q, k, v) = (View::<F>::new(q)?, View::<F>::new(k)?, View::<F>::new(v)?);
    let (q, k, v): (&[F], &[F], &[F]) = (&q, &k, &v);
    let mut out = unfilled::<F>(n * qw);
    let columns = Columns::new(&mut out, qw);
    let scratch = TILE * longest(pack);
    tasks(pack, heads).into_par_iter().with_max_len(1).for_each_init(
        || unfilled::<F>(scratch),
        |p, (family, kv)| {
            for segment in pack.families[family].clone() {
                let spans = spans(pack, segment);
                for tile in tiles(pack, segment) {
                    for head in kv * heads.group()..(kv + 1) * heads.group() {
                        let p = &mut p[..tile.rows * tile.columns];
                        let mut at = 0;
                        // SAFETY: all blocks lie inside the packed matrices, and this task alone
                        // writes these rows and this head's columns of the output.
                        unsafe {
                            probabilities(q, k, spans, &tile, head, heads, p);
                            for (start, count) in spans {
                                let count = count.min(tile.columns - at);
                                if count > 0 {
                                    let weights = Operand::rows(&p[at..], tile.columns);
                                    let values = Operand::rows(&v[start * kw + kv * d..], kw);
                                    let dst = columns.at(tile.first, head * d);
                                    gemm((tile.rows, d, count), dst, qw, at > 0, weights, values, F::ONE, false);
                                }
                                at += count;
                            }
                        }
                    }
                }
            }
        },
    );
    tensor(out, (n, qw))
}

fn cpu_backward<F: Float>(
    d_out: &Tensor,
    out: &Tensor,
    (q, k, v): (&Tensor, &Tensor, &Tensor),
    pack: &Packed,
    heads: &Heads,
) -> Result<(Tensor, Tensor, Tensor)> {
    let n = check(q, k, v, pack, heads)?;
    let (qw, kw, d) = (heads.queries * heads.size, heads.keys * heads.size, heads.size);
    let (q, k, v) = (View::<F>::new(q)?, View::<F>::new(k)?, View::<F>::new(v)?);
    let (q, k, v): (&[F], &[F], &[F]) = (&q, &k, &v);
    let (g, o) = (View::<F>::new(d_out)?, View::<F>::new(out)?);
    let (g, o): (&[F], &[F]) = (&g, &o);
    let (mut dq, mut dk, mut dv) = (unfilled::<F>(n * qw), vec![F::ZERO; n * kw], vec![F::ZERO; n * kw]);
    let (dq_at, dk_at, dv_at) = (Columns::new(&mut dq, qw), Columns::new(&mut dk, kw), Columns::new(&mut dv, kw));
    let scratch = TILE * longest(pack);
    tasks(pack, heads).into_par_iter().with_max_len(1).for_each_init(
        || (unfilled::<F>(scratch), unfilled::<F>(scratch)),
        |(p, ds), (family, kv)| {
            for segment in pack.families[family].clone() {
                let spans = spans(pack, segment);
                for tile in tiles(pack, segment) {
                    for head in kv * heads.group()..(kv + 1) * heads.group() {
                        let p = &mut p[..tile.rows * tile.columns];
                        let ds = &mut ds[..tile.rows * tile.columns];
                        let gradient = &g[tile.first * qw + head * d..];
                        // SAFETY: all blocks lie inside the packed matrices. This task alone writes
                        // this family's rows and this head's columns of dq, dk and dv.
                        unsafe {
                            probabilities(q, k, spans, &tile, head, heads, p);
                            each_span(spans, &tile, |at, start, count| {
                                let values = Operand::transposed(&v[start * kw + kv * d..], kw);
                                let gradient = Operand::rows(gradient, qw);
                                let dst = ds[at..].as_mut_ptr();
                                gemm((tile.rows, count, d), dst, tile.columns, false, gradient, values, F::ONE, false);
                                let weights = Operand::transposed(&p[at..], tile.columns);
                                let dst = dv_at.at(start, kv * d);
                                gemm((count, d, tile.rows), dst, kw, true, weights, gradient, F::ONE, false);
                            });
                            for i in 0..tile.rows {
                                let from = (tile.first + i) * qw + head * d;
                                let pull = super::norm::lane_dot(&g[from..from + d], &o[from..from + d]);
                                let row = i * tile.columns..(i + 1) * tile.columns;
                                for (ds, &p) in ds[row.clone()].iter_mut().zip(&p[row]) {
                                    *ds = p * (*ds - pull);
                                }
                            }
                            let scale = F::of(heads.scale);
                            each_span(spans, &tile, |at, start, count| {
                                let keys = Operand::rows(&k[start * kw + kv * d..], kw);
                                let slope = Operand::rows(&ds[at..], tile.columns);
                                let dst = dq_at.at(tile.first, head * d);
                                gemm((tile.rows, d, count), dst, qw, at > 0, slope, keys, scale, false);
                                let slope = Operand::transposed(&ds[at..], tile.columns);
                                let queries = Operand::rows(&q[tile.first * qw + head * d..], qw);
                                let dst = dk_at.at(start, kv * d);
                                gemm((count, d, tile.rows), dst, kw, true, slope, queries, scale, false);
                            });
                        }
                    }
                }
            }
        },
    );
    Ok((tensor(dq, (n, qw))?, tensor(dk, (n, kw))?, tensor(dv, (n, kw))?))
}

/// Calls `block(column, first token, count)` for each span of keys that a tile can see.
fn each_span(spans: [(usize, usize); 2], tile: &Tile, mut block: impl FnMut(usize, usize, usize)) {
    let mut at = 0;
    for (start, count) in spans {
        let count = count.min(tile.columns - at);
        if count > 0 {
            block(at, start, count);
        }
        at += count;
    }
}

fn check(q: &Tensor, k: &Tensor, v: &Tensor, pack: &Packed, heads: &Heads) -> Result<usize> {
    let n = pack.len();
    let expected = ([n, heads.queries * heads.size], [n, heads.keys * heads.size]);
    if q.dims() != expected.0 || k.dims() != expected.1 || v.dims() != expected.1 {
        candle_core::bail!(
            "attention: q {:?}, k {:?}, v {:?} do not fit {n} tokens and {heads:?}",
            q.shape(),
            k.shape(),
            v.shape()
        );
    }
    Ok(n)
}

/// The additive mask [1, T, S] of one segment's queries over its keys, f32.
///
/// A large finite number stands for minus infinity, so that no row can be all of it.
fn composed_mask(pack: &Packed, segment: usize, heads: &Heads, like: &Tensor) -> Result<Tensor> {
    let [(_, before), (_, len)] = spans(pack, segment);
    let mask: Vec<f32> = (0..len)
        .flat_map(|i| (0..before + len).map(move |j| (before + i, j)))
        .map(|(position, j)| if j <= position && j >= heads.first_visible(position) { 0.0 } else { HIDDEN })
        .collect();
    Tensor::from_vec(mask, (1, len, before + len), like.device())
}

/// Added to the scores of keys that a query must not see.
pub(crate) const HIDDEN: f32 = -1e9;

/// Rows of x [N, H D] in `spans` (first, count), one after the other, as [H times, S, D].
fn by_head(x: &Tensor, spans: &[(usize, usize)], size: usize, times: usize) -> Result<Tensor> {
    let parts: Vec<Tensor> =
        spans.iter().filter(|s| s.1 > 0).map(|&(start, len)| x.narrow(0, start, len)).collect::<Result<_>>()?;
    let x = if parts.len() == 1 { parts[0].clone() } else { Tensor::cat(&parts, 0)? };
    let (s, width) = x.dims2()?;
    let heads = width / size;
    let x = x.reshape((s, heads, size))?.transpose(0, 1)?.contiguous()?; // [H,S,D]
    if times == 1 {
        return Ok(x);
    }
    x.unsqueeze(1)?.expand((heads, times, s, size))?.reshape((heads * times, s, size))
}

/// softmax(scale q k^T + mask) over the last axis, taken in f32 or f64, returned in q's type.
pub(crate) fn composed_softmax(q: &Tensor, k_transposed: &Tensor, mask: &Tensor, scale: f64) -> Result<Tensor> {
    let dtype = q.dtype();
    let scores = (q.matmul(k_transposed)?.to_dtype(super::wide(dtype))? * scale)?;
    let scores = scores.broadcast_add(&mask.to_dtype(scores.dtype())?)?;
    candle_nn::ops::softmax(&scores, candle_core::D::Minus1)?.to_dtype(dtype)
}

/// [H,T,D] as rows [T, H D].
fn by_token(x: &Tensor) -> Result<Tensor> {
    x.transpose(0, 1)?.flatten_from(1)?.contiguous()
}

fn composed_forward(q: &Tensor, k: &Tensor, v: &Tensor, pack: &Packed, heads: &Heads) -> Result<Tensor> {
    check(q, k, v, pack, heads)?;
    let (d, g) = (heads.size, heads.group());
    let mut parts = Vec::with_capacity(pack.segments.len());
    for segment in (0..pack.segments.len()).filter(|&s| pack.segments[s].len > 0) {
        let keys = spans(pack, segment);
        let mask = composed_mask(pack, segment, heads, q)?;
        let p = composed_softmax(&by_head(q, &keys[1..], d, 1)?, &by_head(k, &keys, d, g)?.t()?, &mask, heads.scale)?;
        parts.push(by_token(&p.matmul(&by_head(v, &keys, d, g)?)?)?);
    }
    Tensor::cat(&parts, 0)
}

/// A segment's gradient of its keys (or values): its own continuation's parts are added as they come.
struct Parts(Vec<Option<Tensor>>);

impl Parts {
    fn add(&mut self, segment: usize, part: Tensor) -> Result<()> {
        self.0[segment] = Some(match self.0[segment].take() {
            Some(sum) => (sum + part)?,
            None => part,
        });
        Ok(())
    }

    /// `whole` [Hkv g, S, D] folded to [S, Hkv D] and dealt out to the prefix and the segment.
    fn deal(&mut self, whole: &Tensor, pack: &Packed, segment: usize, heads: &Heads) -> Result<()> {
        let (_, s, d) = whole.dims3()?;
        let whole = whole.to_dtype(super::wide(whole.dtype()))?;
        let folded = by_token(&whole.reshape((heads.keys, heads.group(), s, d))?.sum(1)?)?;
        let [(_, before), (_, len)] = spans(pack, segment);
        if let Some(prefix) = pack.segments[segment].prefix.filter(|_| before > 0) {
            self.add(prefix, folded.narrow(0, 0, before)?)?;
        }
        self.add(segment, folded.narrow(0, before, len)?)
    }

    fn join(self, dtype: DType) -> Result<Tensor> {
        Tensor::cat(&self.0.into_iter().flatten().collect::<Vec<_>>(), 0)?.to_dtype(dtype)
    }
}

fn composed_backward(
    d_out: &Tensor,
    (q, k, v): (&Tensor, &Tensor, &Tensor),
    pack: &Packed,
    heads: &Heads,
) -> Result<(Tensor, Tensor, Tensor)> {
    check(q, k, v, pack, heads)?;
    let (d, g, none) = (heads.size, heads.group(), vec![None; pack.segments.len()]);
    let (mut dq, mut dk, mut dv) = (Vec::new(), Parts(none.clone()), Parts(none));
    for segment in (0..pack.segments.len()).filter(|&s| pack.segments[s].len > 0) {
        let keys = spans(pack, segment);
        let mask = composed_mask(pack, segment, heads, q)?;
        let (qs, ks) = (by_head(q, &keys[1..], d, 1)?, by_head(k, &keys, d, g)?);
        let p = composed_softmax(&qs, &ks.t()?, &mask, heads.scale)?;
        let go = by_head(d_out, &keys[1..], d, 1)?; // [H,T,D]
        let dp = go.matmul(&by_head(v, &keys, d, g)?.t()?)?; // [H,T,S]
        // Differences of near numbers: taken in f32 where the operands are half precision.
        let wide = super::wide(p.dtype());
        let (dp, p_wide) = (dp.to_dtype(wide)?, p.to_dtype(wide)?);
        let pull = (&dp * &p_wide)?.sum_keepdim(candle_core::D::Minus1)?;
        let ds = ((dp.broadcast_sub(&pull)? * p_wide)? * heads.scale)?.to_dtype(p.dtype())?;
        dq.push(by_token(&ds.matmul(&ks)?)?);
        dk.deal(&ds.t()?.contiguous()?.matmul(&qs)?, pack, segment, heads)?;
        dv.deal(&p.t()?.contiguous()?.matmul(&go)?, pack, segment, heads)?;
    }
    Ok((Tensor::cat(&dq, 0)?, dk.join(k.dtype())?, dv.join(v.dtype())?))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check_gradient, distance, dot, normal, to_vec};
    use super::*;

    fn pack() -> Packed {
        let mut pack = Packed::new();
        pack.push(&[1; 3]);
        pack.push_continuation(&[1; 4]);
        pack.push_continuation(&[1; 2]);
        pack.push(&[1; 5]);
        pack
    }

    fn heads(window: Option<usize>) -> Heads {
        Heads { queries: 4, keys: 2, size: 3, window, scale: 0.7 }
    }

    #[test]
    fn gradients_match_finite_differences_and_the_composed_version() {
        for window in [None, Some(3)] {
            let (pack, heads) = (pack(), heads(window));
            let n = pack.len();
            let (q, k, v) = (normal(1, &[n, 12]), normal(2, &[n, 6]), normal(3, &[n, 6]));
            let g = normal(4, &[n, 12]);
            let out = forward(&q, &k, &v, &pack, &heads).unwrap();
            assert!(distance(&out, &composed_forward(&q, &k, &v, &pack, &heads).unwrap()) < 1e-12);
            let (dq, dk, dv) = backward(&g, &out, (&q, &k, &v), &pack, &heads).unwrap();
            let (cq, ck, cv) = composed_backward(&g, (&q, &k, &v), &pack, &heads).unwrap();
            assert!(distance(&dq, &cq).max(distance(&dk, &ck)).max(distance(&dv, &cv)) < 1e-12);
            check_gradient(&q, &dq, |q| dot(&forward(q, &k, &v, &pack, &heads).unwrap(), &g));
            check_gradient(&k, &dk, |k| dot(&forward(&q, k, &v, &pack, &heads).unwrap(), &g));
            check_gradient(&v, &dv, |v| dot(&forward(&q, &k, v, &pack, &heads).unwrap(), &g));
        }
    }

    #[test]
    fn long_segments_are_tiled_and_shared_prefixes_equal_separate_copies() {
        let heads = heads(Some(100));
        let mut shared = Packed::new();
        shared.push(&[1; 70]);
        shared.push_continuation(&[1; 80]);
        let mut separate = Packed::new();
        separate.push(&[1; 150]);
        let (q, k, v) = (normal(1, &[150, 12]), normal(2, &[150, 6]), normal(3, &[150, 6]));
        let a = forward(&q, &k, &v, &shared, &heads).unwrap();
        let b = forward(&q, &k, &v, &separate, &heads).unwrap();
        assert!(distance(&a, &b) < 1e-12);
        let g = normal(4, &[150, 12]);
        let (x, y) = (
            backward(&g, &a, (&q, &k, &v), &shared, &heads).unwrap(),
            backward(&g, &b, (&q, &k, &v), &separate, &heads).unwrap(),
        );
        assert!(distance(&x.0, &y.0).max(distance(&x.1, &y.1)).max(distance(&x.2, &y.2)) < 1e-12);
    }

    #[test]
    fn decoding_a_row_equals_the_last_row_of_the_packed_form() {
        let heads = heads(Some(4));
        let mut pack = Packed::new();
        pack.push(&[1; 7]);
        let (q, k, v) = (normal(1, &[7, 12]), normal(2, &[7, 6]), normal(3, &[7, 6]));
        let whole = to_vec(&forward(&q, &k, &v, &pack, &heads).unwrap());
        let (q, k, v) = (to_vec(&q), to_vec(&k), to_vec(&v));
        let mut out = vec![0.0; 12];
        let spans = [(&k[..18], &v[..18], 3), (&k[18..], &v[18..], 4)];
        decode_row(&q[6 * 12..], &spans, &heads, &mut Vec::new(), &mut out);
        for (a, b) in out.iter().zip(&whole[6 * 12..]) {
            assert!((a - b).abs() < 1e-12);
        }
    }
}
