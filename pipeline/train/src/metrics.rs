//! What a run leaves of its course: `metrics.jsonl`, one object a line, and TensorBoard event files.

use crate::events::EventWriter;
use crate::trainer::{BySource, Entropy, Step, TrainError};
use serde_json::{Map, Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The file of lines.
pub const METRICS: &str = "metrics.jsonl";
const EVENTS: &str = "tensorboard";

/// Writes both, line by line, so that others can watch.
#[derive(Debug)]
pub struct Metrics {
    lines: File,
    path: PathBuf,
    events: EventWriter,
    source_names: Vec<String>,
}

impl Metrics {
    /// Goes on after `step`; what a killed run wrote of later ones is taken away.
    ///
    /// # Errors
    /// [`TrainError::Io`].
    pub fn open(out: &Path, step: u64, source_names: Vec<String>) -> Result<Self, TrainError> {
        let path = out.join(METRICS);
        let io = |source| TrainError::Io { path: path.clone(), source };
        let before = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(io(error)),
        };
        let kept = |line: &&str| serde_json::from_str::<Value>(line).is_ok_and(|line| line["step"].as_u64().is_some_and(|at| at <= step));
        let kept: String = before.lines().filter(kept).map(|line| format!("{line}\n")).collect();
        let partial = path.with_extension("partial");
        fs::write(&partial, kept).and_then(|()| fs::rename(&partial, &path)).map_err(io)?;
        let lines = OpenOptions::new().append(true).open(&path).map_err(io)?;
        let folder = out.join(EVENTS);
        let events = EventWriter::create(&folder, step).map_err(|source| TrainError::Io { path: folder, source })?;
        Ok(Self { lines, path, events, source_names })
    }

    /// One step; `seconds` is what it took, `operations_per_second` what was computed, `utilisation` the share of the machine's peak that is
    /// (MFU), where that is known.
    ///
    /// # Errors
    /// [`TrainError::Io`].
    pub fn step(&mut self, step: &Step, seconds: f64, operations_per_second: f64, utilisation: Option<f64>) -> Result<(), TrainError> {
        let tokens_per_second = step.num_tokens as f64 / seconds;
        let sources = self.by_source(&step.sources);
        let mut scalars = vec![
            ("train/loss".to_string(), step.loss),
            ("train/learning_rate".to_string(), step.learning_rate),
            ("train/gradient_norm".to_string(), step.norm),
            ("train/tokens_per_second".to_string(), tokens_per_second),
        ];
        scalars.extend(self.named("train/loss", &step.sources));
        self.line(&json!({
            "step": step.step, "loss": step.loss, "balance": step.balance, "gradient_norm": step.norm,
            "learning_rate": step.learning_rate, "tokens": step.num_tokens, "targets": step.num_targets, "seconds": seconds,
            "tokens_per_second": tokens_per_second, "operations_per_second": operations_per_second, "mfu": utilisation, "sources": sources,
        }))?;
        self.scalars(step.step, &scalars)
    }

    /// A measurement of held-out text.
    ///
    /// # Errors
    /// [`TrainError::Io`].
    pub fn held_out(&mut self, step: u64, all: Entropy, sources: &BySource) -> Result<(), TrainError> {
        let loss = all.mean();
        self.line(&json!({ "step": step, "held_out": { "loss": loss, "targets": all.num_targets, "sources": self.by_source(sources) } }))?;
        let mut scalars: Vec<(String, f64)> = loss.map(|loss| ("held_out/loss".to_string(), loss)).into_iter().collect();
        scalars.extend(self.named("held_out/loss", sources));
        self.scalars(step, &scalars)
    }

    fn named<'a>(&'a self, prefix: &'a str, sources: &'a BySource) -> impl Iterator<Item = (String, f64)> + use<'a> {
        sources
            .iter()
            .filter_map(move |(&source, entropy)| Some((format!("{prefix}/{}", self.source_names.get(source as usize)?), entropy.mean()?)))
    }

    fn by_source(&self, sources: &BySource) -> Value {
        let of = |(&source, entropy): (&u32, &Entropy)| {
            let name = self.source_names.get(source as usize)?.clone();
            Some((name, json!({ "loss": entropy.mean(), "targets": entropy.num_targets })))
        };
        Value::Object(sources.iter().filter_map(of).collect::<Map<_, _>>())
    }

    fn line(&mut self, value: &Value) -> Result<(), TrainError> {
        // One call, so that a reader never sees half a line.
        self.lines.write_all(format!("{value}\n").as_bytes()).map_err(|source| TrainError::Io { path: self.path.clone(), source })
    }

    fn scalars(&mut self, step: u64, scalars: &[(String, f64)]) -> Result<(), TrainError> {
        self.events.scalars(step, scalars).map_err(|source| TrainError::Io { path: self.path.with_file_name(EVENTS), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64) -> Step {
        let sources = BySource::from([(0, Entropy { sum: 6.0, num_targets: 3 }), (1, Entropy { sum: 1.0, num_targets: 1 })]);
        Step { step, loss: 1.75, balance: 0.0, norm: 2.0, learning_rate: 1e-3, num_tokens: 5, num_targets: 4, sources }
    }

    #[test]
    fn lines_go_on_where_the_checkpoint_is() {
        let folder = tempfile::tempdir().unwrap();
        let names = || vec!["notes".to_string(), "papers".to_string()];
        let mut metrics = Metrics::open(folder.path(), 0, names()).unwrap();
        (1..=5).for_each(|at| metrics.step(&step(at), 0.5, 1e9, None).unwrap());
        metrics.held_out(5, Entropy { sum: 3.0, num_targets: 2 }, &BySource::new()).unwrap();
        drop(metrics);
        let path = folder.path().join(METRICS);
        // A killed run leaves half a line.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"step\": 6, \"lo").unwrap();
        let mut metrics = Metrics::open(folder.path(), 3, names()).unwrap();
        metrics.step(&step(4), 0.25, 1e9, Some(0.5)).unwrap();
        let lines: Vec<Value> = fs::read_to_string(&path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!((lines[3]["tokens_per_second"].as_f64(), lines[0]["sources"]["notes"]["loss"].as_f64()), (Some(20.0), Some(2.0)));
    }
}
