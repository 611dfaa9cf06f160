//! Fused causal attention over packed rows: tiles of scores, softmax kept up to date by running maximum and sum (Milakov and Gimelshein
//! 2018;
//! Dao et al. 2022), so memory is linear in the rows.
//!
//! The backward pass goes over the tiles twice, once by rows of queries for their gradient and once by rows of keys for theirs: 7 products
//! instead of 5, but every output has one owner, so there is nothing to lock and one order of sums.

use super::matrix::{Size, View, multiply};
use super::{Cpu, Number, expect_len, number};
use crate::KernelError;
use crate::operations::{AttentionShape, Done};
use rayon::prelude::*;

const KERNEL: &str = "attention";

/// Rows of queries in a tile.
const QUERY_ROWS: usize = 64;

/// Rows of keys in a tile.
const KEY_ROWS: usize = 128;

/// Queries, keys and values, and the first row that each row sees.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input<'a, F> {
    pub query: &'a [F],
    pub key: &'a [F],
    pub value: &'a [F],
    pub lo: &'a [u32],
}

/// What the backward pass reads besides the input.
#[derive(Debug, Clone, Copy)]
pub(super) struct Saved<'a, F> {
    pub output: &'a [F],
    pub log_sum_exp: &'a [F],
    pub output_grad: &'a [F],
}

impl<F: Number> Cpu<F> {
    pub(super) fn attention_forward(&self, shape: AttentionShape, input: Input<'_, F>, output: &mut [F], log_sum_exp: &mut [F]) -> Done {
        check(shape, input, &[("output", output.len())], log_sum_exp.len())?;
        for (block, sums) in self.attend(shape, 0, input, output).iter().enumerate() {
            let count = sums.len() / shape.query_heads;
            for (head, sums) in sums.chunks_exact(count).enumerate() {
                let start = head * shape.rows + block * QUERY_ROWS;
                log_sum_exp[start..start + count].copy_from_slice(sums);
            }
        }
        Ok(())
    }

    pub(super) fn attention_cached(&self, shape: AttentionShape, before: usize, input: Input<'_, F>, output: &mut [F]) -> Done {
        let width = shape.key_heads * shape.head_dim;
        let needed = before.checked_add(shape.rows).and_then(|rows| rows.checked_mul(width)).unwrap_or(usize::MAX);
        let (Some(key), Some(value)) = (input.key.get(..needed), input.value.get(..needed)) else {
            return Err(KernelError::Value { kernel: KERNEL, argument: "before", wanted: "no more rows than keys and values hold" });
        };
        // As for rows that follow none, with the keys and values of the new rows.
        let new = Input { key: &key[before * width..], value: &value[before * width..], lo: &vec![0; shape.rows], ..input };
        check(shape, new, &[("output", output.len())], shape.rows * shape.query_heads)?;
        if input.lo.len() != shape.rows || input.lo.iter().enumerate().any(|(row, &lo)| lo as usize > before + row) {
            return Err(KernelError::Value { kernel: KERNEL, argument: "lo", wanted: "one for each row, at most its own" });
        }
        self.attend(shape, before, Input { key, value, ..input }, output);
        Ok(())
    }

    /// Rows that follow `before` others, by blocks; gives the logarithms of the sums, by block, head and row.
    fn attend(&self, shape: AttentionShape, before: usize, input: Input<'_, F>, output: &mut [F]) -> Vec<Vec<F>> {
        let width = shape.query_heads * shape.head_dim;
        let blocks = output.par_chunks_mut(QUERY_ROWS * width).enumerate();
        self.run(|| {
            blocks
                .map(|(block, output)| {
                    let rows = (block * QUERY_ROWS, output.len() / width);
                    let mut forward = Forward::new(self, shape, before, input, rows);
                    (0..shape.query_heads).flat_map(|head| forward.head(head, output)).collect()
                })
                .collect()
        })
    }

    pub(super) fn attention_backward(
        &self,
        shape: AttentionShape,
        input: Input<'_, F>,
        saved: Saved<'_, F>,
        query_grad: &mut [F],
        key_grad: &mut [F],
        value_grad: &mut [F],
    ) -> Done {
        let sizes = [("output", saved.output.len()), ("output_grad", saved.output_grad.len()), ("query_grad", query_grad.len())];
        check(shape, input, &sizes, saved.log_sum_exp.len())?;
        let keys = shape.rows * shape.key_heads * shape.head_dim;
        expect_len(KERNEL, &[("key_grad", key_grad.len(), keys), ("value_grad", value_grad.len(), keys)])?;
        let query_width = shape.query_heads * shape.head_dim;
        let key_width = shape.key_heads * shape.head_dim;
        let last_seen = last_seen_by(input.lo);
        let deltas = self.deltas(shape, saved);
        let backward = Backward { cpu: self, shape, input, saved, deltas: &deltas, last_seen: &last_seen };
        self.run(|| {
            query_grad.par_chunks_mut(QUERY_ROWS * query_width).enumerate().for_each(|(block, grad)| {
                backward.queries(block * QUERY_ROWS, grad);
                self.round(grad);
            });
            let blocks = key_grad.par_chunks_mut(KEY_ROWS * key_width).zip(value_grad.par_chunks_mut(KEY_ROWS * key_width));
            blocks.enumerate().for_each(|(block, (key_grad, value_grad))| {
                backward.keys(block * KEY_ROWS, key_grad, value_grad);
                self.round(key_grad);
                self.round(value_grad);
            });
        });
        Ok(())
    }

    /// `Σ output · output_grad` of every row and head, `[rows, query_heads]`: what softmax takes away from each score's gradient.
    fn deltas(&self, shape: AttentionShape, saved: Saved<'_, F>) -> Vec<F> {
        let heads = saved.output.par_chunks_exact(shape.head_dim).zip(saved.output_grad.par_chunks_exact(shape.head_dim));
        self.run(|| heads.with_min_len(256).map(|(output, grad)| F::of(number::dot(output, grad))).collect())
    }
}

/// One head of a tensor `[rows, heads, head_dim]`, from `row` on.
fn head_view<F>(data: &[F], heads: usize, head_dim: usize, head: usize, row: usize) -> View<'_, F> {
    View::rows(&data[row * heads * head_dim + head * head_dim..], heads * head_dim)
}

/// Factor on the scores.
fn score_scale<F: Number>(shape: AttentionShape) -> F {
    F::of((shape.head_dim as f64).sqrt().recip())
}

/// One block of query rows on its way through the keys.
struct Forward<'a, F> {
    cpu: &'a Cpu<F>,
    shape: AttentionShape,
    /// Rows of keys before that of the first query.
    before: usize,
    input: Input<'a, F>,
    start: usize,
    rows: usize,
    scores: Vec<F>,
    sums: Vec<F>,
    maxima: Vec<F>,
    context: Vec<F>,
}

impl<'a, F: Number> Forward<'a, F> {
    fn new(cpu: &'a Cpu<F>, shape: AttentionShape, before: usize, input: Input<'a, F>, (start, rows): (usize, usize)) -> Self {
        let scores = vec![F::ZERO; rows * KEY_ROWS];
        let (sums, maxima, context) = (vec![F::ZERO; rows], vec![F::ZERO; rows], vec![F::ZERO; rows * shape.head_dim]);
        Self { cpu, shape, before, input, start, rows, scores, sums, maxima, context }
    }

    /// Writes one head of `output` `[rows, query_heads, head_dim]`; gives the logarithms of the sums.
    fn head(&mut self, head: usize, output: &mut [F]) -> Vec<F> {
        let AttentionShape { query_heads, key_heads, head_dim, .. } = self.shape;
        let key_head = head / (query_heads / key_heads);
        self.sums.fill(F::ZERO);
        self.maxima.fill(F::NEG_INFINITY);
        self.context.fill(F::ZERO);
        let end = self.before + self.start + self.rows;
        let mut first = self.input.lo[self.start] as usize;
        while first < end {
            let count = KEY_ROWS.min(end - first);
            let size = Size { rows: self.rows, columns: count, inner: head_dim };
            let query = head_view(self.input.query, query_heads, head_dim, head, self.start);
            let key = head_view(self.input.key, key_heads, head_dim, key_head, first);
            multiply(size, query, key.transposed(), score_scale(self.shape), false, &mut self.scores, count);
            self.cpu.vectorise(|| self.soften(first, count));
            let size = Size { rows: self.rows, columns: head_dim, inner: count };
            let value = head_view(self.input.value, key_heads, head_dim, key_head, first);
            multiply(size, View::rows(&self.scores, count), value, F::ONE, true, &mut self.context, head_dim);
            first += count;
        }
        let width = query_heads * head_dim;
        for ((row, context), &sum) in output.chunks_exact_mut(width).zip(self.context.chunks_exact(head_dim)).zip(&self.sums) {
            let row = &mut row[head * head_dim..(head + 1) * head_dim];
            row.iter_mut().zip(context).for_each(|(output, &context)| *output = context / sum);
            self.cpu.round(row);
        }
        self.maxima.iter().zip(&self.sums).map(|(max, sum)| F::of(max.wide() + sum.wide().ln())).collect()
    }

    /// Turns scores into probabilities below the running maximum, and brings sums and context down to it.
    #[inline(always)]
    fn soften(&mut self, first: usize, count: usize) {
        let head_dim = self.shape.head_dim;
        for (row, scores) in self.scores.chunks_exact_mut(count).take(self.rows).enumerate() {
            hide(scores, first, self.input.lo[self.start + row], self.before + self.start + row);
            let old = self.maxima[row];
            let new = number::max(scores);
            let new = if new > old { new } else { old };
            if new == F::NEG_INFINITY {
                // Nothing is seen yet. A NaN in the scores goes on as it is.
                scores.iter_mut().for_each(|score| *score = if *score == F::NEG_INFINITY { F::ZERO } else { *score });
                self.sums[row] += F::of(number::sum(scores));
                continue;
            }
            for score in scores.iter_mut() {
                *score = (*score - new).exp();
            }
            let shrink = (old - new).exp();
            self.sums[row] = self.sums[row] * shrink + F::of(number::sum(scores));
            self.maxima[row] = new;
            self.cpu.round(scores);
            if shrink != F::ONE {
                self.context[row * head_dim..(row + 1) * head_dim].iter_mut().for_each(|context| *context *= shrink);
            }
        }
    }
}

/// Sets to −∞ what `row` does not see among the keys from `first` on.
#[inline(always)]
fn hide<F: Number>(scores: &mut [F], first: usize, lo: u32, row: usize) {
    let before = (lo as usize).saturating_sub(first).min(scores.len());
    scores[..before].fill(F::NEG_INFINITY);
    let seen = (row + 1).saturating_sub(first).min(scores.len());
    scores[seen..].fill(F::NEG_INFINITY);
}

/// The last row that sees each row. `lo` never falls, so neither does this.
fn last_seen_by(lo: &[u32]) -> Vec<u32> {
    let mut last = 0;
    let seen = |row: usize| {
        last = last.max(row);
        while last + 1 < lo.len() && lo[last + 1] as usize <= row {
            last += 1;
        }
        last as u32
    };
    (0..lo.len()).map(seen).collect()
}

/// The backward pass of one call.
struct Backward<'a, F> {
    cpu: &'a Cpu<F>,
    shape: AttentionShape,
    input: Input<'a, F>,
    saved: Saved<'a, F>,
    deltas: &'a [F],
    last_seen: &'a [u32],
}

/// A tile of scores: query rows and key rows, each as first and count.
#[derive(Debug, Clone, Copy)]
struct Tile {
    head: usize,
    query: (usize, usize),
    key: (usize, usize),
}

impl<F: Number> Backward<'_, F> {
    /// Gradient of the query rows from `start` on: `scale · dS · K`.
    fn queries(&self, start: usize, grad: &mut [F]) {
        let AttentionShape { query_heads, key_heads, head_dim, .. } = self.shape;
        let width = query_heads * head_dim;
        let rows = grad.len() / width;
        let [mut scores, mut slopes] = [vec![F::ZERO; rows * KEY_ROWS], vec![F::ZERO; rows * KEY_ROWS]];
        for head in 0..query_heads {
            let mut first = self.input.lo[start] as usize;
            let mut begun = false;
            while first < start + rows {
                let count = KEY_ROWS.min(start + rows - first);
                self.tile(Tile { head, query: (start, rows), key: (first, count) }, &mut scores, &mut slopes);
                let key = head_view(self.input.key, key_heads, head_dim, head / (query_heads / key_heads), first);
                let size = Size { rows, columns: head_dim, inner: count };
                let slopes = View::rows(&slopes, count);
                multiply(size, slopes, key, score_scale(self.shape), begun, &mut grad[head * head_dim..], width);
                begun = true;
                first += count;
            }
        }
    }

    /// Gradients of the key and value rows from `start` on: `scale · dSᵀ · Q` and `Pᵀ · dO`, over the query heads that read them.
    fn keys(&self, start: usize, key_grad: &mut [F], value_grad: &mut [F]) {
        let AttentionShape { query_heads, key_heads, head_dim, .. } = self.shape;
        let width = key_heads * head_dim;
        let count = key_grad.len() / width;
        let end = self.last_seen[start + count - 1] as usize + 1;
        let [mut scores, mut slopes] = [vec![F::ZERO; QUERY_ROWS * count], vec![F::ZERO; QUERY_ROWS * count]];
        for head in 0..query_heads {
            let key_head = head / (query_heads / key_heads);
            let mut begun = !head.is_multiple_of(query_heads / key_heads);
            let mut first = start;
            while first < end {
                let rows = QUERY_ROWS.min(end - first);
                self.tile(Tile { head, query: (first, rows), key: (start, count) }, &mut scores, &mut slopes);
                let size = Size { rows: count, columns: head_dim, inner: rows };
                let query = head_view(self.input.query, query_heads, head_dim, head, first);
                let slopes = View::rows(&slopes, count).transposed();
                multiply(size, slopes, query, score_scale(self.shape), begun, &mut key_grad[key_head * head_dim..], width);
                let output_grad = head_view(self.saved.output_grad, query_heads, head_dim, head, first);
                let scores = View::rows(&scores, count).transposed();
                multiply(size, scores, output_grad, F::ONE, begun, &mut value_grad[key_head * head_dim..], width);
                begun = true;
                first += rows;
            }
        }
    }

    /// Probabilities into `scores` and the gradient of the scaled scores, `P · (dP − delta)`, into `slopes`.
    fn tile(&self, tile: Tile, scores: &mut [F], slopes: &mut [F]) {
        let AttentionShape { query_heads, key_heads, head_dim, .. } = self.shape;
        let (head, (start, rows), (first, count)) = (tile.head, tile.query, tile.key);
        let key_head = head / (query_heads / key_heads);
        let size = Size { rows, columns: count, inner: head_dim };
        let query = head_view(self.input.query, query_heads, head_dim, head, start);
        let key = head_view(self.input.key, key_heads, head_dim, key_head, first);
        multiply(size, query, key.transposed(), score_scale(self.shape), false, scores, count);
        let output_grad = head_view(self.saved.output_grad, query_heads, head_dim, head, start);
        let value = head_view(self.input.value, key_heads, head_dim, key_head, first);
        multiply(size, output_grad, value.transposed(), F::ONE, false, slopes, count);
        self.cpu.vectorise(|| {
            for (row, (scores, slopes)) in scores.chunks_exact_mut(count).zip(slopes.chunks_exact_mut(count)).take(rows).enumerate() {
                let at = start + row;
                hide(scores, first, self.input.lo[at], at);
                let log_sum_exp = self.saved.log_sum_exp[head * self.shape.rows + at];
                let delta = self.deltas[at * query_heads + head];
                for (score, slope) in scores.iter_mut().zip(slopes.iter_mut()) {
                    let probability = (*score - log_sum_exp).exp();
                    *slope = probability * (*slope - delta);
                    *score = probability;
                }
                self.cpu.round(scores);
                self.cpu.round(slopes);
            }
        });
    }
}

fn check<F>(shape: AttentionShape, input: Input<'_, F>, outputs: &[(&'static str, usize)], log_sum_exp: usize) -> Done {
    let AttentionShape { rows, query_heads, key_heads, head_dim } = shape;
    if key_heads == 0 || head_dim == 0 || query_heads == 0 || !query_heads.is_multiple_of(key_heads) {
        return Err(KernelError::Value { kernel: KERNEL, argument: "query_heads", wanted: "a multiple of the key heads" });
    }
    let (queries, keys) = (rows * query_heads * head_dim, rows * key_heads * head_dim);
    let sizes = [("query", input.query.len(), queries), ("key", input.key.len(), keys), ("value", input.value.len(), keys)];
    expect_len(KERNEL, &sizes)?;
    expect_len(KERNEL, &[("lo", input.lo.len(), rows), ("log_sum_exp", log_sum_exp, rows * query_heads)])?;
    for &(argument, len) in outputs {
        expect_len(KERNEL, &[(argument, len, queries)])?;
    }
    if !input.lo.is_sorted() || input.lo.iter().enumerate().any(|(row, &lo)| lo as usize > row) {
        return Err(KernelError::Value { kernel: KERNEL, argument: "lo", wanted: "at most its own row, and never falling" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{check_slopes, check_threads, close, numbers, wide};

    /// Rows of documents of these lengths, each seeing `window` keys.
    fn lo(lengths: &[usize], window: usize) -> Vec<u32> {
        let mut start = 0;
        let mut rows = Vec::new();
        for &len in lengths {
            rows.extend((start..start + len).map(|row| start.max((row + 1).saturating_sub(window)) as u32));
            start += len;
        }
        rows
    }

    fn naive(shape: AttentionShape, input: Input<'_, f64>) -> Vec<f64> {
        let AttentionShape { rows, query_heads, key_heads, head_dim } = shape;
        let mut output = vec![0.0; rows * query_heads * head_dim];
        for row in 0..rows {
            for head in 0..query_heads {
                let key_head = head / (query_heads / key_heads);
                let query = &input.query[(row * query_heads + head) * head_dim..][..head_dim];
                let at = |data: &[f64], key: usize, dim: usize| data[(key * key_heads + key_head) * head_dim + dim];
                let seen = input.lo[row] as usize..=row;
                let score = |key: usize| {
                    let dot: f64 = (0..head_dim).map(|dim| query[dim] * at(input.key, key, dim)).sum();
                    (dot / (head_dim as f64).sqrt()).exp()
                };
                let total: f64 = seen.clone().map(score).sum();
                for dim in 0..head_dim {
                    let mixed: f64 = seen.clone().map(|key| score(key) * at(input.value, key, dim)).sum();
                    output[(row * query_heads + head) * head_dim + dim] = mixed / total;
                }
            }
        }
        output
    }

    struct Case {
        shape: AttentionShape,
        lo: Vec<u32>,
        query: Vec<f64>,
        key: Vec<f64>,
        value: Vec<f64>,
        seed: Vec<f64>,
    }

    impl Case {
        fn new(lengths: &[usize], window: usize, (query_heads, key_heads, head_dim): (usize, usize, usize)) -> Self {
            let shape = AttentionShape { rows: lengths.iter().sum(), query_heads, key_heads, head_dim };
            let (queries, keys) = (shape.rows * query_heads * head_dim, shape.rows * key_heads * head_dim);
            let [query, seed] = [numbers(queries, 1), numbers(queries, 4)];
            Self { shape, lo: lo(lengths, window), query, key: numbers(keys, 2), value: numbers(keys, 3), seed }
        }

        fn forward(&self, query: &[f64], key: &[f64], value: &[f64]) -> (Vec<f64>, Vec<f64>) {
            let (mut output, mut sums) = (vec![0.0; query.len()], vec![0.0; self.shape.rows * self.shape.query_heads]);
            let input = Input { query, key, value, lo: &self.lo };
            Cpu::<f64>::new(1).unwrap().attention_forward(self.shape, input, &mut output, &mut sums).unwrap();
            (output, sums)
        }

        fn backward(&self) -> [Vec<f64>; 3] {
            let (output, log_sum_exp) = self.forward(&self.query, &self.key, &self.value);
            let mut grads = [vec![9.0; self.query.len()], vec![9.0; self.key.len()], vec![9.0; self.key.len()]];
            let [query, key, value] = &mut grads;
            let saved = Saved { output: &output, log_sum_exp: &log_sum_exp, output_grad: &self.seed };
            Cpu::<f64>::new(1).unwrap().attention_backward(self.shape, self.input(), saved, query, key, value).unwrap();
            grads
        }

        fn input(&self) -> Input<'_, f64> {
            Input { query: &self.query, key: &self.key, value: &self.value, lo: &self.lo }
        }
    }

    #[test]
    fn outputs_match_the_definition() {
        let heads = [(1, 1, 2), (4, 2, 6), (6, 2, 8)];
        for (at, lengths) in [&[1][..], &[5], &[64], &[65, 1, 3], &[200], &[1, 1, 1, 130, 70], &[300]].iter().enumerate() {
            for window in [1, 2, 33, 128, 1000] {
                let case = Case::new(lengths, window, heads[at % 3]);
                let (output, sums) = case.forward(&case.query, &case.key, &case.value);
                close("output", &output, &naive(case.shape, case.input()), 1e-12);
                assert!(sums.iter().all(|sum| sum.is_finite()));
            }
        }
    }

    #[test]
    fn gradients_match_slopes() {
        for (lengths, window, heads) in
            [(&[6, 1, 5][..], 3, (4, 2, 4)), (&[7], 100, (3, 1, 2)), (&[140], 100, (2, 1, 2)), (&[66, 70], 500, (1, 1, 2))]
        {
            let case = Case::new(lengths, window, heads);
            let [query_grad, key_grad, value_grad] = case.backward();
            check_slopes("query", &case.query, &query_grad, &case.seed, |query| case.forward(query, &case.key, &case.value).0);
            check_slopes("key", &case.key, &key_grad, &case.seed, |key| case.forward(&case.query, key, &case.value).0);
            check_slopes("value", &case.value, &value_grad, &case.seed, |value| case.forward(&case.query, &case.key, value).0);
        }
    }

    /// Softmax of one score is one, whatever the score.
    #[test]
    fn one_row_passes_its_value_through() {
        let case = Case::new(&[1], 4, (1, 1, 2));
        assert_eq!(case.forward(&case.query, &case.key, &case.value).0, case.value);
        let [query_grad, key_grad, value_grad] = case.backward();
        close("query", &query_grad, &[0.0; 2], 1e-15);
        close("key", &key_grad, &[0.0; 2], 1e-15);
        close("value", &value_grad, &case.seed, 1e-15);
    }

    #[test]
    fn packed_rows_are_separate_documents() {
        let packed = Case::new(&[150, 90], 1000, (2, 1, 4));
        let whole = packed.backward();
        let mut start = 0;
        for len in [150, 90] {
            let part = |data: &[f64], heads: usize| data[start * heads * 4..(start + len) * heads * 4].to_vec();
            let mut alone = Case::new(&[len], 1000, (2, 1, 4));
            alone.query = part(&packed.query, 2);
            (alone.key, alone.value, alone.seed) = (part(&packed.key, 1), part(&packed.value, 1), part(&packed.seed, 2));
            for ((whole, alone), heads) in whole.iter().zip(alone.backward()).zip([2, 1, 1]) {
                close("gradient", &part(whole, heads), &alone, 1e-12);
            }
            start += len;
        }
    }

    /// The last rows of a document by themselves, after the keys and values of all, are those rows of the whole.
    #[test]
    fn rows_that_follow_held_ones_are_those_of_the_whole() {
        for window in [5, 1000] {
            let case = Case::new(&[290], window, (4, 2, 6));
            let whole = case.forward(&case.query, &case.key, &case.value).0;
            for (before, rows) in [(0, 290), (0, 1), (129, 1), (150, 70), (289, 1)] {
                let shape = AttentionShape { rows, ..case.shape };
                let part = before * 24..(before + rows) * 24;
                let input = Input { query: &case.query[part.clone()], lo: &case.lo[before..before + rows], ..case.input() };
                let mut output = vec![0.0; rows * 24];
                Cpu::<f64>::new(1).unwrap().attention_cached(shape, before, input, &mut output).unwrap();
                close("output", &output, &whole[part], 1e-12);
            }
        }
        let case = Case::new(&[4], 9, (1, 1, 2));
        let cached = |before, rows| {
            let input = Input { query: &case.query[..rows * 2], lo: &case.lo[..rows], ..case.input() };
            let shape = AttentionShape { rows, ..case.shape };
            Cpu::<f64>::new(1).unwrap().attention_cached(shape, before, input, &mut vec![0.0; rows * 2])
        };
        assert!(cached(3, 1).is_ok() && cached(4, 1).is_err() && cached(usize::MAX, 1).is_err());
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let shape = AttentionShape { rows: 2, query_heads: 1, key_heads: 1, head_dim: 2 };
        let (mut output, mut sums) = ([0.0f32; 4], [0.0; 2]);
        let input = Input { query: &[1e3; 4], key: &[1e3, 1e3, -1e3, -1e3], value: &[1.0, 2.0, 3.0, 4.0], lo: &[0, 0] };
        Cpu::new(1).unwrap().attention_forward(shape, input, &mut output, &mut sums).unwrap();
        assert_eq!(output, [1.0, 2.0, 1.0, 2.0]);
        let wrong = Input { lo: &[0, 2], ..input };
        assert!(Cpu::new(1).unwrap().attention_forward(shape, wrong, &mut output, &mut sums).is_err());
    }

    #[test]
    fn not_a_number_is_not_hidden() {
        let shape = AttentionShape { rows: 3, query_heads: 1, key_heads: 1, head_dim: 2 };
        let (mut output, mut sums) = ([0.0f32; 6], [0.0; 3]);
        let input = Input { query: &[1.0; 6], key: &[1.0, 1.0, f32::NAN, 1.0, 1.0, 1.0], value: &[1.0; 6], lo: &[0, 0, 0] };
        Cpu::new(1).unwrap().attention_forward(shape, input, &mut output, &mut sums).unwrap();
        assert!(output[..2].iter().all(|x| x.is_finite()) && output[2..].iter().all(|x| x.is_nan()));
    }

    #[test]
    fn threads_do_not_matter() {
        check_threads(|cpu| {
            let case = Case::new(&[100, 1, 299], 120, (4, 2, 16));
            let narrow = |data: &[f64]| data.iter().map(|x| *x as f32).collect::<Vec<_>>();
            let (query, key, value, seed) = (narrow(&case.query), narrow(&case.key), narrow(&case.value), narrow(&case.seed));
            let input = Input { query: &query, key: &key, value: &value, lo: &case.lo };
            let (mut output, mut log_sum_exp) = (vec![0.0; query.len()], vec![0.0; 1600]);
            cpu.attention_forward(case.shape, input, &mut output, &mut log_sum_exp).unwrap();
            let [mut query_grad, mut key_grad, mut value_grad] = [vec![0.0; query.len()], vec![0.0; key.len()], vec![0.0; key.len()]];
            let saved = Saved { output: &output, log_sum_exp: &log_sum_exp, output_grad: &seed };
            cpu.attention_backward(case.shape, input, saved, &mut query_grad, &mut key_grad, &mut value_grad).unwrap();
            let [exact_query, exact_key, exact_value] = case.backward();
            let tolerance = if cpu.rounds() { 5e-2 } else { 1e-4 };
            close("query", &wide(&query_grad), &exact_query, tolerance);
            close("key", &wide(&key_grad), &exact_key, tolerance);
            close("value", &wide(&value_grad), &exact_value, tolerance);
            [output, log_sum_exp, query_grad, key_grad, value_grad].concat()
        });
    }
}
