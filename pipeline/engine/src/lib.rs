//! The engine: recipes run as DataFusion plans, stage by stage, with a memory budget, restart points and an account of every record.
//!
//! The only crate that names datafusion. [`run()`] is the way in.

mod boundary;
pub mod codec;
pub mod context;
mod corpus;
mod counts;
mod documents;
pub mod error;
mod estimate;
mod exact;
mod filter;
mod forecast;
mod functions;
pub mod inspect;
mod measure;
mod near;
mod near_index;
pub mod operator_exec;
mod parse;
pub mod plan;
mod pool;
mod proof;
pub mod recipe;
mod run;
mod session;
pub mod spec;
mod tables;
mod tokens;

pub use error::Error;
pub use near::export_pairs;
pub use plan::plan;
pub use proof::verify_exact;
pub use recipe::Recipe;
pub use run::{Options, run, stream};
pub use tokens::{Streamed, repack};

use osler_schemas::manifest::{FORMAT, Manifest};
use std::path::Path;

/// The manifest of a finished run.
///
/// # Errors
/// When the folder holds none, or one of another version.
pub fn manifest(out: &Path) -> Result<Manifest, Error> {
    let path = out.join("run.json");
    let bytes = std::fs::read(&path)
        .map_err(|_| Error::User(format!("{} holds no finished run: run.json is not there or cannot be read", out.display())))?;
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| Error::User(format!("{}: {error}", path.display())))?;
    if manifest.format != FORMAT {
        return Err(Error::User(format!("{}: format `{}`, this version reads `{FORMAT}`", path.display(), manifest.format)));
    }
    Ok(manifest)
}

/// What a user should know before a run of the recipe.
///
/// # Errors
/// When a setting cannot work.
pub fn warnings(recipe: &Recipe) -> Result<Vec<String>, Error> {
    let wrong = |error: osler_corpus::operator::Error| Error::User(parse::chain(&error));
    let mut warnings = osler_tokens::mix::warnings(&recipe.mix, &[]);
    if recipe.near_duplicates.enabled {
        warnings.extend(recipe.near_duplicates.warnings().map_err(wrong)?);
    }
    Ok(warnings)
}

/// Records of a run that were rejected as broken, apart from those that policy dropped.
pub fn num_broken(manifest: &Manifest) -> u64 {
    let parse = manifest.stages.iter().filter(|stage| stage.name == parse::STAGE);
    parse.flat_map(|stage| &stage.counts.dropped).filter(|(reason, _)| !documents::is_policy(reason)).map(|(_, count)| count).sum()
}

/// Tokens, chunks and tokens by source of a run.
pub fn token_summary(manifest: &Manifest) -> serde_json::Value {
    let pack = manifest.stages.iter().find(|stage| stage.name == "pack");
    pack.map_or(serde_json::Value::Null, |stage| stage.facts.clone())
}

/// The text of token ids, by the tokenizer that made a run's shards.
///
/// # Errors
/// When the run or its tokenizer cannot be read.
pub fn decode(out: &Path, ids: &[u32]) -> Result<String, Error> {
    tokens::decode(out, ids)
}
