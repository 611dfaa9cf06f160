//! What was the fastest way to compute a product, kept between runs.
//!
//! A file has a line per product: its key, the 64 bytes of cuBLASLt's description of the way in hexadecimal, and a checksum of both.

use crate::cuda::launcher::{OutputKind, Product};
use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use xxhash_rust::xxh3::xxh3_64;

/// cuBLASLt's description of a way to compute: plain numbers, which NVIDIA allows to keep for the same version.
pub(super) type Algorithm = [u64; 8];

/// Products that one choice is for: the same sizes, about, and the same everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    sizes: [usize; 3],
    /// Of left and right, of the output, and whether there is a bias and something to add to.
    flags: [bool; 5],
    /// Powers of two that the addresses of left, right and output are multiples of, up to 256.
    alignments: [u32; 3],
}

impl Key {
    pub(super) fn of(product: &Product) -> Self {
        let exact = Self::exact(product);
        Self { sizes: exact.sizes.map(about), ..exact }
    }

    /// That of a product of these sizes alone.
    pub(super) fn exact(product: &Product) -> Self {
        Self {
            sizes: [product.rows, product.columns, product.inner],
            flags: [
                product.left.transposed,
                product.right.transposed,
                product.output_kind == OutputKind::Stored,
                product.bias.is_some(),
                product.add,
            ],
            alignments: [product.left.address, product.right.address, product.output].map(alignment),
        }
    }
}

/// `size`, or a little more: batches that differ by some rows are computed alike.
fn about(size: usize) -> usize {
    let step = (size / 16).checked_ilog2().map_or(1, |bits| 1 << bits);
    size.next_multiple_of(step)
}

/// The largest power of two, up to 256, that `address` is a multiple of.
pub(super) fn alignment(address: u64) -> u32 {
    1 << address.trailing_zeros().min(8)
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [rows, columns, inner] = self.sizes;
        let flags: String = self.flags.iter().map(|&flag| if flag { '1' } else { '0' }).collect();
        let [left, right, output] = self.alignments;
        write!(f, "{rows}x{columns}x{inner}-{flags}-{left}-{right}-{output}")
    }
}

/// The file's name for a device and a version of cuBLASLt. The 2 is for what ways are asked for: those of files without it may round parts of a
/// sum.
pub(super) fn file_name(device: &str, version: usize) -> String {
    let device: String = device.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    format!("products-2-{device}-{version}.tsv")
}

/// Choices by key, and the file that they are kept in.
#[derive(Debug)]
pub(super) struct Choices {
    found: HashMap<String, Algorithm>,
    path: Option<PathBuf>,
}

impl Choices {
    /// Reads what was kept. A line that is not whole, or a file that is not there, is passed over.
    pub(super) fn open(path: Option<PathBuf>) -> Self {
        let text = path.as_ref().and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        Self { path, ..Self::read(&text) }
    }

    /// Those of a file's text, which are kept nowhere.
    pub(super) fn read(text: &str) -> Self {
        Self { found: text.lines().filter_map(parse).collect(), path: None }
    }

    pub(super) fn get(&self, key: &Key) -> Option<Algorithm> {
        self.found.get(&key.to_string()).copied()
    }

    /// Keeps a choice, in the file as well if it can be written, beside what others have put there meanwhile.
    pub(super) fn put(&mut self, key: Key, algorithm: Algorithm) {
        self.found.insert(key.to_string(), algorithm);
        let Some(path) = &self.path else { return };
        let others = Self::open(Some(path.clone())).found;
        others.into_iter().for_each(|(key, algorithm)| _ = self.found.entry(key).or_insert(algorithm));
        let partial = path.with_extension(format!("{}.partial", std::process::id()));
        let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&partial, self.to_string()));
        if written.and_then(|()| fs::rename(&partial, path)).is_err() {
            // The choice holds for this run; the next one makes it again.
            let _ = fs::remove_file(&partial);
        }
    }
}

impl fmt::Display for Choices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines: Vec<String> = self.found.iter().map(|(key, algorithm)| line(key, algorithm)).collect();
        lines.sort();
        f.write_str(&lines.concat())
    }
}

fn line(key: &str, algorithm: &Algorithm) -> String {
    let words: Vec<String> = algorithm.iter().map(|word| format!("{word:016x}")).collect();
    let line = format!("{key}\t{}", words.join(" "));
    format!("{line}\t{:016x}\n", xxh3_64(line.as_bytes()))
}

fn parse(line: &str) -> Option<(String, Algorithm)> {
    let (line, sum) = line.rsplit_once('\t')?;
    if u64::from_str_radix(sum, 16).ok()? != xxh3_64(line.as_bytes()) {
        return None;
    }
    let (key, words) = line.split_once('\t')?;
    let words: Option<Vec<u64>> = words.split(' ').map(|word| u64::from_str_radix(word, 16).ok()).collect();
    Some((key.to_string(), words?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::launcher::Operand;

    const PRODUCT: Product = Product {
        rows: 4096,
        columns: 14336,
        inner: 4000,
        left: Operand { address: 0x1000, transposed: false },
        right: Operand { address: 0x1010, transposed: true },
        bias: None,
        add: false,
        output: 0x1002,
        output_kind: OutputKind::Stored,
    };

    #[test]
    fn products_of_about_the_same_size_share_a_choice() {
        let key = Key::of(&PRODUCT);
        assert_eq!(key.alignments, [256, 16, 2]);
        assert_eq!(key, Key::of(&Product { rows: 4095, ..PRODUCT }));
        assert_eq!(key, Key::of(&Product { rows: 3969, ..PRODUCT }));
        let others = [
            Product { rows: 3968, ..PRODUCT },
            Product { rows: 4097, ..PRODUCT },
            Product { add: true, ..PRODUCT },
            Product { output: 0x1004, ..PRODUCT },
            Product { output_kind: OutputKind::Exact, ..PRODUCT },
            Product { left: Operand { transposed: true, ..PRODUCT.left }, ..PRODUCT },
        ];
        assert!(others.iter().all(|other| Key::of(other) != key));
        assert_eq!([0, 1, 15, 16, 17, 31, 33, 63].map(about), [0, 1, 15, 16, 17, 31, 34, 64]);
    }

    #[test]
    fn choices_are_kept_and_damaged_ones_are_not() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("cache").join(file_name("NVIDIA H100 80GB HBM3", 130_000));
        assert!(path.ends_with("products-2-nvidia-h100-80gb-hbm3-130000.tsv"));
        let (first, second) = (Key::of(&PRODUCT), Key::of(&Product { add: true, ..PRODUCT }));
        let mut choices = Choices::open(Some(path.clone()));
        assert_eq!(choices.get(&first), None);
        choices.put(first, [1, 2, 3, 4, 5, 6, 7, u64::MAX]);
        choices.put(second, [9; 8]);
        let read = Choices::open(Some(path.clone()));
        assert_eq!((read.get(&first), read.get(&second)), (Some([1, 2, 3, 4, 5, 6, 7, u64::MAX]), Some([9; 8])));
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!((read.to_string(), Choices::read(&text).to_string()), (text.clone(), text.clone()));
        fs::write(&path, text.replacen("0000000000000009", "0000000000000008", 1)).unwrap();
        let damaged = Choices::open(Some(path.clone()));
        assert_eq!((damaged.get(&first).is_some(), damaged.get(&second)), (true, None));
        fs::write(&path, &text[..text.len() / 3]).unwrap();
        assert!(Choices::open(Some(path)).found.is_empty());
        let names: Vec<_> = fs::read_dir(root.path().join("cache")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 1, "{names:?}");
        // Of two that are open at once neither loses what the other keeps.
        let path = root.path().join("cache").join(&names[0]);
        let [mut one, mut other] = [(); 2].map(|()| Choices::open(Some(path.clone())));
        one.put(first, [1; 8]);
        other.put(second, [2; 8]);
        assert_eq!([first, second].map(|key| Choices::open(Some(path.clone())).get(&key)), [Some([1; 8]), Some([2; 8])]);
        let mut nowhere = Choices::open(Some(path.join("below.tsv")));
        nowhere.put(first, [1; 8]);
        assert_eq!(nowhere.get(&first), Some([1; 8]));
    }
}
