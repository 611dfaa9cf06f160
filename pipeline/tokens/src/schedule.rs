//! The arithmetic between tokens and training steps: any one quantity from the others.
//!
//! `tokens × epochs = steps × sequences per step × context length`

use crate::mix::count;
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// Largest share by which the two sides may differ where all quantities are given: published figures are rounded.
const TOLERANCE: f64 = 0.005;

/// What is known of a training run; what is not is solved for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// Unique tokens: those of one epoch.
    #[serde(deserialize_with = "some_count")]
    pub tokens: Option<u64>,
    /// Times that they are given.
    pub epochs: Option<f64>,
    /// Optimiser steps.
    #[serde(deserialize_with = "some_count")]
    pub steps: Option<u64>,
    /// Sequences, of one context length each, in a step, over all devices.
    #[serde(deserialize_with = "some_count")]
    pub sequences_per_step: Option<u64>,
    /// Tokens per sequence.
    pub context_length: Option<u32>,
}

/// A schedule with nothing left open.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Solved {
    pub tokens: u64,
    pub epochs: f64,
    pub steps: u64,
    pub sequences_per_step: u64,
    pub context_length: u32,
    /// Name of what was solved for; none where all was given.
    pub solved: Option<&'static str>,
}

/// A schedule that cannot be solved.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScheduleError {
    #[error("schedule: `{0}` must be more than 0")]
    Zero(&'static str),
    #[error("schedule: {0} are all open; give all but one")]
    Open(String),
    #[error(
        "schedule: the numbers conflict: {tokens} tokens × {epochs} epochs are {given} tokens, and {steps} steps × {sequences_per_step} \
         sequences × {context_length} are {taken}; leave one out to have it solved"
    )]
    Conflict { tokens: u64, epochs: String, given: u64, steps: u64, sequences_per_step: u64, context_length: u32, taken: u64 },
    #[error("schedule: `{0}` would be less than one, or beyond any run; check the other numbers")]
    Range(&'static str),
}

impl Schedule {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Solves for what is open. Steps are rounded up, so that every token is given; sequences and the context length to the nearest.
    ///
    /// # Errors
    /// [`ScheduleError`] where more than one quantity is open, or none and they conflict by more than half a percent.
    pub fn solve(&self) -> Result<Solved, ScheduleError> {
        let values = [
            ("tokens", self.tokens.map(|value| value as f64)),
            ("epochs", self.epochs),
            ("steps", self.steps.map(|value| value as f64)),
            ("sequences_per_step", self.sequences_per_step.map(|value| value as f64)),
            ("context_length", self.context_length.map(f64::from)),
        ];
        if let Some((name, _)) = values.iter().find(|(_, value)| value.is_some_and(|value| value.is_nan() || value <= 0.0)) {
            return Err(ScheduleError::Zero(name));
        }
        let open: Vec<&'static str> = values.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| *name).collect();
        let or_one = |index: usize| values[index].1.unwrap_or(1.0);
        let (given, taken) = (or_one(0) * or_one(1), or_one(2) * or_one(3) * or_one(4));
        let mut solved = Solved {
            tokens: self.tokens.unwrap_or(0),
            epochs: self.epochs.unwrap_or(0.0),
            steps: self.steps.unwrap_or(0),
            sequences_per_step: self.sequences_per_step.unwrap_or(0),
            context_length: self.context_length.unwrap_or(0),
            solved: None,
        };
        match *open {
            [] => {
                if (given - taken).abs() > TOLERANCE * given.max(taken) {
                    let Solved { tokens, epochs, steps, sequences_per_step, context_length, .. } = solved;
                    let (given, taken, epochs) = (given as u64, taken as u64, epochs.to_string());
                    return Err(ScheduleError::Conflict { tokens, epochs, given, steps, sequences_per_step, context_length, taken });
                }
                return Ok(solved);
            }
            ["tokens"] => solved.tokens = whole("tokens", (taken / given).round())?,
            ["epochs"] => solved.epochs = taken / given,
            ["steps"] => solved.steps = whole("steps", (given / taken).ceil())?,
            ["sequences_per_step"] => solved.sequences_per_step = whole("sequences_per_step", (given / taken).round())?,
            ["context_length"] => {
                let length = whole("context_length", (given / taken).round())?;
                solved.context_length = u32::try_from(length).map_err(|_| ScheduleError::Range("context_length"))?;
            }
            _ => return Err(ScheduleError::Open(open.join(", "))),
        }
        solved.solved = open.first().copied();
        Ok(solved)
    }
}

impl Solved {
    /// Tokens over all epochs.
    pub fn total_tokens(&self) -> f64 {
        self.tokens as f64 * self.epochs
    }

    /// Tokens that the steps take.
    pub fn step_tokens(&self) -> f64 {
        self.steps as f64 * self.sequences_per_step as f64 * f64::from(self.context_length)
    }
}

impl fmt::Display for Solved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tokens, epochs, steps, sequences_per_step, context_length, solved } = self;
        writeln!(f, "schedule: {tokens} unique tokens × {epochs} epochs = {:.0} tokens", self.total_tokens())?;
        let share = 100.0 * self.step_tokens() / self.total_tokens();
        let product = self.step_tokens();
        writeln!(f, "  {steps} steps × {sequences_per_step} sequences × {context_length} = {product:.0} tokens ({share:.1} %)")?;
        match solved {
            Some(name) => writeln!(f, "  solved for `{name}`"),
            None => writeln!(f, "  nothing was left to solve; the numbers agree"),
        }
    }
}

fn whole(name: &'static str, value: f64) -> Result<u64, ScheduleError> {
    if (1.0..2f64.powi(53)).contains(&value) { Ok(value as u64) } else { Err(ScheduleError::Range(name)) }
}

fn some_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    struct Count(#[serde(deserialize_with = "count")] u64);
    Ok(Option::<Count>::deserialize(deserializer)?.map(|count| count.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paper() -> Schedule {
        Schedule { tokens: Some(65_000_000_000), epochs: Some(4.0), context_length: Some(8192), ..Schedule::default() }
    }

    /// The published steps of the two models, whose batch is not: 400 and 850 sequences of 8,192.
    #[test]
    fn published_steps_give_the_batch() {
        for (steps, sequences) in [(79_259, 400), (37_344, 850)] {
            let solved = Schedule { steps: Some(steps), ..paper() }.solve().unwrap();
            assert_eq!((solved.sequences_per_step, solved.solved), (sequences, Some("sequences_per_step")));
            assert!((solved.step_tokens() / solved.total_tokens() - 1.0).abs() < 0.002);
            assert!(solved.to_string().contains("= 260000000000 tokens"), "{solved}");
        }
    }

    #[test]
    fn any_one_is_solved_from_the_others() {
        let all = Schedule { steps: Some(1000), sequences_per_step: Some(50), tokens: Some(1_024_000_000), epochs: Some(0.4), ..paper() };
        let wanted = all.solve().unwrap();
        for open in 0..5 {
            let mut schedule = all;
            match open {
                0 => schedule.tokens = None,
                1 => schedule.epochs = None,
                2 => schedule.steps = None,
                3 => schedule.sequences_per_step = None,
                _ => schedule.context_length = None,
            }
            let solved = schedule.solve().unwrap();
            assert!(solved.solved.is_some());
            assert_eq!((solved.tokens, solved.steps, solved.sequences_per_step), (wanted.tokens, wanted.steps, wanted.sequences_per_step));
            assert_eq!(solved.context_length, wanted.context_length);
            assert!((solved.epochs - wanted.epochs).abs() < 1e-12);
        }
        let steps = Schedule { steps: None, sequences_per_step: Some(51), ..all }.solve().unwrap();
        assert!(steps.step_tokens() >= steps.total_tokens(), "every token is given");
    }

    #[test]
    fn conflicts_and_open_questions_are_refused() {
        let conflict = Schedule { steps: Some(79_259), sequences_per_step: Some(850), ..paper() }.solve().unwrap_err();
        assert!(matches!(conflict, ScheduleError::Conflict { .. }), "{conflict}");
        assert_eq!(paper().solve(), Err(ScheduleError::Open("steps, sequences_per_step".into())));
        assert_eq!(Schedule { epochs: Some(0.0), ..paper() }.solve(), Err(ScheduleError::Zero("epochs")));
        let tiny = Schedule { tokens: Some(1), steps: Some(79_259), ..paper() };
        assert_eq!(tiny.solve(), Err(ScheduleError::Range("sequences_per_step")));
    }
}
