//! Cubins on disk: a file each, named by the hash of all that it depends on.
//!
//! ```text
//! "osler-cubin/1\n"  the format
//! u64 little-endian  XXH3 of the rest
//! u64 little-endian  length of the log
//! log                what the compiler said
//! cubin              to the end
//! ```

use super::Source;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

const MAGIC: &[u8] = b"osler-cubin/1\n";
const HEADER_BYTES: usize = MAGIC.len() + 8;

/// What the compiler made of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub cubin: Vec<u8>,
    pub log: String,
}

/// A folder of entries.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
}

/// The name of an entry: the hash of the source with all it includes, the options, which name the architecture, and the compiler's version.
pub(super) fn key(source: &Source<'_>, options: &[String], version: (i32, i32)) -> String {
    let mut hash = Xxh3Default::new();
    let version = format!("{}.{}", version.0, version.1);
    let headers = source.headers.iter().flat_map(|(name, text)| [*name, *text]);
    let parts = [source.name, source.text, version.as_str()].into_iter().chain(options.iter().map(String::as_str)).chain(headers);
    for part in parts {
        // With their lengths, or two lists of parts could read alike.
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    format!("{:032x}", hash.digest128())
}

impl Cache {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// An entry that is whole. One that is not reads as one that is not there, and is then written over.
    pub(super) fn read(&self, key: &str) -> Option<Entry> {
        decode(&fs::read(self.path(key)).ok()?)
    }

    /// Writes an entry under another name and renames it, so that other processes see all of it or nothing.
    ///
    /// # Errors
    /// What could not be written, where and why.
    pub(super) fn write(&self, key: &str, entry: &Entry) -> Result<(), String> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let path = self.path(key);
        let partial = path.with_extension(format!("{}-{}.partial", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        let written =
            fs::create_dir_all(&self.folder).and_then(|()| fs::write(&partial, encode(entry))).and_then(|()| fs::rename(&partial, &path));
        written.map_err(|error| {
            let _ = fs::remove_file(&partial);
            format!("{}: {error}", path.display())
        })
    }

    fn path(&self, key: &str) -> PathBuf {
        Path::new(&self.folder).join(format!("{key}.cubin"))
    }
}

fn encode(entry: &Entry) -> Vec<u8> {
    let mut body = (entry.log.len() as u64).to_le_bytes().to_vec();
    body.extend_from_slice(entry.log.as_bytes());
    body.extend_from_slice(&entry.cubin);
    [MAGIC, &xxh3_64(&body).to_le_bytes(), &body].concat()
}

fn decode(bytes: &[u8]) -> Option<Entry> {
    let (header, body) = bytes.split_at_checked(HEADER_BYTES)?;
    let sum = header.strip_prefix(MAGIC)?;
    if sum != xxh3_64(body).to_le_bytes() {
        return None;
    }
    let (len, rest) = body.split_first_chunk::<8>()?;
    let (log, cubin) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
    Some(Entry { cubin: cubin.to_vec(), log: String::from_utf8(log.to_vec()).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: Source<'static> = Source { name: "a.cu", text: "b", headers: &[("c.cuh", "d")], fast_math: false };

    #[test]
    fn only_a_whole_entry_is_read() {
        let entry = Entry { cubin: vec![0x7f, b'E', b'L', b'F', 0, 255], log: "ptxas info\n".into() };
        let bytes = encode(&entry);
        assert_eq!(decode(&bytes).as_ref(), Some(&entry));
        for end in 0..bytes.len() {
            assert_eq!(decode(&bytes[..end]), None, "cut at {end}");
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(decode(&changed), None, "changed at {at}");
        }
    }

    #[test]
    fn the_key_depends_on_every_part() {
        let options = ["-std=c++17".to_string(), "-x".to_string()];
        let first = key(&SOURCE, &options, (13, 0));
        assert_eq!(first, key(&SOURCE, &options, (13, 0)));
        let others = [
            key(&Source { name: "a2.cu", ..SOURCE }, &options, (13, 0)),
            key(&Source { text: "b ", ..SOURCE }, &options, (13, 0)),
            key(&Source { headers: &[("c.cuh", "e")], ..SOURCE }, &options, (13, 0)),
            key(&Source { headers: &[], ..SOURCE }, &options, (13, 0)),
            key(&Source { name: "a.c", text: "ub", ..SOURCE }, &options, (13, 0)),
            key(&SOURCE, &options[..1], (13, 0)),
            key(&SOURCE, &options, (13, 1)),
        ];
        assert!(!others.contains(&first), "{first} {others:?}");
    }

    #[test]
    fn an_entry_is_written_whole_and_nothing_else_stays() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::new(root.path().join("deep/cubins"));
        let entry = Entry { cubin: vec![1, 2, 3], log: String::new() };
        assert_eq!(cache.read("key"), None);
        cache.write("key", &entry).unwrap();
        cache.write("key", &entry).unwrap();
        assert_eq!(cache.read("key"), Some(entry.clone()));
        let names: Vec<_> = fs::read_dir(root.path().join("deep/cubins")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["key.cubin"]);
        let blocked = Cache::new(root.path().join("deep/cubins/key.cubin"));
        assert!(blocked.write("key", &entry).unwrap_err().contains("key.cubin/key.cubin: "));
    }
}
