//! Launches of `cuda/head_loss.cu`, between products: logits exist for one block of rows at a time.

use super::buffer::narrow;
use super::lists::Constant;
use super::{ABSENT, Argument, Exact, Gpu, Index, Launch, Launcher, Operand, OutputKind, Pieces, Product, Stored, expect_len};
use crate::KernelError;
use crate::operations::{Done, LinearShape};

const KERNEL: &str = "head_loss";

/// Numbers in a block of logits: 32 Mi, so 128 MiB in f32 and 64 MiB for their gradient.
const BLOCK: usize = 32 << 20;

/// Rows of a block: enough that products run well and adding to the weight's gradient is not most of the work. Depends on the vocabulary
/// alone, so that the order of sums does.
fn block_rows(vocabulary: usize) -> usize {
    (BLOCK / vocabulary).clamp(128, 4096)
}

/// Where gradients go, and the factor on the sum of losses.
#[derive(Debug)]
pub(super) struct Gradients<'a, L: Launcher> {
    pub loss_scale: f64,
    pub hidden: &'a Stored<L>,
    /// Whether what `weight` holds is added to.
    pub add: bool,
    pub weight: &'a Exact<L>,
}

/// One block of rows: the first, how many, and where its logits and their gradient are.
#[derive(Debug, Clone, Copy)]
struct Rows {
    first: usize,
    count: usize,
    logits: u64,
    slopes: u64,
}

impl<L: Launcher> Gpu<L> {
    /// The losses, and the gradients if asked for.
    pub(super) fn head_loss(
        &self,
        shape: LinearShape,
        hidden: &Stored<L>,
        weight: &Stored<L>,
        targets: &Index<L>,
        losses: &Exact<L>,
        gradients: Option<Gradients<'_, L>>,
    ) -> Done {
        check::<L>(shape, hidden, weight, targets, losses)?;
        if let Some(gradients) = &gradients {
            let sizes = [("hidden_grad", gradients.hidden.len, hidden.len), ("weight_grad", gradients.weight.len, weight.len)];
            expect_len(KERNEL, &sizes)?;
        }
        if let Some(gradients) = gradients.as_ref().filter(|gradients| shape.rows == 0 && !gradients.add) {
            self.clear(gradients.weight)?;
        }
        let each = block_rows(shape.outputs).min(shape.rows);
        let mut pieces = Pieces::default();
        let logits = pieces.next(each * shape.outputs, size_of::<f32>());
        let slopes = pieces.next(if gradients.is_some() { each * shape.outputs } else { 0 }, size_of::<u16>());
        self.with_scratch(pieces.bytes, |base| {
            for first in (0..shape.rows).step_by(each.max(1)) {
                let count = each.min(shape.rows - first);
                let rows = Rows { first, count, logits: base + logits, slopes: base + slopes };
                self.logits(shape, rows, hidden, weight)?;
                self.entropy(shape, rows, targets, losses, gradients.as_ref().map(|gradients| gradients.loss_scale))?;
                if let Some(gradients) = &gradients {
                    self.head_slopes(shape, rows, hidden, weight, gradients)?;
                }
            }
            Ok(())
        })
    }

    /// `logits = hidden · weightᵀ`.
    fn logits(&self, shape: LinearShape, rows: Rows, hidden: &Stored<L>, weight: &Stored<L>) -> Done {
        self.product(Product {
            rows: rows.count,
            columns: shape.outputs,
            inner: shape.inputs,
            left: self.operand(hidden, rows.first * shape.inputs, false),
            right: self.operand(weight, 0, true),
            bias: None,
            add: false,
            output: rows.logits,
            output_kind: OutputKind::Exact,
        })
    }

    /// Losses of the rows; with a scale, the gradient of their logits.
    fn entropy(&self, shape: LinearShape, rows: Rows, targets: &Index<L>, losses: &Exact<L>, loss_scale: Option<f64>) -> Done {
        let arguments = [
            Argument::Pointer(self.address(losses, rows.first)),
            loss_scale.map_or(ABSENT, |_| Argument::Pointer(rows.slopes)),
            Argument::Pointer(rows.logits),
            Argument::Pointer(self.address(&targets.buffer, rows.first)),
            Argument::U32(narrow(KERNEL, "weight", shape.outputs)?),
            loss_scale.map_or(Ok(ABSENT), |scale| self.constant(Constant::LossScale, [scale as f32]))?,
        ];
        let threads = shape.outputs.div_ceil(4).next_multiple_of(32).min(512) as u32;
        let grid = [narrow(KERNEL, "rows", rows.count)?, 1, 1];
        self.launch(Launch { kernel: "cross_entropy", grid, threads, shared_bytes: 0 }, &arguments)
    }

    /// `hidden_grad = slopes · weight` and `weight_grad (+)= slopesᵀ · hidden`.
    fn head_slopes(&self, shape: LinearShape, rows: Rows, hidden: &Stored<L>, weight: &Stored<L>, gradients: &Gradients<'_, L>) -> Done {
        let start = rows.first * shape.inputs;
        self.product(Product {
            rows: rows.count,
            columns: shape.inputs,
            inner: shape.outputs,
            left: Operand { address: rows.slopes, transposed: false },
            right: self.operand(weight, 0, false),
            bias: None,
            add: false,
            output: self.address(gradients.hidden, start),
            output_kind: OutputKind::Stored,
        })?;
        self.product(Product {
            rows: shape.outputs,
            columns: shape.inputs,
            inner: rows.count,
            left: Operand { address: rows.slopes, transposed: true },
            right: self.operand(hidden, start, false),
            bias: None,
            add: gradients.add || rows.first > 0,
            output: self.address(gradients.weight, 0),
            output_kind: OutputKind::Exact,
        })
    }
}

fn check<L: Launcher>(shape: LinearShape, hidden: &Stored<L>, weight: &Stored<L>, targets: &Index<L>, losses: &Exact<L>) -> Done {
    let LinearShape { rows, inputs, outputs } = shape;
    if inputs == 0 || outputs == 0 {
        return Err(KernelError::Value { kernel: KERNEL, argument: "weight", wanted: "one element or more" });
    }
    let sizes = [("hidden", hidden.len, rows * inputs), ("weight", weight.len, inputs * outputs), ("targets", targets.buffer.len, rows)];
    expect_len(KERNEL, &sizes)?;
    expect_len(KERNEL, &[("losses", losses.len, rows)])?;
    if targets.facts.is_some_and(|facts| rows > 0 && !facts.targets_below(outputs)) {
        return Err(KernelError::Value { kernel: KERNEL, argument: "targets", wanted: "below the size of the vocabulary" });
    }
    Ok(())
}
