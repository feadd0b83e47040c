//! What libtorch says where a function of `shim.cpp` fails.

use std::ffi::{CStr, c_char};

use tch::TchError;

/// Runs a call that may write its reason, with a zero behind it, into so many bytes.
pub(super) fn reason(call: impl FnOnce(*mut c_char, usize)) -> String {
    let mut reason: [c_char; 1024] = [0; 1024];
    call(reason.as_mut_ptr(), reason.len());
    // SAFETY: at most so many bytes are written, the last one a zero.
    unsafe { CStr::from_ptr(reason.as_ptr()) }.to_string_lossy().into_owned()
}

/// The same as an error of libtorch's, where `call` answers that it has failed.
pub(super) fn checked(call: impl FnOnce(*mut c_char, usize) -> bool) -> Result<(), TchError> {
    let mut is_done = false;
    let reason = reason(|error, length| is_done = call(error, length));
    if is_done { Ok(()) } else { Err(TchError::Torch(reason)) }
}
