//! Progress on stderr: bars on a terminal, JSON lines elsewhere, nothing when told.

use crate::arguments::ProgressKind;
use indicatif::{ProgressBar, ProgressStyle};
use osler_engine::context::{Progress, Silent};
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time between two JSON lines of one stage.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// The progress that fits the terminal and the flag.
pub fn choose(kind: ProgressKind) -> Arc<dyn Progress> {
    let terminal = std::io::stderr().is_terminal();
    match kind {
        ProgressKind::None => Arc::new(Silent),
        ProgressKind::Bar => Arc::new(Bars::default()),
        ProgressKind::Auto if terminal => Arc::new(Bars::default()),
        ProgressKind::Json | ProgressKind::Auto => Arc::new(Lines::default()),
    }
}

/// One bar per stage; finished ones stay above the one at work.
#[derive(Debug, Default)]
struct Bars {
    bar: Mutex<Option<(ProgressBar, Instant)>>,
}

impl Bars {
    fn style(total: u64) -> ProgressStyle {
        let template = if total > 0 {
            "  {prefix:<22} {bar:28.cyan/dim} {bytes:>11} of {total_bytes:<11} {bytes_per_sec:>13}  {eta} left"
        } else {
            "  {prefix:<22} {spinner:.cyan} {bytes:>11} {elapsed}"
        };
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─")
    }
}

impl Progress for Bars {
    fn start(&self, stage: &str, total_bytes: u64) {
        let bar = if total_bytes > 0 { ProgressBar::new(total_bytes) } else { ProgressBar::new_spinner() };
        bar.set_style(Self::style(total_bytes));
        bar.set_prefix(stage.to_string());
        bar.enable_steady_tick(Duration::from_millis(100));
        *self.bar.lock().unwrap_or_else(PoisonError::into_inner) = Some((bar, Instant::now()));
    }

    fn advance(&self, num_bytes: u64) {
        if let Some((bar, _)) = &*self.bar.lock().unwrap_or_else(PoisonError::into_inner) {
            bar.inc(num_bytes);
        }
    }

    fn finish(&self, stage: &str, skipped: bool) {
        let Some((bar, start)) = self.bar.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        bar.finish_and_clear();
        let what = if skipped { "done before".to_string() } else { format!("{:.1} s", start.elapsed().as_secs_f64()) };
        let _ = writeln!(std::io::stderr(), "  {stage:<22} {what}");
    }
}

/// One JSON object a line.
#[derive(Debug)]
struct Lines {
    state: Mutex<LineState>,
    done: AtomicU64,
}

#[derive(Debug)]
struct LineState {
    stage: String,
    total: u64,
    start: Instant,
    last: Instant,
}

impl Default for Lines {
    fn default() -> Self {
        let now = Instant::now();
        Self { state: Mutex::new(LineState { stage: String::new(), total: 0, start: now, last: now }), done: AtomicU64::new(0) }
    }
}

impl Lines {
    fn line(value: &serde_json::Value) {
        let _ = writeln!(std::io::stderr(), "{value}");
    }
}

impl Progress for Lines {
    fn start(&self, stage: &str, total_bytes: u64) {
        let now = Instant::now();
        self.done.store(0, Ordering::Relaxed);
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) =
            LineState { stage: stage.to_string(), total: total_bytes, start: now, last: now };
        Self::line(&serde_json::json!({"event": "start", "stage": stage, "total_bytes": total_bytes}));
    }

    fn advance(&self, num_bytes: u64) {
        let done = self.done.fetch_add(num_bytes, Ordering::Relaxed) + num_bytes;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.elapsed() < LINE_INTERVAL {
            return;
        }
        state.last = Instant::now();
        let rate = done as f64 / state.start.elapsed().as_secs_f64();
        let left = if state.total > 0 && rate > 0.0 { Some(state.total.saturating_sub(done) as f64 / rate) } else { None };
        Self::line(&serde_json::json!({"event": "progress", "stage": state.stage, "bytes": done, "total_bytes": state.total,
            "bytes_per_second": rate.round(), "eta_seconds": left.map(f64::round)}));
    }

    fn finish(&self, stage: &str, skipped: bool) {
        let seconds = self.state.lock().unwrap_or_else(PoisonError::into_inner).start.elapsed().as_secs_f64();
        Self::line(&serde_json::json!({"event": "finish", "stage": stage, "seconds": seconds, "done_before": skipped,
            "bytes": self.done.load(Ordering::Relaxed)}));
    }
}
