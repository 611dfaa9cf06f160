//! Recipes: everything a run needs to know, in one TOML file. Unknown keys are refused with the nearest name, every default can be
//! printed, and every key can be overridden from the command line.

use osler_corpus::exact_duplicates::ExactDuplicatesConfig;
use osler_corpus::length_filter::LengthFilterConfig;
use osler_corpus::near_duplicates::NearDuplicatesConfig;
use osler_corpus::tokenize::TokenizerConfig;
use osler_corpus::train_tokenizer::TokenizerTrainer;
use osler_datasets::limits::Limits;
use osler_datasets::open::StorageConfig;
use osler_datasets::source::SourceConfig;
use osler_schemas::recipe::{self, THREADS_MAX, nearest};
use osler_tokens::{MixConfig, PackConfig, Schedule};
use serde::{Deserialize, Serialize};

pub use osler_schemas::recipe::RecipeError;

/// A recipe as resolved: every key with the value in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// Name of the corpus, for people.
    pub name: String,
    /// Memory budget, such as `4GiB`; what does not fit is spilled to disk.
    pub memory: String,
    /// Threads; 0 takes every core. Output does not depend on it.
    pub threads: usize,
    /// Rows in a batch between operators. Output does not depend on it.
    pub batch_rows: usize,
    /// Broken records (malformed, not of their format) after which the run stops. Records that carry no text or no permitted licence do
    /// not count: they are policy, not damage.
    pub max_rejected: u64,
    /// Whether the run leaves an index, against which later runs can deduplicate new documents without reading these.
    pub index: bool,
    /// Folders of earlier runs that left an index: documents that are exact or near-duplicates of theirs are dropped.
    pub against: Vec<String>,
    /// Bounds on single records.
    pub limits: Limits,
    /// How remote sources are reached.
    pub storage: StorageConfig,
    /// The sources, in order of preference: an earlier source keeps its copy of what a later one repeats.
    pub source: Vec<SourceConfig>,
    /// SQL filters between operators.
    pub filter: Vec<SqlFilter>,
    pub length_filter: LengthFilterConfig,
    pub near_duplicates: NearDuplicatesConfig,
    pub exact_duplicates: ExactDuplicatesConfig,
    pub tokenizer: TokenizerConfig,
    pub pack: PackConfig,
    /// Which sources a trainer is given how much of.
    pub mix: MixConfig,
    /// What `osler plan` solves; no run depends on it.
    pub schedule: Schedule,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            name: "corpus".into(),
            memory: "4GiB".into(),
            threads: 0,
            batch_rows: 1024,
            max_rejected: 10_000,
            index: false,
            against: Vec::new(),
            limits: Limits::default(),
            storage: StorageConfig::default(),
            source: Vec::new(),
            filter: Vec::new(),
            length_filter: LengthFilterConfig::default(),
            near_duplicates: NearDuplicatesConfig::default(),
            exact_duplicates: ExactDuplicatesConfig::default(),
            tokenizer: TokenizerConfig::default(),
            pack: PackConfig::default(),
            mix: MixConfig::default(),
            schedule: Schedule::default(),
        }
    }
}

/// Keeps the documents for which an SQL expression over the document columns is true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqlFilter {
    /// Name in the ledger, the counts and the report.
    pub name: String,
    /// The operator after which it stands.
    #[serde(default)]
    pub after: FilterPlace,
    /// A boolean expression, such as `language = 'en' AND num_words > 100`.
    pub sql: String,
}

/// Where a filter stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FilterPlace {
    #[default]
    Parse,
    LengthFilter,
    NearDuplicates,
    ExactDuplicates,
}

impl SqlFilter {
    /// Name of the filter as a stage.
    pub fn stage(&self) -> String {
        format!("filter:{}", self.name)
    }
}

impl Recipe {
    /// Parses a recipe; `overrides` are (dotted key, TOML value) pairs that win over the file. A source is addressed by its name:
    /// `source.epmc.language`.
    ///
    /// # Errors
    /// [`RecipeError`] that names the key and, for an unknown one, the nearest that exists.
    pub fn parse(path: &str, text: &str, overrides: &[(String, String)]) -> Result<Self, RecipeError> {
        recipe::parse::<Self>(path, text, overrides)?.checked()
    }

    /// Every key with the value in force, as TOML.
    pub fn to_toml(&self) -> String {
        recipe::to_toml(self)
    }

    /// The memory budget in bytes.
    pub fn memory_bytes(&self) -> Result<usize, RecipeError> {
        parse_bytes(&self.memory).ok_or_else(|| RecipeError::Key {
            key: "memory".into(),
            problem: format!("`{}` is not a size; write a number and a unit, such as 4GiB or 512MiB", self.memory),
        })
    }

    /// Threads to use.
    pub fn num_threads(&self) -> usize {
        if self.threads > 0 { self.threads } else { std::thread::available_parallelism().map_or(1, |cores| cores.get()) }
    }

    /// Hash of every key that can change output; memory, threads and batch size cannot.
    pub fn hash(&self) -> String {
        let mut recipe = self.clone();
        let default = Self::default();
        (recipe.memory, recipe.threads, recipe.batch_rows) = (default.memory, default.threads, default.batch_rows);
        (recipe.max_rejected, recipe.storage, recipe.schedule) = (default.max_rejected, default.storage, default.schedule);
        let json = serde_json::to_string(&recipe).unwrap_or_default();
        format!("{:016x}", xxhash_rust::xxh3::xxh3_64(json.as_bytes()))
    }

    /// What the stages would refuse when their turn comes.
    fn check_stages(&self) -> Result<(), RecipeError> {
        let wrong = |key: &str, problem: String| Err(RecipeError::Key { key: key.to_string(), problem });
        if let Err(error) = self.exact_duplicates.validate() {
            return wrong("exact_duplicates", crate::parse::chain(&error));
        }
        if let Err(error) = self.pack.check() {
            return wrong("pack", error.to_string());
        }
        if let Some(train) = &self.tokenizer.train
            && let Err(error) = TokenizerTrainer::new(train.clone())
        {
            return wrong("tokenizer.train", crate::parse::chain(&error));
        }
        Ok(())
    }

    fn check_mix(&self) -> Result<(), String> {
        self.mix.check().map_err(|error| error.to_string())?;
        for source in self.mix.part.iter().flat_map(|part| part.sources()) {
            if !self.source.iter().any(|known| known.name == *source) {
                let known = nearest(source, self.source.iter().map(|known| known.name.as_str())).unwrap_or_default();
                return Err(format!("no source is called `{source}`; did you mean `{known}`?"));
            }
        }
        Ok(())
    }

    fn checked(self) -> Result<Self, RecipeError> {
        let wrong = |key: &str, problem: String| Err(RecipeError::Key { key: key.to_string(), problem });
        let bytes = self.memory_bytes()?;
        if bytes < 64 << 20 {
            return wrong("memory", format!("`{}` is less than the 64MiB that any run needs", self.memory));
        }
        if self.source.is_empty() {
            return wrong("source", "a recipe needs at least one [[source]] with a name, a format and a path".into());
        }
        if self.num_threads() > usize::from(THREADS_MAX) {
            return wrong("threads", format!("is {}; at most {THREADS_MAX} are of use", self.threads));
        }
        if self.batch_rows == 0 {
            return wrong("batch_rows", "must be at least 1".into());
        }
        self.check_stages()?;
        for (index, source) in self.source.iter().enumerate() {
            if self.source[..index].iter().any(|other| other.name == source.name) {
                return wrong("source.name", format!("two sources are called `{}`", source.name));
            }
        }
        if let Err(problem) = self.check_mix() {
            return wrong("mix", problem);
        }
        for (index, filter) in self.filter.iter().enumerate() {
            if self.filter[..index].iter().any(|other| other.name == filter.name) {
                return wrong("filter.name", format!("two filters are called `{}`", filter.name));
            }
        }
        Ok(self)
    }
}

/// Bytes of a size such as `4GiB`, `512 MiB`, `10GB` or `1048576`.
pub fn parse_bytes(text: &str) -> Option<usize> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let unit: f64 = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "kb" => 1e3,
        "m" | "mib" => 1024.0 * 1024.0,
        "mb" => 1e6,
        "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "gb" => 1e9,
        "t" | "tib" => 1024f64.powi(4),
        "tb" => 1e12,
        _ => return None,
    };
    let bytes = number * unit;
    (bytes >= 0.0 && bytes < 2f64.powi(60)).then_some(bytes as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "[[source]]\nname = 'a'\nformat = 'text'\npath = 'x/*.txt'\n";

    #[test]
    fn unknown_key_names_the_nearest() {
        let text = format!("memmory = '2GiB'\n{MINIMAL}");
        let error = Recipe::parse("r.toml", &text, &[]).unwrap_err().to_string();
        assert!(error.contains("unknown key `memmory`; did you mean `memory`?"), "{error}");
        assert!(error.contains("line 1"), "{error}");
        let overrides = [("near_duplicates.treshold".to_string(), "0.9".to_string())];
        let error = Recipe::parse("r.toml", MINIMAL, &overrides).unwrap_err().to_string();
        assert!(error.contains("did you mean `threshold`?"), "{error}");
    }

    #[test]
    fn every_default_is_printed_and_read_back() {
        let recipe = Recipe::parse("r.toml", MINIMAL, &[]).unwrap();
        assert_eq!(Recipe::parse("r.toml", &recipe.to_toml(), &[]).unwrap(), recipe);
    }

    /// The recipe that the documentation shows is one.
    #[test]
    fn the_documented_recipe_is_read() {
        let page = include_str!("../../../docs/recipes.md");
        let text = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let recipe = Recipe::parse("docs/recipes.md", text, &[]).unwrap();
        recipe.source.iter().for_each(|source| source.validate().unwrap());
        let formats = ["jats", "bmc", "pubmed", "cnxml", "medquad", "html", "wikipedia", "text", "jsonl", "json", "csv", "parquet"];
        assert!(formats.iter().all(|format| page.contains(&format!("\n| `{format}` |"))));
    }

    #[test]
    fn stages_are_asked_before_anything_is_read() {
        let check = |key: &str, value: &str, wanted: &str| {
            let error = Recipe::parse("r.toml", MINIMAL, &[(key.into(), value.into())]).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        };
        check("pack.context_length", "0", "`pack`: `context_length` must be between 2 and");
        check("exact_duplicates.removed_share_max", "2.0", "removed_share_max");
        check("tokenizer.train.vocab_size", "0", "vocab_size");
    }

    #[test]
    fn flags_reach_every_level() {
        let overrides = [("memory", "1GiB"), ("source.a.language", "de"), ("length_filter.min_words", "3")];
        let overrides: Vec<_> = overrides.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let recipe = Recipe::parse("r.toml", MINIMAL, &overrides).unwrap();
        assert_eq!(recipe.memory_bytes().unwrap(), 1 << 30);
        let named = Recipe::parse("r.toml", MINIMAL, &[("name".into(), "2024".into())]).unwrap();
        assert_eq!(named.name, "2024");
        // A name, or a list.
        let bands = |value: &str| Recipe::parse("r.toml", MINIMAL, &[("near_duplicates.bandings".into(), value.into())]);
        let list = format!("{MINIMAL}[near_duplicates]\nbandings = [{{bands = 20, rows = 10}}]");
        assert_eq!(bands("[{bands = 20, rows = 10}]").unwrap(), Recipe::parse("r.toml", &list, &[]).unwrap());
        assert!(bands("lee2021").is_ok() && bands("[{bands = 20}]").is_err() && bands("[7]").is_err());
        let list_of_name = Recipe::parse("r.toml", MINIMAL, &[("name".into(), "[7]".into())]).unwrap();
        assert_eq!(list_of_name.name, "[7]");
        assert_eq!(recipe.length_filter.min_words, 3);
        let missing = [("source.b.language".to_string(), "de".to_string())];
        assert!(Recipe::parse("r.toml", MINIMAL, &missing).unwrap_err().to_string().contains("no element is called `b`"));
    }

    #[test]
    fn a_mix_names_sources_that_are_there() {
        let mix = |sources: &str| format!("{MINIMAL}[[mix.part]]\nname = 'clinical'\nsources = {sources}\ntokens = 50e9\n");
        let recipe = Recipe::parse("r.toml", &mix("['a']"), &[]).unwrap();
        assert_eq!((recipe.mix.tokens_per_epoch(), recipe.mix.epochs), (50_000_000_000, 1));
        assert_eq!(Recipe::parse("r.toml", &recipe.to_toml(), &[]).unwrap(), recipe);
        let error = Recipe::parse("r.toml", &mix("['b']"), &[]).unwrap_err().to_string();
        assert!(error.contains("no source is called `b`; did you mean `a`?"), "{error}");
        let overrides = [("mix.epochs".to_string(), "4".to_string()), ("mix.part.clinical.tokens".to_string(), "7".to_string())];
        let recipe = Recipe::parse("r.toml", &mix("['a']"), &overrides).unwrap();
        assert_eq!((recipe.mix.tokens_per_epoch(), recipe.mix.epochs), (7, 4));
        let plain = Recipe::parse("r.toml", MINIMAL, &[]).unwrap();
        let schedule = [("schedule.steps".to_string(), "79259".to_string()), ("schedule.tokens".to_string(), "65e9".to_string())];
        let asked = Recipe::parse("r.toml", MINIMAL, &schedule).unwrap();
        assert_eq!((asked.schedule.tokens, asked.hash()), (Some(65_000_000_000), plain.hash()));
        assert_ne!(recipe.hash(), plain.hash());
    }

    #[test]
    fn sizes() {
        let check = |text, want| assert_eq!(parse_bytes(text), want, "{text}");
        check("4GiB", Some(4 << 30));
        check("512 mib", Some(512 << 20));
        check("10", Some(10));
        check("4 apples", None);
        check("", None);
    }

    #[test]
    fn output_settings_change_the_hash_and_budget_does_not() {
        let recipe = Recipe::parse("r.toml", MINIMAL, &[]).unwrap();
        let with = |key: &str, value: &str| Recipe::parse("r.toml", MINIMAL, &[(key.into(), value.into())]).unwrap().hash();
        assert_eq!(with("memory", "9GiB"), recipe.hash());
        assert_eq!(with("threads", "7"), recipe.hash());
        assert_ne!(with("length_filter.min_words", "7"), recipe.hash());
    }
}
