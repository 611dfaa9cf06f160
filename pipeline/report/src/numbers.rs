//! The numbers of a report, from the manifest and from the run's tables.

use crate::Error;
use osler_schemas::manifest::{CurvePoint, Manifest, StageRow};
use polars::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Format name and version in [`Report::format`].
pub const FORMAT: &str = "osler-report/1";

/// Every number of the report; `report.json` is this.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// [`FORMAT`].
    pub format: &'static str,
    /// The recipe's name.
    pub name: String,
    /// Version of the program that made the run.
    pub version: String,
    pub recipe_hash: String,
    pub totals: Totals,
    pub stages: Vec<Stage>,
    /// In the recipe's order.
    pub sources: Vec<Source>,
    /// Why records and text went: by stage, then by most text removed.
    pub removals: Vec<Removal>,
    pub lengths: Lengths,
    pub clusters: Clusters,
    /// For pairs proposed by their full signatures.
    pub s_curve: Vec<CurvePoint>,
    /// For pairs of short documents, which have a signature of their own; empty where they have not.
    pub s_curve_short: Vec<CurvePoint>,
    /// Similarity from which near-duplicates are merged, where the recipe states it.
    pub threshold: Option<f64>,
    /// Lengths in bytes of the spans cut by exact deduplication.
    pub span_bytes: Histogram,
    pub languages: Vec<Share>,
    pub licenses: Vec<Share>,
    /// Documents by year of publication; `unknown` where none is stated.
    pub years: BTreeMap<String, u64>,
    pub tokens: Option<Tokens>,
}

/// The run in a line.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Totals {
    pub num_files: u64,
    pub file_bytes: u64,
    pub records_in: u64,
    pub records_out: u64,
    /// Text bytes that parsing found.
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub words_out: u64,
    pub seconds: f64,
    pub peak_memory_bytes: u64,
}

/// One stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Stage {
    pub name: String,
    pub records_in: u64,
    pub records_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub seconds: f64,
    pub peak_memory_bytes: u64,
}

/// One source on its way through the stages.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Source {
    pub name: String,
    /// Records found, then left after each of [`Report::stages`].
    pub records: Vec<u64>,
    /// Text bytes found, then left after each of [`Report::stages`].
    pub bytes: Vec<u64>,
    /// Text bytes removed by each stage that removed any.
    pub removed_bytes: BTreeMap<String, u64>,
    pub words: u64,
    pub tokens: Option<u64>,
}

/// What one stage removed for one reason.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Removal {
    pub stage: String,
    pub reason: String,
    pub records: u64,
    pub bytes: u64,
}

/// Lengths of documents in words.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Lengths {
    /// After parsing, before the length filter, each length rounded down by less than a sixteenth.
    pub before: Option<Histogram>,
    pub after: Histogram,
}

/// Counts in bins that grow by half: `counts[i]` values lie in `[edges[i], edges[i + 1])`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Histogram {
    pub edges: Vec<u64>,
    pub counts: Vec<u64>,
    pub num_values: u64,
    pub sum: u64,
    pub median: u64,
    /// Largest value.
    pub max: u64,
}

/// Clusters of near-duplicates and exact copies, each with the one document kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Clusters {
    pub num_clusters: u64,
    pub num_removed: u64,
    /// Clusters by their size, the kept document counted.
    pub sizes: BTreeMap<u64, u64>,
}

/// Documents with one value of a column.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Share {
    /// `unknown` where the column is null.
    pub name: String,
    pub documents: u64,
    pub words: u64,
    pub bytes: u64,
}

/// The token shards.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Tokens {
    pub tokens: u64,
    pub chunks: Option<u64>,
    pub context_length: Option<u64>,
    pub tokenizer: Option<String>,
    pub source_tokens: BTreeMap<String, u64>,
    /// Packing method and tail policy.
    pub packing: Option<String>,
    pub documents: Option<u64>,
    pub shards: Option<u64>,
    /// Places in chunks that hold no token.
    pub padding: u64,
    /// Tokens in no chunk.
    pub tail_tokens: u64,
    /// Documents by tokens, each length rounded down by less than a sixteenth.
    pub lengths: Option<Histogram>,
    /// What training is given in an epoch, where the recipe mixes.
    pub mix: Vec<MixPart>,
}

/// One part of a mix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MixPart {
    pub name: String,
    /// Chunks it has.
    pub available_chunks: u64,
    /// Chunks given in one epoch.
    pub chunks_per_epoch: u64,
    /// Times that a chunk is given over the whole run, on average.
    pub passes: f64,
}

impl Report {
    /// Reads the tables in `out_dir`.
    ///
    /// # Errors
    /// [`Error::Table`] or [`Error::Io`] when one cannot be read.
    pub fn of(out_dir: &Path, manifest: &Manifest, token_summary: Option<&serde_json::Value>) -> Result<Self, Error> {
        let corpus = Table::open(out_dir, "corpus")?;
        let ledger = Table::open(out_dir, "ledger")?;
        let stages: Vec<Stage> = manifest.stages.iter().map(stage).collect();
        let tokens = token_summary.and_then(tokens);
        let languages = corpus.shares("language")?;
        let setting = |section: &str, key: &str| manifest.recipe.get(section).and_then(|section| section.get(key));
        let (first, last) = (stages.first().cloned().unwrap_or_default(), stages.last().cloned().unwrap_or_default());
        Ok(Self {
            format: FORMAT,
            name: manifest.recipe.get("name").and_then(|name| name.as_str()).unwrap_or("corpus").to_string(),
            version: manifest.version.clone(),
            recipe_hash: manifest.recipe_hash.clone(),
            totals: Totals {
                num_files: manifest.inputs.len() as u64,
                file_bytes: manifest.inputs.iter().map(|input| input.num_bytes).sum(),
                records_in: first.records_in,
                records_out: last.records_out,
                bytes_in: first.bytes_in,
                bytes_out: last.bytes_out,
                words_out: languages.iter().map(|share| share.words).sum(),
                seconds: stages.iter().map(|stage| stage.seconds).sum(),
                peak_memory_bytes: stages.iter().map(|stage| stage.peak_memory_bytes).max().unwrap_or_default(),
            },
            sources: sources(manifest, &corpus.shares("source")?, tokens.as_ref()),
            removals: manifest.stages.iter().flat_map(removals).collect(),
            lengths: Lengths { before: lengths_before(manifest), after: corpus.histogram(col("num_words"))? },
            clusters: ledger.clusters()?,
            s_curve: manifest.s_curve.clone(),
            s_curve_short: short_curve(manifest),
            threshold: setting("near_duplicates", "threshold").and_then(serde_json::Value::as_f64),
            span_bytes: ledger.histogram(col("span_end") - col("span_start"))?,
            languages,
            licenses: corpus.shares("license")?,
            years: corpus.years()?,
            tokens,
            stages,
        })
    }
}

/// Lengths of the documents that parsing gave, as the stage noted them.
fn lengths_before(manifest: &Manifest) -> Option<Histogram> {
    let noted = manifest.stages.iter().find_map(|stage| stage.facts.get("documents_by_words"))?;
    Some(Histogram::of(serde_json::from_value(noted.clone()).ok()?))
}

fn stage(row: &StageRow) -> Stage {
    let counts = &row.counts;
    Stage {
        name: row.name.clone(),
        records_in: counts.records_in,
        records_out: counts.records_out,
        bytes_in: counts.bytes_in,
        bytes_out: counts.bytes_out,
        seconds: row.seconds,
        peak_memory_bytes: row.peak_memory_bytes,
    }
}

fn removals(row: &StageRow) -> Vec<Removal> {
    let counts = &row.counts;
    let mut reasons: Vec<&String> = counts.dropped.keys().chain(counts.bytes_removed.keys()).collect();
    reasons.sort();
    reasons.dedup();
    let of = |map: &BTreeMap<String, u64>, reason: &String| map.get(reason).copied().unwrap_or_default();
    let mut removals: Vec<Removal> = reasons
        .into_iter()
        .map(|reason| Removal {
            stage: row.name.clone(),
            reason: reason.clone(),
            records: of(&counts.dropped, reason),
            bytes: of(&counts.bytes_removed, reason),
        })
        .filter(|removal| removal.records > 0 || removal.bytes > 0)
        .collect();
    removals.sort_by_key(|removal| std::cmp::Reverse((removal.bytes, removal.records)));
    removals
}

fn sources(manifest: &Manifest, shares: &[Share], tokens: Option<&Tokens>) -> Vec<Source> {
    let listed = manifest.recipe.get("source").and_then(|sources| sources.as_array());
    let named = listed.into_iter().flatten().filter_map(|source| source.get("name")?.as_str());
    let mut names: Vec<String> = named.map(str::to_string).collect();
    for name in manifest.stages.iter().flat_map(|stage| stage.sources.keys()) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
        .into_iter()
        .map(|name| {
            let mut source = Source { name, ..Source::default() };
            for (index, stage) in manifest.stages.iter().enumerate() {
                let counts = stage.sources.get(&source.name).cloned().unwrap_or_default();
                if index == 0 {
                    source.records.push(counts.records_in);
                    source.bytes.push(counts.bytes_in);
                }
                source.records.push(counts.records_out);
                source.bytes.push(counts.bytes_out);
                let removed: u64 = counts.bytes_removed.values().sum();
                if removed > 0 {
                    source.removed_bytes.insert(stage.name.clone(), removed);
                }
            }
            source.words = shares.iter().find(|share| share.name == source.name).map_or(0, |share| share.words);
            source.tokens = tokens.and_then(|tokens| tokens.source_tokens.get(&source.name).copied());
            source
        })
        .collect()
}

fn tokens(summary: &serde_json::Value) -> Option<Tokens> {
    let count = |key: &str| summary.get(key).and_then(serde_json::Value::as_u64);
    let text = |key: &str| summary.get(key).and_then(serde_json::Value::as_str).map(str::to_string);
    let by_source = summary.get("source_tokens").and_then(serde_json::Value::as_object);
    let lengths = summary.get("documents_by_tokens").and_then(|noted| serde_json::from_value(noted.clone()).ok());
    Some(Tokens {
        tokens: count("tokens")?,
        chunks: count("chunks"),
        context_length: count("context_length"),
        tokenizer: text("tokenizer"),
        source_tokens: by_source.into_iter().flatten().filter_map(|(name, count)| Some((name.clone(), count.as_u64()?))).collect(),
        packing: text("packing"),
        documents: count("documents"),
        shards: count("shards"),
        padding: count("padding").unwrap_or_default(),
        tail_tokens: count("tail_tokens").unwrap_or_default(),
        lengths: lengths.map(Histogram::of),
        mix: summary.get("mix").and_then(|parts| serde_json::from_value(parts.clone()).ok()).unwrap_or_default(),
    })
}

/// A folder of Parquet files; `None` where it is empty.
struct Table {
    name: String,
    frame: Option<LazyFrame>,
}

impl Table {
    fn open(out_dir: &Path, name: &str) -> Result<Self, Error> {
        let folder = out_dir.join(name);
        let io = |source| Error::Io { path: folder.display().to_string(), source };
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(&folder).map_err(io)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>().map_err(io)?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "parquet"));
        paths.sort();
        let mut table = Self { name: name.to_string(), frame: None };
        if !paths.is_empty() {
            let paths = paths.iter().map(|path| PlRefPath::new(path.to_string_lossy().as_ref())).collect();
            let options = ScanArgsParquet { glob: false, cache: false, ..ScanArgsParquet::default() };
            table.frame = Some(LazyFrame::scan_parquet_files(paths, options).map_err(|error| table.fault(error))?);
        }
        Ok(table)
    }

    fn fault(&self, source: PolarsError) -> Error {
        Error::Table { table: self.name.clone(), source }
    }

    /// Groups the rows by `key` and gives, in no order, each key with its row count and its sums.
    fn groups(&self, narrow: impl Fn(LazyFrame) -> LazyFrame, key: Expr, sums: &[&str]) -> Result<Vec<Group>, Error> {
        let Some(frame) = &self.frame else { return Ok(Vec::new()) };
        let mut wanted = vec![len().cast(DataType::UInt64).alias("rows")];
        wanted.extend(sums.iter().map(|name| col(*name).sum().cast(DataType::UInt64)));
        let grouped = narrow(frame.clone()).group_by([key.cast(DataType::String).alias("key")]).agg(wanted);
        // One query gives one table.
        let table = grouped.collect_with_engine(Engine::Streaming).map_err(|error| self.fault(error))?.unwrap_single();
        let read = || -> PolarsResult<Vec<Group>> {
            let keys = table.column("key")?.str()?;
            let rows = table.column("rows")?.u64()?;
            let sums = sums.iter().map(|name| table.column(name)?.u64()).collect::<PolarsResult<Vec<_>>>()?;
            let group = |index: usize| Group {
                key: keys.get(index).map(str::to_string),
                rows: rows.get(index).unwrap_or_default(),
                sums: sums.iter().map(|sum| sum.get(index).unwrap_or_default()).collect(),
            };
            Ok((0..table.height()).map(group).collect())
        };
        read().map_err(|error| self.fault(error))
    }

    /// Documents by the values of a column, most words first.
    fn shares(&self, column: &str) -> Result<Vec<Share>, Error> {
        let groups = self.groups(|frame| frame, col(column), &["num_words", "num_bytes"])?;
        let share = |group: Group| Share {
            name: group.key.unwrap_or_else(|| "unknown".to_string()),
            documents: group.rows,
            words: group.sums.first().copied().unwrap_or_default(),
            bytes: group.sums.get(1).copied().unwrap_or_default(),
        };
        let mut shares: Vec<Share> = groups.into_iter().map(share).collect();
        shares.sort_by(|a, b| b.words.cmp(&a.words).then_with(|| a.name.cmp(&b.name)));
        Ok(shares)
    }

    fn years(&self) -> Result<BTreeMap<String, u64>, Error> {
        let mut years = BTreeMap::new();
        for group in self.groups(|frame| frame, col("published"), &[])? {
            let year = group.key.and_then(|date| date.get(..4).map(str::to_string)).unwrap_or_else(|| "unknown".to_string());
            *years.entry(year).or_default() += group.rows;
        }
        Ok(years)
    }

    /// Histogram of a whole number; rows where it is null do not count. Holds the distinct values, not the rows.
    fn histogram(&self, value: Expr) -> Result<Histogram, Error> {
        let keep = value.clone().is_not_null();
        let groups = self.groups(|frame| frame.filter(keep.clone()), value, &[])?;
        Ok(Histogram::of(groups.into_iter().filter_map(|group| Some((group.key?.parse().ok()?, group.rows))).collect()))
    }

    fn clusters(&self) -> Result<Clusters, Error> {
        let removed = |frame: LazyFrame| {
            let whole = col("span_start").is_null().and(col("partner_id").is_not_null());
            frame.filter(col("stage").eq(lit("near-duplicates")).and(whole))
        };
        // The partner is the member that was compared; where that is not the kept one, the detail names it.
        let keeper = when(col("detail").is_not_null()).then(col("detail")).otherwise(col("partner_id"));
        let mut members: BTreeMap<String, u64> = BTreeMap::new();
        for group in self.groups(removed, keeper, &[])? {
            let key = group.key.unwrap_or_default();
            *members.entry(key.strip_prefix("kept: ").unwrap_or(&key).to_string()).or_default() += group.rows;
        }
        let mut clusters = Clusters::default();
        for removed in members.into_values() {
            clusters.num_clusters += 1;
            clusters.num_removed += removed;
            *clusters.sizes.entry(removed + 1).or_default() += 1;
        }
        Ok(clusters)
    }
}

struct Group {
    key: Option<String>,
    rows: u64,
    sums: Vec<u64>,
}

impl Histogram {
    /// Of values with how often each occurs.
    fn of(mut values: Vec<(u64, u64)>) -> Self {
        values.sort_unstable();
        let mut histogram = Self {
            num_values: values.iter().map(|(_, count)| count).sum(),
            sum: values.iter().map(|(value, count)| value.saturating_mul(*count)).fold(0, u64::saturating_add),
            max: values.last().map_or(0, |(value, _)| *value),
            ..Self::default()
        };
        let (Some(least), true) = (values.first().map(|(value, _)| *value), histogram.num_values > 0) else { return histogram };
        let mut seen = 0;
        histogram.median =
            values.iter().find(|(_, count)| (seen += count, 2 * seen >= histogram.num_values).1).map_or(0, |(value, _)| *value);
        let mut edge = 1;
        while next_edge(edge) <= least {
            edge = next_edge(edge);
        }
        histogram.edges = vec![if least == 0 { 0 } else { edge }];
        if least == 0 {
            edge = 0;
        }
        while edge <= histogram.max && edge < u64::MAX {
            edge = next_edge(edge);
            histogram.edges.push(edge);
            histogram.counts.push(0);
        }
        for (value, count) in values {
            let bin = histogram.edges.partition_point(|edge| *edge <= value).saturating_sub(1);
            if let Some(total) = histogram.counts.get_mut(bin) {
                *total += count;
            }
        }
        histogram
    }
}

/// 0, 1, 2, 3, 4, 6, 8, 12, 16, 24, … : each power of two, and half way to the next.
fn next_edge(edge: u64) -> u64 {
    match edge {
        0 | 1 => edge + 1,
        _ if edge.is_power_of_two() => edge.saturating_add(edge / 2),
        _ => edge.saturating_add(edge / 3),
    }
}

/// The curve of short documents, from the facts of its stage.
fn short_curve(manifest: &Manifest) -> Vec<CurvePoint> {
    let stage = manifest.stages.iter().find(|stage| stage.name == "near-duplicates");
    stage.and_then(|stage| serde_json::from_value(stage.facts.get("s_curve_short")?.clone()).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_counts_every_value_once() {
        let values = vec![(0, 2), (1, 1), (5, 3), (8, 1), (1_000, 4)];
        let histogram = Histogram::of(values);
        assert_eq!(histogram.counts.iter().sum::<u64>(), 11);
        assert_eq!((histogram.num_values, histogram.median, histogram.max, histogram.sum), (11, 5, 1_000, 4_024));
        assert_eq!(histogram.edges.len(), histogram.counts.len() + 1);
        assert_eq!(histogram.edges[..8], [0, 1, 2, 3, 4, 6, 8, 12]);
        assert_eq!(histogram.counts[..7], [2, 1, 0, 0, 3, 0, 1]);
        assert_eq!(*histogram.counts.last().unwrap(), 4);
        assert_eq!(Histogram::of(Vec::new()), Histogram::default());
        assert_eq!(Histogram::of(vec![(700, 1)]).edges, [512, 768]);
    }
}
