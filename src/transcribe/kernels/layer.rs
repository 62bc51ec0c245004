//! A layer's parameters, as CTranslate2 names and stores them.

use super::matrix::Linear;
use crate::transcribe::variables::Variables;

/// What stretches and moves a normalised row.
pub struct Norm {
    /// Factors.
    pub gamma: Vec<f32>,
    /// What is added.
    pub beta: Vec<f32>,
}

impl Norm {
    /// Reads the norm called `name`.
    ///
    /// # Errors
    /// A message that names the variable that is missing or cannot be read.
    pub fn read(variables: &Variables, name: &str, width: usize) -> Result<Self, String> {
        Ok(Self {
            gamma: vector(variables, &format!("{name}/gamma"), width)?,
            beta: vector(variables, &format!("{name}/beta"), width)?,
        })
    }
}

/// Reads the linear layer called `name`; weights that are stored as floats are rounded to 8 bits.
///
/// # Errors
/// A message that names the variable that is missing, of another size, or cannot be read.
pub fn linear(variables: &Variables, name: &str, inputs: usize, outputs: usize) -> Result<Linear, String> {
    let bias = vector(variables, &format!("{name}/bias"), outputs)?;
    weights(variables, &format!("{name}/weight"), inputs, bias)
}

/// Reads weights called `name` to go with `bias`, which may be longer: outputs without weights are their bias.
///
/// # Errors
/// See [`linear`].
pub fn weights(variables: &Variables, name: &str, inputs: usize, bias: Vec<f32>) -> Result<Linear, String> {
    match variables.shape(name) {
        Some(&[rows, columns]) if rows <= bias.len() && columns == inputs => {}
        other => return Err(format!("{name} is {other:?}, not {} × {inputs}", bias.len())),
    }
    let outputs = bias.len();
    match variables.bytes(name)? {
        Some(mut bytes) => {
            let scales = variables.floats(&format!("{name}_scale"))?;
            let mut steps: Vec<f32> = scales.iter().map(|scale| 1.0 / scale).collect();
            bytes.resize(inputs * outputs, 0);
            steps.resize(outputs, 0.0);
            Ok(Linear::of_bytes(&bytes, steps, bias))
        }
        None => {
            let mut floats = variables.floats(name)?;
            floats.resize(inputs * outputs, 0.0);
            // SAFETY: nothing is loaded where the processor lacks these instructions.
            Ok(unsafe { Linear::new(&floats, bias) })
        }
    }
}

/// Reads a row of `length` values.
fn vector(variables: &Variables, name: &str, length: usize) -> Result<Vec<f32>, String> {
    let values = variables.floats(name)?;
    if values.len() != length {
        return Err(format!("{name} has {} values, not {length}", values.len()));
    }
    Ok(values)
}
