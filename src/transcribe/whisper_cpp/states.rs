//! The states: what whisper.cpp needs beside the weights to work on one window. One for each replica.

use std::sync::{Condvar, Mutex, PoisonError};

use whisper_rs::{WhisperContext, WhisperState};

use super::log;
use crate::transcribe::engine::EngineError;

/// As many states as replicas; whoever needs one waits for it.
pub struct States {
    /// `None` stands for a state that has to be made first.
    free: Mutex<Vec<Option<WhisperState>>>,
    returned: Condvar,
}

impl States {
    /// Makes `count` states.
    ///
    /// # Errors
    /// Where memory does not suffice.
    pub fn new(context: &WhisperContext, count: usize) -> Result<Self, EngineError> {
        let free = (0..count.max(1)).map(|_| make(context).map(Some)).collect::<Result<_, _>>()?;
        Ok(Self { free: Mutex::new(free), returned: Condvar::new() })
    }

    /// Waits for a free state.
    pub fn take<'a>(&'a self, context: &'a WhisperContext) -> Taken<'a> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = loop {
            match free.pop() {
                Some(slot) => break slot,
                None => free = self.returned.wait(free).unwrap_or_else(PoisonError::into_inner),
            }
        };
        Taken { states: self, context, state: slot }
    }
}

fn make(context: &WhisperContext) -> Result<WhisperState, EngineError> {
    context.create_state().map_err(|e| match log::failed(e) {
        // There is nothing else for it to fail over.
        EngineError::Failed(message) | EngineError::OutOfMemory(message) => EngineError::OutOfMemory(message),
    })
}

/// A state in use; goes back when it is dropped.
pub struct Taken<'a> {
    states: &'a States,
    context: &'a WhisperContext,
    state: Option<WhisperState>,
}

impl Taken<'_> {
    /// The state, as the window before left it.
    ///
    /// # Errors
    /// Where it has to be made, and memory does not suffice.
    pub fn state(&mut self) -> Result<&mut WhisperState, EngineError> {
        let state = match self.state.take() {
            Some(state) => state,
            None => make(self.context)?,
        };
        Ok(self.state.insert(state))
    }

    /// The state, made anew, so that it knows nothing of the windows before.
    ///
    /// # Errors
    /// Where memory does not suffice.
    pub fn new_state(&mut self) -> Result<&mut WhisperState, EngineError> {
        self.state = None;
        self.state()
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.states.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.state.take());
        self.states.returned.notify_one();
    }
}
