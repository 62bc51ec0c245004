//! Where the chapters of a transcript begin: at pauses, and where the topic changes.
//!
//! How much the topic changes at a moment is told by the vectors of the passages before and after it, as in Hearst,
//! "TextTiling: Segmenting Text into Multi-paragraph Subtopic Passages" (1997), with vectors for counts of words. Of all
//! divisions the one is taken whose beginnings are best, and whose chapters are of a readable length.

use super::markdown::Topic;
use crate::media::Segment;

/// A chapter of this length costs least.
const USUAL_MS: f64 = 5.0 * 60_000.0;
/// None is shorter, unless there is nothing else.
const SHORTEST_MS: i64 = 60_000;
/// None is longer, unless a single segment is.
const LONGEST_MS: i64 = 20 * 60_000;
/// Speech that is shorter has no chapters.
const WHOLE_MS: i64 = 4 * 60_000;
/// A beginning has to be worth so much to make one more chapter.
const PRICE: f64 = 2.0;
/// What the square of the logarithm of a chapter's length, against the usual one, costs.
const LENGTH: f64 = 3.0;
/// Passages on each side that are compared.
const REACH: usize = 3;
/// A pause counts for a point a second, up to this.
const MOST: f64 = 5.0;

/// The number of the first segment of each chapter; the first is 0. Empty where there is no segment.
pub(super) fn chapters(segments: &[Segment], topics: &[Topic]) -> Vec<usize> {
    let (Some(first), Some(last)) = (segments.first(), segments.last()) else { return Vec::new() };
    if last.end_ms - first.start_ms < WHOLE_MS {
        return vec![0];
    }
    let worth = worth(segments, topics);
    // For each number of segments: the best division of so many, and where its last chapter begins.
    let mut best = vec![(0.0f64, 0usize); segments.len() + 1];
    for end in 1..=segments.len() {
        let mut found = (f64::NEG_INFINITY, end - 1);
        // Until where a chapter is too long: what is shorter than the shortest, only if nothing else is there.
        for begin in (0..end).rev() {
            let length =
                segments[end - 1].end_ms.max(segments[begin].start_ms + 1) - segments[begin].start_ms;
            if length > LONGEST_MS && begin + 1 < end {
                break;
            }
            let short = if length < SHORTEST_MS { 100.0 } else { 0.0 };
            let ratio = (length as f64 / USUAL_MS).ln();
            let value = best[begin].0 + worth[begin] - PRICE - LENGTH * ratio * ratio - short;
            if value > found.0 {
                found = (value, begin);
            }
        }
        best[end] = found;
    }
    let mut starts = Vec::new();
    let mut end = segments.len();
    while end > 0 {
        end = best[end].1;
        starts.push(end);
    }
    starts.reverse();
    starts
}

/// How good a beginning each segment is, 0 to 10.
fn worth(segments: &[Segment], topics: &[Topic]) -> Vec<f64> {
    let shifts: Vec<f64> = shifts(segments, topics);
    let count = shifts.len().max(1) as f64;
    let mean = shifts.iter().sum::<f64>() / count;
    let spread = (shifts.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / count).sqrt();
    (0..segments.len())
        .map(|n| {
            let before = n.checked_sub(1).map_or(0, |before| segments[before].end_ms);
            let pause = (segments[n].start_ms - before).max(0) as f64 / 1000.0;
            // Against this very transcript: a vector model has its own idea of what is far.
            let shift = if spread > 1e-6 { 2.0 * (shifts[n] - mean) / spread } else { 0.0 };
            pause.min(MOST) + shift.clamp(0.0, MOST)
        })
        .collect()
}

/// How far what is spoken of after the beginning of each segment is from what was before, 0 to 2; 0 where nobody knows.
fn shifts(segments: &[Segment], topics: &[Topic]) -> Vec<f64> {
    let middles: Vec<i64> = topics.iter().map(|t| t.start_ms + (t.end_ms - t.start_ms) / 2).collect();
    segments
        .iter()
        .map(|segment| {
            let at = middles.partition_point(|middle| *middle < segment.start_ms);
            let before = mean(&topics[at.saturating_sub(REACH)..at]);
            let after = mean(&topics[at..topics.len().min(at + REACH)]);
            match (before, after) {
                (Some(before), Some(after)) => 1.0 - cosine(&before, &after),
                _ => 0.0,
            }
        })
        .collect()
}

fn mean(topics: &[Topic]) -> Option<Vec<f64>> {
    let length = topics.first()?.vector.len();
    let mut sum = vec![0.0; length];
    for topic in topics {
        for (sum, value) in sum.iter_mut().zip(&topic.vector) {
            *sum += f64::from(*value);
        }
    }
    Some(sum)
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let norm = (dot(a, a) * dot(b, b)).sqrt();
    if norm > 0.0 { dot(a, b) / norm } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(count: i64, pauses: &[i64]) -> Vec<Segment> {
        let mut at = 0;
        (0..count)
            .map(|n| {
                at += if pauses.contains(&n) { 4_000 } else { 200 };
                let start_ms = at;
                at += 5_000;
                Segment {
                    start_ms,
                    end_ms: at,
                    text: format!("Sentence {n}."),
                    language: "en".into(),
                    avg_logprob: 0.0,
                    no_speech_prob: 0.0,
                    words: Vec::new(),
                    speaker: None,
                }
            })
            .collect()
    }

    /// A passage for every four segments; its vector points where `about` says.
    fn topics(segments: &[Segment], about: impl Fn(usize) -> [f32; 2]) -> Vec<Topic> {
        segments
            .chunks(4)
            .enumerate()
            .map(|(n, of)| Topic {
                start_ms: of[0].start_ms,
                end_ms: of[of.len() - 1].end_ms,
                vector: about(4 * n).to_vec(),
            })
            .collect()
    }

    #[test]
    fn a_short_talk_is_one_chapter() {
        assert_eq!(chapters(&[], &[]), Vec::<usize>::new());
        assert_eq!(chapters(&segments(40, &[20]), &[]), [0]);
    }

    #[test]
    fn chapters_begin_after_pauses() {
        let said = segments(240, &[70, 130, 190]);
        assert_eq!(chapters(&said, &[]), [0, 70, 130, 190]);
    }

    #[test]
    fn chapters_begin_where_the_topic_changes() {
        let said = segments(240, &[]);
        let about = |n: usize| if (80..160).contains(&n) { [0.0, 1.0] } else { [1.0, 0.1] };
        let starts = chapters(&said, &topics(&said, about));
        assert!(starts.contains(&80) && starts.contains(&160), "{starts:?}");
    }

    #[test]
    fn without_any_sign_chapters_have_a_readable_length() {
        let said = segments(1_000, &[]);
        let starts = chapters(&said, &[]);
        assert!((7..=17).contains(&starts.len()), "{starts:?}");
        assert!(starts.windows(2).all(|pair| said[pair[1]].start_ms - said[pair[0]].start_ms >= SHORTEST_MS));
        // One that talks for an hour without a full stop.
        let mut one = segments(1, &[]);
        one[0].end_ms = 3_600_000;
        assert_eq!(chapters(&one, &[]), [0]);
    }
}
