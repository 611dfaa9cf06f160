//! Training end to end: from a corpus's shards to a model, killed on the way and gone on with.

use crate::support::{Scratch, fail, osler, sample, succeed};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const RECIPE: &str = "
name = 'small'
corpus = 'corpus'
[model.config]
model_type = 'qwen3'
hidden_act = 'silu'
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
head_dim = 16
max_position_embeddings = 256
tie_word_embeddings = true
[schedule]
steps = 24
sequences_per_step = 2
[optimiser]
learning_rate = 1e-2
[held_out]
every_chunks = 20
every_steps = 8
max_chunks = 4
[checkpoint]
every_steps = 3
";

fn train(folder: &Path, out: &str) -> Command {
    let mut command = osler();
    command.args(["train", "--progress", "json", "--recipe"]).arg(folder.join("recipe.toml")).arg("--out").arg(folder.join(out));
    command
}

/// The lines of a run's metrics, without what time decides.
fn metrics(folder: &Path, out: &str) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(folder.join(out).join("metrics.jsonl")).expect("metrics");
    let steady = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        for key in ["seconds", "tokens_per_second", "operations_per_second"] {
            if let Some(line) = line.as_object_mut() {
                line.remove(key);
            }
        }
        line
    };
    text.lines().map(steady).collect()
}

fn model(folder: &Path, out: &str) -> Vec<u8> {
    fs::read(folder.join(out).join("model/model.safetensors")).expect("model")
}

#[test]
fn a_model_is_trained_and_a_killed_run_ends_with_the_same_bits() {
    let scratch = Scratch::new("train");
    let folder = scratch.path("");
    succeed(&mut sample(&folder.join("corpus"), 60));
    fs::write(folder.join("recipe.toml"), RECIPE).expect("recipe");
    let begun = Instant::now();
    let said = succeed(&mut train(&folder, "straight"));
    let whole_run = begun.elapsed();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("24 steps") && said.contains("held-out"), "{said}");
    let straight = metrics(&folder, "straight");
    let losses: Vec<f64> = straight.iter().filter_map(|line| line["loss"].as_f64()).collect();
    assert_eq!((losses.len(), straight.len()), (24, 24 + 3));
    assert!(losses[20..].iter().sum::<f64>() < 0.95 * losses[..4].iter().sum::<f64>(), "the loss falls: {losses:?}");
    assert!(folder.join("straight/model/tokenizer.json").is_file());
    succeed(osler().arg("report").arg(folder.join("straight")));
    let page = fs::read_to_string(folder.join("straight/train-report.html")).expect("report");
    assert!(page.contains("case-reports") && !page.contains("http://") && !page.contains("https://"));

    let said_by = |model: &str, flags: &[&str]| {
        let mut command = osler();
        command.args(["generate", "--max-tokens", "12", "--prompt", "The patient", "--model"]).arg(folder.join(model));
        String::from_utf8(succeed(command.args(flags)).stdout).expect("text")
    };
    let said = |flags: &[&str]| said_by("straight/model", flags);
    let drawn = said(&["--seed", "3"]);
    assert!(drawn.starts_with("The patient") && drawn.len() > 14, "{drawn:?}");
    assert_eq!(drawn, said(&["--seed", "3", "--threads", "1"]));
    assert_eq!(drawn, said_by("straight", &["--seed", "3"]));
    assert_eq!(said(&["--temperature", "0"]), said(&["--temperature", "0", "--seed", "9"]));

    let mut kills = 0;
    for round in 1..=6 {
        let mut child = train(&folder, "killed").stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("run");
        std::thread::sleep(whole_run.mul_f64(0.13 * f64::from(round)).max(Duration::from_millis(1)));
        child.kill().expect("kill");
        kills += u32::from(!child.wait().expect("wait").success());
    }
    assert!(kills > 0, "no run was killed before it ended: the test showed nothing");
    // On another number of threads.
    succeed(train(&folder, "killed").args(["--threads", "1"]));
    assert!(model(&folder, "killed") == model(&folder, "straight"));
    assert_eq!(metrics(&folder, "killed"), straight);
}

/// Three stages in a row: each starts where the one before ended, and a second call finds all done.
#[test]
fn stages_follow_each_other() {
    let scratch = Scratch::new("train-stages");
    let folder = scratch.path("");
    succeed(&mut sample(&folder.join("corpus"), 60));
    let stages = "
[[stage]]
name = 'books'
[[stage]]
name = 'notes'
[stage.optimiser]
learning_rate = 1e-3
[[stage]]
name = 'guidelines'
[stage.batch]
recompute = 'layer'
[stage.schedule]
steps = 6
";
    fs::write(folder.join("recipe.toml"), format!("{RECIPE}{stages}")).expect("recipe");
    let plan = String::from_utf8(succeed(train(&folder, "out").arg("--dry-run")).stdout).expect("text");
    assert!(plan.contains("stage books\nmodel") && plan.contains("stage guidelines\nbegins with the weights"), "{plan}");
    succeed(&mut train(&folder, "out"));
    let losses =
        |stage: &str| -> Vec<f64> { metrics(&folder, &format!("out/{stage}")).iter().filter_map(|line| line["loss"].as_f64()).collect() };
    let (books, notes, guidelines) = (losses("books"), losses("notes"), losses("guidelines"));
    assert_eq!((books.len(), notes.len(), guidelines.len()), (24, 24, 6));
    assert!(notes[0] < 0.95 * books[0] && guidelines[0] < 0.95 * books[0], "{} {} {}", books[0], notes[0], guidelines[0]);
    let before = model(&folder, "out/guidelines");
    succeed(&mut train(&folder, "out"));
    assert!(model(&folder, "out/guidelines") == before);
}

/// What a run's two folders of a model hold, byte for byte, but for what names no weight.
fn weights(folder: &Path, out: &str, step: u64) -> [Vec<u8>; 3] {
    let checkpoint = folder.join(format!("{out}/checkpoints/step-{step:08}"));
    let read = |name: &str| fs::read(checkpoint.join(name)).expect("checkpoint");
    [model(folder, out), read("model.safetensors"), read("optimiser.safetensors")]
}

/// Processes that another started, by their command lines.
fn started_by(parent: u32) -> Vec<u32> {
    let output = Command::new("ps").args(["-o", "pid=", "--ppid", &parent.to_string()]).output().expect("ps");
    String::from_utf8_lossy(&output.stdout).split_whitespace().map(|id| id.parse().expect("a number")).collect()
}

/// Two and three processes give what one does; a killed one ends all with its number, and the run goes on from there.
#[test]
fn several_ranks_end_with_the_bits_of_one() {
    let scratch = Scratch::new("train-ranks");
    let folder = scratch.path("");
    succeed(&mut sample(&folder.join("corpus"), 60));
    let recipe = RECIPE.replace("sequences_per_step = 2", "sequences_per_step = 4\n[batch]\nsequences_per_pass = 1");
    // Long enough to be killed on the way.
    let recipe = recipe.replace("steps = 24", "steps = 96").replace("every_steps = 3", "every_steps = 8");
    fs::write(folder.join("recipe.toml"), recipe).expect("recipe");
    succeed(&mut train(&folder, "one"));
    let said = succeed(train(&folder, "two").args(["--ranks", "2"]));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert_eq!(said.matches("96 steps").count(), 1, "one of them speaks: {said}");
    assert!(weights(&folder, "two", 96) == weights(&folder, "one", 96));
    assert_eq!(metrics(&folder, "two"), metrics(&folder, "one"));
    let plan = succeed(train(&folder, "two").args(["--ranks", "2", "--dry-run"]));
    assert!(String::from_utf8_lossy(&plan.stdout).contains("ranks     2: "), "{plan:?}");
    let (code, said) = fail(train(&folder, "many").args(["--ranks", "5"]));
    assert!(code == 2 && said.matches("`machine.ranks`: is 5").count() == 1, "{said}");

    // A rank that is killed, and then the one that started it.
    for (round, child_dies) in [(1, true), (2, false)] {
        let mut command = train(&folder, "killed");
        command.args(["--ranks", "3"]).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut first = command.spawn().expect("run");
        let begun = Instant::now();
        let wait = |what: &str, done: &dyn Fn() -> bool| {
            while !done() {
                assert!(begun.elapsed() < Duration::from_secs(60), "{what} not in a minute");
                std::thread::sleep(Duration::from_millis(2));
            }
        };
        let lines = || fs::read_to_string(folder.join("killed/metrics.jsonl")).unwrap_or_default().lines().count();
        wait("two others", &|| started_by(first.id()).len() == 2);
        let others = started_by(first.id());
        wait("more steps", &|| lines() >= 10 * round);
        let killed = Instant::now();
        if child_dies {
            succeed(Command::new("kill").args(["-KILL", &others[1].to_string()]));
        } else {
            first.kill().expect("kill");
        }
        let output = first.wait_with_output().expect("end");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "it ended before it was killed: the test showed nothing");
        assert!(!child_dies || said.contains(" is gone ("), "{said}");
        for id in others {
            // That of one that has ended and was not waited for is empty.
            while fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|line| !line.is_empty()) {
                assert!(killed.elapsed() < Duration::from_secs(10), "process {id} goes on without the others");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
    // Started by hand, each by itself, as on several machines.
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = free.expect("a free port").to_string();
    let by_hand = |rank: &str| {
        let mut command = train(&folder, "killed");
        command.args(["--ranks", "2", "--rank", rank, "--address", &address]).stdout(Stdio::null());
        command
    };
    let mut other = by_hand("1").spawn().expect("rank 1");
    succeed(&mut by_hand("0"));
    assert!(other.wait().expect("wait").success());
    assert!(weights(&folder, "killed", 96) == weights(&folder, "one", 96));
    assert_eq!(metrics(&folder, "killed"), metrics(&folder, "one"));

    // Two machines that start two and one.
    let machine = |rank: &str, here: &str| {
        let mut command = train(&folder, "machines");
        command.args(["--ranks", "3", "--rank", rank, "--here", here, "--address", &address, "--schedule.steps", "8"]);
        command.stdout(Stdio::null());
        command
    };
    let mut other = machine("1", "2").spawn().expect("ranks 1 and 2");
    succeed(&mut machine("0", "1"));
    assert!(other.wait().expect("wait").success());
    succeed(train(&folder, "alone").args(["--schedule.steps", "8"]));
    assert!(weights(&folder, "machines", 8) == weights(&folder, "alone", 8));
    for (rank, here, wanted) in [
        ("2", "2", "1 of 3 ranks are left from rank 2 on"),
        ("0", "4", "3 of 3 ranks are left from rank 0 on"),
        ("3", "1", "there are 3 ranks"),
    ] {
        let (code, said) = fail(&mut machine(rank, here));
        assert!(code == 2 && said.contains(wanted), "{said}");
    }
}

#[test]
fn a_signal_stops_at_a_checkpoint() {
    let scratch = Scratch::new("train-stop");
    let folder = scratch.path("");
    succeed(&mut sample(&folder.join("corpus"), 60));
    fs::write(folder.join("recipe.toml"), RECIPE).expect("recipe");
    let mut long = train(&folder, "out");
    long.args(["--schedule.steps", "100000"]).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = long.spawn().expect("run");
    let lines = || fs::read_to_string(folder.join("out/metrics.jsonl")).unwrap_or_default().lines().count();
    let begun = Instant::now();
    while lines() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(60), "no step in a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
    succeed(Command::new("kill").args(["-INT", &child.id().to_string()]));
    let output = child.wait_with_output().expect("end");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(130) && said.contains("the same command goes on from there"), "{said}");
    let last = metrics(&folder, "out").iter().filter_map(|line| line["step"].as_u64()).max().expect("a step");
    assert!(folder.join(format!("out/checkpoints/step-{last:08}/trainer.json")).is_file(), "step {last}");
}

#[test]
fn what_would_be_trained_is_told_and_what_cannot_be_is_refused() {
    let scratch = Scratch::new("train-plan");
    let folder = scratch.path("");
    fs::write(folder.join("recipe.toml"), RECIPE).expect("recipe");
    let (code, said) = fail(&mut train(&folder, "out"));
    assert!(code == 2 && said.contains("corpus/tokens"), "{said}");
    succeed(&mut sample(&folder.join("corpus"), 60));
    let plan = succeed(train(&folder, "out").arg("--dry-run"));
    let plan = String::from_utf8_lossy(&plan.stdout).into_owned();
    for line in ["Qwen3: ", "24 of 2 sequences", "operations a token", "activations", "in all"] {
        assert!(plan.contains(line), "{line}: {plan}");
    }
    assert!(!folder.join("out").exists(), "a plan leaves nothing");
    let printed = succeed(train(&folder, "out").arg("--print-recipe"));
    fs::write(folder.join("recipe.toml"), &printed.stdout).expect("recipe");
    assert_eq!(succeed(train(&folder, "out").arg("--print-recipe")).stdout, printed.stdout);
    let check = |flags: &[&str], wanted: &str| {
        let (code, said) = fail(train(&folder, "out").args(flags));
        assert!(code == 2 && said.contains(wanted), "{said}");
    };
    check(&["--set", "optimizer.learning_rate=1"], "did you mean `optimiser`?");
    check(&["--set", "model.config.hidden_act=gelu"], "`hidden_act` is \"gelu\"");
    check(&["--set", "model.config.vocab_size=10"], "tokenise with the model's tokenizer");
    check(&["--schedule.context_length", "512"], "packed for 256");
    check(&["--model.path", "nowhere"], "nowhere/config.json");
    // With a GPU or without: one line, with what to do.
    let (code, said) = fail(train(&folder, "out").args(["--device", "cuda"]));
    let remedy = said.contains("install driver") || said.contains("nvidia-smi") || said.contains("set precision = \"bf16\"");
    assert!(code == 2 && said.trim().lines().count() == 1 && remedy, "{said}");
    assert!(said.starts_with("error: recipe key `device`: is `cuda`"), "{said}");
    // A published run is reckoned before there is a corpus or a model.
    let plan = succeed(osler().current_dir(&folder).args(["train", "--recipe", "m42-mistral-cpt", "--dry-run"]));
    let plan = String::from_utf8_lossy(&plan.stdout).into_owned();
    for line in ["7 241 732 096 weights", "79 259 of 400 sequences of 8192 tokens", "hours on 80 devices", "not there yet: "] {
        assert!(plan.contains(line), "{line}: {plan}");
    }
}
