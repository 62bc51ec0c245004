//! No encoder of its own for this kind of processor: the engine's is taken.

use super::shape::Shape;
use super::variables::Variables;

/// There is none.
#[derive(Debug)]
pub enum Encoder {}

impl Encoder {
    /// Never.
    pub fn suits(_: &Shape) -> bool {
        false
    }

    /// There is none.
    ///
    /// # Errors
    /// None.
    pub fn load(_: &Variables) -> Result<Option<Self>, String> {
        Ok(None)
    }

    /// Mel bands.
    pub fn bands(&self) -> usize {
        match *self {}
    }

    /// Encodes windows.
    pub fn encode(&self, _: &[&[f32]], _: usize) -> Vec<f32> {
        match *self {}
    }
}
