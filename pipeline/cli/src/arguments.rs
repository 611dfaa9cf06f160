//! The command line. Every recipe key is a flag too: `--near_duplicates.threshold 0.9`.

use crate::Failure;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Arg, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use osler_corpus::train_tokenizer::TrainConfig;
use osler_engine::Recipe;
use osler_schemas::recipe::THREADS_MAX;
use osler_tokens::PackConfig;
use osler_tokens::exchange::Format;
use osler_tokens::pack::{Method, Tail};
use std::path::PathBuf;

/// Papers, textbooks and clinical notes in; a deduplicated corpus and token shards out.
#[derive(Debug, Parser)]
#[command(name = "osler", version, max_term_width = 120)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Builds a corpus: parse, filter, deduplicate, tokenize, pack.
    Corpus {
        #[command(flatten)]
        recipe: RecipeArguments,
        /// Print every recipe key with the value in force, and stop.
        #[arg(long)]
        print_recipe: bool,
        /// Exit with 1 when any record was rejected as broken.
        #[arg(long)]
        strict: bool,
        /// How progress is shown on stderr.
        #[arg(long, value_enum, default_value_t = ProgressKind::Auto, overrides_with = "progress")]
        progress: ProgressKind,
    },
    /// Prints what a run would do, without doing it.
    Plan {
        #[command(flatten)]
        recipe: RecipeArguments,
    },
    /// Builds a corpus and writes its packed chunks to standard output, with no shard on disk.
    Stream {
        #[command(flatten)]
        recipe: RecipeArguments,
    },
    /// Shows a finished run, or asks it something in SQL; of a training run, draws its curves so far.
    Report {
        /// The run's folder.
        out: PathBuf,
        /// A query over the tables `corpus`, `ledger`, `documents`, `clusters`, `pairs` and `spans`.
        #[arg(long)]
        sql: Option<String>,
        /// How rows are printed.
        #[arg(long, value_enum, default_value_t = RowFormat::Table)]
        format: RowFormat,
    },
    /// Tells a document's whole story: where it came from, what was cut, why, and by which partner.
    Inspect {
        /// The run's folder.
        out: PathBuf,
        /// The document's id, or the first digits of it.
        #[arg(long)]
        doc: String,
        /// Print the text that is left, too.
        #[arg(long)]
        text: bool,
    },
    /// Near-duplicate detection by itself.
    #[command(subcommand)]
    Minhash(MinhashCommand),
    /// Exact-duplicate removal by itself.
    #[command(subcommand)]
    Exact(ExactCommand),
    /// Token shards by themselves.
    #[command(subcommand)]
    Tokens(TokensCommand),
    /// Goes on from a prompt with a model, so that a person can see what it has learnt.
    Generate(GenerateArguments),
    /// Trains a model on a corpus's shards, or goes on where it stopped.
    Train {
        #[command(flatten)]
        train: TrainArguments,
        /// Print the model's size, the steps and the memory to the byte, and stop.
        #[arg(long)]
        dry_run: bool,
        /// Print every recipe key with the value in force, and stop.
        #[arg(long)]
        print_recipe: bool,
        /// How progress is shown on stderr.
        #[arg(long, value_enum, default_value_t = ProgressKind::Auto, overrides_with = "progress")]
        progress: ProgressKind,
    },
}

#[derive(Debug, Subcommand)]
pub enum MinhashCommand {
    /// Prints the S-curve: with what probability a pair of some Jaccard similarity becomes a candidate.
    Curve {
        /// A preset (m42, m42-literal, m42-transposed, lee2021, auto).
        #[arg(long, default_value = "m42", conflicts_with_all = ["bands", "rows"])]
        preset: String,
        /// Bands of a banding of your own.
        #[arg(long, requires = "rows")]
        bands: Option<usize>,
        /// Rows per band of it.
        #[arg(long, requires = "bands")]
        rows: Option<usize>,
        /// Jaccard similarity from which two documents are one.
        #[arg(long, default_value_t = 0.85)]
        threshold: f64,
    },
    /// Writes the candidate pairs of a finished run to a Parquet file: ids, origins, exact Jaccard similarity.
    Pairs {
        /// The run's folder.
        out: PathBuf,
        /// Least similarity of the pairs. Below the threshold the file holds what was proposed, which the S-curve says is not all.
        #[arg(long, default_value_t = 0.0)]
        min: f64,
        /// The file; `pairs.parquet` in the run's folder where none is given.
        #[arg(long)]
        to: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub enum ExactCommand {
    /// Proves that every removed span still stands in the text that was kept.
    Verify {
        /// The run's folder.
        out: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum TokensCommand {
    /// Checks every shard against its hash and its sidecar.
    Verify {
        /// The run's folder.
        out: PathBuf,
    },
    /// Decodes one chunk with its boundaries and sources visible.
    Show {
        /// The run's folder.
        out: PathBuf,
        /// Number of the chunk.
        #[arg(long, default_value_t = 0)]
        chunk: u64,
    },
    /// Packs or mixes a run's shards again: sidecars are written, the tokens stay.
    Repack {
        /// The run's folder.
        out: PathBuf,
        /// A recipe, or the name of one that ships, whose [pack] and [mix] are taken; the run's own where none is given.
        #[arg(long)]
        recipe: Option<String>,
        #[command(flatten)]
        pack: PackArguments,
    },
    /// Writes shards in the format of another trainer.
    Export {
        /// The run's folder.
        out: PathBuf,
        #[arg(long, value_parser = token_format())]
        format: Format,
        /// Folder for the files; `OUT/exports/FORMAT` where none is given.
        #[arg(long)]
        to: Option<PathBuf>,
    },
    /// Makes shards from the token files of another tool: megatron, datatrove or olmo.
    Import {
        /// Token files (.bin, .ds, .npy) or folders of them, in order.
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        #[arg(long, value_parser = token_format())]
        format: Format,
        /// The `tokenizer.json` that made the ids.
        #[arg(long)]
        tokenizer: PathBuf,
        /// The token that ends a document, where it is not one of the usual ones.
        #[arg(long)]
        eos: Option<String>,
        /// Folder for the shards, which go to `OUT/tokens`.
        #[arg(long)]
        out: PathBuf,
        /// Name of the source that the documents get.
        #[arg(long, default_value = "imported")]
        source: String,
        #[command(flatten)]
        pack: PackArguments,
    },
}

#[derive(Debug, Args)]
pub struct PackArguments {
    /// Tokens per chunk.
    #[arg(long)]
    pub context_length: Option<u32>,
    /// How documents are placed in chunks.
    #[arg(long, value_enum)]
    pub method: Option<PackMethod>,
    /// What happens to tokens that do not fill a chunk.
    #[arg(long, value_enum)]
    pub tail: Option<PackTail>,
    /// Seed of the order of chunks.
    #[arg(long)]
    pub seed: Option<u64>,
}

impl PackArguments {
    /// `pack` with what was given.
    pub fn over(&self, pack: PackConfig) -> PackConfig {
        PackConfig {
            context_length: self.context_length.unwrap_or(pack.context_length),
            method: self.method.map_or(pack.method, |method| match method {
                PackMethod::Concat => Method::Concat,
                PackMethod::BestFit => Method::BestFit,
            }),
            tail: self.tail.map_or(pack.tail, |tail| match tail {
                PackTail::Carry => Tail::Carry,
                PackTail::Pad => Tail::Pad,
                PackTail::Drop => Tail::Drop,
            }),
            seed: self.seed.unwrap_or(pack.seed),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PackMethod {
    Concat,
    BestFit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PackTail {
    Carry,
    Pad,
    Drop,
}

/// Formats by their names.
fn token_format() -> impl TypedValueParser<Value = Format> {
    let named = |name: String| Format::ALL.into_iter().find(|format| format.name() == name).ok_or("no such format");
    PossibleValuesParser::new(Format::ALL.map(Format::name)).try_map(named)
}

#[derive(Debug, Args)]
pub struct RecipeArguments {
    /// A recipe file, or the name of one that ships: sample, m42, shared-data.
    #[arg(long, default_value = "sample")]
    pub recipe: String,
    /// Folder for the output; `out/NAME` by the recipe's name where none is given.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Folder of an earlier run with an index: what that run has, exactly or nearly, is dropped. May be repeated.
    #[arg(long, value_name = "OUT")]
    pub against: Vec<PathBuf>,
    /// Overrides a key of a named source or filter: `--set source.epmc.language=de`. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Overrides given as flags; filled in by [`parse`].
    #[arg(skip)]
    pub flags: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub struct GenerateArguments {
    /// Folder of a model (config.json, safetensors, tokenizer.json), or of a training run that has one.
    #[arg(long)]
    pub model: PathBuf,
    /// The text to go on from; read from standard input where none is given.
    #[arg(long)]
    pub prompt: Option<String>,
    #[arg(long, default_value_t = 128)]
    pub max_tokens: usize,
    /// How far from the likeliest; 0 always takes the likeliest token.
    #[arg(long, default_value_t = 0.8)]
    pub temperature: f64,
    /// Draw from so many of the likeliest tokens; 0 draws from all.
    #[arg(long, default_value_t = 0)]
    pub top_k: usize,
    /// Draw from the likeliest tokens that together have this probability.
    #[arg(long, default_value_t = 0.95)]
    pub top_p: f64,
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Threads, 512 at most; 0 takes every core.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=i64::from(THREADS_MAX)))]
    pub threads: u16,
}

#[derive(Debug, Args)]
pub struct TrainArguments {
    /// A recipe file, or the name of one that ships: sample, m42-mistral-cpt, m42-mixtral-cpt, definemed-cpt,
    /// mdm-sft-base.
    #[arg(long, default_value = "sample")]
    pub recipe: String,
    /// Folder for the run; `out/NAME-model` by the recipe's name where none is given.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Overrides a key that is no flag: `--set model.config.num_hidden_layers=2`. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    #[command(flatten)]
    pub ranks: RankArguments,
    /// Overrides given as flags; filled in by [`parse`].
    #[arg(skip)]
    pub flags: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub struct RankArguments {
    /// Processes that take the steps together, instead of the recipe's `machine.ranks`. All are started on this machine, unless
    /// --rank says which of them this is.
    #[arg(long, value_name = "COUNT")]
    pub ranks: Option<u32>,
    /// Which of the ranks this is, from 0: where they are on several machines, one of each is started by hand.
    #[arg(long, requires = "address", overrides_with = "rank")]
    pub rank: Option<usize>,
    /// How many are on this machine, from this one on: it starts the others. With GPUs each has its own, in order.
    #[arg(long, value_name = "COUNT", requires = "rank", value_parser = clap::value_parser!(u32).range(1..))]
    pub here: Option<u32>,
    /// Where rank 0 listens and the others find it.
    #[arg(long, value_name = "HOST:PORT", requires = "rank", overrides_with = "address")]
    pub address: Option<String>,
    /// Given to those that another rank starts: how many there are on this machine.
    #[arg(long, hide = true)]
    pub neighbours: Option<usize>,
    /// Given to those that another rank starts: which of this machine's devices they take.
    #[arg(long, hide = true, requires = "neighbours")]
    pub ordinal: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProgressKind {
    /// Bars on a terminal, JSON lines elsewhere.
    Auto,
    Bar,
    Json,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RowFormat {
    Table,
    Jsonl,
}

/// Parses the command line, recipe keys included.
///
/// # Errors
/// Never for wrong flags: those print their own help and exit with 2.
pub fn parse() -> Result<Cli, Failure> {
    // clap keeps names for the life of the program.
    let leak = |keys: Vec<String>| -> Vec<&'static str> { keys.into_iter().map(|key| &*key.leak()).collect() };
    let (keys, train_keys) = (leak(recipe_keys()), leak(train_recipe_keys()));
    let mut command = Cli::command();
    for (name, keys) in [("corpus", &keys), ("plan", &keys), ("stream", &keys), ("train", &train_keys)] {
        command = command.mut_subcommand(name, |subcommand| {
            keys.iter().fold(subcommand, |subcommand, key| {
                subcommand.arg(
                    Arg::new(*key)
                        .long(*key)
                        .overrides_with(*key)
                        .value_name("VALUE")
                        .allow_negative_numbers(true)
                        .help_heading("Recipe keys")
                        .hide_short_help(true),
                )
            })
        });
    }
    let matches = command.get_matches();
    let mut cli = Cli::from_arg_matches(&matches).map_err(|error| Failure::user(error.to_string()))?;
    let (_, below) = matches.subcommand().ok_or_else(|| Failure::user("no command"))?;
    if let Command::Corpus { recipe, .. } | Command::Plan { recipe } | Command::Stream { recipe } = &mut cli.command {
        recipe.flags = overrides(below, &keys);
    }
    if let Command::Train { train, .. } = &mut cli.command {
        train.flags = overrides(below, &train_keys);
    }
    Ok(cli)
}

impl RecipeArguments {
    /// Overrides of recipe keys, in the order they apply.
    ///
    /// # Errors
    /// When a `--set` has no `=`.
    pub fn overrides(&self) -> Result<Vec<(String, String)>, Failure> {
        let mut all = self.flags.clone();
        if !self.against.is_empty() {
            // Folders on the command line start from where the user stands, not from the recipe.
            let absolute: Vec<PathBuf> = self.against.iter().map(std::path::absolute).collect::<Result<_, _>>()?;
            // A JSON array of strings is a TOML array, too.
            all.push(("against".into(), serde_json::json!(absolute).to_string()));
        }
        all.extend(settings(&self.set)?);
        Ok(all)
    }
}

impl TrainArguments {
    /// Overrides of recipe keys, in the order they apply.
    ///
    /// # Errors
    /// When a `--set` has no `=`.
    pub fn overrides(&self) -> Result<Vec<(String, String)>, Failure> {
        let ranks = self.ranks.ranks.map(|ranks| ("machine.ranks".to_string(), ranks.to_string()));
        Ok([self.flags.clone(), settings(&self.set)?, ranks.into_iter().collect()].concat())
    }
}

/// The keys and values of `--set`.
fn settings(set: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let pair = |set: &String| {
        let (key, value) = set.split_once('=').ok_or_else(|| Failure::user(format!("--set {set}: write KEY=VALUE")))?;
        Ok((key.trim().to_string(), value.trim().to_string()))
    };
    set.iter().map(pair).collect()
}

fn overrides(matches: &ArgMatches, keys: &[&str]) -> Vec<(String, String)> {
    let given = |key: &&str| matches.get_one::<String>(key).map(|value| (key.to_string(), value.clone()));
    keys.iter().filter_map(given).collect()
}

/// Dotted names of every key that is not inside a list.
fn recipe_keys() -> Vec<String> {
    let mut keys = Vec::new();
    let mut recipe = Recipe::default();
    // Tables that are absent by default have keys, too.
    recipe.tokenizer.train = Some(TrainConfig::default());
    recipe.storage.region = Some(String::new());
    recipe.storage.endpoint = Some(String::new());
    if let Ok(value) = serde_json::to_value(recipe) {
        flatten("", &value, &mut keys);
    }
    keys
}

/// The same of training recipes.
fn train_recipe_keys() -> Vec<String> {
    let mut keys = Vec::new();
    let mut recipe = osler_train::Recipe::default();
    recipe.model.path = Some(PathBuf::new());
    if let Ok(value) = serde_json::to_value(recipe) {
        flatten("", &value, &mut keys);
    }
    keys
}

fn flatten(prefix: &str, value: &serde_json::Value, keys: &mut Vec<String>) {
    let Some(table) = value.as_object() else { return };
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            serde_json::Value::Object(inner) if !inner.is_empty() => flatten(&key, value, keys),
            serde_json::Value::Array(_) if matches!(name.as_str(), "source" | "filter" | "against" | "part") => {}
            _ => keys.push(key),
        }
    }
}
