//! Remembered words, for tokenizers that take a whole text as one word.
//!
//! SentencePiece-style BPE has no pre-tokenizer: it puts a mark (`▁`) before the text and in the place of every space, and merges over the
//! whole. But a merged token that held a character with a mark behind it would have to be in the vocabulary. Where no such token is,
//! nothing is ever merged across the place between a character and a mark behind it, so the ids of a text are those of its words, one
//! after the other, and the ids of frequent words can be looked up.

use super::{Error, Ids, Tokenizer, Vocabulary};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

const MARK: char = '▁';
/// Longer words are not remembered: with this a place is 48 bytes.
const MAX_WORD_BYTES: usize = 22;
const MAX_WORD_IDS: usize = 6;
/// Places for words; one word each.
const NUM_PLACES: usize = 1 << 16;

/// That a tokenizer may be run word by word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Words {
    /// Id of a mark alone.
    mark_id: u32,
}

/// Words with their ids; what falls on a place that is taken takes it over. Ids do not depend on what is remembered.
pub struct Remembered(Vec<Place>);

#[derive(Clone, Copy)]
struct Place {
    word: [u8; MAX_WORD_BYTES],
    num_bytes: u8,
    num_ids: u8,
    ids: [u32; MAX_WORD_IDS],
}

impl Default for Remembered {
    fn default() -> Self {
        let empty = Place { word: [0; MAX_WORD_BYTES], num_bytes: 0, num_ids: 0, ids: [0; MAX_WORD_IDS] };
        Self(vec![empty; NUM_PLACES])
    }
}

impl Words {
    /// Whether `json`, as the file has it, is a tokenizer of this kind.
    pub fn find(json: &Value, vocabulary: &Vocabulary) -> Option<Self> {
        let model = json.get("model")?;
        let absent = |key: &str| matches!(model.get(key), None | Some(Value::Null)) || model[key] == "";
        let plain = model["type"] == "BPE"
            && ["dropout", "continuing_subword_prefix", "end_of_word_suffix"].iter().all(|key| absent(key))
            && model.get("ignore_merges").is_none_or(|value| value == false)
            && json["pre_tokenizer"].is_null()
            && is_mark_for_space(&json["normalizer"]);
        let ordinary_added = |token: &Value| token["special"] != true;
        if !plain || json["added_tokens"].as_array().is_some_and(|tokens| tokens.iter().any(ordinary_added)) {
            return None;
        }
        let mut spellings = vocabulary.tokens.iter().map(|(spelling, _)| spelling);
        let mark_behind = |token: &String| token.chars().zip(token.chars().skip(1)).any(|(left, right)| left != MARK && right == MARK);
        if spellings.any(mark_behind) {
            return None;
        }
        let mark = vocabulary.tokens.iter().find(|(spelling, _)| spelling.chars().eq([MARK]))?;
        Some(Self { mark_id: mark.1 })
    }

    /// Appends the ids of `text`.
    ///
    /// # Errors
    /// As for [`Tokenizer::encode_into`].
    pub fn encode(self, tokenizer: &Tokenizer, text: &str, remembered: &mut Remembered, ids: &mut Ids) -> Result<(), Error> {
        let bytes = text.as_bytes();
        let mut start = 0;
        while start < bytes.len() {
            // The mark that encoding puts before every text stands for the word's own first mark, but for the first word, which has none.
            let skipped = if start == 0 { 0 } else { mark_len(&bytes[start..]) };
            let end = word_end(bytes, start);
            let word = &text[start + skipped..end];
            start = end;
            if word.is_empty() {
                ids.push(self.mark_id);
            } else if !remembered.give(word, ids) {
                let before = ids.0.len();
                tokenizer.encode_whole(word, ids)?;
                remembered.take(word, &ids.as_slice()[before..]);
            }
        }
        Ok(())
    }
}

/// The normaliser that puts a mark before the text and in the place of every space.
fn is_mark_for_space(normalizer: &Value) -> bool {
    let mark = String::from(MARK);
    let Some([prepend, replace]) = normalizer["normalizers"].as_array().map(Vec::as_slice) else { return false };
    normalizer["type"] == "Sequence"
        && (&prepend["type"], &prepend["prepend"]) == (&"Prepend".into(), &mark.as_str().into())
        && (&replace["type"], &replace["content"]) == (&"Replace".into(), &mark.as_str().into())
        && replace["pattern"] == serde_json::json!({"String": " "})
}

/// Bytes of the mark, or the space that becomes one, at the start of `bytes`; 0 where there is none.
fn mark_len(bytes: &[u8]) -> usize {
    match bytes {
        [b' ', ..] => 1,
        [0xe2, 0x96, 0x81, ..] => 3,
        _ => 0,
    }
}

/// End of the word that begins at `start`: marks, then everything up to the next mark.
fn word_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start;
    while let Some(len) = bytes.get(at..).map(mark_len).filter(|&len| len > 0) {
        at += len;
    }
    while let Some(&byte) = bytes.get(at) {
        if byte == b' ' || (byte == 0xe2 && mark_len(&bytes[at..]) > 0) {
            break;
        }
        at += 1;
    }
    at
}

impl Remembered {
    fn place(&mut self, word: &[u8]) -> &mut Place {
        &mut self.0[xxh3_64(word) as usize % NUM_PLACES]
    }

    /// Appends the ids of a word that is remembered.
    fn give(&mut self, word: &str, ids: &mut Ids) -> bool {
        if word.len() > MAX_WORD_BYTES {
            return false;
        }
        let place = self.place(word.as_bytes());
        let known = place.num_ids > 0 && &place.word[..usize::from(place.num_bytes)] == word.as_bytes();
        if known {
            place.ids[..usize::from(place.num_ids)].iter().for_each(|&id| ids.push(id));
        }
        known
    }

    fn take(&mut self, word: &str, ids: &[u32]) {
        if word.len() > MAX_WORD_BYTES || !(1..=MAX_WORD_IDS).contains(&ids.len()) {
            return;
        }
        let place = self.place(word.as_bytes());
        place.word[..word.len()].copy_from_slice(word.as_bytes());
        place.ids[..ids.len()].copy_from_slice(ids);
        (place.num_bytes, place.num_ids) = (word.len() as u8, ids.len() as u8);
    }
}
