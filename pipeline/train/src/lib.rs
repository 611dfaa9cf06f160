//! The trainer: models with their forward and backward passes, the optimiser, the training loop, and the shards it reads.

pub mod data;
mod events;
pub mod generate;
pub mod metrics;
pub mod model;
pub mod optimiser;
pub mod outline;
pub mod random;
pub mod ranks;
pub mod recipe;
pub mod run;
pub mod schedule;
pub mod trainer;

pub use model::{Config, Model, ModelError};
pub use outline::Outline;
pub use ranks::Door;
pub use recipe::Recipe;
pub use run::{Finished, Options, Place, Watch, run};
pub use trainer::TrainError;
