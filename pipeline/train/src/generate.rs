//! Text from a model, token by token.

use crate::model::{Decoder, Model, ModelError};
use crate::random::Random;
use osler_kernels::Operations;

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the likeliest token.
    pub temperature: f64,
    /// Only so many of the likeliest tokens are drawn from; 0 leaves all.
    pub top_k: usize,
    /// Only the likeliest tokens that together have this probability are drawn from (Holtzman et al. 2020, section 3.1).
    pub top_p: f64,
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 }
    }
}

/// Goes on from `prompt` until `take` gives `false`, a token of `ends` is chosen, or `max_tokens` are given. Each token is given to `take`
/// as it is chosen; gives their number.
///
/// # Errors
/// [`ModelError::Batch`] for an empty prompt, or one longer than the model has positions.
pub fn generate<O: Operations>(
    ops: &O,
    model: &Model<O>,
    prompt: &[u32],
    max_tokens: usize,
    ends: &[u32],
    sampling: Sampling,
    mut take: impl FnMut(u32) -> bool,
) -> Result<usize, ModelError> {
    let capacity = prompt.len().saturating_add(max_tokens).min(model.config.max_positions.max(prompt.len()));
    let mut decoder = Decoder::new(ops, model, capacity)?;
    let mut random = Random::new(sampling.seed, "generate");
    let mut logits = decoder.read(ops, model, prompt)?;
    for given in 0..max_tokens {
        let token = choose(&logits, sampling, &mut random);
        if ends.contains(&token) || !take(token) {
            return Ok(given);
        }
        if decoder.room() == 0 {
            return Ok(given + 1);
        }
        logits = decoder.read(ops, model, &[token])?;
    }
    Ok(max_tokens)
}

fn choose(logits: &[f32], sampling: Sampling, random: &mut Random) -> u32 {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    // Of equals the lower id.
    let likelier = |left: &u32, right: &u32| logits[*right as usize].total_cmp(&logits[*left as usize]).then(left.cmp(right));
    if sampling.temperature <= 0.0 {
        return order.into_iter().min_by(likelier).unwrap_or(0);
    }
    order.sort_unstable_by(likelier);
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k);
    }
    let highest = order.first().map_or(0.0, |&token| f64::from(logits[token as usize]));
    let weight = |&token: &u32| ((f64::from(logits[token as usize]) - highest) / sampling.temperature).exp();
    let mut sums: Vec<f64> = order
        .iter()
        .scan(0.0, |sum, token| {
            *sum += weight(token);
            Some(*sum)
        })
        .collect();
    let total = sums.last().copied().unwrap_or(0.0);
    // The one that reaches the share is among them.
    let kept = sums.partition_point(|&sum| sum < sampling.top_p * total) + 1;
    sums.truncate(kept);
    let drawn = random.uniform() * sums.last().copied().unwrap_or(0.0);
    let at = sums.partition_point(|&sum| sum < drawn);
    order.get(at.min(sums.len().saturating_sub(1))).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{golden_folder, read_weights};
    use osler_kernels::Cpu;

    #[test]
    fn likely_tokens_are_drawn_as_often_as_they_are_likely() {
        // Probabilities 0.5, 0.3, 0.2, in another order.
        let logits = [0.2f32.ln(), 0.5f32.ln(), f32::NEG_INFINITY, 0.3f32.ln()];
        let draw = |sampling: Sampling| {
            let mut random = Random::new(7, "test");
            let mut counts = [0; 4];
            (0..20_000).for_each(|_| counts[choose(&logits, sampling, &mut random) as usize] += 1);
            counts.map(|count| f64::from(count) / 20_000.0)
        };
        let check = |sampling: Sampling, wanted: [f64; 4]| {
            let got = draw(sampling);
            assert!(got.iter().zip(wanted).all(|(got, wanted)| (got - wanted).abs() < 0.015), "{sampling:?}: {got:?}");
        };
        let plain = Sampling { temperature: 1.0, ..Sampling::default() };
        check(plain, [0.2, 0.5, 0.0, 0.3]);
        check(Sampling::default(), [0.0, 1.0, 0.0, 0.0]);
        check(Sampling { top_k: 2, ..plain }, [0.0, 0.625, 0.0, 0.375]);
        check(Sampling { top_p: 0.79, ..plain }, [0.0, 0.625, 0.0, 0.375]);
        check(Sampling { top_p: 0.4, ..plain }, [0.0, 1.0, 0.0, 0.0]);
        check(Sampling { temperature: 0.5, ..plain }, [0.04 / 0.38, 0.25 / 0.38, 0.0, 0.09 / 0.38]);
    }

    #[test]
    fn generation_ends_where_it_is_told() {
        let ops = Cpu::<f32>::new(1).unwrap();
        let model = read_weights(&ops, &golden_folder("qwen2")).unwrap();
        let run = |max_tokens: usize, ends: &[u32], keep: usize| {
            let mut tokens = Vec::new();
            let count = generate(&ops, &model, &[1, 2, 3], max_tokens, ends, Sampling::default(), |token| {
                tokens.push(token);
                tokens.len() < keep
            });
            (count.unwrap(), tokens)
        };
        let (count, tokens) = run(8, &[], usize::MAX);
        assert_eq!((count, tokens.len()), (8, 8));
        let first = tokens.iter().position(|token| *token == tokens[3]).unwrap();
        assert_eq!(run(8, &[tokens[3]], usize::MAX), (first, tokens[..first].to_vec()));
        assert_eq!(run(8, &[], 2).1, tokens[..2]);
        let most = model.config.max_positions - 3;
        assert_eq!(run(usize::MAX, &[], usize::MAX).0, most + 1);
        assert!(generate(&ops, &model, &[], 1, &[], Sampling::default(), |_| true).is_err());
    }
}
