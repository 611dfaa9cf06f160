//! Finds the bytes that mean something, 16 at a time.
//!
//! Tags lie some 25 bytes apart: a general search, called and set up anew for each, costs more than looking at the bytes. These are inlined,
//! and one look at 16 bytes answers every question about them as a mask of bits.

use std::ops::BitOr;

/// Bytes looked at in one step.
const LANES: usize = 16;

/// Returns where the text at `at` ends: at the next `<` or `&`, or with the bytes.
#[inline]
pub(crate) fn text_end(bytes: &[u8], at: usize) -> usize {
    find(bytes, at, |block| block.equal(b'<') | block.equal(b'&'), |byte| matches!(byte, b'<' | b'&'))
}

/// Returns where the next `<` stands, or the number of bytes.
#[inline]
pub(crate) fn tag_start(bytes: &[u8], at: usize) -> usize {
    find(bytes, at, |block| block.equal(b'<'), |byte| byte == b'<')
}

/// Returns where the reference ends whose name begins at `at`: at its `;`, at what cannot be part of it, or with the bytes.
#[inline]
pub(crate) fn reference_end(bytes: &[u8], at: usize) -> usize {
    find(bytes, at, |block| block.equal(b';') | block.equal(b'&') | block.equal(b'<'), |byte| matches!(byte, b';' | b'&' | b'<'))
}

/// Returns where the next `byte` stands.
#[inline]
pub(crate) fn byte(bytes: &[u8], at: usize, byte: u8) -> Option<usize> {
    Some(find(bytes, at, |block| block.equal(byte), |own| own == byte)).filter(|&at| at < bytes.len())
}

/// Returns where the next of `wanted` stands, or the number of bytes.
#[inline(always)]
pub(crate) fn any_of(bytes: &[u8], at: usize, wanted: &[u8]) -> usize {
    let [first, others @ ..] = wanted else { return bytes.len() };
    find(
        bytes,
        at,
        |block| others.iter().fold(block.equal(*first), |found, &other| found | block.equal(other)),
        |byte| wanted.contains(&byte),
    )
}

/// Returns the `>` that ends a tag, from a place in it that is outside quotes; one within quotes does not.
#[inline]
pub(crate) fn tag_end(bytes: &[u8], from: usize) -> Option<usize> {
    let (mut at, mut doubles, mut singles) = (from, 0, 0);
    while let Some(block) = Block::load(bytes, at) {
        let (closes, double, single) = (block.equal(b'>').mask(), block.equal(b'"').mask(), block.equal(b'\'').mask());
        // What stands before the first `>`; everything where there is none.
        let before = closes.wrapping_sub(1) & !closes;
        doubles ^= (double & before).count_ones();
        singles |= single & before;
        if closes != 0 {
            if doubles & 1 == 0 && singles == 0 {
                return Some(at + closes.trailing_zeros() as usize);
            }
            break;
        }
        at += LANES;
    }
    tag_end_quoted(bytes, from)
}

/// As [`tag_end`], one quoted value after the other.
#[cold]
#[inline(never)]
fn tag_end_quoted(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += memchr::memchr3(b'>', b'"', b'\'', bytes.get(at..)?)?;
        if bytes[at] == b'>' {
            return Some(at);
        }
        at += 2 + memchr::memchr(bytes[at], &bytes[at + 1..])?;
    }
}

/// Where the parts of a tag's name end.
pub(crate) struct Name {
    /// Where the local name begins.
    pub local: usize,
    /// The first byte behind it.
    pub end: usize,
}

/// Finds the name that begins at `at`, if white space, `/` or `>` follows within 16 bytes and nothing odd stands before.
#[inline]
pub(crate) fn name(bytes: &[u8], at: usize) -> Option<Name> {
    let block = Block::load(bytes, at)?;
    // Up to 0x22: control characters, the space, `!` and `"`.
    let ends = block.within(0, 0x22) | block.equal(b'>') | block.equal(b'/') | block.equal(b'\'');
    let (ends, colons) = (ends.mask(), block.equal(b':').mask());
    if ends == 0 {
        return None;
    }
    let length = ends.trailing_zeros();
    let prefix = colons & ((1 << length) - 1);
    let local = if prefix == 0 { 0 } else { prefix.trailing_zeros() as usize + 1 };
    Some(Name { local: at + local, end: at + length as usize })
}

/// Whether the same `length` bytes stand at both places. `None` where that is not told at one look.
#[inline]
pub(crate) fn same(bytes: &[u8], one: usize, other: usize, length: usize) -> Option<bool> {
    if length > LANES {
        return None;
    }
    let equal = Block::load(bytes, one)?.same(Block::load(bytes, other)?).mask();
    Some(equal | (u32::MAX << length) == u32::MAX)
}

/// Returns the first place from `at` on where text cannot be copied as it is: white space other than single spaces between words, or the
/// first byte of a character that may be white space. A space at `at` itself counts as single.
#[inline]
pub(crate) fn fold_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(block) = Block::load(bytes, at) {
        let spaces = block.equal(b' ');
        // Of U+0085 and U+00A0, of U+1680, U+2000 to U+205F and U+3000.
        let others = block.within(9, 13) | block.equal(0xC2) | block.within(0xE1, 0xE3);
        let (spaces, others) = (spaces.mask(), others.mask());
        let ends = others | (spaces & ((spaces | others) >> 1));
        if ends != 0 {
            return at + ends.trailing_zeros() as usize;
        }
        // Of a space at the end the next step sees what follows.
        at += LANES - (spaces >> (LANES - 1)) as usize;
    }
    while at < bytes.len() {
        match bytes[at] {
            b' ' => {
                if bytes.get(at + 1).is_none_or(|&next| is_special(next)) {
                    return at;
                }
            }
            byte if is_special(byte) => return at,
            _ => {}
        }
        at += 1;
    }
    at
}

fn is_special(byte: u8) -> bool {
    matches!(byte, 9..=13 | b' ' | 0xC2 | 0xE1..=0xE3)
}

#[inline(always)]
fn find(bytes: &[u8], mut at: usize, wanted: impl Fn(Block) -> Lanes, is_wanted: impl Fn(u8) -> bool) -> usize {
    while let Some(block) = Block::load(bytes, at) {
        let mask = wanted(block).mask();
        if mask != 0 {
            return at + mask.trailing_zeros() as usize;
        }
        at += LANES;
    }
    while bytes.get(at).is_some_and(|&byte| !is_wanted(byte)) {
        at += 1;
    }
    at
}

#[cfg(not(target_arch = "x86_64"))]
use portable::{Block, Lanes};
#[cfg(target_arch = "x86_64")]
use sse2::{Block, Lanes};

#[cfg(target_arch = "x86_64")]
mod sse2 {
    use super::{BitOr, LANES};
    use std::arch::x86_64::*;

    #[derive(Clone, Copy)]
    pub struct Block(__m128i);

    /// Of each byte, whether it is wanted: all bits or none.
    #[derive(Clone, Copy)]
    pub struct Lanes(__m128i);

    impl Block {
        #[inline(always)]
        pub fn load(bytes: &[u8], at: usize) -> Option<Self> {
            let block: &[u8; LANES] = bytes.get(at..)?.first_chunk()?;
            // SAFETY: SSE2 is part of every x86_64; the 16 bytes are there, and the load needs no alignment.
            Some(Self(unsafe { _mm_loadu_si128(block.as_ptr().cast()) }))
        }

        #[inline(always)]
        pub fn equal(self, byte: u8) -> Lanes {
            // SAFETY: SSE2 is part of every x86_64.
            Lanes(unsafe { _mm_cmpeq_epi8(self.0, _mm_set1_epi8(byte as i8)) })
        }

        #[inline(always)]
        pub fn same(self, other: Self) -> Lanes {
            // SAFETY: SSE2 is part of every x86_64.
            Lanes(unsafe { _mm_cmpeq_epi8(self.0, other.0) })
        }

        /// Of `first` to `last`, both included.
        #[inline(always)]
        pub fn within(self, first: u8, last: u8) -> Lanes {
            // SAFETY: SSE2 is part of every x86_64.
            Lanes(unsafe {
                let above = _mm_sub_epi8(self.0, _mm_set1_epi8(first as i8));
                _mm_cmpeq_epi8(_mm_min_epu8(above, _mm_set1_epi8((last - first) as i8)), above)
            })
        }
    }

    impl Lanes {
        /// A bit for each byte, that of the first byte lowest.
        #[inline(always)]
        pub fn mask(self) -> u32 {
            // SAFETY: SSE2 is part of every x86_64.
            unsafe { _mm_movemask_epi8(self.0) as u32 }
        }
    }

    impl BitOr for Lanes {
        type Output = Self;

        #[inline(always)]
        fn bitor(self, other: Self) -> Self {
            // SAFETY: SSE2 is part of every x86_64.
            Self(unsafe { _mm_or_si128(self.0, other.0) })
        }
    }
}

/// The same in plain Rust: for other processors, and the specification.
#[cfg(any(test, not(target_arch = "x86_64")))]
mod portable {
    use super::{BitOr, LANES};

    #[derive(Clone, Copy)]
    pub struct Block([u8; LANES]);

    #[derive(Clone, Copy)]
    pub struct Lanes([bool; LANES]);

    impl Block {
        #[inline(always)]
        pub fn load(bytes: &[u8], at: usize) -> Option<Self> {
            bytes.get(at..)?.first_chunk().copied().map(Self)
        }

        #[inline(always)]
        pub fn equal(self, byte: u8) -> Lanes {
            Lanes(self.0.map(|own| own == byte))
        }

        #[inline(always)]
        pub fn same(self, other: Self) -> Lanes {
            Lanes(std::array::from_fn(|lane| self.0[lane] == other.0[lane]))
        }

        #[inline(always)]
        pub fn within(self, first: u8, last: u8) -> Lanes {
            Lanes(self.0.map(|own| (first..=last).contains(&own)))
        }
    }

    impl Lanes {
        #[inline(always)]
        pub fn mask(self) -> u32 {
            self.0.iter().rev().fold(0, |mask, &lane| mask << 1 | u32::from(lane))
        }
    }

    impl BitOr for Lanes {
        type Output = Self;

        #[inline(always)]
        fn bitor(self, other: Self) -> Self {
            Self(std::array::from_fn(|lane| self.0[lane] | other.0[lane]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes of which nearly all mean something, so that places next to each other and at the edges of blocks are met.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let marks = b"<>&;\"'/:!\n\x0b\xC2\xE0\xE1\xE2\xE3\xE4\x08\x0e".to_vec();
        let byte = prop_oneof![8 => Just(b'a'), 2 => Just(b' '), 4 => proptest::sample::select(marks)];
        proptest::collection::vec(byte, 0..80)
    }

    proptest! {
        #[test]
        fn places_equal_those_found_byte_by_byte(bytes in bytes(), at in 0usize..80) {
            let at = at.min(bytes.len());
            let first = |wanted: &[u8]| (at..bytes.len()).find(|&place| wanted.contains(&bytes[place])).unwrap_or(bytes.len());
            prop_assert_eq!(text_end(&bytes, at), first(b"<&"));
            prop_assert_eq!(tag_start(&bytes, at), first(b"<"));
            prop_assert_eq!(reference_end(&bytes, at), first(b";&<"));
            prop_assert_eq!(any_of(&bytes, at, b"!;<\n"), first(b"!;<\n"));
            prop_assert_eq!(byte(&bytes, at, b'a'), Some(first(b"a")).filter(|&place| place < bytes.len()));
            prop_assert_eq!(tag_end(&bytes, at), tag_end_quoted(&bytes, at));
            let next_special = |place: usize| bytes.get(place + 1).is_none_or(|&next| is_special(next));
            let folds = |place: usize| is_special(bytes[place]) && (bytes[place] != b' ' || next_special(place));
            prop_assert_eq!(fold_end(&bytes, at), (at..bytes.len()).find(|&place| folds(place)).unwrap_or(bytes.len()));
        }

        #[test]
        fn names_equal_those_found_byte_by_byte(bytes in bytes(), at in 0usize..80) {
            let at = at.min(bytes.len());
            let end = (at..bytes.len()).find(|&place| bytes[place] <= 0x22 || b">/'".contains(&bytes[place]));
            match name(&bytes, at) {
                Some(name) => {
                    prop_assert_eq!(Some(name.end), end);
                    let colon = bytes[at..name.end].iter().position(|&byte| byte == b':');
                    prop_assert_eq!(name.local, colon.map_or(at, |colon| at + colon + 1));
                }
                None => prop_assert!(at + LANES > bytes.len() || end.is_none_or(|end| end >= at + LANES)),
            }
        }

        #[test]
        fn equality_is_that_of_slices(
            bytes in proptest::collection::vec(0u8..2, 0..40),
            one in 0usize..24,
            other in 0usize..24,
            length in 0usize..20,
        ) {
            let (a, b) = (bytes.get(one..one + length), bytes.get(other..other + length));
            if let Some(same) = same(&bytes, one, other, length) {
                prop_assert_eq!(same, a == b);
            } else {
                prop_assert!(length > LANES || one.max(other) + LANES > bytes.len());
            }
        }

        #[test]
        fn vectors_equal_their_specification(
            bytes in any::<[u8; LANES]>(),
            others in any::<[u8; LANES]>(),
            byte in any::<u8>(),
            range in any::<(u8, u8)>(),
        ) {
            let (first, last) = (range.0.min(range.1), range.0.max(range.1));
            let fast = Block::load(&bytes, 0).unwrap();
            let plain = portable::Block::load(&bytes, 0).unwrap();
            prop_assert_eq!(fast.equal(byte).mask(), plain.equal(byte).mask());
            prop_assert_eq!(fast.within(first, last).mask(), plain.within(first, last).mask());
            prop_assert_eq!((fast.equal(byte) | fast.within(first, last)).mask(), (plain.equal(byte) | plain.within(first, last)).mask());
            let (fast_other, plain_other) = (Block::load(&others, 0).unwrap(), portable::Block::load(&others, 0).unwrap());
            prop_assert_eq!(fast.same(fast_other).mask(), plain.same(plain_other).mask());
            prop_assert!(Block::load(&bytes, 1).is_none() && portable::Block::load(&bytes, 1).is_none());
        }
    }
}
