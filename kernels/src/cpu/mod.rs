//! CPU twins: sums in f64, one fixed order, no threads, so that the same input gives the same bits everywhere.

pub mod rmsnorm;
