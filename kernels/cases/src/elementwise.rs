//! Rotary positions, the gated activation, embeddings, linear maps and the optimiser.

use crate::{
    EXACT, STORED, Tolerance, Visitor, Work, close, equal, exact, gradient, index, numbers, read_exact, read_gradient, read_stored, spoil,
    stored,
};
use osler_kernels::blockwise::{self, SIGNED, UNSIGNED};
use osler_kernels::operations::{AdamState, AdamW, Blockwise, Gradient, LinearShape, Moments, RotaryShape};
use osler_kernels::{KernelError, Operations};

/// The cases that an emulator can run.
pub fn visit(visitor: &mut impl Visitor) {
    // Less than sixteen lanes' pairs, a tail of pairs, the widest head; heads over several blocks, and a last block that is not full.
    for (rows, heads, head_dim) in [(1, 1, 4), (5, 3, 16), (37, 2, 80), (9, 4, 128), (3, 2, 256), (400, 3, 8)] {
        for norm in [false, true] {
            visitor.visit(&Rotary { shape: RotaryShape { rows, heads, head_dim }, norm, is_spoilt: false });
        }
    }
    for norm in [false, true] {
        visitor.visit(&Rotary { shape: RotaryShape { rows: 9, heads: 4, head_dim: 32 }, norm, is_spoilt: true });
    }
    [0, 1, 8, 13, 2048, 4099].into_iter().for_each(|count| visitor.visit(&Swiglu { count }));
    let mixed = |rows: usize, vocabulary: usize| (0..rows).map(|row| (row * row * 31 % vocabulary) as u32).collect();
    let embeddings: [(Vec<u32>, usize, usize); 6] = [
        (vec![2], 3, 8),
        (vec![1; 70], 2, 16),
        (mixed(100, 7), 7, 24),
        // More tokens than one pass sorts by, more keys than one block sorts, more columns than one block has.
        (mixed(2500, 300), 300, 8),
        (mixed(40, 70_000), 70_000, 8),
        (vec![1, 0, 1], 2, 1032),
    ];
    for (tokens, vocabulary, hidden) in embeddings {
        visitor.visit(&Embedding { tokens, vocabulary, hidden, is_spoilt: false });
    }
    visitor.visit(&Embedding { tokens: mixed(100, 7), vocabulary: 7, hidden: 24, is_spoilt: true });
    // More outputs than a block sums the columns of.
    for (rows, inputs, outputs, is_spoilt) in
        [(1, 8, 16, false), (70, 24, 40, false), (70, 24, 40, true), (9, 40, 8, false), (5, 8, 300, false)]
    {
        visitor.visit(&Linear { shape: LinearShape { rows, inputs, outputs }, is_spoilt });
    }
    // Experts without rows, with one, with a tile and one more, with all; tails of rows, of columns and of the inner dimension; as many experts
    // as there can be.
    let mixed = [0, 1, 0, 0, 37, 128, 3, 0, 12, 129, 1, 1, 0, 20, 0, 5, 2, 30, 0].to_vec();
    let all_to_one = |experts: usize, one: usize, rows: usize| (0..experts).map(|expert| if expert == one { rows } else { 0 }).collect();
    let many = || (0..256).map(|expert| expert % 3).collect();
    for (rows_each, inputs, outputs) in
        [(mixed, 72, 136), (vec![0; 17], 8, 8), (vec![3; 20], 200, 24), (all_to_one(17, 11, 300), 24, 40), (many(), 8, 16)]
    {
        visitor.visit(&Grouped { rows_each, inputs, outputs, is_spoilt: false });
    }
    // Where inputs and outputs are whole steps of Hopper's kernels; more steps than a ring has stages, and few experts.
    let mixed = || vec![1, 0, 63, 64, 65, 130, 0, 7];
    let many = (0..256).map(|expert| expert % 2).collect();
    for (rows_each, inputs, outputs) in
        [(mixed(), 320, 192), (vec![0, 0, 300, 0], 64, 576), (vec![200], 64, 64), (vec![0; 2], 64, 64), (many, 64, 64)]
    {
        visitor.visit(&Grouped { rows_each, inputs, outputs, is_spoilt: false });
    }
    visitor.visit(&Grouped { rows_each: mixed(), inputs: 64, outputs: 64, is_spoilt: true });
    visitor.visit(&Grouped { rows_each: vec![9; 20], inputs: 40, outputs: 24, is_spoilt: true });
    visitor.visit(&Codes);
    // More than the blocks of a norm take in one round.
    visitor.visit(&Squares { count: 5_000_003, spoilt: None });
    // In the first piece of sixteen bytes, in a later one, and behind the last.
    let values = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    for spoilt in [0, 20_001, 70_002].into_iter().flat_map(|place| values.map(|value| (place, value))) {
        visitor.visit(&Squares { count: 70_003, spoilt: Some(spoilt) });
    }
    for (is_blockwise, is_stored) in [(false, false), (true, false), (false, true), (true, true)] {
        for (count, is_spoilt) in [(1, false), (255, false), (300_000, false), (600, true)] {
            visitor.visit(&Optimiser { count, is_blockwise, is_stored, is_spoilt });
        }
    }
}

/// Cases of sizes that models have.
pub fn visit_large(visitor: &mut impl Visitor) {
    visitor.visit(&Rotary { shape: RotaryShape { rows: 4096, heads: 32, head_dim: 128 }, norm: true, is_spoilt: false });
    visitor.visit(&Swiglu { count: 4096 * 14336 });
    let tokens = (0..4096u32).map(|row| row.wrapping_mul(2_654_435_761) % 151_936).collect();
    visitor.visit(&Embedding { tokens, vocabulary: 151_936, hidden: 1024, is_spoilt: false });
    visitor.visit(&Linear { shape: LinearShape { rows: 600, inputs: 1024, outputs: 512 }, is_spoilt: false });
    for (rows_each, inputs, outputs) in
        [((0..64).map(|expert| expert * 37 % 130).collect(), 2048, 768), (vec![300, 41, 0, 513], 1024, 1536)]
    {
        visitor.visit(&Grouped { rows_each, inputs, outputs, is_spoilt: false });
    }
    for (is_blockwise, is_stored) in [(false, false), (true, false), (true, true)] {
        visitor.visit(&Optimiser { count: 30_000_000, is_blockwise, is_stored, is_spoilt: false });
    }
    visit_far(visitor);
}

/// Cases of more than 2³² numbers in a buffer, few of which are touched.
pub fn visit_far(visitor: &mut impl Visitor) {
    visitor.visit(&FarRows { vocabulary: 530_000, hidden: 8192 });
    visitor.visit(&FarExpert { experts: 256, inputs: 64, outputs: 263_424 });
}

/// Rotary positions, with a norm of each head or without.
struct Rotary {
    shape: RotaryShape,
    norm: bool,
    /// Whether a head has a number that is infinite, and another one that is none.
    is_spoilt: bool,
}

impl Work for Rotary {
    fn run<O: Operations>(&self, device: &O) -> Vec<Vec<f32>> {
        let RotaryShape { rows, heads, head_dim } = self.shape;
        let len = rows * heads * head_dim;
        let positions: Vec<u32> = (0..rows).map(|row| (row * 7 % 11) as u32).collect();
        let angles = (0..11 * head_dim).map(|at| {
            let (position, column) = (at / head_dim, at % head_dim);
            let angle = position as f32 / 1e4f32.powf((column % (head_dim / 2)) as f32 / (head_dim / 2) as f32);
            if column < head_dim / 2 { angle.cos() } else { angle.sin() }
        });
        let table = exact(device, &angles.collect::<Vec<_>>());
        let positions = index(device, &positions);
        let mut input = numbers(len, 1);
        if self.is_spoilt {
            spoil(&mut input, 5 * head_dim + 1, 30 * head_dim);
        }
        let (input, weight) = (stored(device, &input), stored(device, &numbers(head_dim, 2)));
        let (mut output, mut scale) = (device.new_stored(len).unwrap(), device.new_exact(rows * heads).unwrap());
        let norm = self.norm.then_some((&weight, 1e-6));
        device.rotary_forward(self.shape, &table, &positions, &input, norm, &mut output, &mut scale).unwrap();
        let mut grad = stored(device, &numbers(len, 3));
        let mut weight_grad = exact(device, &numbers(head_dim, 4));
        let norm = self.norm.then_some((&input, &weight, &scale, &mut weight_grad));
        device.rotary_backward(self.shape, &table, &positions, norm, &mut grad).unwrap();
        vec![
            read_stored(device, &output, len),
            read_stored(device, &grad, len),
            read_exact(device, &scale, rows * heads),
            read_exact(device, &weight_grad, head_dim),
        ]
    }

    fn name(&self) -> String {
        let RotaryShape { rows, heads, head_dim } = self.shape;
        format!("rotary, {rows} x {heads} x {head_dim}, norm {}, spoilt {}", self.norm, self.is_spoilt)
    }

    fn judge(&self, got: &[Vec<f32>], wanted: &[Vec<f32>]) -> Result<(), String> {
        // A pair turns into differences: the error of one unit is that of its larger part.
        let turned = Tolerance { relative: 1.0 / 128.0, absolute: 1e-5 };
        close("output", &got[0], &wanted[0], turned)?;
        close("grad", &got[1], &wanted[1], turned)?;
        close("scale", &got[2], &wanted[2], EXACT)?;
        // Terms of about one, whose sum may be small.
        let terms = self.shape.rows * self.shape.heads;
        close("weight_grad", &got[3], &wanted[3], Tolerance::of_sums(Tolerance { relative: 1e-5, absolute: 1e-4 }, terms, 1200))
    }
}

/// The gated activation, with numbers from one to ten times as large.
struct Swiglu {
    count: usize,
}

impl Work for Swiglu {
    fn run<O: Operations>(&self, device: &O) -> Vec<Vec<f32>> {
        let count = self.count;
        let mut gates: Vec<f32> = numbers(count, 1).iter().enumerate().map(|(at, x)| x * (at % 10 + 1) as f32).collect();
        gates.iter_mut().take(1).for_each(|gate| *gate = -200.0);
        spoil(&mut gates, 9, 10);
        gates.iter_mut().skip(11).take(1).for_each(|gate| *gate = f32::NEG_INFINITY);
        let (gate, up) = (stored(device, &gates), stored(device, &numbers(count, 2)));
        let grad = stored(device, &numbers(count, 3));
        let [mut output, mut gate_grad, mut up_grad] = [(); 3].map(|()| device.new_stored(count).unwrap());
        device.swiglu_forward(&gate, &up, &mut output).unwrap();
        device.swiglu_backward(&gate, &up, &grad, &mut gate_grad, &mut up_grad).unwrap();
        [output, gate_grad, up_grad].map(|buffer| read_stored(device, &buffer, count)).to_vec()
    }

    fn name(&self) -> String {
        format!("swiglu of {}", self.count)
    }

    fn judge(&self, got: &[Vec<f32>], wanted: &[Vec<f32>]) -> Result<(), String> {
        ["output", "gate_grad", "up_grad"].into_iter().enumerate().try_for_each(|(at, name)| close(name, &got[at], &wanted[at], STORED))
    }
}

/// Embeddings, whose gradient adds the rows of a token in order: the same bits.
struct Embedding {
    tokens: Vec<u32>,
    vocabulary: usize,
    hidden: usize,
    /// Whether the table and the gradients have a number that is infinite, and another one that is none.
    is_spoilt: bool,
}

impl Work for Embedding {
    fn run<O: Operations>(&self, device: &O) -> Vec<Vec<f32>> {
        let (rows, size) = (self.tokens.len(), self.vocabulary * self.hidden);
        let [mut table, mut grad] = [(size, 1), (rows * self.hidden, 2)].map(|(count, salt)| numbers(count, salt));
        if self.is_spoilt {
            spoil(&mut table, 3, 4 * self.hidden + 1);
            spoil(&mut grad, 5 * self.hidden + 7, 60 * self.hidden + 20);
        }
        let (tokens, table) = (index(device, &self.tokens), stored(device, &table));
        let mut output = device.new_stored(rows * self.hidden).unwrap();
        device.embedding_forward(self.hidden, &tokens, &table, &mut output).unwrap();
        let grad = stored(device, &grad);
        let mut table_grad = exact(device, &numbers(size, 3));
        device.embedding_backward(self.hidden, &tokens, &grad, &mut table_grad).unwrap();
        vec![read_stored(device, &output, rows * self.hidden), read_exact(device, &table_grad, size)]
    }

    fn name(&self) -> String {
        let Self { tokens, vocabulary, hidden, is_spoilt } = self;
        format!("embedding of {} rows out of {vocabulary} of {hidden}, spoilt {is_spoilt}", tokens.len())
    }

    fn judge(&self, got: &[Vec<f32>], wanted: &[Vec<f32>]) -> Result<(), String> {
        equal("output", &got[0], &wanted[0])?;
        equal("table_grad", &got[1], &wanted[1])
    }
}

/// A linear map with a bias, and the same by two experts, one of them without rows.
struct Linear {
    shape: LinearShape,
    is_spoilt: bool,
}

impl Work for Linear {
    fn run<O: Operations>(&self, device: &O) -> Vec<Vec<f32>> {
        let LinearShape { rows, inputs, outputs } = self.shape;
        let (input, grad) = rows_in_and_out(device, self.shape, self.is_spoilt);
        let weight = stored(device, &numbers(3 * inputs * outputs, 2));
        let one = stored(device, &numbers(inputs * outputs, 2));
        let bias = stored(device, &numbers(outputs, 3));
        let mut output = device.new_stored(rows * outputs).unwrap();
        let mut input_grad = stored(device, &numbers(rows * inputs, 5));
        let mut bias_grad = exact(device, &numbers(outputs, 7));
        device.linear_forward(self.shape, &input, &one, Some(&bias), &mut output).unwrap();
        device.linear_backward_input(self.shape, &grad, &one, true, &mut input_grad).unwrap();
        let mut results = vec![read_stored(device, &output, rows * outputs), read_stored(device, &input_grad, rows * inputs)];
        for is_stored in [false, true] {
            let [mut added, mut alone] = [6, 8].map(|salt| gradient(device, &numbers(inputs * outputs, salt), is_stored));
            let bias_grad = Some(&mut bias_grad).filter(|_| is_stored);
            device.linear_backward_weight(self.shape, &grad, &input, true, &mut added, bias_grad).unwrap();
            device.linear_backward_weight(self.shape, &grad, &input, false, &mut alone, None).unwrap();
            results.extend([added, alone].map(|weight_grad| read_gradient(device, &weight_grad, inputs * outputs)));
        }
        results.push(read_exact(device, &bias_grad, outputs));
        let segments = index(device, &[0, (rows / 3) as u32, (rows / 3) as u32, rows as u32]);
        device.grouped_linear_forward(self.shape, &segments, &input, &weight, &mut output).unwrap();
        device.grouped_linear_backward_input(self.shape, &segments, &grad, &weight, false, &mut input_grad).unwrap();
        results.extend([read_stored(device, &output, rows * outputs), read_stored(device, &input_grad, rows * inputs)]);
        results.extend(weight_grads_of_experts(device, self.shape, (&segments, 3), &grad, &input));
        results
    }

    fn name(&self) -> String {
        let LinearShape { rows, inputs, outputs } = self.shape;
        format!("linear, {rows} x {inputs} x {outputs}, spoilt {}", self.is_spoilt)
    }

    fn judge(&self, got: &[Vec<f32>], wanted: &[Vec<f32>]) -> Result<(), String> {
        let LinearShape { rows, inputs, outputs } = self.shape;
        let names = "output input_grad weight_grad lone_weight_grad stored_grad lone_stored_grad bias_grad \
                     grouped_output grouped_input_grad grouped_weight_grad grouped_lone_weight_grad grouped_stored_grad \
                     grouped_lone_stored_grad";
        for (at, name) in names.split(' ').enumerate() {
            // Sums of terms of about one, in another order; stored ones may then round to a neighbour.
            let exact = name.ends_with("weight_grad") || name.ends_with("bias_grad");
            let tolerance = Tolerance { relative: if exact { 1e-5 } else { 1.0 / 128.0 }, absolute: 2e-5 };
            close(name, &got[at], &wanted[at], Tolerance::of_sums(tolerance, rows.max(inputs).max(outputs), 70))?;
        }
        Ok(())
    }
}

/// The input of a linear map and the gradient of its output, each with an infinite number in one row and one that is none in another if
/// `are_spoilt`.
fn rows_in_and_out<O: Operations>(device: &O, shape: LinearShape, are_spoilt: bool) -> (O::Stored, O::Stored) {
    let LinearShape { rows, inputs, outputs } = shape;
    let [mut input, mut grad] = [(inputs, 1), (outputs, 4)].map(|(columns, salt)| numbers(rows * columns, salt));
    if are_spoilt {
        spoil(&mut input, rows / 5 * inputs + 2, rows / 2 * inputs + 1);
        spoil(&mut grad, (rows - 1) * outputs + 5, rows / 3 * outputs);
    }
    (stored(device, &input), stored(device, &grad))
}

/// The gradients of experts' weights, added to others and by themselves, exact and then stored.
fn weight_grads_of_experts<O: Operations>(
    device: &O,
    shape: LinearShape,
    (segments, experts): (&O::Index, usize),
    output_grad: &O::Stored,
    input: &O::Stored,
) -> Vec<Vec<f32>> {
    let count = experts * shape.inputs * shape.outputs;
    let mut results = Vec::new();
    for (salt, add, is_stored) in [(5, true, false), (6, false, false), (7, true, true), (8, false, true)] {
        let mut weight_grad = gradient(device, &numbers(count, salt), is_stored);
        device.grouped_linear_backward_weight(shape, segments, output_grad, input, add, &mut weight_grad).unwrap();
        results.push(read_gradient(device, &weight_grad, count));
    }
    results
}

/// Linear maps of so many experts that one launch does them all.
struct Grouped {
    rows_each: Vec<usize>,
    inputs: usize,
    outputs: usize,
    is_spoilt: bool,
}

impl Grouped {
    fn shape(&self) -> LinearShape {
        LinearShape { rows: self.rows_each.iter().sum(), inputs: self.inputs, outputs: self.outputs }
    }
}

impl Work for Grouped {
    fn run<O: Operations>(&self, device: &O) -> Vec<Vec<f32>> {
        let (shape, matrix) = (self.shape(), self.inputs * self.outputs);
        let LinearShape { rows, inputs, outputs } = shape;
        let ends = self.rows_each.iter().scan(0, |end, &rows| {
            *end += rows as u32;
            Some(*end)
        });
        let segments = index(device, &std::iter::once(0).chain(ends).collect::<Vec<_>>());
        let (input, grad) = rows_in_and_out(device, shape, self.is_spoilt);
        let weight = stored(device, &numbers(self.rows_each.len() * matrix, 3));
        let mut output = device.new_stored(rows * outputs).unwrap();
        let [mut alone, mut added] = [4, 4].map(|salt| stored(device, &numbers(rows * inputs, salt)));
        device.grouped_linear_forward(shape, &segments, &input, &weight, &mut output).unwrap();
        device.grouped_linear_backward_input(shape, &segments, &grad, &weight, false, &mut alone).unwrap();
        device.grouped_linear_backward_input(shape, &segments, &grad, &weight, true, &mut added).unwrap();
        let mut results = vec![
            read_stored(device, &output, rows * outputs),
            read_stored(device, &alone, rows * inputs),
            read_stored(device, &added, rows * inputs),
        ];
        results.extend(weight_grads_of_experts(device, shape, (&segments, self.rows_each.len()), &grad, &input));
        results
    }

    fn name(&self) -> String {
        let LinearShape { rows, inputs, outputs } = self.shape();
        format!("linear of {} experts, {rows} x {inputs} x {outputs}, spoilt {}", self.rows_each.len(), self.is_spoilt)
    }

    fn judge(&self, got: &[Vec<f32>], wanted: &[Vec<f32>]) -> Result<(), String> {
        let LinearShape { rows, inputs, outputs } = self.shape();
        let names = ["output", "input_grad", "input_grad added", "weight_grad added", "weight_grad", "stored_grad added", "stored_grad"];
        for (at, name) in names.into_iter().enumerate() {
            // Sums of terms of about one, in another order.
            let tolerance = Tolerance { relative: if name.starts_with("weight") { 1e-5 } else { 1.0 / 128.0 }, absolute: 2e-5 };
            close(name, &got[at], &wanted[at], Tolerance::of_sums(tolerance, rows.max(inputs).max(outputs), 70))?;
        }
        Ok(())
    }
}

/// As [`close`], but for one number in five hundred, which may be `apart`.
fn nearly_all(name: &str, got: &[f32], wanted: &[f32], tolerance: Tolerance, apart: f32) -> Result<(), String> {
    close(name, got, wanted, Tolerance { absolute: apart, ..tolerance })?;
    let off = got.iter().zip(wanted).filter(|&(&got, &wanted)| close(name, &[got], &[wanted], tolerance).is_err()).count();
    if off <= got.len() / 500 { Ok(()) } else { Err(format!("{name}: {off} of {} differ", got.len())) }
}

/// The host is told numbers as they were, and a norm of two; of what it does not ask for it is told nothing later.
fn tell<O: Operations>(device: &O, norm: &O::Norm) {
    let (mut numbers, mut board, mut seen) = (exact(device, &[1.0, 2.0, 3.0]), device.new_board(5).unwrap(), [0.0; 5]);
    for (norm, wanted) in [(Some(norm), 2.0), (None, 0.0)] {
        // Once in vain.
        device.end_telling(norm, &mut board).unwrap();
        device
            .as_one(|| {
                device.write_exact(&mut numbers, 0, &[1.0, 2.0, 3.0])?;
                device.tell(&numbers, &mut board, 1)?;
                device.zero_exact(&mut numbers)?;
                device.tell(&exact(device, &[wanted as f32]), &mut board, 4)?;
                device.end_telling(norm, &mut board)
            })
            .unwrap();
        assert_eq!((device.told(&mut board, &mut seen), seen), (Ok(wanted), [0.0, 1.0, 2.0, 3.0, wanted as f32]));
    }
    assert!(device.tell(&numbers, &mut board, 3).is_err(), "past the end of the board");
    let past_the_end = device.told(&mut board, &mut [0.0; 6]);
    assert!(matches!(past_the_end, Err(KernelError::Shape { .. })), "past the end of the board");
    assert_eq!(device.told(&mut board, &mut []), Err(KernelError::nothing_told()), "told once");
    device.end_telling(None, &mut board).unwrap();
    device.tell(&numbers, &mut board, 0).unwrap();
    assert_eq!(device.told(&mut board, &mut []), Err(KernelError::nothing_told()), "not told to its end");
}

/// Two steps of AdamW, with a master and without, and a norm.
struct Optimiser {
    count: usize,
    is_blockwise: bool,
    /// Whether the gradients are stored.
    is_stored: bool,
    /// Whether some of them are no numbers, of which the norm knows nothing.
    is_spoilt: bool,
}

impl Work for Optimiser {
    fn run<O: Operations>(&self, device: &O) -> Vec<Vec<f32>> {
        let count = self.count;
        let mut settings = AdamW { learning_rate: 0.01, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, step: 1 };
        let [mut grad, mut addend] = [4, 1].map(|salt| numbers(count, salt));
        if self.is_spoilt {
            spoil(&mut grad, 3, 4);
            spoil(&mut addend, 270, 3);
            // Infinities of both signs are no number together.
            (grad[300], addend[300]) = (f32::INFINITY, f32::NEG_INFINITY);
        }
        let mut grad = gradient(device, &grad, self.is_stored);
        if let Some(grad) = grad.exact() {
            device.add_exact(&exact(device, &addend), grad).unwrap();
        }
        let mut weight = stored(device, &numbers(count, 2));
        let mut state = AdamState::new(device, count, self.is_blockwise).unwrap();
        // A norm of two, which is to be one, or may be any.
        let mut norm = device.new_norm(4, if self.is_stored { f64::INFINITY } else { 1.0 }).unwrap();
        device.write_squares(&mut norm, &[1.0, 0.0, 2.0, 1.0]).unwrap();
        device.clip(&mut norm).unwrap();
        tell(device, &norm);
        device.adamw(&settings, &norm, &grad, &mut state, &mut weight).unwrap();
        settings.step = 2;
        device.adamw(&settings, &norm, &grad, &mut state, &mut weight).unwrap();
        let nothing = gradient(device, &[], self.is_stored);
        device.squares(&[(3, &grad), (1, &nothing), (0, &grad)], &mut norm).unwrap();
        let squares = device.read_squares(&norm).unwrap();
        assert!(squares[0].to_bits() == squares[3].to_bits() && squares[1..3] == [0.0, 2.0], "each in its place");
        // What is not finite is no step.
        let before = read_stored(device, &weight, count);
        settings.step = 3;
        for square in [f64::NAN, f64::INFINITY] {
            device.write_squares(&mut norm, &[1.0, square, 2.0, 1.0]).unwrap();
            device.clip(&mut norm).unwrap();
            device.adamw(&settings, &norm, &grad, &mut state, &mut weight).unwrap();
        }
        equal("weight", &read_stored(device, &weight, count), &before).expect("no step by gradients whose norm is no number");
        let mut master = vec![0.0; count];
        device.read_master(&weight, state.rest.as_ref().unwrap(), 0, &mut master).unwrap();
        let stepped = read_stored(device, &weight, count);
        // What is written is what is read, whatever its last bits.
        let [half, written] = [1.0 / 3.0, -7.123_456_7].map(|factor| numbers(count, 6).iter().map(|x| x * factor).collect::<Vec<_>>());
        let mut back = written.clone();
        let rest = state.rest.as_mut().unwrap();
        device.write_master(&mut weight, rest, 0, &half).unwrap();
        device.write_master(&mut weight, rest, 0, &written).unwrap();
        device.read_master(&weight, rest, 0, &mut back).unwrap();
        assert!(back == written, "master weights come back changed");
        let mut scales = Vec::new();
        let moments = match &state.moments {
            Moments::Exact { first, second } => [first, second].map(|moment| read_exact(device, moment, count)),
            Moments::Blockwise { first, second } => [first, second].map(|moment| {
                let mut codes = vec![0; count];
                device.read_bytes(&moment.codes, 0, &mut codes).unwrap();
                scales.push(read_exact(device, &moment.scales, count.div_ceil(blockwise::BLOCK)));
                codes.into_iter().map(f32::from).collect()
            }),
        };
        let sum = read_gradient(device, &grad, count);
        [stepped, vec![squares[0] as f32], master].into_iter().chain(moments).chain([sum]).chain(scales).collect()
    }

    fn name(&self) -> String {
        let moments = if self.is_blockwise { ", moments of 8 bits" } else { "" };
        let gradients = if self.is_stored { ", stored gradients" } else { "" };
        format!("optimiser of {}{moments}{gradients}, spoilt {}", self.count, self.is_spoilt)
    }

    fn judge(&self, got: &[Vec<f32>], wanted: &[Vec<f32>]) -> Result<(), String> {
        for (at, name) in ["weight", "squares", "master", "first", "second", "sum of gradients"].into_iter().enumerate() {
            let tolerance = if at == 0 { STORED } else { EXACT };
            match self.is_blockwise && matches!(name, "weight" | "master" | "first" | "second") {
                // Where two codes are equally near, the last bit decides; the next step then differs by a part of the learning rate.
                true => nearly_all(name, &got[at], &wanted[at], tolerance, if at < 3 { 2e-3 } else { 1.0 })?,
                false => close(name, &got[at], &wanted[at], tolerance)?,
            }
        }
        // The largest of a block may have been a code apart.
        got.iter().zip(wanted).skip(6).try_for_each(|(got, wanted)| nearly_all("scales", got, wanted, EXACT, 1e-2))
    }
}

/// The square of a norm.
struct Squares {
    count: usize,
    /// Where there is what is not finite.
    spoilt: Option<(usize, f32)>,
}

impl Work for Squares {
    fn run<O: Operations>(&self, device: &O) -> Vec<Vec<f32>> {
        let mut norm = device.new_norm(1, 1.0).unwrap();
        let mut values = numbers(self.count, 1);
        if let Some((place, value)) = self.spoilt {
            values[place] = value;
        }
        let mut squares = |is_stored| {
            device.squares(&[(0, &gradient(device, &values, is_stored))], &mut norm).unwrap();
            device.read_squares(&norm).unwrap()[0] as f32
        };
        vec![vec![squares(false), squares(true)]]
    }

    fn name(&self) -> String {
        format!("sum of {} squares, spoilt {:?}", self.count, self.spoilt)
    }

    fn judge(&self, got: &[Vec<f32>], wanted: &[Vec<f32>]) -> Result<(), String> {
        // Sums in f64.
        equal("squares", &got[0], &wanted[0])?;
        match self.spoilt {
            Some(_) if wanted[0].iter().any(|sum| sum.is_finite()) => Err("the sum is finite".into()),
            _ => Ok(()),
        }
    }
}

/// Codes of moments that are the gradients, or their squares, and nothing else: at each code, halfway between two, where decades begin, and
/// next to all of these, times scales that are easy and hard to divide by.
struct Codes;

impl Codes {
    /// Blocks of 256, each with what is to be its scale.
    fn gradients() -> Vec<f32> {
        let halfway = |map: &[f32; 256]| map.windows(2).map(|pair| (pair[0] + pair[1]) * 0.5).collect::<Vec<_>>();
        let decades = (-9..=0).map(|power| 10f32.powi(power));
        let firsts = SIGNED.iter().copied().chain(halfway(&SIGNED)).chain(decades.clone()).chain([f32::MIN_POSITIVE, 1e-42, 0.0]);
        let seconds = UNSIGNED.iter().copied().chain(halfway(&UNSIGNED)).chain(decades).map(f32::sqrt);
        let around = |value: f32| (0..7).scan(value.next_down().next_down().next_down(), |at, _| Some(std::mem::replace(at, at.next_up())));
        let all: Vec<f32> = firsts.chain(seconds).flat_map(around).flat_map(|value| [value, -value]).filter(|x| x.abs() <= 1.0).collect();
        let of_255 = |values: &[f32]| (0..255).map(|at| values.get(at).copied().unwrap_or_default()).collect::<Vec<_>>();
        let one =
            |scale: f32| all.chunks(255).flat_map(move |values| of_255(values).into_iter().chain([1.0]).map(move |value| value * scale));
        // Of the last two squares are zero; of those before they are small.
        [1.0, 0.3, 2f32.next_down(), 3.3e-9, 3e-15, 3.3e-17, 1.3e-29, 7.7e-33].into_iter().flat_map(one).collect()
    }
}

impl Work for Codes {
    fn run<O: Operations>(&self, device: &O) -> Vec<Vec<f32>> {
        let gradients = Self::gradients();
        let count = gradients.len();
        let (grad, mut weight) = (gradient(device, &gradients, false), stored(device, &vec![0.0; count]));
        let mut state = AdamState::new(device, count, true).unwrap();
        let settings = AdamW { learning_rate: 0.0, beta1: 0.0, beta2: 0.0, epsilon: 1e-8, weight_decay: 0.0, step: 1 };
        let norm = device.new_norm(0, 1.0).unwrap();
        device.adamw(&settings, &norm, &grad, &mut state, &mut weight).unwrap();
        let Moments::Blockwise { first, second } = &state.moments else { return Vec::new() };
        let codes = |moment: &Blockwise<O>| {
            let mut codes = vec![0; count];
            device.read_bytes(&moment.codes, 0, &mut codes).unwrap();
            codes.into_iter().map(f32::from).collect()
        };
        vec![codes(first), codes(second)]
    }

    fn name(&self) -> String {
        format!("codes of {} moments", Self::gradients().len())
    }

    fn judge(&self, got: &[Vec<f32>], wanted: &[Vec<f32>]) -> Result<(), String> {
        // Nothing is left to rounding: all are the CPU's.
        for (map, got, wanted) in [("first", &got[0], &wanted[0]), ("second", &got[1], &wanted[1])] {
            if let Some(at) = got.iter().zip(wanted).position(|(got, wanted)| got != wanted) {
                return Err(format!("{map} moment of {}: code {}, wanted {}", Self::gradients()[at], got[at], wanted[at]));
            }
            if (0..=255).any(|code| !wanted.contains(&(code as f32)) && (map, code) != ("second", 0)) {
                return Err(format!("{map}: some code is not among them"));
            }
        }
        Ok(())
    }
}

/// Rows of a table of more than 2³² numbers, the last among them.
struct FarRows {
    vocabulary: usize,
    hidden: usize,
}

impl FarRows {
    fn tokens(&self) -> [u32; 3] {
        let last = self.vocabulary as u32 - 1;
        [last, 0, last - 7]
    }
}

impl Work for FarRows {
    fn run<O: Operations>(&self, device: &O) -> Vec<Vec<f32>> {
        let Self { vocabulary, hidden } = *self;
        let tokens = index(device, &self.tokens());
        let mut table = device.new_stored(vocabulary * hidden).unwrap();
        for (salt, token) in (1..).zip(self.tokens()) {
            device.write_stored(&mut table, token as usize * hidden, &numbers(hidden, salt)).unwrap();
        }
        let mut output = device.new_stored(3 * hidden).unwrap();
        device.embedding_forward(hidden, &tokens, &table, &mut output).unwrap();
        drop(table);
        let mut grad = device.new_exact(vocabulary * hidden).unwrap();
        device.embedding_backward(hidden, &tokens, &output, &mut grad).unwrap();
        let mut results = vec![read_stored(device, &output, 3 * hidden)];
        for token in self.tokens() {
            let mut row = vec![0.0; hidden];
            device.read_exact(&grad, token as usize * hidden, &mut row).unwrap();
            results.push(row);
        }
        results
    }

    fn run_twin<O: Operations>(&self, cpu: &O) -> Vec<Vec<f32>> {
        Self { vocabulary: 9, ..*self }.run(cpu)
    }

    fn name(&self) -> String {
        format!("far rows of a table of {} x {}", self.vocabulary, self.hidden)
    }

    fn judge(&self, got: &[Vec<f32>], wanted: &[Vec<f32>]) -> Result<(), String> {
        got.iter().zip(wanted).enumerate().try_for_each(|(at, (got, wanted))| equal(&format!("result {at}"), got, wanted))?;
        equal("what was written", &got[0], &[1, 2, 3].map(|salt| numbers(self.hidden, salt)).concat())
    }
}

/// The last of as many experts as there can be, the only one with rows, whose weights lie past 2³² others.
struct FarExpert {
    experts: usize,
    inputs: usize,
    outputs: usize,
}

impl FarExpert {
    const ROWS: usize = 3;
}

impl Work for FarExpert {
    fn run<O: Operations>(&self, device: &O) -> Vec<Vec<f32>> {
        let shape = LinearShape { rows: Self::ROWS, inputs: self.inputs, outputs: self.outputs };
        let (inputs, outputs, matrix) = (Self::ROWS * self.inputs, Self::ROWS * self.outputs, self.inputs * self.outputs);
        let (weights, last) = (self.experts * matrix, (self.experts - 1) * matrix);
        let mut segments = vec![0; self.experts];
        segments.push(Self::ROWS as u32);
        let (segments, input, grad) = (index(device, &segments), stored(device, &numbers(inputs, 1)), stored(device, &numbers(outputs, 2)));
        let mut weight = device.new_stored(weights).unwrap();
        device.write_stored(&mut weight, last, &numbers(matrix, 3)).unwrap();
        let (mut output, mut input_grad) = (device.new_stored(outputs).unwrap(), device.new_stored(inputs).unwrap());
        device.grouped_linear_forward(shape, &segments, &input, &weight, &mut output).unwrap();
        device.grouped_linear_backward_input(shape, &segments, &grad, &weight, false, &mut input_grad).unwrap();
        drop(weight);
        let mut weight_grad = device.new_exact(weights).map(Gradient::Exact).unwrap();
        device.grouped_linear_backward_weight(shape, &segments, &grad, &input, true, &mut weight_grad).unwrap();
        let mut of_last = vec![0.0; matrix];
        device.read_exact(weight_grad.exact().unwrap(), last, &mut of_last).unwrap();
        vec![read_stored(device, &output, outputs), read_stored(device, &input_grad, inputs), of_last]
    }

    fn run_twin<O: Operations>(&self, cpu: &O) -> Vec<Vec<f32>> {
        Self { experts: 1, ..*self }.run(cpu)
    }

    fn name(&self) -> String {
        format!("linear of the last of {} experts, {} x {}", self.experts, self.inputs, self.outputs)
    }

    fn judge(&self, got: &[Vec<f32>], wanted: &[Vec<f32>]) -> Result<(), String> {
        // Sums of terms of about one, in another order.
        for (at, (name, terms)) in
            [("output", self.inputs), ("input_grad", self.outputs), ("weight_grad", Self::ROWS)].into_iter().enumerate()
        {
            let tolerance = Tolerance { relative: 1.0 / 128.0, absolute: 2e-5 };
            close(name, &got[at], &wanted[at], Tolerance::of_sums(tolerance, terms, 70))?;
        }
        Ok(())
    }
}
