//! Rows beyond the first 2³² numbers of a buffer: offsets have 64 bits. Memory is touched where the rows are, and a grid's first and last
//! blocks run.

use osler_emulator::{Emulator, Order};
use osler_kernel_cases::elementwise::visit_far;
use osler_kernel_cases::{Tolerance, Visitor, Work, close, exact, gradient, index, numbers, read_stored, stored};
use osler_kernels::cuda::{Gpu, Launcher};
use osler_kernels::operations::{
    AdamState, AdamW, AttentionInput, AttentionShape, Blockwise, DispatchShape, Gradient, LinearShape, Moments, RotaryShape, RouteShape,
};
use osler_kernels::{Cpu, Memory, Operations, blockwise};

/// Rows that are looked at, the last of all.
const TAIL: usize = 40;
/// Blocks at each end of a grid, enough for them.
const ENDS: u64 = 64;
/// The largest buffer, f32.
const LARGEST_BYTES: usize = 18 << 30;

#[test]
fn far_rows_agree_with_near_ones() {
    if !there_is_room() {
        return;
    }
    for wgmma in [false, true] {
        Attention { backward: !wgmma }.hold(wgmma);
    }
    Norm.hold(false);
    Rotary.hold(false);
    Activation.hold(false);
    Dispatch.hold(false);
    Route.hold(false);
    [false, true].into_iter().for_each(|is_blockwise| Optimiser { is_blockwise }.hold(false));
    [false, true].into_iter().for_each(|wgmma| Experts.hold(wgmma));
}

#[test]
fn far_weights_agree_with_their_twin() {
    if there_is_room() {
        [false, true].into_iter().for_each(|wgmma| visit_far(&mut Once { wgmma }));
    }
}

/// Runs cases in one order.
struct Once {
    wgmma: bool,
}

impl Visitor for Once {
    fn visit(&mut self, work: &impl Work) {
        let got = work.run(&Gpu::new(Emulator { wgmma: self.wgmma, ..Emulator::default() }));
        work.judge(&got, &work.run_twin(&Cpu::<f32>::bf16(1).unwrap())).unwrap();
    }
}

/// Whether so much memory may be asked for; that of it which is touched is little. What a sanitizer notes of it is not.
fn there_is_room() -> bool {
    let room = !cfg!(feature = "address-sanitizer") && Emulator::default().allocate(LARGEST_BYTES).is_ok();
    if !room {
        eprintln!("SKIPPED: rows beyond the first 2³² numbers, since the system does not promise {LARGEST_BYTES} bytes");
    }
    room
}

/// Work on rows of so many numbers, of which the last are written and read.
trait Far {
    const WIDTH: usize;

    fn run<O: Operations>(&self, device: &O, rows: usize) -> Vec<Vec<f32>>;

    /// Whether many rows give what the last of them give alone.
    fn hold(&self, wgmma: bool) {
        let rows = (1 << 32) / Self::WIDTH + 1000;
        let far = self.run(&Gpu::new(Emulator { order: Order::Backward, wgmma, ends: Some(ENDS), place: None }), rows);
        let near = self.run(&Cpu::<f32>::bf16(1).unwrap(), TAIL);
        for (at, (far, near)) in far.iter().zip(&near).enumerate() {
            close(&format!("result {at} of rows of {}", Self::WIDTH), far, near, Tolerance { relative: 1.0 / 64.0, absolute: 0.01 })
                .unwrap();
        }
    }

    fn stored<O: Operations>(&self, device: &O, rows: usize, salt: u64) -> O::Stored {
        let mut buffer = device.new_stored(rows * Self::WIDTH).unwrap();
        device.write_stored(&mut buffer, (rows - TAIL) * Self::WIDTH, &numbers(TAIL * Self::WIDTH, salt)).unwrap();
        buffer
    }

    fn exact<O: Operations>(&self, device: &O, rows: usize, salt: u64) -> O::Exact {
        let mut buffer = device.new_exact(rows * Self::WIDTH).unwrap();
        device.write_exact(&mut buffer, (rows - TAIL) * Self::WIDTH, &numbers(TAIL * Self::WIDTH, salt)).unwrap();
        buffer
    }

    fn tail<O: Operations>(&self, device: &O, buffer: &O::Stored, rows: usize) -> Vec<f32> {
        let mut values = vec![0.0; TAIL * Self::WIDTH];
        device.read_stored(buffer, (rows - TAIL) * Self::WIDTH, &mut values).unwrap();
        values
    }

    fn exact_tail<O: Operations>(&self, device: &O, buffer: &O::Exact, rows: usize) -> Vec<f32> {
        let mut values = vec![0.0; TAIL * Self::WIDTH];
        device.read_exact(buffer, (rows - TAIL) * Self::WIDTH, &mut values).unwrap();
        values
    }
}

/// One head. Rows before the last see themselves alone. Hopper's backward pass keeps f32 sums of all rows, and is left out.
struct Attention {
    backward: bool,
}

impl Far for Attention {
    const WIDTH: usize = 128;

    fn run<O: Operations>(&self, device: &O, rows: usize) -> Vec<Vec<f32>> {
        let shape = AttentionShape { rows, query_heads: 1, key_heads: 1, head_dim: Self::WIDTH };
        let [query, key, value, grad] = [1, 2, 3, 4].map(|salt| self.stored(device, rows, salt));
        let lo = index(device, &(0..rows).map(|row| row.min(rows - TAIL) as u32).collect::<Vec<_>>());
        let input = || AttentionInput { query: &query, key: &key, value: &value, lo: &lo };
        let (mut output, mut sums) = (device.new_stored(rows * Self::WIDTH).unwrap(), device.new_exact(rows).unwrap());
        device.attention_forward(shape, input(), &mut output, &mut sums).unwrap();
        let mut results = vec![self.tail(device, &output, rows)];
        if self.backward {
            let [mut query_grad, mut key_grad, mut value_grad] = [(); 3].map(|()| device.new_stored(rows * Self::WIDTH).unwrap());
            device.attention_backward(shape, input(), &output, &sums, &grad, &mut query_grad, &mut key_grad, &mut value_grad).unwrap();
            results.extend([query_grad, key_grad, value_grad].map(|buffer| self.tail(device, &buffer, rows)));
        }
        results
    }
}

struct Norm;

impl Far for Norm {
    const WIDTH: usize = 4096;

    fn run<O: Operations>(&self, device: &O, rows: usize) -> Vec<Vec<f32>> {
        let [input, grad] = [1, 2].map(|salt| self.stored(device, rows, salt));
        let weight = stored(device, &numbers(Self::WIDTH, 3));
        let (mut output, mut scale) = (device.new_stored(rows * Self::WIDTH).unwrap(), device.new_exact(rows).unwrap());
        device.rmsnorm_forward(1e-5, &input, &weight, &mut output, &mut scale).unwrap();
        let (mut input_grad, mut weight_grad) = (self.stored(device, rows, 4), device.new_exact(Self::WIDTH).unwrap());
        device.rmsnorm_backward(&input, &weight, &scale, &grad, &mut input_grad, &mut weight_grad).unwrap();
        let [mut sum, mut normed] = [(); 2].map(|()| device.new_stored(rows * Self::WIDTH).unwrap());
        device.add_rmsnorm_forward(1e-5, &input, &grad, &weight, &mut sum, &mut normed, &mut scale).unwrap();
        [output, input_grad, sum, normed].map(|buffer| self.tail(device, &buffer, rows)).to_vec()
    }
}

struct Rotary;

impl Far for Rotary {
    const WIDTH: usize = 512;

    fn run<O: Operations>(&self, device: &O, rows: usize) -> Vec<Vec<f32>> {
        let shape = RotaryShape { rows, heads: 4, head_dim: 128 };
        let table = exact(device, &numbers(5 * 128, 1));
        let positions = index(device, &(0..rows).map(|row| ((rows - row) % 5) as u32).collect::<Vec<_>>());
        let (input, mut grad) = (self.stored(device, rows, 2), self.stored(device, rows, 3));
        let (mut output, mut scale) = (device.new_stored(rows * Self::WIDTH).unwrap(), device.new_exact(rows * 4).unwrap());
        device.rotary_forward(shape, &table, &positions, &input, None, &mut output, &mut scale).unwrap();
        device.rotary_backward(shape, &table, &positions, None, &mut grad).unwrap();
        let (weight, mut weight_grad) = (stored(device, &numbers(128, 4)), device.new_exact(128).unwrap());
        let (mut normed, mut through_norm) = (device.new_stored(rows * Self::WIDTH).unwrap(), self.stored(device, rows, 5));
        device.rotary_forward(shape, &table, &positions, &input, Some((&weight, 1e-5)), &mut normed, &mut scale).unwrap();
        let norm = Some((&input, &weight, &scale, &mut weight_grad));
        device.rotary_backward(shape, &table, &positions, norm, &mut through_norm).unwrap();
        [output, grad, normed, through_norm].map(|buffer| self.tail(device, &buffer, rows)).to_vec()
    }
}

struct Activation;

impl Far for Activation {
    const WIDTH: usize = 1024;

    fn run<O: Operations>(&self, device: &O, rows: usize) -> Vec<Vec<f32>> {
        let [gate, up, grad] = [1, 2, 3].map(|salt| self.stored(device, rows, salt));
        let [mut output, mut gate_grad, mut up_grad] = [(); 3].map(|()| device.new_stored(rows * Self::WIDTH).unwrap());
        device.swiglu_forward(&gate, &up, &mut output).unwrap();
        device.swiglu_backward(&gate, &up, &grad, &mut gate_grad, &mut up_grad).unwrap();
        [output, gate_grad, up_grad].map(|buffer| self.tail(device, &buffer, rows)).to_vec()
    }
}

/// One choice of a row, its own place.
struct Dispatch;

impl Far for Dispatch {
    const WIDTH: usize = 4096;

    fn run<O: Operations>(&self, device: &O, rows: usize) -> Vec<Vec<f32>> {
        let shape = DispatchShape { rows, top_k: 1, hidden: Self::WIDTH };
        let places = index(device, &(0..rows as u32).collect::<Vec<_>>());
        let mut weights = device.new_exact(rows).unwrap();
        device.write_exact(&mut weights, rows - TAIL, &numbers(TAIL, 1)).unwrap();
        let [input, grad] = [2, 3].map(|salt| self.stored(device, rows, salt));
        let [mut sent, mut gathered, mut sent_grad, mut input_grad] = [(); 4].map(|()| device.new_stored(rows * Self::WIDTH).unwrap());
        let mut weights_grad = device.new_exact(rows).unwrap();
        device.permute_forward(shape, &places, &input, &mut sent).unwrap();
        device.combine_forward(shape, &places, &weights, &sent, &mut gathered).unwrap();
        device.combine_backward(shape, &places, &places, &weights, &sent, &grad, &mut sent_grad, &mut weights_grad).unwrap();
        device.permute_backward(shape, &places, &sent_grad, &mut input_grad).unwrap();
        [sent, gathered, sent_grad, input_grad].map(|buffer| self.tail(device, &buffer, rows)).to_vec()
    }
}

struct Route;

impl Far for Route {
    const WIDTH: usize = 256;

    fn run<O: Operations>(&self, device: &O, rows: usize) -> Vec<Vec<f32>> {
        let shape = RouteShape { rows, experts: Self::WIDTH, top_k: 1 };
        let logits = self.stored(device, rows, 1);
        let mut probabilities = device.new_exact(rows * Self::WIDTH).unwrap();
        let (mut chosen, mut weights) = (device.new_index(rows).unwrap(), device.new_exact(rows).unwrap());
        device.route_forward(shape, &logits, &mut probabilities, &mut chosen, &mut weights).unwrap();
        let balance_grad = exact(device, &numbers(Self::WIDTH, 2));
        let mut logits_grad = device.new_stored(rows * Self::WIDTH).unwrap();
        device.route_backward(shape, &probabilities, &chosen, &weights, &balance_grad, &mut logits_grad).unwrap();
        // Probabilities of one in some hundred.
        [self.exact_tail(device, &probabilities, rows), self.tail(device, &logits_grad, rows)]
            .map(|values| values.iter().map(|value| 100.0 * value).collect())
            .to_vec()
    }
}

struct Optimiser {
    is_blockwise: bool,
}

impl Optimiser {
    /// Codes, a block to a row, and their scales.
    fn blockwise_tail<O: Operations>(&self, device: &O, moment: &Blockwise<O>, rows: usize) -> Vec<Vec<f32>> {
        let (mut codes, mut scales) = (vec![0; TAIL * Self::WIDTH], vec![0.0; TAIL]);
        device.read_bytes(&moment.codes, (rows - TAIL) * Self::WIDTH, &mut codes).unwrap();
        device.read_exact(&moment.scales, rows - TAIL, &mut scales).unwrap();
        // A code may be the next one.
        let decades = codes.iter().map(|code| f32::from(code / 32)).collect();
        vec![decades, scales.iter().map(|scale| 10.0 * scale).collect()]
    }
}

impl Far for Optimiser {
    const WIDTH: usize = blockwise::BLOCK;

    fn run<O: Operations>(&self, device: &O, rows: usize) -> Vec<Vec<f32>> {
        let mut weight = self.stored(device, rows, 1);
        let mut sum = self.exact(device, rows, 2);
        device.add_exact(&self.exact(device, rows, 3), &mut sum).unwrap();
        let added = self.exact_tail(device, &sum, rows);
        let mut state = AdamState::new(device, rows * Self::WIDTH, self.is_blockwise).unwrap();
        let settings = AdamW { learning_rate: 0.1, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, step: 1 };
        let norm = device.new_norm(0, 1.0).unwrap();
        device.adamw(&settings, &norm, &Gradient::Exact(sum), &mut state, &mut weight).unwrap();
        let weight = self.tail(device, &weight, rows);
        let large = |values: Vec<f32>| values.iter().map(|value| 10.0 * value).collect();
        let moments = match &state.moments {
            Moments::Exact { first, second } => [first, second].map(|moment| large(self.exact_tail(device, moment, rows))).to_vec(),
            Moments::Blockwise { first, second } => [first, second].map(|moment| self.blockwise_tail(device, moment, rows)).concat(),
        };
        [added, weight].into_iter().chain(moments).collect()
    }
}

/// Rows of two experts, most of them of the one and half of those that are looked at of the other.
struct Experts;

impl Experts {
    /// All rows but the last few are of the expert at `large`, those of the last.
    fn segments<O: Operations>(device: &O, experts: usize, large: usize, rows: usize) -> O::Index {
        let ends = (0..=experts).map(|expert| match expert {
            end if end == experts => rows,
            end if end > large => rows - TAIL / 2,
            _ => 0,
        });
        index(device, &ends.map(|end| end as u32).collect::<Vec<_>>())
    }
}

impl Far for Experts {
    const WIDTH: usize = 64;

    fn run<O: Operations>(&self, device: &O, rows: usize) -> Vec<Vec<f32>> {
        const MATRIX: usize = Experts::WIDTH * Experts::WIDTH;
        let shape = LinearShape { rows, inputs: Self::WIDTH, outputs: Self::WIDTH };
        let [input, grad] = [1, 2].map(|salt| self.stored(device, rows, salt));
        // More experts than products by a library are made for, all of whose last tiles are among the ends.
        let (weight, segments) = (stored(device, &numbers(17 * MATRIX, 3)), Self::segments(device, 17, 0, rows));
        let [mut output, mut input_grad] = [(); 2].map(|()| device.new_stored(rows * Self::WIDTH).unwrap());
        device.grouped_linear_forward(shape, &segments, &input, &weight, &mut output).unwrap();
        device.grouped_linear_backward_input(shape, &segments, &grad, &weight, false, &mut input_grad).unwrap();
        // Not added to anything there is a tile for each expert: that of the one with most rows, which would take hours, is at none of the ends.
        let segments = Self::segments(device, 256, 128, rows);
        let mut weight_grad = gradient(device, &vec![0.0; 256 * MATRIX], false);
        device.grouped_linear_backward_weight(shape, &segments, &grad, &input, false, &mut weight_grad).unwrap();
        let mut of_last = vec![0.0; MATRIX];
        device.read_exact(weight_grad.exact().unwrap(), 255 * MATRIX, &mut of_last).unwrap();
        assert!(of_last.iter().any(|slope| *slope != 0.0));
        [output, input_grad].map(|buffer| self.tail(device, &buffer, rows)).into_iter().chain([of_last]).collect()
    }
}

/// What runs is the grid's ends.
#[test]
fn only_the_ends_of_a_grid_run() {
    for order in [Order::Forward, Order::Backward] {
        let gpu = Gpu::new(Emulator { order, ends: Some(2), ..Emulator::default() });
        let weight = stored(&gpu, &[1.0; 8]);
        let (mut output, mut scale) = (gpu.new_stored(7 * 8).unwrap(), gpu.new_exact(7).unwrap());
        gpu.rmsnorm_forward(0.0, &stored(&gpu, &[1.0; 7 * 8]), &weight, &mut output, &mut scale).unwrap();
        let rows: Vec<f32> = read_stored(&gpu, &output, 56).iter().step_by(8).copied().collect();
        assert_eq!(rows, [1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0], "{order:?}");
    }
}
