//! Parquet files with a text column, such as FineWeb2.
//!
//! Streams: one batch of rows is decoded at a time, of the mapped columns alone, with as few rows as keep a batch near
//! [`BATCH_BYTES`]. Text may be any of Arrow's string types or a dictionary of them; dots descend into structs; lists give every element.

use crate::fields::{self, Mapping, Names, Row};
use crate::{Document, Emit, Limits, Reject};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Fields};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::ChunkReader;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How Parquet files are read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Which column becomes which field.
    pub fields: fields::Settings,
}

/// Decoded bytes that a batch aims at.
pub const BATCH_BYTES: usize = 16 << 20;

/// Reads a file row by row.
///
/// # Errors
///
/// The file is no Parquet file, is truncated or corrupt, or lacks a mapped column (with the nearest name that it has).
pub fn read<R: ChunkReader + 'static>(
    input: R,
    settings: &Settings,
    limits: &Limits,
    document: &mut Document,
    emit: &mut Emit<'_>,
) -> io::Result<ControlFlow<()>> {
    let file_bytes = input.len();
    let builder = guarded(|| ParquetRecordBatchReaderBuilder::try_new(input))?;
    check_ranges(builder.metadata(), file_bytes)?;
    let mut mapping = Mapping::new(&settings.fields);
    let schema = builder.schema().clone();
    let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
    mapping.resolve(&names, Names::Known, &|path| exists(schema.fields(), path))?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), mapping.columns().iter().map(String::as_str));
    let rows = batch_rows(builder.metadata(), &mask);
    let mut reader = guarded(|| builder.with_projection(mask).with_batch_size(rows).build())?;
    let mut number = 0;
    while let Some(batch) = guarded(|| reader.next().transpose())? {
        let find = |path: &String| column(batch.schema_ref().fields(), batch.columns(), path);
        let columns: Vec<Option<Column>> =
            mapping.columns().iter().map(find).collect::<Result<_, _>>().map_err(|error| broken(&error.to_string()))?;
        for row in 0..batch.num_rows() {
            let row = ParquetRow { columns: &columns, row };
            let filled = mapping.fill(&row, document);
            let reject = if !filled {
                Some(("no-text", "the text column is null or empty".to_owned()))
            } else if document.text.len() > limits.record_bytes_max {
                Some(("record-too-large", limits.too_large("the text")))
            } else {
                None
            };
            let flow = match reject {
                None => {
                    document.record = Some(number);
                    emit(Ok(&*document))
                }
                Some((reason, detail)) => emit(Err(Reject { record: Some(number), reason, byte: 0, detail })),
            };
            if flow.is_break() {
                return Ok(flow);
            }
            number += 1;
        }
    }
    Ok(ControlFlow::Continue(()))
}

struct ParquetRow<'a> {
    columns: &'a [Option<Column>],
    row: usize,
}

impl Row for ParquetRow<'_> {
    fn values(&self, column: usize, each: &mut dyn FnMut(&str)) {
        if let Some(Some(column)) = self.columns.get(column) {
            column.values(self.row, each);
        }
    }
}

/// A column of a batch with the structs it is nested in, whose nulls are its own.
struct Column {
    parents: Vec<ArrayRef>,
    array: ArrayRef,
}

impl Column {
    fn values(&self, row: usize, each: &mut dyn FnMut(&str)) {
        if self.parents.iter().all(|parent| parent.is_valid(row)) {
            values(&self.array, row, each);
        }
    }
}

fn values(array: &ArrayRef, row: usize, each: &mut dyn FnMut(&str)) {
    if row >= array.len() || array.is_null(row) {
        return;
    }
    let mut all = |items: ArrayRef| (0..items.len()).for_each(|item| values(&items, item, each));
    match array.data_type() {
        DataType::Utf8 => each(array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => each(array.as_string::<i64>().value(row)),
        DataType::Utf8View => each(array.as_string_view().value(row)),
        DataType::List(_) => all(array.as_list::<i32>().value(row)),
        DataType::LargeList(_) => all(array.as_list::<i64>().value(row)),
        DataType::FixedSizeList(..) => all(array.as_fixed_size_list().value(row)),
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_)
        | DataType::Struct(_)
        | DataType::Map(..) => {}
        _ => {
            let options = FormatOptions::default();
            if let Ok(formatter) = ArrayFormatter::try_new(array, &options) {
                let mut text = String::new();
                if write!(text, "{}", formatter.value(row)).is_ok() {
                    each(&text);
                }
            }
        }
    }
}

/// Finds the column at `path`, with dictionaries and binary that holds text resolved once per batch.
fn column(fields: &Fields, arrays: &[ArrayRef], path: &str) -> Result<Option<Column>, ArrowError> {
    let find = |name: &str| fields.iter().position(|field| field.name() == name).and_then(|at| arrays.get(at));
    if let Some(array) = find(path) {
        let array = match array.data_type() {
            DataType::Dictionary(_, values) => cast(array, values)?,
            // Writers that do not annotate strings leave them as bytes.
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => cast(array, &DataType::LargeUtf8)?,
            _ => array.clone(),
        };
        return Ok(Some(Column { parents: Vec::new(), array }));
    }
    let Some((first, rest)) = path.split_once('.') else { return Ok(None) };
    let Some(parent) = find(first) else { return Ok(None) };
    let DataType::Struct(inner) = parent.data_type() else { return Ok(None) };
    let mut found = column(inner, parent.as_struct().columns(), rest)?;
    if let Some(found) = &mut found {
        found.parents.push(parent.clone());
    }
    Ok(found)
}

fn exists(fields: &Fields, path: &str) -> bool {
    let find = |name: &str| fields.iter().find(|field| field.name() == name);
    find(path).is_some()
        || path.split_once('.').is_some_and(|(first, rest)| {
            find(first).is_some_and(|field| match field.data_type() {
                DataType::Struct(inner) => exists(inner, rest),
                _ => false,
            })
        })
}

/// Rows per batch such that the widest row group's projected bytes come to about [`BATCH_BYTES`].
fn batch_rows(metadata: &ParquetMetaData, mask: &ProjectionMask) -> usize {
    const ROWS_MAX: usize = 1024;
    let row_bytes = metadata.row_groups().iter().map(|group| {
        let columns = group.columns().iter().enumerate().filter(|(at, _)| mask.leaf_included(*at));
        let bytes: i64 = columns.map(|(_, column)| column.uncompressed_size().max(0)).fold(0, i64::saturating_add);
        bytes / group.num_rows().max(1)
    });
    let widest = usize::try_from(row_bytes.max().unwrap_or(0)).unwrap_or(usize::MAX);
    (BATCH_BYTES / widest.max(1)).clamp(1, ROWS_MAX)
}

/// Runs a step of the decoder, which panics on some corrupt files; nothing of it is used after that.
fn guarded<T, E: std::fmt::Display>(step: impl FnOnce() -> Result<T, E>) -> io::Result<T> {
    match catch_unwind(AssertUnwindSafe(step)) {
        Ok(result) => result.map_err(|error| broken(&error.to_string())),
        Err(_) => Err(broken("its pages contradict its footer")),
    }
}

/// Checks that every column chunk lies within the file, which the decoder asserts or allocates by.
fn check_ranges(metadata: &ParquetMetaData, file_bytes: u64) -> io::Result<()> {
    for column in metadata.row_groups().iter().flat_map(|group| group.columns()) {
        let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
        let end = u64::try_from(start)
            .ok()
            .zip(u64::try_from(column.compressed_size()).ok())
            .and_then(|(start, length)| start.checked_add(length));
        if end.is_none_or(|end| end > file_bytes) {
            return Err(broken("a column lies outside the file"));
        }
    }
    Ok(())
}

fn broken(error: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not a whole Parquet file: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        DictionaryArray, Int64Array, ListArray, RecordBatch, StringArray, StringViewArray, StructArray, TimestampMillisecondArray,
    };
    use arrow::datatypes::{Field, Int32Type, Schema, UInt8Type};
    use bytes::Bytes;
    use parquet::arrow::ArrowWriter;
    use proptest::prelude::*;
    use std::sync::Arc;

    type Found = Vec<Result<Document, &'static str>>;

    fn run(bytes: &[u8], settings: &str, limits: &Limits) -> io::Result<Found> {
        let mut out = Vec::new();
        let settings: Settings = toml::from_str(settings).unwrap();
        let flow = read(Bytes::copy_from_slice(bytes), &settings, limits, &mut Document::default(), &mut |found| {
            out.push(found.cloned().map_err(|reject| reject.reason));
            ControlFlow::Continue(())
        })?;
        assert!(flow.is_continue());
        Ok(out)
    }

    /// A file with the columns of FineWeb2 and a few kinds of columns more.
    fn file() -> Vec<u8> {
        let texts = StringViewArray::from(vec![Some("Eins.\r\n\r\nZwei. "), None, Some(" "), Some("vier")]);
        let languages: DictionaryArray<UInt8Type> = vec![Some("deu"), Some("deu"), None, Some("fra")].into_iter().collect();
        let urls = Arc::new(StringArray::from(vec![Some("https://a"), None, Some("https://c"), Some("https://d")]));
        let nested = StructArray::from(vec![(Arc::new(Field::new("url", DataType::Utf8, true)), urls as ArrayRef)]);
        let list = |numbers: &[i32]| Some(numbers.iter().map(|number| Some(*number)).collect::<Vec<_>>());
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([list(&[1, 2]), None, list(&[]), list(&[3])]);
        let dates = TimestampMillisecondArray::from(vec![Some(1_368_873_747_000), None, None, Some(0)]);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("text", Arc::new(texts)),
            ("id", Arc::new(Int64Array::from(vec![1, 2, 3, 4]))),
            ("language", Arc::new(languages)),
            ("meta", Arc::new(nested)),
            ("lists", Arc::new(lists)),
            ("date", Arc::new(dates)),
        ];
        let fields: Vec<Field> = columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, array)| array).collect()).unwrap();
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
        for half in [batch.slice(0, 2), batch.slice(2, 2)] {
            writer.write(&half).unwrap();
            writer.flush().unwrap();
        }
        writer.close().unwrap();
        bytes
    }

    #[test]
    fn rows_of_every_kind_of_column() {
        let settings =
            "fields = { id = 'id', id_scheme = 'fineweb', language = 'language', published = 'date', metadata = ['meta.url', 'lists'] }";
        let found = run(&file(), settings, &Limits::default()).unwrap();
        assert_eq!(found.len(), 4);
        let first = found[0].as_ref().unwrap();
        assert_eq!((first.text.as_str(), first.language.as_deref(), first.record), ("Eins.\n\nZwei.", Some("de"), Some(0)));
        assert_eq!((first.identifiers[0].as_str(), first.published.as_deref()), ("fineweb:1", Some("2013-05-18")));
        assert_eq!((first.metadata["meta.url"].as_str(), first.metadata["lists"].as_str()), ("https://a", "1; 2"));
        assert_eq!((found[1].as_ref().unwrap_err(), found[2].as_ref().unwrap_err()), (&"no-text", &"no-text"));
        assert_eq!(found[3].as_ref().unwrap().record, Some(3));
    }

    #[test]
    fn only_mapped_columns_are_decoded_and_missing_ones_are_named() {
        let found = run(&file(), "", &Limits::default()).unwrap();
        assert!(found[0].as_ref().unwrap().metadata.is_empty());
        let all = run(&file(), "fields = { metadata = '*' }", &Limits::default()).unwrap();
        assert_eq!(all[3].as_ref().unwrap().metadata["id"], "4");
        for (settings, near) in [
            ("fields = { text = 'txt' }", "\"text\""),
            ("fields = { title = 'meta.uri' }", "columns"),
            ("fields = { title = 'ids' }", "\"id\""),
        ] {
            let error = run(&file(), settings, &Limits::default()).unwrap_err().to_string();
            assert!(error.contains("there is no column") && (error.contains(near) || error.contains("it has")), "{error}");
        }
    }

    #[test]
    fn too_large_and_broken() {
        let found = run(&file(), "", &Limits { record_bytes_max: 5, ..Limits::default() }).unwrap();
        assert_eq!(found[0].as_ref().unwrap_err(), &"record-too-large");
        assert!(found[3].is_ok());
        let whole = file();
        for bytes in [&whole[..whole.len() - 1], &whole[..whole.len() / 2], b"text,b\n1,2\n", b"PAR1", b""] {
            let error = run(bytes, "", &Limits::default()).unwrap_err();
            assert!(error.kind() == io::ErrorKind::InvalidData && error.to_string().contains("Parquet"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn mutations_never_panic(at in 0usize..4096, byte: u8) {
            let mut bytes = file();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = run(&bytes, "fields = { metadata = '*' }", &Limits::default());
        }
    }
}
