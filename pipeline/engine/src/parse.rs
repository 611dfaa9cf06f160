//! Parse: the operator that reads files and yields documents, with ids, licences judged and rejects marked as dropped.
//!
//! in: rows of [`files_schema`], one per file. out: [`document::flow_schema`]. keeps: one batch being filled.

use crate::context::Context;
use arrow::array::{
    ArrayRef, ListBuilder, RecordBatch, StringArray, StringBuilder, StructBuilder, UInt32Array, UInt32Builder, UInt64Array, UInt64Builder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use osler_corpus::operator::{Error, Operator, Sink, give};
use osler_datasets::limits::Limits;
use osler_datasets::list::FileEntry;
use osler_datasets::read::read_file;
use osler_datasets::source::SourceConfig;
use osler_datasets::{Document, Reject, license};
use osler_schemas::manifest::Input;
use osler_schemas::{DocumentId, document, expect};
use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

/// Name of the stage in counts and the ledger.
pub const STAGE: &str = "parse";

/// Text bytes after which a batch goes on, whatever its rows.
const BATCH_BYTES: usize = 8 << 20;

/// What the operator takes: one row per file.
pub fn files_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        Arc::new(Schema::new(vec![
            Field::new("source_index", DataType::UInt32, false),
            Field::new("url", DataType::Utf8, false),
            Field::new("path", DataType::Utf8, false),
            Field::new("num_bytes", DataType::UInt64, false),
        ]))
    });
    SCHEMA.clone()
}

/// Files as a batch of [`files_schema`].
pub fn files_batch(files: &[&FileEntry]) -> Result<RecordBatch, arrow::error::ArrowError> {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(files.iter().map(|file| file.source_index).collect::<UInt32Array>()),
        Arc::new(StringArray::from_iter_values(files.iter().map(|file| &file.url))),
        Arc::new(StringArray::from_iter_values(files.iter().map(|file| &file.path))),
        Arc::new(files.iter().map(|file| file.num_bytes).collect::<UInt64Array>()),
    ];
    RecordBatch::try_new(files_schema(), columns)
}

/// The operator.
pub struct Parse {
    sources: Arc<Vec<SourceConfig>>,
    limits: Limits,
    batch_rows: usize,
    context: Arc<Context>,
    rows: Rows,
}

impl Parse {
    pub fn new(sources: Arc<Vec<SourceConfig>>, limits: Limits, batch_rows: usize, context: Arc<Context>) -> Self {
        Self { sources, limits, batch_rows, context, rows: Rows::default() }
    }

    fn read(&mut self, file: &FileEntry, out: &mut dyn Sink) -> Result<(), Error> {
        let Self { sources, limits, batch_rows, context, rows } = self;
        let source = &sources[file.source_index as usize];
        let mut failed = None;
        let mut emit = |record: Result<&Document, Reject>| {
            match record {
                Ok(document) => rows.document(source, file, document),
                Err(reject) => rows.reject(source, file, &reject),
            }
            if !rows.are_enough(*batch_rows) {
                return ControlFlow::Continue(());
            }
            let stop = context.check_cancelled().map_err(|_| Error::Closed);
            match stop.and_then(|()| rows.flush(out)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        };
        let summary = read_file(source, file, &context.stores, limits, &mut emit);
        if let Some(error) = failed {
            return Err(error);
        }
        let summary = summary.map_err(|error| Error::Data { operator: STAGE, problem: chain(&error) })?;
        context.read_input(Input {
            source: source.name.clone(),
            path: file.path.clone(),
            num_bytes: summary.num_bytes,
            hash: summary.hash,
        });
        Ok(())
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

impl Operator for Parse {
    fn name(&self) -> &'static str {
        STAGE
    }

    fn output_schema(&self) -> SchemaRef {
        document::flow_schema()
    }

    fn push(&mut self, batch: RecordBatch, out: &mut dyn Sink) -> Result<(), Error> {
        let schema = |source| Error::Schema { operator: STAGE, source };
        let index = expect::u32(&batch, "source_index").map_err(schema)?;
        let (url, path) = (expect::utf8(&batch, "url").map_err(schema)?, expect::utf8(&batch, "path").map_err(schema)?);
        let num_bytes = expect::u64(&batch, "num_bytes").map_err(schema)?;
        for row in 0..batch.num_rows() {
            let source_index = index.value(row);
            let Some(source) = self.sources.get(source_index as usize) else {
                return Err(Error::Data { operator: STAGE, problem: format!("file of source {source_index}, which the recipe lacks") });
            };
            let file = FileEntry {
                source: source.name.clone(),
                source_index,
                url: url.value(row).to_string(),
                path: path.value(row).to_string(),
                num_bytes: num_bytes.value(row),
                version: String::new(),
            };
            self.read(&file, out)?;
            self.context.advance(file.num_bytes);
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut dyn Sink) -> Result<(), Error> {
        self.rows.flush(out)
    }

    fn memory_bytes(&self) -> usize {
        self.rows.text_bytes
    }
}

/// A batch of [`document::flow_schema`] being filled.
pub(crate) struct Rows {
    doc_id: StringBuilder,
    source: StringBuilder,
    origin: StringBuilder,
    title: StringBuilder,
    text: StringBuilder,
    language: StringBuilder,
    license: StringBuilder,
    identifiers: ListBuilder<StringBuilder>,
    published: StringBuilder,
    sections: ListBuilder<StructBuilder>,
    metadata: StringBuilder,
    num_bytes: UInt64Builder,
    num_words: UInt64Builder,
    source_index: UInt32Builder,
    drop_stage: StringBuilder,
    drop_reason: StringBuilder,
    drop_detail: StringBuilder,
    text_bytes: usize,
    /// Source, what a record last stated of its licence, and what that came to.
    judged: Option<(u32, Option<String>, (Option<String>, license::Verdict))>,
}

impl Default for Rows {
    fn default() -> Self {
        let item = |kind: DataType| Arc::new(Field::new_list_field(kind, false));
        let section = StructBuilder::from_fields(document::section_fields(), 0);
        Self {
            doc_id: StringBuilder::new(),
            source: StringBuilder::new(),
            origin: StringBuilder::new(),
            title: StringBuilder::new(),
            text: StringBuilder::new(),
            language: StringBuilder::new(),
            license: StringBuilder::new(),
            identifiers: ListBuilder::new(StringBuilder::new()).with_field(item(DataType::Utf8)),
            published: StringBuilder::new(),
            sections: ListBuilder::new(section).with_field(item(DataType::Struct(document::section_fields()))),
            metadata: StringBuilder::new(),
            num_bytes: UInt64Builder::new(),
            num_words: UInt64Builder::new(),
            source_index: UInt32Builder::new(),
            drop_stage: StringBuilder::new(),
            drop_reason: StringBuilder::new(),
            drop_detail: StringBuilder::new(),
            text_bytes: 0,
            judged: None,
        }
    }
}

impl Rows {
    /// Whether a batch is full.
    pub(crate) fn are_enough(&self, batch_rows: usize) -> bool {
        self.len() >= batch_rows || self.text_bytes >= BATCH_BYTES
    }

    fn len(&self) -> usize {
        arrow::array::ArrayBuilder::len(&self.doc_id)
    }

    pub(crate) fn document(&mut self, source: &SourceConfig, file: &FileEntry, document: &Document) {
        let mut identifiers = document.identifiers.clone();
        identifiers.sort_unstable();
        identifiers.dedup();
        let metadata = serde_json::to_string(&document.metadata).unwrap_or_else(|_| "{}".into());
        let title = document.title.as_deref().unwrap_or_default();
        let joined = identifiers.join("\n");
        let parts: [&[u8]; 6] = [
            source.name.as_bytes(),
            file.path.as_bytes(),
            title.as_bytes(),
            joined.as_bytes(),
            document.text.as_bytes(),
            metadata.as_bytes(),
        ];
        self.doc_id.append_value(DocumentId::of(&parts).to_string());
        self.place(source, file, document.record);
        let (license, verdict) = self.judge(source, file.source_index, document.license.as_deref());
        let dropped = match verdict {
            license::Verdict::Allowed => None,
            license::Verdict::Unknown => Some("license-unknown"),
            license::Verdict::NotAllowed => Some("license-not-allowed"),
        };
        let dropped = dropped.or_else(|| document.text.is_empty().then_some("no-text"));
        self.title.append_option(document.title.as_deref());
        self.text.append_value(if dropped.is_some() { "" } else { &document.text });
        self.language.append_option(document.language.as_deref().or(source.language.as_deref()));
        self.license.append_option(license.as_deref());
        identifiers.iter().for_each(|identifier| self.identifiers.values().append_value(identifier));
        self.identifiers.append(true);
        self.published.append_option(document.published.as_deref());
        for section in document.sections.iter().filter(|_| dropped.is_none()) {
            self.section(section);
        }
        self.sections.append(true);
        self.metadata.append_value(&metadata);
        self.num_bytes.append_value(document.text.len() as u64);
        self.num_words.append_value(document::num_words(&document.text));
        self.drop_stage.append_option(dropped.map(|_| STAGE));
        self.drop_reason.append_option(dropped);
        self.drop_detail.append_option(dropped.and(license.as_deref()));
        self.text_bytes += document.text.len();
    }

    /// As [`SourceConfig::judge_license`]; most records of a source state what the one before stated.
    fn judge(&mut self, source: &SourceConfig, source_index: u32, stated: Option<&str>) -> (Option<String>, license::Verdict) {
        match &self.judged {
            Some((index, before, judged)) if *index == source_index && before.as_deref() == stated => judged.clone(),
            _ => {
                let judged = source.judge_license(stated);
                self.judged = Some((source_index, stated.map(str::to_string), judged.clone()));
                judged
            }
        }
    }

    fn section(&mut self, section: &osler_datasets::Section) {
        let row = self.sections.values();
        if let Some(title) = row.field_builder::<StringBuilder>(0) {
            title.append_value(&section.title);
        }
        if let Some(level) = row.field_builder::<UInt32Builder>(1) {
            level.append_value(section.level);
        }
        for (index, byte) in [(2, section.start), (3, section.end)] {
            if let Some(field) = row.field_builder::<UInt64Builder>(index) {
                field.append_value(byte as u64);
            }
        }
        row.append(true);
    }

    pub(crate) fn reject(&mut self, source: &SourceConfig, file: &FileEntry, reject: &Reject) {
        let record = reject.record.unwrap_or(u64::MAX).to_le_bytes();
        let parts: [&[u8]; 5] =
            [source.name.as_bytes(), file.path.as_bytes(), &record, &reject.byte.to_le_bytes(), reject.reason.as_bytes()];
        self.doc_id.append_value(DocumentId::of(&parts).to_string());
        self.place(source, file, reject.record);
        for column in [&mut self.title, &mut self.language, &mut self.license, &mut self.published] {
            column.append_null();
        }
        self.text.append_value("");
        self.identifiers.append(true);
        self.sections.append(true);
        self.metadata.append_value("{}");
        self.num_bytes.append_value(0);
        self.num_words.append_value(0);
        self.drop_stage.append_value(STAGE);
        self.drop_reason.append_value(reject.reason);
        self.drop_detail.append_value(format!("byte {}: {}", reject.byte, reject.detail));
    }

    fn place(&mut self, source: &SourceConfig, file: &FileEntry, record: Option<u64>) {
        self.source.append_value(&source.name);
        self.source_index.append_value(file.source_index);
        match record {
            Some(record) => self.origin.append_value(format!("{}#{record}", file.path)),
            None => self.origin.append_value(&file.path),
        }
    }

    pub(crate) fn flush(&mut self, out: &mut dyn Sink) -> Result<(), Error> {
        if self.len() == 0 {
            return Ok(());
        }
        self.text_bytes = 0;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.doc_id.finish()),
            Arc::new(self.source.finish()),
            Arc::new(self.origin.finish()),
            Arc::new(self.title.finish()),
            Arc::new(self.text.finish()),
            Arc::new(self.language.finish()),
            Arc::new(self.license.finish()),
            Arc::new(self.identifiers.finish()),
            Arc::new(self.published.finish()),
            Arc::new(self.sections.finish()),
            Arc::new(self.metadata.finish()),
            Arc::new(self.num_bytes.finish()),
            Arc::new(self.num_words.finish()),
            Arc::new(self.source_index.finish()),
            Arc::new(self.drop_stage.finish()),
            Arc::new(self.drop_reason.finish()),
            Arc::new(self.drop_detail.finish()),
        ];
        let batch = RecordBatch::try_new(document::flow_schema(), columns).map_err(|source| Error::Arrow { operator: STAGE, source })?;
        give(out, batch)
    }
}
