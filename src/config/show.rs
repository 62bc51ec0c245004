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
    /// The value as it is set: a number, a text, a list, true or false, or null.
    pub value: Value,
    /// What `auto` comes to, where the profile of transcription decides it; where the machine does, it is known when the
    /// model is loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effective: Option<Value>,
    /// Who decided that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
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
        let decided = self.decided();
        for (key, value) in &values {
            if group != Some(key.group) {
                group = Some(key.group);
                let _ = writeln!(out, "\n{}", heading.apply_to(key.group.title()));
            }
            let origin = self.origin(key.name);
            let padding = " ".repeat(value_width.saturating_sub(console::measure_text_width(value)));
            let value =
                if origin.layer == "default" { value.clone() } else { changed.apply_to(value).to_string() };
            // Where it was left open matters less than who decided it.
            let from = if decided.contains_key(key.name) { self.because(key.name) } else { origin.from };
            let _ = writeln!(
                out,
                "  {:widest$}  {value}{padding}  {}",
                key.name,
                quiet.apply_to(sanitize(&from))
            );
        }
        out
    }

    /// For machines; values keep their types, and the password of `database_url` is not in it.
    pub fn to_json(&self) -> Shown {
        let mut values = self.typed_values();
        let mut decided = self.decided();
        let settings = KEYS.iter().map(|key| {
            let origin = self.origin(key.name);
            let value = values.remove(key.name).unwrap_or(Value::Null);
            let effective = decided.remove(key.name);
            let because = effective.as_ref().map(|_| self.because(key.name));
            ShownSetting {
                key: key.name,
                env: key.env,
                value,
                effective,
                because,
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

    /// What the profile makes of the keys that are `auto`.
    fn decided(&self) -> serde_json::Map<String, Value> {
        let values = self.typed_values();
        let mut recipe = match serde_json::to_value(self.config.recipe()) {
            Ok(Value::Object(map)) => map,
            // Numbers and lists of numbers can always be serialised.
            _ => serde_json::Map::new(),
        };
        recipe.retain(|key, _| values.get(key).is_some_and(|value| value == "auto"));
        recipe
    }

    /// Who decides a key that is `auto`, and where that was chosen: the profile, but for what hangs on another key.
    fn because(&self, key: &str) -> String {
        if matches!(key, "vad_onset" | "vad_offset") {
            return format!("vad_threshold = {}", self.config.recipe().vad_threshold);
        }
        if key == "segment_max_seconds" {
            return format!("segment_resolution = {}", self.config.segment_resolution);
        }
        let origin = self.origin("whisper_profile");
        let profile = self.config.whisper_profile;
        match origin.layer {
            "default" => format!("whisper_profile = {profile}"),
            _ => format!("whisper_profile = {profile}, {}", origin.from),
        }
    }

    fn values(&self) -> Vec<(&'static Key, String)> {
        let (typed, decided) = (self.typed_values(), self.decided());
        KEYS.iter()
            .map(|key| {
                let shown = match decided.get(key.name).or_else(|| typed.get(key.name)) {
                    None | Some(Value::Null) => match key.name {
                        "database_url" => "(private server in data_dir)".to_owned(),
                        _ => "(none)".to_owned(),
                    },
                    Some(Value::Array(list)) if list.is_empty() => "(all)".to_owned(),
                    Some(Value::Array(list)) => list.iter().map(bare).collect::<Vec<_>>().join(","),
                    Some(other) => bare(other),
                };
                let auto = decided.contains_key(key.name);
                (key, if auto { format!("auto: {shown}") } else { shown })
            })
            .collect()
    }
}

/// A value as it is written in the environment.
fn bare(value: &Value) -> String {
    match value {
        Value::String(text) => sanitize(text).into_owned(),
        Value::Number(number) => number.as_f64().map_or_else(|| number.to_string(), |n| n.to_string()),
        other => other.to_string(),
    }
}
