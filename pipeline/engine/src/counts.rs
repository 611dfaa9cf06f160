//! Counts by stage, source and reason, as records pass or are dropped.

use osler_schemas::manifest::{Counts, StageRow};
use std::collections::BTreeMap;

/// Counts of consecutive stages of one plan. A record dropped by a stage went through those before it and never reached those after.
#[derive(Debug)]
pub struct Counter {
    stages: Vec<String>,
    /// `[stage][source]`.
    counts: Vec<BTreeMap<String, Counts>>,
}

impl Counter {
    pub fn new(stages: Vec<String>) -> Self {
        let counts = vec![BTreeMap::new(); stages.len()];
        Self { stages, counts }
    }

    /// A record of `num_bytes` of text that every stage let through.
    pub fn kept(&mut self, source: &str, num_bytes: u64) {
        for stage in 0..self.stages.len() {
            self.passed(stage, source, num_bytes);
        }
    }

    /// Records of one source that every stage let through.
    pub fn all_kept(&mut self, source: &str, records: u64, num_bytes: u64) {
        for stage in 0..self.stages.len() {
            let counts = self.of(stage, source);
            counts.records_in += records;
            counts.records_out += records;
            counts.bytes_in += num_bytes;
            counts.bytes_out += num_bytes;
        }
    }

    /// A record that `stage` dropped for `reason`. A stage the counter does not know drops it at the first.
    pub fn dropped(&mut self, source: &str, num_bytes: u64, stage: &str, reason: &str) {
        let at = self.stages.iter().position(|name| name == stage).unwrap_or(0);
        for before in 0..at {
            self.passed(before, source, num_bytes);
        }
        self.drop_at(at, source, num_bytes, reason);
    }

    /// A record that every stage let through, and that stage `cut` made shorter.
    pub fn kept_cut(&mut self, source: &str, before: u64, after: u64, cut: usize) {
        for stage in 0..self.stages.len() {
            if stage == cut {
                self.cut(stage, source, before, after);
            } else {
                self.passed(stage, source, if stage < cut { before } else { after });
            }
        }
    }

    /// A record that `stage` dropped for `reason`; if that is stage `cut` or later, `after` is what was left of it.
    pub fn dropped_cut(&mut self, source: &str, before: u64, after: u64, cut: usize, stage: &str, reason: &str) {
        let at = self.stages.iter().position(|name| name == stage).unwrap_or(0);
        if at <= cut {
            return self.dropped(source, before, stage, reason);
        }
        for stage in 0..at {
            if stage == cut {
                self.cut(stage, source, before, after);
            } else {
                self.passed(stage, source, if stage < cut { before } else { after });
            }
        }
        self.drop_at(at, source, after, reason);
    }

    /// The counts as rows for the manifest, with the plan's time and memory on the first.
    pub fn rows(self) -> Vec<StageRow> {
        self.stages
            .into_iter()
            .zip(self.counts)
            .map(|(name, sources)| {
                let mut counts = Counts::default();
                sources.values().for_each(|source| counts.add(source));
                StageRow { name, counts, sources, ..StageRow::default() }
            })
            .collect()
    }

    fn drop_at(&mut self, stage: usize, source: &str, num_bytes: u64, reason: &str) {
        let counts = self.of(stage, source);
        counts.records_in += 1;
        counts.bytes_in += num_bytes;
        *counts.dropped.entry(reason.to_string()).or_default() += 1;
        *counts.bytes_removed.entry(reason.to_string()).or_default() += num_bytes;
    }

    fn cut(&mut self, stage: usize, source: &str, before: u64, after: u64) {
        let counts = self.of(stage, source);
        counts.records_in += 1;
        counts.records_out += 1;
        counts.bytes_in += before;
        counts.bytes_out += after;
        if before > after {
            *counts.bytes_removed.entry("repeat".to_string()).or_default() += before - after;
        }
    }

    fn passed(&mut self, stage: usize, source: &str, num_bytes: u64) {
        let counts = self.of(stage, source);
        counts.records_in += 1;
        counts.records_out += 1;
        counts.bytes_in += num_bytes;
        counts.bytes_out += num_bytes;
    }

    fn of(&mut self, stage: usize, source: &str) -> &mut Counts {
        if !self.counts[stage].contains_key(source) {
            self.counts[stage].insert(source.to_string(), Counts::default());
        }
        self.counts[stage].entry(source.to_string()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_up_to_the_stage_that_drops_it() {
        let mut counter = Counter::new(vec!["a".into(), "b".into(), "c".into()]);
        counter.kept("s", 10);
        counter.dropped("s", 5, "b", "too-short");
        counter.dropped("t", 0, "a", "broken");
        let rows = counter.rows();
        let records: Vec<_> = rows.iter().map(|row| (row.counts.records_in, row.counts.records_out)).collect();
        assert_eq!(records, [(3, 2), (2, 1), (1, 1)]);
        assert!(rows.iter().all(|row| row.counts.add_up() && row.sources.values().all(Counts::add_up)));
        assert_eq!(rows[1].counts.bytes_removed["too-short"], 5);
    }
}
