//! Calls of NVRTC.

use super::Source;
use super::cache::Entry;
use crate::KernelError;
use cudarc::nvrtc::{result, sys};
use std::ffi::{CString, NulError, c_char, c_int};
use std::ptr;

/// Major and minor version of NVRTC, which must be open.
///
/// # Errors
/// [`KernelError::Cuda`] when NVRTC does not say.
pub(super) fn version() -> Result<(i32, i32), KernelError> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both pointers are of live integers, which the call writes.
    let status = unsafe { sys::nvrtcVersion(&mut major, &mut minor) };
    status.result().map_err(|error| KernelError::Cuda(format!("NVRTC does not say its version: {error}")))?;
    Ok((major, minor))
}

/// Compiles a source to a cubin. NVRTC must be open.
///
/// # Errors
/// The compiler's log, or what went wrong before there was one.
pub(super) fn compile(source: &Source<'_>, options: &[String]) -> Result<Entry, String> {
    let program = Program::new(source)?;
    // The call below turns each option into a C string and panics at a zero byte; ours have none.
    // SAFETY: the program was created above and lives.
    let status = unsafe { result::compile_program(program.handle, options) };
    let log = program.log().map_err(|error| format!("NVRTC gives no log: {error}"))?;
    status.map_err(|error| if log.is_empty() { error.to_string() } else { log.clone() })?;
    let cubin = program.cubin().map_err(|error| format!("NVRTC gives no machine code: {error}"))?;
    Ok(Entry { cubin, log })
}

/// An NVRTC program and the strings that it may point to.
struct Program {
    handle: sys::nvrtcProgram,
    _strings: Vec<CString>,
}

impl Program {
    fn new(source: &Source<'_>) -> Result<Self, String> {
        let strings = strings(source).map_err(|error| format!("{}: a source with a zero byte: {error}", source.name))?;
        let names: Vec<*const c_char> = strings[2..].iter().step_by(2).map(|name| name.as_ptr()).collect();
        let texts: Vec<*const c_char> = strings[2..].iter().skip(1).step_by(2).map(|text| text.as_ptr()).collect();
        let count = c_int::try_from(texts.len()).map_err(|_| format!("{}: too many headers", source.name))?;
        let mut handle = ptr::null_mut();
        // SAFETY: name, text and headers are C strings that live as long as the program, and both lists of headers have `count` of them.
        let status = unsafe {
            sys::nvrtcCreateProgram(&mut handle, strings[1].as_ptr(), strings[0].as_ptr(), count, texts.as_ptr(), names.as_ptr())
        };
        status.result().map_err(|error| format!("{}: NVRTC takes no program: {error}", source.name))?;
        Ok(Self { handle, _strings: strings })
    }

    fn log(&self) -> Result<String, result::NvrtcError> {
        // SAFETY: the program lives.
        let bytes = unsafe { result::get_program_log(self.handle) }?;
        let bytes: Vec<u8> = bytes.into_iter().map(|byte| byte as u8).take_while(|&byte| byte != 0).collect();
        // Without how long it took: the same source gives the same log.
        let log = String::from_utf8_lossy(&bytes);
        Ok(log.lines().filter(|line| !line.contains("Compile time = ")).flat_map(|line| [line, "\n"]).collect())
    }

    fn cubin(&self) -> Result<Vec<u8>, result::NvrtcError> {
        let mut len = 0;
        // SAFETY: the program lives; the call writes one integer.
        unsafe { sys::nvrtcGetCUBINSize(self.handle, &mut len) }.result()?;
        let mut bytes = vec![0_u8; len];
        // SAFETY: the program lives; the call writes as many bytes as it said.
        unsafe { sys::nvrtcGetCUBIN(self.handle, bytes.as_mut_ptr().cast()) }.result()?;
        Ok(bytes)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: created by `new` and destroyed once. What the call answers changes nothing any more.
        let _ = unsafe { result::destroy_program(self.handle) };
    }
}

/// Name and text of the source, then of each header.
fn strings(source: &Source<'_>) -> Result<Vec<CString>, NulError> {
    std::iter::once(&(source.name, source.text)).chain(source.headers).flat_map(|(name, text)| [*name, *text]).map(CString::new).collect()
}
