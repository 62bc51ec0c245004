//! Where in a passage the query was said.
//!
//! The query's words are aligned with the passage's by local alignment (Smith and Waterman, "Identification of
//! common molecular subsequences", 1981) over words instead of letters: misheard, missing and extra words cost
//! something, but do not hide a sentence. Where too little aligns, the segment with most of the words is taken.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::words::{Word, similar};

const EQUAL: i32 = 2;
const SIMILAR: i32 = 1;
const DIFFERENT: i32 = -1;
const GAP: i32 = -1;

/// What a stop word weighs at most; a word that a thousandth of all segments hold weighs 7.
const STOP_WORD: f64 = 0.1;
/// So small a share of the query is none: a stop word in common.
const LEAST_SHARE: f64 = 0.1;

/// Words of a query that are aligned; more would cost time and add nothing.
const QUERY_WORDS: usize = 64;

/// A place in a passage.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    /// Indexes of the segments that answer; never empty.
    pub segments: Range<usize>,
    /// How much of the query was said there, 0 to 1, and a little less where much else was said as well.
    pub closeness: f64,
    /// Every word of the query, one after the other.
    pub verbatim: bool,
    /// The words that answer, as (segment, word), if the query was recognised as a whole.
    pub words: HashSet<(usize, usize)>,
}

/// How much each of the query's different words tells.
#[derive(Clone, Debug, Default)]
pub(super) struct Weights(HashMap<String, f64>);

impl Weights {
    /// Longer words weigh more: they carry more of the meaning, and no list of stop words is needed.
    pub(super) fn by_length(query: &[Word]) -> Self {
        Self(query.iter().map(|w| (w.folded.clone(), w.folded.chars().count().min(8) as f64)).collect())
    }

    /// Words that are said less often weigh more: by the logarithm of how rare they are (inverse document frequency, Spärck
    /// Jones, "A statistical interpretation of term specificity", 1972). `said` tells in how many of all `segments` a word is
    /// said; what is not in it is said nowhere, or nobody has counted yet.
    /// Stop words, which `stop` names, weigh next to nothing: in a small library they may be rare.
    pub(super) fn by_rarity(
        query: &[Word],
        said: &HashMap<String, i64>,
        stop: &HashSet<String>,
        segments: f64,
    ) -> Self {
        let weight = |word: &str| {
            let times = said.get(word).map_or(0.5, |n| (*n).max(1) as f64);
            let rarity = (1.0 + segments / times).ln();
            if stop.contains(word) { rarity.min(STOP_WORD) } else { rarity }
        };
        Self(query.iter().map(|w| (w.folded.clone(), weight(&w.folded))).collect())
    }

    fn of(&self, word: &str) -> f64 {
        self.0.get(word).copied().unwrap_or(1.0)
    }
}

/// Finds the query in a passage of segments (at least one). `hint` is the segment that stood highest in a ranking, for
/// when the words do not tell.
pub(super) fn locate(
    query: &[Word],
    weights: &Weights,
    segments: &[Vec<Word>],
    hint: Option<usize>,
) -> Place {
    let query = &query[..query.len().min(QUERY_WORDS)];
    let text: Vec<(usize, usize, &str)> = segments
        .iter()
        .enumerate()
        .flat_map(|(s, words)| words.iter().enumerate().map(move |(w, word)| (s, w, word.folded.as_str())))
        .collect();
    let (best, shares) = most_words(query, weights, segments);
    let share = shares.get(best).copied().unwrap_or(0.0);
    let aligned = align(query, &text);
    let whole = f64::from(aligned.score) / f64::from(EQUAL * query.len().max(1) as i32);
    if !query.is_empty() && whole >= 0.5 && whole >= share * 0.75 {
        let verbatim = aligned.score == EQUAL * query.len() as i32;
        let range = if verbatim { aligned.span(&text) } else { aligned.core(&text) };
        let said: usize = segments[range.clone()].iter().map(Vec::len).sum();
        // A segment that says the query and nothing else comes before one that says it among other things.
        let focus = query.len() as f64 / said.max(query.len()) as f64;
        return Place {
            closeness: whole * (0.9 + 0.1 * focus),
            verbatim,
            words: aligned.pairs.iter().map(|(_, t)| (text[*t].0, text[*t].1)).collect(),
            segments: range,
        };
    }
    let at = if share > 0.0 { best } else { hint.filter(|h| *h < segments.len()).unwrap_or(0) };
    let closeness = if share < LEAST_SHARE { 0.0 } else { share * 0.5 };
    Place { segments: at..at + 1, closeness, verbatim: false, words: HashSet::new() }
}

/// The segment with the largest share of the query's different words, each counting as much as it weighs, and all shares.
fn most_words(query: &[Word], weights: &Weights, segments: &[Vec<Word>]) -> (usize, Vec<f64>) {
    let weight = |word: &str| weights.of(word);
    let distinct: HashSet<&str> = query.iter().map(|w| w.folded.as_str()).collect();
    let total: f64 = distinct.iter().map(|w| weight(w)).sum();
    let shares: Vec<f64> = segments
        .iter()
        .map(|words| {
            let said: f64 = distinct
                .iter()
                .map(|q| {
                    if words.iter().any(|w| w.folded == **q) {
                        weight(q)
                    } else if words.iter().any(|w| similar(&w.folded, q)) {
                        weight(q) * 0.8
                    } else {
                        0.0
                    }
                })
                .sum();
            if total > 0.0 { said / total } else { 0.0 }
        })
        .collect();
    let mut best = 0;
    for (i, share) in shares.iter().enumerate() {
        if *share > shares[best] {
            best = i;
        }
    }
    (best, shares)
}

/// A local alignment: which word of the query stands for which of the text.
struct Aligned {
    score: i32,
    /// Ascending pairs of equal or similar words.
    pairs: Vec<(usize, usize)>,
}

impl Aligned {
    /// The segments from the first to the last aligned word.
    fn span(&self, text: &[(usize, usize, &str)]) -> Range<usize> {
        let of = |pair: Option<&(usize, usize)>| pair.map_or(0, |(_, t)| text[*t].0);
        of(self.pairs.first())..of(self.pairs.last()) + 1
    }

    /// As [`Self::span`], without segments at the ends that hold but a stray word: the last "the" before the sentence
    /// would move its start to another segment's.
    fn core(&self, text: &[(usize, usize, &str)]) -> Range<usize> {
        let mut range = self.span(text);
        let count = |segment: usize| self.pairs.iter().filter(|(_, t)| text[*t].0 == segment).count();
        let stray = |segment: usize| count(segment) < 2.max(self.pairs.len() / 6);
        while range.len() > 1 && stray(range.start) {
            range.start += 1;
        }
        while range.len() > 1 && stray(range.end - 1) {
            range.end -= 1;
        }
        range
    }
}

fn align(query: &[Word], text: &[(usize, usize, &str)]) -> Aligned {
    let width = text.len() + 1;
    let mut table = vec![0i32; (query.len() + 1) * width];
    let pair = |q: usize, t: usize| {
        let (a, b) = (query[q].folded.as_str(), text[t].2);
        if a == b {
            EQUAL
        } else if similar(a, b) {
            SIMILAR
        } else {
            DIFFERENT
        }
    };
    let mut best = (0, 0, 0);
    for q in 1..=query.len() {
        for t in 1..width {
            let score = (table[(q - 1) * width + t - 1] + pair(q - 1, t - 1))
                .max(table[(q - 1) * width + t] + GAP)
                .max(table[q * width + t - 1] + GAP)
                .max(0);
            table[q * width + t] = score;
            // The first of equals: where something was said twice, its first time.
            if score > best.0 {
                best = (score, q, t);
            }
        }
    }
    let (score, mut q, mut t) = best;
    let mut pairs = Vec::new();
    while q > 0 && t > 0 && table[q * width + t] > 0 {
        let here = table[q * width + t];
        let step = pair(q - 1, t - 1);
        if here == table[(q - 1) * width + t - 1] + step {
            if step > 0 {
                pairs.push((q - 1, t - 1));
            }
            q -= 1;
            t -= 1;
        } else if here == table[(q - 1) * width + t] + GAP {
            q -= 1;
        } else {
            t -= 1;
        }
    }
    pairs.reverse();
    Aligned { score, pairs }
}

/// Where the sentence begins that holds the byte `at`: after the last full stop, question or exclamation mark before
/// it and the space that follows; 0 where there is none.
pub(super) fn sentence_start(text: &str, at: usize) -> usize {
    let mut start = 0;
    let mut ended = false;
    for (i, c) in text[..at].char_indices() {
        match c {
            '.' | '!' | '?' | '…' | '؟' | '।' => ended = true,
            '。' | '！' | '？' => {
                start = i + c.len_utf8();
                ended = false;
            }
            c if c.is_whitespace() => {
                if ended {
                    start = i + c.len_utf8();
                }
            }
            // Closing quotes and brackets belong to the sentence that ended.
            '"' | '\'' | '”' | '’' | '»' | ')' if ended => {}
            _ => ended = false,
        }
    }
    start
}

#[cfg(test)]
mod tests {
    use super::super::words::words;
    use super::*;

    fn at(query: &str, segments: &[&str]) -> Place {
        let segments: Vec<_> = segments.iter().map(|s| words(s)).collect();
        let query = words(query);
        locate(&query, &Weights::by_length(&query), &segments, None)
    }

    #[test]
    fn a_sentence_is_found_in_its_segment() {
        let place =
            at("the cat sat down", &["I saw the dog.", "Then the cat sat down.", "And the cat slept."]);
        assert_eq!((place.segments, place.verbatim), (1..2, true));
        assert_eq!(place.words, [(1, 1), (1, 2), (1, 3), (1, 4)].into());
    }

    #[test]
    fn a_sentence_across_segments_starts_where_its_first_word_is() {
        let place = at("so the cat sat down", &["Well. So", "the cat sat", "down there.", "End."]);
        assert_eq!((place.segments, place.verbatim), (0..3, true));
    }

    #[test]
    fn misheard_words_do_not_hide_a_sentence_and_stray_words_do_not_move_it() {
        let place = at(
            "a quick brown fox jumps over the lazy dog",
            &["This is a", "thick brown fox jumped over lazy dogs", "the dog barked"],
        );
        assert_eq!((place.segments, place.verbatim), (1..2, false));
        assert!(place.closeness >= 0.5, "{}", place.closeness);
    }

    #[test]
    fn scattered_words_choose_the_segment_with_most() {
        let place = at(
            "camshaft sensor replacement price",
            &["the price", "of a sensor for the camshaft", "is high"],
        );
        assert_eq!(place.segments, 1..2);
        assert!(!place.verbatim);
    }

    #[test]
    fn a_rare_word_tells_more_than_two_common_ones() {
        let query = words("what about yaks");
        let segments = [words("what is it about"), words("yaks eat grass")];
        let said = [("what", 900), ("about", 800), ("yaks", 2)].map(|(w, n)| (w.to_owned(), n)).into();
        let rare = Weights::by_rarity(&query, &said, &HashSet::new(), 1000.0);
        assert_eq!(locate(&query, &rare, &segments, None).segments, 1..2);
        // In a library of two segments every word is as rare; what tells nothing is known all the same.
        let stop = ["what", "about"].map(str::to_owned).into();
        let few = Weights::by_rarity(&query, &HashMap::new(), &stop, 2.0);
        assert_eq!(locate(&query, &few, &segments, None).segments, 1..2);
        assert!(locate(&query, &few, &segments[..1], None).closeness < 0.1);
    }

    #[test]
    fn without_a_common_word_the_hint_or_the_start_is_taken() {
        let segments = [words("one"), words("two")];
        let none = Weights::default();
        assert_eq!(locate(&words("xyz"), &none, &segments, Some(1)).segments, 1..2);
        assert_eq!(locate(&words("xyz"), &none, &segments, None).segments, 0..1);
        assert_eq!(locate(&[], &none, &segments, Some(7)).segments, 0..1);
        assert_eq!(locate(&words("xyz"), &none, &[vec![]], None).segments, 0..1);
    }

    #[test]
    fn a_sentence_begins_after_the_last_one_ended() {
        fn start<'a>(text: &'a str, word: &str) -> &'a str {
            &text[sentence_start(text, text.find(word).unwrap())..]
        }
        assert_eq!(start("One here. Two there.", "Two"), "Two there.");
        assert_eq!(start("One here. Two there.", "there"), "Two there.");
        assert_eq!(start("He said \"no.\" ¿Qué pasa?", "Qué"), "¿Qué pasa?");
        assert_eq!(start("It costs 3.50 now", "now"), "It costs 3.50 now");
        assert_eq!(start("これは。それは", "それ"), "それは");
        assert_eq!(start("One", "One"), "One");
    }

    #[test]
    fn saying_only_that_is_closer_than_saying_it_among_other_things() {
        let alone = at("the cat sat", &["The cat sat."]);
        let among = at("the cat sat", &["Yesterday the cat sat on a very long sofa in the sun."]);
        assert!(alone.verbatim && among.verbatim && alone.closeness > among.closeness);
    }
}
