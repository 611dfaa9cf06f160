//! Packing: cuts the token stream into chunks of one context length.
//!
//! [`plan`] sees document lengths and never a token: the stream is written once, documents back to back, and a plan for another context
//! length is a new sidecar. The separator between documents is the end-of-document token, which is part of the document's length.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// How the stream becomes chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PackConfig {
    /// Tokens per chunk, 2 to 2^24.
    pub context_length: u32,
    pub method: Method,
    /// What happens to the last, partial chunk of a shard under `concat`. Under `best-fit` a chunk that is not full is padded.
    pub tail: Tail,
    /// Seed of the order in which a loader gives the chunks; the plan itself does not depend on it.
    pub seed: u64,
}

impl Default for PackConfig {
    fn default() -> Self {
        Self { context_length: 2048, method: Method::default(), tail: Tail::default(), seed: 0 }
    }
}

/// How documents are placed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The stream is split at every multiple of the context length, wherever that falls in a document.
    #[default]
    Concat,
    /// Documents that fit are never cut: best-fit decreasing, each placed in the fullest chunk that has room. Longer documents first give
    /// full chunks, and their rest is placed like a document.
    BestFit,
}

/// What happens to a shard's last tokens when they do not fill a chunk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tail {
    /// They open the next shard, so that shard sizes do not change the chunks; the last shard's stay in its file, in no chunk, and are
    /// counted.
    #[default]
    Carry,
    /// They become a chunk with padding.
    Pad,
    /// They stay in the file, in no chunk, and are counted.
    Drop,
}

impl fmt::Display for PackConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tail = match self.tail {
            Tail::Carry => "carry",
            Tail::Pad => "pad",
            Tail::Drop => "drop",
        };
        match self.method {
            Method::Concat => write!(f, "concat/{tail}"),
            Method::BestFit => f.write_str("best-fit"),
        }
    }
}

/// A setting that cannot work.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PackError {
    #[error("`context_length` must be between 2 and {MAX_CONTEXT_LENGTH}, got {0}")]
    ContextLength(u32),
    #[error("one shard holds more than 2^63 tokens; lower the shard size")]
    TooManyTokens,
}

/// Longest context a plan can have.
pub const MAX_CONTEXT_LENGTH: u32 = 1 << 24;

impl PackConfig {
    /// Whether the plan of one shard leaves tokens for the next.
    pub fn carries(&self) -> bool {
        self.method == Method::Concat && self.tail == Tail::Carry
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// [`PackError::ContextLength`].
    pub fn check(&self) -> Result<(), PackError> {
        if (2..=MAX_CONTEXT_LENGTH).contains(&self.context_length) { Ok(()) } else { Err(PackError::ContextLength(self.context_length)) }
    }
}

/// Tokens `[offset, offset + len)` of document `document`, which begin at token `start` of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Piece {
    pub document: u64,
    pub offset: u64,
    pub start: u64,
    pub len: u32,
}

/// Which pieces make which chunk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Pieces of all chunks, chunk by chunk.
    pub pieces: Vec<Piece>,
    /// Chunk `i` has the pieces `[ends[i - 1], ends[i])`.
    pub ends: Vec<usize>,
    /// Tokens of the stream that no chunk covers.
    pub num_tail_tokens: u64,
    pub num_padding: u64,
    pub context_length: u32,
}

impl Plan {
    /// Number of chunks.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no chunk.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The pieces of every chunk, in order.
    pub fn chunks(&self) -> impl Iterator<Item = &[Piece]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.pieces[start..end])
    }

    /// Part of the chunks' room that holds tokens, 0 to 1; 1 for no chunk.
    pub fn fill(&self) -> f64 {
        let room = self.len() as f64 * f64::from(self.context_length);
        if room == 0.0 { 1.0 } else { 1.0 - self.num_padding as f64 / room }
    }
}

/// Plans the chunks of one stream of documents of these lengths, which lie back to back.
///
/// `concat` takes O(documents + chunks), `best-fit` O(n log n) in the documents. Every token is in at most one piece; only
/// `num_tail_tokens` are in none. Chunks are in the order of their first token in the stream.
///
/// # Errors
/// [`PackError`] when a setting cannot work or the lengths overflow.
pub fn plan(lengths: &[u64], config: &PackConfig) -> Result<Plan, PackError> {
    plan_parts(lengths, |_| Some(0), config)
}

/// As [`plan`], with every chunk of one part alone: `part_of` tells the part of a document by its position. A document of no part is in
/// no chunk.
///
/// # Errors
/// As for [`plan`].
pub fn plan_parts(lengths: &[u64], part_of: impl Fn(usize) -> Option<usize>, config: &PackConfig) -> Result<Plan, PackError> {
    config.check()?;
    let mut parts: BTreeMap<usize, Vec<Item>> = BTreeMap::new();
    let mut total = 0u64;
    for (document, &length) in lengths.iter().enumerate() {
        if let Some(part) = part_of(document) {
            parts.entry(part).or_default().push(Item { document: document as u64, start: total, length });
        }
        total = total.checked_add(length).filter(|&sum| sum < 1 << 63).ok_or(PackError::TooManyTokens)?;
    }
    let plans = parts.values().map(|items| match config.method {
        Method::Concat => concat(items, config),
        Method::BestFit => best_fit(items, config.context_length),
    });
    let mut plan = merge(plans.collect(), config.context_length);
    let used: u64 = plan.pieces.iter().map(|piece| u64::from(piece.len)).sum();
    plan.num_tail_tokens = total - used;
    plan.num_padding = plan.len() as u64 * u64::from(config.context_length) - used;
    Ok(plan)
}

/// One document of a part.
#[derive(Clone, Copy)]
struct Item {
    document: u64,
    /// Its first token in the stream.
    start: u64,
    length: u64,
}

/// Chunks of several plans in the order of their first token.
fn merge(mut plans: Vec<Plan>, context_length: u32) -> Plan {
    if plans.len() == 1 {
        return plans.remove(0);
    }
    let mut chunks: Vec<&[Piece]> = plans.iter().flat_map(Plan::chunks).collect();
    chunks.sort_unstable_by_key(|chunk| chunk.first().map(|piece| piece.start));
    let mut merged = Plan { context_length, ..Plan::default() };
    for chunk in chunks {
        merged.pieces.extend_from_slice(chunk);
        merged.ends.push(merged.pieces.len());
    }
    merged
}

fn concat(items: &[Item], config: &PackConfig) -> Plan {
    let context = u64::from(config.context_length);
    let total: u64 = items.iter().map(|item| item.length).sum();
    let covered = if config.tail == Tail::Pad { total } else { total - total % context };
    let mut plan = Plan { context_length: config.context_length, ..Plan::default() };
    plan.pieces.reserve(items.len() + (covered / context) as usize);
    let (mut done, mut used) = (0u64, 0u64);
    for item in items {
        let mut offset = 0;
        while offset < item.length && done < covered {
            let len = (item.length - offset).min(context - used);
            plan.pieces.push(Piece { document: item.document, offset, start: item.start + offset, len: len as u32 });
            (offset, done, used) = (offset + len, done + len, used + len);
            if used == context {
                plan.ends.push(plan.pieces.len());
                used = 0;
            }
        }
    }
    if used > 0 {
        plan.ends.push(plan.pieces.len());
    }
    plan
}

fn best_fit(items: &[Item], context_length: u32) -> Plan {
    let context = u64::from(context_length);
    let mut chunks: Vec<Vec<Piece>> = Vec::new();
    let mut rests: Vec<Piece> = Vec::with_capacity(items.len());
    for &Item { document, start, length } in items {
        let whole = length - length % context;
        for offset in (0..whole).step_by(context_length as usize) {
            chunks.push(vec![Piece { document, offset, start: start + offset, len: context_length }]);
        }
        if whole < length {
            let len = (length - whole) as u32;
            rests.push(Piece { document, offset: whole, start: start + whole, len });
        }
    }
    rests.sort_by_key(|piece| std::cmp::Reverse(piece.len));
    // Chunks by the room left in them. A piece takes the fullest chunk that has room, the youngest of several.
    let mut open: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for piece in rests {
        let found = open.range_mut(piece.len..).next().map(|(&room, at)| (room, at.pop(), at.is_empty()));
        let (chunk, room) = match found {
            Some((room, Some(chunk), emptied)) => {
                if emptied {
                    open.remove(&room);
                }
                chunks[chunk].push(piece);
                (chunk, room - piece.len)
            }
            _ => {
                chunks.push(vec![piece]);
                (chunks.len() - 1, context_length - piece.len)
            }
        };
        if room > 0 {
            open.entry(room).or_default().push(chunk);
        }
    }
    // In stream order within and between chunks: a loader then reads nearly forwards, and long documents do not all come first.
    for chunk in &mut chunks {
        chunk.sort_unstable_by_key(|piece| piece.start);
    }
    chunks.sort_unstable_by_key(|chunk| chunk.first().map(|piece| piece.start));
    let mut plan = Plan { context_length, ..Plan::default() };
    for chunk in chunks {
        plan.pieces.extend(chunk);
        plan.ends.push(plan.pieces.len());
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(context_length: u32, method: Method, tail: Tail) -> PackConfig {
        PackConfig { context_length, method, tail, seed: 0 }
    }

    fn lengths_of(plan: &Plan) -> Vec<Vec<u32>> {
        plan.chunks().map(|pieces| pieces.iter().map(|piece| piece.len).collect()).collect()
    }

    #[test]
    fn concat_splits_at_every_context_length() {
        let lengths = [3, 0, 9, 1];
        for (tail, chunks, rest, padding) in [
            (Tail::Carry, vec![vec![3, 2], vec![5]], 3, 0),
            (Tail::Drop, vec![vec![3, 2], vec![5]], 3, 0),
            (Tail::Pad, vec![vec![3, 2], vec![5], vec![2, 1]], 0, 2),
        ] {
            let plan = plan(&lengths, &config(5, Method::Concat, tail)).unwrap();
            assert_eq!(lengths_of(&plan), chunks, "{tail:?}");
            assert_eq!((plan.num_tail_tokens, plan.num_padding), (rest, padding), "{tail:?}");
        }
    }

    #[test]
    fn best_fit_fills_the_fullest_chunk_with_room() {
        // 12 gives a full chunk and 2; then 6, 5, 3, 2, 2 are placed in that order.
        let plan = plan(&[5, 2, 12, 3, 6], &config(10, Method::BestFit, Tail::Carry)).unwrap();
        assert_eq!(lengths_of(&plan), vec![vec![5, 2, 2], vec![10], vec![3, 6]]);
        assert_eq!(plan.num_padding, 2);
        assert!((plan.fill() - 28.0 / 30.0).abs() < 1e-12);
    }

    #[test]
    fn settings_are_checked() {
        assert_eq!(plan(&[], &config(1, Method::Concat, Tail::Pad)), Err(PackError::ContextLength(1)));
        assert_eq!(plan(&[u64::MAX, 1], &config(2, Method::Concat, Tail::Pad)), Err(PackError::TooManyTokens));
        assert!(plan(&[], &PackConfig::default()).unwrap().is_empty());
    }

    /// Smallest number of chunks by trying every placement; only for a handful of documents.
    fn fewest_chunks(lengths: &[u64], rooms: &mut Vec<u64>, context: u64) -> usize {
        let Some((&first, rest)) = lengths.split_first() else { return rooms.len() };
        let mut fewest = usize::MAX;
        for index in 0..=rooms.len() {
            if index == rooms.len() {
                rooms.push(context - first);
            } else if rooms[index] >= first {
                rooms[index] -= first;
            } else {
                continue;
            }
            fewest = fewest.min(fewest_chunks(rest, rooms, context));
            rooms[index] += first;
            if rooms[index] == context {
                rooms.pop();
            }
        }
        fewest
    }

    #[test]
    fn chunks_hold_one_part_each() {
        let part_of = |document: usize| [Some(0), Some(1), None, Some(0)][document];
        for (tail, chunks, rest) in [
            (Tail::Drop, vec![(vec![0], vec![3]), (vec![0, 3], vec![1, 2]), (vec![1], vec![3])], 7),
            (Tail::Pad, vec![(vec![0], vec![3]), (vec![0, 3], vec![1, 2]), (vec![1], vec![3]), (vec![1], vec![2])], 5),
        ] {
            let plan = plan_parts(&[4, 5, 5, 2], part_of, &config(3, Method::Concat, tail)).unwrap();
            let got: Vec<(Vec<u64>, Vec<u32>)> =
                plan.chunks().map(|chunk| chunk.iter().map(|piece| (piece.document, piece.len)).unzip()).collect();
            assert_eq!(got, chunks, "{tail:?}");
            assert_eq!(plan.num_tail_tokens, rest, "{tail:?}");
        }
        let plan = plan_parts(&[4, 5, 5, 2], part_of, &config(6, Method::BestFit, Tail::Pad)).unwrap();
        assert_eq!(lengths_of(&plan), vec![vec![4, 2], vec![5]]);
        assert_eq!((plan.num_tail_tokens, plan.num_padding), (5, 1));
    }

    proptest! {
        #[test]
        fn every_token_is_in_exactly_one_piece(
            lengths in prop::collection::vec(0u64..40, 0..60),
            context in 2u32..17,
            best in any::<bool>(),
            tail in prop_oneof![Just(Tail::Carry), Just(Tail::Pad), Just(Tail::Drop)],
        ) {
            let method = if best { Method::BestFit } else { Method::Concat };
            let plan = plan(&lengths, &config(context, method, tail)).unwrap();
            let total: u64 = lengths.iter().sum();
            let starts: Vec<u64> = lengths.iter().scan(0, |at, length| { *at += length; Some(*at - length) }).collect();
            let mut seen = vec![0u32; total as usize];
            let mut padding = 0;
            for pieces in plan.chunks() {
                let used: u32 = pieces.iter().map(|piece| piece.len).sum();
                prop_assert!(!pieces.is_empty() && used <= context);
                prop_assert!(pieces.windows(2).all(|pair| pair[0].start < pair[1].start));
                padding += u64::from(context - used);
                for piece in pieces {
                    prop_assert!(piece.len > 0 && piece.offset + u64::from(piece.len) <= lengths[piece.document as usize]);
                    prop_assert_eq!(piece.start, starts[piece.document as usize] + piece.offset);
                    for token in piece.start..piece.start + u64::from(piece.len) {
                        seen[token as usize] += 1;
                    }
                    // A document that fits is never cut by best-fit.
                    if best && lengths[piece.document as usize] <= u64::from(context) {
                        prop_assert_eq!(u64::from(piece.len), lengths[piece.document as usize]);
                    }
                }
            }
            let covered = (total - plan.num_tail_tokens) as usize;
            prop_assert!(seen[..covered].iter().all(|&count| count == 1) && seen[covered..].iter().all(|&count| count == 0));
            prop_assert_eq!(padding, plan.num_padding);
            let firsts: Vec<u64> = plan.chunks().map(|pieces| pieces[0].start).collect();
            prop_assert!(firsts.is_sorted());
            if !best {
                prop_assert_eq!(plan.num_tail_tokens, if tail == Tail::Pad { 0 } else { total % u64::from(context) });
            }
        }

        /// Johnson 1974: best-fit decreasing needs at most 11/9 of the fewest chunks, and 6/9 more (Dósa 2007 for first-fit decreasing).
        #[test]
        fn best_fit_is_near_the_optimum(lengths in prop::collection::vec(1u64..10, 1..8)) {
            let plan = plan(&lengths, &config(10, Method::BestFit, Tail::Carry)).unwrap();
            let fewest = fewest_chunks(&lengths, &mut Vec::new(), 10);
            prop_assert!(plan.len() * 9 <= fewest * 11 + 6 && plan.len() >= fewest);
        }
    }
}
