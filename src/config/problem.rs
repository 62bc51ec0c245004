//! What is wrong with a configuration, said so that it can be put right.

use std::fmt;

use crate::telemetry::sanitize;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key as it was written; empty where a whole file is meant.
    pub key: String,
    /// The value as it was written; none for a secret, or where the value is not to blame.
    pub value: Option<String>,
    /// Where it was written.
    pub origin: Option<String>,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl Problem {
    pub(super) fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), value: None, origin: None, message: message.into() }
    }

    pub(super) fn value(mut self, value: impl Into<String>) -> Self {
        self.value = Some(value.into());
        self
    }

    pub(super) fn origin(mut self, origin: impl Into<String>) -> Self {
        self.origin = Some(origin.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut head = sanitize(&self.key).into_owned();
        if let Some(value) = &self.value {
            head.push_str(&format!(" = {:?}", shortened(value)));
        }
        if let Some(origin) = &self.origin {
            let origin = sanitize(origin);
            if head.is_empty() { head.push_str(&origin) } else { head.push_str(&format!(" ({origin})")) }
        }
        if !head.is_empty() {
            write!(f, "{head}: ")?;
        }
        f.write_str(&sanitize(&self.message))
    }
}

/// A value that fits on a line.
fn shortened(value: &str) -> String {
    const LONGEST: usize = 80;
    if value.chars().count() <= LONGEST {
        return sanitize(value).into_owned();
    }
    let head: String = value.chars().take(LONGEST).collect();
    format!("{}…", sanitize(&head))
}

/// Everything that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one, in the order of the layers.
    pub problems: Vec<Problem>,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.as_slice() {
            [one] => write!(f, "the configuration is wrong: {one}"),
            many => {
                write!(f, "the configuration is wrong in {} places:", many.len())?;
                many.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

/// The candidate that was most likely meant by `written`, if any is close: at most a third of it mistyped.
pub(super) fn nearest<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_ascii_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&written, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len().max(written.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
