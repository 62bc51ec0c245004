//! From the model's segments to the transcript's: whole sentences, or longer chunks, never over a set length.
//!
//! A model ends its segments where it pleases: in mid sentence where a window ended, or after three short ones. All text
//! is laid out as one row of [`Atom`]s (words, or characters of scripts without spaces), with the times of the words
//! where they are known, else by their share of the segment, and cut anew.

mod ends;

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::words::{continues, ends_clause, is_unspaced, opens};
use crate::media::{Segment, Word};
use ends::Context;

/// A longer pause ends a sentence, however it is written.
const SENTENCE_PAUSE_MS: i64 = 1_000;

/// A longer pause ends a chunk.
const CHUNK_PAUSE_MS: i64 = 3_000;

/// Where fewer of a language's segments end like a sentence, its text has no full stops to go by, and the model's own
/// ends are taken.
const PUNCTUATED: f64 = 0.25;

/// What a transcript's segments are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// One sentence each.
    #[default]
    Sentence,
    /// Speech without a long pause, as much as fits.
    Chunk,
}

/// How a transcript is cut into segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentOptions {
    /// What a segment is.
    pub resolution: Resolution,
    /// Longest segment in milliseconds; only a single word may be longer.
    pub max_ms: i64,
    /// Most characters in a segment; only a single word may have more.
    pub max_chars: usize,
}

impl SegmentOptions {
    /// With the lengths that suit `resolution`: 15 s and 200 characters for sentences (a long one read slowly), 30 s and 600
    /// for chunks (one window of the model).
    pub fn of(resolution: Resolution) -> Self {
        match resolution {
            Resolution::Sentence => Self { resolution, max_ms: 15_000, max_chars: 200 },
            Resolution::Chunk => Self { resolution, max_ms: 30_000, max_chars: 600 },
        }
    }
}

impl Default for SegmentOptions {
    fn default() -> Self {
        Self::of(Resolution::default())
    }
}

/// The least that a text can be cut into.
#[derive(Debug)]
struct Atom {
    /// The model's segment that it is in.
    segment: usize,
    /// Where in that segment's text.
    text: Range<usize>,
    start_ms: i64,
    end_ms: i64,
    chars: usize,
    /// Which of that segment's words it is, where they are known.
    word: Option<usize>,
}

/// `segments`, which must be in order of time, cut anew.
pub(super) fn cut(segments: Vec<Segment>, options: &SegmentOptions) -> Vec<Segment> {
    let row = Row::new(&segments);
    let mut pieces = Vec::new();
    let mut from = 0;
    for i in 0..row.atoms.len() {
        if i + 1 == row.atoms.len() || row.ends(i, options.resolution) {
            row.shorten(from..i + 1, options, &mut pieces);
            from = i + 1;
        }
    }
    pieces.into_iter().map(|piece| row.segment(piece)).collect()
}

/// All text of a transcript.
struct Row<'a> {
    segments: &'a [Segment],
    atoms: Vec<Atom>,
    /// Languages that are written with full stops.
    punctuated: Vec<&'a str>,
}

impl<'a> Row<'a> {
    fn new(segments: &'a [Segment]) -> Self {
        let atoms = segments.iter().enumerate().flat_map(|(i, segment)| atoms(segment, i)).collect();
        let mut languages: Vec<&str> = segments.iter().map(|s| s.language.as_str()).collect();
        languages.sort_unstable();
        languages.dedup();
        languages.retain(|language| {
            let own = || segments.iter().filter(|s| s.language == *language);
            let ending = own().filter(|s| ends::is_marked(&s.text)).count();
            ending as f64 >= PUNCTUATED * own().count() as f64
        });
        Self { segments, atoms, punctuated: languages }
    }

    fn text(&self, atom: &Atom) -> &'a str {
        &self.segments[atom.segment].text[atom.text.clone()]
    }

    /// Milliseconds of silence after atom `i`.
    fn pause(&self, i: usize) -> i64 {
        self.atoms.get(i + 1).map_or(0, |next| next.start_ms - self.atoms[i].end_ms)
    }

    /// Whether the model's segment ends after atom `i`.
    fn ends_segment(&self, i: usize) -> bool {
        self.atoms.get(i + 1).is_none_or(|next| next.segment != self.atoms[i].segment)
    }

    /// Whether a sentence ends after atom `i`, as far as one can see from the text.
    fn ends_sentence(&self, i: usize) -> bool {
        let atom = &self.atoms[i];
        let before = i.checked_sub(1).map(|b| &self.atoms[b]).filter(|b| b.segment == atom.segment);
        ends::is_end(&Context {
            text: self.text(atom),
            first: before.is_none_or(|b| ends::is_marked(self.text(b))),
            next: self.atoms.get(i + 1).map(|next| self.text(next)),
            pause_ms: self.pause(i),
            ends_segment: self.ends_segment(i),
            language: &self.segments[atom.segment].language,
        })
    }

    /// Whether a new segment begins after atom `i`.
    fn ends(&self, i: usize, resolution: Resolution) -> bool {
        let Some(next) = self.atoms.get(i + 1) else { return true };
        let (own, other) = (&self.segments[self.atoms[i].segment], &self.segments[next.segment]);
        if self.ends_segment(i)
            && (own.language != other.language || own.words.is_empty() != other.words.is_empty())
        {
            return true;
        }
        match resolution {
            Resolution::Chunk => self.pause(i) > CHUNK_PAUSE_MS,
            Resolution::Sentence => {
                self.pause(i) > SENTENCE_PAUSE_MS && self.ends_segment(i)
                    || self.ends_sentence(i)
                    || (self.ends_segment(i) && !self.punctuated.contains(&own.language.as_str()))
            }
        }
    }

    /// Milliseconds from the first to the last of `atoms`.
    fn length_ms(&self, atoms: &Range<usize>) -> i64 {
        self.end_ms(atoms) - self.start_ms(atoms)
    }

    /// The model's own times count where all of its segment's text is there.
    fn start_ms(&self, atoms: &Range<usize>) -> i64 {
        let first = &self.atoms[atoms.start];
        let begins = atoms.start == 0 || self.ends_segment(atoms.start - 1);
        if begins { self.segments[first.segment].start_ms } else { first.start_ms }
    }

    fn end_ms(&self, atoms: &Range<usize>) -> i64 {
        let last = &self.atoms[atoms.end - 1];
        if self.ends_segment(atoms.end - 1) { self.segments[last.segment].end_ms } else { last.end_ms }
    }

    fn chars(&self, atoms: &Range<usize>) -> usize {
        self.atoms[atoms.clone()].iter().map(|a| a.chars).sum()
    }

    /// Cuts `atoms` into parts that fit, of about the same length, where one would take a breath.
    fn shorten(&self, mut atoms: Range<usize>, options: &SegmentOptions, into: &mut Vec<Range<usize>>) {
        loop {
            let (ms, chars) = (self.length_ms(&atoms), self.chars(&atoms));
            if (ms <= options.max_ms && chars <= options.max_chars) || atoms.len() < 2 {
                return into.push(atoms);
            }
            let parts = (ms as f64 / options.max_ms.max(1) as f64)
                .max(chars as f64 / options.max_chars.max(1) as f64)
                .ceil()
                .max(2.0);
            let mut best: Option<(f64, usize)> = None;
            let mut so_far = 0;
            for i in atoms.start..atoms.end - 1 {
                let head = atoms.start..i + 1;
                so_far += self.atoms[i].chars;
                let head_ms = self.length_ms(&head);
                if (head_ms > options.max_ms || so_far > options.max_chars) && best.is_some() {
                    break;
                }
                let share =
                    (head_ms as f64 / ms.max(1) as f64 + so_far as f64 / chars.max(1) as f64) / 2.0 * parts;
                let score = self.breath(i) - 2.0 * (share - 1.0).abs();
                if best.is_none_or(|(most, _)| score > most) {
                    best = Some((score, i + 1));
                }
            }
            let Some((_, end)) = best else { return into.push(atoms) };
            into.push(atoms.start..end);
            atoms.start = end;
        }
    }

    /// How good a place the end of atom `i` is for a cut, from 0 to about 5.
    fn breath(&self, i: usize) -> f64 {
        let pause = (self.pause(i) as f64 / 500.0).clamp(0.0, 2.0);
        let clause = f64::from(u8::from(self.text(&self.atoms[i]).ends_with(ends_clause)));
        let sentence = f64::from(u8::from(self.ends_sentence(i)));
        pause + clause + sentence + if self.ends_segment(i) { 0.5 } else { 0.0 }
    }

    fn segment(&self, atoms: Range<usize>) -> Segment {
        let (start_ms, end_ms) = (self.start_ms(&atoms), self.end_ms(&atoms));
        let own = &self.atoms[atoms];
        // Stretches of the same model segment.
        let stretches: Vec<&[Atom]> = own.chunk_by(|a, b| a.segment == b.segment).collect();
        let mut text = String::new();
        for stretch in &stretches {
            if let [first, .., last] | [first @ last] = stretch {
                let part = self.segments[first.segment].text[first.text.start..last.text.end].trim();
                let unspaced = |c: Option<char>| c.is_none_or(|c| is_unspaced(c) || ends::is_wide(c));
                if !(text.is_empty() || unspaced(text.chars().last()) && unspaced(part.chars().next())) {
                    text.push(' ');
                }
                text.push_str(part);
            }
        }
        let of = |stretch: &[Atom]| &self.segments[stretch[0].segment];
        let mean = |value: fn(&Segment) -> f32| match stretches.as_slice() {
            [only] => value(of(only)),
            several => {
                let weight = |s: &[Atom]| s.iter().map(|a| a.chars).sum::<usize>() as f32;
                let total: f32 = several.iter().map(|s| weight(s)).sum();
                several.iter().map(|s| value(of(s)) * weight(s)).sum::<f32>() / total.max(1.0)
            }
        };
        let words: Vec<Word> = own
            .iter()
            .filter_map(|atom| self.segments[atom.segment].words.get(atom.word?))
            .map(|word| Word {
                start_ms: word.start_ms.clamp(start_ms, end_ms),
                end_ms: word.end_ms.clamp(start_ms, end_ms),
                ..word.clone()
            })
            .collect();
        Segment {
            start_ms,
            end_ms,
            text,
            language: of(stretches[0]).language.clone(),
            avg_logprob: mean(|s| s.avg_logprob),
            no_speech_prob: mean(|s| s.no_speech_prob),
            words,
            speaker: None,
        }
    }
}

/// The atoms of the segment with number `index`: its words, or what its text shows of them.
fn atoms(segment: &Segment, index: usize) -> Vec<Atom> {
    let atom = |text: Range<usize>, word| Atom {
        segment: index,
        chars: segment.text[text.clone()].chars().count(),
        text,
        start_ms: segment.start_ms,
        end_ms: segment.end_ms,
        word,
    };
    if let Some(places) = places(segment) {
        let known = segment.words.iter().zip(places).enumerate();
        return known
            .map(|(i, (word, text))| Atom {
                start_ms: word.start_ms,
                end_ms: word.end_ms,
                ..atom(text, Some(i))
            })
            .collect();
    }
    let mut atoms: Vec<Atom> = pieces(&segment.text).into_iter().map(|text| atom(text, None)).collect();
    let total = atoms.iter().map(|a| a.chars).sum::<usize>().max(1) as i64;
    let length = segment.end_ms - segment.start_ms;
    let mut so_far = 0;
    for atom in &mut atoms {
        atom.start_ms = segment.start_ms + length * so_far / total;
        so_far += atom.chars as i64;
        atom.end_ms = segment.start_ms + length * so_far / total;
    }
    atoms
}

/// Where each word stands in the text; `None` where words are not known or not those of the text.
fn places(segment: &Segment) -> Option<Vec<Range<usize>>> {
    let mut at = 0;
    let mut places = Vec::with_capacity(segment.words.len());
    for word in &segment.words {
        let rest = &segment.text[at..];
        let start = at + rest.len() - rest.trim_start().len();
        if !segment.text[start..].starts_with(&word.text) {
            return None;
        }
        at = start + word.text.len();
        places.push(start..at);
    }
    (!places.is_empty() && segment.text[at..].trim().is_empty()).then_some(places)
}

/// Words between spaces, and characters of scripts without, with what is not a letter after them.
fn pieces(text: &str) -> Vec<Range<usize>> {
    let mut pieces: Vec<Range<usize>> = Vec::new();
    let mut open = false;
    let mut before = None;
    for (at, c) in text.char_indices() {
        if c.is_whitespace() {
            open = false;
            before = None;
            continue;
        }
        let letter = c.is_alphanumeric();
        let next_to = before.is_some_and(|b: char| is_unspaced(b) || is_unspaced(c));
        let apart = next_to && ((letter && !continues(c)) || opens(c));
        match pieces.last_mut() {
            Some(piece) if open && !apart => piece.end = at + c.len_utf8(),
            _ => pieces.push(at..at + c.len_utf8()),
        }
        open = true;
        if apart {
            before = None;
        }
        if letter {
            before = Some(c);
        }
    }
    pieces
}

#[cfg(test)]
mod tests;
