//! What is kept beside a transcript's text: times of words, coverage, what was not believed.

use serde_json::Value;
use sqlx::types::Json;

use super::clean;
use crate::media::{Coverage, Dropped, Flag, Word};

/// Most pieces of text that were not believed that are kept of one item. Who has more of them needs no list to see that
/// something is wrong.
pub(super) const MOST_DROPPED: usize = 1_000;

/// A word as a row of `segments.words`: start, end, text, probability.
pub(super) type WordRow = (i64, i64, String, f32);

/// `words` as JSON, in the form of `segments.words`; `None` where there are none. Probabilities to three decimals.
pub(super) fn words_json(words: &[Word]) -> Option<Vec<u8>> {
    if words.is_empty() {
        return None;
    }
    let rows: Vec<_> =
        words.iter().map(|w| (w.start_ms, w.end_ms, clean(&w.text), probability(w.prob))).collect();
    // Texts and numbers can always be serialised.
    serde_json::to_vec(&rows).ok()
}

/// To three decimals. JSON has no NaN, and a reader expects a number.
fn probability(prob: f32) -> f32 {
    if prob.is_finite() { (prob * 1000.0).round() / 1000.0 } else { 0.0 }
}

/// What [`words_json`] wrote.
pub(super) fn words(stored: Option<Json<Vec<WordRow>>>) -> Vec<Word> {
    let rows = stored.map(|Json(rows)| rows).unwrap_or_default();
    rows.into_iter().map(|(start_ms, end_ms, text, prob)| Word { start_ms, end_ms, text, prob }).collect()
}

/// The first [`MOST_DROPPED`] of `dropped`; `None` where there are none.
pub(super) fn dropped_json(dropped: &[Dropped]) -> Option<Json<Vec<Dropped>>> {
    let kept = |d: &Dropped| Dropped {
        text: clean(&d.text).into_owned(),
        language: clean(&d.language).into_owned(),
        ..d.clone()
    };
    (!dropped.is_empty()).then(|| Json(dropped.iter().take(MOST_DROPPED).map(kept).collect()))
}

/// What [`dropped_json`] wrote. A reason that a later release wrote is not known here, and its text is left out.
pub(super) fn dropped(stored: Option<Value>) -> Vec<Dropped> {
    let Some(Value::Array(list)) = stored else { return Vec::new() };
    list.into_iter().filter_map(|one| serde_json::from_value(one).ok()).collect()
}

/// `media.coverage`, less the flags that a later release wrote.
pub(super) fn coverage(stored: Option<Value>) -> Option<Coverage> {
    let mut stored = stored?;
    if let Some(Value::Array(flags)) = stored.get_mut("flags") {
        flags.retain(|flag| serde_json::from_value::<Flag>(flag.clone()).is_ok());
    }
    serde_json::from_value(stored).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{DropReason, Gap};

    #[test]
    fn words_are_compact() {
        let word = |text: &str, prob| Word { start_ms: 1_250, end_ms: 1_900, text: text.into(), prob };
        assert_eq!(words_json(&[]), None);
        let json = words_json(&[word("say \"a\0\"", 0.123_456), word("b", f32::NAN)]);
        assert_eq!(
            json.as_deref(),
            Some("[[1250,1900,\"say \\\"a\u{fffd}\\\"\",0.123],[1250,1900,\"b\",0.0]]".as_bytes())
        );
    }

    #[test]
    fn what_a_later_release_wrote_does_not_hide_the_rest() {
        let written = serde_json::json!({
            "transcribed_ms": 5, "words": 2, "gaps": [{"start_ms": 1, "end_ms": 2}], "flags": ["low_coverage", "new"],
            "more": 1
        });
        let read = coverage(Some(written)).unwrap();
        assert_eq!((read.flags, read.gaps), (vec![Flag::LowCoverage], vec![Gap { start_ms: 1, end_ms: 2 }]));
        assert_eq!(coverage(None), None);
        let written = serde_json::json!([
            {"start_ms": 1, "end_ms": 2, "text": "a", "language": "en", "reason": "new"},
            {"start_ms": 1, "end_ms": 2, "text": "b", "language": "en", "reason": "phantom"},
        ]);
        let read = dropped(Some(written));
        assert_eq!((read.len(), read[0].reason), (1, DropReason::Phantom));
    }
}
