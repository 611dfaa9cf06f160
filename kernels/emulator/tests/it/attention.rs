//! `cuda/attention_forward.cu` and `cuda/attention_backward.cu` against the CPU twin.

use crate::common::{Emulated, watched};
use osler_emulator::Emulator;
use osler_kernel_cases::attention::{lo, visit};
use osler_kernel_cases::{Visitor, Work, index, numbers, read_stored, stored};
use osler_kernels::cuda::Gpu;
use osler_kernels::operations::{AttentionInput, AttentionShape};
use osler_kernels::{Memory, Operations};

#[test]
fn attention_agrees_with_its_twin() {
    visit(&mut Emulated { wgmma: false });
}

#[test]
fn attention_of_hopper_agrees_with_its_twin() {
    visit(&mut Emulated { wgmma: true });
    visit(&mut Repeated);
}

/// Runs cases twice on one device, whose scratch memory then holds what the first has left.
struct Repeated;

impl Visitor for Repeated {
    fn visit(&mut self, work: &impl Work) {
        let gpu = Gpu::new(Emulator { wgmma: true, ..Emulator::default() });
        let bits = || work.run(&gpu).iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert!(bits() == bits(), "{}: the second time gives other numbers", work.name());
    }
}

/// Which kernels the backward pass takes.
#[test]
fn scores_are_made_once_on_hopper() {
    for (wgmma, head_dim, wanted) in [
        (true, 64, ["attention_backward_hopper_64", "attention_query_slopes_hopper_64"]),
        (true, 128, ["attention_backward_hopper_128", "attention_query_slopes_hopper_128"]),
        (true, 256, ["attention_backward_hopper_256", "attention_query_slopes_hopper_256"]),
        (false, 256, ["attention_backward_keys_256", "attention_backward_queries_256"]),
        (false, 128, ["attention_backward_keys_128", "attention_backward_queries_128"]),
    ] {
        let (gpu, asked) = watched(false, wgmma);
        let shape = AttentionShape { rows: 3, query_heads: 1, key_heads: 1, head_dim };
        let [query, key, value, output, grad] = [1, 2, 3, 4, 5].map(|salt| stored(&gpu, &numbers(3 * head_dim, salt)));
        let (lo, sums) = (index(&gpu, &[0; 3]), gpu.new_exact(3).unwrap());
        let [mut query_grad, mut key_grad, mut value_grad] = [(); 3].map(|()| gpu.new_stored(3 * head_dim).unwrap());
        let input = AttentionInput { query: &query, key: &key, value: &value, lo: &lo };
        gpu.attention_backward(shape, input, &output, &sums, &grad, &mut query_grad, &mut key_grad, &mut value_grad).unwrap();
        assert_eq!(asked.take_kernels()[1..], wanted);
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
