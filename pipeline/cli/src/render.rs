//! Tables for people: the closing funnel of a run.

use osler_schemas::manifest::{Counts, Manifest};
use std::fmt::Write;

/// The funnel: one line per stage with records and bytes in and out, and what was dropped for which reason.
pub fn funnel(manifest: &Manifest) -> String {
    let mut table = String::new();
    let _ =
        writeln!(table, "  {:<24} {:>11} {:>11} {:>10} {:>10} {:>8}  dropped", "stage", "records in", "out", "bytes in", "out", "seconds");
    for stage in &manifest.stages {
        let Counts { records_in, records_out, bytes_in, bytes_out, .. } = &stage.counts;
        let _ = writeln!(
            table,
            "  {:<24} {:>11} {:>11} {:>10} {:>10} {:>8.1}  {}",
            stage.name,
            grouped(*records_in),
            grouped(*records_out),
            bytes(*bytes_in),
            bytes(*bytes_out),
            stage.seconds,
            reasons(&stage.counts)
        );
    }
    table
}

/// Tokens and chunks, in total and by source.
pub fn tokens(manifest: &Manifest) -> Vec<String> {
    let Some(pack) = manifest.stages.iter().find(|stage| stage.name == "pack") else { return Vec::new() };
    let number = |key: &str| grouped(pack.facts[key].as_u64().unwrap_or(0));
    let mut lines = vec![format!(
        "{} tokens in {} chunks of {} (tokenizer {}); {} in no chunk",
        number("tokens"),
        number("chunks"),
        number("context_length"),
        pack.facts["tokenizer"].as_str().unwrap_or("unknown"),
        number("tail_tokens")
    )];
    let near = manifest.stages.iter().find(|stage| stage.name == "near-duplicates");
    if let Some(near) = near.filter(|near| near.facts.is_object()) {
        let number = |key: &str| grouped(near.facts[key].as_u64().unwrap_or(0));
        lines.push(format!(
            "{} clusters: {} exact copies, {} near-duplicates; {} candidate pairs, {} at the threshold",
            number("clusters"),
            number("exact_copies"),
            number("near_duplicates"),
            number("candidate_pairs"),
            number("pairs_at_threshold")
        ));
        lines.extend(near.facts["alarm"].as_str().map(|alarm| format!("ALARM: {alarm}")));
    }
    lines
}

fn reasons(counts: &Counts) -> String {
    let mut reasons: Vec<_> = counts.dropped.iter().collect();
    reasons.sort_by_key(|(reason, count)| (std::cmp::Reverse(**count), (*reason).clone()));
    reasons.iter().map(|(reason, count)| format!("{} {reason}", grouped(**count))).collect::<Vec<_>>().join(", ")
}

/// A whole number with a space between groups of three digits.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A size in the unit that fits.
pub fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = number as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{number} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1234567), "1 234 567");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_500_000), "1.5 MB");
    }
}
