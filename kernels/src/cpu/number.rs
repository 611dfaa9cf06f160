//! Numbers that CPU twins calculate with: f32 for work, f64 for slopes and oracles.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub};

/// f32 or f64.
pub trait Number:
    Copy
    + Default
    + Debug
    + PartialOrd
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + MulAssign
    + 'static
{
    const ZERO: Self;
    const ONE: Self;
    const NEG_INFINITY: Self;

    /// Rounded to nearest.
    fn of(value: f64) -> Self;
    /// Exact.
    fn wide(self) -> f64;
    /// `e` to this power, without branches so that loops over it become vector code. Of NaN it is NaN, of −∞ it is 0.
    fn exp(self) -> Self;
    /// Its square root, rounded correctly.
    fn sqrt(self) -> Self;
    /// The nearest bf16, ties to even.
    fn to_bf16(self) -> Self;
}

impl Number for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NEG_INFINITY: Self = f32::NEG_INFINITY;

    #[inline(always)]
    fn of(value: f64) -> Self {
        value as f32
    }

    #[inline(always)]
    fn wide(self) -> f64 {
        f64::from(self)
    }

    /// Cody and Waite's reduction to `|r| <= ln 2 / 2`, then the Taylor polynomial of degree 7 (error below 6e-9 there): within 2 units in
    /// the last place; 0 below −87, where f32 leaves its normal range.
    #[inline(always)]
    fn exp(self) -> Self {
        // Adding and taking away 1.5 · 2²³ rounds to an integer, which then lies in the low bits.
        const SHIFT: f32 = 12_582_912.0;
        // ln 2 in two parts; the first has 9 trailing zero bits, so that its products with small integers are exact.
        const LN2_HIGH: f32 = 0.693_359_4;
        const LN2_LOW: f32 = -2.121_944_4e-4;
        let x = if self < -87.0 { -87.0 } else { self };
        let x = if x > 89.0 { 89.0 } else { x };
        let shifted = x * std::f32::consts::LOG2_E + SHIFT;
        let power = shifted - SHIFT;
        let r = x - power * LN2_HIGH - power * LN2_LOW;
        let mut sum = 1.0 / 5040.0;
        for factor in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            sum = sum * r + factor;
        }
        // Two factors, since 2¹²⁸ is not a number of its own.
        let bits = shifted.to_bits() as i32 - SHIFT.to_bits() as i32;
        let half = bits >> 1;
        let scale = |power: i32| f32::from_bits(((power + 127) << 23) as u32);
        let value = sum * scale(half) * scale(bits - half);
        if self < -87.0 { 0.0 } else { value }
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }

    #[inline(always)]
    fn to_bf16(self) -> Self {
        let bits = self.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
        // A NaN whose payload is in the low bits would round to infinity.
        f32::from_bits(if self.is_nan() { bits | 0x0040_0000 } else { rounded })
    }
}

impl Number for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NEG_INFINITY: Self = f64::NEG_INFINITY;

    #[inline(always)]
    fn of(value: f64) -> Self {
        value
    }

    #[inline(always)]
    fn wide(self) -> f64 {
        self
    }

    #[inline(always)]
    fn exp(self) -> Self {
        f64::exp(self)
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }

    #[inline(always)]
    fn to_bf16(self) -> Self {
        f64::from((self as f32).to_bf16())
    }
}

/// How many partial sums [`dot`] and [`sum`] keep: enough for vector code, and always the same, so that the result is.
const LANES: usize = 16;

/// `Σ left · right` in f64, in a fixed order.
#[inline(always)]
pub fn dot<F: Number>(left: &[F], right: &[F]) -> f64 {
    let mut sums = [0.0f64; LANES];
    let (left, left_rest) = left.as_chunks::<LANES>();
    let (right, right_rest) = right.as_chunks::<LANES>();
    for (left, right) in left.iter().zip(right) {
        for lane in 0..LANES {
            sums[lane] += left[lane].wide() * right[lane].wide();
        }
    }
    let rest: f64 = left_rest.iter().zip(right_rest).map(|(l, r)| l.wide() * r.wide()).sum();
    sums.iter().sum::<f64>() + rest
}

/// `Σ values` in f64, in a fixed order.
#[inline(always)]
pub fn sum<F: Number>(values: &[F]) -> f64 {
    let mut sums = [0.0f64; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            sums[lane] += block[lane].wide();
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|value| value.wide()).sum::<f64>()
}

/// The largest value, −∞ of none; a NaN among them is ignored.
#[inline(always)]
pub fn max<F: Number>(values: &[F]) -> F {
    let mut best = [F::NEG_INFINITY; LANES];
    let larger = |a: F, b: F| if b > a { b } else { a };
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            best[lane] = larger(best[lane], block[lane]);
        }
    }
    best.iter().chain(rest).copied().fold(F::NEG_INFINITY, larger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_everywhere() {
        for at in -87_000..88_700 {
            let x = at as f32 / 1000.0;
            let (got, wanted) = (f64::from(Number::exp(x)), f64::from(x).exp());
            assert!((got - wanted).abs() <= 2.5e-7 * wanted, "{x}: {got} {wanted}");
        }
        assert_eq!(Number::exp(0.0f32), 1.0);
        assert_eq!(Number::exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(Number::exp(f32::INFINITY), f32::INFINITY);
        assert!(Number::exp(f32::NAN).is_nan());
    }

    #[test]
    fn bf16_rounds_to_nearest_even() {
        let from = |bits: u32| f32::from_bits(bits).to_bf16().to_bits();
        assert_eq!(from(0x3f80_0000), 0x3f80_0000);
        assert_eq!(from(0x3f80_7fff), 0x3f80_0000);
        assert_eq!(from(0x3f80_8000), 0x3f80_0000);
        assert_eq!(from(0x3f80_8001), 0x3f81_0000);
        assert_eq!(from(0x3f81_8000), 0x3f82_0000);
        assert_eq!(from(0xbf81_8000), 0xbf82_0000);
        assert_eq!(from(0x7f7f_ffff), 0x7f80_0000);
        assert!(f32::from_bits(0x7f80_0001).to_bf16().is_nan());
        assert!(f32::from_bits(0x7fff_ffff).to_bf16().is_nan());
    }

    #[test]
    fn sums_have_tails() {
        for count in [0, 1, 15, 16, 17, 40] {
            let values: Vec<f32> = (0..count).map(|at| at as f32 - 3.0).collect();
            let wanted: f64 = values.iter().map(|x| f64::from(*x)).sum();
            assert_eq!(sum(&values), wanted);
            assert_eq!(dot(&values, &values), values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>());
            assert_eq!(max(&values), if count == 0 { f32::NEG_INFINITY } else { count as f32 - 4.0 });
        }
    }
}
