//! Documents: what a reader yields, what operators pass on, and what rests in `corpus/`.
//!
//! Between stages a dropped record is not taken out of the stream: its text is cleared and `drop_stage`, `drop_reason` and `drop_detail`
//! are set. It travels on, untouched by later operators, to the next boundary, where it becomes a ledger row. So an operator has one
//! output, counts always add up, and a plan needs no side channel.

use crate::versioned;
use arrow::datatypes::{DataType, Field, Fields, SchemaRef};
use std::sync::{Arc, LazyLock};

/// Version of [`corpus_schema`] and [`flow_schema`].
pub const VERSION: u32 = 1;

/// The cleaned documents in `corpus/part-*.parquet`.
pub fn corpus_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| versioned("corpus", VERSION, public_fields()));
    SCHEMA.clone()
}

/// Documents between operators: the public columns, the place in the recipe's order, and why the record was dropped, if it was.
pub fn flow_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let mut fields = public_fields();
        fields.push(Field::new("source_index", DataType::UInt32, false));
        fields.push(Field::new("drop_stage", DataType::Utf8, true));
        fields.push(Field::new("drop_reason", DataType::Utf8, true));
        fields.push(Field::new("drop_detail", DataType::Utf8, true));
        versioned("documents", VERSION, fields)
    });
    SCHEMA.clone()
}

/// Documents at rest in `work/`: [`flow_schema`] without the drop columns, with `content_hash` and with `ordinal`, the position in
/// document order (source order of the recipe, then id). Ordinals number the records of one run; they never leave `work/`.
pub fn ordered_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let mut fields = vec![Field::new("ordinal", DataType::UInt64, false)];
        fields.extend(public_fields());
        fields.push(Field::new("source_index", DataType::UInt32, false));
        // XXH3-128 of the text, as 32 hexadecimal digits: equal for exact copies.
        fields.push(Field::new("content_hash", DataType::Utf8, false));
        versioned("ordered-documents", VERSION, fields)
    });
    SCHEMA.clone()
}

/// One section of a document: byte range `[start, end)` of `text`, from its title to the next section of the same or a higher level.
pub fn section_fields() -> Fields {
    Fields::from(vec![
        Field::new("title", DataType::Utf8, false),
        Field::new("level", DataType::UInt32, false),
        Field::new("start", DataType::UInt64, false),
        Field::new("end", DataType::UInt64, false),
    ])
}

/// Type of the `identifiers` column: `doi:10.1/x`, `pmid:1`, `pmcid:PMC1` and so on, sorted, without repeats.
pub fn identifiers_type() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, false)))
}

/// Type of the `sections` column.
pub fn sections_type() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::Struct(section_fields()), false)))
}

fn public_fields() -> Vec<Field> {
    vec![
        Field::new("doc_id", DataType::Utf8, false),
        Field::new("source", DataType::Utf8, false),
        // Path of the file below the source's root, then `#` and the record's number where a file holds several.
        Field::new("origin", DataType::Utf8, false),
        Field::new("title", DataType::Utf8, true),
        Field::new("text", DataType::Utf8, false),
        Field::new("language", DataType::Utf8, true),
        Field::new("license", DataType::Utf8, true),
        Field::new("identifiers", identifiers_type(), false),
        // ISO 8601, as exact as the source states it: `2015`, `2015-03` or `2015-03-21`.
        Field::new("published", DataType::Utf8, true),
        Field::new("sections", sections_type(), false),
        // A JSON object of strings, keys sorted.
        Field::new("metadata", DataType::Utf8, false),
        Field::new("num_bytes", DataType::UInt64, false),
        Field::new("num_words", DataType::UInt64, false),
    ]
}

/// A length to its five leading bits, so rounded down by less than a sixteenth: what counts of lengths are kept by, to be few.
pub fn rounded_length(length: u64) -> u64 {
    let shift = (u64::BITS - length.leading_zeros()).saturating_sub(5);
    length >> shift << shift
}

/// Words of a text: runs of characters between white space (Unicode White_Space), as [`str::split_whitespace`] gives them.
pub fn num_words(text: &str) -> u64 {
    let bytes = text.as_bytes();
    let (mut count, mut in_word, mut at) = (0, false, 0);
    while let Some(&byte) = bytes.get(at) {
        // 0x1C to 0x1F are no white space here, and of the bytes that begin a longer character only these four can begin a white one.
        let (white, width) = match byte {
            0x09..=0x0D | b' ' => (true, 1),
            0xC2 | 0xE1..=0xE3 => {
                let character = text.get(at..).and_then(|rest| rest.chars().next()).unwrap_or(' ');
                (character.is_whitespace(), character.len_utf8())
            }
            _ => (false, 1),
        };
        count += u64::from(!white && !in_word);
        in_word = !white;
        at += width;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::num_words;

    #[test]
    fn words_are_counted_as_they_are_split() {
        for character in '\0'..=char::MAX {
            let text = format!("{character}a{character}{character}é{character}b");
            assert_eq!(num_words(&text), text.split_whitespace().count() as u64, "{character:?}");
        }
        for text in ["", " ", "a", " a b ", "a\u{3000}漢字\u{a0}c"] {
            assert_eq!(num_words(text), text.split_whitespace().count() as u64, "{text:?}");
        }
    }
}
