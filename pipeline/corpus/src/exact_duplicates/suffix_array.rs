//! The engine `suffix-array`: the full suffix array sorts every position, and neighbours that share `length` bytes are of one class.
//!
//! Documents stand one behind the other without separators, so a position near the end of a document may share bytes that belong to the next one.
//! Such a position has no window: it is passed over when a run becomes a class, and does not end the run.

use super::STAGE;
use super::text::{TextArena, out_of_memory};
use super::windows::{ClassRun, WindowClasses};
use crate::operator::Error;
use libsais::typestate::BorrowedBuffer;
use libsais::{LIBSAIS_I32_OUTPUT_MAXIMUM_SIZE, OutputElement, SuffixArrayConstruction, suffix_array::SuffixArrayWithText};

/// Classes from a full suffix array (libsais) and its longest common prefixes: 8 bytes of memory per byte of text while it is built, 4
/// afterwards; 16 and 8 from 2 GiB of text on.
pub enum SuffixArrayClasses {
    Narrow(DenseClasses<i32>),
    Wide(DenseClasses<i64>),
}

impl SuffixArrayClasses {
    /// Finds the classes of windows of `length` bytes.
    ///
    /// # Errors
    /// [`Error::Data`] when memory for the arrays cannot be had.
    pub fn find(arena: &TextArena, length: usize) -> Result<Self, Error> {
        if arena.bytes().len() <= LIBSAIS_I32_OUTPUT_MAXIMUM_SIZE {
            DenseClasses::find(arena, length).map(Self::Narrow)
        } else {
            DenseClasses::find(arena, length).map(Self::Wide)
        }
    }
}

/// Bytes of memory that [`SuffixArrayClasses::find`] takes for a text of `num_bytes`, beside the text.
pub fn memory_bytes(num_bytes: u64) -> u64 {
    let width = if num_bytes <= LIBSAIS_I32_OUTPUT_MAXIMUM_SIZE as u64 { 4 } else { 8 };
    num_bytes.saturating_mul(2 * width + 1)
}

/// One entry per position. Classes are numbered by their first windows, from left to right, so that windows in a row have classes in a row
/// as often as can be.
pub struct DenseClasses<R> {
    classes: Vec<R>,
    length: usize,
}

/// What suffix arrays are made of.
pub trait Rank: OutputElement + libsais::IsValidOutputFor<u8> {
    const NONE: Self;

    fn from_position(position: usize) -> Self;

    fn position(self) -> usize;
}

impl Rank for i32 {
    const NONE: Self = -1;

    fn from_position(position: usize) -> Self {
        position as i32
    }

    fn position(self) -> usize {
        self as usize
    }
}

impl Rank for i64 {
    const NONE: Self = -1;

    fn from_position(position: usize) -> Self {
        position as i64
    }

    fn position(self) -> usize {
        self as usize
    }
}

impl<R: Rank> WindowClasses for DenseClasses<R> {
    fn runs(&self) -> impl Iterator<Item = ClassRun> {
        let mut position = 0;
        std::iter::from_fn(move || {
            position += self.classes[position..].iter().position(|class| *class != R::NONE)?;
            let (first, class) = (position, self.classes[position].position());
            let goes_on = |(step, next): (usize, &R)| *next != R::NONE && next.position() == class + step;
            // The last positions of a document have no window, but for windows of one byte.
            let len_max = if self.length > 1 { usize::MAX } else { 1 };
            let len = self.classes[first..].iter().enumerate().take(len_max).take_while(|&next| goes_on(next)).count();
            position += len;
            Some(ClassRun { first, len, class })
        })
        // At the end the rest has been looked through once, and is not again.
        .fuse()
    }
}

impl<R: Rank> DenseClasses<R> {
    /// As [`SuffixArrayClasses::find`]; the text must be indexable by `R`.
    pub(super) fn find(arena: &TextArena, length: usize) -> Result<Self, Error> {
        let text = arena.bytes();
        let mut order: Vec<R> = filled(text.len())?;
        let mut shared: Vec<R> = filled(text.len())?;
        if text.len() < length || length == 0 {
            return Ok(Self { classes: shared, length });
        }
        sort(text, &mut order, &mut shared)?;
        // The random accesses below go to two sets of bits, which fit in cache where an array of numbers would not.
        let repeats = Bits::of(text.len(), |position| shared[position].position() >= length)?;
        let whole = windows(arena, length)?;
        let mut classes = shared;
        classes.fill(R::NONE);
        let mut num_classes = 0;
        let mut class = None;
        let mut head = None;
        for position in order.iter().map(|rank| rank.position()) {
            if !repeats.has(position) {
                (class, head) = (None, Some(position));
                continue;
            }
            if !whole.has(position) {
                continue;
            }
            let number = match (class, head) {
                (Some(number), _) => number,
                (None, Some(first)) if whole.has(first) => {
                    let number = R::from_position(num_classes);
                    num_classes += 1;
                    classes[first] = number;
                    number
                }
                (None, _) => {
                    head = Some(position);
                    continue;
                }
            };
            class = Some(number);
            classes[position] = number;
        }
        // What the order was kept in has room for as many classes as there can be.
        number(&mut classes, &mut order[..num_classes]);
        Ok(Self { classes, length })
    }
}

/// Gives classes new numbers: that of the class whose first window comes first is 0.
fn number<R: Rank>(classes: &mut [R], numbers: &mut [R]) {
    numbers.fill(R::NONE);
    let mut num_classes = 0;
    for class in classes.iter_mut().filter(|class| **class != R::NONE) {
        let number = &mut numbers[class.position()];
        if *number == R::NONE {
            *number = R::from_position(num_classes);
            num_classes += 1;
        }
        *class = *number;
    }
}

/// Fills `order` with the suffix array of `text`, and `shared` with the bytes that each position's suffix shares with the one before it
/// in that order.
fn sort<R: Rank>(text: &[u8], order: &mut [R], shared: &mut [R]) -> Result<(), Error> {
    let failed = |source: libsais::LibsaisError| Error::Data {
        operator: STAGE,
        problem: format!("the suffix array of {} bytes could not be built ({source}); give the machine more memory", text.len()),
    };
    let sorted: SuffixArrayWithText<'_, '_, u8, R, BorrowedBuffer> =
        SuffixArrayConstruction::for_text(text).in_borrowed_buffer(order).single_threaded().run().map_err(failed)?;
    sorted.plcp_construction().in_borrowed_buffer(shared).single_threaded().run().map_err(failed)?;
    Ok(())
}

fn filled<R: Rank>(len: usize) -> Result<Vec<R>, Error> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|_| out_of_memory(len as u64 * size_of::<R>() as u64))?;
    values.resize(len, R::NONE);
    Ok(values)
}

/// The positions that have `length` bytes left in their document.
fn windows(arena: &TextArena, length: usize) -> Result<Bits, Error> {
    let mut bits = Bits::new(arena.bytes().len())?;
    for index in 0..arena.len() {
        let range = arena.range(index);
        if range.len() >= length {
            bits.set(range.start, range.end - length + 1);
        }
    }
    Ok(bits)
}

/// A set of positions.
struct Bits(Vec<u64>);

impl Bits {
    fn new(len: usize) -> Result<Self, Error> {
        let words = len.div_ceil(64);
        let mut bits = Vec::new();
        bits.try_reserve_exact(words).map_err(|_| out_of_memory(words as u64 * 8))?;
        bits.resize(words, 0);
        Ok(Self(bits))
    }

    fn of(len: usize, holds: impl Fn(usize) -> bool) -> Result<Self, Error> {
        let mut bits = Self::new(len)?;
        for (index, word) in bits.0.iter_mut().enumerate() {
            let start = index * 64;
            *word = (start..len.min(start + 64)).fold(0, |word, position| word | u64::from(holds(position)) << (position - start));
        }
        Ok(bits)
    }

    fn set(&mut self, start: usize, end: usize) {
        let mut position = start;
        while position < end {
            let (word, low) = (position / 64, position % 64);
            let count = (64 - low).min(end - position);
            self.0[word] |= (u64::MAX >> (64 - count)) << low;
            position += count;
        }
    }

    fn has(&self, position: usize) -> bool {
        self.0[position / 64] >> (position % 64) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn check<R: Rank>(texts: &[String], length: usize) {
        let mut arena = TextArena::default();
        let mut groups: HashMap<&[u8], Vec<usize>> = HashMap::new();
        let mut start = 0;
        for (ordinal, text) in texts.iter().enumerate() {
            arena.push(ordinal as u64, 0, text).unwrap();
            for (offset, window) in text.as_bytes().windows(length).enumerate() {
                groups.entry(window).or_default().push(start + offset);
            }
            start += text.len();
        }
        groups.retain(|_, positions| positions.len() > 1);
        let classes = DenseClasses::<R>::find(&arena, length).unwrap();
        let mut got: HashMap<usize, Vec<usize>> = HashMap::new();
        for run in classes.runs() {
            for (position, class) in (run.first..run.first + run.len).zip(run.class..) {
                got.entry(class).or_default().push(position);
            }
        }
        assert!((0..got.len()).all(|class| got.contains_key(&class)), "numbers without gaps");
        let (mut got, mut wanted): (Vec<_>, Vec<_>) = (got.into_values().collect(), groups.into_values().collect());
        got.sort();
        wanted.sort();
        assert_eq!(got, wanted);
    }

    proptest! {
        #[test]
        fn classes_are_the_sets_of_equal_windows(texts in prop::collection::vec("[ab]{0,40}", 0..8), length in 1_usize..12) {
            check::<i32>(&texts, length);
            check::<i64>(&texts, length);
        }
    }

    #[test]
    fn runs_of_bits_cross_words() {
        for (start, end) in [(0, 0), (0, 64), (3, 5), (63, 65), (1, 200), (64, 128)] {
            let mut bits = Bits::new(200).unwrap();
            bits.set(start, end);
            assert!((0..200).all(|position| bits.has(position) == (start..end).contains(&position)), "{start}..{end}");
        }
    }
}
