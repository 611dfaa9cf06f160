//! Matrix products over strided views: the one place where the GEMM crate is called.
//!
//! Work is cut here into tiles, one call of the crate's single-threaded product each, so that the order of every sum depends on the shape
//! alone and not on the number of threads.

use super::Number;
use rayon::prelude::*;
use std::ops::Range;

/// A strided view: element `(row, column)` is `data[row * row_stride + column * column_stride]`.
#[derive(Debug, Clone, Copy)]
pub struct View<'a, F> {
    pub data: &'a [F],
    pub row_stride: usize,
    pub column_stride: usize,
}

impl<'a, F> View<'a, F> {
    /// Rows that lie `row_stride` apart.
    pub fn rows(data: &'a [F], row_stride: usize) -> Self {
        Self { data, row_stride, column_stride: 1 }
    }

    /// The same numbers with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self { data: self.data, row_stride: self.column_stride, column_stride: self.row_stride }
    }

    fn rows_from(self, rows: usize) -> Self {
        Self { data: &self.data[(rows * self.row_stride).min(self.data.len())..], ..self }
    }

    fn covers(&self, rows: usize, columns: usize) -> bool {
        rows == 0 || columns == 0 || (rows - 1) * self.row_stride + (columns - 1) * self.column_stride < self.data.len()
    }
}

/// Sizes of `output[rows, columns] (+)= left[rows, inner] · right[inner, columns]`.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub rows: usize,
    pub columns: usize,
    pub inner: usize,
}

/// `output = add · output + factor · left · right` on this thread; rows of `output` lie `stride` apart.
pub fn multiply<F: Number>(size: Size, left: View<'_, F>, right: View<'_, F>, factor: F, add: bool, output: &mut [F], stride: usize) {
    let Size { rows, columns, inner } = size;
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(left.covers(rows, inner) && right.covers(inner, columns), "operands are smaller than the product");
    assert!((rows - 1) * stride + columns <= output.len() && (stride >= columns || rows == 1), "output is smaller than the product");
    // SAFETY: the assertions above bound every element that the product reads or writes; `output` is borrowed mutably, so it overlaps
    // neither operand.
    unsafe { product(size, left, right, factor, add, output.as_mut_ptr(), stride) }
}

/// As [`multiply`], with tiles shared among the threads of the current pool; rows of `output` lie together.
/// `finish` sees every number of the finished output once, in parts of rows with the columns that each part has.
pub fn multiply_parallel<F: Number>(
    size: Size,
    left: View<'_, F>,
    right: View<'_, F>,
    add: bool,
    output: &mut [F],
    finish: impl Fn(Range<usize>, &mut [F]) + Sync,
) {
    let Size { rows, columns, inner } = size;
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(left.covers(rows, inner) && right.covers(inner, columns), "operands are smaller than the product");
    assert_eq!(rows * columns, output.len(), "output is not of the product's size");
    let (tile_rows, tile_columns) = tile(left, columns);
    let across = columns.div_ceil(tile_columns);
    let output = Shared(output.as_mut_ptr());
    (0..rows.div_ceil(tile_rows) * across).into_par_iter().for_each(|at| {
        let (row, column) = (at / across * tile_rows, at % across * tile_columns);
        let part = Size { rows: tile_rows.min(rows - row), columns: tile_columns.min(columns - column), inner };
        // SAFETY: the assertions above bound every element read or written; `output` is borrowed mutably for the whole call, it overlaps
        // neither operand, and no two tiles have an element in common.
        unsafe {
            let first = output.get().add(row * columns + column);
            product(part, left.rows_from(row), right.transposed().rows_from(column).transposed(), F::ONE, add, first, columns);
            for row in 0..part.rows {
                finish(column..column + part.columns, std::slice::from_raw_parts_mut(first.add(row * columns), part.columns));
            }
        }
    });
}

/// Rows and columns of a tile. The crate packs the right operand anew for every tile of rows, and the left one for every tile of columns
/// where its rows are not contiguous.
fn tile<F>(left: View<'_, F>, columns: usize) -> (usize, usize) {
    if left.column_stride == 1 { (TILE_ROWS, TILE_COLUMNS) } else { (TURNED_TILE_ROWS, columns) }
}

/// Where threads write to tiles of one output.
struct Shared<F>(*mut F);

// SAFETY: what is behind the pointer is written by one thread at a time, since tiles are disjoint.
unsafe impl<F: Send> Sync for Shared<F> {}

impl<F> Shared<F> {
    fn get(&self) -> *mut F {
        self.0
    }
}

/// `output = add · output + factor · left · right`; rows of `output` lie `stride` apart.
///
/// # Safety
/// Both views cover `size`, `output` is valid for all of it, and overlaps neither.
unsafe fn product<F: Number>(size: Size, left: View<'_, F>, right: View<'_, F>, factor: F, add: bool, output: *mut F, stride: usize) {
    let signed = |stride: usize| stride as isize;
    let alpha = if add { F::ONE } else { F::ZERO };
    // SAFETY: the caller's promise; strides are below the length of a slice, which fits an isize.
    unsafe {
        gemm::gemm(
            size.rows,
            size.columns,
            size.inner,
            output,
            1,
            signed(stride),
            add,
            left.data.as_ptr(),
            signed(left.column_stride),
            signed(left.row_stride),
            right.data.as_ptr(),
            signed(right.column_stride),
            signed(right.row_stride),
            alpha,
            factor,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Rows of a tile whose left operand has contiguous rows: packing the right side again for each tile costs little.
const TILE_ROWS: usize = 512;
/// Its columns, a multiple of every micro-kernel's width; what is packed of them stays in the second level of cache.
const TILE_COLUMNS: usize = 96;
/// Rows of a tile whose left operand is transposed; it has all columns.
const TURNED_TILE_ROWS: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{numbers, wide};

    fn naive(size: Size, left: View<'_, f64>, right: View<'_, f64>) -> Vec<f64> {
        let at = |view: View<'_, f64>, row: usize, column: usize| view.data[row * view.row_stride + column * view.column_stride];
        let cell = |row, column| (0..size.inner).map(|inner| at(left, row, inner) * at(right, inner, column)).sum();
        (0..size.rows * size.columns).map(|cells| cell(cells / size.columns, cells % size.columns)).collect()
    }

    #[test]
    fn products_match_the_definition() {
        for (rows, columns, inner) in
            [(1, 1, 1), (3, 5, 7), (129, 17, 33), (130, 1, 64), (1, 40, 300), (257, 96, 65), (513, 97, 5), (1030, 200, 33), (4, 4, 0)]
        {
            let size = Size { rows, columns, inner };
            let (left, right) = (numbers::<f32>(rows * inner, 1), numbers::<f32>(columns * inner, 2));
            let (left64, right64) = (wide(&left), wide(&right));
            for (left_turned, right_turned) in [(false, false), (false, true), (true, false), (true, true)] {
                let turn = |turned: bool, len: usize, other: usize| if turned { (other, true) } else { (len, false) };
                let view = |data, (stride, turned): (usize, bool)| {
                    if turned { View::rows(data, stride).transposed() } else { View::rows(data, stride) }
                };
                let wide_view = |data, (stride, turned): (usize, bool)| {
                    if turned { View::<f64>::rows(data, stride).transposed() } else { View::rows(data, stride) }
                };
                let (left_shape, right_shape) = (turn(left_turned, inner, rows), turn(right_turned, columns, inner));
                let wanted = naive(size, wide_view(&left64, left_shape), wide_view(&right64, right_shape));
                for add in [false, true] {
                    let mut output = vec![2.0f32; rows * columns];
                    // A bias: each number gets that of its column, once.
                    let bias = |columns: Range<usize>, part: &mut [f32]| {
                        assert_eq!(columns.len(), part.len());
                        part.iter_mut().zip(columns).for_each(|(number, column)| *number += column as f32);
                    };
                    multiply_parallel(size, view(&left, left_shape), view(&right, right_shape), add, &mut output, bias);
                    for (at, (got, wanted)) in output.iter().zip(&wanted).enumerate() {
                        let wanted = wanted + (at % columns) as f64 + if add { 2.0 } else { 0.0 };
                        assert!((f64::from(*got) - wanted).abs() < 1e-4 * (1.0 + wanted.abs()), "{size:?}: {got} {wanted}");
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "operands are smaller")]
    fn short_operands_are_refused() {
        let size = Size { rows: 2, columns: 2, inner: 2 };
        multiply(size, View::rows(&[1.0f32; 3], 2), View::rows(&[1.0; 4], 2), 1.0, false, &mut [0.0; 4], 2);
    }
}
