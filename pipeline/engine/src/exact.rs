//! Exact duplicates: the survivors' texts in document order, and the spans to cut from them.
//!
//! Leaves `work/spans`.

use crate::boundary::{Done, TableWriter};
use crate::corpus::survivors;
use crate::error::Error;
use crate::measure::Measure;
use crate::recipe::Recipe;
use crate::session::Session;
use crate::spec::OperatorSpec;
use crate::tables::{DOCUMENTS, SPANS};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::ident;
use osler_corpus::exact_duplicates::STAGE;
use osler_schemas::manifest::StageRow;
use std::sync::Arc;

/// The boundary's name.
pub const BOUNDARY: &str = STAGE;

/// What the stage may keep in memory. The sort below it has to have room beside it.
pub(crate) fn memory_bytes(recipe: &Recipe) -> Result<u64, Error> {
    Ok(recipe.memory_bytes()? as u64 / 3)
}

/// From survivors to spans.
///
/// # Errors
/// As for [`survivors`].
pub async fn plan(session: &Session, recipe: &Recipe) -> Result<Arc<dyn ExecutionPlan>, Error> {
    let survivors = session.in_order().frame(survivors(session, recipe).await?)?;
    let texts = survivors
        .filter(ident("drop_reason").is_null())?
        .select(vec![ident("ordinal"), ident("source_index"), ident("text")])?
        .sort_by(vec![ident("ordinal")])?;
    let source_names = recipe.source.iter().map(|source| source.name.clone()).collect();
    let find = OperatorSpec::FindExactDuplicates {
        config: recipe.exact_duplicates.clone(),
        source_names,
        threads: recipe.num_threads(),
        memory_bytes: memory_bytes(recipe)?,
        // Files without names, which go with the process.
        scratch: session.spill.clone(),
    };
    Ok(session.operator(find, texts.create_physical_plan().await?))
}

/// Runs the stage, or finds it done.
///
/// # Errors
/// What the disk or the budget gives, or the guard against losing most of a source.
pub async fn run(session: &Session, recipe: &Recipe, fingerprint: &str) -> Result<Done, Error> {
    let (progress, folder) = (session.context.progress.clone(), &session.folder);
    if let Some(done) = folder.finished(BOUNDARY, fingerprint) {
        progress.start(BOUNDARY, 0);
        progress.finish(BOUNDARY, true);
        return Ok(done);
    }
    let measure = Measure::start();
    folder.begin(BOUNDARY, &[SPANS])?;
    session.register(&DOCUMENTS).await?;
    let total = session.number("SELECT CAST(sum(num_bytes) AS BIGINT UNSIGNED) FROM documents").await?;
    progress.start(BOUNDARY, total);
    let mut table = TableWriter::new(folder, &SPANS)?;
    let mut num_spans = 0;
    if recipe.exact_duplicates.enabled && !recipe.exact_duplicates.passes.is_empty() {
        let plan = plan(session, recipe).await?;
        session
            .for_each(plan, |batch| {
                num_spans += batch.num_rows();
                table.push(&batch)
            })
            .await?;
    }
    table.finish()?;
    let (files, output_hash) = folder.publish(&SPANS)?;
    let row = StageRow {
        name: BOUNDARY.into(),
        seconds: measure.seconds(),
        peak_memory_bytes: measure.peak_memory_bytes(),
        output_hash,
        ..StageRow::default()
    };
    let facts = serde_json::json!({ "spans": num_spans });
    let done = Done { fingerprint: fingerprint.to_string(), files, stages: vec![row], inputs: Vec::new(), facts };
    folder.finish(BOUNDARY, &done)?;
    progress.finish(BOUNDARY, false);
    Ok(done)
}
