//! What the case lists share: the emulator and the CPU twin side by side.

use osler_emulator::{Emulator, Order};
use osler_kernels::cuda::Gpu;
use osler_kernels::{Cpu, Operations};

/// `count` numbers between −1.5 and 1.5 that depend on `salt` alone (splitmix64), as bf16 holds them.
pub fn numbers(count: usize, salt: u64) -> Vec<f32> {
    let one = |at: usize| {
        let mut z = (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt.wrapping_mul(0xd1b5_4a32_d192_ed03);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let value = ((z ^ (z >> 31)) >> 40) as f32 / (1u32 << 24) as f32 * 3.0 - 1.5;
        f32::from_bits(value.to_bits() & 0xffff_0000)
    };
    (0..count).map(one).collect()
}

/// The same work on both devices.
pub trait Work {
    fn run<O: Operations>(&self, device: &O) -> Vec<Vec<f32>>;
}

/// Runs `work` on the CPU in bf16 mode and on the emulated GPU, there in both orders of blocks and threads, which must give the same bits.
pub fn both(work: &impl Work) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    both_on(work, false)
}

/// As [`both`], on a Hopper if `wgmma`.
pub fn both_on(work: &impl Work, wgmma: bool) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let wanted = work.run(&Cpu::<f32>::bf16(1).unwrap());
    let bits = |order| {
        let got = work.run(&Gpu::new(Emulator { order, wgmma }));
        (got.iter().map(|got| got.iter().map(|x| x.to_bits()).collect::<Vec<_>>()).collect::<Vec<_>>(), got)
    };
    let (forward, got) = bits(Order::Forward);
    assert!(forward == bits(Order::Backward).0, "another order of threads gives other bits");
    (got, wanted)
}

/// A bound on the difference: `relative` of the wanted number, plus `absolute`.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    pub relative: f32,
    pub absolute: f32,
}

/// One unit in the last place of bf16: two values that differ in the last bit of f32 may round to neighbours.
pub const STORED: Tolerance = Tolerance { relative: 1.0 / 128.0, absolute: 1e-6 };
/// Sums of some hundred terms in f32, against sums in f64.
pub const EXACT: Tolerance = Tolerance { relative: 2e-6, absolute: 2e-6 };

/// Whether all numbers are as wanted; what is not a number must be none on both sides.
#[track_caller]
pub fn close(name: &str, got: &[f32], wanted: &[f32], tolerance: Tolerance) {
    assert_eq!(got.len(), wanted.len(), "{name}");
    for (at, (&got, &wanted)) in got.iter().zip(wanted).enumerate() {
        let near = (got - wanted).abs() <= tolerance.relative * wanted.abs() + tolerance.absolute;
        assert!(near || got == wanted || got.is_nan() && wanted.is_nan(), "{name}[{at}]: got {got}, wanted {wanted}");
    }
}

/// Buffers of a device, filled.
pub fn stored<O: Operations>(device: &O, values: &[f32]) -> O::Stored {
    let mut buffer = device.new_stored(values.len()).unwrap();
    device.write_stored(&mut buffer, 0, values).unwrap();
    buffer
}

pub fn exact<O: Operations>(device: &O, values: &[f32]) -> O::Exact {
    let mut buffer = device.new_exact(values.len()).unwrap();
    device.write_exact(&mut buffer, 0, values).unwrap();
    buffer
}

pub fn index<O: Operations>(device: &O, values: &[u32]) -> O::Index {
    let mut buffer = device.new_index(values.len()).unwrap();
    device.write_index(&mut buffer, values).unwrap();
    buffer
}

pub fn read_stored<O: Operations>(device: &O, buffer: &O::Stored, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    device.read_stored(buffer, 0, &mut values).unwrap();
    values
}

pub fn read_exact<O: Operations>(device: &O, buffer: &O::Exact, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    device.read_exact(buffer, 0, &mut values).unwrap();
    values
}

/// Small indices as floats, to stand in one list with the others.
pub fn read_index<O: Operations>(device: &O, buffer: &O::Index) -> Vec<f32> {
    device.read_index(buffer).unwrap().into_iter().map(|value| value as f32).collect()
}
