//! What was typed, taken apart.

use unicode_normalization::UnicodeNormalization;

use super::words::{Word, stands_alone, words};

/// Characters of a query that are looked at; a pasted page is cut.
const LONGEST: usize = 2_000;
/// Characters of which these are chosen.
const MOST: usize = 100_000;
/// Words longer than this are no words. PostgreSQL indexes none above 2,046 bytes.
const LONGEST_WORD: usize = 200;

/// A query as the searches take it. All strings are data for bind parameters.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Query {
    /// The words without operators, as typed, joined by spaces.
    pub plain: String,
    /// As compared in Rust.
    pub words: Vec<Word>,
    /// Beginnings of words that were asked for, folded.
    pub beginnings: Vec<String>,
    /// Of each of these, one must occur.
    pub wanted: Vec<Vec<Term>>,
    /// What must not occur.
    pub unwanted: Vec<Term>,
    /// Words for the relaxed search: those of scripts without spaces as pairs of characters.
    pub any: Vec<String>,
    /// Operators were used: results must obey them. Exclusions are obeyed in any case.
    pub strict: bool,
}

/// A word, a phrase, or the beginning of a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Term {
    /// As typed; of a beginning, in the form of `to_tsquery`: quoted words of letters and digits, all but the last whole.
    pub text: String,
    /// Words that begin so.
    pub beginning: bool,
}

/// A piece of what was typed.
enum Part {
    Word(String),
    Phrase(String),
    Beginning(String),
    Or,
    Without(Term),
}

impl Query {
    pub(super) fn parse(typed: &str) -> Self {
        let text: String = typed.nfkc().take(MOST).map(|c| if c.is_control() { ' ' } else { c }).collect();
        let text = text.replace(['“', '”', '„', '«', '»'], "\"");
        // What is no word must not cost the words after it their place.
        let kept: Vec<&str> = text.split_whitespace().filter(|word| !endless(word)).collect();
        let text: String = kept.join(" ").chars().take(LONGEST).collect();
        Self::of(parts(&text))
    }

    /// The same words without operators, but what must not occur.
    pub(super) fn relaxed(&self) -> Self {
        let parts = self.plain.split_whitespace().map(|w| Part::Word(w.to_owned()));
        Self::of(parts.chain(self.unwanted.iter().cloned().map(Part::Without)).collect())
    }

    /// Any of these words, as many as possible; in no order, and none of them needed.
    pub(super) fn some_of(texts: Vec<String>) -> Self {
        let plain = texts.join(" ");
        Self {
            words: words(&plain),
            any: any(&plain),
            plain: String::new(),
            beginnings: Vec::new(),
            wanted: Vec::new(),
            unwanted: Vec::new(),
            strict: false,
        }
    }

    /// Whether there is nothing to look for.
    pub(super) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Whether only what must not occur was named.
    pub(super) fn only_excludes(&self) -> bool {
        self.is_empty() && !self.unwanted.is_empty()
    }

    fn of(parts: Vec<Part>) -> Self {
        let (mut plain, mut beginnings) = (Vec::new(), Vec::new());
        let (mut wanted, mut unwanted): (Vec<Vec<Term>>, _) = (Vec::new(), Vec::new());
        let (mut strict, mut or) = (false, false);
        for part in parts {
            let term = match part {
                Part::Or => {
                    (strict, or) = (true, true);
                    continue;
                }
                Part::Without(term) => {
                    unwanted.push(term);
                    continue;
                }
                Part::Word(text) => {
                    plain.push(text.clone());
                    Term { text, beginning: false }
                }
                Part::Phrase(text) => {
                    strict = true;
                    plain.push(text.clone());
                    Term { text, beginning: false }
                }
                Part::Beginning(text) => {
                    strict = true;
                    plain.push(text.clone());
                    beginnings.extend(words(&text).pop().map(|w| w.folded));
                    beginning(&text)
                }
            };
            match wanted.last_mut() {
                Some(group) if or => group.push(term),
                _ => wanted.push(vec![term]),
            }
            or = false;
        }
        let plain = plain.join(" ");
        Self { words: words(&plain), any: any(&plain), plain, beginnings, wanted, unwanted, strict }
    }
}

/// Whether something without spaces is too long to be said: what is written without spaces is not.
fn endless(word: &str) -> bool {
    word.split(stands_alone).any(|run| run.chars().count() > LONGEST_WORD)
}

/// The beginning of a word for `to_tsquery`.
fn beginning(text: &str) -> Term {
    let words: Vec<String> = words(text).into_iter().map(|w| format!("'{}'", w.folded)).collect();
    Term { text: words.join(" <-> ") + ":*", beginning: true }
}

/// Words for the relaxed search.
fn any(plain: &str) -> Vec<String> {
    let mut any = Vec::new();
    for word in plain.split_whitespace() {
        let chars: Vec<char> = word.chars().filter(|c| stands_alone(*c)).collect();
        if chars.is_empty() {
            any.push(word.to_owned());
        } else {
            any.extend(chars.windows(2).map(|pair| pair.iter().collect::<String>()));
            any.extend(word.split(stands_alone).filter(|w| !w.is_empty()).map(str::to_owned));
            if chars.len() == 1 {
                any.push(chars[0].to_string());
            }
        }
    }
    any.sort_unstable();
    any.dedup();
    any.truncate(100);
    any
}

/// Words, `"phrases"`, `beginnings*`, `-without` and `OR`, which binds its two neighbours. A hyphen before anything but a
/// letter or a quote is part of the word ("-5"); a quote without its partner is none, and so is a star after fewer than
/// two letters: half of all words begin with a given one.
fn parts(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (without, body) = match rest.strip_prefix('-') {
            Some(body) if body.starts_with(|c: char| c.is_alphabetic() || c == '"') => (true, body),
            _ => (false, rest),
        };
        let quoted = body.strip_prefix('"').and_then(|inner| inner.split_once('"'));
        let (text, phrase, after) = match quoted {
            Some((phrase, after)) => (phrase.trim(), true, after),
            None => {
                let end = body
                    .char_indices()
                    .skip(1)
                    .find(|(_, c)| c.is_whitespace() || *c == '"')
                    .map_or(body.len(), |(at, _)| at);
                (&body[..end], false, &body[end..])
            }
        };
        let text = text.replace('"', " ").trim().to_owned();
        let read = words(&text);
        let spoken = !read.is_empty();
        let letters = read.last().map_or(0, |w| w.folded.chars().count());
        let open = !phrase
            && text.ends_with('*')
            && (letters >= 2 || text.trim_end_matches('*').ends_with(stands_alone));
        match (spoken, without) {
            (false, _) => {}
            (true, true) if open => parts.push(Part::Without(beginning(&text))),
            (true, true) => parts.push(Part::Without(Term { text, beginning: false })),
            (true, false) if text == "OR" && !phrase => {
                // Only between two things.
                if matches!(parts.last(), Some(Part::Word(_) | Part::Phrase(_) | Part::Beginning(_))) {
                    parts.push(Part::Or);
                }
            }
            (true, false) if open => parts.push(Part::Beginning(text.trim_end_matches('*').to_owned())),
            (true, false) if phrase => parts.push(Part::Phrase(text)),
            (true, false) => parts.push(Part::Word(text)),
        }
        rest = after.trim_start();
    }
    // Nothing follows it but exclusions.
    if let Some(at) = parts.iter().rposition(|p| !matches!(p, Part::Without(_)))
        && matches!(parts[at], Part::Or)
    {
        parts.remove(at);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups of what is wanted, alternatives joined by `|`, and what is not.
    fn shape(query: &Query) -> (Vec<String>, Vec<&str>) {
        let group = |terms: &Vec<Term>| terms.iter().map(|t| t.text.as_str()).collect::<Vec<_>>().join("|");
        (query.wanted.iter().map(group).collect(), query.unwanted.iter().map(|t| t.text.as_str()).collect())
    }

    fn parsed(typed: &str) -> (Vec<String>, Vec<String>, bool) {
        let query = Query::parse(typed);
        let (wanted, unwanted) = shape(&query);
        (wanted, unwanted.into_iter().map(str::to_owned).collect(), query.strict)
    }

    fn owned(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    #[test]
    fn plain_words_stay_words() {
        let words = ["this", "or", "that", "!other:", "-5", "a|b"];
        assert_eq!(parsed("this or that & !other: -5 a|b"), (owned(&words), vec![], false));
    }

    #[test]
    fn operators_of_the_web() {
        let query = Query::parse(r#"cat "sat down" OR slept -dog -"big house""#);
        assert!(query.strict);
        assert_eq!(shape(&query), (owned(&["cat", "sat down|slept"]), vec!["dog", "big house"]));
        assert_eq!(query.plain, "cat sat down slept");
        let relaxed = query.relaxed();
        assert!(!relaxed.strict);
        assert_eq!(shape(&relaxed), (owned(&["cat", "sat", "down", "slept"]), vec!["dog", "big house"]));
        assert_eq!(parsed("a OR b OR c d").0, ["a|b|c", "d"]);
    }

    #[test]
    fn a_star_asks_for_words_that_begin_so() {
        let query = Query::parse("photo* Canció* 東* co-op* -micro* a* *b x:*");
        assert_eq!(
            shape(&query).0,
            ["'photo':*", "'cancio':*", "'東':*", "'co' <-> 'op':*", "a*", "*b", "x:*"]
        );
        assert_eq!((query.unwanted[0].text.as_str(), query.unwanted[0].beginning), ("'micro':*", true));
        assert_eq!(query.beginnings, ["photo", "cancio", "東", "op"]);
        assert!(query.strict);
        assert_eq!(Query::parse("'; --*").wanted, [] as [Vec<Term>; 0]);
        assert_eq!(parsed("\\'x'y':*").0, ["'xy':*"]);
    }

    #[test]
    fn what_only_looks_like_operators_is_words() {
        for typed in ["\"", "\"unclosed phrase", "OR", "a OR", "OR a", "--", "- a", "a OR -b", "5* a*"] {
            let query = Query::parse(typed);
            assert!(!query.strict, "{typed}: {query:?}");
        }
    }

    #[test]
    fn exclusions_alone_ask_for_nothing() {
        let query = Query::parse("-dog -\"big house\"");
        assert!(query.is_empty() && query.only_excludes());
        assert!(!Query::parse("").only_excludes());
        assert!(!Query::parse("cat -dog").only_excludes());
    }

    #[test]
    fn hostile_and_endless_queries_shrink() {
        assert!(Query::parse("").is_empty());
        assert!(Query::parse(" \0\t\n").is_empty());
        assert!(Query::parse("& | ! ( ) <-> :* ''").is_empty());
        assert!(Query::parse(&"x".repeat(10_000)).is_empty());
        assert_eq!(Query::parse(&format!("{} cat", "x".repeat(10_000))).plain, "cat");
        assert!(!Query::parse(&"東京".repeat(300)).is_empty());
        assert!(Query::parse(&"word ".repeat(10_000)).plain.len() <= LONGEST);
        assert!(Query::parse("🎉🎉").is_empty());
    }

    #[test]
    fn scripts_without_spaces_are_searched_in_pairs() {
        assert_eq!(Query::parse("東京駅 go").any, ["go", "京駅", "東京"]);
        assert_eq!(Query::parse("東").any, ["東"]);
    }
}
