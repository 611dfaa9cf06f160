//! `osler exact verify`: proves over a finished run that every removed span still stands in text that was kept.

use crate::error::Error;
use crate::inspect::ask;
use crate::recipe::Recipe;
use crate::tables::SPANS;
use crate::{corpus, exact};
use arrow::array::{Array, AsArray};
use arrow::datatypes::{UInt32Type, UInt64Type};
use osler_corpus::exact_duplicates::{ArenaWriter, RemovedSpan, Resources, cut_all, verify};
use osler_corpus::operator::Error as OperatorError;
use osler_schemas::manifest::Manifest;
use osler_schemas::span::Span;
use std::path::Path;

/// Checks every span of every pass byte for byte and says what was checked.
///
/// # Errors
/// When the run's `work/` was deleted, or a span has no kept copy.
pub fn verify_exact(out: &Path) -> Result<String, Error> {
    let recipe = recipe_of(&crate::manifest(out)?)?;
    ask(out, async |session| {
        if !session.folder.path(SPANS.folder).is_dir() {
            return Err(Error::User(format!("{} is gone; the proof needs the texts and spans in `work/`", out.join("work").display())));
        }
        let fault = |error: OperatorError| Error::from(datafusion::error::DataFusionError::External(Box::new(error)));
        let resources = Resources {
            memory_bytes: exact::memory_bytes(&recipe)?,
            scratch: Some(session.spill.clone()),
            threads: recipe.num_threads(),
            ..Resources::default()
        };
        let survivors = session.in_order().frame(corpus::survivors(session, &recipe).await?)?;
        let plan = survivors
            .filter(datafusion::prelude::ident("drop_reason").is_null())?
            .sort_by(vec![datafusion::prelude::ident("ordinal")])?
            .create_physical_plan()
            .await?;
        let mut arena = ArenaWriter::new(&resources);
        session
            .for_each(plan, |batch| {
                let wrong = |error: osler_schemas::SchemaError| Error::Internal(error.to_string());
                let ordinals = osler_schemas::expect::u64(&batch, "ordinal").map_err(wrong)?;
                let sources = osler_schemas::expect::u32(&batch, "source_index").map_err(wrong)?;
                let texts = osler_schemas::expect::utf8(&batch, "text").map_err(wrong)?;
                (0..batch.num_rows())
                    .try_for_each(|row| arena.push(ordinals.value(row), sources.value(row), texts.value(row)))
                    .map_err(fault)
            })
            .await?;
        let mut arena = arena.finish().map_err(fault)?;
        session.register(&SPANS).await?;
        let mut lines = Vec::new();
        for (pass, length) in recipe.exact_duplicates.passes.iter().enumerate() {
            let spans = spans_of(session, pass).await?;
            verify(&arena, &spans, &resources).map_err(fault)?;
            let bytes: u64 = spans.iter().map(|span| span.span.len()).sum();
            lines.push(format!("pass {pass}, {length} bytes: {} spans, {bytes} bytes; each still stands in kept text", spans.len()));
            arena = cut_all(arena, &spans, &recipe.exact_duplicates.join, &resources).map_err(fault)?;
        }
        let orphans = "SELECT CAST(count(*) AS BIGINT UNSIGNED) FROM spans s JOIN documents p ON s.partner = p.ordinal
                       LEFT ANTI JOIN corpus c ON p.doc_id = c.doc_id";
        let orphans = session.number(orphans).await?;
        if orphans > 0 {
            return Err(Error::User(format!(
                "the kept copies of {orphans} spans were dropped afterwards by a filter after exact-duplicates; place it before them"
            )));
        }
        Ok(lines.join("\n"))
    })
}

async fn spans_of(session: &crate::session::Session, pass: usize) -> Result<Vec<RemovedSpan>, Error> {
    let sql =
        format!("SELECT ordinal, start, \"end\", partner, partner_start, pass FROM spans WHERE pass = {pass} ORDER BY ordinal, start");
    let mut spans = Vec::new();
    for batch in session.query(&sql).await? {
        let number = |index: usize| batch.column(index).as_primitive::<UInt64Type>().clone();
        let (ordinal, start, end, partner, partner_start) = (number(0), number(1), number(2), number(3), number(4));
        debug_assert!(batch.column(5).as_primitive_opt::<UInt32Type>().is_some());
        for row in 0..batch.num_rows() {
            spans.push(RemovedSpan {
                ordinal: ordinal.value(row),
                span: Span { start: start.value(row), end: end.value(row) },
                partner: partner.is_valid(row).then(|| (partner.value(row), partner_start.value(row))),
            });
        }
    }
    Ok(spans)
}

pub(crate) fn recipe_of(manifest: &Manifest) -> Result<Recipe, Error> {
    serde_json::from_value(manifest.recipe.clone())
        .map_err(|error| Error::User(format!("run.json was written by another version of Osler ({}): {error}", manifest.version)))
}
