//! Document ids: hashes of content and origin, never positions, so that they survive other file orders, splits and thread counts.

use std::fmt;
use xxhash_rust::xxh3::Xxh3;

/// A 128-bit XXH3 of everything that makes a document the one it is. Written as 32 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentId(pub u128);

impl DocumentId {
    /// Hashes the parts in order. Each part is preceded by its length, so that moving a byte from one part to the next changes the id.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hasher = Xxh3::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self(hasher.digest128())
    }

    /// The id of the `ordinal`-th of several records that are equal in every part; the first keeps the plain id.
    pub fn repeated(self, ordinal: u64) -> Self {
        if ordinal == 0 { self } else { Self::of(&[&self.0.to_le_bytes(), &ordinal.to_le_bytes()]) }
    }
}

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl std::str::FromStr for DocumentId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(DocumentId::of(&[b"ab", b"c"]), DocumentId::of(&[b"a", b"bc"]));
        let id = DocumentId::of(&[b"ab"]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().len(), 32);
        assert_eq!(id.repeated(0), id);
        assert_ne!(id.repeated(1), id.repeated(2));
    }
}
