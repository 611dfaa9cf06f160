//! Linear maps and their gradients, one or one per expert, as products that the device's library makes; those of many experts are `grouped`.

use super::grouped::Grouped;
use super::{Command, Exact, Gpu, Index, Launcher, Operand, OutputKind, Product, Stored, expect_len};
use crate::KernelError;
use crate::operations::{Done, Gradient, LinearShape, Operations};

const KERNEL: &str = "linear";

/// Elements from which on the operands of one expert lie: none where there is one map.
#[derive(Debug, Clone, Copy, Default)]
struct Start {
    input: usize,
    weight: usize,
    output: usize,
}

/// Numbers of one of two kinds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numbers {
    pub address: u64,
    pub len: usize,
    pub kind: OutputKind,
}

impl<L: Launcher> Gpu<L> {
    pub(super) fn linear(
        &self,
        shape: LinearShape,
        input: &Stored<L>,
        weight: &Stored<L>,
        bias: Option<&Stored<L>>,
        output: &Stored<L>,
    ) -> Done {
        check(shape, 1, input.len, weight.len, output.len)?;
        expect_len(KERNEL, &[("bias", bias.map_or(shape.outputs, |bias| bias.len), shape.outputs)])?;
        self.linear_part(shape, Start::default(), input, weight, bias, output)
    }

    pub(super) fn linear_input_slopes(
        &self,
        shape: LinearShape,
        output_grad: &Stored<L>,
        weight: &Stored<L>,
        add: bool,
        input_grad: &Stored<L>,
    ) -> Done {
        check(shape, 1, input_grad.len, weight.len, output_grad.len)?;
        self.linear_input_part(shape, Start::default(), output_grad, weight, add, input_grad)
    }

    pub(super) fn linear_weight_slopes(
        &self,
        shape: LinearShape,
        output_grad: &Stored<L>,
        input: &Stored<L>,
        add: bool,
        weight_grad: &Gradient<Self>,
        bias_grad: Option<&Exact<L>>,
    ) -> Done {
        check(shape, 1, input.len, self.numbers(weight_grad).len, output_grad.len)?;
        expect_len(KERNEL, &[("bias_grad", bias_grad.map_or(shape.outputs, |grad| grad.len), shape.outputs)])?;
        self.linear_weight_part(shape, Start::default(), output_grad, input, add, weight_grad)?;
        bias_grad.map_or(Ok(()), |grad| self.add_column_sums(shape.rows, shape.outputs, output_grad, self.address(grad, 0)))
    }

    pub(super) fn grouped_linear(
        &self,
        shape: LinearShape,
        segments: &Index<L>,
        input: &Stored<L>,
        weight: &Stored<L>,
        output: &Stored<L>,
    ) -> Done {
        check(shape, experts(segments), input.len, weight.len, output.len)?;
        if let Some(grouped) = Grouped::of(shape, experts(segments), self.has_wgmma())? {
            return self.grouped_forward(&grouped, segments, input, weight, output);
        }
        self.each_expert(shape, segments, |part, start| self.linear_part(part, start, input, weight, None, output))
    }

    pub(super) fn grouped_linear_input_slopes(
        &self,
        shape: LinearShape,
        segments: &Index<L>,
        output_grad: &Stored<L>,
        weight: &Stored<L>,
        add: bool,
        input_grad: &Stored<L>,
    ) -> Done {
        check(shape, experts(segments), input_grad.len, weight.len, output_grad.len)?;
        if let Some(grouped) = Grouped::of(shape, experts(segments), self.has_wgmma())? {
            return self.grouped_backward_input(&grouped, segments, output_grad, weight, add, input_grad);
        }
        self.each_expert(shape, segments, |part, start| self.linear_input_part(part, start, output_grad, weight, add, input_grad))
    }

    pub(super) fn grouped_linear_weight_slopes(
        &self,
        shape: LinearShape,
        segments: &Index<L>,
        output_grad: &Stored<L>,
        input: &Stored<L>,
        add: bool,
        weight_grad: &Gradient<Self>,
    ) -> Done {
        check(shape, experts(segments), input.len, self.numbers(weight_grad).len, output_grad.len)?;
        if let Some(grouped) = Grouped::of(shape, experts(segments), self.has_wgmma())? {
            return self.grouped_backward_weight(&grouped, segments, output_grad, input, add, weight_grad);
        }
        self.each_expert(shape, segments, |part, start| self.linear_weight_part(part, start, output_grad, input, add, weight_grad))
    }

    /// Runs `work` for every expert that has rows. A few large products run near a device's peak, so the cost over one launch for all is
    /// reading `segments` back.
    fn each_expert(&self, shape: LinearShape, segments: &Index<L>, work: impl Fn(LinearShape, Start) -> Done) -> Done {
        let segments = self.read_index(segments)?;
        let whole = segments.first() == Some(&0) && segments.last().map(|&end| end as usize) == Some(shape.rows);
        if !whole || !segments.is_sorted() {
            return Err(KernelError::Value { kernel: KERNEL, argument: "segments", wanted: "from 0 to the number of rows, never falling" });
        }
        for (expert, bounds) in segments.windows(2).enumerate() {
            let (first, end) = (bounds[0] as usize, bounds[1] as usize);
            let start = Start { input: first * shape.inputs, weight: expert * shape.inputs * shape.outputs, output: first * shape.outputs };
            work(LinearShape { rows: end - first, ..shape }, start)?;
        }
        Ok(())
    }

    /// `output = input · weightᵀ + bias`.
    fn linear_part(
        &self,
        shape: LinearShape,
        start: Start,
        input: &Stored<L>,
        weight: &Stored<L>,
        bias: Option<&Stored<L>>,
        output: &Stored<L>,
    ) -> Done {
        self.product(Product {
            rows: shape.rows,
            columns: shape.outputs,
            inner: shape.inputs,
            left: self.operand(input, start.input, false),
            right: self.operand(weight, start.weight, true),
            bias: bias.map(|bias| self.address(bias, 0)),
            add: false,
            output: self.address(output, start.output),
            output_kind: OutputKind::Stored,
        })
    }

    /// `input_grad (+)= output_grad · weight`.
    fn linear_input_part(
        &self,
        shape: LinearShape,
        start: Start,
        output_grad: &Stored<L>,
        weight: &Stored<L>,
        add: bool,
        input_grad: &Stored<L>,
    ) -> Done {
        self.product(Product {
            rows: shape.rows,
            columns: shape.inputs,
            inner: shape.outputs,
            left: self.operand(output_grad, start.output, false),
            right: self.operand(weight, start.weight, false),
            bias: None,
            add,
            output: self.address(input_grad, start.input),
            output_kind: OutputKind::Stored,
        })
    }

    /// `weight_grad (+)= output_gradᵀ · input`.
    fn linear_weight_part(
        &self,
        shape: LinearShape,
        start: Start,
        output_grad: &Stored<L>,
        input: &Stored<L>,
        add: bool,
        weight_grad: &Gradient<Self>,
    ) -> Done {
        let numbers = self.numbers(weight_grad);
        self.product(Product {
            rows: shape.outputs,
            columns: shape.inputs,
            inner: shape.rows,
            left: self.operand(output_grad, start.output, true),
            right: self.operand(input, start.input, false),
            bias: None,
            add,
            output: numbers.address + (start.weight * numbers.kind.bytes()) as u64,
            output_kind: numbers.kind,
        })
    }

    /// Where a gradient's numbers lie.
    pub(super) fn numbers(&self, gradient: &Gradient<Self>) -> Numbers {
        match gradient {
            Gradient::Exact(buffer) => Numbers { address: self.address(buffer, 0), len: buffer.len, kind: OutputKind::Exact },
            Gradient::Stored(buffer) => Numbers { address: self.address(buffer, 0), len: buffer.len, kind: OutputKind::Stored },
        }
    }

    pub(super) fn operand(&self, buffer: &Stored<L>, start: usize, transposed: bool) -> Operand {
        Operand { address: self.address(buffer, start), transposed }
    }

    /// Multiplies unless there is nothing to do. Checked shapes leave an inner size of 0 only to gradients of weights.
    pub(super) fn product(&self, product: Product) -> Done {
        let Product { rows, columns, inner, add, output: address, output_kind, .. } = product;
        if rows == 0 || columns == 0 || inner == 0 && add {
            return Ok(());
        }
        if inner == 0 {
            return self.run(Command::Clear { address, bytes: rows * columns * output_kind.bytes() });
        }
        self.run(Command::Multiply(product))
    }
}

fn experts<M>(segments: &super::IndexBuffer<M>) -> usize {
    segments.buffer.len.saturating_sub(1)
}

fn check(shape: LinearShape, experts: usize, input: usize, weight: usize, output: usize) -> Done {
    let LinearShape { rows, inputs, outputs } = shape;
    if inputs == 0 || outputs == 0 {
        return Err(KernelError::Value { kernel: KERNEL, argument: "weight", wanted: "one element or more" });
    }
    let sizes = [("input", input, rows * inputs), ("weight", weight, experts * inputs * outputs), ("output", output, rows * outputs)];
    expect_len(KERNEL, &sizes)
}
