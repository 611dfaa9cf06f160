//! The shard format: `part-NNNNN.bin`, token ids and nothing else, and its sidecar `part-NNNNN.meta.arrow`.
//!
//! The sidecar is an Arrow IPC file with one batch of one row. [`Header`] travels in its schema's metadata, and the batch holds four
//! lists: `sources` (names), `documents`, `chunks` and `loss`. `docs/formats.md` describes both files byte by byte.

use crate::sequence::piece_fields;
use crate::{SchemaError, VERSION_KEY, versioned};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::ipc::reader::read_footer_length;
use arrow::ipc::{Footer, root_as_footer};
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};
use xxhash_rust::xxh3::Xxh3;

/// Version of the token files and of [`schema`]. Version 2 added [`Header::mix`]; what a mix does not name is in no chunk.
pub const VERSION: u32 = 2;

/// Oldest version that is still read.
pub const OLDEST_VERSION: u32 = 1;

/// Smallest vocabulary stored as u32. In a smaller one the id 65,535 never occurs, so a reader may use it as a mark.
pub const U32_VOCABULARY_SIZE: u32 = 65_536;

/// Everything a reader must know before it reads a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub dtype: Dtype,
    /// Number of the shard in its set, from 0; the `NNNNN` of its file name.
    pub shard: u32,
    /// Whether this is the set's last shard; a set without one was not finished.
    pub last: bool,
    /// Tokens in the `.bin` file.
    pub num_tokens: u64,
    /// Tokens of the file that no chunk covers.
    pub num_tail_tokens: u64,
    /// XXH3-128 of the `.bin` file.
    pub bin_xxh3: u128,
    pub context_length: u32,
    /// Packing method and tail policy, such as `concat/carry`.
    pub packing: String,
    /// Seed of the order in which a loader gives the chunks.
    pub seed: u64,
    /// How often chunks of which sources are given, as JSON; none: every chunk once an epoch.
    pub mix: Option<String>,
    pub tokenizer: TokenizerIdentity,
}

/// Which tokenizer made the ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerIdentity {
    pub name: String,
    /// XXH3-128 of the bytes of `tokenizer.json`.
    pub xxh3: u128,
    /// Largest id + 1.
    pub vocab_size: u32,
    pub eos_id: u32,
    pub bos_id: Option<u32>,
    pub pad_id: u32,
}

impl TokenizerIdentity {
    /// The type that holds every id of the vocabulary.
    pub fn dtype(&self) -> Dtype {
        if self.vocab_size < U32_VOCABULARY_SIZE { Dtype::U16 } else { Dtype::U32 }
    }
}

/// How one token id is stored, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    U16,
    U32,
}

impl Dtype {
    /// Bytes per token.
    pub const fn num_bytes(self) -> u64 {
        match self {
            Self::U16 => 2,
            Self::U32 => 4,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::U16 => "u16",
            Self::U32 => "u32",
        })
    }
}

/// A metadata entry that is missing or cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("metadata key `{key}`: wanted {wanted}, got {got}")]
pub struct HeaderError {
    pub key: String,
    pub wanted: &'static str,
    pub got: String,
}

impl Header {
    /// The sidecar's schema with this header in its metadata.
    pub fn schema(&self) -> SchemaRef {
        let base = schema();
        let mut metadata = base.metadata().clone();
        let mut put = |key: &str, value: String| metadata.insert(format!("osler.{key}"), value);
        put("dtype", self.dtype.to_string());
        put("shard", self.shard.to_string());
        put("last", self.last.to_string());
        put("num_tokens", self.num_tokens.to_string());
        put("num_tail_tokens", self.num_tail_tokens.to_string());
        put("bin_xxh3", format!("{:032x}", self.bin_xxh3));
        put("context_length", self.context_length.to_string());
        put("packing", self.packing.clone());
        put("seed", self.seed.to_string());
        if let Some(mix) = &self.mix {
            put("mix", mix.clone());
        }
        put("tokenizer.name", self.tokenizer.name.clone());
        put("tokenizer.xxh3", format!("{:032x}", self.tokenizer.xxh3));
        put("tokenizer.vocab_size", self.tokenizer.vocab_size.to_string());
        put("tokenizer.eos_id", self.tokenizer.eos_id.to_string());
        put("tokenizer.pad_id", self.tokenizer.pad_id.to_string());
        if let Some(bos) = self.tokenizer.bos_id {
            put("tokenizer.bos_id", bos.to_string());
        }
        Arc::new(Schema::new_with_metadata(base.fields().clone(), metadata))
    }

    /// Reads the header from a sidecar's schema metadata. The table's version is checked by [`expect`], not here.
    ///
    /// # Errors
    /// [`HeaderError`] names the first key that is missing or malformed.
    pub fn from_metadata(metadata: &HashMap<String, String>) -> Result<Self, HeaderError> {
        let reader = MetadataReader(metadata);
        let dtype = match reader.text("osler.dtype")? {
            "u16" => Dtype::U16,
            "u32" => Dtype::U32,
            other => return Err(HeaderError { key: "osler.dtype".into(), wanted: "u16 or u32", got: other.into() }),
        };
        let tokenizer = TokenizerIdentity {
            name: reader.text("osler.tokenizer.name")?.to_string(),
            xxh3: reader.hash("osler.tokenizer.xxh3")?,
            vocab_size: reader.number("osler.tokenizer.vocab_size")?,
            eos_id: reader.number("osler.tokenizer.eos_id")?,
            bos_id: if metadata.contains_key("osler.tokenizer.bos_id") { Some(reader.number("osler.tokenizer.bos_id")?) } else { None },
            pad_id: reader.number("osler.tokenizer.pad_id")?,
        };
        Ok(Self {
            dtype,
            shard: reader.number("osler.shard")?,
            last: reader.flag("osler.last")?,
            num_tokens: reader.number("osler.num_tokens")?,
            num_tail_tokens: reader.number("osler.num_tail_tokens")?,
            bin_xxh3: reader.hash("osler.bin_xxh3")?,
            context_length: reader.number("osler.context_length")?,
            packing: reader.text("osler.packing")?.to_string(),
            seed: reader.number("osler.seed")?,
            mix: metadata.get("osler.mix").cloned(),
            tokenizer,
        })
    }
}

struct MetadataReader<'a>(&'a HashMap<String, String>);

impl<'a> MetadataReader<'a> {
    fn text(&self, key: &str) -> Result<&'a str, HeaderError> {
        let missing = || HeaderError { key: key.into(), wanted: "a value", got: "none".into() };
        self.0.get(key).map(String::as_str).ok_or_else(missing)
    }

    fn number<T: FromStr>(&self, key: &str) -> Result<T, HeaderError> {
        let text = self.text(key)?;
        text.parse().map_err(|_| HeaderError { key: key.into(), wanted: "a number in range", got: text.into() })
    }

    fn flag(&self, key: &str) -> Result<bool, HeaderError> {
        let text = self.text(key)?;
        text.parse().map_err(|_| HeaderError { key: key.into(), wanted: "true or false", got: text.into() })
    }

    fn hash(&self, key: &str) -> Result<u128, HeaderError> {
        let text = self.text(key)?;
        u128::from_str_radix(text, 16).map_err(|_| HeaderError { key: key.into(), wanted: "32 hexadecimal digits", got: text.into() })
    }
}

/// The sidecar's one row, without the header.
pub fn schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let list = |fields: Fields| DataType::List(Arc::new(Field::new_list_field(DataType::Struct(fields), false)));
        versioned(
            "token-shard",
            VERSION,
            vec![
                Field::new("sources", DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, false))), false),
                Field::new("documents", list(document_fields()), false),
                Field::new("chunks", list(chunk_fields()), false),
                // Null: every token counts in the loss.
                Field::new("loss", list(loss_fields()), true),
            ],
        )
    });
    SCHEMA.clone()
}

/// Checks a sidecar's schema: the columns of [`schema`], in this version or one still read.
///
/// # Errors
/// [`SchemaError`] names the version or the first column that differs.
pub fn expect(got: &Schema) -> Result<(), SchemaError> {
    let found = got.metadata().get(VERSION_KEY);
    let still_read = |version: &u32| found == Some(&format!("token-shard/{version}"));
    let wanted = schema();
    let Some(version) = (OLDEST_VERSION..VERSION).find(still_read) else { return crate::expect::schema(got, &wanted) };
    let metadata = HashMap::from([(VERSION_KEY.to_string(), format!("token-shard/{version}"))]);
    crate::expect::schema(got, &Schema::new_with_metadata(wanted.fields().clone(), metadata))
}

/// One document, or the part of it that lies in this shard: the tokens `[start, start + len)` of the file, of which the first is token
/// `offset` of the document. `source` is a position in `sources`. Documents lie back to back, in order, and cover the file.
pub fn document_fields() -> Fields {
    Fields::from(vec![
        Field::new("doc_id", DataType::Utf8, false),
        Field::new("source", DataType::UInt32, false),
        Field::new("offset", DataType::UInt64, false),
        Field::new("start", DataType::UInt64, false),
        Field::new("len", DataType::UInt64, false),
    ])
}

/// One chunk: the pieces it is made of, in order, their cumulative lengths from 0, and the padding after them. A piece's `document` is a
/// position in `documents`.
pub fn chunk_fields() -> Fields {
    let list = |item: DataType| DataType::List(Arc::new(Field::new_list_field(item, false)));
    Fields::from(vec![
        Field::new("cu_seqlens", list(DataType::UInt32), false),
        Field::new("pieces", list(DataType::Struct(piece_fields())), false),
        Field::new("num_padding", DataType::UInt32, false),
    ])
}

/// One span `[start, start + len)` of the file whose tokens count in the loss; spans are sorted and disjoint.
pub fn loss_fields() -> Fields {
    Fields::from(vec![Field::new("start", DataType::UInt64, false), Field::new("len", DataType::UInt64, false)])
}

/// Key in the Arrow footer's own metadata under which a sidecar holds its checksum: XXH3-128 of the whole file, with the 32 digits of the
/// checksum itself taken as `0`. Decoders of Arrow files trust them, so a sidecar is checked before it is decoded.
pub const CHECKSUM_KEY: &str = "osler.sidecar_xxh3";

/// What stands in the place of the checksum while it is computed.
pub const CHECKSUM_BLANK: &str = "00000000000000000000000000000000";

/// A sidecar that is not what was written.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChecksumError {
    #[error("not a sidecar of token shards, or cut short")]
    None,
    #[error("checksum: wanted {wanted}, got {got}")]
    Differs { wanted: String, got: String },
}

/// Puts the checksum into the bytes of a sidecar written with [`CHECKSUM_BLANK`] under [`CHECKSUM_KEY`].
///
/// # Errors
/// [`ChecksumError::None`] when there is no place for it.
pub fn seal(file: &mut [u8]) -> Result<(), ChecksumError> {
    let place = find_footer(file).and_then(|sealed| checksum_place(file, &sealed.footer)).ok_or(ChecksumError::None)?;
    let digits = checksum(file, &place);
    file[place].copy_from_slice(digits.as_bytes());
    Ok(())
}

/// The end of a sidecar's bytes, which are those that were sealed.
#[derive(Debug)]
pub struct Sealed<'a> {
    /// Where schema and batches are.
    pub footer: Footer<'a>,
    /// Byte of the file at which it begins; batches lie before it.
    pub footer_start: usize,
}

/// Checks that the bytes of a sidecar are those that were sealed, and gives the footer, verified.
///
/// # Errors
/// [`ChecksumError`].
pub fn check_seal(file: &[u8]) -> Result<Sealed<'_>, ChecksumError> {
    let sealed = find_footer(file).ok_or(ChecksumError::None)?;
    let place = checksum_place(file, &sealed.footer).ok_or(ChecksumError::None)?;
    let got = checksum(file, &place);
    let wanted = &file[place];
    if wanted == got.as_bytes() {
        Ok(sealed)
    } else {
        Err(ChecksumError::Differs { wanted: String::from_utf8_lossy(wanted).into_owned(), got })
    }
}

fn checksum(file: &[u8], place: &Range<usize>) -> String {
    let mut hasher = Xxh3::new();
    hasher.update(&file[..place.start]);
    hasher.update(CHECKSUM_BLANK.as_bytes());
    hasher.update(&file[place.end..]);
    format!("{:032x}", hasher.digest128())
}

fn find_footer(file: &[u8]) -> Option<Sealed<'_>> {
    let trailer = file.len().checked_sub(10)?;
    let footer_len = read_footer_length(file[trailer..].try_into().ok()?).ok()?;
    let footer_start = trailer.checked_sub(footer_len)?;
    Some(Sealed { footer: root_as_footer(&file[footer_start..trailer]).ok()?, footer_start })
}

/// Where the checksum stands in `file`, whose footer this is.
fn checksum_place(file: &[u8], footer: &Footer<'_>) -> Option<Range<usize>> {
    let entry = footer.custom_metadata()?.iter().find(|entry| entry.key() == Some(CHECKSUM_KEY))?;
    let digits = entry.value().filter(|digits| digits.len() == CHECKSUM_BLANK.len())?;
    let start = (digits.as_ptr() as usize).checked_sub(file.as_ptr() as usize)?;
    Some(start..start + digits.len())
}

/// File name of a shard's tokens.
pub fn bin_name(shard: u32) -> String {
    format!("part-{shard:05}.bin")
}

/// File name of a shard's sidecar.
pub fn sidecar_name(shard: u32) -> String {
    format!("part-{shard:05}.meta.arrow")
}

/// Number of the shard whose tokens have this file name.
pub fn parse_bin_name(name: &str) -> Option<u32> {
    parse_name(name, ".bin")
}

/// Number of the shard whose sidecar has this file name.
pub fn parse_sidecar_name(name: &str) -> Option<u32> {
    parse_name(name, ".meta.arrow")
}

fn parse_name(name: &str, suffix: &str) -> Option<u32> {
    let digits = name.strip_prefix("part-")?.strip_suffix(suffix)?;
    let number = digits.parse().ok()?;
    // Only the one spelling that is written: five digits, more where five do not hold the number.
    (digits == format!("{number:05}")).then_some(number)
}

/// Value of [`VERSION_KEY`] in a sidecar of this version.
pub fn version_value() -> String {
    schema().metadata().get(VERSION_KEY).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(vocab_size: u32) -> Header {
        let tokenizer = TokenizerIdentity { name: "t".into(), xxh3: 7, vocab_size, eos_id: 2, bos_id: Some(1), pad_id: 2 };
        Header {
            dtype: tokenizer.dtype(),
            shard: 3,
            last: true,
            num_tokens: 10,
            num_tail_tokens: 2,
            bin_xxh3: u128::MAX - 1,
            context_length: 4,
            packing: "concat/carry".into(),
            seed: 9,
            mix: None,
            tokenizer,
        }
    }

    #[test]
    fn header_survives_the_metadata() {
        let mut wanted = header(100);
        assert_eq!(Header::from_metadata(wanted.schema().metadata()), Ok(wanted.clone()));
        wanted.tokenizer.bos_id = None;
        wanted.mix = Some("{}".into());
        assert_eq!(Header::from_metadata(wanted.schema().metadata()), Ok(wanted));
        assert_eq!(version_value(), "token-shard/2");
    }

    #[test]
    fn errors_name_the_key() {
        let mut metadata = header(100).schema().metadata().clone();
        metadata.insert("osler.num_tokens".into(), "-1".into());
        let error = Header::from_metadata(&metadata).unwrap_err().to_string();
        assert_eq!(error, "metadata key `osler.num_tokens`: wanted a number in range, got -1");
        metadata.remove("osler.dtype");
        let error = Header::from_metadata(&metadata).unwrap_err().to_string();
        assert_eq!(error, "metadata key `osler.dtype`: wanted a value, got none");
    }

    #[test]
    fn names_are_read_as_written() {
        for number in [0, 99_999, 100_000] {
            assert_eq!(parse_bin_name(&bin_name(number)), Some(number));
            assert_eq!(parse_sidecar_name(&sidecar_name(number)), Some(number));
        }
        for name in ["part-1.bin", "part-000001.bin", "part-+0001.bin", "part-00001.parquet", "part-.bin"] {
            assert_eq!(parse_bin_name(name), None, "{name}");
        }
    }

    #[test]
    fn dtype_follows_the_vocabulary() {
        for (vocab_size, dtype) in [(1, Dtype::U16), (65_535, Dtype::U16), (65_536, Dtype::U32), (151_646, Dtype::U32)] {
            assert_eq!(header(vocab_size).tokenizer.dtype(), dtype, "{vocab_size}");
        }
    }
}
