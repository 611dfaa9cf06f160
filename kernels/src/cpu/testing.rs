//! What tests of the twins share: numbers without a pattern, slopes by finite differences, and the same bits on any number of threads.

use super::{Cpu, Number};

/// `count` numbers between −1.5 and 1.5 that depend on `salt` alone (splitmix64).
pub fn numbers<F: Number>(count: usize, salt: u64) -> Vec<F> {
    let one = |at: usize| {
        let mut z = (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt.wrapping_mul(0xd1b5_4a32_d192_ed03);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        F::of(((z ^ (z >> 31)) >> 40) as f64 / (1u64 << 24) as f64 * 3.0 - 1.5)
    };
    (0..count).map(one).collect()
}

pub fn wide<F: Number>(values: &[F]) -> Vec<f64> {
    values.iter().map(|value| value.wide()).collect()
}

/// Whether all numbers are as wanted, within `tolerance` of one and of themselves.
#[track_caller]
pub fn close(name: &str, got: &[f64], wanted: &[f64], tolerance: f64) {
    assert_eq!(got.len(), wanted.len(), "{name}");
    for (at, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        assert!((got - wanted).abs() <= tolerance * (1.0 + wanted.abs()), "{name}[{at}]: got {got}, wanted {wanted}");
    }
}

/// Compares `grad` with the slopes of `Σ seed · run(at)` by central differences.
#[track_caller]
pub fn check_slopes(name: &str, at: &[f64], grad: &[f64], seed: &[f64], run: impl Fn(&[f64]) -> Vec<f64>) {
    const STEP: f64 = 1e-5;
    let mut moved = at.to_vec();
    let mut slopes = Vec::new();
    for index in 0..at.len() {
        moved[index] = at[index] + STEP;
        let above = run(&moved);
        moved[index] = at[index] - STEP;
        let below = run(&moved);
        moved[index] = at[index];
        let rise: f64 = above.iter().zip(&below).zip(seed).map(|((above, below), seed)| seed * (above - below)).sum();
        slopes.push(rise / (2.0 * STEP));
    }
    assert!(slopes.iter().any(|slope| *slope != 0.0), "{name}: flat");
    close(name, grad, &slopes, 1e-7);
}

/// Runs `work` in f32 and in bf16 mode on 1, 2, 3 and 7 threads, and compares all bits.
#[track_caller]
pub fn check_threads(work: impl Fn(&Cpu<f32>) -> Vec<f32>) {
    let bits = |cpu: &Cpu<f32>| work(cpu).into_iter().map(f32::to_bits).collect::<Vec<_>>();
    for open in [Cpu::new, Cpu::bf16] {
        let one = bits(&open(1).unwrap());
        assert!(one.iter().any(|bits| *bits != 0));
        for threads in [2, 3, 7] {
            assert!(bits(&open(threads).unwrap()) == one, "{threads} threads give other bits");
        }
    }
    assert!(bits(&Cpu::new(1).unwrap()) != bits(&Cpu::bf16(1).unwrap()), "bf16 mode rounds nothing");
}

impl<F: Number> Cpu<F> {
    pub fn rounds(&self) -> bool {
        self.rounds
    }

    /// `value` as it is stored.
    pub fn rounded(&self, value: F) -> F {
        if self.rounds { value.to_bf16() } else { value }
    }
}
