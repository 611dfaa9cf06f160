//! The learning rate by step, in closed form: linear warm-up from a fraction of the highest rate, then a decay to the lowest.

use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// How the rate falls after warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// Half a wave of the cosine.
    #[default]
    Cosine,
    Linear,
    /// It does not fall.
    Constant,
}

/// The learning rate of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    pub highest: f64,
    /// The rate at the last step's end.
    pub lowest: f64,
    pub decay: Decay,
    pub warmup_steps: u64,
    /// The first step's rate as a part of the highest.
    pub warmup_start: f64,
    pub total_steps: u64,
}

impl Schedule {
    /// The rate of `step`, from 0. The highest is that of step `warmup_steps`.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            let done = step as f64 / self.warmup_steps as f64;
            return self.highest * (self.warmup_start + (1.0 - self.warmup_start) * done);
        }
        let steps = self.total_steps.saturating_sub(self.warmup_steps).max(1);
        let done = ((step - self.warmup_steps) as f64 / steps as f64).min(1.0);
        let left = match self.decay {
            Decay::Cosine => 0.5 * (1.0 + (PI * done).cos()),
            Decay::Linear => 1.0 - done,
            Decay::Constant => 1.0,
        };
        self.lowest + (self.highest - self.lowest) * left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(schedule: Schedule, wanted: &[(u64, f64)]) {
        for &(step, rate) in wanted {
            assert!((schedule.rate(step) - rate).abs() < 1e-12, "{step}: {} {rate}", schedule.rate(step));
        }
    }

    /// Continued pre-training of Mistral 7B as published: 79,259 steps, 1 % warm-up from a tenth of 7e-6, cosine.
    #[test]
    fn published_cosine() {
        let schedule =
            Schedule { highest: 7e-6, lowest: 0.0, decay: Decay::Cosine, warmup_steps: 793, warmup_start: 0.1, total_steps: 79_259 };
        let middle = 793 + (79_259 - 793) / 2;
        check(schedule, &[(0, 7e-7), (793, 7e-6), (middle, 3.5e-6), (79_259, 0.0), (100_000, 0.0)]);
        check(schedule, &[(61, 7e-6 * (0.1 + 0.9 * 61.0 / 793.0)), (792, 7e-6 * (0.1 + 0.9 * 792.0 / 793.0))]);
        for quarter in [1, 3] {
            let step = 793 + quarter * (79_259 - 793) / 4;
            let done = (step - 793) as f64 / (79_259.0 - 793.0);
            check(schedule, &[(step, 3.5e-6 * (1.0 + (PI * done).cos()))]);
        }
    }

    #[test]
    fn published_linear() {
        let schedule =
            Schedule { highest: 2e-5, lowest: 2e-6, decay: Decay::Linear, warmup_steps: 500, warmup_start: 0.0, total_steps: 2500 };
        check(schedule, &[(0, 0.0), (250, 1e-5), (500, 2e-5), (1500, 1.1e-5), (2500, 2e-6)]);
    }

    #[test]
    fn no_warmup_begins_at_the_highest() {
        let schedule = Schedule { highest: 1.0, lowest: 0.0, decay: Decay::Constant, warmup_steps: 0, warmup_start: 0.0, total_steps: 0 };
        check(schedule, &[(0, 1.0), (9, 1.0)]);
    }
}
