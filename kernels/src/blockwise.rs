//! Numbers of 8 bits, with one scale per block: what moments of AdamW can be kept in (Dettmers and others 2022, "8-bit Optimizers via
//! Block-wise Quantization", section 2).
//!
//! A block's scale is its largest magnitude, and a code stands for a share of it. Codes are denser towards zero: each decade from 1 to 10⁻⁷
//! has twice as many as the one below it (the "dynamic" code of that paper), so small moments keep about as many digits as large ones.

/// Numbers of a block.
pub const BLOCK: usize = 256;

/// What the 256 codes stand for, ascending; with a sign, 127 below zero, zero, and 128 above it, else zero and 255 above it. 1 is among them,
/// −1 is not.
pub type Map = [f32; 256];

/// For first moments.
pub static SIGNED: Map = {
    let (mut map, mut code) = ([0.0; 256], 0);
    while code < 127 {
        map[126 - code] = -share(code as u32 + 1, 2);
        map[128 + code] = share(code as u32 + 1, 2);
        code += 1;
    }
    map[255] = 1.0;
    map
};

/// For second moments, which are never below zero.
pub static UNSIGNED: Map = {
    let (mut map, mut code) = ([0.0; 256], 1);
    while code < 255 {
        map[code] = share(code as u32 + 1, 4);
        code += 1;
    }
    map[255] = 1.0;
    map
};

/// The middle of step `place − 2ⁱ` of the 2ⁱ even steps from 0.1 to 1, with `i` the power of two in `place`, in the decade that `i` is of.
/// `first` is 2 where the decades begin with one step, and 4 where they begin with two. One division of exact numbers, so it has the same
/// bits wherever it is made.
const fn share(place: u32, first: u32) -> f32 {
    let power = place.ilog2() - (first / 4);
    let steps = 1 << (power + first / 4);
    let middle = 2 * steps + 9 * (2 * (place - steps) + 1);
    let mut whole = 2 * steps;
    let mut decade = power;
    while decade < 7 {
        whole *= 10;
        decade += 1;
    }
    middle as f32 / whole as f32
}

/// The code nearest to `value`, the lower of two. What is below zero never becomes zero, nor does a second moment above it: a step divides
/// by its root, and a first moment that outlasts it would move the weight without bound.
#[inline(always)]
pub fn code(map: &Map, value: f32) -> u8 {
    let (mut code, mut step) = (0, 128);
    while step > 0 {
        // The upper one, from halfway on.
        let below = code + step - 1;
        code += if value > (map[below] + map[below + 1]) * 0.5 { step } else { 0 };
        step /= 2;
    }
    let is_zero = map[code] == 0.0;
    let (below, above) = (is_zero && code > 0 && value < 0.0, is_zero && code == 0 && value > 0.0);
    (code + usize::from(above) - usize::from(below)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition: for each decade the middles of even steps from 0.1 to 1.
    fn defined(first: u32) -> Vec<f64> {
        let decades = (0..7).flat_map(|power| {
            let steps = (first / 2) << power;
            let middle = move |step| 0.1 + 0.9 * (f64::from(step) + 0.5) / f64::from(steps);
            (0..steps).map(move |step| middle(step) * 10f64.powi(power - 6))
        });
        let mut above: Vec<f64> = decades.collect();
        above.push(1.0);
        above
    }

    #[test]
    fn codes_stand_for_the_middles_of_steps() {
        let near = |map: &[f32], wanted: &[f64]| {
            assert_eq!(map.len(), wanted.len());
            map.iter().zip(wanted).for_each(|(&got, &wanted)| assert!((f64::from(got) - wanted).abs() <= 1e-7 * wanted, "{got} {wanted}"));
        };
        near(&SIGNED[128..], &defined(2));
        near(&UNSIGNED[1..], &defined(4));
        let below: Vec<f32> = SIGNED[..127].iter().rev().map(|value| -value).collect();
        near(&below, &defined(2)[..127]);
        for map in [&SIGNED, &UNSIGNED] {
            assert!(map.is_sorted_by(|left, right| left < right) && map[255] == 1.0);
        }
        assert_eq!((SIGNED[127], UNSIGNED[0]), (0.0, 0.0));
        // As bitsandbytes has them.
        assert!((SIGNED[0] + 0.992_968_8).abs() < 1e-6 && (SIGNED[128] - 5.5e-7).abs() < 1e-12);
    }

    #[test]
    fn the_nearest_code_is_taken() {
        for map in [&SIGNED, &UNSIGNED] {
            for (at, &value) in map.iter().enumerate() {
                assert_eq!(code(map, value), at as u8);
            }
            for at in 0..20_001 {
                let value = at as f32 / 10_000.0 - 1.0;
                let got = f64::from((map[code(map, value) as usize] - value).abs());
                let best = map.iter().map(|share| f64::from((share - value).abs())).fold(f64::INFINITY, f64::min);
                assert!(got <= best + 1e-7, "{value}: {got} {best}");
            }
        }
        assert_eq!([1e-9, 0.0, -1e-9].map(|value| SIGNED[code(&SIGNED, value) as usize]), [0.0, 0.0, -5.5e-7]);
        assert_eq!([1e-9, 0.0, -1e-9].map(|value| code(&UNSIGNED, value)), [1, 0, 0]);
        assert_eq!([2.0, -2.0, f32::NAN].map(|value| code(&SIGNED, value)), [255, 0, 0]);
    }
}
