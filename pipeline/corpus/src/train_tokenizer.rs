//! Trains a byte-level BPE tokenizer where the user brings none.
//!
//! The result is the bytes of a `tokenizer.json` that Hugging Face tools read. The same texts give the same bytes, in whatever order they
//! come. Memory is bounded: training sees a sample, chosen by the hash of each text and never by its position.

use crate::operator::Error;
use crossbeam_channel::RecvTimeoutError;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;
use tokenizers::pipeline::{PreTokenizer, PreTokenizerScratch};
use tokenizers::{Trainer, trainers::BpeTrainer};
use xxhash_rust::xxh3::xxh3_64;

const OPERATOR: &str = "train-tokenizer";

/// Longer texts enter the sample with their first bytes only, so that no single text can fill it.
pub const MAX_TEXT_BYTES: usize = 1 << 20;
/// Largest sample: keeps pair counts within 31 bits.
pub const MAX_SAMPLE_BYTES: u64 = 1 << 30;

/// Words as GPT-2 splits them (Radford et al. 2019), the pattern that the widest choice of tools knows.
const WORD_PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// How to train a tokenizer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Tokens wanted, special tokens and the 256 bytes included. A small corpus may give fewer.
    pub vocab_size: u32,
    /// A pair of tokens is joined only if it occurs at least this often in the sample.
    pub min_frequency: u32,
    /// Bytes of text to train on, at most [`MAX_SAMPLE_BYTES`].
    pub sample_bytes: u64,
    /// Special tokens, which get the first ids. The first ends a document.
    pub special_tokens: Vec<String>,
}

impl Default for TrainConfig {
    fn default() -> Self {
        let special_tokens = vec!["<|endoftext|>".to_string(), "<|pad|>".to_string()];
        Self { vocab_size: 32_000, min_frequency: 2, sample_bytes: 256 << 20, special_tokens }
    }
}

impl TrainConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`Error::Config`] names the first that cannot work.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |setting, problem: String| Err(Error::Config { operator: OPERATOR, setting, problem });
        let distinct: HashSet<&String> = self.special_tokens.iter().collect();
        if self.special_tokens.is_empty() || distinct.len() != self.special_tokens.len() {
            return refuse("special_tokens", "must be one or more distinct tokens".into());
        }
        if let Some(token) = self.special_tokens.iter().find(|token| token.chars().count() < 2) {
            return refuse("special_tokens", format!("`{token}` is shorter than two characters"));
        }
        let least = 256 + self.special_tokens.len() as u32;
        if !(least..=1 << 24).contains(&self.vocab_size) {
            return refuse("vocab_size", format!("must be between {least} and {}, got {}", 1 << 24, self.vocab_size));
        }
        if !(MAX_TEXT_BYTES as u64..=MAX_SAMPLE_BYTES).contains(&self.sample_bytes) {
            return refuse("sample_bytes", format!("must be between {MAX_TEXT_BYTES} and {MAX_SAMPLE_BYTES}, got {}", self.sample_bytes));
        }
        Ok(())
    }
}

/// Gathers a sample of texts, then trains on it.
pub struct TokenizerTrainer {
    config: TrainConfig,
    /// Texts by hash: the smallest hashes that fit into the sample. Equal texts are counted, not kept twice.
    sample: BTreeMap<u64, (Box<str>, u32)>,
    num_sample_bytes: u64,
}

impl TokenizerTrainer {
    /// An empty sample.
    ///
    /// # Errors
    /// As for [`TrainConfig::check`].
    pub fn new(config: TrainConfig) -> Result<Self, Error> {
        config.check()?;
        Ok(Self { config, sample: BTreeMap::new(), num_sample_bytes: 0 })
    }

    /// Offers a text.
    pub fn push(&mut self, text: &str) {
        let text = &text[..text.floor_char_boundary(MAX_TEXT_BYTES)];
        let hash = xxh3_64(text.as_bytes());
        let past_the_end = self.num_sample_bytes + text.len() as u64 > self.config.sample_bytes
            && self.sample.last_key_value().is_none_or(|(&last, _)| hash > last);
        if text.is_empty() || past_the_end {
            return;
        }
        let entry = self.sample.entry(hash).or_insert_with(|| (text.into(), 0));
        entry.1 = entry.1.saturating_add(1);
        self.num_sample_bytes += text.len() as u64;
        while self.num_sample_bytes > self.config.sample_bytes {
            let Some((_, (text, count))) = self.sample.pop_last() else { break };
            self.num_sample_bytes -= text.len() as u64 * u64::from(count);
        }
    }

    /// Bytes of text held.
    pub fn num_sample_bytes(&self) -> u64 {
        self.num_sample_bytes
    }

    /// Trains, and gives the bytes of a `tokenizer.json`. `cancelled` is asked many times a second whether to stop.
    ///
    /// # Errors
    /// [`Error::Data`] when the sample is empty or training fails, [`Error::Closed`] when it was cancelled.
    pub fn train(self, cancelled: &(dyn Fn() -> bool + Sync)) -> Result<Vec<u8>, Error> {
        let fail = |problem: &str| Error::Data { operator: OPERATOR, problem: problem.to_string() };
        if self.sample.is_empty() {
            return Err(fail("there is no text to train on"));
        }
        let alphabet = byte_alphabet();
        let base = base_vocabulary(&self.config.special_tokens, &alphabet);
        let skeleton = serde_json::to_string(&File::new(&self.config.special_tokens, &base, &[]))
            .map_err(|_| fail("the empty tokenizer cannot be written"))?;
        let skeleton = tokenizers::canonicalize_str(&skeleton).map_err(|_| fail("the empty tokenizer cannot be read"))?;
        let skeleton = tokenizers::from_json(&skeleton).map_err(|_| fail("the empty tokenizer cannot be read"))?;
        let words_of = |text: &str| -> tokenizers::Result<Vec<String>> {
            if cancelled() {
                return Err("cancelled".into());
            }
            let (mut scratch, mut spans) = (PreTokenizerScratch::default(), Vec::new());
            skeleton.get_pre_tokenizer().pre_tokenize(text, &mut scratch, &mut spans)?;
            let spelled = |bytes: &[u8]| bytes.iter().map(|&byte| alphabet[byte as usize]).collect();
            Ok(spans.iter().map(|span| spelled(&text.as_bytes()[span.range()])).collect())
        };
        let mut trainer = BpeTrainer::builder()
            .vocab_size(self.config.vocab_size as usize - self.config.special_tokens.len())
            .min_frequency(u64::from(self.config.min_frequency))
            .initial_alphabet(alphabet.into_iter().collect())
            .show_progress(false)
            .build();
        let texts = self.sample.into_values().flat_map(|(text, count)| std::iter::repeat_n(text, count as usize));
        let fed = trainer.feed(texts, words_of);
        if cancelled() {
            return Err(Error::Closed);
        }
        fed.map_err(|_| fail("the sample cannot be split into words"))?;
        let (learned, merges) = learn(trainer, cancelled)?.ok_or_else(|| fail("training failed"))?;
        // Special tokens stay out of training, so that no merge can ever spell one; ids move up to make room.
        let shift = self.config.special_tokens.len() as u32;
        let mut vocabulary: Vec<(String, u32)> = self.config.special_tokens.iter().cloned().zip(0..).collect();
        vocabulary.extend(learned.into_iter().map(|(token, id)| (token, id + shift)));
        vocabulary.sort_unstable_by_key(|&(_, id)| id);
        let file = File::new(&self.config.special_tokens, &vocabulary, &merges);
        serde_json::to_vec_pretty(&file).map_err(|_| fail("the tokenizer cannot be written"))
    }
}

type Learned = (Vec<(String, u32)>, Vec<(String, String)>);

/// Learns vocabulary and merges; `None` where that fails. The library's loop cannot be stopped from outside, so it has a thread of its
/// own, which is left behind when training is cancelled.
fn learn(trainer: BpeTrainer, cancelled: &dyn Fn() -> bool) -> Result<Option<Learned>, Error> {
    const INTERVAL: Duration = Duration::from_millis(50);
    let (sender, receiver) = crossbeam_channel::bounded(1);
    std::thread::spawn(move || {
        let learned = trainer.train_vocab().ok().map(|(vocabulary, merges, _)| (vocabulary.into_iter().collect(), merges));
        // Nobody listens any more where training was cancelled.
        let _ = sender.send(learned);
    });
    loop {
        match receiver.recv_timeout(INTERVAL) {
            Ok(learned) => return Ok(learned),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) if cancelled() => return Err(Error::Closed),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// The character that stands for each byte in a byte-level vocabulary, as in GPT-2: printable Latin-1 for itself, others from U+0100 on.
fn byte_alphabet() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => char::from(byte as u8),
        _ => {
            next += 1;
            char::from_u32(next - 1).unwrap_or('\u{fffd}')
        }
    })
}

fn base_vocabulary(special_tokens: &[String], alphabet: &[char; 256]) -> Vec<(String, u32)> {
    special_tokens.iter().cloned().chain(alphabet.iter().map(char::to_string)).zip(0..).collect()
}

/// A `tokenizer.json`, in the order and spelling that Hugging Face tools write.
#[derive(Serialize)]
struct File<'a> {
    version: &'static str,
    truncation: Option<()>,
    padding: Option<()>,
    added_tokens: Vec<AddedToken<'a>>,
    normalizer: Option<()>,
    pre_tokenizer: PreTokenizers,
    post_processor: Option<()>,
    decoder: ByteLevel,
    model: Model<'a>,
}

#[derive(Serialize)]
struct AddedToken<'a> {
    id: u32,
    content: &'a str,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

#[derive(Serialize)]
struct PreTokenizers {
    r#type: &'static str,
    pretokenizers: (Split, ByteLevel),
}

#[derive(Serialize)]
struct Split {
    r#type: &'static str,
    pattern: Pattern,
    behavior: &'static str,
    invert: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Pattern {
    regex: &'static str,
}

#[derive(Serialize)]
struct ByteLevel {
    r#type: &'static str,
    add_prefix_space: bool,
    trim_offsets: bool,
    use_regex: bool,
}

#[derive(Serialize)]
struct Model<'a> {
    r#type: &'static str,
    dropout: Option<()>,
    unk_token: Option<()>,
    continuing_subword_prefix: Option<()>,
    end_of_word_suffix: Option<()>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    #[serde(serialize_with = "in_order")]
    vocab: &'a [(String, u32)],
    merges: &'a [(String, String)],
}

fn in_order<S: Serializer>(tokens: &[(String, u32)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(tokens.len()))?;
    for (token, id) in tokens {
        map.serialize_entry(token, id)?;
    }
    map.end()
}

impl<'a> File<'a> {
    fn new(special_tokens: &'a [String], vocab: &'a [(String, u32)], merges: &'a [(String, String)]) -> Self {
        let byte_level = || ByteLevel { r#type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false };
        let split = Split { r#type: "Split", pattern: Pattern { regex: WORD_PATTERN }, behavior: "Isolated", invert: false };
        let added = |(content, id): (&'a String, u32)| AddedToken {
            id,
            content,
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
            special: true,
        };
        Self {
            version: "1.0",
            truncation: None,
            padding: None,
            added_tokens: special_tokens.iter().zip(0..).map(added).collect(),
            normalizer: None,
            pre_tokenizer: PreTokenizers { r#type: "Sequence", pretokenizers: (split, byte_level()) },
            post_processor: None,
            decoder: byte_level(),
            model: Model {
                r#type: "BPE",
                dropout: None,
                unk_token: None,
                continuing_subword_prefix: None,
                end_of_word_suffix: None,
                fuse_unk: false,
                byte_fallback: false,
                ignore_merges: false,
                vocab,
                merges,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenize::{Ids, Tokenizer, TokenizerConfig};

    const TEXTS: [&str; 6] = [
        "The patient was given 5 mg of the drug.",
        "The patient was not given the drug; the patient's pain was severe.",
        "α≥β in 10% of patients\n\nNaïve T cells were given the drug.",
        "the the the the",
        "Pain, fever and cough were given as reasons for the visit.",
        "the the the the",
    ];

    fn config() -> TrainConfig {
        TrainConfig { vocab_size: 400, ..TrainConfig::default() }
    }

    fn train<'a>(texts: impl IntoIterator<Item = &'a str>, config: TrainConfig) -> Vec<u8> {
        let mut trainer = TokenizerTrainer::new(config).unwrap();
        texts.into_iter().for_each(|text| trainer.push(text));
        trainer.train(&|| false).unwrap()
    }

    #[test]
    fn order_of_texts_does_not_change_a_byte() {
        let forwards = train(TEXTS, config());
        assert_eq!(forwards, train(TEXTS.into_iter().rev(), config()));
        assert_ne!(forwards, train(TEXTS[..5].iter().copied(), config()), "a repeated text counts twice");
    }

    #[test]
    fn every_text_comes_back_and_special_tokens_stay_text() {
        let bytes = train(TEXTS, config());
        let tokenizer = Tokenizer::load(&bytes, "trained", &TokenizerConfig::default()).unwrap();
        let identity = tokenizer.identity();
        assert_eq!((identity.eos_id, identity.pad_id, identity.bos_id), (0, 1, None));
        assert!(identity.vocab_size > 258 + 20 && identity.vocab_size <= 400);
        for text in TEXTS.into_iter().chain(["", "日本 \0 <|endoftext|> x <|pad|>", "\r\n  \t"]) {
            let mut ids = Ids::default();
            tokenizer.encode_into(text, &mut ids).unwrap();
            assert!(ids.as_slice().iter().all(|&id| id > 1), "{text:?}");
            assert_eq!(tokenizer.decode(ids.as_slice()).unwrap(), text);
        }
        let mut ids = Ids::default();
        tokenizer.encode_into(" patient", &mut ids).unwrap();
        assert_eq!(ids.as_slice().len(), 1, "a frequent word is one token");
    }

    #[test]
    fn sample_is_chosen_by_hash_and_bounded() {
        let limit = MAX_TEXT_BYTES as u64;
        let texts: Vec<String> = (0..40).map(|number| format!("{number} ").repeat(25_000)).collect();
        let sample = |order: &mut dyn Iterator<Item = &String>| {
            let mut trainer = TokenizerTrainer::new(TrainConfig { sample_bytes: limit, ..config() }).unwrap();
            for text in order {
                trainer.push(text);
                assert!(trainer.num_sample_bytes <= limit);
            }
            trainer.sample
        };
        let forwards = sample(&mut texts.iter());
        assert_eq!(forwards, sample(&mut texts.iter().rev()));
        let held: u64 = forwards.values().map(|(text, _)| text.len() as u64).sum();
        assert!(held > limit - 75_000 && forwards.len() < texts.len(), "{held}");
    }

    #[test]
    fn training_stops_when_asked() {
        use std::sync::atomic::{AtomicU32, Ordering};
        // At once, and only after the sample was split into words: by then every text has been asked about once.
        for patience in [0, TEXTS.len() as u32] {
            let asked = AtomicU32::new(0);
            let mut trainer = TokenizerTrainer::new(config()).unwrap();
            TEXTS.into_iter().for_each(|text| trainer.push(text));
            let outcome = trainer.train(&|| asked.fetch_add(1, Ordering::Relaxed) >= patience);
            assert!(matches!(outcome, Err(Error::Closed)), "{patience}");
        }
    }

    #[test]
    fn settings_are_checked() {
        let error = |config: TrainConfig| config.check().unwrap_err().to_string();
        assert!(error(TrainConfig { vocab_size: 257, ..config() }).contains("between 258"));
        assert!(error(TrainConfig { sample_bytes: 0, ..config() }).contains("sample_bytes"));
        assert!(error(TrainConfig { special_tokens: Vec::new(), ..config() }).contains("special_tokens"));
        assert!(TokenizerTrainer::new(config()).unwrap().train(&|| false).is_err());
    }
}
