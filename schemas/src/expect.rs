//! Checks a batch or file against the schema a stage needs; a mismatch names the column, what was wanted and what was found.

use crate::VERSION_KEY;
use arrow::array::{Array, ArrayRef, AsArray, Float64Array, ListArray, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Float64Type, Schema, UInt32Type, UInt64Type};

/// A table that is not what a stage needs.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SchemaError {
    /// The column is not there.
    #[error("column `{column}` is missing: wanted {wanted}")]
    Missing { column: String, wanted: String },
    /// The column has another type.
    #[error("column `{column}` has the wrong type: wanted {wanted}, got {got}")]
    Type { column: String, wanted: String, got: String },
    /// The table was written under another name or version.
    #[error("table version: wanted `{wanted}`, got `{got}`; run the stage that wrote it again")]
    Version { wanted: String, got: String },
}

/// Checks that `got` has every column of `wanted` with its type, and the same table version. Extra columns are allowed.
///
/// # Errors
/// The first [`SchemaError`] in column order.
pub fn schema(got: &Schema, wanted: &Schema) -> Result<(), SchemaError> {
    if let Some(version) = wanted.metadata().get(VERSION_KEY) {
        let found = got.metadata().get(VERSION_KEY).map_or("none", String::as_str);
        if found != version {
            return Err(SchemaError::Version { wanted: version.clone(), got: found.to_string() });
        }
    }
    for field in wanted.fields() {
        let Ok(found) = got.field_with_name(field.name()) else {
            return Err(SchemaError::Missing { column: field.name().clone(), wanted: field.data_type().to_string() });
        };
        if !found.data_type().equals_datatype(field.data_type()) {
            return Err(mismatch(field.name(), field.data_type(), found.data_type()));
        }
    }
    Ok(())
}

/// The columns that `wanted` names, in its order, with its types.
///
/// # Errors
/// [`SchemaError`] for the first that is missing or of another type.
pub fn columns(batch: &RecordBatch, wanted: &Schema) -> Result<Vec<ArrayRef>, SchemaError> {
    let wanted = wanted.fields().iter();
    wanted
        .map(|field| {
            let found = batch.column_by_name(field.name());
            let missing = || SchemaError::Missing { column: field.name().clone(), wanted: field.data_type().to_string() };
            let found = found.ok_or_else(missing)?;
            let fits = found.data_type().equals_datatype(field.data_type());
            if fits { Ok(found.clone()) } else { Err(mismatch(field.name(), field.data_type(), found.data_type())) }
        })
        .collect()
}

fn mismatch(column: &str, wanted: &DataType, got: &DataType) -> SchemaError {
    SchemaError::Type { column: column.to_string(), wanted: wanted.to_string(), got: got.to_string() }
}

fn column<'a>(batch: &'a RecordBatch, name: &str, wanted: &DataType) -> Result<&'a ArrayRef, SchemaError> {
    let Some(array) = batch.column_by_name(name) else {
        return Err(SchemaError::Missing { column: name.to_string(), wanted: wanted.to_string() });
    };
    if array.data_type() != wanted {
        return Err(mismatch(name, wanted, array.data_type()));
    }
    Ok(array)
}

/// The Utf8 column `name` of `batch`.
///
/// # Errors
/// [`SchemaError`] when it is missing or of another type.
pub fn utf8<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a StringArray, SchemaError> {
    Ok(column(batch, name, &DataType::Utf8)?.as_string())
}

/// The UInt64 column `name` of `batch`.
///
/// # Errors
/// [`SchemaError`] when it is missing or of another type.
pub fn u64<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a UInt64Array, SchemaError> {
    Ok(column(batch, name, &DataType::UInt64)?.as_primitive::<UInt64Type>())
}

/// The UInt32 column `name` of `batch`.
///
/// # Errors
/// [`SchemaError`] when it is missing or of another type.
pub fn u32<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a UInt32Array, SchemaError> {
    Ok(column(batch, name, &DataType::UInt32)?.as_primitive::<UInt32Type>())
}

/// The Float64 column `name` of `batch`.
///
/// # Errors
/// [`SchemaError`] when it is missing or of another type.
pub fn f64<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a Float64Array, SchemaError> {
    Ok(column(batch, name, &DataType::Float64)?.as_primitive::<Float64Type>())
}

/// The List column `name` of `batch`, whatever its items.
///
/// # Errors
/// [`SchemaError`] when it is missing or not a list.
pub fn list<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ListArray, SchemaError> {
    let wanted = "List";
    let Some(array) = batch.column_by_name(name) else {
        return Err(SchemaError::Missing { column: name.to_string(), wanted: wanted.to_string() });
    };
    array.as_list_opt().ok_or_else(|| SchemaError::Type {
        column: name.to_string(),
        wanted: wanted.to_string(),
        got: array.data_type().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::Field;
    use std::collections::HashMap;

    fn table(version: &str, columns: &[(&str, DataType)]) -> Schema {
        let fields: Vec<Field> = columns.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect();
        Schema::new_with_metadata(fields, HashMap::from([(VERSION_KEY.to_string(), version.to_string())]))
    }

    #[test]
    fn errors_name_column_wanted_and_got() {
        let wanted = table("t/1", &[("text", DataType::Utf8)]);
        let check = |got: Schema| schema(&got, &wanted).map_err(|error| error.to_string());
        assert_eq!(check(table("t/1", &[("extra", DataType::Int8), ("text", DataType::Utf8)])), Ok(()));
        assert_eq!(check(table("t/1", &[])).unwrap_err(), "column `text` is missing: wanted Utf8");
        assert_eq!(
            check(table("t/1", &[("text", DataType::LargeUtf8)])).unwrap_err(),
            "column `text` has the wrong type: wanted Utf8, got LargeUtf8"
        );
        assert_eq!(
            check(table("t/2", &[("text", DataType::Utf8)])).unwrap_err(),
            "table version: wanted `t/1`, got `t/2`; run the stage that wrote it again"
        );
    }
}
