//! No decoder of its own for this kind of processor: the engine's is taken.

use super::shape::Shape;
use super::variables::Variables;

pub use options::{Options, Special, Text};

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
}
