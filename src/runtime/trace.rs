//! Timelines of what libtorch computes, by its own profiler (Kineto), in Chrome's trace format: `chrome://tracing` and
//! <https://ui.perfetto.dev> show them.

use std::ffi::{CString, c_char, c_void};
use std::path::Path;

use tch::{Device, TchError};

use super::message::checked;
use crate::base::{WriteError, write_atomic};

unsafe extern "C" {
    fn coz_trace_begin(on_cuda: bool, error: *mut c_char, length: usize) -> bool;
    fn coz_trace_end(file: *const c_char, error: *mut c_char, length: usize) -> bool;
    fn coz_trace_span_begin(name: *const c_char, length: usize) -> *mut c_void;
    fn coz_trace_span_end(span: *mut c_void);
}

/// A timeline could not be recorded.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// What libtorch's profiler says.
    #[error("libtorch's profiler: {0}")]
    Profiler(#[from] TchError),
    /// It could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Writes what `work` computes on this thread, and what the device does meanwhile, into a file. Input shapes are part of it.
///
/// # Errors
/// Where the profiler cannot begin, or the file cannot be written.
pub fn recorded<T>(file: &Path, device: Device, work: impl FnOnce() -> T) -> Result<T, TraceError> {
    let failed = |error: std::io::Error| WriteError { file: file.to_owned(), details: error.to_string() };
    // The profiler writes into a file of its own, and does not tell where it cannot.
    let folder = tempfile::tempdir().map_err(failed)?;
    let written = folder.path().join("trace.json");
    let name = CString::new(written.as_os_str().as_encoded_bytes()).map_err(|error| failed(error.into()))?;
    // SAFETY: what is computed is written down, and nothing else changes, until it is ended below.
    checked(|error, length| unsafe { coz_trace_begin(device.is_cuda(), error, length) })?;
    let result = work();
    // SAFETY: the name ends with a zero.
    checked(|error, length| unsafe { coz_trace_end(name.as_ptr(), error, length) })?;
    write_atomic(file, |to| std::io::copy(&mut std::fs::File::open(&written)?, to).map(drop))?;
    Ok(result)
}

/// What the profiler says on the terminal, of devices that are not there say, is nothing to a user.
///
/// # Safety
/// No other thread may run yet: it sets variables of the environment.
pub unsafe fn silence_profiler() {
    for (variable, level) in [("KINETO_LOG_LEVEL", "99"), ("TORCH_CPP_LOG_LEVEL", "ERROR")] {
        if std::env::var_os(variable).is_none() {
            // SAFETY: as above.
            unsafe { std::env::set_var(variable, level) };
        }
    }
}

/// A named span of a timeline, from [`span`] to its drop, on one thread; nothing where none is recorded.
pub struct Span(*mut c_void);

/// Begins a span.
pub fn span(name: &str) -> Span {
    // SAFETY: so many bytes are read.
    Span(unsafe { coz_trace_span_begin(name.as_ptr().cast(), name.len()) })
}

impl Drop for Span {
    fn drop(&mut self) {
        // SAFETY: it was begun, and ends once.
        unsafe { coz_trace_span_end(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::rng::noise;

    #[test]
    fn a_timeline_holds_spans_and_operators() {
        let folder = tempfile::tempdir().expect("there is room");
        let file = folder.path().join("trace.json");
        let sum = recorded(&file, Device::Cpu, || {
            let _span = span("a span of ours");
            noise(&[8, 8]).matmul(&noise(&[8, 8])).size2()
        });
        assert_eq!(sum.expect("it is recorded").expect("it is a matrix"), (8, 8));
        let text = std::fs::read_to_string(&file).expect("it is written");
        let trace: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        let events = trace["traceEvents"].as_array().expect("it has events");
        let has = |name: &str| events.iter().any(|event| event["name"] == name && event["ph"] == "X");
        assert!(has("a span of ours") && has("aten::matmul") && has("aten::mm"), "{text}");
        drop(span("outside of any timeline"));
    }
}
