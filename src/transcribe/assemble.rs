//! From the texts of a file's windows to its transcript: on the player's clock, in order, without what nobody should
//! believe, and with an account of the speech that has no text.

use std::collections::BTreeMap;

use super::{
    clock::{Clock, millis},
    coverage,
    engine::{DecodeOptions, Task, TimedText, TimedWord, WindowText},
    guard::{Evidence, GuardOptions, Verdict, judge},
    quality::Measure,
    sentences::{self, SegmentOptions},
};
use crate::media::{
    Audio, DropReason, Dropped, Failure, FailureClass, SAMPLE_RATE, Segment, Transcript, Word,
};

/// With less speech than this, the language must be surer.
const LITTLE_SPEECH: u64 = 3 * SAMPLE_RATE as u64;
const SURE_WITH_LITTLE_SPEECH: f32 = 0.9;

/// What holds for every file.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// The language of all files, where it is given.
    pub language: Option<String>,
    /// Languages that the model knows and that are allowed.
    pub languages: Vec<String>,
    pub decode: DecodeOptions,
    pub guards: GuardOptions,
    pub segments: SegmentOptions,
}

impl Rules {
    /// The language that a window's text is written in.
    pub fn written<'a>(&self, spoken: &'a str) -> &'a str {
        match self.decode.task {
            Task::Transcribe => spoken,
            Task::Translate => "en",
        }
    }

    /// What the model was prompted with.
    pub fn prompt(&self) -> String {
        format!("{} {}", self.decode.hotwords, self.decode.initial_prompt).trim().to_owned()
    }
}

/// A window without its sound.
#[derive(Debug)]
pub(super) struct Piece {
    pub clock: Clock,
    /// What this window adds to the progress: the time from the end of the window before to its own, in samples.
    pub covers: u64,
    /// Speech that had no text and was heard again by itself.
    pub gap: bool,
    pub text: Option<WindowText>,
}

/// What was said, and what was not believed; both in order of time.
#[derive(Debug, Default)]
pub(super) struct Judged {
    pub segments: Vec<Segment>,
    pub dropped: Vec<Dropped>,
}

/// Whether the language of a window is more than a guess.
pub(super) fn sure(text: &WindowText, clock: &Clock, rules: &Rules) -> bool {
    let threshold = rules.decode.language_threshold;
    let little = clock.speech_samples() < LITTLE_SPEECH;
    text.language_prob >= if little { SURE_WITH_LITTLE_SPEECH.max(threshold) } else { threshold }
}

/// The language of most of the speech that has text; only of windows that are sure of theirs where `only_sure` (all
/// of them, weighted by probability, where none is).
pub(super) fn majority(pieces: &[Piece], rules: &Rules, only_sure: bool) -> Option<String> {
    let mut votes: BTreeMap<&str, f64> = BTreeMap::new();
    let mut guesses: BTreeMap<&str, f64> = BTreeMap::new();
    for piece in pieces {
        let Some(text) = piece.text.as_ref().filter(|t| !t.segments.is_empty()) else { continue };
        let votes = if only_sure && !sure(text, &piece.clock, rules) { &mut guesses } else { &mut votes };
        *votes.entry(&text.language).or_default() +=
            piece.clock.speech_samples() as f64 * f64::from(text.language_prob);
    }
    let votes = if votes.is_empty() { guesses } else { votes };
    votes.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(language, _)| language.to_owned())
}

/// Speech so far outside a segment still counts as being under it: its times are not exact.
const TOLERANCE_MS: i64 = 500;

/// The texts of all windows, on the file's own clock, and what is not to be believed apart.
pub(super) fn judged(pieces: &[Piece], rules: &Rules) -> Judged {
    let mut order: Vec<&Piece> = pieces.iter().collect();
    order.sort_by_key(|p| p.clock.pieces.first().map_or(0, |span| span.start));
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for timed in order.iter().filter_map(|p| p.text.as_ref()).flat_map(|t| &t.segments) {
        *seen.entry(&timed.text).or_default() += 1;
    }
    let prompt = rules.prompt();
    let mut judged = Judged::default();
    let mut last_end = 0;
    for piece in order {
        let Some(text) = &piece.text else { continue };
        let silent = Measure::of(text).silent(&rules.decode)
            || (piece.gap && text.no_speech_prob > rules.decode.max_no_speech_prob);
        for timed in &text.segments {
            let start = piece.clock.start(timed.start_ms).max(last_end);
            let end =
                timed.end_ms.map_or_else(|| piece.clock.speech_end(), |end| piece.clock.end(end)).max(start);
            let verdict = if silent {
                Verdict::Drop(DropReason::Silence)
            } else {
                let evidence = Evidence {
                    text: &timed.text,
                    language: rules.written(&text.language),
                    duration_ms: end - start,
                    speech_ms: piece.clock.speech_between(start - TOLERANCE_MS, end + TOLERANCE_MS),
                    edge: piece.clock.only_edges_between(start - TOLERANCE_MS, end + TOLERANCE_MS),
                    avg_logprob: text.avg_logprob,
                    no_speech_prob: text.no_speech_prob,
                    prompt: &prompt,
                    same: seen.get(timed.text.as_str()).map_or(0, |n| n - 1),
                };
                judge(&evidence, &rules.guards)
            };
            let mut drop = |reason| {
                judged.dropped.push(Dropped {
                    start_ms: start,
                    end_ms: end,
                    text: timed.text.clone(),
                    language: text.language.clone(),
                    reason,
                });
            };
            let kept = match verdict {
                Verdict::Keep => timed.clone(),
                Verdict::Trim(kept, reason) => {
                    drop(reason);
                    // Which of the words are left is not known.
                    TimedText { text: kept, words: Vec::new(), ..timed.clone() }
                }
                Verdict::Drop(reason) => {
                    drop(reason);
                    continue;
                }
            };
            last_end = end;
            judged.segments.push(Segment {
                start_ms: start,
                end_ms: end,
                text: kept.text,
                language: rules.written(&text.language).to_owned(),
                avg_logprob: text.avg_logprob,
                no_speech_prob: text.no_speech_prob,
                words: words(&kept.words, &piece.clock, start, end),
                speaker: None,
            });
        }
    }
    judged
}

/// `timed` on the file's own clock, within `start` and `end`, none before the end of the one before.
fn words(timed: &[TimedWord], clock: &Clock, start: i64, end: i64) -> Vec<Word> {
    let mut at = start;
    timed
        .iter()
        .map(|word| {
            let start = clock.start(word.start_ms).clamp(at, end);
            at = clock.end(word.end_ms).clamp(start, end);
            Word { start_ms: start, end_ms: at, text: word.text.trim().to_owned(), prob: word.prob }
        })
        .collect()
}

/// The stretches of speech that have no text, as windows to be heard by themselves.
pub(super) fn windows_of_gaps(pieces: &[Piece], rules: &Rules) -> Vec<Clock> {
    let segments = judged(pieces, rules).segments;
    coverage::windows(&coverage::gaps(pieces, &segments), pieces, &segments)
}

/// The whole, on the player's clock.
///
/// # Errors
/// Where nobody speaks, with what was heard instead.
pub(super) fn transcript(
    pieces: &[Piece],
    audio: &Audio,
    model: &str,
    rules: &Rules,
) -> Result<Transcript, Failure> {
    let duration_ms = audio.duration_ms();
    let length = clock(duration_ms);
    if pieces.is_empty() {
        let message = if audio.samples == 0 {
            "the audio is empty".to_owned()
        } else {
            format!("no speech was found in {length} of audio")
        };
        return Err(Failure::new(FailureClass::NoSpeech, message));
    }
    let Judged { segments, mut dropped } = judged(pieces, rules);
    let speech = pieces.iter().filter(|p| !p.gap).map(|p| p.clock.speech_samples()).sum();
    let speech_ms = millis(speech) as i64;
    if segments.is_empty() {
        let mut message = format!(
            "{} of {length} sounded like speech, but the model heard no words in it",
            clock(speech_ms)
        );
        if let Some(first) = dropped.first() {
            message.push_str(&format!(
                " that are to be believed ({:?}: {})",
                first.text,
                first.reason.as_str()
            ));
        }
        return Err(Failure::new(FailureClass::NoSpeech, message));
    }
    let mut coverage = coverage::audit(pieces, &segments, &dropped);
    let mut segments = sentences::cut(segments, &rules.segments);
    for segment in &mut segments {
        segment.start_ms += audio.offset_ms;
        segment.end_ms += audio.offset_ms;
        for word in &mut segment.words {
            word.start_ms += audio.offset_ms;
            word.end_ms += audio.offset_ms;
        }
    }
    for dropped in &mut dropped {
        dropped.start_ms += audio.offset_ms;
        dropped.end_ms += audio.offset_ms;
    }
    for gap in &mut coverage.gaps {
        gap.start_ms += audio.offset_ms;
        gap.end_ms += audio.offset_ms;
    }
    let language = majority(pieces, rules, false).unwrap_or_else(|| segments[0].language.clone());
    Ok(Transcript { segments, language, duration_ms, speech_ms, model: model.to_owned(), dropped, coverage })
}

/// `1:02:03`, `4:05`, or `0.8 s` where it is short.
fn clock(ms: i64) -> String {
    let s = ms / 1000;
    match s {
        0..10 => format!("{}.{} s", s, ms % 1000 / 100),
        10..60 => format!("{s} s"),
        60..3600 => format!("{}:{:02}", s / 60, s % 60),
        _ => format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60),
    }
}
