//! Ranks as threads, over real connections.

use super::*;
use crate::model::{Batch, Config, Model, Recompute, golden_folder};
use crate::optimiser::{MomentKind, Settings};
use crate::random::Random;
use crate::schedule::{Decay, Schedule};
use crate::trainer::{BySource, Entropy, Plan, Source, Step, TrainError, Trainer};
use osler_kernels::Cpu;
use osler_kernels::operations::IGNORED;
use serde_json::json;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

type Open = fn(usize) -> Result<Cpu<f32>, osler_kernels::KernelError>;

/// Runs `work` as each of `count` ranks and gives what each returned.
fn ranks<T: Send>(count: usize, work: impl Fn(Mesh) -> T + Sync) -> Vec<T> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::scope(|scope| {
        let run = |rank: usize| {
            let door = if rank == 0 { Door::Listener(&listener) } else { Door::Address(&address) };
            work(Meeting { rank, ranks: count, door, agreement: 7, wait: &|| Ok(()) }.join().unwrap())
        };
        let threads: Vec<_> = (0..count).map(|rank| scope.spawn(move || run(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Passes of several sizes and sources; in every third step one has nothing to predict, and the last of it is empty.
struct Texts {
    passes: u32,
}

impl Source for Texts {
    fn batch(&self, step: u64, pass: u32) -> Result<Batch, TrainError> {
        let mut batch = Batch::default();
        if step % 3 == 2 && pass + 1 == self.passes {
            return Ok(batch);
        }
        for document in 0..1 + (step as u32 + pass) % 2 {
            let mut random = Random::new(step * 100 + u64::from(10 * pass + document), "text");
            batch.push(&std::array::from_fn::<u32, 20, _>(|_| (random.bits() % 40) as u32));
            batch.sources.extend([(pass + document) % 3; 20]);
        }
        if step % 3 == 2 && pass == 1 {
            batch.targets.fill(IGNORED);
        }
        Ok(batch)
    }
}

const STEPS: u64 = 4;

fn plan(passes: u32) -> Plan {
    let schedule = Schedule { highest: 1e-2, lowest: 0.0, decay: Decay::Cosine, warmup_steps: 1, warmup_start: 0.1, total_steps: 10 };
    let optimiser = Settings { clip: Some(0.5), ..Settings::default() };
    Plan { schedule, optimiser, accumulation: passes, recompute: Recompute::None, sums_in_any_order: false }
}

fn model(ops: &Cpu<f32>, kind: &str) -> Model<Cpu<f32>> {
    let mut source = Config::read(&golden_folder(kind).join("config.json")).unwrap().source;
    // A balance loss that is felt.
    source.insert("router_aux_loss_coef".to_string(), json!(0.1));
    // Matrices that are just large enough for moments of 8 bits.
    source.insert("intermediate_size".to_string(), json!(256));
    Model::random(ops, Config::from_json(source).unwrap(), 3).unwrap()
}

/// All that a run says and leaves.
#[derive(Debug, Clone, PartialEq)]
struct Course {
    steps: Vec<Step>,
    held_out: (Entropy, BySource),
    weights: Vec<Vec<f32>>,
}

fn course(mut trainer: Trainer<Cpu<f32>>, ops: &Cpu<f32>, passes: u32, steps: u64) -> Course {
    let texts = Texts { passes };
    let steps = (0..steps).map(|_| trainer.step(ops, &texts).unwrap()).collect();
    let held_out = trainer.measure(ops, 7, |at| texts.batch(2, at as u32).unwrap()).unwrap();
    Course { steps, held_out, weights: trainer.model.weights }
}

fn alone(open: Open, kind: &str, passes: u32) -> Course {
    let ops = open(1).unwrap();
    course(Trainer::new(&ops, model(&ops, kind), plan(passes), Box::new(Alone)).unwrap(), &ops, passes, STEPS)
}

#[test]
fn any_number_of_ranks_gives_the_same_bits() {
    for open in [Cpu::<f32>::new as Open, Cpu::bf16] {
        for kind in ["mistral", "mixtral", "qwen2"] {
            for passes in [2, 4, 7] {
                let one = alone(open, kind, passes);
                assert!(one.steps.iter().all(|step| (step.balance > 0.0) == (kind == "mixtral") && step.norm > 0.5), "{:?}", one.steps);
                for count in 2..=4 {
                    let all = ranks(count, |mesh| {
                        let ops = open(1).unwrap();
                        course(Trainer::new(&ops, model(&ops, kind), plan(passes), Box::new(mesh)).unwrap(), &ops, passes, STEPS)
                    });
                    for (rank, course) in all.iter().enumerate() {
                        assert!(*course == one, "{kind}, {passes} passes, rank {rank} of {count}: {:?} {:?}", course.steps, one.steps);
                    }
                }
            }
        }
    }
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap())).collect();
    files.sort();
    files
}

#[test]
fn checkpoints_are_the_same_and_are_gone_on_with_by_any_number() {
    for (open, moments) in [(Cpu::<f32>::new as Open, MomentKind::F32), (Cpu::bf16, MomentKind::F32), (Cpu::bf16, MomentKind::EightBit)] {
        let plan = |passes| {
            let plan = plan(passes);
            Plan { optimiser: Settings { moments, ..plan.optimiser }, ..plan }
        };
        for kind in ["mixtral", "qwen2"] {
            let ops = open(1).unwrap();
            let straight = Trainer::new(&ops, model(&ops, kind), plan(4), Box::new(Alone)).unwrap();
            let straight = course(straight, &ops, 4, STEPS);
            assert!(moments == MomentKind::F32 || straight != alone(open, kind, 4), "no parameter has moments of 8 bits");
            let folder = tempfile::tempdir().unwrap();
            // Two steps by so many ranks, the others by so many.
            for (before, after) in [(1, 2), (2, 3), (3, 1), (4, 2)] {
                let checkpoint = folder.path().join(format!("step-{before}"));
                ranks(before, |mesh| {
                    let ops = open(1).unwrap();
                    let mut trainer = Trainer::new(&ops, model(&ops, kind), plan(4), Box::new(mesh)).unwrap();
                    (0..2).for_each(|_| drop(trainer.step(&ops, &Texts { passes: 4 }).unwrap()));
                    trainer.save(&ops, &checkpoint, &[]).unwrap();
                });
                assert!(files(&checkpoint) == files(&folder.path().join("step-1")), "{kind}: files of {before} ranks");
                let all = ranks(after, |mesh| {
                    let ops = open(1).unwrap();
                    let model = crate::model::read_weights(&ops, &checkpoint).unwrap();
                    let trainer = Trainer::resume(&ops, &checkpoint, model, plan(4), Box::new(mesh)).unwrap();
                    course(trainer, &ops, 4, STEPS - 2)
                });
                for course in all {
                    assert!(course.steps == straight.steps[2..] && course.weights == straight.weights, "{kind}: {before}, then {after}");
                }
            }
        }
    }
}

#[test]
fn a_rank_that_dies_is_named_at_once() {
    for count in [2, 3] {
        let told = ranks(count, |mesh| {
            let (ops, last) = (Cpu::<f32>::new(1).unwrap(), mesh.rank + 1 == count);
            let killed = last.then(|| mesh.links.iter().flatten().map(|link| link.stream()).collect::<Vec<_>>());
            let mut trainer = Trainer::new(&ops, model(&ops, "mistral"), plan(4), Box::new(mesh)).unwrap();
            let begun = Instant::now();
            for step in 0.. {
                if let Some(streams) = killed.as_ref().filter(|_| step == 2) {
                    streams.iter().for_each(|stream| stream.shutdown(std::net::Shutdown::Both).unwrap());
                    return None;
                }
                if let Err(error) = trainer.step(&ops, &Texts { passes: 4 }) {
                    assert!(begun.elapsed() < Duration::from_secs(10));
                    trainer.ranks().abort(&error.to_string());
                    return Some((step, error.to_string()));
                }
            }
            None
        });
        for told in &told[..count - 1] {
            let (step, error) = told.as_ref().unwrap();
            // What it had sent of the step before may be lost with it.
            assert!((1..=2).contains(step) && error.contains(&format!("rank {} is gone (its connection is closed)", count - 1)), "{error}");
        }
    }
}

#[test]
fn why_a_rank_stops_is_told_to_those_who_wait() {
    let told = ranks(3, |mut mesh| {
        let mesh: &mut dyn Communicator<Cpu<f32>> = &mut mesh;
        match mesh.rank() {
            1 => {
                mesh.abort("no space left");
                String::new()
            }
            _ => mesh.all_gather(&[1]).unwrap_err().to_string(),
        }
    });
    assert_eq!((told[0].as_str(), told[2].as_str()), ("rank 1 stopped: no space left", "rank 1 stopped: no space left"));
    // One that is done too early.
    let told = ranks(2, |mut mesh| {
        let mesh: &mut dyn Communicator<Cpu<f32>> = &mut mesh;
        if mesh.rank() == 1 { String::new() } else { mesh.all_gather(&[]).unwrap_err().to_string() }
    });
    assert!(told[0].contains("rank 1 is gone (it has ended, and should not have yet)"), "{}", told[0]);
}

#[test]
fn ranks_out_of_step_are_found_out() {
    let receive = |send: fn(&mut dyn Communicator<Cpu<f32>>), receive: fn(&mut dyn Communicator<Cpu<f32>>) -> Result<(), RankError>| {
        let told = ranks(2, |mut mesh| {
            let mesh: &mut dyn Communicator<Cpu<f32>> = &mut mesh;
            if mesh.rank() == 0 {
                return receive(mesh).err();
            }
            send(mesh);
            None
        });
        told[0].clone()
    };
    let gradient = |mesh: &mut dyn Communicator<Cpu<f32>>| mesh.receive(1, Topic::Gradient(3), &mut [0.0; 2]);
    assert_eq!(receive(|mesh| mesh.send(0, Topic::Gradient(3), &[1.0, 2.0]).unwrap(), gradient), None);
    let said = |error: Option<RankError>| error.unwrap().to_string();
    let error = said(receive(|mesh| mesh.send(0, Topic::Gradient(3), &[1.0; 3]).unwrap(), gradient));
    assert!(error.starts_with("rank 1 sent 12 bytes of Gradient(3), and not 8 bytes"), "{error}");
    let error = said(receive(|mesh| mesh.send(0, Topic::Weights(3), &[1.0; 2]).unwrap(), gradient));
    assert!(error.starts_with("rank 1 sent Weights(3), and not Gradient(3)"), "{error}");
    let error = said(receive(|mesh| mesh.send(0, Topic::Words, &[1.0; 3]).unwrap(), |mesh| mesh.all_gather(&[]).map(drop)));
    assert!(error.starts_with("rank 1 sent 12 bytes, and not a whole number of words"), "{error}");
    // Another number of passes.
    let told = ranks(2, |mesh| {
        let (ops, passes) = (Cpu::<f32>::new(1).unwrap(), 4 + 2 * mesh.rank as u32);
        let mut trainer = Trainer::new(&ops, model(&ops, "mistral"), plan(passes), Box::new(mesh)).unwrap();
        trainer.step(&ops, &Texts { passes }).unwrap_err().to_string()
    });
    assert!(told[0].starts_with("rank 1 sent numbers of another length"), "{told:?}");
}

/// What rank 0 and a rank that comes are told.
fn meet(rank: usize, count: usize, agreement: u128) -> (Option<String>, Option<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let meeting = |rank, ranks, agreement, door| Meeting { rank, ranks, door, agreement, wait: &|| Ok(()) }.join().err();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| meeting(0, 2, 7, Door::Listener(&listener)));
        let other = meeting(rank, count, agreement, Door::Address(&address));
        (first.join().unwrap().map(|error| error.to_string()), other.map(|error| error.to_string()))
    })
}

#[test]
fn who_would_run_something_else_is_refused() {
    assert_eq!(meet(1, 2, 7), (None, None));
    for ((rank, count, agreement), wanted) in [
        ((1, 2, 8), "rank 1 has another recipe, model or corpus, or another version of the program than rank 0"),
        ((1, 3, 7), "rank 1 was started as one of 3 ranks, rank 0 as one of 2"),
        ((0, 2, 7), "two processes were started as rank 0 of 2"),
    ] {
        let (first, other) = meet(rank, count, agreement);
        assert!(first.unwrap().contains(wanted) && other.as_ref().unwrap().contains(wanted), "{other:?}");
        assert!(other.unwrap().contains("refused"));
    }
    let none = Meeting { rank: 2, ranks: 2, door: Door::Address("127.0.0.1:1"), agreement: 7, wait: &|| Ok(()) }.join().unwrap_err();
    assert!(none.to_string().contains("there is no rank 2 among 2"), "{none}");
}

#[test]
fn strangers_are_let_go_and_a_wait_can_be_ended() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let join = |rank, door| Meeting { rank, ranks: 2, door, agreement: 7, wait: &|| Ok(()) }.join();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| join(0, Door::Listener(&listener)).map(drop));
        for said in [&b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"[..], b"", &[1; 13], &[255; 400]] {
            let mut stranger = TcpStream::connect(&address).unwrap();
            std::io::Write::write_all(&mut stranger, said).unwrap();
        }
        assert!(join(1, Door::Address(&address)).is_ok());
        assert_eq!(first.join().unwrap(), Ok(()));
    });
    let wait = || Err("rank 1 ended".to_string());
    let meeting = Meeting { rank: 0, ranks: 2, door: Door::Listener(&listener), agreement: 7, wait: &wait };
    assert_eq!(meeting.join().map(drop), Err(RankError::Meeting("rank 1 ended".into())));
}

#[test]
fn no_rank_has_more_than_its_share_and_one_parameter() {
    for kind in ["mistral", "mixtral", "qwen2", "qwen3"] {
        let parameters = Parameters::new(&Config::read(&golden_folder(kind).join("config.json")).unwrap());
        let largest = parameters.list.iter().map(|parameter| parameter.len()).max().unwrap();
        for ranks in 1..=5 {
            let owners = owners(&parameters, ranks);
            for rank in 0..ranks {
                let load: usize = (0..owners.len()).filter(|&at| owners[at] == rank).map(|at| parameters.list[at].len()).sum();
                assert!(load > 0 && load <= parameters.num_weights() / ranks + largest, "{kind}: {load}, rank {rank} of {ranks}");
            }
        }
    }
}

#[test]
fn what_every_rank_says_comes_whole() {
    let says = |rank: usize| (0..rank * 9).map(|at| (at * 37 + rank) as u8).collect::<Vec<_>>();
    let told = ranks(3, |mut mesh| {
        let own = says(mesh.rank);
        devices::tell_all(&mut mesh, &own).unwrap()
    });
    assert_eq!(told, vec![[says(0), says(1), says(2)]; 3]);
}
