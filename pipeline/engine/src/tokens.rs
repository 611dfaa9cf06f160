//! Tokens: the corpus as token shards, with a tokenizer brought along or trained on it.
//!
//! Leaves `tokens/`: shards, their sidecars and the `tokenizer.json` that made them.

use crate::boundary::{Done, RunFolder, remove, write_atomically};
use crate::counts::Counter;
use crate::error::Error;
use crate::measure::Measure;
use crate::recipe::Recipe;
use crate::run::{hash, lock};
use crate::session::Session;
use crate::spec::{OperatorSpec, tokenizer_name};
use crate::tables::{CORPUS, LEDGER};
use arrow::array::AsArray;
use arrow::datatypes::{UInt32Type, UInt64Type};
use datafusion::error::DataFusionError;
use datafusion::physical_plan::ExecutionPlan;
use osler_corpus::operator::Error as OperatorError;
use osler_corpus::tokenize::{Tokenizer, sentencepiece};
use osler_corpus::train_tokenizer::TokenizerTrainer;
use osler_schemas::expect;
use osler_schemas::manifest::StageRow;
use osler_tokens::stream::{StreamPacker, StreamedChunk};
use osler_tokens::writer::DEFAULT_SHARD_BYTES;
use osler_tokens::{MixConfig, PackConfig, ShardWriter, Summary};
use std::ops::ControlFlow;
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

/// A tokenizer with the bytes of its file.
pub struct Loaded {
    pub tokenizer: Arc<Tokenizer>,
    bytes: Vec<u8>,
}

impl Loaded {
    fn new(bytes: Vec<u8>, recipe: &Recipe) -> Result<Self, Error> {
        let tokenizer = Tokenizer::load(&bytes, &tokenizer_name(&recipe.tokenizer), &recipe.tokenizer).map_err(fault)?;
        Ok(Self { tokenizer: Arc::new(tokenizer), bytes })
    }
}

/// The tokenizer that the recipe names; `None` where one is to be trained.
///
/// # Errors
/// When the file cannot be read, or is no `tokenizer.json` or SentencePiece model that fits the settings.
pub fn load(recipe: &Recipe, base: &Path) -> Result<Option<Loaded>, Error> {
    let Some(path) = &recipe.tokenizer.path else { return Ok(None) };
    let path = base.join(path);
    let bytes = std::fs::read(&path).map_err(|error| Error::io(&path, error))?;
    Loaded::new(sentencepiece::read_as_json(&path, bytes).map_err(fault)?, recipe).map(Some)
}

/// What the stage's output depends on: the token stream, and how it is packed and mixed.
pub fn fingerprint(stream: &str, recipe: &Recipe) -> String {
    hash(&(stream, &recipe.pack, &recipe.mix))
}

/// Takes shards away, whose corpus is about to be replaced.
///
/// # Errors
/// When they cannot be removed.
pub fn retire(folder: &RunFolder) -> Result<(), Error> {
    folder.begin(BOUNDARY, &[])?;
    remove(&folder.path(TOKENS))
}

/// Runs the stage, or finds it done. Where only packing or mix have changed, the tokens stay and sidecars are written again.
///
/// # Errors
/// A mix that cannot be had, the disk, the budget.
pub async fn run(session: &Session, recipe: &Recipe, tokenizer: Option<Loaded>, stream: &str) -> Result<Done, Error> {
    let (progress, folder) = (session.context.progress.clone(), &session.folder);
    let fingerprint = fingerprint(stream, recipe);
    if let Some(done) = folder.finished(BOUNDARY, &fingerprint) {
        progress.start("tokenize and pack", 0);
        progress.finish("tokenize and pack", true);
        return Ok(done);
    }
    // A set of one shard packed again has the very bytes of one that is tokenised again.
    if let Some(done) = folder.done(BOUNDARY).filter(|done| done.facts["stream"] == stream && done.facts["shards"] == 1) {
        progress.start("pack again", 0);
        let (done, _) = pack_again(folder, &recipe.pack, &recipe.mix, Some(done), recipe)?;
        progress.finish("pack again", false);
        return done.ok_or_else(|| Error::Internal("packing again lost its marker".into()));
    }
    folder.begin(BOUNDARY, &[])?;
    remove(&folder.partial(TOKENS))?;
    session.register(&CORPUS).await?;
    let (mut stages, total) = counted(session).await?;
    if total == 0 {
        return Err(Error::User(format!("no document is left to tokenize: {}", why_none(session).await?)));
    }
    let partial = folder.partial(TOKENS);
    let file = partial.join(TOKENIZER);
    let measure = Measure::start();
    let tokenizer = match tokenizer {
        Some(loaded) => loaded,
        None => Loaded::new(train(session, recipe, total).await?, recipe)?,
    };
    write_atomically(&file, &tokenizer.bytes)?;
    progress.start("tokenize and pack", total);
    session.context.keep_tokenizer(&file, tokenizer.tokenizer.clone());
    let identity = tokenizer.tokenizer.identity().clone();
    let writer = ShardWriter::create(&partial, identity, recipe.pack.clone(), DEFAULT_SHARD_BYTES)?;
    let mut writer = writer.with_mix(recipe.mix.clone())?;
    let plan = plan(session, recipe, file).await?;
    session.for_each(plan, |batch| Ok(writer.push_batch(&batch)?)).await?;
    let summary = writer.finish()?;
    let (files, output_hash) = folder.publish_folder(TOKENS)?;
    let (seconds, peak_memory_bytes) = (measure.seconds(), measure.peak_memory_bytes());
    stages[0] = StageRow { seconds, peak_memory_bytes, ..stages[0].clone() };
    stages[1] = StageRow { output_hash, facts: facts(recipe, &recipe.pack, &summary), ..stages[1].clone() };
    let facts = serde_json::json!({"stream": stream, "shards": summary.shards.len()});
    let done = Done { fingerprint, files, stages, facts, ..Done::default() };
    folder.finish(BOUNDARY, &done)?;
    progress.finish("tokenize and pack", false);
    Ok(done)
}

/// What was streamed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Streamed {
    pub num_chunks: u64,
    /// Tokens at the end that fill no chunk.
    pub num_tail_tokens: u64,
    /// The tokenizer that made them, in the run's folder.
    pub tokenizer: PathBuf,
}

/// Tokenises the corpus and gives its chunks to `consumer`.
///
/// # Errors
/// A packing that cannot be streamed, a tokenizer that cannot be trained, the budget.
pub async fn stream(
    session: &Session,
    recipe: &Recipe,
    tokenizer: Option<Loaded>,
    consumer: impl FnMut(StreamedChunk<'_>) -> ControlFlow<()>,
) -> Result<Streamed, Error> {
    if !recipe.mix.is_empty() {
        return Err(Error::User("a mix cannot be streamed: its budgets need the whole corpus; write shards, or leave [mix] out".into()));
    }
    let tokenizer = match tokenizer {
        Some(loaded) => loaded,
        None => {
            session.register(&CORPUS).await?;
            Loaded::new(train(session, recipe, counted(session).await?.1).await?, recipe)?
        }
    };
    let file = session.folder.path("work").join(TOKENIZER);
    write_atomically(&file, &tokenizer.bytes)?;
    session.context.keep_tokenizer(&file, tokenizer.tokenizer.clone());
    let mut packer = StreamPacker::new(tokenizer.tokenizer.identity(), &recipe.pack, consumer)?;
    let plan = plan(session, recipe, file.clone()).await?;
    let mut enough = false;
    let outcome = session
        .for_each(plan, |batch| {
            let wrong = |error: osler_schemas::SchemaError| Error::Internal(error.to_string());
            let (ids, sources) = (expect::utf8(&batch, "doc_id").map_err(wrong)?, expect::utf8(&batch, "source").map_err(wrong)?);
            let lists = expect::list(&batch, "input_ids").map_err(wrong)?;
            for row in 0..batch.num_rows() {
                let tokens = lists.value(row);
                if packer.push(ids.value(row), sources.value(row), tokens.as_primitive::<UInt32Type>().values())?.is_break() {
                    enough = true;
                    return Err(Error::Cancelled);
                }
            }
            Ok(())
        })
        .await;
    match outcome {
        Err(Error::Cancelled) if enough => {}
        outcome => outcome?,
    }
    let (num_tail_tokens, num_chunks) = packer.finish();
    Ok(Streamed { num_chunks, num_tail_tokens, tokenizer: file })
}

/// Rows of the two stages with what goes in, and the bytes of text.
async fn counted(session: &Session) -> Result<(Vec<StageRow>, u64), Error> {
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
    Ok((counter.rows(), total))
}

/// What became of all records, the most common first.
async fn why_none(session: &Session) -> Result<String, Error> {
    session.register(&LEDGER).await?;
    let sql = "SELECT source, stage, reason, CAST(count(*) AS BIGINT UNSIGNED) AS records FROM ledger WHERE span_start IS NULL
               GROUP BY source, stage, reason ORDER BY records DESC, source, stage, reason LIMIT 5";
    let mut reasons = Vec::new();
    for batch in &session.query(sql).await? {
        let text = |column: usize, row: usize| batch.column(column).as_string::<i32>().value(row).to_string();
        let counts = batch.column(3).as_primitive::<UInt64Type>();
        reasons.extend(
            (0..batch.num_rows())
                .map(|row| format!("{} of `{}` dropped by {} ({})", counts.value(row), text(0, row), text(1, row), text(2, row))),
        );
    }
    if reasons.is_empty() {
        return Ok("the sources have no records; are their paths and formats right?".into());
    }
    Ok(format!("{}; {} has a row for each", reasons.join(", "), session.folder.path(LEDGER.folder).display()))
}

/// Packs a run's shards again. With the stage's marker, gives the marker that stands for the new packing; several shards, whose tokens a
/// fresh run would cut elsewhere, lose theirs.
fn pack_again(
    folder: &RunFolder,
    pack: &PackConfig,
    mix: &MixConfig,
    done: Option<Done>,
    recipe: &Recipe,
) -> Result<(Option<Done>, Summary), Error> {
    folder.begin(BOUNDARY, &[])?;
    remove(&folder.partial(TOKENS))?;
    let summary = match osler_tokens::repack(&folder.path(TOKENS), pack, mix) {
        Ok(summary) => summary,
        Err(error) => {
            // The set is as it was, and so is what stands for it.
            done.map_or(Ok(()), |done| folder.finish(BOUNDARY, &done))?;
            return Err(error.into());
        }
    };
    let Some(mut done) = done.filter(|_| summary.shards.len() == 1) else { return Ok((None, summary)) };
    let (files, output_hash) = folder.files(TOKENS)?;
    let facts = facts(recipe, pack, &summary);
    if let Some(row) = done.stages.last_mut() {
        *row = StageRow { output_hash, facts, ..row.clone() };
    }
    done.files = files;
    done.fingerprint = fingerprint(done.facts["stream"].as_str().unwrap_or_default(), recipe);
    folder.finish(BOUNDARY, &done)?;
    Ok((Some(done), summary))
}

/// Packs the shards of a finished run again, and writes what has changed of its manifest.
///
/// # Errors
/// When there is no finished run, or its shards cannot be packed so; they are then as they were.
pub fn repack(out: &Path, pack: &PackConfig, mix: &MixConfig) -> Result<Summary, Error> {
    let folder = RunFolder { root: out.to_path_buf() };
    let mut manifest = crate::manifest(out)?;
    let _lock = lock(&folder)?;
    let mut recipe = crate::proof::recipe_of(&manifest)?;
    (recipe.pack, recipe.mix) = (pack.clone(), mix.clone());
    let done = folder.done(BOUNDARY);
    let (_, summary) = pack_again(&folder, pack, mix, done, &recipe)?;
    let (_, output_hash) = folder.files(TOKENS)?;
    if let Some(row) = manifest.stages.iter_mut().find(|row| row.name == "pack") {
        *row = StageRow { output_hash, facts: facts(&recipe, pack, &summary), ..row.clone() };
    }
    manifest.recipe_hash = recipe.hash();
    manifest.recipe = serde_json::to_value(&recipe).map_err(|error| Error::Internal(error.to_string()))?;
    let json = serde_json::to_vec_pretty(&manifest).map_err(|error| Error::Internal(error.to_string()))?;
    write_atomically(&folder.path("run.json"), &json)?;
    Ok(summary)
}

fn facts(recipe: &Recipe, pack: &PackConfig, summary: &Summary) -> serde_json::Value {
    serde_json::json!({
        "tokens": summary.num_tokens, "chunks": summary.num_chunks, "padding": summary.num_padding,
        "tail_tokens": summary.num_tail_tokens, "documents": summary.num_documents, "shards": summary.shards.len(),
        "source_tokens": summary.source_tokens, "context_length": pack.context_length, "packing": pack.to_string(),
        "documents_by_tokens": summary.document_tokens.iter().collect::<Vec<_>>(),
        "tokenizer": tokenizer_name(&recipe.tokenizer), "mix": summary.parts, "warnings": summary.warnings,
    })
}

fn fault(error: OperatorError) -> Error {
    Error::from(DataFusionError::External(Box::new(error)))
}

/// Trains a tokenizer on the corpus, and gives the bytes of its file.
async fn train(session: &Session, recipe: &Recipe, total_bytes: u64) -> Result<Vec<u8>, Error> {
    let context = session.context.clone();
    context.progress.start("train tokenizer", total_bytes);
    let mut trainer = TokenizerTrainer::new(recipe.tokenizer.train.clone().unwrap_or_default()).map_err(fault)?;
    let texts = in_order(session, "text").await?;
    session
        .for_each(texts, |batch| {
            for text in batch.column(0).as_string::<i32>().iter().flatten() {
                trainer.push(text);
                context.progress.advance(text.len() as u64);
            }
            Ok(())
        })
        .await?;
    let bytes = trainer.train(&|| context.check_cancelled().is_err()).map_err(fault)?;
    context.progress.finish("train tokenizer", false);
    Ok(bytes)
}

/// The text of token ids, by the tokenizer beside the shards in `folder`.
///
/// # Errors
/// When the tokenizer cannot be read or cannot decode the ids.
pub fn decode(folder: &Path, ids: &[u32]) -> Result<String, Error> {
    let file = folder.join(TOKENS).join(TOKENIZER);
    let bytes = std::fs::read(&file).map_err(|error| Error::io(&file, error))?;
    // A run that names an end-of-document token of its own is decoded by its recipe.
    let config = crate::manifest(folder).and_then(|manifest| crate::proof::recipe_of(&manifest));
    let config = config.map(|recipe| recipe.tokenizer).unwrap_or_default();
    let tokenizer = Tokenizer::load(&bytes, &tokenizer_name(&config), &config).map_err(fault)?;
    tokenizer.decode(ids).map_err(fault)
}
