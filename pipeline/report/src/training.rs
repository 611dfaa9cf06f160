//! The page of a training run: loss by source and of held-out text, learning rate, norm of the gradients, throughput.

use crate::chart::{self, Series};
use crate::format::{memory, number, seconds, short, title};
use crate::page::{Chapter, Figure, templates};
use crate::{Error, write};
use minijinja::{Value as Rendered, context};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Points of a line, at most: more are brought together by their mean.
const NUM_POINTS: usize = 400;

/// Reads what the run in `out` has left so far, finished or not, and writes `train-report.html` beside it.
///
/// # Errors
/// [`Error::Training`] when there is no training run, [`Error::Io`] when the page cannot be written.
pub fn build_training(out: &Path) -> Result<(), Error> {
    let wrong = |path: &Path, problem: &str| Error::Training { path: path.display().to_string(), problem: problem.to_string() };
    let (plan_path, path) = (out.join("train.json"), out.join("metrics.jsonl"));
    let read = |path: &Path| fs::read_to_string(path).map_err(|source| Error::Io { path: path.display().to_string(), source });
    let plan: Value = serde_json::from_str(&read(&plan_path)?).map_err(|_| wrong(&plan_path, "not JSON"))?;
    let lines: Result<Vec<Value>, _> = read(&path)?.lines().map(serde_json::from_str).collect();
    let lines = lines.map_err(|_| wrong(&path, "a line is not JSON"))?;
    let run = Course { plan, steps: lines.iter().filter(|line| line["loss"].is_number()).collect(), lines: &lines };
    write(&out.join("train-report.html"), run.render()?.as_bytes())
}

/// A run's plan and what its lines say.
struct Course<'a> {
    plan: Value,
    steps: Vec<&'a Value>,
    lines: &'a [Value],
}

impl Course<'_> {
    fn render(&self) -> Result<String, minijinja::Error> {
        let plan = |key: &str| self.plan[key].as_u64().unwrap_or(0);
        let losses = self.of("loss");
        let tenth = losses.len().div_ceil(10);
        let mean = |points: &[(f64, f64)]| match points.len() {
            0 => "–".to_string(),
            count => format!("{:.3}", points.iter().map(|point| point.1).sum::<f64>() / count as f64),
        };
        let total = |key: &str| self.of(key).iter().map(|point| point.1).sum::<f64>();
        let (tokens, time) = (total("tokens"), total("seconds"));
        let held_out = self.held_out("/held_out/loss").last().map(|point| point.1);
        let bytes: u64 = self.plan["memory_bytes"].as_object().into_iter().flatten().filter_map(|(_, bytes)| bytes.as_u64()).sum();
        let sources: Vec<&str> = self.sources();
        templates()?.get_template("training")?.render(context! {
            name => title(self.plan["recipe"]["name"].as_str().unwrap_or("model")),
            version => self.plan["version"].as_str(),
            weights => short(plan("weights")),
            steps => plan("steps"),
            done => losses.last().map_or(0, |point| point.0 as u64),
            sequences => plan("sequences_per_step"),
            context_length => number(plan("context_length")),
            sources => sources.join(", "),
            loss => mean(&losses[losses.len() - tenth..]),
            first_loss => mean(&losses[..tenth.min(losses.len())]),
            held_out => held_out.map(|loss| format!("{loss:.3}")),
            perplexity => held_out.map(|loss| format!("{:.1}", loss.exp())),
            tokens => short(tokens as u64),
            rate => number(if time > 0.0 { (tokens / time) as u64 } else { 0 }),
            seconds => seconds(time),
            memory => memory(bytes),
            recipe => serde_json::to_string_pretty(&self.plan["recipe"]).unwrap_or_default(),
            chapters => Rendered::from_serialize(self.chapters()),
        })
    }

    fn chapters(&self) -> Vec<Chapter> {
        let plain = |value: f64| format!("{value:.2}");
        let line = |name: &str, colour: usize, points: Vec<(f64, f64)>, dots: bool| Series {
            name: name.to_string(),
            colour,
            points: if dots { points } else { thinned(&points) },
            dots,
        };
        let mut loss = vec![line("all of a step", 0, self.of("loss"), false)];
        let held_out = self.held_out("/held_out/loss");
        if !held_out.is_empty() {
            loss.push(line("held out", 3, held_out, true));
        }
        let by_source = |place: fn(&str) -> String, dots: bool| -> Vec<Series> {
            let points = |name: &&str| if dots { self.held_out(&place(name)) } else { self.at(&self.steps, &place(name)) };
            let some = self.sources().into_iter().take(chart::NUM_COLOURS).enumerate();
            some.map(|(colour, name)| line(name, colour, points(&name), dots)).filter(|series| !series.points.is_empty()).collect()
        };
        let trained = by_source(|name| format!("/sources/{}/loss", escaped(name)), false);
        let measured = by_source(|name| format!("/held_out/sources/{}/loss", escaped(name)), true);
        let course = |key: &str| vec![line(key, 2, self.of(key), false)];
        let nats = "Mean cross entropy in nats per token; neighbouring steps are brought together by their mean.";
        let figures = |list: Vec<(&str, &str, Vec<Series>, fn(f64) -> String)>| -> Vec<Figure> {
            list.into_iter()
                .filter(|(.., series, _)| !series.is_empty())
                .map(|(name, note, series, show)| figure(name, note, &series, show))
                .collect()
        };
        let loss = figures(vec![
            ("Loss", nats, loss, plain),
            ("Loss by source", "What each source's tokens cost while they were trained on.", trained, plain),
            ("Held-out loss by source", "Text that is not trained on.", measured, plain),
        ]);
        let run = figures(vec![
            ("Learning rate", "", course("learning_rate"), |value| format!("{value:.1e}")),
            ("Norm of the gradients", "Of all together, before clipping.", course("gradient_norm"), plain),
            ("Tokens a second", "", course("tokens_per_second"), |value| number(value.max(0.0) as u64)),
        ]);
        vec![
            Chapter { id: "loss", title: "What it learnt", lead: String::new(), figures: loss },
            Chapter { id: "run", title: "How the run went", lead: String::new(), figures: run },
        ]
    }

    fn sources(&self) -> Vec<&str> {
        self.plan["sources"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }

    fn of(&self, key: &str) -> Vec<(f64, f64)> {
        self.at(&self.steps, &format!("/{key}"))
    }

    fn held_out(&self, place: &str) -> Vec<(f64, f64)> {
        let lines: Vec<&Value> = self.lines.iter().filter(|line| line["held_out"].is_object()).collect();
        self.at(&lines, place)
    }

    /// Step and value at a JSON pointer, of lines that have both.
    fn at(&self, lines: &[&Value], place: &str) -> Vec<(f64, f64)> {
        lines.iter().filter_map(|line| Some((line["step"].as_f64()?, line.pointer(place)?.as_f64()?))).collect()
    }
}

/// A name within a JSON pointer (RFC 6901, section 3).
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Neighbours brought together, so that a long run is no long page.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let size = points.len().div_ceil(NUM_POINTS).max(1);
    let mean = |some: &[(f64, f64)], of: fn(&(f64, f64)) -> f64| some.iter().map(of).sum::<f64>() / some.len() as f64;
    points.chunks(size).map(|some| (mean(some, |point| point.0), mean(some, |point| point.1))).collect()
}

/// A chart with its legend and some twenty of its numbers.
fn figure(name: &str, note: &str, series: &[Series], show: fn(f64) -> String) -> Figure {
    let rows = series.iter().flat_map(|series| {
        let every = series.points.len().div_ceil(20).max(1);
        series.points.iter().step_by(every).map(|(step, value)| vec![series.name.clone(), number(step.round() as u64), show(*value)])
    });
    Figure {
        title: name.into(),
        note: note.into(),
        svg: chart::lines(name, series, "step", show),
        legend: match series {
            [_] => Vec::new(),
            _ => series.iter().map(|series| (format!("c{}", series.colour), series.name.clone())).collect(),
        },
        head: ["line", "step", "value"].map(String::from).into(),
        rows: rows.collect(),
        open: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn page(lines: &[Value]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let plan = json!({ "recipe": { "name": "small" }, "steps": 1000, "sequences_per_step": 4, "context_length": 1024, "weights": 3_147_456,
            "sources": ["notes/a", "papers"], "memory_bytes": { "weights": 1_000_000, "gradients": 5 }, "version": "0.1.0" });
        fs::write(folder.path().join("train.json"), plan.to_string()).unwrap();
        fs::write(folder.path().join("metrics.jsonl"), lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
        build_training(folder.path()).unwrap();
        fs::read_to_string(folder.path().join("train-report.html")).unwrap()
    }

    #[test]
    fn a_run_is_shown_and_a_long_one_is_no_long_page() {
        let line = |step: u64| {
            json!({ "step": step, "loss": 9.0 - step as f64 * 1e-3, "learning_rate": 1e-3, "gradient_norm": 2.0, "tokens": 4096, "seconds": 2.0,
                "tokens_per_second": 2048.0, "sources": { "notes/a": { "loss": 3.0 }, "papers": { "loss": null } } })
        };
        let mut lines: Vec<Value> = (1..=1000).map(line).collect();
        lines.push(json!({ "step": 1000, "held_out": { "loss": 4.0, "sources": { "papers": { "loss": 4.5 } } } }));
        let text = page(&lines);
        for wanted in [
            "3.15 million weights",
            "4.000",
            "54.6",
            "2,048 tokens a second",
            "notes&#x2f;a",
            "Held-out loss by source",
            "Norm of the gradients",
        ] {
            assert!(text.contains(wanted), "{wanted}");
        }
        assert!(!text.contains("steps are done") && !text.contains("NaN") && text.len() < 120_000, "{}", text.len());
        assert!(page(&lines[..10]).contains("10 of 1000 steps are done"));
        assert!(page(&[]).contains("0 of 1000 steps are done"));
    }

    #[test]
    fn what_is_no_run_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("train.json"), "{}").unwrap();
        fs::write(folder.path().join("metrics.jsonl"), "{\"step\": 1").unwrap();
        assert!(build_training(folder.path()).unwrap_err().to_string().contains("a line is not JSON"));
        assert!(build_training(&folder.path().join("none")).is_err());
    }
}
