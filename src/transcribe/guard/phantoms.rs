//! Sentences known to be written where nobody speaks; the list is `phantoms.txt`.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::units::{Unit, units};

/// How little a known sentence is to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Match {
    /// People say it too.
    Closing,
    /// Only ever written.
    Credit,
}

/// Words that may follow a sentence with a star, and characters in scripts without spaces.
const TAIL_WORDS: usize = 6;
const TAIL_CHARACTERS: usize = 12;

struct List {
    /// By its letters without spaces; each with its language.
    whole: HashMap<String, Vec<(&'static str, Match)>>,
    /// Beginnings of credits.
    beginnings: Vec<String>,
}

static LIST: LazyLock<List> = LazyLock::new(|| read(include_str!("phantoms.txt")));

fn read(text: &'static str) -> List {
    let mut list = List { whole: HashMap::new(), beginnings: Vec::new() };
    let mut kind = Match::Closing;
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        match line {
            "[credit]" => kind = Match::Credit,
            "[closing]" => kind = Match::Closing,
            _ => {
                let (language, sentence) = line.split_once(' ').unwrap_or(("", line));
                let key = letters(&units(sentence));
                if sentence.ends_with('*') {
                    list.beginnings.push(key);
                } else {
                    list.whole.entry(key).or_default().push((language, kind));
                }
            }
        }
    }
    list
}

fn letters(units: &[Unit]) -> String {
    units.iter().map(|u| u.text.as_str()).collect()
}

/// What `said` is as a whole. A closing counts in its own language and in English, which models fall back to.
pub(super) fn find(said: &[Unit], language: &str) -> Option<Match> {
    let key = letters(said);
    if let Some(entries) = LIST.whole.get(&key) {
        let best = entries
            .iter()
            .filter(|(l, m)| *m == Match::Credit || *l == language || *l == "en")
            .map(|(_, m)| *m);
        if let Some(best) = best.max() {
            return Some(best);
        }
    }
    LIST.beginnings.iter().any(|beginning| begins(&key, said, beginning)).then_some(Match::Credit)
}

/// `said` begins with these letters, at the end of a word, and little follows.
fn begins(key: &str, said: &[Unit], beginning: &str) -> bool {
    if !key.starts_with(beginning) {
        return false;
    }
    let mut length = 0;
    let Some(last) = said.iter().position(|u| {
        length += u.text.len();
        length >= beginning.len()
    }) else {
        return false;
    };
    let tail = &said[last + 1..];
    let characters = tail.iter().filter(|u| u.single).count();
    length == beginning.len() && tail.len() - characters <= TAIL_WORDS && characters <= TAIL_CHARACTERS
}

/// Where in the text (bytes) a credit begins that ends it, behind something else.
pub(super) fn trailing_credit(said: &[Unit], language: &str) -> Option<usize> {
    // Two words or four characters at least: what is shorter may be a name.
    (1..said.len().saturating_sub(1)).find_map(|from| {
        let tail = &said[from..];
        let key = letters(tail);
        let credit = LIST.whole.get(&key).is_some_and(|entries| {
            entries.iter().any(|(l, m)| *m == Match::Credit && (*l == language || tail.len() >= 4))
        });
        (credit && key.chars().count() >= 4).then(|| tail[0].start)
    })
}

/// `[Music]`, `(applause)`, `*sighs*`: what is heard, described.
pub(super) fn is_sound_label(text: &str, said: &[Unit]) -> bool {
    let text = text.trim().trim_end_matches(['.', '。']);
    let inner = [('[', ']'), ('(', ')'), ('*', '*'), ('（', '）'), ('【', '】'), ('［', '］')]
        .iter()
        .find_map(|(open, close)| text.strip_prefix(*open)?.strip_suffix(*close));
    inner.is_some_and(|inner| {
        !inner.contains(['[', ']', '(', ')', '*', '（', '）', '?', '？'])
            && said.len() <= if said.iter().all(|u| u.single) { 8 } else { 3 }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_list_is_understood() {
        for line in include_str!("phantoms.txt")
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty() && !l.starts_with('#'))
        {
            if line.starts_with('[') {
                assert!(["[credit]", "[closing]"].contains(&line), "{line}");
                continue;
            }
            let (language, sentence) = line.split_once(' ').unwrap();
            assert!((2..=3).contains(&language.len()) && language.is_ascii(), "{line}");
            let said = units(sentence);
            assert!(!said.is_empty(), "{line}");
            assert!(find(&said, language).is_some(), "{line}");
        }
    }

    #[test]
    fn a_beginning_ends_with_its_word_and_not_much_follows() {
        for (text, credit) in [
            ("Untertitel im Auftrag des ZDF, 2021", true),
            ("Untertitel im Auftrag des ZDF für funk, 2017", true),
            ("Untertitelung. BR 2018", true),
            ("Субтитры сделал Иван Петров", true),
            ("Субтитры сделал он сам вчера вечером дома, когда все уже давно спали", false),
            ("Captioned byline", false),
            ("字幕志愿者 杨栋梁", true),
            ("Copyright WDR 2021", true),
        ] {
            assert_eq!(find(&units(text), "xx") == Some(Match::Credit), credit, "{text}");
        }
    }
}
