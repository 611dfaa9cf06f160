//! Looking into a finished run: a document's whole story, and SQL over its tables.

use crate::boundary::RunFolder;
use crate::context::{Context, Silent};
use crate::error::Error;
use crate::session::Session;
use crate::tables::{CLUSTERS, CORPUS, DOCUMENTS, LEDGER, PAIRS, SPANS};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, UInt64Type};
use datafusion::prelude::SQLOptions;
use osler_datasets::open::{StorageConfig, Stores};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Memory that questions to a finished run may take.
const MEMORY_BYTES: usize = 2 << 30;

/// Everything a run knows about one document.
#[derive(Debug, Clone, PartialEq)]
pub struct Story {
    pub doc_id: String,
    pub source: String,
    pub origin: String,
    pub title: Option<String>,
    pub license: Option<String>,
    pub language: Option<String>,
    pub published: Option<String>,
    pub identifiers: Vec<String>,
    /// Text bytes after parsing; none for a record that gave no document.
    pub parsed_bytes: Option<u64>,
    /// Text bytes in the corpus; none for a document that is not in it.
    pub kept_bytes: Option<u64>,
    /// The text that is left.
    pub text: Option<String>,
    /// Ledger rows of the document, in order.
    pub removals: Vec<Removal>,
    /// Documents it stands for or holds the kept copy of: id, origin, stage, and how many ledger rows name it.
    pub stands_for: Vec<(String, String, String, u64)>,
}

/// One ledger row.
#[derive(Debug, Clone, PartialEq)]
pub struct Removal {
    pub stage: String,
    pub reason: String,
    pub detail: Option<String>,
    pub partner_id: Option<String>,
    pub partner_origin: Option<String>,
    pub partner_start: Option<u64>,
    pub score: Option<f64>,
    pub span: Option<(u64, u64)>,
}

/// Tells the story of the document whose id begins with `id`.
///
/// # Errors
/// When the folder holds no run, or no document or several have such an id.
pub fn inspect(out: &Path, id: &str) -> Result<Story, Error> {
    if id.len() < 4 || id.len() > 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Error::User(format!("`{id}` is no document id: write 4 to 32 hexadecimal digits")));
    }
    ask(out, async |session| story(session, &id.to_ascii_lowercase()).await)
}

/// Runs a query over the tables of a run.
///
/// # Errors
/// When the folder holds no run, or the query is wrong.
pub fn query(out: &Path, sql: &str) -> Result<Vec<RecordBatch>, Error> {
    ask(out, async |session| {
        // Questions alone: nothing is made, changed or written.
        let asked = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        let frame = session.sql.sql_with_options(sql, asked).await?;
        let schema = Arc::new(frame.schema().as_arrow().clone());
        let mut batches = frame.collect().await?;
        if batches.is_empty() {
            batches.push(RecordBatch::new_empty(schema));
        }
        Ok(batches)
    })
}

pub(crate) fn ask<T>(out: &Path, question: impl AsyncFnOnce(&Session) -> Result<T, Error>) -> Result<T, Error> {
    let folder = RunFolder { root: out.to_path_buf() };
    if !folder.path("run.json").is_file() {
        return Err(Error::User(format!("{} holds no finished run: run.json is not there", out.display())));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::User(format!("threads cannot be started: {error}")))?;
    let stores = Stores::new(out, StorageConfig::default(), runtime.handle().clone());
    let context = Arc::new(Context::new(Arc::new(stores), Arc::new(Silent), Arc::new(AtomicBool::new(false))));
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    runtime.block_on(async {
        // A finished run may be on a disk that cannot be written to.
        let spill = std::env::temp_dir().join(format!("osler-ask-{}", std::process::id()));
        let session = Session::new(folder, context, spill.clone(), (MEMORY_BYTES, threads, 8192))?;
        for table in [CORPUS, LEDGER, DOCUMENTS, CLUSTERS, PAIRS, SPANS] {
            // `work/` may have been deleted.
            if session.folder.path(table.folder).is_dir() {
                session.register(&table).await?;
            }
        }
        let answer = question(&session).await;
        let _ = std::fs::remove_dir_all(&spill);
        answer
    })
}

async fn story(session: &Session, id: &str) -> Result<Story, Error> {
    let known = session
        .query(&format!(
            "SELECT DISTINCT doc_id, source, origin FROM
               (SELECT doc_id, source, origin FROM corpus UNION ALL SELECT doc_id, source, origin FROM ledger)
             WHERE starts_with(doc_id, '{id}') ORDER BY doc_id LIMIT 6"
        ))
        .await?;
    let mut found: Vec<(String, String, String)> = Vec::new();
    for batch in &known {
        let column = |index: usize| batch.column(index).as_string::<i32>();
        found.extend(
            (0..batch.num_rows())
                .map(|row| (column(0).value(row).to_string(), column(1).value(row).to_string(), column(2).value(row).to_string())),
        );
    }
    let (doc_id, source, origin) = match found.as_slice() {
        [] => return Err(Error::User(format!("no document's id begins with `{id}`"))),
        [one] => one.clone(),
        several => {
            let ids: Vec<&str> = several.iter().map(|(id, ..)| id.as_str()).collect();
            return Err(Error::User(format!("several ids begin with `{id}`: {}", ids.join(", "))));
        }
    };
    let mut story = Story {
        doc_id,
        source,
        origin,
        title: None,
        license: None,
        language: None,
        published: None,
        identifiers: Vec::new(),
        parsed_bytes: None,
        kept_bytes: None,
        text: None,
        removals: Vec::new(),
        stands_for: Vec::new(),
    };
    for table in ["documents", "corpus"] {
        if session.sql.table_exist(table)? {
            describe(session, table, &mut story).await?;
        }
    }
    story.removals = removals(session, &story.doc_id).await?;
    story.stands_for = stands_for(session, &story.doc_id).await?;
    Ok(story)
}

async fn describe(session: &Session, table: &str, story: &mut Story) -> Result<(), Error> {
    let sql =
        format!("SELECT title, license, language, published, identifiers, num_bytes, text FROM {table} WHERE doc_id = '{}'", story.doc_id);
    for batch in session.query(&sql).await?.iter().filter(|batch| batch.num_rows() > 0) {
        let text = |index: usize| {
            let column = batch.column(index).as_string::<i32>();
            column.is_valid(0).then(|| column.value(0).to_string())
        };
        (story.title, story.license, story.language, story.published) = (text(0), text(1), text(2), text(3));
        let identifiers = batch.column(4).as_list::<i32>().value(0);
        story.identifiers = identifiers.as_string::<i32>().iter().flatten().map(str::to_string).collect();
        let num_bytes = Some(batch.column(5).as_primitive::<UInt64Type>().value(0));
        if table == "corpus" {
            (story.kept_bytes, story.text) = (num_bytes, text(6));
        } else {
            story.parsed_bytes = num_bytes;
        }
    }
    Ok(())
}

async fn removals(session: &Session, doc_id: &str) -> Result<Vec<Removal>, Error> {
    let batches = session
        .query(&format!(
            "SELECT l.stage, l.reason, l.detail, l.partner_id, p.origin, l.partner_start, l.score, l.span_start, l.span_end
             FROM ledger l LEFT JOIN
               (SELECT doc_id, min(origin) AS origin FROM
                  (SELECT doc_id, origin FROM corpus UNION ALL SELECT doc_id, origin FROM ledger) GROUP BY doc_id) p
               ON l.partner_id = p.doc_id
             WHERE l.doc_id = '{doc_id}' ORDER BY l.reason DESC, l.span_start"
        ))
        .await?;
    let mut rows = Vec::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            let text = |index: usize| {
                let column = batch.column(index).as_string::<i32>();
                column.is_valid(row).then(|| column.value(row).to_string())
            };
            let number = |index: usize| {
                let column = batch.column(index).as_primitive::<UInt64Type>();
                column.is_valid(row).then(|| column.value(row))
            };
            let score = batch.column(6).as_primitive::<Float64Type>();
            rows.push(Removal {
                stage: text(0).unwrap_or_default(),
                reason: text(1).unwrap_or_default(),
                detail: text(2),
                partner_id: text(3),
                partner_origin: text(4),
                partner_start: number(5),
                score: score.is_valid(row).then(|| score.value(row)),
                span: number(7).zip(number(8)),
            });
        }
    }
    Ok(rows)
}

async fn stands_for(session: &Session, doc_id: &str) -> Result<Vec<(String, String, String, u64)>, Error> {
    let batches = session
        .query(&format!(
            "SELECT doc_id, min(origin), stage, CAST(count(*) AS BIGINT UNSIGNED) FROM ledger
             WHERE doc_id <> '{doc_id}' AND
               (detail = 'kept: {doc_id}' OR (partner_id = '{doc_id}' AND stage <> 'near-duplicates'))
             GROUP BY doc_id, stage ORDER BY stage DESC, doc_id"
        ))
        .await?;
    let mut rows = Vec::new();
    for batch in &batches {
        let text = |index: usize, row: usize| batch.column(index).as_string::<i32>().value(row).to_string();
        let count = batch.column(3).as_primitive::<UInt64Type>();
        rows.extend((0..batch.num_rows()).map(|row| (text(0, row), text(1, row), text(2, row), count.value(row))));
    }
    Ok(rows)
}

/// Rows as a table for people.
///
/// # Errors
/// When a value cannot be shown.
pub fn table(batches: &[RecordBatch]) -> Result<String, Error> {
    let shown = arrow::util::pretty::pretty_format_batches(batches).map_err(|error| Error::Internal(error.to_string()))?;
    Ok(shown.to_string())
}

/// Rows as JSON, one object a line.
///
/// # Errors
/// When a value cannot be written.
pub fn json_lines(batches: &[RecordBatch]) -> Result<String, Error> {
    let mut bytes = Vec::new();
    let mut writer = arrow::json::LineDelimitedWriter::new(&mut bytes);
    let fault = |error: arrow::error::ArrowError| Error::Internal(error.to_string());
    writer.write_batches(&batches.iter().collect::<Vec<_>>()).map_err(fault)?;
    writer.finish().map_err(fault)?;
    String::from_utf8(bytes).map_err(|error| Error::Internal(error.to_string()))
}
