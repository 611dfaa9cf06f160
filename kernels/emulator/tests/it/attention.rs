//! `cuda/attention_forward.cu` and `cuda/attention_backward.cu` against the CPU twin.

use crate::common::{Emulated, watched};
use osler_emulator::{Emulator, Order};
use osler_kernel_cases::attention::{lo, visit, visit_hopper, visit_one_pass};
use osler_kernel_cases::{Visitor, Work, index, numbers, read_stored, stored};
use osler_kernels::cuda::Gpu;
use osler_kernels::operations::{AttentionInput, AttentionShape};
use osler_kernels::{Cpu, Memory, Operations};

#[test]
fn attention_agrees_with_its_twin() {
    visit(&mut Emulated { wgmma: false });
}

#[test]
fn attention_of_hopper_agrees_with_its_twin() {
    visit_hopper(&mut Emulated { wgmma: true });
}

/// Its sums come in the order of blocks and threads, so two orders need not give the same bits.
#[test]
fn attention_in_one_pass_agrees_with_its_twin() {
    visit_one_pass(&mut AnyOrder, true);
}

/// Which kernels the backward pass of heads of 128 takes on Hopper, and that others have theirs.
#[test]
fn one_pass_is_taken_where_sums_may_come_in_any_order() {
    for (head_dim, any_order) in [(128, true), (128, false), (64, true)] {
        let (gpu, asked) = watched(false, true);
        let gpu = if any_order { gpu.with_sums_in_any_order() } else { gpu };
        let shape = AttentionShape { rows: 3, query_heads: 1, key_heads: 1, head_dim };
        let [query, key, value, output, grad] = [1, 2, 3, 4, 5].map(|salt| stored(&gpu, &numbers(3 * head_dim, salt)));
        let (lo, sums) = (index(&gpu, &[0; 3]), gpu.new_exact(3).unwrap());
        let [mut query_grad, mut key_grad, mut value_grad] = [(); 3].map(|()| gpu.new_stored(3 * head_dim).unwrap());
        let input = AttentionInput { query: &query, key: &key, value: &value, lo: &lo };
        gpu.attention_backward(shape, input, &output, &sums, &grad, &mut query_grad, &mut key_grad, &mut value_grad).unwrap();
        let wanted = match (head_dim, any_order) {
            (128, true) => ["attention_delta", "attention_backward_one_pass_hopper_128", "attention_query_sums_hopper_128"],
            (128, false) => ["attention_delta", "attention_backward_keys_hopper_128", "attention_backward_queries_hopper_128"],
            _ => ["attention_delta", "attention_backward_keys_hopper_64", "attention_backward_queries_hopper_64"],
        };
        assert_eq!(asked.take_kernels(), wanted);
    }
}

struct AnyOrder;

impl Visitor for AnyOrder {
    fn visit(&mut self, work: &impl Work) {
        let wanted = work.run(&Cpu::<f32>::bf16(1).unwrap());
        for order in [Order::Forward, Order::Backward] {
            let gpu = Gpu::new(Emulator { order, wgmma: true, place: None }).with_sums_in_any_order();
            // The second time in scratch memory that holds the first's sums.
            for _ in 0..2 {
                work.judge(&work.run(&gpu), &wanted).unwrap_or_else(|problem| panic!("{}, {order:?}: {problem}", work.name()));
            }
        }
    }
}

/// A NaN in one document, an infinite score in another: they spread to the rows that see them and to no others.
#[test]
fn what_is_not_a_number_stays_in_its_rows() {
    let gpu = Gpu::new(Emulator::default());
    let shape = AttentionShape { rows: 140, query_heads: 1, key_heads: 1, head_dim: 32 };
    let mut query = numbers(140 * 32, 1);
    query[70 * 32] = f32::NAN;
    query[75 * 32..76 * 32].fill(f32::INFINITY);
    let lo = index(&gpu, &lo(&[70, 70], 1000));
    let [query, key, value] = [query, numbers(140 * 32, 2), numbers(140 * 32, 3)].map(|values| stored(&gpu, &values));
    let (mut output, mut sums) = (gpu.new_stored(140 * 32).unwrap(), gpu.new_exact(140).unwrap());
    gpu.attention_forward(shape, AttentionInput { query: &query, key: &key, value: &value, lo: &lo }, &mut output, &mut sums).unwrap();
    let output = read_stored(&gpu, &output, 140 * 32);
    let spoilt: Vec<usize> = (0..140).filter(|row| output[row * 32..(row + 1) * 32].iter().any(|x| x.is_nan())).collect();
    assert_eq!(spoilt, [70, 75]);
}

#[test]
fn shapes_are_checked() {
    let gpu = Gpu::new(Emulator::default());
    let run = |shape: AttentionShape, lo: &[u32]| {
        let AttentionShape { rows, query_heads, key_heads, head_dim } = shape;
        let (query, key) = (gpu.new_stored(rows * query_heads * head_dim).unwrap(), gpu.new_stored(rows * key_heads * head_dim).unwrap());
        let mut output = gpu.new_stored(rows * query_heads * head_dim).unwrap();
        let input = AttentionInput { query: &query, key: &key, value: &key, lo: &index(&gpu, lo) };
        gpu.attention_forward(shape, input, &mut output, &mut gpu.new_exact(rows * query_heads).unwrap()).map_err(|error| error.to_string())
    };
    let shape = AttentionShape { rows: 2, query_heads: 2, key_heads: 1, head_dim: 32 };
    assert_eq!(run(shape, &[0, 1]), Ok(()));
    assert_eq!(run(AttentionShape { rows: 0, ..shape }, &[]), Ok(()));
    assert!(run(shape, &[0, 2]).unwrap_err().contains("`lo` must be at most its own row"));
    assert!(run(shape, &[1, 1]).is_err() && run(shape, &[0]).is_err());
    assert!(run(AttentionShape { head_dim: 48, ..shape }, &[0, 0]).unwrap_err().contains("32, 64, 80, 96, 128 or 256 on a GPU"));
    assert!(run(AttentionShape { key_heads: 3, ..shape }, &[0, 0]).is_err());
}
