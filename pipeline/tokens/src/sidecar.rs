//! The sidecar of a shard: its plan, and its bytes.

use crate::error::Error;
use crate::mix::MixConfig;
use crate::pack::{self, PackConfig, Piece, Plan};
use arrow::array::{ArrayRef, ListArray, RecordBatch, StringArray, StructArray, UInt32Array, UInt64Array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, FieldRef};
use arrow::error::ArrowError;
use arrow::ipc::MetadataVersion;
use arrow::ipc::writer::{FileWriter, IpcWriteOptions};
use osler_schemas::sequence::piece_fields;
use osler_schemas::shard::{self, Header};
use std::ops::Range;
use std::sync::Arc;

/// One document of a shard, or the part of it that lies there.
#[derive(Clone)]
pub(crate) struct Row {
    pub doc_id: Box<str>,
    pub source: u32,
    pub offset: u64,
    pub start: u64,
    pub len: u64,
}

/// Which tokens of a shard make which chunk.
pub(crate) fn plan(rows: &[Row], sources: &[String], config: &PackConfig, mix: &MixConfig) -> Result<Plan, Error> {
    let parts: Vec<Option<usize>> = sources.iter().map(|name| mix.part_of(name)).collect();
    let lengths: Vec<u64> = rows.iter().map(|row| row.len).collect();
    let part_of = |row: usize| parts.get(rows[row].source as usize).copied().flatten();
    pack::plan_parts(&lengths, part_of, config).map_err(|error| Error::Data(error.to_string()))
}

/// The bytes of a sidecar. `loss` holds the spans of the file that count in the loss; `None`: all.
pub(crate) fn bytes(
    header: &Header,
    sources: &[String],
    rows: &[Row],
    loss: Option<&[Range<u64>]>,
    plan: &Plan,
) -> Result<Vec<u8>, ArrowError> {
    let documents = StructArray::try_new(
        shard::document_fields(),
        vec![
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.doc_id))),
            Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.source))),
            Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.offset))),
            Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.start))),
            Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.len))),
        ],
        None,
    )?;
    let everything = match loss {
        None => true,
        Some([]) => header.num_tokens == 0,
        Some([range]) => *range == (0..header.num_tokens),
        Some(_) => false,
    };
    let loss = loss.filter(|_| !everything).unwrap_or_default();
    let loss = StructArray::try_new(
        shard::loss_fields(),
        vec![
            Arc::new(UInt64Array::from_iter_values(loss.iter().map(|range| range.start))),
            Arc::new(UInt64Array::from_iter_values(loss.iter().map(|range| range.end - range.start))),
        ],
        None,
    )?;
    let schema = header.schema();
    let columns: Vec<ArrayRef> = vec![
        one_list(schema.field(0).data_type(), Arc::new(StringArray::from_iter_values(sources)), false)?,
        one_list(schema.field(1).data_type(), Arc::new(documents), false)?,
        one_list(schema.field(2).data_type(), Arc::new(chunk_array(rows, plan)?), false)?,
        one_list(schema.field(3).data_type(), Arc::new(loss), everything)?,
    ];
    let batch = RecordBatch::try_new(schema.clone(), columns)?;
    let options = IpcWriteOptions::try_new(64, false, MetadataVersion::V5)?;
    let mut writer = FileWriter::try_new_with_options(Vec::new(), &schema, options)?;
    writer.write(&batch)?;
    writer.write_metadata(shard::CHECKSUM_KEY, shard::CHECKSUM_BLANK);
    let mut file = writer.into_inner()?;
    shard::seal(&mut file).map_err(|error| ArrowError::IpcError(error.to_string()))?;
    Ok(file)
}

fn chunk_array(rows: &[Row], plan: &Plan) -> Result<StructArray, ArrowError> {
    let row = |document: u64| &rows[document as usize];
    let pieces = StructArray::try_new(
        piece_fields(),
        vec![
            Arc::new(UInt64Array::from_iter_values(plan.pieces.iter().map(|piece| piece.document))),
            Arc::new(UInt64Array::from_iter_values(plan.pieces.iter().map(|piece| row(piece.document).offset + piece.offset))),
            Arc::new(UInt64Array::from_iter_values(plan.pieces.iter().map(|piece| piece.start))),
            Arc::new(UInt32Array::from_iter_values(plan.pieces.iter().map(|piece| piece.len))),
            Arc::new(UInt32Array::from_iter_values(plan.pieces.iter().map(|piece| row(piece.document).source))),
        ],
        None,
    )?;
    let mut cu_seqlens = Vec::with_capacity(plan.pieces.len() + plan.len());
    let mut padding = Vec::with_capacity(plan.len());
    for chunk in plan.chunks() {
        let mut used = 0;
        cu_seqlens.push(0);
        for piece in chunk {
            used += piece.len;
            cu_seqlens.push(used);
        }
        padding.push(plan.context_length - used);
    }
    let fields = shard::chunk_fields();
    let sizes = || plan.chunks().map(<[Piece]>::len);
    let lengths =
        list(fields[0].data_type(), OffsetBuffer::from_lengths(sizes().map(|size| size + 1)), Arc::new(UInt32Array::from(cu_seqlens)))?;
    let pieces = list(fields[1].data_type(), OffsetBuffer::from_lengths(sizes()), Arc::new(pieces))?;
    StructArray::try_new(fields, vec![lengths, pieces, Arc::new(UInt32Array::from(padding))], None)
}

/// A list column of one row, which is `values`, or null.
fn one_list(data_type: &DataType, values: ArrayRef, null: bool) -> Result<ArrayRef, ArrowError> {
    let offsets = OffsetBuffer::from_lengths([values.len()]);
    let nulls = null.then(|| arrow::buffer::NullBuffer::new_null(1));
    Ok(Arc::new(ListArray::try_new(item_field(data_type)?, offsets, values, nulls)?))
}

fn list(data_type: &DataType, offsets: OffsetBuffer<i32>, values: ArrayRef) -> Result<ArrayRef, ArrowError> {
    Ok(Arc::new(ListArray::try_new(item_field(data_type)?, offsets, values, None)?))
}

fn item_field(data_type: &DataType) -> Result<FieldRef, ArrowError> {
    match data_type {
        DataType::List(item) => Ok(item.clone()),
        other => Err(ArrowError::SchemaError(format!("wanted a list, got {other}"))),
    }
}
