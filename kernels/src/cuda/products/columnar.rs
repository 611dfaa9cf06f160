//! A row-major product as a column-major one.

use crate::cuda::launcher::{Operand, Product};

/// A matrix in memory, counted by columns; its leading dimension is its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Columnar {
    pub address: u64,
    pub rows: usize,
    pub columns: usize,
    /// Whether its transpose enters the product.
    pub transposed: bool,
}

impl Columnar {
    /// The two operands of a product in cuBLASLt's order: the right one first.
    pub(super) fn operands(product: &Product) -> [Self; 2] {
        [Self::of(product.right, product.inner, product.columns), Self::of(product.left, product.rows, product.inner)]
    }

    /// Of an operand that enters a row-major product as `[rows, columns]`.
    fn of(operand: Operand, rows: usize, columns: usize) -> Self {
        let (stored_rows, stored_columns) = if operand.transposed { (columns, rows) } else { (rows, columns) };
        // By columns, what lies in memory is its own transpose; and it is transposes that are multiplied.
        Self { address: operand.address, rows: stored_columns, columns: stored_rows, transposed: operand.transposed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::launcher::OutputKind;

    const LEFT: usize = 0;
    const RIGHT: usize = 12;
    const BIAS: usize = 32;
    const OUTPUT: usize = 37;
    const MEMORY: usize = 52;

    /// What cuBLASLt computes, by its definition: addresses are indices of `memory`, and there are five rows of output to a column.
    fn by_columns(memory: &mut [f64], product: &Product) {
        let [a, b] = Columnar::operands(product);
        let element = |memory: &[f64], matrix: Columnar, row: usize, column: usize| {
            let (row, column) = if matrix.transposed { (column, row) } else { (row, column) };
            assert!(row < matrix.rows && column < matrix.columns, "{matrix:?} has no ({row}, {column})");
            memory[matrix.address as usize + column * matrix.rows + row]
        };
        for column in 0..product.rows {
            for row in 0..product.columns {
                let sum: f64 = (0..product.inner).map(|at| element(memory, a, row, at) * element(memory, b, at, column)).sum();
                let bias = product.bias.map_or(0.0, |bias| memory[bias as usize + row]);
                let at = product.output as usize + column * product.columns + row;
                memory[at] = sum + bias + if product.add { memory[at] } else { 0.0 };
            }
        }
    }

    /// A product of `[3, 4]` and `[4, 5]`, however they lie in memory, by rows.
    #[test]
    fn a_product_by_columns_is_the_product_by_rows() {
        let before: Vec<f64> = (0..MEMORY).map(|at| ((at * at) % 31) as f64 - 7.0).collect();
        for (left, right, bias, add) in
            [(false, false, false, true), (false, true, true, false), (true, false, false, true), (true, true, true, true)]
        {
            let product = Product {
                rows: 3,
                columns: 5,
                inner: 4,
                left: Operand { address: LEFT as u64, transposed: left },
                right: Operand { address: RIGHT as u64, transposed: right },
                bias: bias.then_some(BIAS as u64),
                add,
                output: OUTPUT as u64,
                output_kind: OutputKind::Exact,
            };
            let mut seen = before.clone();
            by_columns(&mut seen, &product);
            for row in 0..3 {
                for column in 0..5 {
                    let left_at = |at: usize| LEFT + if left { at * 3 + row } else { row * 4 + at };
                    let right_at = |at: usize| RIGHT + if right { column * 4 + at } else { at * 5 + column };
                    let at = OUTPUT + row * 5 + column;
                    let sum: f64 = (0..4).map(|inner| before[left_at(inner)] * before[right_at(inner)]).sum();
                    let wanted = sum + if bias { before[BIAS + column] } else { 0.0 } + if add { before[at] } else { 0.0 };
                    assert_eq!(seen[at], wanted, "{product:?} at ({row}, {column})");
                }
            }
            assert_eq!(seen[..OUTPUT], before[..OUTPUT]);
        }
    }
}
