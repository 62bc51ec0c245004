//! What was really said, where somebody wrote it down beside the media, and how far a transcript is from it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;
use unicode_normalization::UnicodeNormalization as _;

use super::FileReport;

/// The words of the files whose truth is known.
#[derive(Debug, Default)]
pub(super) struct Truths {
    words: HashMap<PathBuf, Vec<String>>,
}

/// A truth in JSON: text in pieces, or as one.
#[derive(Deserialize)]
struct Document {
    #[serde(default, alias = "segments")]
    sentences: Vec<Piece>,
    text: Option<String>,
}

#[derive(Deserialize)]
struct Piece {
    text: String,
}

impl Truths {
    /// Looks for the truth of each of `files`: in `folder` if one is given, beside the file, and in `../truth`. It may be
    /// `talk.mp3.json` (or `talk.json`), with `sentences` or `segments` that have a `text`, or a plain text (`.txt`) or subtitles
    /// (`.srt`, `.vtt`) named likewise.
    ///
    /// # Errors
    /// Where one that is there cannot be read.
    pub fn find(files: &[PathBuf], folder: Option<&Path>) -> anyhow::Result<Self> {
        let mut found = Self::default();
        for file in files {
            let (Some(name), Some(stem), Some(parent)) = (file.file_name(), file.file_stem(), file.parent())
            else {
                continue;
            };
            let truth = folder.map_or_else(|| parent.join("../truth"), Path::to_owned);
            let places = [truth.as_path(), parent];
            let names = [name.to_string_lossy(), stem.to_string_lossy()];
            let paths = places.iter().flat_map(|place| {
                names.iter().flat_map(move |name| {
                    ["json", "txt", "srt", "vtt"].map(|end| place.join(format!("{name}.{end}")))
                })
            });
            for path in paths.filter(|path| path != file && path.is_file()) {
                let text = fs::read_to_string(&path)
                    .with_context(|| format!("failed to read {}", path.display()))?;
                if let Some(text) = said(&path, &text) {
                    found.words.insert(file.clone(), words(&text));
                    break;
                }
            }
        }
        Ok(found)
    }

    /// Files whose truth is known.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Word errors by words of the truth, percent, over all files whose truth is known; `None` where there is none. A file that
    /// failed was heard as nothing.
    pub fn word_error_rate(&self, texts: &[FileReport]) -> Option<f64> {
        let (mut wrong, mut total) = (0, 0);
        for file in texts {
            if let Some(truth) = self.words.get(&file.path) {
                wrong += word_errors(truth, &words(&file.text()));
                total += truth.len();
            }
        }
        (total > 0).then(|| 100.0 * wrong as f64 / total as f64)
    }
}

/// The text in a file of truth; `None` where a JSON file is about something else.
fn said(path: &Path, text: &str) -> Option<String> {
    match path.extension()?.to_str()? {
        "json" => {
            let document: Document = serde_json::from_str(text).ok()?;
            let pieces: Vec<String> = document.sentences.into_iter().map(|piece| piece.text).collect();
            if pieces.is_empty() { document.text } else { Some(pieces.join(" ")) }
        }
        "srt" | "vtt" => Some(captions(text)),
        _ => Some(text.to_owned()),
    }
}

/// The text of subtitles: their blocks without numbers, times and headers.
fn captions(text: &str) -> String {
    let mut said = Vec::new();
    let mut within = false;
    for line in text.lines() {
        if line.contains("-->") {
            within = true;
        } else if line.trim().is_empty() {
            within = false;
        } else if within {
            said.push(line.trim());
        }
    }
    said.join(" ")
}

/// Lower-case words without punctuation, as the benchmarks under `scripts/` count them.
fn words(text: &str) -> Vec<String> {
    let plain: String = text.to_lowercase().nfkc().collect();
    plain
        .split(|c: char| !c.is_alphanumeric() && c != '_' && c != '\'')
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Insertions, deletions and substitutions from one to the other (Levenshtein).
fn word_errors(truth: &[String], heard: &[String]) -> usize {
    let mut row: Vec<usize> = (0..=heard.len()).collect();
    for (i, word) in truth.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in heard.iter().enumerate() {
            let cost = (diagonal + usize::from(word != other)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = cost;
        }
    }
    row[heard.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Segment;

    fn report(path: &Path, text: &str) -> FileReport {
        let segment = Segment {
            text: text.to_owned(),
            ..serde_json::from_str(
                r#"{"start_ms":0,"end_ms":1,"text":"","language":"en","avg_logprob":0,"no_speech_prob":0}"#,
            )
            .unwrap()
        };
        FileReport { path: path.to_owned(), segments: vec![segment], ..FileReport::default() }
    }

    #[test]
    fn truth_is_found_beside_the_media_and_in_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (media, truth) = (dir.path().join("media"), dir.path().join("truth"));
        fs::create_dir(&media).unwrap();
        fs::create_dir(&truth).unwrap();
        let write = |path: PathBuf, text: &str| fs::write(path, text).unwrap();
        write(truth.join("a.mp3.json"), r#"{"sentences":[{"text":"One two."},{"text":"Three."}]}"#);
        write(media.join("a.txt"), "not this one");
        write(
            media.join("b.srt"),
            "1\n00:00:00,000 --> 00:00:01,000\nTwenty 20\nbirds\n\n2\n00:00:02,000 --> 00:00:03,000\nfly\n",
        );
        write(media.join("c.json"), r#"{"title":"something else"}"#);
        let files = ["a.mp3", "b.ogg", "c.wav"].map(|name| media.join(name));
        let truths = Truths::find(&files, None).unwrap();
        assert_eq!(truths.len(), 2);
        assert_eq!(truths.words[&files[0]], ["one", "two", "three"]);
        assert_eq!(truths.words[&files[1]], ["twenty", "20", "birds", "fly"]);
        assert_eq!(Truths::find(&files, Some(&media)).unwrap().words[&files[0]], ["not", "this", "one"]);
        // One word of seven is missing, one is wrong; the file without truth does not count.
        let heard =
            [report(&files[0], "one, TWO"), report(&files[1], "twenty 20 bird fly!"), report(&files[2], "x")];
        assert!((truths.word_error_rate(&heard).unwrap() - 100.0 * 2.0 / 7.0).abs() < 1e-9);
        assert_eq!(truths.word_error_rate(&heard[2..]), None);
    }

    #[test]
    fn words_are_compared_without_case_and_punctuation() {
        assert_eq!(words("Don’t — it's “Größe”, ﬁne: A-B"), ["don", "t", "it's", "größe", "fine", "a", "b"]);
    }
}
