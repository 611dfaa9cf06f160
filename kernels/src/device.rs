//! The device that kernels run on, and what can go wrong.

use std::fmt;
use std::str::FromStr;

/// Where a model runs, chosen when the program runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    #[default]
    Cpu,
    /// A GPU of NVIDIA, through CUDA.
    Cuda,
}

/// A call that cannot run.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum KernelError {
    #[error("{kernel}: `{argument}` has {got} elements, wanted {wanted}")]
    Shape { kernel: &'static str, argument: &'static str, wanted: usize, got: usize },
    #[error("{kernel}: `{argument}` must be {wanted}")]
    Value { kernel: &'static str, argument: &'static str, wanted: &'static str },
    #[error("no memory for a buffer of {bytes} bytes: use a smaller batch or model")]
    Memory { bytes: usize },
    #[error("the device failed: {0}")]
    Launch(String),
    #[error("cannot start threads: {0}")]
    Threads(String),
    /// CUDA is not there, or cannot do what is asked.
    #[error("{0}")]
    Cuda(String),
    #[error("{source_name} does not compile for {architecture}:\n{log}")]
    Compile { source_name: String, architecture: String, log: String },
    #[error("no device `{0}`: this build knows `cpu` and `cuda`")]
    UnknownDevice(String),
}

impl KernelError {
    /// What was asked for was not told, and will not be.
    pub fn nothing_told() -> Self {
        Self::Launch("it was to tell something, and nothing has come".into())
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda => f.write_str("cuda"),
        }
    }
}

impl FromStr for Device {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            other => Err(KernelError::UnknownDevice(other.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named() {
        for device in [Device::Cpu, Device::Cuda] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        assert_eq!("tpu".parse::<Device>().unwrap_err().to_string(), "no device `tpu`: this build knows `cpu` and `cuda`");
    }
}
