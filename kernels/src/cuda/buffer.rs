//! Typed pieces of a device's memory.

use super::memory::Held;
use crate::KernelError;
use crate::cpu::Number;
use std::marker::PhantomData;

/// A number as it lies on the device, between the host's and its bytes.
pub trait Element: Copy + Send + Sync + std::fmt::Debug + 'static {
    /// What the host has for it.
    type Host: Copy;
    /// Size on the device.
    const BYTES: usize;

    /// Appends the bytes of `value` as it is stored.
    fn put(value: Self::Host, bytes: &mut Vec<u8>);
    /// The value of [`BYTES`](Self::BYTES) bytes.
    fn get(bytes: &[u8]) -> Self::Host;
}

/// A stored number: the upper half of an f32.
#[derive(Debug, Clone, Copy)]
pub struct Bf16;

/// To nearest, ties to even; a NaN becomes the one that devices write.
pub fn float_to_bf16(value: f32) -> u16 {
    if value.is_nan() { 0x7fff } else { (value.to_bf16().to_bits() >> 16) as u16 }
}

/// Exact.
pub fn float_from_bf16(value: u16) -> f32 {
    f32::from_bits(u32::from(value) << 16)
}

impl Element for Bf16 {
    type Host = f32;
    const BYTES: usize = 2;

    fn put(value: f32, bytes: &mut Vec<u8>) {
        bytes.extend(float_to_bf16(value).to_le_bytes());
    }

    fn get(bytes: &[u8]) -> f32 {
        float_from_bf16(u16::from_le_bytes([bytes[0], bytes[1]]))
    }
}

/// What `value` as it is stored lacks of it: the difference of their bits, which fits sixteen, since a stored number is the nearest.
pub fn rest_of(value: f32) -> u16 {
    value.to_bits().wrapping_sub(u32::from(float_to_bf16(value)) << 16) as u16
}

/// The f32 of a stored number, which is exact in one, and its rest.
pub fn join(stored: f32, rest: u16) -> f32 {
    f32::from_bits(stored.to_bits().wrapping_add_signed(i32::from(rest.cast_signed())))
}

/// Numbers that the host has as the device does.
macro_rules! same_on_the_host {
    ($($number:ty),*) => {$(
        impl Element for $number {
            type Host = $number;
            const BYTES: usize = size_of::<$number>();

            fn put(value: $number, bytes: &mut Vec<u8>) {
                bytes.extend(value.to_le_bytes());
            }

            fn get(bytes: &[u8]) -> $number {
                <$number>::from_le_bytes(std::array::from_fn(|at| bytes[at]))
            }
        }
    )*};
}

same_on_the_host!(u8, u16, u32, f32);

/// `len` numbers of kind `T` in a device's memory `M`.
#[derive(Debug)]
pub struct Buffer<M, T> {
    pub(super) memory: Held<M>,
    pub(super) len: usize,
    pub(super) kind: PhantomData<T>,
}

/// What is known of the numbers that the host wrote into an index buffer: enough to refuse what would read elsewhere, without asking the
/// device. Numbers that a kernel wrote are right by construction.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    pub(super) first: Option<u32>,
    /// The largest, leaving out [`IGNORED`](crate::operations::IGNORED).
    pub(super) largest: Option<u32>,
    /// Whether [`IGNORED`](crate::operations::IGNORED) is among them.
    pub(super) ignores: bool,
    /// Whether none is smaller than the one before.
    pub(super) sorted: bool,
    /// The largest amount by which a number is above its place.
    pub(super) above_place: u32,
}

impl Facts {
    pub(super) fn of(values: &[u32]) -> Self {
        let counted = || values.iter().filter(|&&value| value != u32::MAX);
        let above = values.iter().enumerate().map(|(at, &value)| u64::from(value).saturating_sub(at as u64) as u32);
        Self {
            first: values.first().copied(),
            largest: counted().max().copied(),
            ignores: values.contains(&u32::MAX),
            sorted: values.is_sorted(),
            above_place: above.max().unwrap_or(0),
        }
    }

    /// Whether these are bounds of parts of `count` things: from 0 to `count`, never falling.
    pub(super) fn bounds(&self, count: usize) -> bool {
        self.sorted && !self.ignores && self.first == Some(0) && self.largest.map(|end| end as usize) == Some(count)
    }

    /// Whether all are below `bound`.
    pub(super) fn below(&self, bound: usize) -> bool {
        !self.ignores && self.targets_below(bound)
    }

    /// Whether all that are not ignored are below `bound`.
    pub(super) fn targets_below(&self, bound: usize) -> bool {
        self.largest.is_none_or(|largest| (largest as usize) < bound)
    }
}

/// An index buffer, and what is known of it.
#[derive(Debug)]
pub struct IndexBuffer<M> {
    pub(super) buffer: Buffer<M, u32>,
    /// None: a kernel wrote it.
    pub(super) facts: Option<Facts>,
}

/// `value` as a kernel's 32-bit parameter.
pub(super) fn narrow(kernel: &'static str, argument: &'static str, value: usize) -> Result<u32, KernelError> {
    u32::try_from(value).map_err(|_| KernelError::Value { kernel, argument, wanted: "below 2³²" })
}
