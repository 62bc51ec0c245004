//! No decoder of its own for this kind of processor: the engine's is taken.

use super::shape::Shape;
use super::variables::Variables;
use super::words::Alignment;

pub use options::{Head, Options, Reading, Special, Text};

mod options;

/// There is none.
#[derive(Debug)]
pub enum Decoder {}

impl Decoder {
    /// Never.
    pub fn suits(_: &Shape) -> bool {
        false
    }

    /// There is none.
    ///
    /// # Errors
    /// None.
    pub fn load(_: &Variables, _: Special) -> Result<Option<Self>, String> {
        Ok(None)
    }

    /// Nothing.
    pub fn is_multilingual(&self) -> bool {
        match *self {}
    }

    /// None.
    pub fn has(&self, _: Head) -> bool {
        match *self {}
    }

    /// Takes windows in.
    pub fn listen<'a>(&'a self, _: &'a [f32], _: usize) -> Listened<'a> {
        match *self {}
    }
}

/// Windows that were listened to: none.
pub struct Listened<'a>(&'a Decoder);

impl Listened<'_> {
    /// Chances of languages.
    pub fn languages(&self, _: &[usize]) -> Vec<Vec<(u32, f32)>> {
        match *self.0 {}
    }

    /// Texts.
    ///
    /// # Errors
    /// None.
    pub fn texts(&self, _: &[Vec<u32>], _: &Options) -> Result<Vec<Text>, String> {
        match *self.0 {}
    }

    /// Alignments.
    pub fn align(&self, _: &[Reading<'_>], _: &[Head]) -> Vec<Alignment> {
        match *self.0 {}
    }
}
