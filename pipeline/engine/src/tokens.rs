//! Tokens: the corpus as token shards, with a tokenizer brought along or trained on it.
//!
//! Leaves `tokens/`: shards, their sidecars and the `tokenizer.json` that made them.

use crate::boundary::{Done, remove, write_atomically};
use crate::counts::Counter;
use crate::error::Error;
use crate::measure::Measure;
use crate::recipe::Recipe;
use crate::session::Session;
use crate::spec::{OperatorSpec, tokenizer_name};
use crate::tables::CORPUS;
use arrow::array::AsArray;
use arrow::datatypes::UInt64Type;
use datafusion::error::DataFusionError;
use datafusion::physical_plan::ExecutionPlan;
use osler_corpus::operator::Error as OperatorError;
use osler_corpus::shard_writer::{DEFAULT_SHARD_BYTES, ShardWriter, Summary};
use osler_corpus::tokenize::Tokenizer;
use osler_corpus::train_tokenizer::TokenizerTrainer;
use osler_schemas::manifest::StageRow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The boundary's name.
pub const BOUNDARY: &str = "tokens";
/// Shards, sidecars and tokenizer.
pub const TOKENS: &str = "tokens";
/// The tokenizer that made the shards, beside them.
pub const TOKENIZER: &str = "tokenizer.json";

/// From the corpus to token ids by document, in order.
///
/// # Errors
/// When the corpus is not there.
pub async fn plan(session: &Session, recipe: &Recipe, tokenizer: PathBuf) -> Result<Arc<dyn ExecutionPlan>, Error> {
    let texts = in_order(session, "doc_id, source, text").await?;
    let spec = OperatorSpec::Tokenize { config: recipe.tokenizer.clone(), file: tokenizer, threads: recipe.num_threads() };
    Ok(session.operator(spec, texts))
}

/// Columns of the corpus in the order it was written in: one partition, parts by name.
async fn in_order(session: &Session, columns: &str) -> Result<Arc<dyn ExecutionPlan>, Error> {
    let single = session.in_order();
    single.register(&CORPUS).await?;
    single.plan(&format!("SELECT {columns} FROM corpus")).await
}

/// Runs the stage, or finds it done.
///
/// # Errors
/// A tokenizer that cannot be read or does not fit, the disk, the budget.
pub async fn run(session: &Session, recipe: &Recipe, base: &Path, fingerprint: &str) -> Result<Done, Error> {
    let (progress, folder) = (session.context.progress.clone(), &session.folder);
    if let Some(done) = folder.finished(BOUNDARY, fingerprint) {
        progress.start("tokenize and pack", 0);
        progress.finish("tokenize and pack", true);
        return Ok(done);
    }
    folder.begin(BOUNDARY, &[])?;
    remove(&folder.partial(TOKENS))?;
    session.register(&CORPUS).await?;
    let sums = session
        .query(
            "SELECT source, CAST(count(*) AS BIGINT UNSIGNED), CAST(sum(num_bytes) AS BIGINT UNSIGNED)
             FROM corpus GROUP BY source ORDER BY source",
        )
        .await?;
    let mut counter = Counter::new(vec!["tokenize".into(), "pack".into()]);
    let mut total = 0;
    for batch in &sums {
        let (records, bytes) = (batch.column(1).as_primitive::<UInt64Type>(), batch.column(2).as_primitive::<UInt64Type>());
        for (row, source) in batch.column(0).as_string::<i32>().iter().enumerate() {
            counter.all_kept(source.unwrap_or_default(), records.value(row), bytes.value(row));
            total += bytes.value(row);
        }
    }
    if total == 0 {
        let hint = "the ledger names the stage and reason of each; see `osler report`, or the counts in work/done";
        return Err(Error::User(format!("no document is left to tokenize: every record was dropped before; {hint}")));
    }
    let partial = folder.partial(TOKENS);
    let file = partial.join(TOKENIZER);
    let measure = Measure::start();
    write_atomically(&file, &tokenizer_bytes(session, recipe, base, total).await?)?;
    progress.start("tokenize and pack", total);
    let summary = write_shards(session, recipe, &partial, file).await?;
    let (files, output_hash) = folder.publish_folder(TOKENS)?;
    let mut stages = counter.rows();
    let (seconds, peak_memory_bytes) = (measure.seconds(), measure.peak_memory_bytes());
    stages[0] = StageRow { seconds, peak_memory_bytes, ..stages[0].clone() };
    stages[1] = StageRow { output_hash, facts: facts(recipe, &summary), ..stages[1].clone() };
    let done = Done { fingerprint: fingerprint.to_string(), files, stages, ..Done::default() };
    folder.finish(BOUNDARY, &done)?;
    progress.finish("tokenize and pack", false);
    Ok(done)
}

/// Refuses a tokenizer that cannot be loaded before any other work is done.
///
/// # Errors
/// When the file cannot be read, or is no tokenizer that fits the settings.
pub fn check_tokenizer(recipe: &Recipe, base: &Path) -> Result<(), Error> {
    let Some(path) = &recipe.tokenizer.path else { return Ok(()) };
    let path = base.join(path);
    let bytes = std::fs::read(&path).map_err(|error| Error::io(&path, error))?;
    Tokenizer::load(&bytes, &tokenizer_name(&recipe.tokenizer), &recipe.tokenizer).map(drop).map_err(fault)
}

async fn write_shards(session: &Session, recipe: &Recipe, partial: &Path, file: PathBuf) -> Result<Summary, Error> {
    let bytes = std::fs::read(&file).map_err(|error| Error::io(&file, error))?;
    let tokenizer = Tokenizer::load(&bytes, &tokenizer_name(&recipe.tokenizer), &recipe.tokenizer).map_err(fault)?;
    let mut writer = ShardWriter::create(partial, tokenizer.identity().clone(), recipe.pack.clone(), DEFAULT_SHARD_BYTES).map_err(fault)?;
    drop(tokenizer);
    let plan = plan(session, recipe, file).await?;
    session.for_each(plan, |batch| writer.push_batch(&batch).map_err(fault)).await?;
    writer.finish().map_err(fault)
}

fn facts(recipe: &Recipe, summary: &Summary) -> serde_json::Value {
    serde_json::json!({
        "tokens": summary.num_tokens, "chunks": summary.num_chunks, "padding": summary.num_padding,
        "tail_tokens": summary.num_tail_tokens, "documents": summary.num_documents, "shards": summary.shards.len(),
        "source_tokens": summary.source_tokens, "context_length": recipe.pack.context_length,
        "tokenizer": tokenizer_name(&recipe.tokenizer),
    })
}

fn fault(error: OperatorError) -> Error {
    Error::from(DataFusionError::External(Box::new(error)))
}

/// The tokenizer file the recipe names, or one trained on the corpus.
async fn tokenizer_bytes(session: &Session, recipe: &Recipe, base: &Path, total_bytes: u64) -> Result<Vec<u8>, Error> {
    if let Some(path) = &recipe.tokenizer.path {
        let path = base.join(path);
        return std::fs::read(&path).map_err(|error| Error::io(&path, error));
    }
    let progress = &session.context.progress;
    progress.start("train tokenizer", total_bytes);
    let mut trainer = TokenizerTrainer::new(recipe.tokenizer.train.clone().unwrap_or_default()).map_err(fault)?;
    let texts = in_order(session, "text").await?;
    session
        .for_each(texts, |batch| {
            for text in batch.column(0).as_string::<i32>().iter().flatten() {
                trainer.push(text);
                progress.advance(text.len() as u64);
            }
            Ok(())
        })
        .await?;
    let bytes = trainer.train().map_err(fault)?;
    progress.finish("train tokenizer", false);
    Ok(bytes)
}

/// One chunk of a run's shards, decoded, with its pieces and their sources visible.
///
/// # Errors
/// When there are no shards or no such chunk.
pub fn decode(folder: &Path, recipe: &Recipe, ids: &[u32]) -> Result<String, Error> {
    let file = folder.join(TOKENS).join(TOKENIZER);
    let bytes = std::fs::read(&file).map_err(|error| Error::io(&file, error))?;
    let tokenizer = Tokenizer::load(&bytes, &tokenizer_name(&recipe.tokenizer), &recipe.tokenizer).map_err(fault)?;
    tokenizer.decode(ids).map_err(fault)
}
