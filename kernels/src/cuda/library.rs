//! CUDA's libraries, opened when the program runs: nothing of CUDA is needed to build or to train on a CPU.

use crate::KernelError;
use cudarc::{cublaslt, driver, nvrtc};
use std::path::{Path, PathBuf};

/// One of CUDA's libraries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Library {
    /// `libcuda`, which comes with the driver.
    Driver,
    /// `libnvrtc`: compiles kernels.
    Compiler,
    /// `libcublasLt`: matrix products.
    MatrixProducts,
    /// `libnccl`: what the devices of several ranks send each other.
    Ranks,
}

impl Library {
    /// Opens the library, from the first of `folders` that has it or else where the system looks, and keeps it open.
    ///
    /// A folder may be that of the library itself, of a CUDA toolkit, or of a Python environment with NVIDIA's packages.
    ///
    /// # Errors
    /// [`KernelError::Cuda`], which names the library and how to come by it.
    pub fn open(self, folders: &[PathBuf]) -> Result<(), KernelError> {
        let mut broken = None;
        for folder in folders.iter().flat_map(|folder| library_folders(folder)) {
            match self.open_in(&folder) {
                Ok(false) => {}
                Ok(true) => break,
                Err(error) => broken = broken.or(Some(error)),
            }
        }
        if self.is_present() { Ok(()) } else { Err(KernelError::Cuda(broken.unwrap_or_else(|| self.missing(folders)))) }
    }

    /// The same, for whoever binds its functions by hand.
    ///
    /// # Errors
    /// [`KernelError::Cuda`].
    pub(super) fn open_named(self, folders: &[PathBuf]) -> Result<libloading::Library, KernelError> {
        self.open(folders)?;
        // SAFETY: the library is open; this is another name for it.
        unsafe { libloading::Library::new(self.file()) }.map_err(|error| KernelError::Cuda(format!("{}: {error}", self.file())))
    }

    /// Opens the library of one folder, if it has it. What is once open is found by its name from then on, wherever the system looks.
    ///
    /// # Errors
    /// Why the system cannot open the file.
    fn open_in(self, folder: &Path) -> Result<bool, String> {
        let library = folder.join(self.file());
        if !library.is_file() {
            return Ok(false);
        }
        for file in self.companions(folder).into_iter().chain([library]) {
            // SAFETY: opening one of CUDA's libraries runs its initialisers, which ask nothing of the process; the caller named the folder.
            let opened = unsafe { libloading::Library::new(&file) };
            std::mem::forget(opened.map_err(|error| format!("{}: {error}", file.display()))?);
        }
        Ok(true)
    }

    fn is_present(self) -> bool {
        // SAFETY: opens a library by its name and closes it again; as above.
        unsafe {
            match self {
                Self::Driver => driver::sys::is_culib_present(),
                Self::Compiler => nvrtc::sys::is_culib_present(),
                Self::MatrixProducts => cublaslt::sys::is_culib_present(),
                Self::Ranks => libloading::Library::new(self.file()).is_ok(),
            }
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::Driver => "libcuda.so.1",
            Self::Compiler => "libnvrtc.so.13",
            Self::MatrixProducts => "libcublasLt.so.13",
            Self::Ranks => "libnccl.so.2",
        }
    }

    /// What the library opens by name from where the system looks, and so must be open before: NVRTC's built-in functions, whose file has
    /// the minor version in its name.
    fn companions(self, folder: &Path) -> Vec<PathBuf> {
        let prefix = match self {
            Self::Compiler => "libnvrtc-builtins.so.",
            Self::Driver | Self::MatrixProducts | Self::Ranks => return Vec::new(),
        };
        let files = std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
        let mut found: Vec<PathBuf> =
            files.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))).collect();
        found.sort();
        found
    }

    fn missing(self, folders: &[PathBuf]) -> String {
        let looked = match folders {
            [] => String::new(),
            folders => format!(" and in {}", folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")),
        };
        let (name, remedy) = match self {
            Self::Driver => ("the NVIDIA driver (libcuda.so.1)", "install driver 580 or newer, or use the CPU"),
            Self::Compiler => (
                "the kernel compiler (libnvrtc.so.13)",
                "install CUDA 13 or the Python package nvidia-cuda-nvrtc 13.0, and set CUDA_HOME to its folder",
            ),
            Self::MatrixProducts => (
                "the library of matrix products (libcublasLt.so.13)",
                "install CUDA 13 or the Python package nvidia-cublas 13, and set CUDA_HOME to its folder",
            ),
            Self::Ranks => (
                "NCCL (libnccl.so.2), by which the GPUs of several ranks reach each other,",
                "install NVIDIA's package libnccl2 or the Python package nvidia-nccl-cu13, and set CUDA_HOME to the folder of the latter",
            ),
        };
        format!("{name} was not found where the system looks for libraries{looked}: {remedy}")
    }
}

/// Where they lie in NVIDIA's Python packages.
const IN_PACKAGES: [&str; 2] = ["nvidia/cu13/lib", "nvidia/nccl/lib"];

/// Where libraries lie in a toolkit, in a Python environment and in its `site-packages`; the folder itself first.
fn library_folders(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        ["", "lib64", "lib", "targets/x86_64-linux/lib"].into_iter().chain(IN_PACKAGES).map(|below| folder.join(below)).collect();
    let mut pythons: Vec<PathBuf> = std::fs::read_dir(folder.join("lib"))
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3")))
        .flat_map(|path| IN_PACKAGES.map(|below| path.join("site-packages").join(below)))
        .collect();
    pythons.sort();
    found.extend(pythons);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_a_python_environment_are_known() {
        let root = tempfile::tempdir().unwrap();
        let packages = root.path().join("lib/python3.11/site-packages");
        std::fs::create_dir_all(&packages).unwrap();
        let found = library_folders(root.path());
        assert_eq!(found[0], root.path().join(""));
        for (folder, found) in [(&packages, &found), (&packages, &library_folders(&packages))] {
            assert!(IN_PACKAGES.iter().all(|below| found.contains(&folder.join(below))), "{found:?}");
        }
    }

    #[test]
    fn a_missing_library_is_named_with_the_folders_and_the_remedy() {
        for library in [Library::Driver, Library::Compiler, Library::MatrixProducts, Library::Ranks] {
            let text = library.missing(&[PathBuf::from("/opt/cuda")]);
            assert!(text.contains(library.file()) && text.contains("and in /opt/cuda: ") && text.contains("install"), "{text}");
            assert!(!text.contains('\n'));
        }
    }

    #[test]
    fn a_file_that_is_no_library_is_named() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("libcublasLt.so.13"), "not a library").unwrap();
        let error = Library::MatrixProducts.open_in(root.path()).unwrap_err();
        assert!(error.contains("libcublasLt.so.13: "), "{error}");
        assert_eq!(Library::MatrixProducts.open_in(&root.path().join("nowhere")), Ok(false));
    }

    #[test]
    fn the_compiler_comes_with_its_built_in_functions() {
        let root = tempfile::tempdir().unwrap();
        for name in ["libnvrtc.so.13", "libnvrtc-builtins.so.13.2", "libnvrtc-builtins.alt.so.13.2", "libcudart.so.13"] {
            std::fs::write(root.path().join(name), "").unwrap();
        }
        assert_eq!(Library::Compiler.companions(root.path()), [root.path().join("libnvrtc-builtins.so.13.2")]);
        assert!(Library::Driver.companions(root.path()).is_empty());
    }
}
