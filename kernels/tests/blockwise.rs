//! Numbers of 8 bits against bitsandbytes (`tests/golden/blockwise.py`): the codes, and steps of AdamW on them.

use osler_kernels::blockwise::{BLOCK, Map, SIGNED, UNSIGNED, code};
use osler_kernels::operations::{AdamState, AdamW, Gradient, Moments};
use osler_kernels::{Cpu, Memory, Operations};

macro_rules! golden {
    ($name:literal) => {
        include_bytes!(concat!("../../tests/golden/blockwise/", $name))
    };
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// As the script makes them.
fn numbers(salt: i64) -> Vec<f32> {
    let one = |at: i64| ((at * 7919 + salt * 104_729) % 2003 - 1001) as f32 / 1024.0 / (1 << (at % 13)) as f32;
    (0..4096).map(one).collect()
}

/// Whether all codes are theirs or the next, and nearly all are theirs: where two are about as near, theirs is found by another way.
fn expect_codes(name: &str, map: &Map, got: &[u8], wanted: &[u8]) {
    assert_eq!(got.len(), wanted.len(), "{name}");
    let others: Vec<_> = got.iter().zip(wanted).filter(|(got, wanted)| got != wanted).collect();
    assert!(others.iter().all(|(got, wanted)| got.abs_diff(**wanted) == 1), "{name}: {others:?}");
    // What is not zero never becomes it, as theirs does.
    let kept = others.iter().filter(|&&(_, &wanted)| map[usize::from(wanted)] == 0.0).count();
    assert!(others.len() - kept <= got.len() / 500, "{name}: {} of {} differ, {kept} of them kept from zero", others.len(), got.len());
}

#[test]
fn codes_are_those_of_bitsandbytes() {
    let positive = numbers(9).iter().map(|value| value.abs()).collect();
    for (name, map, theirs, values, codes, scales) in [
        ("signed", &SIGNED, &golden!("signed.f32")[..], numbers(9), golden!("signed_codes.u8"), golden!("signed_scales.f32")),
        ("unsigned", &UNSIGNED, &golden!("unsigned.f32")[..], positive, golden!("unsigned_codes.u8"), golden!("unsigned_scales.f32")),
    ] {
        for (got, wanted) in map.iter().zip(floats(theirs)) {
            assert!((got - wanted).abs() <= 2.0 * f32::EPSILON * wanted.abs(), "{name}: {got} {wanted}");
        }
        let largest = |block: &[f32]| block.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        let ours: Vec<f32> = values.chunks(BLOCK).map(largest).collect();
        assert_eq!(ours, floats(scales), "{name}");
        let got: Vec<u8> = values.iter().enumerate().map(|(at, value)| code(map, value / ours[at / BLOCK])).collect();
        expect_codes(name, map, &got, codes);
    }
}

#[test]
fn steps_are_those_of_bitsandbytes() {
    let ops = Cpu::<f32>::new(1).unwrap();
    let (mut weight, mut state) = (numbers(0), AdamState::new(&ops, 4096, true).unwrap());
    let norm = ops.new_norm(0, 1.0).unwrap();
    for step in 1..=3 {
        let settings = AdamW { learning_rate: 0.01, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, step };
        let gradient: Vec<f32> = numbers(step as i64).iter().map(|&x| if x < 0.0 { x - 0.25 } else { x + 0.25 }).collect();
        ops.adamw(&settings, &norm, &Gradient::Exact(gradient), &mut state, &mut weight).unwrap();
    }
    let Moments::Blockwise { first, second } = &state.moments else { panic!("asked for blockwise ones") };
    for (name, map, moment, codes, scales) in [
        ("first", &SIGNED, first, golden!("first_codes.u8"), golden!("first_scales.f32")),
        ("second", &UNSIGNED, second, golden!("second_codes.u8"), golden!("second_scales.f32")),
    ] {
        for (got, wanted) in moment.scales.iter().zip(floats(scales)) {
            assert!((got - wanted).abs() <= 1e-5 * wanted, "{name}: a scale of {got}, wanted {wanted}");
        }
        expect_codes(name, map, &moment.codes, codes);
    }
    // A moment whose code is another moves its weight by a part of the rate.
    let apart = weight.iter().zip(floats(golden!("stepped.f32"))).map(|(got, wanted)| (got - wanted).abs());
    let (off, most) = apart.fold((0, 0.0f32), |(off, most), apart| (off + usize::from(apart > 1e-6), most.max(apart)));
    assert!(off <= 4096 / 250 && most < 1e-3, "{off} of 4096 weights are off, by {most} at most");
}
