//! What was typed, taken apart.

use unicode_normalization::UnicodeNormalization;

use super::words::{Word, stands_alone, words};

/// Characters of a query that are looked at; a pasted page is cut.
const LONGEST: usize = 2_000;
/// Words longer than this are no words. PostgreSQL indexes none above 2,046 bytes.
const LONGEST_WORD: usize = 200;

/// A query as the searches take it. All strings are data for bind parameters.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Query {
    /// The words without operators, as typed, joined by spaces.
    pub plain: String,
    /// As compared in Rust.
    pub words: Vec<Word>,
    /// For `websearch_to_tsquery`: every word and phrase in quotes, so that nothing in them is an operator.
    pub wanted: String,
    /// Likewise, what must not occur; alternatives.
    pub unwanted: String,
    /// Words for the relaxed search: those of scripts without spaces as pairs of characters.
    pub any: Vec<String>,
    /// Operators were used: results must obey them.
    pub strict: bool,
}

enum Part {
    Word(String),
    Phrase(String),
    Without(String),
    Or,
}

impl Query {
    pub(super) fn parse(typed: &str) -> Self {
        let text: String = typed.nfkc().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect();
        let text = text.replace(['“', '”', '„', '«', '»'], "\"");
        let parts = parts(&text);
        let positive = parts.iter().any(|p| matches!(p, Part::Word(_) | Part::Phrase(_)));
        let operators = parts.iter().any(|p| !matches!(p, Part::Word(_)));
        if operators && positive { Self::strict(&parts) } else { Self::plain(&text) }
    }

    /// The same words without operators.
    pub(super) fn relaxed(&self) -> Self {
        Self::plain(&self.plain)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    fn plain(text: &str) -> Self {
        let text = text.replace('"', " ");
        let kept: Vec<&str> = text.split_whitespace().filter(|w| w.chars().count() <= LONGEST_WORD).collect();
        Self::new(
            &kept,
            kept.iter().map(|w| format!("\"{w}\"")).collect::<Vec<_>>().join(" "),
            String::new(),
            false,
        )
    }

    fn strict(parts: &[Part]) -> Self {
        let (mut plain, mut wanted, mut unwanted) = (Vec::new(), Vec::new(), Vec::new());
        for part in parts {
            match part {
                Part::Word(text) | Part::Phrase(text) => {
                    plain.push(text.as_str());
                    wanted.push(format!("\"{text}\""));
                }
                Part::Without(text) => unwanted.push(format!("\"{text}\"")),
                Part::Or => wanted.push("or".to_owned()),
            }
        }
        Self::new(&plain, wanted.join(" "), unwanted.join(" or "), true)
    }

    fn new(plain: &[&str], wanted: String, unwanted: String, strict: bool) -> Self {
        let plain = plain.join(" ");
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
        Self { words: words(&plain), plain, wanted, unwanted, any, strict }
    }
}

/// Words, quoted phrases, `-without` and `OR`. A hyphen before anything but a letter or a quote is part of the word
/// ("-5"); a quote without its partner is none.
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
        let spoken = !words(&text).is_empty() && (phrase || text.chars().count() <= LONGEST_WORD);
        match (spoken, without, phrase) {
            (true, true, _) => parts.push(Part::Without(text)),
            (true, false, true) => parts.push(Part::Phrase(text)),
            (true, false, false) if text == "OR" => {
                // Only between two things.
                if matches!(parts.last(), Some(Part::Word(_) | Part::Phrase(_))) {
                    parts.push(Part::Or);
                }
            }
            (true, false, false) => parts.push(Part::Word(text)),
            (false, ..) => {}
        }
        rest = after.trim_start();
    }
    if matches!(parts.last(), Some(Part::Or)) {
        parts.pop();
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_words_are_quoted_one_by_one() {
        let query = Query::parse("this or that & !other:*  -5 a|b");
        assert!(!query.strict);
        assert_eq!(query.wanted, r#""this" "or" "that" "&" "!other:*" "-5" "a|b""#);
        assert_eq!(query.unwanted, "");
    }

    #[test]
    fn operators_of_the_web() {
        let query = Query::parse(r#"cat "sat down" OR slept -dog -"big house""#);
        assert!(query.strict);
        assert_eq!(query.wanted, r#""cat" "sat down" or "slept""#);
        assert_eq!(query.unwanted, r#""dog" or "big house""#);
        assert_eq!(query.plain, "cat sat down slept");
        let relaxed = query.relaxed();
        assert_eq!((relaxed.wanted.as_str(), relaxed.strict), (r#""cat" "sat" "down" "slept""#, false));
    }

    #[test]
    fn what_only_looks_like_operators_is_words() {
        for typed in ["-dog", "\"", "\"unclosed phrase", "OR", "a OR", "--", "- a"] {
            let query = Query::parse(typed);
            assert!(!query.strict, "{typed}: {query:?}");
        }
        assert_eq!(Query::parse("-dog").plain, "-dog");
    }

    #[test]
    fn hostile_and_endless_queries_shrink() {
        assert!(Query::parse("").is_empty());
        assert!(Query::parse(" \0\t\n").is_empty());
        assert!(Query::parse("& | ! ( ) <-> :* ''").is_empty());
        assert!(Query::parse(&"x".repeat(10_000)).is_empty());
        assert!(Query::parse(&"word ".repeat(10_000)).plain.len() <= LONGEST);
        assert!(Query::parse("🎉🎉").is_empty());
    }

    #[test]
    fn scripts_without_spaces_are_searched_in_pairs() {
        assert_eq!(Query::parse("東京駅 go").any, ["go", "京駅", "東京"]);
        assert_eq!(Query::parse("東").any, ["東"]);
    }
}
