//! Sums over rows in one order.

use super::{Argument, Gpu, Launch, Launcher, Pieces, Stored, blocks};
use crate::KernelError;
use crate::operations::Done;

const KERNEL: &str = "sums";

/// Rows whose sum one block takes. Fixed, so that the order of sums depends on shapes alone.
pub(super) const ROWS_PER_BLOCK: usize = 32;

impl<L: Launcher> Gpu<L> {
    /// Runs `fill`, which writes `parts` rows of `columns` partial sums to the address that it is given, and adds their sum to `output`.
    pub(super) fn add_partials(&self, parts: usize, columns: usize, output: u64, fill: impl FnOnce(u64) -> Done) -> Done {
        let mut pieces = Pieces::default();
        pieces.next(parts * columns, size_of::<f32>());
        self.with_scratch(pieces.bytes, |partials| {
            fill(partials)?;
            let parts = super::buffer::narrow(KERNEL, "rows", parts)?;
            let arguments = [Argument::Pointer(output), Argument::Pointer(partials), Argument::U32(parts), Argument::U64(columns as u64)];
            let launch = Launch { kernel: "add_partials", grid: [blocks(KERNEL, columns, 32)?, 1, 1], threads: 256, shared_bytes: 0 };
            self.launch(launch, &arguments)
        })
    }

    /// `output[column] += Σ input[row, column]`, `output` the address of f32 numbers.
    pub(super) fn add_column_sums(&self, rows: usize, columns: usize, input: &Stored<L>, output: u64) -> Done {
        let parts = blocks(KERNEL, rows, ROWS_PER_BLOCK)?;
        let narrow_columns: u32 =
            columns.try_into().map_err(|_| KernelError::Value { kernel: KERNEL, argument: "columns", wanted: "below 2³²" })?;
        self.add_partials(parts as usize, columns, output, |partials| {
            let arguments = [
                Argument::Pointer(partials),
                self.pointer(input),
                Argument::U64(rows as u64),
                Argument::U32(narrow_columns),
                Argument::U32(ROWS_PER_BLOCK as u32),
            ];
            self.launch(Launch { kernel: "column_partials", grid: [parts, 1, 1], threads: 256, shared_bytes: 0 }, &arguments)
        })
    }
}
