//! SentencePiece models (`tokenizer.model`) as the `tokenizer.json` that gives the same ids.
//!
//! The file is one protocol-buffer message, `ModelProto` of `sentencepiece_model.proto` (Kudo and Richardson 2018). A BPE model keeps no
//! merges: a pair may merge if the two together are a piece, and the piece with the highest score goes first. Every way to split a piece
//! in two pieces is therefore a merge, in the order of the scores.

use super::config_error;
use crate::operator::Error;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::Path;

/// How a space is spelled within pieces.
const SPACE: &str = "▁";

/// The bytes of a tokenizer file as those of a `tokenizer.json`: a file called `*.model` is a SentencePiece model, any other stays as it is.
///
/// # Errors
/// As [`to_json`].
pub fn read_as_json(path: &Path, bytes: Vec<u8>) -> Result<Vec<u8>, Error> {
    let is_model = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("model"));
    if is_model { to_json(&bytes) } else { Ok(bytes) }
}

/// The `tokenizer.json` of a SentencePiece model; the same bytes for the same model.
///
/// # Errors
/// [`Error::Config`] for bytes that are no such model, and for one of another kind than BPE or Unigram.
pub fn to_json(model: &[u8]) -> Result<Vec<u8>, Error> {
    let refuse = |problem: &str| config_error("path", format!("SentencePiece model: {problem}"));
    let model = Model::decode(model).map_err(|error| refuse(&format!("{error}; is the file whole?")))?;
    let (trainer, normalizer) = (model.trainer.unwrap_or_default(), model.normalizer.unwrap_or_default());
    if model.pieces.is_empty() {
        return Err(refuse("it has no pieces; is it one?"));
    }
    if trainer.treat_whitespace_as_suffix() {
        return Err(refuse("`treat_whitespace_as_suffix` is not supported"));
    }
    let unknown = model.pieces.iter().position(|piece| piece.kind() == Kind::Unknown).ok_or_else(|| refuse("it has no unknown piece"))?;
    let bpe = match trainer.model_type() {
        ModelType::Bpe => true,
        ModelType::Unigram => false,
        ModelType::Word | ModelType::Char => return Err(refuse("it cuts by word or character; BPE and Unigram are supported")),
    };
    let json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(&model.pieces),
        "normalizer": {"type": "Sequence", "normalizers": normalizers(&normalizer)},
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": decoder(&normalizer),
        "model": if bpe { bpe_model(&model.pieces, unknown, trainer.byte_fallback()) }
            else { unigram_model(&model.pieces, unknown, trainer.byte_fallback()) },
    });
    serde_json::to_vec(&json).map_err(|error| refuse(&error.to_string()))
}

/// What stands for itself wherever it is written: control pieces, which never come out of text, and pieces that the user defined.
fn added_tokens(pieces: &[Piece]) -> Vec<Value> {
    let token = |(id, piece): (usize, &Piece)| {
        let special = matches!(piece.kind(), Kind::Control | Kind::Unknown);
        let added = special || piece.kind() == Kind::UserDefined;
        added.then(|| {
            json!({"id": id, "content": piece.piece(), "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                "special": special})
        })
    };
    pieces.iter().enumerate().filter_map(token).collect()
}

/// From text to what pieces are looked for in, in the order in which SentencePiece does it.
fn normalizers(normalizer: &Normalizer) -> Vec<Value> {
    let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
    let mut steps = Vec::new();
    if !normalizer.precompiled_charsmap().is_empty() {
        steps.push(json!({"type": "Precompiled", "precompiled_charsmap": STANDARD.encode(normalizer.precompiled_charsmap())}));
    }
    if normalizer.remove_extra_whitespaces() {
        steps.push(json!({"type": "Replace", "pattern": {"Regex": "^ +| +$"}, "content": ""}));
        steps.push(replace(json!({"Regex": " {2,}"}), " "));
    }
    if normalizer.add_dummy_prefix() {
        steps.push(json!({"type": "Prepend", "prepend": SPACE}));
    }
    if normalizer.escape_whitespaces() {
        steps.push(replace(json!({"String": " "}), SPACE));
    }
    steps
}

fn decoder(normalizer: &Normalizer) -> Value {
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if normalizer.add_dummy_prefix() {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}

fn bpe_model(pieces: &[Piece], unknown: usize, byte_fallback: bool) -> Value {
    let vocab: Map<String, Value> = pieces.iter().enumerate().map(|(id, piece)| (piece.piece().to_string(), json!(id))).collect();
    let merges: Vec<Value> = merges(pieces).into_iter().map(|(left, right)| json!([left, right])).collect();
    json!({"type": "BPE", "dropout": null, "unk_token": pieces.get(unknown).map(Piece::piece), "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": byte_fallback, "ignore_merges": false, "vocab": vocab,
        "merges": merges})
}

fn unigram_model(pieces: &[Piece], unknown: usize, byte_fallback: bool) -> Value {
    let vocab: Vec<Value> = pieces.iter().map(|piece| json!([piece.piece(), piece.score()])).collect();
    json!({"type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": byte_fallback})
}

/// Every way to split a piece of text into two, best score first; of equal scores in order of pieces, then of the left part's piece.
fn merges(pieces: &[Piece]) -> Vec<(&str, &str)> {
    let of_text = |piece: &&Piece| matches!(piece.kind(), Kind::Normal | Kind::UserDefined | Kind::Unused);
    let ids: HashMap<&str, usize> =
        pieces.iter().enumerate().filter(|(_, piece)| of_text(piece)).map(|(id, piece)| (piece.piece(), id)).collect();
    let mut merges = Vec::new();
    for piece in pieces.iter().filter(of_text) {
        let text = piece.piece();
        let cuts = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        let mut splits: Vec<(usize, usize, (&str, &str))> =
            cuts.filter_map(|(left, right)| Some((*ids.get(left)?, *ids.get(right)?, (left, right)))).collect();
        splits.sort_unstable_by_key(|split| (split.0, split.1));
        merges.extend(splits.into_iter().map(|split| (piece.score(), split.2)));
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0));
    merges.into_iter().map(|merge| merge.1).collect()
}

/// `ModelProto`: the fields that decide ids.
#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<Trainer>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<Normalizer>,
}

#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(enumeration = "Kind", optional, tag = "3", default = "Normal")]
    kind: Option<i32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

#[derive(Clone, PartialEq, Message)]
struct Trainer {
    #[prost(enumeration = "ModelType", optional, tag = "3", default = "Unigram")]
    model_type: Option<i32>,
    #[prost(bool, optional, tag = "24")]
    treat_whitespace_as_suffix: Option<bool>,
    #[prost(bool, optional, tag = "35")]
    byte_fallback: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
enum ModelType {
    Unigram = 1,
    Bpe = 2,
    Word = 3,
    Char = 4,
}

#[derive(Clone, PartialEq, Message)]
struct Normalizer {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3", default = "true")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4", default = "true")]
    remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5", default = "true")]
    escape_whitespaces: Option<bool>,
}
