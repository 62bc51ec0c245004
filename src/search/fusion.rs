//! Several rankings into one.
//!
//! Reciprocal rank fusion (Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual
//! Rank Learning Methods", SIGIR 2009): an entry at rank r of a list adds `weight / (K + r)`.

use std::collections::{HashMap, HashSet};

use super::lists::{Candidate, Unit};

/// How little the first ranks differ. The paper took 60, for lists of the same kind and equal worth; here the first places of
/// one list are often right while the others have nothing, and 10 finds more (`scripts/bench/search --questions tune`).
pub(super) const K: f64 = 10.0;

/// Weight of the ranking made in Rust from the words that are shared: how rare they are, and their order.
pub(super) const CLOSENESS_WEIGHT: f64 = 1.0;

/// A ranking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    /// Holds the query word for word.
    Phrase,
    /// Holds all words of it.
    All,
    /// Holds some of them.
    Any,
    /// Lies near in meaning.
    Near,
}

impl List {
    /// Lists of words come twice, of segments and of passages. Meaning alone outweighs a few common words, all words together
    /// are worth as much; the verbatim rank decides between what holds the words in order.
    fn weight(self) -> f64 {
        match self {
            Self::Phrase | Self::Near => 1.0,
            Self::All => 0.5,
            Self::Any => 0.25,
        }
    }
}

/// A passage with its sum of reciprocal ranks.
pub(super) struct Fused {
    pub unit: Unit,
    pub score: f64,
    /// The segment of it that stood highest in a list of segments.
    pub hint: Option<i32>,
}

/// What rank `rank`, counted from 1, adds in a list of this weight.
pub(super) fn share(weight: f64, rank: usize) -> f64 {
    weight / (K + rank as f64)
}

/// Sums up reciprocal ranks; best first.
pub(super) fn fuse(lists: &[(List, Vec<Candidate>)]) -> Vec<Fused> {
    let mut units: HashMap<Unit, Fused> = HashMap::new();
    for (list, candidates) in lists {
        let mut rank = 0;
        let mut seen = HashSet::new();
        for candidate in candidates {
            // Further segments of a passage that has had its rank take none away from others.
            if !seen.insert(candidate.unit) {
                continue;
            }
            rank += 1;
            let fused =
                units.entry(candidate.unit).or_insert(Fused { unit: candidate.unit, score: 0.0, hint: None });
            fused.score += share(list.weight(), rank);
            fused.hint = fused.hint.or(candidate.segment);
        }
    }
    let mut fused: Vec<Fused> = units.into_values().collect();
    fused.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.unit.cmp(&b.unit)));
    fused
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn candidate(n: i32, segment: Option<i32>) -> Candidate {
        Candidate { unit: Unit { media_id: Uuid::nil(), first: n, end: n + 1 }, segment }
    }

    #[test]
    fn what_two_lists_name_comes_before_what_one_does() {
        let lists = [
            (List::Near, vec![candidate(1, None), candidate(2, None), candidate(3, None)]),
            (List::All, vec![candidate(3, Some(3)), candidate(3, Some(4)), candidate(4, Some(4))]),
        ];
        let fused = fuse(&lists);
        let order: Vec<i32> = fused.iter().map(|f| f.unit.first).collect();
        assert_eq!(order, [3, 1, 2, 4]);
        assert_eq!(fused[0].hint, Some(3));
        // The second segment of a passage takes no rank away.
        assert!((fused[3].score - share(0.5, 2)).abs() < 1e-12);
    }
}
