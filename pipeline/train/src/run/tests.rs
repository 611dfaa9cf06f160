use super::*;
use osler_schemas::shard::TokenizerIdentity;
use osler_tokens::pack::{Method, PackConfig, Tail};
use osler_tokens::{Document, ShardWriter};
use std::collections::BTreeMap;

const MODEL: &str = "
corpus = 'corpus'
[model.config]
model_type = 'mistral'
hidden_act = 'silu'
hidden_size = 32
intermediate_size = 48
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
max_position_embeddings = 32
tie_word_embeddings = true
[schedule]
epochs = 3
sequences_per_step = 4
[batch]
sequences_per_pass = 2
[optimiser]
learning_rate = 1e-2
[held_out]
every_chunks = 6
every_steps = 7
[checkpoint]
every_steps = 5
[alarm]
window = 8
";

/// A corpus of two sources in which each token is three times the one before.
fn corpus(base: &Path) {
    let folder = base.join("corpus/tokens");
    fs::create_dir_all(&folder).unwrap();
    let tokenizer = TokenizerIdentity { name: "test".into(), xxh3: 7, vocab_size: 41, eos_id: 0, bos_id: None, pad_id: 0 };
    let pack = PackConfig { context_length: 24, method: Method::Concat, tail: Tail::Carry, seed: 3 };
    let mut writer = ShardWriter::create(&folder, tokenizer, pack, 4000).unwrap();
    for number in 0..90u32 {
        let mut ids: Vec<u32> = std::iter::successors(Some(number % 40 + 1), |&id| Some(id * 3 % 41)).take(20).collect();
        ids.push(0);
        let source = if number < 45 { "notes" } else { "papers" };
        writer.push(Document { doc_id: &number.to_string(), source, ids: &ids, loss: None }).unwrap();
    }
    writer.finish().unwrap();
    fs::write(folder.join("tokenizer.json"), "{}").unwrap();
}

/// Notes what it is told; asks the run to stop after some step.
#[derive(Default)]
struct Notes {
    begun: Vec<u64>,
    losses: BTreeMap<u64, f64>,
    measured: Vec<(u64, f64)>,
    warnings: Vec<String>,
    stop_after: Option<u64>,
    cancelled: AtomicBool,
}

struct Watcher<'a>(&'a mut Notes, &'a AtomicBool);

impl Watch for Watcher<'_> {
    fn begin(&mut self, _: &Outline, done: u64) {
        self.0.begun.push(done);
    }

    fn step(&mut self, step: &Step, _: f64, _: f64) {
        self.0.losses.insert(step.step, step.loss);
        self.1.store(self.0.stop_after == Some(step.step), Ordering::Relaxed);
    }

    fn measured(&mut self, step: u64, loss: f64) {
        self.0.measured.push((step, loss));
    }

    fn warn(&mut self, message: &str) {
        self.0.warnings.push(message.to_string());
    }
}

fn train(base: &Path, out: &str, recipe: &Recipe, notes: &mut Notes) -> Result<Finished, TrainError> {
    let cancelled = std::mem::take(&mut notes.cancelled);
    let options = Options { recipe, base, out: &base.join(out), cancelled: &cancelled, place: None, cuda: driver::Options::default() };
    run(options, &mut Watcher(notes, &cancelled))
}

fn recipe(more: &[(&str, &str)]) -> Recipe {
    let overrides: Vec<_> = more.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    Recipe::parse("r.toml", MODEL, &overrides).unwrap()
}

fn steps_in(path: &Path) -> Vec<u64> {
    checkpoints(path).unwrap().into_iter().map(|(step, _)| step).collect()
}

#[test]
fn a_run_learns_and_leaves_a_model() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    let mut notes = Notes::default();
    let finished = train(folder.path(), "out", &recipe(&[]), &mut notes).unwrap();
    let (first, last) = (finished.first_loss.unwrap(), finished.last_loss.unwrap());
    assert!(last < 0.6 * first && finished.held_out_loss.unwrap() < 0.7 * first, "{finished:?}");
    assert_eq!(notes.losses.len() as u64, finished.steps);
    assert_eq!(notes.measured.last().map(|(step, _)| *step), Some(finished.steps));
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        assert!(folder.path().join("out/model").join(name).is_file(), "{name}");
    }
    let ops = Cpu::<f32>::new(1).unwrap();
    assert_eq!(model::read_weights(&ops, &finished.model).unwrap().config.vocab_size, 41);
    assert_eq!(steps_in(&folder.path().join("out")).len(), 2, "the last two are kept");
    let lines = fs::read_to_string(folder.path().join("out/metrics.jsonl")).unwrap();
    assert!(lines.contains("\"notes\"") && lines.contains("\"papers\"") && lines.contains("\"held_out\""));
    // Done: the same call changes nothing.
    let again = train(folder.path(), "out", &recipe(&[]), &mut Notes::default()).unwrap();
    assert_eq!(again.steps, finished.steps);
    assert_eq!(fs::read_to_string(folder.path().join("out/metrics.jsonl")).unwrap(), lines);
}

/// With or without a GPU: nothing is begun, and one line says why.
#[test]
fn a_device_that_cannot_be_trained_on_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    let error = train(folder.path(), "out", &recipe(&[("device", "cuda")]), &mut Notes::default()).unwrap_err().to_string();
    assert!(error.starts_with("recipe key `device`: is `cuda`") && !error.contains('\n'), "{error}");
    assert!(!folder.path().join("out").exists());
}

#[test]
fn a_stopped_run_goes_on_as_if_it_had_not() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    for precision in ["f32", "bf16"] {
        let (straight, stopped) = (format!("straight-{precision}"), format!("stopped-{precision}"));
        let recipe = |threads: &str| recipe(&[("precision", precision), ("threads", threads)]);
        let (mut whole, mut parts) = (Notes::default(), Notes::default());
        let finished = train(folder.path(), &straight, &recipe("1"), &mut whole).unwrap();
        for stop in [3, 11, 12] {
            parts.stop_after = Some(stop);
            let error = train(folder.path(), &stopped, &recipe("2"), &mut parts).unwrap_err();
            assert!(matches!(error, TrainError::Stopped { step } if step == stop), "{error}");
        }
        // A killed run: the latest checkpoint is all there is, and a later line of metrics.
        train(folder.path(), &stopped, &recipe("2"), &mut Notes { stop_after: Some(14), ..Notes::default() }).unwrap_err();
        fs::remove_dir_all(folder.path().join(&stopped).join("checkpoints/step-00000014")).unwrap();
        parts.stop_after = None;
        assert_eq!(train(folder.path(), &stopped, &recipe("2"), &mut parts).unwrap().steps, finished.steps);
        assert_eq!(parts.begun, [0, 3, 11, 12]);
        assert_eq!(parts.losses, whole.losses);
        let read = |out: &str, file: &str| fs::read(folder.path().join(out).join("model").join(file)).unwrap();
        assert_eq!(read(&straight, "model.safetensors"), read(&stopped, "model.safetensors"));
        let steps = |out: &str| -> Vec<(u64, bool)> {
            let text = fs::read_to_string(folder.path().join(out).join("metrics.jsonl")).unwrap();
            let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            lines.map(|line| (line["step"].as_u64().unwrap(), line["held_out"].is_object())).collect()
        };
        assert_eq!(steps(&straight), steps(&stopped));
    }
}

#[test]
fn a_folder_belongs_to_one_run() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    let fails = |recipe: &Recipe, out: &str| train(folder.path(), out, recipe, &mut Notes::default()).unwrap_err().to_string();
    train(folder.path(), "out", &recipe(&[("schedule.epochs", "1")]), &mut Notes::default()).unwrap();
    assert!(fails(&recipe(&[]), "out").contains("holds a run of another recipe"));
    assert!(fails(&recipe(&[("corpus", "elsewhere")]), "other").contains("elsewhere"));
    fs::create_dir_all(folder.path().join("full")).unwrap();
    fs::write(folder.path().join("full/run.json"), "{}").unwrap();
    assert!(fails(&recipe(&[]), "full").contains("something else than a training run"));
    let wide = fails(&recipe(&[("model.config.vocab_size", "40")]), "other");
    assert!(wide.contains("ids up to 40, the model 39"), "{wide}");
    let short = fails(&recipe(&[("model.config.max_position_embeddings", "16")]), "other");
    assert!(short.contains("fewer than the 24 of a chunk"), "{short}");
    let many = fails(&recipe(&[("schedule.tokens", "10000000")]), "other");
    assert!(many.contains("`schedule.tokens`: is more than the"), "{many}");
    // An epoch is what the shards have, not what would make three other numbers agree.
    let conflict = fails(&recipe(&[("schedule.steps", "5"), ("schedule.epochs", "3")]), "other");
    assert!(conflict.contains("the numbers conflict") && conflict.contains("5 steps"), "{conflict}");
    let solved = |more: &[(&str, &str)]| Outline::new(&recipe(more), folder.path()).unwrap().budget.solved;
    let (all, five, part) = (solved(&[]), solved(&[("schedule.steps", "5")]), solved(&[("schedule.tokens", "960")]));
    assert!(all.epochs == 3.0 && five.tokens == all.tokens && five.epochs == (5 * 4 * 24) as f64 / all.tokens as f64, "{five:?}");
    // So many tokens three times over, in chunks that do not come again before all have come.
    assert_eq!((part.steps, part.tokens, part.epochs), (30, all.tokens, (30 * 4 * 24) as f64 / all.tokens as f64));
    let absent = fails(&recipe(&[("corpus", "elsewhere")]), "other");
    assert!(absent.contains("elsewhere/tokens; `osler corpus` makes it"), "{absent}");
}

#[test]
fn a_loss_that_rises_stops_the_run() {
    let mut alarm = Alarm::new(3);
    [3.0, 2.0, 1.0, 1.0, 1.0].into_iter().for_each(|loss| alarm.push(loss));
    assert_eq!((alarm.diverged(1.0), alarm.mean()), (None, Some(1.0)));
    [2.0, 4.0].into_iter().for_each(|loss| alarm.push(loss));
    assert_eq!(alarm.diverged(1.0), Some((7.0 / 3.0, 1.0)));
    assert_eq!(alarm.diverged(0.0), None);
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    let wild = recipe(&[("optimiser.learning_rate", "1000.0"), ("optimiser.warmup", "0.5"), ("alarm.window", "2")]);
    let error = train(folder.path(), "out", &wild, &mut Notes::default()).unwrap_err().to_string();
    assert!(error.contains("the chunks ") && (error.contains("diverged") || error.contains("is not a number")), "{error}");
    assert!(!steps_in(&folder.path().join("out")).is_empty());
}

/// A run of several ranks, as threads; each is told to stop after the step that `stop` gives for it, if any.
fn train_among(base: &Path, out: &str, recipe: &Recipe, stop: &[Option<u64>]) -> Vec<(Notes, Result<Finished, TrainError>)> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::scope(|scope| {
        let (listener, address) = (&listener, &address);
        let run = move |rank: usize, stop_after: Option<u64>| {
            let (mut notes, cancelled) = (Notes { stop_after, ..Notes::default() }, AtomicBool::new(rank > 0 && stop_after == Some(0)));
            let door = if rank == 0 { Door::Listener(listener) } else { Door::Address(address) };
            let place = Some(Place { rank, door, neighbours: 2, wait: &|| Ok(()) });
            let options = Options { recipe, base, out: &base.join(out), cancelled: &cancelled, place, cuda: driver::Options::default() };
            let finished = super::run(options, &mut Watcher(&mut notes, &cancelled));
            (notes, finished)
        };
        let threads: Vec<_> = stop.iter().enumerate().map(|(rank, &stop)| scope.spawn(move || run(rank, stop))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// The lines of a run's metrics, without what time decides.
fn lines(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let steady = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        for key in ["seconds", "tokens_per_second", "operations_per_second", "mfu"] {
            line.as_object_mut().unwrap().remove(key);
        }
        line
    };
    text.lines().map(steady).collect()
}

#[test]
fn a_run_of_several_ranks_is_the_run_of_one() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    for precision in ["f32", "bf16"] {
        let of = |ranks: &str| recipe(&[("precision", precision), ("machine.ranks", ranks), ("batch.sequences_per_pass", "1")]);
        let (one, two) = (format!("one-{precision}"), format!("two-{precision}"));
        let mut whole = Notes::default();
        let finished = train(folder.path(), &one, &of("1"), &mut whole).unwrap();
        // Stopped by either rank, then gone on with by another number.
        for stop in [[Some(3), None], [None, Some(0)]] {
            for (rank, (notes, outcome)) in train_among(folder.path(), &two, &of("2"), &stop).into_iter().enumerate() {
                assert!(matches!(outcome.unwrap_err(), TrainError::Stopped { step: 3 }));
                assert_eq!(notes.begun.len(), usize::from(rank == 0), "only rank 0 is watched");
            }
        }
        let all = train_among(folder.path(), &two, &of("3"), &[Some(11), None, None]);
        assert!(all.iter().all(|(_, outcome)| matches!(outcome, Err(TrainError::Stopped { step: 11 }))), "{:?}", all[1].1);
        let all = train_among(folder.path(), &two, &of("2"), &[None, None]);
        assert_eq!(all[0].1.as_ref().unwrap().held_out_loss, finished.held_out_loss);
        assert_eq!(all[1].1.as_ref().unwrap().last_loss, all[0].1.as_ref().unwrap().last_loss);
        assert_eq!(lines(&folder.path().join(&two)), lines(&folder.path().join(&one)));
        let files = |out: &str, of: &str, name: &str| fs::read(folder.path().join(out).join(of).join(name)).unwrap();
        let last = format!("checkpoints/step-{:08}", finished.steps);
        for (part, name) in [("model", "model.safetensors"), (&last, "model.safetensors"), (&last, "optimiser.safetensors")] {
            assert!(files(&one, part, name) == files(&two, part, name), "{part}/{name}");
        }
    }
}

#[test]
fn ranks_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    let fails = |recipe: &Recipe| train(folder.path(), "out", recipe, &mut Notes::default()).unwrap_err().to_string();
    let many = fails(&recipe(&[("machine.ranks", "3")]));
    assert!(many.contains("`machine.ranks`: is 3, but a step has 2 passes of 2 sequences"), "{many}");
    assert!(many.contains("set `batch.sequences_per_pass` to 1 or less"), "{many}");
    let many = fails(&recipe(&[("machine.ranks", "5")]));
    assert!(many.contains("take at most 4 ranks"), "{many}");
    let unplaced = fails(&recipe(&[("machine.ranks", "2")]));
    assert!(unplaced.contains("was not told which of them it is"), "{unplaced}");
    assert!(Recipe::parse("r", MODEL, &[("machine.ranks".into(), "0".into())]).unwrap_err().to_string().contains("at least 1"));
    // What one rank cannot do ends all: here rank 0 cannot write its metrics.
    fs::create_dir_all(folder.path().join("broken/metrics.jsonl")).unwrap();
    let all = train_among(folder.path(), "broken", &recipe(&[("machine.ranks", "2")]), &[None, None]);
    let said: Vec<String> = all.into_iter().map(|(_, outcome)| outcome.unwrap_err().to_string()).collect();
    assert!(said[0].contains("metrics.jsonl") && said[1] == format!("rank 0 stopped: {}", said[0]), "{said:?}");
}
