//! Tokenisation: document texts to token ids, each document closed by the end-of-document token.
//!
//! Reads any `tokenizer.json` (byte-level BPE, BPE with byte fallback, Unigram, WordPiece), and SentencePiece models made into one. The ids of a text are those the file defines,
//! with two things decided here. Special tokens written out in a text stay text: an end-of-document id comes from this operator and from
//! nowhere else. And a long text is encoded piece by piece, cut only where a cut cannot change an id (see `cut`), so that time is linear
//! and memory bounded.

mod cut;
pub mod sentencepiece;
#[cfg(test)]
mod tests;
mod words;

use crate::operator::{Error, Operator, Sink, give};
use crate::train_tokenizer::TrainConfig;
use arrow::array::{ListArray, RecordBatch, StringArray, UInt32Array};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, SchemaRef};
use cut::Cut;
use osler_schemas::sequence::document_tokens_schema;
use osler_schemas::shard::TokenizerIdentity;
use osler_schemas::{SchemaError, expect};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};
use tokenizers::pipeline::{EncodeOptions, Override, PipelineToken, PipelineTokenizer};
use words::{Remembered, Words};

const OPERATOR: &str = "tokenize";

/// Tokens after which an output batch is given out.
const BATCH_TOKENS: usize = 1 << 20;

/// Which tokenizer, and what goes around a document.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizerConfig {
    /// Path of a `tokenizer.json` or of a SentencePiece `tokenizer.model`. Where there is none, a tokenizer is trained on the corpus.
    pub path: Option<String>,
    /// How to train one; not together with `path`.
    pub train: Option<TrainConfig>,
    /// The token that ends a document; found by [`EOS_CANDIDATES`] where it is not given.
    pub eos: Option<String>,
    /// Whether every document begins with the beginning-of-document token.
    pub add_bos: bool,
}

/// Tokens tried in this order, after the file's own `eos_token` role, where the user names no end-of-document token. They are looked for
/// among the file's added tokens, or in its vocabulary where it declares none.
/// Base-model names come before chat turn ends, so that a file with both (`<|endoftext|>`, `<|im_end|>`) gives the former.
pub const EOS_CANDIDATES: [&str; 8] =
    ["</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "<|end▁of▁sentence|>", "<｜end▁of▁sentence｜>", "<|im_end|>", "[SEP]"];
const BOS_CANDIDATES: [&str; 5] = ["<s>", "<|begin_of_text|>", "<bos>", "<｜begin▁of▁sentence｜>", "[CLS]"];
const PAD_CANDIDATES: [&str; 4] = ["<pad>", "<|pad|>", "[PAD]", "<|finetune_right_pad_id|>"];

/// A loaded tokenizer; shared between threads.
pub struct Tokenizer {
    pipeline: PipelineTokenizer,
    options: EncodeOptions,
    identity: TokenizerIdentity,
    /// Ids that must not come out of text, and their spellings.
    special: Vec<(u32, String)>,
    cut: Option<Cut>,
    words: Option<Words>,
    /// What the threads that encode remember, between texts.
    remembered: Mutex<Vec<Remembered>>,
    add_bos: bool,
}

/// Token ids under construction; reused from batch to batch.
#[derive(Default)]
pub struct Ids(Vec<PipelineToken>);

/// Things worth telling that happened while encoding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Incidents {
    /// Cuts in texts of more than [`cut::MAX_SEGMENT_BYTES`] without a safe place; ids around one may differ from an uncut encoding.
    pub num_forced_cuts: u64,
    /// Times a special token was written out in a text and its spelling had to be broken to keep it text.
    pub num_broken_specials: u64,
}

impl Ids {
    /// The ids.
    pub fn as_slice(&self) -> &[u32] {
        PipelineToken::cast_slice(&self.0)
    }

    /// Removes all ids, keeping the room.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    fn push(&mut self, id: u32) {
        self.0.push(PipelineToken::from(id));
    }
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. `name` is what shards and errors call it.
    ///
    /// # Errors
    /// [`Error::Config`] when the file is not a tokenizer this program can run, or a token that is needed is not in it.
    pub fn load(bytes: &[u8], name: &str, config: &TokenizerConfig) -> Result<Self, Error> {
        let refuse = |problem: String| config_error("path", format!("{name}: {problem}"));
        let mut json: Value = serde_json::from_slice(bytes).map_err(|error| refuse(format!("not JSON: {error}")))?;
        let as_given = json.clone();
        tokenizers::canonicalize_value(&mut json).map_err(|error| refuse(error.to_string()))?;
        let vocabulary = Vocabulary::read(&json).ok_or_else(|| refuse("its model has no vocabulary".into()))?;
        let pipeline = tokenizers::from_json(&json.to_string()).map_err(|error| refuse(error.to_string()))?;
        let role = |role: &str| pipeline.get_token_for_role(role).map(str::to_string);
        let find = |wanted: Option<String>, candidates: &[&str]| {
            let mut names = wanted.iter().map(String::as_str).chain(candidates.iter().copied());
            let specials = vocabulary.specials();
            names.find_map(|name| specials.iter().find(|(spelling, _)| spelling == name).map(|(spelling, id)| (*id, spelling.clone())))
        };
        let eos = match &config.eos {
            Some(token) => vocabulary.special(token).ok_or_else(|| config_error("eos", format!("{name} has no token `{token}`")))?,
            None => find(role("eos_token"), &EOS_CANDIDATES)
                .ok_or_else(|| config_error("eos", format!("{name} has none of {}; name one", EOS_CANDIDATES.join(", "))))?,
        };
        let bos = find(role("bos_token"), &BOS_CANDIDATES);
        if config.add_bos && bos.is_none() {
            return Err(config_error("add_bos", format!("{name} has none of {}", BOS_CANDIDATES.join(", "))));
        }
        let pad = find(role("pad_token"), &PAD_CANDIDATES).unwrap_or_else(|| eos.clone());
        let identity = TokenizerIdentity {
            name: name.to_string(),
            xxh3: xxhash_rust::xxh3::xxh3_128(bytes),
            vocab_size: vocabulary.size,
            eos_id: eos.0,
            bos_id: bos.as_ref().map(|bos| bos.0),
            pad_id: pad.0,
        };
        let options =
            EncodeOptions { add_special_tokens: false, encode_special_tokens: true, padding: Override::Off, truncation: Override::Off };
        let mut special: Vec<(u32, String)> = [Some(eos), bos, Some(pad)].into_iter().flatten().collect();
        special.sort_unstable();
        special.dedup();
        let (words, remembered) = (Words::find(&as_given, &vocabulary), Mutex::default());
        let mut tokenizer = Self { pipeline, options, identity, special, cut: None, words, remembered, add_bos: config.add_bos };
        // Some parts of a file are only found to be beyond this program when they are first used.
        let mut ids = Vec::new();
        tokenizer.pipeline.encode_into("One text, 2 lines.\n", &tokenizer.options, &mut ids).map_err(|error| refuse(error.to_string()))?;
        tokenizer.cut = cut::find(&tokenizer, &json, &vocabulary);
        Ok(tokenizer)
    }

    /// Name, hash, vocabulary size and special ids, as they go into every shard.
    pub fn identity(&self) -> &TokenizerIdentity {
        &self.identity
    }

    /// Appends the ids of one document: text, end-of-document token, and a beginning-of-document token where configured.
    ///
    /// # Errors
    /// [`Error::Data`] when the model cannot encode the text. The message holds no text.
    pub fn encode_document_into(&self, text: &str, ids: &mut Ids) -> Result<Incidents, Error> {
        if let (true, Some(bos)) = (self.add_bos, self.identity.bos_id) {
            ids.push(bos);
        }
        let incidents = self.encode_into(text, ids)?;
        ids.push(self.identity.eos_id);
        Ok(incidents)
    }

    /// Appends the ids of a batch of documents, and where each ends in `ids`.
    ///
    /// # Errors
    /// As for [`Self::encode_document_into`].
    pub fn encode_batch_into<'a>(
        &self,
        texts: impl IntoIterator<Item = &'a str>,
        ids: &mut Ids,
        ends: &mut Vec<usize>,
    ) -> Result<Incidents, Error> {
        let mut incidents = Incidents::default();
        for text in texts {
            incidents.add(self.encode_document_into(text, ids)?);
            ends.push(ids.0.len());
        }
        Ok(incidents)
    }

    /// Appends the ids of `text` alone, without special tokens.
    ///
    /// # Errors
    /// As for [`Self::encode_document_into`].
    pub fn encode_into(&self, text: &str, ids: &mut Ids) -> Result<Incidents, Error> {
        let Some(words) = self.words else { return self.encode_segments(text, ids, |segment, ids| self.encode_whole(segment, ids)) };
        let mut remembered = self.lock_remembered().pop().unwrap_or_default();
        let incidents = self.encode_segments(text, ids, |segment, ids| words.encode(self, segment, &mut remembered, ids));
        self.lock_remembered().push(remembered);
        incidents
    }

    fn lock_remembered(&self) -> std::sync::MutexGuard<'_, Vec<Remembered>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn encode_segments(
        &self,
        text: &str,
        ids: &mut Ids,
        mut encode: impl FnMut(&str, &mut Ids) -> Result<(), Error>,
    ) -> Result<Incidents, Error> {
        let mut incidents = Incidents::default();
        for segment in cut::segments(text, self.cut) {
            incidents.num_forced_cuts += u64::from(segment.forced);
            let before = ids.0.len();
            encode(segment.text, ids)?;
            if self.has_special(&ids.0[before..]) {
                ids.0.truncate(before);
                incidents.num_broken_specials += self.encode_broken(segment.text, ids)?;
            }
        }
        Ok(incidents)
    }

    /// The text of `ids`, special tokens included.
    ///
    /// # Errors
    /// [`Error::Data`] when the file's decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String, Error> {
        self.pipeline.decode(ids, false).map_err(|_| data_error("the tokenizer cannot decode these ids"))
    }

    fn encode_whole(&self, text: &str, ids: &mut Ids) -> Result<(), Error> {
        // The library's message may quote the text, so it is not passed on.
        self.pipeline.encode_into(text, &self.options, &mut ids.0).map_err(|_| data_error("the tokenizer cannot encode a text"))
    }

    fn has_special(&self, ids: &[PipelineToken]) -> bool {
        let ids = PipelineToken::cast_slice(ids);
        self.special.iter().any(|(special, _)| ids.contains(special))
    }

    /// Encodes a text in which the model itself finds a special token (Unigram and WordLevel look up whole words): each spelling is
    /// broken after its first character. Gives the number of breaks.
    fn encode_broken(&self, text: &str, ids: &mut Ids) -> Result<u64, Error> {
        let (mut start, mut at, mut num_breaks) = (0, 0, 0);
        while let Some(first) = text[at..].chars().next() {
            let after = at + first.len_utf8();
            if self.special.iter().any(|(_, spelling)| text[at..].starts_with(spelling.as_str())) {
                self.encode_whole(&text[start..after], ids)?;
                (start, num_breaks) = (after, num_breaks + 1);
            }
            at = after;
        }
        self.encode_whole(&text[start..], ids)?;
        Ok(num_breaks)
    }
}

impl Incidents {
    fn add(&mut self, other: Self) {
        self.num_forced_cuts += other.num_forced_cuts;
        self.num_broken_specials += other.num_broken_specials;
    }
}

/// The tokens of a `tokenizer.json`.
struct Vocabulary {
    tokens: Vec<(String, u32)>,
    added: Vec<(String, u32)>,
    size: u32,
}

impl Vocabulary {
    fn read(json: &Value) -> Option<Self> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|&id| id < 1 << 31);
        let tokens: Vec<(String, u32)> = match json.get("model")?.get("vocab")? {
            Value::Object(map) => map.iter().filter_map(|(token, value)| Some((token.clone(), id(value)?))).collect(),
            Value::Array(list) => {
                let named = list.iter().zip(0..).filter_map(|(entry, id)| Some((entry.get(0)?.as_str()?.to_string(), id)));
                named.collect()
            }
            _ => return None,
        };
        let added = json.get("added_tokens").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let added: Vec<(String, u32)> =
            added.iter().filter_map(|token| Some((token.get("content")?.as_str()?.to_string(), id(token.get("id")?)?))).collect();
        let size = tokens.iter().chain(&added).map(|(_, id)| id + 1).max()?;
        Some(Self { tokens, added, size })
    }

    /// Ids and spellings that may be special tokens: the added tokens, or all where the file declares none. A vocabulary learned from web
    /// text can hold `</s>` as an ordinary token.
    fn specials(&self) -> &[(String, u32)] {
        if self.added.is_empty() { &self.tokens } else { &self.added }
    }

    /// Id and spelling of a token that the user names, added tokens first.
    fn special(&self, token: &str) -> Option<(u32, String)> {
        let found = self.added.iter().chain(&self.tokens).find(|(spelling, _)| spelling == token)?;
        Some((found.1, found.0.clone()))
    }
}

/// The operator: `doc_id`, `source` and `text` in, [`document_tokens_schema`] out, one row per document in the same order.
pub struct Tokenize {
    tokenizer: Arc<Tokenizer>,
    threads: usize,
    ids: Ids,
    counters: TokenizeCounters,
}

/// What went through a [`Tokenize`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenizeCounters {
    pub num_documents: u64,
    pub num_bytes: u64,
    pub num_tokens: u64,
    pub incidents: Incidents,
}

impl TokenizeCounters {
    fn add(&mut self, other: Self) {
        self.num_documents += other.num_documents;
        self.num_bytes += other.num_bytes;
        self.num_tokens += other.num_tokens;
        self.incidents.add(other.incidents);
    }
}

impl Tokenize {
    /// An operator over a loaded tokenizer.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, threads: 1, ids: Ids::default(), counters: TokenizeCounters::default() }
    }

    /// Encodes the rows of a batch on several threads; what comes out, and its order, are the same.
    pub fn with_threads(self, threads: usize) -> Self {
        Self { threads: threads.max(1), ..self }
    }

    /// Cuts `batch` into runs of rows with about as much text each, encodes them side by side, and gives the results in order.
    fn push_parallel(&mut self, batch: &RecordBatch, out: &mut dyn Sink) -> Result<(), Error> {
        let offsets = Columns::of(batch).map_err(|source| Error::Schema { operator: OPERATOR, source })?.texts.value_offsets().to_vec();
        let share = ((offsets[batch.num_rows()] - offsets[0]) as usize).div_ceil(self.threads).max(1);
        let mut runs = Vec::new();
        let mut first = 0;
        for row in 0..batch.num_rows() {
            if (offsets[row + 1] - offsets[first]) as usize >= share || row + 1 == batch.num_rows() {
                runs.push(batch.slice(first, row + 1 - first));
                first = row + 1;
            }
        }
        let encoded: Vec<Result<(Vec<RecordBatch>, TokenizeCounters), Error>> = std::thread::scope(|scope| {
            let encode = |run: RecordBatch| {
                let mut own = Self::new(self.tokenizer.clone());
                let mut batches = Vec::new();
                own.push(run, &mut batches).map(|()| (batches, own.counters))
            };
            let threads: Vec<_> = runs.into_iter().map(|run| scope.spawn(move || encode(run))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(data_error("a tokenizer thread failed")))).collect()
        });
        for result in encoded {
            let (batches, counters) = result?;
            self.counters.add(counters);
            batches.into_iter().try_for_each(|batch| give(out, batch))?;
        }
        Ok(())
    }

    /// Counts so far.
    pub fn counters(&self) -> TokenizeCounters {
        self.counters
    }

    /// Gives rows `[first, first + ends.len())` of `batch` with the ids gathered.
    fn give_rows(&mut self, columns: &Columns<'_>, first: usize, ends: &mut Vec<usize>, out: &mut dyn Sink) -> Result<(), Error> {
        let mut offsets = Vec::with_capacity(ends.len() + 1);
        offsets.push(0);
        for &end in ends.iter() {
            offsets.push(i32::try_from(end).map_err(|_| data_error("a document has more than 2^31 tokens; split it"))?);
        }
        let num_rows = ends.len();
        let values = Arc::new(UInt32Array::from(self.ids.as_slice().to_vec()));
        let item = Arc::new(Field::new_list_field(DataType::UInt32, false));
        let arrow = |source| Error::Arrow { operator: OPERATOR, source };
        let lists = ListArray::try_new(item, OffsetBuffer::new(ScalarBuffer::from(offsets)), values, None).map_err(arrow)?;
        let ids = columns.doc_ids.slice(first, num_rows);
        let sources = columns.sources.slice(first, num_rows);
        let columns = vec![Arc::new(ids) as _, Arc::new(sources) as _, Arc::new(lists) as _];
        let batch = RecordBatch::try_new(self.output_schema(), columns).map_err(arrow)?;
        self.counters.num_documents += num_rows as u64;
        self.counters.num_tokens += self.ids.as_slice().len() as u64;
        self.ids.clear();
        ends.clear();
        give(out, batch)
    }
}

struct Columns<'a> {
    doc_ids: &'a StringArray,
    sources: &'a StringArray,
    texts: &'a StringArray,
}

impl<'a> Columns<'a> {
    fn of(batch: &'a RecordBatch) -> Result<Self, SchemaError> {
        let (doc_ids, sources) = (expect::utf8(batch, "doc_id")?, expect::utf8(batch, "source")?);
        Ok(Self { doc_ids, sources, texts: expect::utf8(batch, "text")? })
    }
}

impl Operator for Tokenize {
    fn name(&self) -> &'static str {
        OPERATOR
    }

    fn output_schema(&self) -> SchemaRef {
        document_tokens_schema()
    }

    fn push(&mut self, batch: RecordBatch, out: &mut dyn Sink) -> Result<(), Error> {
        if self.threads > 1 && batch.num_rows() > 1 {
            return self.push_parallel(&batch, out);
        }
        let columns = Columns::of(&batch).map_err(|source| Error::Schema { operator: OPERATOR, source })?;
        let (mut first, mut ends) = (0, Vec::new());
        for row in 0..batch.num_rows() {
            let text = columns.texts.value(row);
            let document = || format!("document {}", columns.doc_ids.value(row));
            let incidents = self.tokenizer.encode_document_into(text, &mut self.ids);
            self.counters.incidents.add(incidents.map_err(|_| data_error(&format!("{}: the tokenizer cannot encode it", document())))?);
            self.counters.num_bytes += text.len() as u64;
            ends.push(self.ids.as_slice().len());
            if self.ids.as_slice().len() >= BATCH_TOKENS {
                self.give_rows(&columns, first, &mut ends, out)?;
                first = row + 1;
            }
        }
        if ends.is_empty() { Ok(()) } else { self.give_rows(&columns, first, &mut ends, out) }
    }

    fn finish(&mut self, _out: &mut dyn Sink) -> Result<(), Error> {
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        self.ids.0.capacity() * size_of::<u32>()
    }
}

fn config_error(setting: &'static str, problem: String) -> Error {
    Error::Config { operator: OPERATOR, setting, problem }
}

fn data_error(problem: &str) -> Error {
    Error::Data { operator: OPERATOR, problem: problem.to_string() }
}
