//! Where a text may be cut so that the ids of its parts, one after the other, are the ids of the whole.
//!
//! Three things could reach across a cut: a token, a pre-tokenizer's pattern, and a normaliser. A cut is made only before a single space
//! between two ASCII letters. There no Unicode normalisation reaches across; no token does if none in the vocabulary has a letter followed
//! by the mark of a space; and whether patterns and other normalisers do is tried out, at load time, on texts of every kind that patterns
//! tell apart. A tokenizer that fails is never cut, but at the limit that bounds memory.

use super::{Ids, Tokenizer, Vocabulary};
use serde_json::Value;

/// Texts are encoded in parts of about this many bytes.
const SEGMENT_BYTES: usize = 1 << 17;
/// No part is longer: where no safe place is found up to here, the text is cut after the last whole character. Encoding takes some
/// 50 bytes of memory per byte of a part that is one word.
pub const MAX_SEGMENT_BYTES: usize = 1 << 23;

/// What happens to the space at a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// It opens the next part.
    Keep,
    /// It is left out, because the tokenizer puts a space before every text.
    Drop,
}

/// One part of a text; `forced` where the cut behind it may change ids.
pub struct Segment<'a> {
    pub text: &'a str,
    pub forced: bool,
}

/// The parts of a text, in order.
pub fn segments(text: &str, cut: Option<Cut>) -> impl Iterator<Item = Segment<'_>> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        let (end, forced) = match (next_cut(text.as_bytes(), cut), text.len() > MAX_SEGMENT_BYTES) {
            (Some(end), _) => (end, false),
            (None, true) => (text.floor_char_boundary(MAX_SEGMENT_BYTES), true),
            (None, false) => return Some(Segment { text, forced: false }),
        };
        let skipped = usize::from(!forced && cut == Some(Cut::Drop));
        rest = text.get(end + skipped..);
        Some(Segment { text: text.get(..end)?, forced })
    })
}

/// Position of the space to cut at: the last one in the first [`SEGMENT_BYTES`], else the first one after.
fn next_cut(text: &[u8], cut: Option<Cut>) -> Option<usize> {
    cut?;
    if text.len() <= SEGMENT_BYTES {
        return None;
    }
    let is_cut = |bytes: &[u8]| matches!(bytes, [left, b' ', right] if left.is_ascii_alphabetic() && right.is_ascii_alphabetic());
    let near = text[..SEGMENT_BYTES].windows(3).rposition(is_cut);
    let far = || text[SEGMENT_BYTES - 2..text.len().min(MAX_SEGMENT_BYTES)].windows(3).position(is_cut).map(|at| at + SEGMENT_BYTES - 2);
    near.or_else(far).map(|at| at + 1)
}

/// How texts may be cut for this tokenizer, if at all.
pub fn find(tokenizer: &Tokenizer, json: &Value, vocabulary: &Vocabulary) -> Option<Cut> {
    let spans_cut = |token: &str| {
        let pairs = token.chars().zip(token.chars().skip(1));
        pairs.into_iter().any(|(left, right)| left.is_ascii_alphabetic() && matches!(right, ' ' | 'Ġ' | '▁'))
    };
    if vocabulary.tokens.iter().chain(&vocabulary.added).any(|(token, _)| spans_cut(token)) {
        return None;
    }
    // The best path of a Unigram model is found over what its pre-tokenizer gives; over a whole text its sums round differently.
    let unigram = json["model"]["type"] == "Unigram";
    if unigram && json["pre_tokenizer"].is_null() {
        return None;
    }
    // An added token that takes in the white space beside it could take the space at a cut.
    let takes_space = |token: &Value| token["lstrip"] == true || token["rstrip"] == true;
    if json["added_tokens"].as_array().is_some_and(|tokens| tokens.iter().any(takes_space)) {
        return None;
    }
    [Cut::Keep, Cut::Drop].into_iter().find(|&cut| holds(tokenizer, cut))
}

/// Whether cutting between all pairs of these texts leaves all ids as they are.
fn holds(tokenizer: &Tokenizer, cut: Cut) -> bool {
    const LEFT: [&str; 9] =
        ["a", "The patient", "was given 3.5 mg b", "\n\n x", "don't we'VE", "naïve Übelkeit in", "α≥β?!z", "  tab\tt", "12,5% of THE"];
    const RIGHT: [&str; 9] = ["b", "was given 3.5 mg.", "s  \n\n ", "I'LL we've", "zα, β", "TB 10x", "a\u{301}", "d ", "x\ty\r\nz"];
    let ids_of = |parts: &[&str]| {
        let mut ids = Ids::default();
        let done = parts.iter().try_for_each(|part| tokenizer.encode_whole(part, &mut ids));
        done.is_ok().then(|| ids.as_slice().to_vec())
    };
    LEFT.iter().all(|left| {
        RIGHT.iter().all(|right| {
            let right = format!(" {right}");
            let part = if cut == Cut::Keep { right.as_str() } else { &right[1..] };
            let whole = ids_of(&[&format!("{left}{right}")]);
            whole.is_some() && whole == ids_of(&[left, part])
        })
    })
}
