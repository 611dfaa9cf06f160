//! `osler generate`: a model's text, as it is chosen.

use crate::Failure;
use crate::arguments::GenerateArguments;
use osler_corpus::tokenize::{Ids, Tokenizer, TokenizerConfig};
use osler_kernels::Cpu;
use osler_schemas::chain;
use osler_train::TrainError;
use osler_train::generate::{Sampling, generate};
use osler_train::model::{self, Config};
use serde_json::Value;
use std::io::{Read, Write, stdin, stdout};
use std::path::Path;

/// Prints the prompt and what follows it.
///
/// # Errors
/// [`Failure`] with a message and the exit code.
pub fn run(arguments: &GenerateArguments) -> Result<u8, Failure> {
    let GenerateArguments { temperature, top_k, top_p, seed, .. } = *arguments;
    if !(temperature.is_finite() && temperature >= 0.0 && top_p > 0.0 && top_p <= 1.0) {
        return Err(Failure::user("--temperature must be 0 or more, and --top-p above 0 and at most 1"));
    }
    let prompt = match &arguments.prompt {
        Some(prompt) => prompt.clone(),
        None => {
            let mut text = String::new();
            stdin().read_to_string(&mut text)?;
            text.trim_end_matches('\n').to_string()
        }
    };
    // A training run's folder holds its model in one of its own.
    let of_run = arguments.model.join("model");
    let folder = if of_run.join("config.json").is_file() { &of_run } else { &arguments.model };
    let config = Config::read(&folder.join("config.json")).map_err(TrainError::from)?;
    let (tokenizer, begin) = load_tokenizer(folder, &config)?;
    let mut ids = Ids::default();
    tokenizer.encode_into(&prompt, &mut ids).map_err(|error| Failure::user(chain(&error)))?;
    let mut tokens: Vec<u32> = begin.into_iter().chain(ids.as_slice().iter().copied()).collect();
    if tokens.is_empty() {
        // The end of a document comes before the beginning of the next.
        tokens.push(tokenizer.identity().eos_id);
    }
    if tokens.len() >= config.max_positions {
        return Err(Failure::user(format!("the prompt has {} tokens, the model {} positions", tokens.len(), config.max_positions)));
    }
    let ops = Cpu::<f32>::new(arguments.threads.into()).map_err(TrainError::from)?;
    let model = model::read_weights(&ops, folder).map_err(TrainError::from)?;
    let sampling = Sampling { temperature, top_k, top_p, seed };
    let mut to = stdout().lock();
    write!(to, "{prompt}")?;
    to.flush()?;
    let mut printed = Printed { tokenizer: &tokenizer, ids: Vec::new(), text: String::new() };
    let mut outcome = Ok(());
    let take = |token| {
        outcome = printed.push(token).and_then(|text| Ok(write!(to, "{text}").and_then(|()| to.flush())?));
        outcome.is_ok()
    };
    let ends = [tokenizer.identity().eos_id];
    generate(&ops, &model, &tokens, arguments.max_tokens, &ends, sampling, take).map_err(TrainError::from)?;
    outcome?;
    writeln!(to)?;
    Ok(0)
}

/// The tokenizer, and the token that a prompt begins with, where the tokenizer's own template has one.
fn load_tokenizer(folder: &Path, config: &Config) -> Result<(Tokenizer, Option<u32>), Failure> {
    let path = folder.join("tokenizer.json");
    let bytes = std::fs::read(&path).map_err(|error| Failure::user(format!("{}: {error}", path.display())))?;
    let json: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    // The model says which token ends a document.
    let eos = config.source.get("eos_token_id").and_then(|id| id.as_u64().or_else(|| id.get(0)?.as_u64()));
    let eos = eos.and_then(|id| name_of(&json, id));
    let settings = TokenizerConfig { eos, ..TokenizerConfig::default() };
    let tokenizer = Tokenizer::load(&bytes, "tokenizer", &settings);
    let tokenizer = tokenizer.map_err(|error| Failure::user(format!("{}: {}", path.display(), chain(&error))))?;
    let template = json["post_processor"].to_string();
    let begins = |id: &u32| name_of(&json, u64::from(*id)).is_some_and(|name| template.contains(&Value::from(name).to_string()));
    let begin = tokenizer.identity().bos_id.filter(begins);
    Ok((tokenizer, begin))
}

/// The added token with this id.
fn name_of(json: &Value, id: u64) -> Option<String> {
    let added = json["added_tokens"].as_array()?.iter().find(|token| token["id"].as_u64() == Some(id))?;
    added["content"].as_str().map(str::to_string)
}

/// What was printed of the tokens so far: a token may hold a part of a character.
struct Printed<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    text: String,
}

impl Printed<'_> {
    /// The text that is new with this token.
    fn push(&mut self, token: u32) -> Result<String, Failure> {
        self.ids.push(token);
        let text = self.tokenizer.decode(&self.ids).map_err(|error| Failure::user(chain(&error)))?;
        let whole = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
        let new = whole.strip_prefix(self.text.as_str()).unwrap_or_default().to_string();
        self.text.push_str(&new);
        Ok(new)
    }
}
