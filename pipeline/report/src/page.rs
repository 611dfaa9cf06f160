//! Puts the page together: what each chart and table shows, and in which words.

use crate::chart::{self, Column, NUM_COLOURS};
use crate::format::{bytes, memory, number, percent, seconds, short, title};
use crate::numbers::{Histogram, Report, Share, Source};
use crate::tokens;
use minijinja::{AutoEscape, Environment, Value, context};
use osler_schemas::manifest::{CurvePoint, Manifest};
use serde::Serialize;

/// A chart with its legend and the table under it.
#[derive(Serialize)]
pub struct Figure {
    pub title: String,
    /// What to see in it.
    pub note: String,
    pub svg: String,
    /// Colour and name.
    pub legend: Vec<(String, String)>,
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
    /// Whether the table is shown without being asked for.
    pub open: bool,
}

/// A heading with the figures under it.
#[derive(Serialize)]
pub struct Chapter {
    pub id: &'static str,
    pub title: &'static str,
    pub lead: String,
    pub figures: Vec<Figure>,
}

/// The templates, by name.
pub fn templates() -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_template("layout", include_str!("layout.html"))?;
    environment.add_template("report", include_str!("report.html"))?;
    environment.add_template("training", include_str!("training.html"))?;
    Ok(environment)
}

/// The page as HTML.
pub fn render(report: &Report, manifest: &Manifest) -> Result<String, minijinja::Error> {
    let mut chapters =
        vec![funnel(report), lengths(report), near_duplicates(report), exact_duplicates(report), contents(report), run(report)];
    chapters.extend(report.tokens.as_ref().map(|tokens| tokens::chapter(report, tokens)));
    chapters.retain(|chapter| !chapter.figures.is_empty());
    let totals = &report.totals;
    let tokens = report.tokens.as_ref().map(|tokens| short(tokens.tokens));
    templates()?.get_template("report")?.render(context! {
        name => title(&report.name),
        version => report.version,
        recipe_hash => report.recipe_hash,
        recipe => serde_json::to_string_pretty(&manifest.recipe).unwrap_or_default(),
        complete => manifest.complete,
        documents => short(totals.records_out),
        records => short(totals.records_in),
        kept => percent(totals.records_out, totals.records_in),
        text => bytes(totals.bytes_out),
        text_in => bytes(totals.bytes_in),
        text_kept => percent(totals.bytes_out, totals.bytes_in),
        words => short(totals.words_out),
        tokens => tokens,
        tokenizer => report.tokens.as_ref().and_then(|tokens| tokens.tokenizer.as_deref()).map(|name| match name {
            "trained" => "tokenizer trained on this corpus".to_string(),
            name => format!("by {name}"),
        }),
        files => number(totals.num_files),
        file_bytes => bytes(totals.file_bytes),
        num_sources => report.sources.len(),
        seconds => seconds(totals.seconds),
        memory => memory(totals.peak_memory_bytes),
        chapters => Value::from_serialize(&chapters),
    })
}

/// The largest sources with a colour each; the smaller ones share the last.
pub(crate) fn coloured(sources: &[Source], size: impl Fn(&Source) -> u64) -> Vec<(String, usize, Vec<&Source>)> {
    let mut ranked: Vec<&Source> = sources.iter().collect();
    ranked.sort_by_key(|source| std::cmp::Reverse(size(source)));
    let own = if ranked.len() <= NUM_COLOURS { ranked.len() } else { NUM_COLOURS - 1 };
    let (large, small) = ranked.split_at(own);
    let mut groups: Vec<(String, usize, Vec<&Source>)> =
        large.iter().enumerate().map(|(colour, source)| (source.name.clone(), colour, vec![*source])).collect();
    if !small.is_empty() {
        groups.push((format!("{} other sources", small.len()), NUM_COLOURS - 1, small.to_vec()));
    }
    groups
}

pub(crate) fn legend(groups: &[(String, usize, Vec<&Source>)]) -> Vec<(String, String)> {
    groups.iter().map(|(name, colour, _)| (format!("c{colour}"), name.clone())).collect()
}

fn funnel(report: &Report) -> Chapter {
    let groups = coloured(&report.sources, |source| source.bytes.first().copied().unwrap_or_default());
    let figure = |heading: &str, note: &str, values: fn(&Source) -> &Vec<u64>, show: fn(u64) -> String| {
        let sum = |at: usize| report.sources.iter().filter_map(|source| values(source).get(at)).sum::<u64>();
        // What is found, then every stage that took something away.
        let shown: Vec<usize> =
            (0..=report.stages.len()).filter(|at| *at == 0 || sum(*at) != sum(*at - 1) || (*at == 1 && report.stages.len() == 1)).collect();
        let name =
            |at: usize| at.checked_sub(1).and_then(|stage| report.stages.get(stage)).map_or("found", |stage| &stage.name).to_string();
        let columns: Vec<Column> = shown
            .iter()
            .map(|at| Column {
                name: name(*at),
                total: show(sum(*at)),
                lost: at
                    .checked_sub(1)
                    .map_or_else(String::new, |before| format!("−{}", percent(sum(before) - sum(*at).min(sum(before)), sum(0)))),
            })
            .collect();
        let value = |sources: &[&Source], at: usize| sources.iter().filter_map(|source| values(source).get(at)).sum::<u64>();
        let series: Vec<(String, usize, Vec<u64>)> = groups
            .iter()
            .map(|(name, colour, sources)| (name.clone(), *colour, shown.iter().map(|at| value(sources, *at)).collect()))
            .collect();
        let mut head = vec!["source".to_string()];
        head.extend(shown.iter().map(|at| name(*at)));
        head.push("kept".to_string());
        let row = |name: &str, value: &dyn Fn(usize) -> u64| {
            let mut row = vec![name.to_string()];
            row.extend(shown.iter().map(|at| show(value(*at))));
            row.push(percent(value(report.stages.len()), value(0)));
            row
        };
        let mut rows: Vec<Vec<String>> = report.sources.iter().map(|source| row(&source.name, &|at| value(&[source], at))).collect();
        rows.push(row("all", &sum));
        let svg = chart::funnel(heading, &columns, &series, show);
        Figure { title: heading.to_string(), note: note.to_string(), svg, legend: legend(&groups), head, rows, open: false }
    };
    let records = figure(
        "Documents",
        "Each column is what a stage left; below it, the share of all documents that it took.",
        |source| &source.records,
        number,
    );
    let text = figure(
        "Text",
        "The same in bytes of text. Exact deduplication cuts passages out of documents that stay.",
        |source| &source.bytes,
        bytes,
    );
    let mut figures = vec![records, text];
    if !report.removals.is_empty() {
        figures.push(removals(report));
    }
    let lead = format!("From {} records to {} documents.", number(report.totals.records_in), number(report.totals.records_out));
    Chapter { id: "funnel", title: "What came in and what stayed", lead, figures }
}

fn removals(report: &Report) -> Figure {
    let stages: Vec<&str> = report.stages.iter().map(|stage| stage.name.as_str()).collect();
    let colour = |stage: &str| stages.iter().position(|name| *name == stage).unwrap_or_default() % NUM_COLOURS;
    let bars: Vec<_> = report
        .removals
        .iter()
        .map(|removal| {
            let label = format!("{} · {}", removal.stage, removal.reason);
            let behind = if removal.bytes > 0 { bytes(removal.bytes) } else { format!("{} records", number(removal.records)) };
            (label, behind, vec![(colour(&removal.stage), "bytes".to_string(), removal.bytes)])
        })
        .collect();
    let row = |removal: &crate::numbers::Removal| {
        let share = percent(removal.bytes, report.totals.bytes_in);
        vec![removal.stage.clone(), removal.reason.clone(), number(removal.records), bytes(removal.bytes), share]
    };
    Figure {
        title: "Reasons".into(),
        note: "Text removed, by stage and reason. Records rejected by parsing have no text to count; each is in the ledger with its place."
            .into(),
        svg: chart::bars("Text removed by reason", &bars),
        legend: Vec::new(),
        head: ["stage", "reason", "records", "text", "of all text"].map(String::from).into(),
        rows: report.removals.iter().map(row).collect(),
        open: true,
    }
}

fn lengths(report: &Report) -> Chapter {
    let (before, after) = (report.lengths.before.as_ref(), &report.lengths.after);
    let mut figures = Vec::new();
    let mut lead = String::new();
    if let Some(mean) = after.sum.checked_div(after.num_values) {
        lead = format!(
            "Half of the documents have {} words or more; the mean is {}, the longest {}.",
            number(after.median),
            number(mean),
            number(after.max)
        );
        let edges = merged_edges(before, after);
        let counts = |histogram: &Histogram| spread(histogram, &edges);
        let before_counts = before.map(counts);
        let after_counts = counts(after);
        let labels: Vec<String> = edges.iter().take(after_counts.len()).map(|edge| number(*edge)).collect();
        let note = if before.is_some() {
            "Documents by length. Pale: those that parsing gave. Full: those in the corpus, with repeated passages cut."
        } else {
            "Documents in the corpus by length."
        };
        let rows = edges.windows(2).enumerate().map(|(at, edge)| {
            let mut row = vec![bin(edge)];
            row.extend(before_counts.iter().map(|counts| number(counts.get(at).copied().unwrap_or_default())));
            row.push(number(after_counts.get(at).copied().unwrap_or_default()));
            row
        });
        let mut head = vec!["words".to_string()];
        head.extend(before.map(|_| "before".to_string()));
        head.push("after".to_string());
        let legend = before.map_or_else(Vec::new, |_| vec![("pale".into(), "as parsed".into()), ("c0".into(), "in the corpus".into())]);
        figures.push(Figure {
            title: "Words per document".into(),
            note: note.into(),
            svg: chart::histogram(
                "Words per document",
                &labels,
                before_counts.as_deref(),
                &after_counts,
                "words, on a logarithmic scale",
                false,
            ),
            legend,
            head,
            rows: rows.collect(),
            open: false,
        });
    }
    Chapter { id: "lengths", title: "How long the documents are", lead, figures }
}

/// A figure of one histogram. `units`: of its values and of what is counted.
pub fn histogram(title: &str, note: String, of: &Histogram, units: [&str; 2]) -> Figure {
    let labels: Vec<String> = of.edges.iter().take(of.counts.len()).map(|edge| number(*edge)).collect();
    Figure {
        title: title.into(),
        note,
        svg: chart::histogram(title, &labels, None, &of.counts, &format!("{}, on a logarithmic scale", units[0]), false),
        legend: Vec::new(),
        head: units.map(String::from).into(),
        rows: of.edges.windows(2).zip(&of.counts).map(|(edge, count)| vec![bin(edge), number(*count)]).collect(),
        open: false,
    }
}

/// The values of a bin between two edges.
fn bin(edge: &[u64]) -> String {
    let (first, last) = (edge[0], edge[1] - 1);
    if first == last { number(first) } else { format!("{} to {}", number(first), number(last)) }
}

/// Edges that cover both histograms. Both follow the same sequence of edges.
fn merged_edges(before: Option<&Histogram>, after: &Histogram) -> Vec<u64> {
    let mut edges: Vec<u64> = before.iter().flat_map(|histogram| &histogram.edges).chain(&after.edges).copied().collect();
    edges.sort_unstable();
    edges.dedup();
    edges
}

/// A histogram's counts at the bins of `edges`.
fn spread(histogram: &Histogram, edges: &[u64]) -> Vec<u64> {
    let bins = edges.len().saturating_sub(1);
    let mut counts = vec![0; bins];
    for (edge, count) in histogram.edges.iter().zip(&histogram.counts) {
        if let Some(total) = edges.binary_search(edge).ok().and_then(|at| counts.get_mut(at)) {
            *total += count;
        }
    }
    counts
}

fn near_duplicates(report: &Report) -> Chapter {
    let clusters = &report.clusters;
    let mut figures = Vec::new();
    if !clusters.sizes.is_empty() {
        let groups = size_groups(clusters);
        let bar = |(label, clusters, removed): &(String, u64, u64)| {
            let noun = if *clusters == 1 { "cluster" } else { "clusters" };
            (label.clone(), format!("{} {noun}, {} removed", number(*clusters), number(*removed)), vec![(0, noun.to_string(), *clusters)])
        };
        let bars: Vec<_> = groups.iter().map(bar).collect();
        figures.push(Figure {
            title: "Cluster sizes".into(),
            note: "Of every cluster one document stays and carries the identifiers of the others.".into(),
            svg: chart::bars("Clusters by size", &bars),
            legend: Vec::new(),
            head: ["documents in the cluster", "clusters", "documents removed"].map(String::from).into(),
            rows: groups.into_iter().map(|(label, clusters, removed)| vec![label, number(clusters), number(removed)]).collect(),
            open: false,
        });
    }
    let curves = [("The S-curve, and the pairs found on it", &report.s_curve), ("The same for short documents", &report.s_curve_short)];
    figures.extend(curves.iter().filter(|(_, points)| !points.is_empty()).map(|(title, points)| s_curve(title, points, report.threshold)));
    let lead = if clusters.num_clusters > 0 {
        format!("{} documents were near or exact copies of {} others.", number(clusters.num_removed), number(clusters.num_clusters))
    } else {
        "No document was a copy of another.".to_string()
    };
    Chapter { id: "near-duplicates", title: "Near-duplicates", lead, figures }
}

/// Sizes one by one up to five, then in ranges: label, clusters, documents removed.
fn size_groups(clusters: &crate::numbers::Clusters) -> Vec<(String, u64, u64)> {
    let ranges = [(2, 2), (3, 3), (4, 4), (5, 5), (6, 10), (11, 20), (21, 50), (51, 100), (101, 1_000), (1_001, u64::MAX)];
    let label = |low: u64, high: u64| match high {
        u64::MAX => format!("more than {}", number(low - 1)),
        _ if low == high => format!("{low} documents"),
        _ => format!("{low} to {}", number(high)),
    };
    let group = |(low, high): (u64, u64)| {
        let within = || clusters.sizes.range(low..=high);
        (label(low, high), within().map(|(_, count)| count).sum::<u64>(), within().map(|(size, count)| (size - 1) * count).sum::<u64>())
    };
    ranges.into_iter().map(group).filter(|(_, clusters, _)| *clusters > 0).collect()
}

fn s_curve(title: &str, points: &[CurvePoint], threshold: Option<f64>) -> Figure {
    let points: Vec<(f64, f64, u64)> = points.iter().map(|point| (point.jaccard, point.predicted, point.num_pairs)).collect();
    let at = threshold.and_then(|threshold| points.iter().find(|point| point.0 + 1e-9 >= threshold));
    let recall = at.map_or_else(String::new, |point| format!(" At the threshold it finds {:.1}% of pairs.", 100.0 * point.1));
    let row = |(similarity, probability, pairs): &(f64, f64, u64)| {
        // Pairs there must have been, if the prediction holds: where most are missed the estimate says little.
        let estimate = if *probability >= 0.01 { number((*pairs as f64 / probability).round() as u64) } else { "–".to_string() };
        vec![format!("{similarity:.2}"), format!("{:.2}%", 100.0 * probability), number(*pairs), estimate]
    };
    let mut legend = vec![("curve".to_string(), "probability of finding a pair, predicted".to_string())];
    legend.push(("c2".into(), "pairs found at or above the threshold".into()));
    legend.push(("pale".into(), "candidates below it, which stay apart".into()));
    Figure {
        title: title.into(),
        note: format!(
            "Line and left scale: the chance that hashing proposes a pair of this similarity.{recall} Columns and right scale: pairs that it \
             proposed, by their exact similarity; the scale is of square roots, so that single pairs are seen."
        ),
        svg: chart::s_curve(title, &points, threshold),
        legend,
        head: ["similarity from", "predicted", "pairs found", "pairs there, estimated"].map(String::from).into(),
        rows: points.iter().map(row).collect(),
        open: false,
    }
}

fn exact_duplicates(report: &Report) -> Chapter {
    let mut figures = Vec::new();
    let cuts = |stage: &str| report.sources.iter().any(|source| source.removed_bytes.contains_key(stage));
    let names = report.stages.iter().map(|stage| stage.name.as_str()).enumerate();
    let stages: Vec<(usize, &str)> = names.filter(|(_, stage)| cuts(stage)).collect();
    let removed: Vec<&Source> = report.sources.iter().filter(|source| !source.removed_bytes.is_empty()).collect();
    if !removed.is_empty() {
        let found = |source: &Source| source.bytes.first().copied().unwrap_or_default();
        let bar = |source: &&Source| {
            let parts =
                stages.iter().filter_map(|(at, stage)| Some((at % NUM_COLOURS, (*stage).to_string(), *source.removed_bytes.get(*stage)?)));
            let total: u64 = source.removed_bytes.values().sum();
            (source.name.clone(), format!("{} ({})", bytes(total), percent(total, found(source))), parts.collect())
        };
        let bars: Vec<_> = removed.iter().map(bar).collect();
        let row = |source: &&Source| {
            let mut row = vec![source.name.clone(), bytes(found(source))];
            row.extend(stages.iter().map(|(_, stage)| bytes(source.removed_bytes.get(*stage).copied().unwrap_or_default())));
            row.push(percent(source.removed_bytes.values().sum(), found(source)));
            row
        };
        let mut head = vec!["source".to_string(), "text found".to_string()];
        head.extend(stages.iter().map(|(_, stage)| (*stage).to_string()));
        head.push("removed in all".to_string());
        figures.push(Figure {
            title: "Text removed, by source".into(),
            note: "In brackets, the share of the source's text.".into(),
            svg: chart::bars("Text removed by source and stage", &bars),
            legend: stages.iter().map(|(at, stage)| (format!("c{}", at % NUM_COLOURS), (*stage).to_string())).collect(),
            head,
            rows: removed.iter().map(row).collect(),
            open: false,
        });
    }
    let spans = &report.span_bytes;
    if spans.num_values > 0 {
        let [number_of, median, longest] = [spans.num_values, spans.median, spans.max].map(number);
        let note = format!("{number_of} passages; half are of {median} bytes or more, the longest of {longest}.");
        figures.push(histogram("Length of the passages cut", note, spans, ["bytes", "passages"]));
    }
    Chapter { id: "removed", title: "What was cut, and where", lead: String::new(), figures }
}

fn contents(report: &Report) -> Chapter {
    let mut figures = Vec::new();
    for (heading, shares) in [("Languages", &report.languages), ("Licences", &report.licenses)] {
        if !shares.is_empty() {
            figures.push(shares_figure(heading, shares));
        }
    }
    if !report.years.is_empty() {
        let (years, counts): (Vec<String>, Vec<u64>) = report.years.iter().map(|(year, count)| (year.clone(), *count)).unzip();
        figures.push(Figure {
            title: "Year of publication".into(),
            note: String::new(),
            svg: chart::histogram("Documents by year of publication", &years, None, &counts, "year", true),
            legend: Vec::new(),
            head: ["year", "documents"].map(String::from).into(),
            rows: report.years.iter().map(|(year, count)| vec![year.clone(), number(*count)]).collect(),
            open: false,
        });
    }
    Chapter { id: "contents", title: "What the corpus holds", lead: String::new(), figures }
}

fn shares_figure(heading: &str, shares: &[Share]) -> Figure {
    let total: u64 = shares.iter().map(|share| share.words).sum();
    let own = if shares.len() <= NUM_COLOURS { shares.len() } else { NUM_COLOURS - 1 };
    let (large, small) = shares.split_at(own);
    let mut parts: Vec<(usize, String, u64)> =
        large.iter().enumerate().map(|(colour, share)| (colour, share.name.clone(), share.words)).collect();
    if !small.is_empty() {
        parts.push((NUM_COLOURS - 1, format!("{} others", small.len()), small.iter().map(|share| share.words).sum()));
    }
    let row = |share: &Share| {
        vec![share.name.clone(), number(share.documents), number(share.words), bytes(share.bytes), percent(share.words, total)]
    };
    Figure {
        title: heading.into(),
        note: "By words.".into(),
        svg: chart::mix(heading, &parts),
        legend: parts.iter().map(|(colour, name, _)| (format!("c{colour}"), name.clone())).collect(),
        head: [heading, "documents", "words", "text", "of all words"].map(str::to_lowercase).into(),
        rows: shares.iter().map(row).collect(),
        open: false,
    }
}

fn run(report: &Report) -> Chapter {
    let bar = |stage: &crate::numbers::Stage| {
        (stage.name.clone(), seconds(stage.seconds), vec![(0, "milliseconds".to_string(), (stage.seconds.max(0.0) * 1000.0) as u64)])
    };
    let row = |stage: &crate::numbers::Stage| {
        let rate =
            if stage.seconds > 0.0 { format!("{}/s", bytes((stage.bytes_in as f64 / stage.seconds) as u64)) } else { "–".to_string() };
        vec![
            stage.name.clone(),
            number(stage.records_in),
            number(stage.records_out),
            seconds(stage.seconds),
            rate,
            memory(stage.peak_memory_bytes),
        ]
    };
    let figure = Figure {
        title: "Stages".into(),
        note: "Time by stage.".into(),
        svg: chart::bars("Time by stage", &report.stages.iter().map(bar).collect::<Vec<_>>()),
        legend: Vec::new(),
        head: ["stage", "records in", "records out", "time", "text per second", "peak memory"].map(String::from).into(),
        rows: report.stages.iter().map(row).collect(),
        open: true,
    };
    let figures = if report.stages.is_empty() { Vec::new() } else { vec![figure] };
    Chapter { id: "run", title: "How the run went", lead: String::new(), figures }
}
