//! Made speech for measurements: text whose words are as unevenly common as those of a language, and vectors that lie as those
//! of a language model do, in clusters. Everything follows from the number of an item, so that what was written can be asked
//! for without having been kept.
//!
//! **Text.** The rank of a word is drawn so that the r-th most common of 50,000 words is met 1/r as often as the first (Zipf).
//! The first ranks are English function words, so that a stemmer's stop words make up about half of it as in speech; the
//! others are made of syllables. Every topic has words of its own, which make up a sixth of what is said about it.
//!
//! **Vectors.** 384 elements of length 1: a share that all have in common, one of the topic, one of the item, one of the
//! passage itself. The variance of each falls with the element's number as the eigenvalues of real embeddings' covariance do
//! (about 1/(1 + i/24)); distances do not change under rotation, so that it is the elements themselves makes no difference.
//! Passages of one item then have a cosine of about 0.7, of one topic 0.45, others 0.1. Uniformly random vectors would all be
//! equally far from each other: no index finds neighbours that are none.

use std::collections::{HashMap, HashSet};
use std::f64::consts::LN_2;
use std::ops::Range;
use std::sync::LazyLock;

use crate::media::{Coverage, Item, Locator, MediaId, Passage, Segment, Transcript};
use crate::store::EmbeddingModel;

/// What the made items are called.
pub(super) const EXTRACTOR: &str = "drill";
/// Elements of a vector: those of all-MiniLM-L6-v2 and multilingual-e5-small.
pub(super) const DIMENSION: usize = 384;
/// Passages of an item: a talk of half an hour.
pub(super) const PASSAGES: u64 = 100;
/// Segments of a passage, and words of a segment.
const SEGMENTS: usize = 3;
const WORDS: usize = 15;
/// Words of the language.
const VOCABULARY: f64 = 50_000.0;
/// What is talked about.
const TOPICS: u64 = 2_000;
/// Words that belong to a topic.
const TOPIC_WORDS: u64 = 60;
/// Shares of a vector's variance: of all, of the topic, of the item; the rest is the passage's own.
const SHARES: [f32; 3] = [0.1, 0.35, 0.25];
/// Languages of items, by share: (language, in a thousand).
const LANGUAGES: [(&str, u64); 4] = [("en", 900), ("de", 60), ("es", 35), ("fi", 5)];
/// Channels, by the same draw.
const CHANNELS: u64 = 500;

const FUNCTION_WORDS: &str = "the of and to a in is that it was i for you on with as they be at this have from or had by not but \
     some what there we can out other were all your when up use how said an each she which do their time if will way about \
     many then them would like so these her long make thing see him two has look more day could go come did my no most who over";

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
pub(super) struct Draw(u64);

impl Draw {
    /// A stream of its own for each pair.
    pub(super) fn of(kind: u64, number: u64) -> Self {
        let mut draw =
            Self(kind.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number.wrapping_mul(0xd1b5_4a32_d192_ed03));
        draw.next();
        draw
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The sum of four uniform numbers is near enough to normal; variance 1, mean 0.
    fn normal(&mut self) -> f32 {
        let bits = self.next();
        let sum: u32 = (0..4).map(|i| (bits >> (16 * i)) as u32 & 0xffff).sum();
        (sum as f32 / 65_536.0 - 2.0) * 1.732_050_8
    }
}

/// A word by its rank, from 0.
pub(super) fn word(rank: u64) -> String {
    const SYLLABLES: [&str; 16] =
        ["ba", "de", "fi", "go", "lu", "ma", "ne", "ri", "so", "tu", "ka", "pe", "lan", "mer", "ton", "vis"];
    let common: Vec<&str> = FUNCTION_WORDS.split_whitespace().collect();
    if let Some(word) = usize::try_from(rank).ok().and_then(|rank| common.get(rank)) {
        return (*word).to_owned();
    }
    // Spread over the words, so that neighbours in rank do not look alike.
    let mut rest = rank.wrapping_mul(48_271) % 65_537 + 65_537 * (rank / 65_537);
    let mut word = String::new();
    while word.len() < 4 || rest > 0 {
        word.push_str(SYLLABLES[(rest % 16) as usize]);
        rest /= 16;
    }
    word
}

/// The language's words, spelt once.
pub(super) struct Speech {
    words: Vec<String>,
    ranks: HashMap<String, u64>,
}

/// An item as [`crate::store::Store::complete`] takes it.
pub(super) struct Made {
    pub transcript: Transcript,
    pub passages: Vec<Passage>,
    pub vectors: Vec<Vec<f32>>,
}

impl Speech {
    pub(super) fn new() -> Self {
        let words: Vec<String> = (0..VOCABULARY as u64).map(word).collect();
        let ranks = words.iter().cloned().zip(0..).collect();
        Self { words, ranks }
    }

    /// The first `most` different ones of `said` whose rank lies in `ranks`; the rarest where there are none.
    pub(super) fn by_rank<'a>(&self, said: &[&'a str], ranks: Range<u64>, most: usize) -> Vec<&'a str> {
        let rank = |word: &str| self.ranks.get(word).copied().unwrap_or(0);
        let mut words: Vec<&str> = said.iter().copied().filter(|w| ranks.contains(&rank(w))).collect();
        let mut seen = HashSet::new();
        words.retain(|word| seen.insert(*word));
        if words.is_empty() {
            words.extend(said.iter().copied().max_by_key(|w| rank(w)));
        }
        words.truncate(most);
        words
    }

    /// A rank under Zipf's law: the logarithm of the rank is uniform.
    fn common(draw: &mut Draw) -> u64 {
        ((draw.share() * VOCABULARY.log2() * LN_2).exp() - 1.0) as u64
    }

    fn of_topic(topic: u64, draw: &mut Draw) -> u64 {
        let place = draw.below(TOPIC_WORDS);
        2_000 + Draw::of(1, topic * TOPIC_WORDS + place).below(VOCABULARY as u64 - 2_000)
    }

    /// A word said in `topic`.
    fn rank(topic: u64, draw: &mut Draw) -> u64 {
        if draw.below(6) == 0 { Self::of_topic(topic, draw) } else { Self::common(draw) }
    }

    fn spelt(&self, rank: u64) -> &str {
        self.words.get(rank as usize).map_or("the", String::as_str)
    }

    /// The words of a passage.
    pub(super) fn words(&self, item: u64, passage: u64) -> Vec<&str> {
        let mut draw = Draw::of(2, item * PASSAGES + passage);
        (0..SEGMENTS * WORDS).map(|_| self.spelt(Self::rank(topic(item), &mut draw))).collect()
    }

    /// Everything about an item with so many passages.
    pub(super) fn make(&self, item: u64, passages: u64) -> Made {
        let language = language(item);
        let mut made = Made {
            transcript: Transcript {
                segments: Vec::new(),
                language: language.into(),
                duration_ms: passages as i64 * 20_000,
                speech_ms: passages as i64 * 18_000,
                model: EXTRACTOR.into(),
                dropped: Vec::new(),
                coverage: Coverage::default(),
            },
            passages: Vec::new(),
            vectors: Vec::new(),
        };
        let base = base(item);
        for passage in 0..passages {
            let words = self.words(item, passage);
            let first = made.transcript.segments.len();
            for (at, words) in (first..).zip(words.chunks(WORDS)) {
                let start_ms = at as i64 * 6_600;
                made.transcript.segments.push(Segment {
                    start_ms,
                    end_ms: start_ms + 6_000,
                    text: sentence(words),
                    language: language.into(),
                    avg_logprob: -0.2,
                    no_speech_prob: 0.01,
                    speaker: None,
                    words: Vec::new(),
                });
            }
            let of = &made.transcript.segments[first..];
            made.passages.push(Passage {
                start_ms: of[0].start_ms,
                end_ms: of[of.len() - 1].end_ms,
                text: of.iter().map(|s| s.text.as_str()).collect::<Vec<_>>().join(" "),
                language: language.into(),
                first_segment: first,
                end_segment: first + of.len(),
            });
            made.vectors.push(vector(&base, &mut Draw::of(3, item * PASSAGES + passage), own_share()));
        }
        made
    }
}

fn sentence(words: &[&str]) -> String {
    let mut text = words.join(" ");
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text.push('.');
    text
}

fn topic(item: u64) -> u64 {
    Draw::of(4, item).below(TOPICS)
}

/// The language of an item.
pub(super) fn language(item: u64) -> &'static str {
    let mut at = Draw::of(5, item).below(1000);
    for (language, share) in LANGUAGES {
        if at < share {
            return language;
        }
        at -= share;
    }
    "en"
}

/// The channel of an item.
pub(super) fn channel(item: u64) -> String {
    format!("Channel {}", Draw::of(6, item).below(CHANNELS))
}

/// The item of a number.
pub(super) fn item(number: u64) -> Item {
    let name = number.to_string();
    Item {
        media_id: MediaId::new(EXTRACTOR, &name),
        extractor: EXTRACTOR.into(),
        source_id: name.clone(),
        locator: Locator::File(format!("/drill/{name}").into()),
        source: format!("/drill/{name}"),
        title: format!("Talk {name}"),
        duration_ms: Some(PASSAGES as i64 * 20_000),
    }
}

/// The model that made vectors are said to come from.
pub(super) fn model() -> EmbeddingModel {
    EmbeddingModel { model_id: EXTRACTOR.into(), dimension: DIMENSION }
}

fn own_share() -> f32 {
    1.0 - SHARES.iter().sum::<f32>()
}

/// Standard deviations of the elements; their squares add up to 1.
static SPECTRUM: LazyLock<Vec<f32>> = LazyLock::new(|| {
    let variance = |i: usize| 1.0 / (1.0 + i as f32 / 24.0);
    let total: f32 = (0..DIMENSION).map(variance).sum();
    (0..DIMENSION).map(|i| (variance(i) / total).sqrt()).collect()
});

/// Adds normal numbers of falling variance; the expected square of their length is `share`.
fn add(vector: &mut [f32], draw: &mut Draw, share: f32) {
    let scale = share.sqrt();
    for (value, deviation) in vector.iter_mut().zip(&*SPECTRUM) {
        *value += draw.normal() * deviation * scale;
    }
}

/// What the passages of an item have in common.
fn base(item: u64) -> Vec<f32> {
    let mut vector = vec![0.0; DIMENSION];
    for (share, mut draw) in
        SHARES.into_iter().zip([Draw::of(7, 0), Draw::of(8, topic(item)), Draw::of(9, item)])
    {
        add(&mut vector, &mut draw, share);
    }
    vector
}

fn vector(base: &[f32], draw: &mut Draw, share: f32) -> Vec<f32> {
    let mut vector = base.to_vec();
    add(&mut vector, draw, share);
    let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    vector.iter_mut().for_each(|v| *v /= length);
    vector
}

/// A vector near that of a passage (cosine about 0.85), as a question's is near its answer's.
pub(super) fn near(item: u64, passage: u64, draw: &mut Draw) -> Vec<f32> {
    let answer = vector(&base(item), &mut Draw::of(3, item * PASSAGES + passage), own_share());
    vector(&answer, draw, 0.35)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn vectors_lie_in_clusters() {
        let speech = Speech::new();
        let (one, other) = (speech.make(1, 20), speech.make(2, 20));
        let mean = |a: &[Vec<f32>], b: &[Vec<f32>]| {
            a.iter().zip(b).map(|(a, b)| cosine(a, b)).sum::<f32>() / a.len() as f32
        };
        let within = mean(&one.vectors[..19], &one.vectors[1..]);
        assert!((0.55..0.85).contains(&within), "{within}");
        let apart = mean(&one.vectors, &other.vectors);
        assert!((-0.15..0.35).contains(&apart), "{apart}");
        let asked = near(1, 3, &mut Draw::of(0, 0));
        assert!((0.75..0.93).contains(&cosine(&asked, &one.vectors[3])));
    }

    #[test]
    fn what_was_made_can_be_asked_for() {
        let speech = Speech::new();
        let made = speech.make(7, 2);
        assert_eq!(made.passages.len(), 2);
        assert_eq!(made.transcript.segments.len(), 6);
        let said = made.passages[1].text.to_lowercase().replace('.', "");
        assert_eq!(said, speech.words(7, 1).join(" "));
        let words: std::collections::HashSet<_> = (0..50_000).map(word).collect();
        assert!(words.len() > 45_000, "{}", words.len());
    }
}
