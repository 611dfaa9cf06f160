//! The device that kernels run on, and what can go wrong before one runs.

use crate::cpu;
use std::fmt;
use std::str::FromStr;

/// Where kernels run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    #[default]
    Cpu,
}

/// A call that cannot run.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum KernelError {
    #[error("{kernel}: `{argument}` has {got} elements, wanted {wanted}")]
    Shape { kernel: &'static str, argument: &'static str, wanted: usize, got: usize },
    #[error("{kernel}: `{argument}` must be {wanted}")]
    Value { kernel: &'static str, argument: &'static str, wanted: &'static str },
    #[error("no device `{0}`: this build knows `cpu`")]
    UnknownDevice(String),
}

impl Device {
    /// Root-mean-square normalisation; see [`cpu::rmsnorm::forward`].
    ///
    /// # Errors
    /// [`KernelError::Shape`] when the slices do not fit together.
    pub fn rmsnorm_forward(
        self,
        input: &[f32],
        weight: &[f32],
        epsilon: f32,
        output: &mut [f32],
        scale: &mut [f32],
    ) -> Result<(), KernelError> {
        match self {
            Self::Cpu => cpu::rmsnorm::forward(input, weight, epsilon, output, scale),
        }
    }

    /// Gradients of root-mean-square normalisation; see [`cpu::rmsnorm::backward`].
    ///
    /// # Errors
    /// [`KernelError::Shape`] when the slices do not fit together.
    pub fn rmsnorm_backward(
        self,
        input: &[f32],
        weight: &[f32],
        scale: &[f32],
        output_grad: &[f32],
        input_grad: &mut [f32],
        weight_grad: &mut [f32],
    ) -> Result<(), KernelError> {
        match self {
            Self::Cpu => cpu::rmsnorm::backward(input, weight, scale, output_grad, input_grad, weight_grad),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
        }
    }
}

impl FromStr for Device {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "cpu" => Ok(Self::Cpu),
            other => Err(KernelError::UnknownDevice(other.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named() {
        assert_eq!(Device::Cpu.to_string().parse(), Ok(Device::Cpu));
        assert_eq!("tpu".parse::<Device>().unwrap_err().to_string(), "no device `tpu`: this build knows `cpu`");
    }

    #[test]
    fn device_runs_the_kernel() {
        let (mut output, mut scale) = ([0.0; 2], [0.0; 1]);
        Device::Cpu.rmsnorm_forward(&[3.0, 4.0], &[1.0, 2.0], 0.0, &mut output, &mut scale).unwrap();
        assert_eq!(scale, [12.5f32.sqrt().recip()]);
        assert!((output[1] - 8.0 * scale[0]).abs() < 1e-6);
    }
}
