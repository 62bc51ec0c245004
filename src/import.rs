//! Transcripts that exist already: SubRip, WebVTT and JSON files into what a model would have written.
//!
//! JSON is read in the form that `spoken export --format json` writes, and in the one of Whisper's own tools (`segments`
//! with `start` and `end` in seconds).

use std::path::Path;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use serde::Deserialize;

use crate::fetch::captions;
use crate::media::{Coverage, Locator, MediaId, Metadata, Segment, Transcript, Word};
use crate::web;

/// Larger files are no transcripts: a day of speech has 2 MB of text.
pub const MAX_BYTES: u64 = 256 << 20;

/// Endings of the names of files that are looked at in folders.
pub const ENDINGS: [&str; 3] = ["srt", "vtt", "json"];

/// Why a file cannot be brought in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// JSON, but no transcript.
    #[error("it is no transcript in JSON ({0})")]
    Json(#[from] serde_json::Error),
    /// Nothing is said in it.
    #[error("no time with text was found in it")]
    Empty,
    /// Nobody says in which language it is.
    #[error("its language is not known; name it with --language, or call the file like talk.en.srt")]
    NoLanguage,
}

/// A transcript and what its file tells about the item.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// What was said.
    pub transcript: Transcript,
    /// What else is known.
    pub metadata: Metadata,
    /// The item, where the file names it.
    pub media_id: Option<MediaId>,
    /// Address or path of the item, where the file names it.
    pub source: Option<String>,
}

impl Imported {
    /// Where the item's media is, if the file says so: an address, or an absolute path.
    pub fn locator(&self) -> Option<Locator> {
        let source = self.source.as_deref()?;
        match web::parse_url(source) {
            Ok(url) => Some(Locator::Page(url)),
            Err(_) => Path::new(source).is_absolute().then(|| Locator::File(source.into())),
        }
    }
}

/// Reads a file's text; `name` is the file's name, `language` what the user says.
///
/// # Errors
/// [`ImportError`].
pub fn read(name: &Path, text: &str, language: Option<&str>) -> Result<Imported, ImportError> {
    let extension = name.extension().map(|e| e.to_ascii_lowercase());
    let imported = if extension.is_some_and(|e| e == "json") {
        read_json(text, language.map(str::to_owned).or_else(|| named_language(name)))?
    } else {
        let language = language.map(str::to_owned).or_else(|| named_language(name));
        let language = captions::primary(&language.ok_or(ImportError::NoLanguage)?);
        let kind = if text.trim_start_matches('\u{feff}').starts_with("WEBVTT") { "vtt" } else { "srt" };
        Imported {
            transcript: transcript(captions::parse(text, &language), language, format!("import:{kind}")),
            metadata: Metadata::default(),
            media_id: None,
            source: None,
        }
    };
    if imported.transcript.segments.is_empty() { Err(ImportError::Empty) } else { Ok(imported) }
}

/// `en` of `talk.en.srt`.
fn named_language(name: &Path) -> Option<String> {
    let stem = Path::new(name.file_stem()?);
    let code = stem.extension()?.to_str()?;
    let letters = code.split(['-', '_']).next().unwrap_or_default();
    let plausible = (2..=3).contains(&letters.len()) && letters.chars().all(|c| c.is_ascii_alphabetic());
    plausible.then(|| captions::primary(code))
}

#[derive(Deserialize)]
struct Document {
    media: Option<About>,
    #[serde(default)]
    language: Option<String>,
    segments: Vec<Piece>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct About {
    media_id: Option<MediaId>,
    source: Option<String>,
    webpage_url: Option<String>,
    title: Option<String>,
    channel: Option<String>,
    published_at: Option<String>,
    language: Option<String>,
    duration_ms: Option<i64>,
    model: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Piece {
    start_ms: Option<f64>,
    end_ms: Option<f64>,
    start: Option<f64>,
    end: Option<f64>,
    text: String,
    language: Option<String>,
    avg_logprob: Option<f32>,
    no_speech_prob: Option<f32>,
    speaker: Option<String>,
    words: Vec<WordPiece>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WordPiece {
    start_ms: Option<f64>,
    end_ms: Option<f64>,
    start: Option<f64>,
    end: Option<f64>,
    #[serde(alias = "word")]
    text: String,
    #[serde(alias = "probability")]
    prob: Option<f32>,
}

/// Start and end in milliseconds, whichever way they are given.
fn span(
    start_ms: Option<f64>,
    end_ms: Option<f64>,
    start: Option<f64>,
    end: Option<f64>,
) -> Option<(i64, i64)> {
    let from = start_ms.or(start.map(|s| s * 1000.0))?;
    let to = end_ms.or(end.map(|s| s * 1000.0))?;
    // A year; anything beyond is no time in a recording.
    let sane = |ms: f64| (0.0..3.2e10).contains(&ms);
    (sane(from) && sane(to) && to >= from).then(|| (from.round() as i64, to.round() as i64))
}

fn read_json(text: &str, language: Option<String>) -> Result<Imported, ImportError> {
    let Document { media, language: stated, segments } =
        serde_json::from_str(text.trim_start_matches('\u{feff}'))?;
    let about = media.unwrap_or_default();
    let all = language.or(about.language).or(stated).map(|l| captions::primary(&l));
    let mut read: Vec<Segment> = Vec::with_capacity(segments.len());
    for piece in segments {
        let said = piece.text.split_whitespace().collect::<Vec<_>>().join(" ");
        let Some((start_ms, end_ms)) = span(piece.start_ms, piece.end_ms, piece.start, piece.end) else {
            continue;
        };
        if said.is_empty() {
            continue;
        }
        let own = piece.language.map(|l| captions::primary(&l)).filter(|l| !l.is_empty());
        let words = piece.words.into_iter().filter_map(|word| {
            let (start_ms, end_ms) = span(word.start_ms, word.end_ms, word.start, word.end)?;
            let text = word.text.trim().to_owned();
            (!text.is_empty()).then(|| Word { start_ms, end_ms, text, prob: word.prob.unwrap_or(1.0) })
        });
        read.push(Segment {
            start_ms,
            end_ms,
            text: said,
            language: own.or_else(|| all.clone()).ok_or(ImportError::NoLanguage)?,
            avg_logprob: piece.avg_logprob.filter(|p| p.is_finite()).unwrap_or(0.0),
            no_speech_prob: piece.no_speech_prob.filter(|p| p.is_finite()).unwrap_or(0.0),
            speaker: piece.speaker.filter(|s| !s.trim().is_empty()),
            words: words.collect(),
        });
    }
    read.sort_by_key(|s| s.start_ms);
    let language = all.or_else(|| read.first().map(|s| s.language.clone())).unwrap_or_default();
    let model = about.model.filter(|m| !m.is_empty()).unwrap_or_else(|| "import:json".to_owned());
    let mut transcript = transcript(read, language, model);
    let length = about.duration_ms.filter(|ms| (0..32_000_000_000).contains(ms)).unwrap_or(0);
    transcript.duration_ms = transcript.duration_ms.max(length);
    Ok(Imported {
        transcript,
        metadata: Metadata {
            title: about.title.filter(|t| !t.trim().is_empty()),
            webpage_url: about.webpage_url,
            channel: about.channel,
            published_at: about.published_at.as_deref().and_then(seconds),
            duration_ms: None,
        },
        media_id: about.media_id,
        source: about.source.filter(|s| !s.trim().is_empty()),
    })
}

/// A time or a day as seconds since 1970.
fn seconds(text: &str) -> Option<i64> {
    let at: DateTime<Utc> = match DateTime::parse_from_rfc3339(text.trim()) {
        Ok(at) => at.into(),
        Err(_) => text.trim().parse::<NaiveDate>().ok()?.and_time(NaiveTime::MIN).and_utc(),
    };
    Some(at.timestamp())
}

fn transcript(segments: Vec<Segment>, language: String, model: String) -> Transcript {
    let spoken: i64 = segments.iter().map(|s| s.end_ms - s.start_ms).sum();
    let words: usize = segments.iter().map(|s| s.text.split_whitespace().count()).sum();
    Transcript {
        duration_ms: segments.iter().map(|s| s.end_ms).max().unwrap_or(0),
        segments,
        language,
        speech_ms: spoken,
        model,
        dropped: Vec::new(),
        coverage: Coverage {
            transcribed_ms: spoken,
            words: u32::try_from(words).unwrap_or(u32::MAX),
            ..Coverage::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(imported: &Imported) -> Vec<(i64, i64, &str, &str)> {
        imported
            .transcript
            .segments
            .iter()
            .map(|s| (s.start_ms, s.end_ms, s.text.as_str(), s.language.as_str()))
            .collect()
    }

    #[test]
    fn subtitles_are_in_the_language_of_their_name() {
        let srt = "1\n00:00:01,000 --> 00:00:02,000\nHallo\n";
        let read_as = |name: &str, language| read(Path::new(name), srt, language);
        assert_eq!(texts(&read_as("a/talk.de-AT.srt", None).unwrap()), [(1000, 2000, "Hallo", "de")]);
        assert_eq!(texts(&read_as("talk.srt", Some("nl")).unwrap())[0].3, "nl");
        assert!(matches!(read_as("talk.srt", None), Err(ImportError::NoLanguage)));
        assert!(matches!(read_as("talk.part2.srt", None), Err(ImportError::NoLanguage)));
        assert!(matches!(read(Path::new("a.en.vtt"), "WEBVTT\n", None), Err(ImportError::Empty)));
    }

    #[test]
    fn our_own_json_comes_back_as_it_was() {
        let json = r#"{"media":{"media_id":"6f1d2c1e-53a4-5b0e-9a54-73706f6b656e","source":"https://example.org/v","title":"T",
            "language":"en","duration_ms":9000,"channel":"C","published_at":"2026-01-31T00:00:10Z"},
            "segments":[{"start_ms":2000,"end_ms":3000,"text":"later"},
                        {"start_ms":1000,"end_ms":1500,"text":" a  b ","words":[{"start_ms":1000,"end_ms":1100,"text":"a","prob":0.5}]}],
            "coverage":null,"dropped":[]}"#;
        let imported = read(Path::new("x.json"), json, None).unwrap();
        assert_eq!(texts(&imported), [(1000, 1500, "a b", "en"), (2000, 3000, "later", "en")]);
        assert_eq!(imported.transcript.segments[0].words.len(), 1);
        assert_eq!(imported.transcript.duration_ms, 9000);
        assert_eq!(imported.metadata.published_at, Some(1_769_817_610));
        assert_eq!(imported.metadata.channel.as_deref(), Some("C"));
        assert!(imported.media_id.is_some());
        assert!(matches!(imported.locator(), Some(Locator::Page(_))));
    }

    #[test]
    fn whisper_tools_write_seconds() {
        let json = r#"{"text":"…","language":"es","segments":[{"id":0,"start":0.5,"end":1.25,"text":" Hola.","avg_logprob":-0.2,
            "words":[{"word":" Hola.","start":0.5,"end":1.0,"probability":0.9}]}, {"start":5,"end":4,"text":"backwards"}]}"#;
        let imported = read(Path::new("x.json"), json, None).unwrap();
        assert_eq!(texts(&imported), [(500, 1250, "Hola.", "es")]);
        assert_eq!(imported.transcript.segments[0].words[0].text, "Hola.");
    }

    #[test]
    fn what_is_no_transcript_is_refused() {
        for text in ["", "[]", "{}", "{\"segments\": 5}", "\0"] {
            assert!(matches!(read(Path::new("x.json"), text, None), Err(ImportError::Json(_))), "{text}");
        }
        let endless =
            r#"{"segments":[{"start":1e300,"end":1e301,"text":"x"}, {"start":-1,"end":1,"text":"y"}]}"#;
        assert!(matches!(read(Path::new("x.json"), endless, Some("en")), Err(ImportError::Empty)));
    }
}
