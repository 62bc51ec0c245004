//! `spoken config`: every effective value with where it came from.

use std::fmt::Write as _;

use console::Style;
use serde::Serialize;
use serde_json::Value;

use super::{KEYS, Key, Loaded};
use crate::telemetry::sanitize;

/// `spoken config --json`.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// The profile in use.
    pub profile: Option<String>,
    /// The configuration directory.
    pub config_dir: Option<String>,
    /// One entry a key, in the order of [`KEYS`].
    pub settings: Vec<ShownSetting>,
}

/// One setting in `spoken config --json`.
#[derive(Clone, Debug, Serialize)]
pub struct ShownSetting {
    /// Its name in TOML and after `--set`.
    pub key: &'static str,
    /// Its name in the environment.
    pub env: &'static str,
    /// The effective value: a number, a text or null.
    pub value: Value,
    /// `default`, `file`, `profile`, `dotenv`, `environment` or `flag`.
    pub layer: &'static str,
    /// The place, for people.
    pub from: String,
    /// What it is for.
    pub about: &'static str,
}

impl Loaded {
    /// A table for people; `styled` puts colours in. The password of `database_url` is not in it.
    pub fn to_table(&self, styled: bool) -> String {
        let values = self.values();
        let style = |style: Style| style.force_styling(styled);
        let (heading, changed, quiet) =
            (style(Style::new().bold().underlined()), style(Style::new().green()), style(Style::new().dim()));
        let widest = KEYS.iter().map(|key| key.name.len()).max().unwrap_or(0);
        // A long path must not push all the origins off the screen.
        let value_width =
            values.iter().map(|(_, value)| console::measure_text_width(value)).max().unwrap_or(0).min(44);

        let mut out = String::new();
        let profile = self.profile.as_deref().unwrap_or("none");
        let directory = self.config_dir.as_ref().map_or("none".into(), |d| d.display().to_string());
        let _ = writeln!(out, "profile: {profile}    configuration directory: {directory}");
        let mut group = None;
        for (key, value) in &values {
            if group != Some(key.group) {
                group = Some(key.group);
                let _ = writeln!(out, "\n{}", heading.apply_to(key.group.title()));
            }
            let origin = self.origin(key.name);
            let padding = " ".repeat(value_width.saturating_sub(console::measure_text_width(value)));
            let value =
                if origin.layer == "default" { value.clone() } else { changed.apply_to(value).to_string() };
            let _ = writeln!(
                out,
                "  {:widest$}  {value}{padding}  {}",
                key.name,
                quiet.apply_to(sanitize(&origin.from))
            );
        }
        out
    }

    /// For machines; values keep their types, and the password of `database_url` is not in it.
    pub fn to_json(&self) -> Shown {
        let mut values = self.typed_values();
        let settings = KEYS.iter().map(|key| {
            let origin = self.origin(key.name);
            let value = values.remove(key.name).unwrap_or(Value::Null);
            ShownSetting {
                key: key.name,
                env: key.env,
                value,
                layer: origin.layer,
                from: origin.from,
                about: key.about,
            }
        });
        let config_dir = self.config_dir.as_ref().map(|directory| directory.display().to_string());
        Shown { profile: self.profile.clone(), config_dir, settings: settings.collect() }
    }

    fn typed_values(&self) -> serde_json::Map<String, Value> {
        match serde_json::to_value(&self.config) {
            Ok(Value::Object(map)) => map,
            // Only a path that is not UTF-8 cannot be serialised, and `load` lets none in.
            _ => serde_json::Map::new(),
        }
    }

    fn values(&self) -> Vec<(&'static Key, String)> {
        let typed = self.typed_values();
        KEYS.iter()
            .map(|key| {
                let shown = match typed.get(key.name) {
                    None | Some(Value::Null) => match key.name {
                        "database_url" => "(private server in data_dir)".to_owned(),
                        _ => "(none)".to_owned(),
                    },
                    Some(Value::String(text)) => sanitize(text).into_owned(),
                    Some(other) => other.to_string(),
                };
                (key, shown)
            })
            .collect()
    }
}
