//! Words of a text as they are compared: without case and accents, each with its place in the text.

use std::ops::Range;

use unicode_normalization::char::{decompose_compatible, is_combining_mark};

/// A word, or a character of a script written without spaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    /// Lower case, compatibility-decomposed, without combining marks.
    pub folded: String,
    /// Where it stands.
    pub bytes: Range<usize>,
}

/// Characters that are words of their own, as in the SQL function `spoken_fold`.
pub(super) fn stands_alone(c: char) -> bool {
    matches!(c,
        '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3005}'..='\u{3007}'
        | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

/// The words of `text` in order. An apostrophe within a word belongs to it, but is not compared.
pub(super) fn words(text: &str) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    // Where the word that is being read ends so far.
    let mut open = false;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let end = at + c.len_utf8();
        let letter = c.is_alphanumeric() || is_combining_mark(c);
        let apostrophe = open
            && matches!(c, '\'' | '\u{2019}' | '\u{2bc}')
            && chars.peek().is_some_and(|(_, next)| next.is_alphanumeric());
        if !letter && !apostrophe {
            open = false;
            continue;
        }
        let alone = stands_alone(c);
        if !open || alone {
            if is_combining_mark(c) && !alone {
                continue;
            }
            words.push(Word { folded: String::new(), bytes: at..end });
        }
        if let Some(word) = words.last_mut() {
            word.bytes.end = end;
            if letter {
                fold_into(c, &mut word.folded);
            }
        }
        open = !alone;
    }
    words.retain(|word| !word.folded.is_empty());
    words
}

fn fold_into(c: char, folded: &mut String) {
    decompose_compatible(c, |part| {
        if !is_combining_mark(part) {
            folded.extend(part.to_lowercase());
        }
    });
}

/// Whether two folded words are forms of one, as far as their letters tell: most of the shorter one begins both.
/// Only a help in finding a place within a passage that was already found.
pub(super) fn similar(a: &str, b: &str) -> bool {
    let same = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count();
    let (short, long) = {
        let (a, b) = (a.chars().count(), b.chars().count());
        (a.min(b), a.max(b))
    };
    same >= 4 && same * 4 >= short * 3 && long - same <= 4
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(text: &str) -> Vec<String> {
        words(text).into_iter().map(|w| w.folded).collect()
    }

    #[test]
    fn case_accents_and_width_are_folded() {
        assert_eq!(folded("La CANCIÓN, ｆｕｌｌ e\u{301}té ﬁn"), ["la", "cancion", "full", "ete", "fin"]);
        assert_eq!(folded("Don't stop — it's O’Neil's 'quote'"), ["dont", "stop", "its", "oneils", "quote"]);
    }

    #[test]
    fn scripts_without_spaces_fall_into_characters() {
        assert_eq!(folded("東京へgo！"), ["東", "京", "へ", "go"]);
    }

    #[test]
    fn ranges_point_at_the_words() {
        let text = "¿Qué? e\u{301}té 🎉 שלום don't";
        let found: Vec<&str> = words(text).into_iter().map(|w| &text[w.bytes]).collect();
        assert_eq!(found, ["Qué", "e\u{301}té", "שלום", "don't"]);
    }

    #[test]
    fn forms_of_a_word_are_similar_and_others_are_not() {
        assert!(similar("houses", "house"));
        assert!(similar("canciones", "cancion"));
        assert!(!similar("house", "horse"));
        assert!(!similar("the", "then"));
        assert!(!similar("inter", "international"));
    }
}
