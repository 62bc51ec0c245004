//! Words that nobody says, and the words of the library that may be meant.
//!
//! Without pg_trgm: the library's words stand in a table of their own ([`Store::learn_words`]), and those of about the right
//! length are compared one by one, by the number of letters that have to be changed, added, left out or swapped (Damerau,
//! "A technique for computer detection and correction of spelling errors", 1964). Only searches with a word that occurs
//! nowhere pay for it.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use super::SearchError;
use super::words::{stands_alone, words};
use crate::store::Store;

/// Shorter words are not corrected: most combinations of three letters are one letter away from a word.
const SHORTEST: usize = 4;
/// Longer ones are no words that somebody mistyped.
const LONGEST: usize = 40;
/// Words of a query that are looked up.
const MOST: usize = 32;
/// How long one search may learn words that were said since the last one.
const LEARN: Duration = Duration::from_secs(1);

/// A query in words that were said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correction {
    /// The whole query.
    pub query: String,
    /// What was typed, and what stands for it, in order.
    pub replaced: Vec<(String, String)>,
}

/// The query with every word that occurs nowhere replaced by the most likely one that does; `None` where nothing is to be
/// replaced. Left alone are exclusions, beginnings (`word*`), numbers, short words, scripts without spaces, and what
/// `is_word` knows: a proper word that nobody happened to say is no mistake, and may be answered by its meaning.
///
/// # Errors
/// [`SearchError::Store`].
pub async fn corrected(
    store: &Store,
    query: &str,
    is_word: impl Fn(&str) -> bool,
) -> Result<Option<Correction>, SearchError> {
    let asked = candidates(query);
    if asked.is_empty() {
        return Ok(None);
    }
    let unknown: Vec<String> = sqlx::query_scalar(
        "SELECT word FROM (SELECT DISTINCT unnest($1::text[]) AS word) w
         WHERE NOT EXISTS (SELECT FROM vocabulary v WHERE v.word = w.word)",
    )
    .bind(asked.iter().map(|(word, _)| word.clone()).collect::<Vec<_>>())
    .fetch_all(store.pool())
    .await?;
    let unknown: Vec<String> = unknown.into_iter().filter(|word| !is_word(word)).collect();
    if unknown.is_empty() {
        return Ok(None);
    }
    // Said since the words were learnt last, or in another form.
    let unsaid: Vec<String> = sqlx::query_scalar(
        "WITH readings AS (
             SELECT DISTINCT spoken_config(language) AS config FROM languages
             UNION SELECT 'pg_catalog.simple'::regconfig
         ), asked AS MATERIALIZED (
             SELECT word, string_agg(DISTINCT '(' || q::text || ')', ' | ')::tsquery AS q
             FROM readings, unnest($1::text[]) AS word, LATERAL phraseto_tsquery(config, word) AS q
             WHERE numnode(q) > 0 GROUP BY word
         )
         SELECT word FROM asked WHERE NOT EXISTS (SELECT FROM segments WHERE tsv @@ asked.q)",
    )
    .bind(&unknown)
    .fetch_all(store.pool())
    .await?;
    if unsaid.is_empty() {
        return Ok(None);
    }
    store.learn_words(LEARN).await?;
    let meant = meant(store, &unsaid).await?;
    Ok(rewrite(query, &asked, &meant))
}

/// The words of a query that may be corrected, with their places.
fn candidates(query: &str) -> Vec<(String, Range<usize>)> {
    let said = |range: &Range<usize>| {
        let (before, after) = (&query[..range.start], &query[range.end..]);
        let excluded = before.trim_end_matches('"').ends_with('-');
        !excluded && !after.starts_with('*')
    };
    words(query)
        .into_iter()
        .filter(|w| {
            let length = w.folded.chars().count();
            (SHORTEST..=LONGEST).contains(&length)
                && w.folded.chars().all(|c| c.is_alphabetic() && !stands_alone(c))
                && said(&w.bytes)
        })
        .map(|w| (w.folded, w.bytes))
        .take(MOST)
        .collect()
}

/// Letters that may differ: one in short words, two in longer ones.
fn allowed(length: usize) -> usize {
    if length < 6 { 1 } else { 2 }
}

/// For each word the one of the library that is most likely meant: fewest differences, then the same first letter, which
/// people hardly ever get wrong, then the one said most often.
async fn meant(store: &Store, unsaid: &[String]) -> Result<HashMap<String, String>, SearchError> {
    let typed: Vec<Vec<char>> = unsaid.iter().map(|w| w.chars().collect()).collect();
    let shortest = typed.iter().map(|w| w.len() - allowed(w.len())).min().unwrap_or(0);
    let longest = typed.iter().map(|w| w.len() + allowed(w.len())).max().unwrap_or(0);
    let known: Vec<(String, i64)> =
        sqlx::query_as("SELECT word, said FROM vocabulary WHERE char_length(word) BETWEEN $1 AND $2")
            .bind(shortest as i32)
            .bind(longest as i32)
            .fetch_all(store.pool())
            .await?;
    let mut best: Vec<Option<(usize, bool, i64, &str)>> = vec![None; typed.len()];
    let mut letters = Vec::new();
    for (word, said) in &known {
        letters.clear();
        letters.extend(word.chars());
        for (typed, best) in typed.iter().zip(&mut best) {
            let Some(distance) = distance(typed, &letters, allowed(typed.len())) else { continue };
            let this = (distance, typed.first() != letters.first(), -said, word.as_str());
            if best.is_none_or(|best| this < best) {
                *best = Some(this);
            }
        }
    }
    Ok(unsaid.iter().zip(best).filter_map(|(word, best)| Some((word.clone(), best?.3.to_owned()))).collect())
}

/// Letters changed, added, left out or swapped with their neighbour to make `b` of `a`, if at most `most` (optimal string
/// alignment).
fn distance(a: &[char], b: &[char], most: usize) -> Option<usize> {
    if a.len().abs_diff(b.len()) > most {
        return None;
    }
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut row = vec![0; b.len() + 1];
    for i in 1..=a.len() {
        row[0] = i;
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j - 1] + same).min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        if row.iter().min().is_some_and(|least| *least > most) {
            return None;
        }
        std::mem::swap(&mut before, &mut last);
        std::mem::swap(&mut last, &mut row);
    }
    (last[b.len()] <= most).then_some(last[b.len()])
}

/// The query with words put in the place of others.
fn rewrite(
    query: &str,
    asked: &[(String, Range<usize>)],
    meant: &HashMap<String, String>,
) -> Option<Correction> {
    let (mut text, mut replaced, mut at) = (String::new(), Vec::new(), 0);
    for (word, range) in asked {
        let Some(instead) = meant.get(word) else { continue };
        text.push_str(&query[at..range.start]);
        text.push_str(instead);
        replaced.push((query[range.clone()].to_owned(), instead.clone()));
        at = range.end;
    }
    text.push_str(&query[at..]);
    (!replaced.is_empty()).then_some(Correction { query: text, replaced })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between(a: &str, b: &str, most: usize) -> Option<usize> {
        distance(&a.chars().collect::<Vec<_>>(), &b.chars().collect::<Vec<_>>(), most)
    }

    #[test]
    fn differences_are_counted_up_to_a_limit() {
        assert_eq!(between("lovelace", "lovelace", 2), Some(0));
        assert_eq!(between("lovlace", "lovelace", 2), Some(1));
        assert_eq!(between("lovealce", "lovelace", 2), Some(1), "a swap is one");
        assert_eq!(between("shwarzeneger", "schwarzenegger", 2), Some(2));
        assert_eq!(between("abc", "xyz", 2), None);
        assert_eq!(between("שלום", "שלומ", 1), Some(1));
        assert_eq!(between("", "a", 1), Some(1));
        assert_eq!(between("", "", 0), Some(0));
    }

    #[test]
    fn only_plain_words_are_looked_up() {
        let asked: Vec<String> = candidates(
            "the Kathedrale -barok photo* \"gothic arch\" -\"other one\" 1234 a1b2 東京都 Città 🎉",
        )
        .into_iter()
        .map(|(word, _)| word)
        .collect();
        assert_eq!(asked, ["kathedrale", "gothic", "arch", "citta"]);
    }

    #[test]
    fn the_rest_of_the_query_stays_as_typed() {
        let query = "who met \"Ada Lovlace\" -Babage OR Turring?";
        let meant: HashMap<String, String> =
            [("lovlace", "lovelace"), ("babage", "babbage"), ("turring", "turing")]
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
                .into();
        let correction = rewrite(query, &candidates(query), &meant).unwrap();
        assert_eq!(correction.query, "who met \"Ada lovelace\" -Babage OR turing?");
        assert_eq!(
            correction.replaced,
            [("Lovlace".to_owned(), "lovelace".to_owned()), ("Turring".to_owned(), "turing".to_owned())]
        );
        assert_eq!(rewrite(query, &candidates(query), &HashMap::new()), None);
    }
}
