//! The cases that every kernel of `kernels/cuda` is held to: what goes in, and how near the result has to be to that of the CPU twin.
//!
//! The same lists run in the emulator, with the other tests, and on a chip (`examples/gpu`). A list is visited case by case, so that who
//! visits decides on which device a case runs and what becomes of a result that is off.
#![allow(clippy::unwrap_used, reason = "cases of tests")]

pub mod attention;
pub mod elementwise;
pub mod head_loss;
pub mod model;
pub mod ranks;
pub mod rmsnorm;
pub mod route;

use osler_kernels::Operations;
use osler_kernels::operations::Gradient;

/// One case: work that gives lists of numbers on any device.
pub trait Work {
    /// What is special about it.
    fn name(&self) -> String;
    /// Does the work.
    fn run<O: Operations>(&self, device: &O) -> Vec<Vec<f32>>;
    /// Does as much of it as is enough to know what comes out.
    fn run_twin<O: Operations>(&self, cpu: &O) -> Vec<Vec<f32>> {
        self.run(cpu)
    }
    /// Whether `got` is near enough to what the CPU twin gives.
    ///
    /// # Errors
    /// The first number that is not.
    fn judge(&self, got: &[Vec<f32>], wanted: &[Vec<f32>]) -> Result<(), String>;
}

/// Is shown every case of a list.
pub trait Visitor {
    fn visit(&mut self, work: &impl Work);
}

/// Shows `visitor` every case that an emulator can run.
pub fn visit_all(visitor: &mut impl Visitor) {
    attention::visit(visitor);
    elementwise::visit(visitor);
    head_loss::visit(visitor);
    rmsnorm::visit(visitor);
    route::visit(visitor);
    // Last, since some of these lay out an arena, in which a sanitizer sees no buffer's end.
    model::visit(visitor);
}

/// Shows `visitor` cases of sizes that models have: too large for the emulator, seconds to minutes on a CPU.
pub fn visit_large(visitor: &mut impl Visitor) {
    attention::visit_large(visitor);
    elementwise::visit_large(visitor);
    head_loss::visit_large(visitor);
    rmsnorm::visit_large(visitor);
    route::visit_large(visitor);
}

/// How many cases each list has, and how many of sizes that models have.
pub fn counts() -> Vec<(&'static str, [usize; 2])> {
    fn count(visit: impl FnOnce(&mut Count)) -> usize {
        let mut count = Count(0);
        visit(&mut count);
        count.0
    }
    vec![
        ("attention", [count(attention::visit), count(attention::visit_large)]),
        ("elementwise and products", [count(elementwise::visit), count(elementwise::visit_large)]),
        ("head loss", [count(head_loss::visit), count(head_loss::visit_large)]),
        ("rmsnorm", [count(rmsnorm::visit), count(rmsnorm::visit_large)]),
        ("routing", [count(route::visit), count(route::visit_large)]),
        ("step of a model", [count(model::visit), 0]),
    ]
}

/// Counts cases and runs none.
struct Count(usize);

impl Visitor for Count {
    fn visit(&mut self, _: &impl Work) {
        self.0 += 1;
    }
}

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

impl Tolerance {
    /// For sums of `count` terms, where `of` is enough for `usual`: errors add up.
    fn of_sums(of: Self, count: usize, usual: usize) -> Self {
        Self { absolute: of.absolute * (count as f32 / usual as f32).max(1.0), ..of }
    }
}

/// Whether all numbers are as wanted; what is not a number must be none on both sides.
///
/// # Errors
/// The first that is not, and `name`.
pub fn close(name: &str, got: &[f32], wanted: &[f32], tolerance: Tolerance) -> Result<(), String> {
    if got.len() != wanted.len() {
        return Err(format!("{name}: {} numbers, wanted {}", got.len(), wanted.len()));
    }
    for (at, (&got, &wanted)) in got.iter().zip(wanted).enumerate() {
        // Next to what is infinite nothing else is near.
        let near = wanted.is_finite() && (got - wanted).abs() <= tolerance.relative * wanted.abs() + tolerance.absolute;
        if !(near || got == wanted || got.is_nan() && wanted.is_nan()) {
            return Err(format!("{name}[{at}]: got {got}, wanted {wanted}"));
        }
    }
    Ok(())
}

/// Whether all numbers are the same; what is not a number must be none on both sides.
///
/// # Errors
/// The first that is not, and `name`.
pub fn equal(name: &str, got: &[f32], wanted: &[f32]) -> Result<(), String> {
    close(name, got, wanted, Tolerance { relative: 0.0, absolute: 0.0 })
}

/// Makes one of these numbers infinite and another none, if there are so many.
fn spoil(values: &mut [f32], infinite: usize, none: usize) {
    for (at, value) in [(infinite, f32::INFINITY), (none, f32::NAN)] {
        if let Some(place) = values.get_mut(at) {
            *place = value;
        }
    }
}

/// The largest of all numbers, by size.
fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| largest.max(value.abs()))
}

/// A buffer of a device, filled.
pub fn stored<O: Operations>(device: &O, values: &[f32]) -> O::Stored {
    let mut buffer = device.new_stored(values.len()).unwrap();
    device.write_stored(&mut buffer, 0, values).unwrap();
    buffer
}

/// A buffer of a device, filled.
pub fn exact<O: Operations>(device: &O, values: &[f32]) -> O::Exact {
    let mut buffer = device.new_exact(values.len()).unwrap();
    device.write_exact(&mut buffer, 0, values).unwrap();
    buffer
}

/// A gradient of a device, filled.
pub fn gradient<O: Operations>(device: &O, values: &[f32], is_stored: bool) -> Gradient<O> {
    if is_stored { Gradient::Stored(stored(device, values)) } else { Gradient::Exact(exact(device, values)) }
}

/// A buffer of a device, filled.
pub fn index<O: Operations>(device: &O, values: &[u32]) -> O::Index {
    let mut buffer = device.new_index(values.len()).unwrap();
    device.write_index(&mut buffer, values).unwrap();
    buffer
}

/// `len` numbers of a buffer.
pub fn read_stored<O: Operations>(device: &O, buffer: &O::Stored, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    device.read_stored(buffer, 0, &mut values).unwrap();
    values
}

/// `len` numbers of a buffer.
pub fn read_exact<O: Operations>(device: &O, buffer: &O::Exact, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    device.read_exact(buffer, 0, &mut values).unwrap();
    values
}

/// The first `count` numbers of a gradient.
pub fn read_gradient<O: Operations>(device: &O, gradient: &Gradient<O>, count: usize) -> Vec<f32> {
    match gradient {
        Gradient::Exact(buffer) => read_exact(device, buffer, count),
        Gradient::Stored(buffer) => read_stored(device, buffer, count),
    }
}

/// Small indices as floats, to stand in one list with the others.
pub fn read_index<O: Operations>(device: &O, buffer: &O::Index) -> Vec<f32> {
    device.read_index(buffer).unwrap().into_iter().map(|value| value as f32).collect()
}

#[cfg(test)]
mod tests {
    /// A case that is lost is noticed.
    #[test]
    fn so_many_cases_are_there() {
        let counts: Vec<[usize; 2]> = super::counts().into_iter().map(|(_, counts)| counts).collect();
        assert_eq!(counts, [[85, 6], [71, 11], [11, 1], [9, 1], [43, 3], [11, 0]]);
    }
}
