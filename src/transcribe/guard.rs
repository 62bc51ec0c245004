//! Did anybody say that? Whisper writes text where nobody speaks: loops, credits of subtitles, its own prompt. What is
//! judged here is the text alone and a few figures about it; nothing here hears the audio.
//!
//! Words that were said must survive, so each limit lies where nobody speaks like that, and what people do say now and
//! then ("thanks for watching") falls only where something else is doubtful too. What falls is told with its reason, and
//! of a text that ends in a loop what comes before the loop stays.

mod loops;
mod phantoms;
mod script;
mod units;

pub use crate::media::DropReason;

use loops::Loop;
use units::{Unit, units};

/// Limits of the guards.
#[derive(Clone, Debug, PartialEq)]
pub struct GuardOptions {
    /// Words a second of speech that nobody says. (Fast speakers reach 5, auctioneers 6 or 7 for a few seconds.)
    pub max_words_per_second: f32,
    /// The same in characters, for scripts that do not put spaces between words. (Fast Japanese or Chinese: 8 to 10;
    /// Thai, written in letters: 15 to 20.)
    pub max_characters_per_second: f32,
    /// Different words by words, in texts of at least 24 words.
    pub min_unique_ratio: f32,
    /// Letters and digits by characters that are no space, in texts of at least ten characters.
    pub min_letter_ratio: f32,
    /// At or below this mean log-probability a text is doubtful.
    pub doubtful_logprob: f32,
    /// The same where all there is to hear may be the edge of another sound. (Of such edges a model makes a word or two that it
    /// does not believe in itself; of words, however short, it is surer.)
    pub doubtful_edge_logprob: f32,
    /// At or above this probability of no speech a text is doubtful.
    pub doubtful_no_speech: f32,
}

impl Default for GuardOptions {
    fn default() -> Self {
        Self {
            max_words_per_second: 9.0,
            max_characters_per_second: 30.0,
            min_unique_ratio: 0.15,
            min_letter_ratio: 0.3,
            doubtful_logprob: -0.7,
            doubtful_edge_logprob: -0.35,
            doubtful_no_speech: 0.5,
        }
    }
}

/// What is known about a text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Evidence<'a> {
    /// The text of one segment, or of a whole window.
    pub text: &'a str,
    /// Whisper's code of the language it should be in: the window's, or `en` where it was translated.
    pub language: &'a str,
    /// How long the text is said to take, milliseconds.
    pub duration_ms: i64,
    /// Speech that was detected under it, milliseconds. Whisper's times are off by some hundred milliseconds, so for a
    /// segment count what lies up to half a second outside it as well.
    pub speech_ms: i64,
    /// Whether all of that may be the edge of a sound that is none.
    pub edge: bool,
    /// Mean log-probability of the tokens.
    pub avg_logprob: f32,
    /// Probability that nobody speaks.
    pub no_speech_prob: f32,
    /// What the model was prompted with, hotwords included; empty where nothing.
    pub prompt: &'a str,
    /// How many other segments of the file have this very text.
    pub same: usize,
}

/// What is to become of a text.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It stays.
    Keep,
    /// This much of it stays; the rest is dropped for this reason.
    Trim(String, DropReason),
    /// Nobody said it.
    Drop(DropReason),
}

/// Judges one segment's text.
pub fn judge(evidence: &Evidence<'_>, options: &GuardOptions) -> Verdict {
    let units = units(evidence.text);
    if units.is_empty() || letter_ratio(evidence.text) < options.min_letter_ratio {
        return Verdict::Drop(DropReason::NoLetters);
    }
    let doubtful = doubtful(evidence, &units, options);
    if prompt_echo(evidence, &units, doubtful) {
        return Verdict::Drop(DropReason::PromptEcho);
    }
    match phantoms::find(&units, evidence.language) {
        Some(phantoms::Match::Credit) => return Verdict::Drop(DropReason::Phantom),
        Some(phantoms::Match::Closing) if doubtful || evidence.same >= 2 => {
            return Verdict::Drop(DropReason::Phantom);
        }
        _ => {}
    }
    if phantoms::is_sound_label(evidence.text, &units) {
        return Verdict::Drop(DropReason::Phantom);
    }
    if script::is_wrong(&units, evidence.language, doubtful) {
        return Verdict::Drop(DropReason::WrongScript);
    }
    if evidence.speech_ms <= 0 && evidence.duration_ms > 0 && doubtful_figures(evidence, options) {
        return Verdict::Drop(DropReason::Silence);
    }
    if evidence.edge && evidence.avg_logprob <= options.doubtful_edge_logprob {
        return Verdict::Drop(DropReason::Silence);
    }
    if let Some(run) = loops::longest_character_run(&units) {
        let rest = loops::without_character_runs(evidence.text);
        return if run.share >= 0.9 || rest.trim().is_empty() {
            Verdict::Drop(DropReason::RepeatedCharacters)
        } else {
            Verdict::Trim(rest, DropReason::RepeatedCharacters)
        };
    }
    if let Some(found) = loops::longest(&units) {
        return without_loop(evidence, &units, &found, options);
    }
    if few_unique(&units, options) {
        return Verdict::Drop(DropReason::FewUniqueWords);
    }
    // Whisper's times may be wrong where its words are right: only the absurd counts against one segment.
    if too_fast(&units, evidence.speech_ms.max(evidence.duration_ms), 2.0, options) {
        return Verdict::Drop(DropReason::TooFast);
    }
    if let Some(end) = phantoms::trailing_credit(&units, evidence.language) {
        return Verdict::Trim(evidence.text[..end].trim().to_owned(), DropReason::Phantom);
    }
    Verdict::Keep
}

/// Judges the text of a whole window, its segments joined by spaces, for what only shows there: more than can be said
/// in the speech that was detected, a loop over many segments, a handful of words in turns. Where there is a reason, the
/// window should be decoded again in another way; what still has one then is not to be believed.
pub fn judge_window(evidence: &Evidence<'_>, options: &GuardOptions) -> Option<DropReason> {
    let units = units(evidence.text);
    if units.is_empty() {
        return None;
    }
    if too_fast(&units, evidence.speech_ms, 1.0, options) {
        return Some(DropReason::TooFast);
    }
    if loops::longest(&units).is_some_and(|found| found.len() * 2 > units.len()) {
        return Some(DropReason::RepeatedPhrase);
    }
    few_unique(&units, options).then_some(DropReason::FewUniqueWords)
}

/// What is left of a text when its loop is taken out but for the first turn, if that is worth anything.
fn without_loop(evidence: &Evidence<'_>, units: &[Unit], found: &Loop, options: &GuardOptions) -> Verdict {
    let reason = DropReason::RepeatedPhrase;
    let first = &units[found.start..found.start + found.period];
    let text = evidence.text;
    let end_of_first = first.last().map_or(0, |u| u.end);
    let after = units.get(found.start + found.len()).map_or(text.len(), |u| u.start);
    // The punctuation behind the last turn closes the first.
    let last = units[found.start + found.len() - 1].end;
    let closing = text[last..after].trim_end();
    let mut kept = text[..end_of_first].to_owned();
    kept.push_str(closing);
    if after < text.len() {
        if text[..after].ends_with(char::is_whitespace) {
            kept.push(' ');
        }
        kept.push_str(&text[after..]);
    }
    let kept = kept.trim();
    // A loop of a phantom is nothing but a phantom; the rest is judged like any other text.
    let rest = Evidence { text: kept, same: evidence.same.max(2), ..*evidence };
    match judge(&rest, options) {
        Verdict::Keep => Verdict::Trim(kept.to_owned(), reason),
        Verdict::Trim(rest, _) => Verdict::Trim(rest, reason),
        Verdict::Drop(DropReason::Phantom) => Verdict::Drop(DropReason::Phantom),
        Verdict::Drop(_) => Verdict::Drop(reason),
    }
}

/// Something besides the words speaks against them.
fn doubtful(evidence: &Evidence<'_>, units: &[Unit], options: &GuardOptions) -> bool {
    let little = 250.max(evidence.duration_ms / 4);
    doubtful_figures(evidence, options)
        || evidence.speech_ms < little
        || too_fast(units, evidence.speech_ms, 1.0, options)
}

fn doubtful_figures(evidence: &Evidence<'_>, options: &GuardOptions) -> bool {
    evidence.avg_logprob <= options.doubtful_logprob || evidence.no_speech_prob >= options.doubtful_no_speech
}

/// Letters and digits by all characters that are no spaces; 1 for short texts, of which one comma is much.
fn letter_ratio(text: &str) -> f32 {
    let (mut letters, mut all) = (0, 0);
    for c in text.chars().filter(|c| !c.is_whitespace()) {
        all += 1;
        letters += usize::from(c.is_alphanumeric() || units::is_mark(c));
    }
    if all < 10 { 1.0 } else { letters as f32 / all as f32 }
}

fn few_unique(units: &[Unit], options: &GuardOptions) -> bool {
    // An alphabet has few letters: texts in characters need another measure, and there loops say enough.
    let words: Vec<&str> = units.iter().filter(|u| !u.single).map(|u| u.text.as_str()).collect();
    if words.len() < 24 {
        return false;
    }
    let different: std::collections::HashSet<&str> = words.iter().copied().collect();
    (different.len() as f32) < options.min_unique_ratio * words.len() as f32
}

fn too_fast(units: &[Unit], speech_ms: i64, margin: f32, options: &GuardOptions) -> bool {
    let characters = units.iter().filter(|u| u.single).count() as f32;
    let words = units.len() as f32 - characters;
    let needed = words / options.max_words_per_second + characters / options.max_characters_per_second;
    // Half a second: edges of speech are heard late, and one short word may have none of its own.
    needed > margin * (speech_ms.max(0) as f32 / 1000.0 + 0.5)
}

/// The model says its prompt back: a stretch of it word by word, or the whole of a short one.
fn prompt_echo(evidence: &Evidence<'_>, said: &[Unit], doubtful: bool) -> bool {
    let prompt = units(evidence.prompt);
    if prompt.len() < 2 || said.is_empty() {
        return false;
    }
    let echoed = said.len() <= prompt.len()
        && prompt.windows(said.len()).any(|w| w.iter().zip(said).all(|(a, b)| a.text == b.text));
    // Somebody may begin as the prompt does, and hotwords are there because they are said.
    let much = if said.iter().all(|u| u.single) { 16 } else { 8 };
    let some = if doubtful { much / 2 } else { much };
    echoed && (said.len() >= some || (doubtful && said.len() == prompt.len()))
}

#[cfg(test)]
mod tests;
