//! The tables of a run: what SQL calls each, where it rests, and its schema.

use crate::boundary::RunFolder;
use crate::error::Error;
use arrow::datatypes::SchemaRef;
use osler_corpus::near_duplicates::candidates::candidate_schema;
use osler_schemas::{cluster, document, expect, index, ledger, sketch, span};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use std::fs::File;

/// A table in a run's folder.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// What SQL calls it.
    pub name: &'static str,
    /// Its folder, relative to the run's.
    pub folder: &'static str,
    /// The columns and the version it is written with.
    pub schema: fn() -> SchemaRef,
    /// Columns by which its rows are sorted, part after part: what they are read in the order of needs no sort.
    pub order: &'static [&'static str],
}

/// Documents that passed the length filter, in order, numbered.
pub const DOCUMENTS: Table = Table { name: "documents", folder: "work/documents", schema: document::ordered_schema, order: &["ordinal"] };
/// Ledger rows of what parsing and the length filter dropped.
pub const DROPPED: Table = Table { name: "dropped", folder: "work/dropped", schema: ledger::schema, order: &[] };
/// Documents that are not sketched, since an exact copy or an index stands for them.
pub const COPIES: Table = Table { name: "copies", folder: "work/copies", schema: sketch::ordinal_schema, order: &["ordinal"] };
/// New documents that an index has already.
pub const AGAINST: Table = Table { name: "against", folder: "work/against", schema: index::against_schema, order: &["ordinal"] };
/// Band keys of an index.
pub const INDEXED_BANDS: Table = Table { name: "indexed_bands", folder: "index/bands", schema: index::band_schema, order: &[] };
/// Documents of an index.
pub const INDEXED: Table = Table { name: "indexed", folder: "index/documents", schema: index::document_schema, order: &[] };
/// Candidate pairs.
pub const CANDIDATES: Table = Table { name: "candidates", folder: "work/candidates", schema: candidate_schema, order: &["left", "right"] };
/// Candidate pairs with their Jaccard similarity.
pub const PAIRS: Table = Table { name: "pairs", folder: "work/pairs", schema: sketch::pair_schema, order: &["left", "right"] };
/// Which document stands for which.
pub const CLUSTERS: Table = Table { name: "clusters", folder: "work/clusters", schema: cluster::schema, order: &["ordinal"] };
/// Spans to cut, by pass, document and start.
pub const SPANS: Table = Table { name: "spans", folder: "work/spans", schema: span::schema, order: &["pass", "ordinal", "start"] };
/// Ledger rows of whole documents removed after parsing.
pub const REMOVED: Table = Table { name: "removed", folder: "work/removed", schema: ledger::schema, order: &[] };
/// The cleaned documents.
pub const CORPUS: Table = Table { name: "corpus", folder: "corpus", schema: document::corpus_schema, order: &[] };
/// Everything removed.
pub const LEDGER: Table = Table { name: "ledger", folder: "ledger", schema: ledger::schema, order: &[] };

impl Table {
    /// Checks every part against the schema, version included.
    ///
    /// # Errors
    /// When there is no such table, or a part is not what this version of the program writes: names the file, the column, what was wanted
    /// and what is there.
    pub fn check(&self, folder: &RunFolder) -> Result<(), Error> {
        let wanted = (self.schema)();
        let place = folder.path(self.folder);
        for entry in std::fs::read_dir(&place).map_err(|error| Error::io(&place, error))? {
            let path = entry.map_err(|error| Error::io(&place, error))?.path();
            let file = File::open(&path).map_err(|error| Error::io(&path, error))?;
            let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).map_err(|error| Error::parquet(&path, error))?;
            expect::schema(metadata.schema(), &wanted).map_err(|error| Error::User(format!("{}: {error}", path.display())))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boundary::TableWriter;

    #[test]
    fn a_table_of_another_kind_is_refused_by_file_and_version() {
        let root = std::env::temp_dir().join(format!("osler-tables-{}", std::process::id()));
        let folder = RunFolder { root: root.clone() };
        TableWriter::new(&folder, &SPANS).and_then(TableWriter::finish).unwrap();
        folder.publish(&SPANS).unwrap();
        assert!(SPANS.check(&folder).is_ok());
        std::fs::rename(folder.path("work/spans"), folder.path("work/clusters")).unwrap();
        let error = CLUSTERS.check(&folder).unwrap_err().to_string();
        std::fs::remove_dir_all(root).unwrap();
        assert!(error.contains("part-00000.parquet") && error.contains("wanted `"), "{error}");
    }
}
