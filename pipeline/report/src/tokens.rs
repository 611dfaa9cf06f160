//! The page's last chapter: the token shards, how full their chunks are, and what training is given of them.

use crate::chart;
use crate::format::{number, percent};
use crate::numbers::{MixPart, Report, Source, Tokens};
use crate::page::{Chapter, Figure, coloured, histogram, legend};

/// Packing, sources, lengths and mix; nothing where there are no tokens.
pub fn chapter(report: &Report, tokens: &Tokens) -> Chapter {
    let lead = match (tokens.chunks, tokens.context_length) {
        (Some(chunks), Some(context)) => format!("{} tokens in {} chunks of {}.", number(tokens.tokens), number(chunks), number(context)),
        _ => format!("{} tokens.", number(tokens.tokens)),
    };
    let figures = [packing(tokens), by_source(report), lengths(tokens), mix(tokens)];
    Chapter { id: "tokens", title: "The tokens", lead, figures: figures.into_iter().flatten().collect() }
}

/// How full the chunks are.
fn packing(tokens: &Tokens) -> Option<Figure> {
    let (chunks, context) = (tokens.chunks?, tokens.context_length?);
    let places = chunks * context;
    let packed = places.saturating_sub(tokens.padding);
    let parts: Vec<(usize, String, u64)> = [(0, "tokens", packed), (1, "padding", tokens.padding)]
        .map(|(colour, name, value)| (colour, name.to_string(), value))
        .into_iter()
        .filter(|part| part.2 > 0)
        .collect();
    let row = |name: &str, value: String| vec![name.to_string(), value];
    let mut rows = vec![row("context length", number(context)), row("chunks", number(chunks))];
    rows.extend(tokens.packing.iter().map(|packing| row("packing / tail", packing.replace('/', " / "))));
    rows.push(row("tokens in chunks", format!("{} ({} of the places)", number(packed), percent(packed, places))));
    rows.push(row("padding", number(tokens.padding)));
    rows.push(row("tokens in no chunk", number(tokens.tail_tokens)));
    rows.extend(tokens.documents.map(|documents| row("documents", number(documents))));
    rows.extend(tokens.shards.map(|shards| row("shards", number(shards))));
    rows.extend(tokens.tokenizer.as_ref().map(|name| row("tokenizer", name.clone())));
    Some(Figure {
        title: "Packing".into(),
        note: "What the places of all chunks hold. Tokens in no chunk are in the shards, and in chunks of another length or mix.".into(),
        svg: chart::mix("Places in chunks", &parts),
        legend: parts.iter().map(|(colour, name, _)| (format!("c{colour}"), name.clone())).collect(),
        head: ["", "value"].map(String::from).into(),
        rows,
        open: true,
    })
}

fn by_source(report: &Report) -> Option<Figure> {
    let with_tokens: Vec<Source> = report.sources.iter().filter(|source| source.tokens.unwrap_or_default() > 0).cloned().collect();
    let groups = coloured(&with_tokens, |source| source.tokens.unwrap_or_default());
    let sum = |sources: &[&Source]| sources.iter().filter_map(|source| source.tokens).sum::<u64>();
    let parts: Vec<(usize, String, u64)> = groups.iter().map(|(name, colour, sources)| (*colour, name.clone(), sum(sources))).collect();
    let total = with_tokens.iter().filter_map(|source| source.tokens).sum();
    let row = |source: &Source| {
        let count = source.tokens.unwrap_or_default();
        let per_word = if source.words > 0 { format!("{:.2}", count as f64 / source.words as f64) } else { "–".to_string() };
        vec![source.name.clone(), number(count), percent(count, total), number(source.words), per_word]
    };
    (!with_tokens.is_empty()).then(|| Figure {
        title: "Token mix".into(),
        note: "Tokens by source. Tokens per word tell how well the tokenizer knows the language.".into(),
        svg: chart::mix("Tokens by source", &parts),
        legend: legend(&groups),
        head: ["source", "tokens", "of all", "words", "tokens per word"].map(String::from).into(),
        rows: with_tokens.iter().map(row).collect(),
        open: true,
    })
}

fn lengths(tokens: &Tokens) -> Option<Figure> {
    let lengths = tokens.lengths.as_ref().filter(|lengths| lengths.num_values > 0)?;
    let note = format!("Half of the documents have about {} tokens or more.", number(lengths.median));
    Some(histogram("Tokens per document", note, lengths, ["tokens", "documents"]))
}

/// What training is given in an epoch.
fn mix(tokens: &Tokens) -> Option<Figure> {
    let context = tokens.context_length?;
    let total: u64 = tokens.mix.iter().map(|part| part.chunks_per_epoch).sum();
    let bar = |(colour, part): (usize, &MixPart)| (colour % chart::NUM_COLOURS, part.name.clone(), part.chunks_per_epoch * context);
    let parts: Vec<(usize, String, u64)> = tokens.mix.iter().enumerate().map(bar).collect();
    let row = |part: &MixPart| {
        vec![
            part.name.clone(),
            number(part.available_chunks * context),
            number(part.chunks_per_epoch * context),
            percent(part.chunks_per_epoch, total),
            format!("{:.2}", part.passes),
        ]
    };
    (!tokens.mix.is_empty()).then(|| Figure {
        title: "What training is given".into(),
        note: "Tokens of an epoch by part of the mix; times: how often a chunk is given over the whole run, on average.".into(),
        svg: chart::mix("Tokens of an epoch by part of the mix", &parts),
        legend: parts.iter().map(|(colour, name, _)| (format!("c{colour}"), name.clone())).collect(),
        head: ["part", "tokens it has", "tokens an epoch", "of an epoch", "times"].map(String::from).into(),
        rows: tokens.mix.iter().map(row).collect(),
        open: true,
    })
}
