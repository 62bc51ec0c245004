//! What whisper.cpp says goes to the log and not to the terminal; its last error goes into ours, for its functions return
//! little more than "it failed".

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_void};
use std::panic::catch_unwind;
use std::sync::Once;

use whisper_rs::{WhisperError, set_log_callback};

use crate::transcribe::engine::EngineError;

/// `GGML_LOG_LEVEL_ERROR`.
const ERROR: u32 = 4;

thread_local! {
    /// The last error that whisper.cpp told on this thread.
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Takes whisper.cpp's and ggml's messages from now on.
pub fn capture() {
    static ONCE: Once = Once::new();
    // SAFETY: the callback has the right type, does not unwind, and needs no data.
    ONCE.call_once(|| unsafe { set_log_callback(Some(heard), std::ptr::null_mut()) });
}

unsafe extern "C" fn heard(level: u32, text: *const c_char, _data: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: the callers pass strings that end in a zero byte and live during the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let text = text.trim();
    if text.is_empty() {
        return;
    }
    // Nothing may unwind into C++; a message that cannot be logged is lost.
    let _ = catch_unwind(|| {
        tracing::debug!(target: "whisper_cpp", "{text}");
        if level == ERROR {
            LAST.with_borrow_mut(|last| text.clone_into(last));
        }
    });
}

/// The last error told on this thread, once, without the C++ function's name.
pub fn last_error() -> Option<String> {
    let text = LAST.with_borrow_mut(std::mem::take);
    let text = text
        .split_once(": ")
        .map_or(text.as_str(), |(function, rest)| if function.contains(' ') { text.as_str() } else { rest });
    (!text.is_empty()).then(|| text.to_owned())
}

/// An error of the binding in whisper.cpp's own words, where it said any.
pub fn failed(error: WhisperError) -> EngineError {
    let told = last_error();
    let memory =
        told.as_deref().is_some_and(|t| ["alloc", "out of memory", "buffer"].iter().any(|w| t.contains(w)));
    let message = told.unwrap_or_else(|| error.to_string());
    if memory { EngineError::OutOfMemory(message) } else { EngineError::Failed(message) }
}
