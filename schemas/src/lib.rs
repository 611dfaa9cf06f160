//! What flows through Osler and how it rests: Arrow schemas, document ids, spans, packed sequences, the manifest, the
//! shard format and recipe files.
//!
//! Every table has a version. It travels in the schema's metadata under [`VERSION_KEY`], and [`expect::schema`] refuses a table of
//! another version or shape with an error that names the column, what was wanted and what was found. This crate does no I/O, starts no
//! threads and knows no device.

pub mod cluster;
pub mod document;
pub mod expect;
pub mod id;
pub mod index;
pub mod ledger;
pub mod manifest;
pub mod recipe;
pub mod sequence;
pub mod shard;
pub mod sketch;
pub mod span;

pub use expect::SchemaError;
pub use id::DocumentId;

/// Schema metadata key that holds a table's name and version, such as `documents/1`.
pub const VERSION_KEY: &str = "osler.schema";

use arrow::datatypes::{Field, Schema, SchemaRef};
use std::collections::HashMap;
use std::sync::Arc;

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Builds a schema whose metadata carries `name/version`.
pub(crate) fn versioned(name: &str, version: u32, fields: Vec<Field>) -> SchemaRef {
    let metadata = HashMap::from([(VERSION_KEY.to_string(), format!("{name}/{version}"))]);
    Arc::new(Schema::new_with_metadata(fields, metadata))
}
