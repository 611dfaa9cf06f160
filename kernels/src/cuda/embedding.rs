//! Launches of `cuda/embedding.cu`.

use super::buffer::narrow;
use super::{Argument, Exact, Gpu, Index, Launch, Launcher, Stored, blocks, expect_below, expect_eights, expect_len, threads_of_eights};
use crate::KernelError;
use crate::operations::Done;

const KERNEL: &str = "embedding";

/// Columns of a block in the backward pass: eight per thread.
const COLUMNS: usize = 8 * 128;

impl<L: Launcher> Gpu<L> {
    pub(super) fn embed(&self, hidden: usize, tokens: &Index<L>, table: &Stored<L>, output: &Stored<L>) -> Done {
        check::<L>(hidden, tokens, table.len, output.len)?;
        let rows = blocks(KERNEL, tokens.buffer.len, 1)?;
        let hidden = narrow(KERNEL, "hidden", hidden)?;
        let threads = threads_of_eights(hidden);
        let arguments = [self.pointer(output), self.pointer(table), self.indices(tokens), Argument::U32(hidden)];
        self.launch(Launch { kernel: "embedding_forward", grid: [rows, 1, 1], threads, shared_bytes: 0 }, &arguments)
    }

    pub(super) fn embedding_slopes(&self, hidden: usize, tokens: &Index<L>, output_grad: &Stored<L>, table_grad: &Exact<L>) -> Done {
        check::<L>(hidden, tokens, table_grad.len, output_grad.len)?;
        let rows = tokens.buffer.len;
        let grid = [blocks(KERNEL, rows, 1)?, blocks(KERNEL, hidden, COLUMNS)?, 1];
        if rows == 0 {
            return Ok(());
        }
        self.with_sorted(rows, table_grad.len / hidden, self.indices(tokens), |sorted, sources| {
            let arguments = [
                self.pointer(table_grad),
                self.pointer(output_grad),
                Argument::Pointer(sorted),
                Argument::Pointer(sources),
                Argument::U32(grid[0]),
                Argument::U32(narrow(KERNEL, "hidden", hidden)?),
            ];
            self.launch(Launch { kernel: "embedding_backward", grid, threads: 128, shared_bytes: 0 }, &arguments)
        })
    }
}

fn check<L: Launcher>(hidden: usize, tokens: &Index<L>, table: usize, output: usize) -> Done {
    expect_eights(KERNEL, "hidden", hidden)?;
    if !table.is_multiple_of(hidden) {
        return Err(KernelError::Value { kernel: KERNEL, argument: "table", wanted: "whole rows of `hidden` numbers" });
    }
    expect_below::<L>(KERNEL, "tokens", tokens, table / hidden, "below the size of the vocabulary")?;
    expect_len(KERNEL, &[("output", output, tokens.buffer.len * hidden)])
}
