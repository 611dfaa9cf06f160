//! Generations of chips that kernels are compiled for.

use crate::KernelError;
use std::fmt;
use std::str::FromStr;

/// The architecture that a kernel is compiled for, as the compiler names it: `sm_80`, `sm_90a`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Architecture {
    major: u32,
    minor: u32,
}

impl Architecture {
    /// A100: the oldest that kernels run on.
    pub const SM_80: Self = Self { major: 8, minor: 0 };
    /// H100 and H200, with the instructions that only they have.
    pub const SM_90A: Self = Self { major: 9, minor: 0 };

    /// The architecture of a device of the compute capability `major.minor`.
    ///
    /// # Errors
    /// [`KernelError::Cuda`] below 8.0: kernels use bf16 and asynchronous copies.
    pub fn of(major: i32, minor: i32) -> Result<Self, KernelError> {
        match (u32::try_from(major), u32::try_from(minor)) {
            (Ok(major), Ok(minor)) if major >= 8 => Ok(Self { major, minor }),
            _ => Err(KernelError::Cuda(format!(
                "the device has compute capability {major}.{minor}; kernels need 8.0 (A100) or higher: use another device, or the CPU"
            ))),
        }
    }

    /// Whether warpgroup products (`wgmma`) exist.
    pub fn has_wgmma(self) -> bool {
        self == Self::SM_90A
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Warpgroup instructions exist under the name with `a` alone.
        let suffix = if self.has_wgmma() { "a" } else { "" };
        write!(f, "sm_{}{}{suffix}", self.major, self.minor)
    }
}

impl FromStr for Architecture {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let digits = name.strip_prefix("sm_").map(|digits| digits.trim_end_matches('a')).unwrap_or_default();
        let number: i32 = digits.parse().unwrap_or_default();
        let found = Self::of(number / 10, number % 10)?;
        if found.to_string() == name { Ok(found) } else { Err(KernelError::Cuda(format!("no architecture is called `{name}`"))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        for name in ["sm_80", "sm_86", "sm_90a", "sm_100", "sm_120"] {
            assert_eq!(name.parse::<Architecture>().unwrap().to_string(), name);
        }
        for name in ["sm_90", "sm_80a", "sm_75", "80", "sm_", ""] {
            assert!(name.parse::<Architecture>().is_err(), "{name}");
        }
    }

    #[test]
    fn capabilities_have_names() {
        let name = |major, minor| Architecture::of(major, minor).map(|architecture| architecture.to_string());
        assert_eq!(name(8, 0).unwrap(), "sm_80");
        assert_eq!(name(8, 9).unwrap(), "sm_89");
        assert_eq!(name(9, 0).unwrap(), "sm_90a");
        assert_eq!(name(12, 0).unwrap(), "sm_120");
        let old = name(7, 5).unwrap_err().to_string();
        assert!(old.contains("compute capability 7.5") && old.contains("8.0"), "{old}");
        assert!(name(-1, 0).is_err());
    }
}
