//! A text in the pieces that guards count: words, or characters where a script puts no spaces between words.

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

/// A word, or a character of a script without spaces, as it is compared: NFKC, lower case, no punctuation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    pub text: String,
    /// Where it stands in the original, in bytes.
    pub start: usize,
    pub end: usize,
    /// A character of a script without spaces.
    pub single: bool,
}

/// Marks that belong to the letter before: accents, vowel signs, viramas.
pub(super) fn is_mark(c: char) -> bool {
    // Indic and Thai vowel signs have no combining class of their own.
    is_combining_mark(c)
        || matches!(c, '\u{200c}' | '\u{200d}' | '\u{0e30}'..='\u{0e3a}' | '\u{0e45}'..='\u{0e4e}')
}

/// Scripts whose words are not divided by spaces.
pub(super) fn is_unspaced(c: char) -> bool {
    matches!(u32::from(c),
        0x0e00..=0x0eff            // Thai, Lao
        | 0x0f00..=0x0fff          // Tibetan
        | 0x1000..=0x109f          // Myanmar
        | 0x1780..=0x17ff          // Khmer
        | 0x3005..=0x3007
        | 0x3040..=0x30ff          // Hiragana, Katakana
        | 0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xf900..=0xfaff // Han
        | 0xff66..=0xff9f          // half-width Katakana
        | 0x20000..=0x3134f)
}

/// Cuts `text` into units; what is neither letter nor digit divides.
pub(super) fn units(text: &str) -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::new();
    let mut word: Option<(usize, usize)> = None;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let end = at + c.len_utf8();
        if is_mark(c) {
            if let Some(word) = &mut word {
                word.1 = end;
            } else if let Some(last) = units.last_mut().filter(|u| u.single && u.end == at) {
                last.end = end;
            }
            continue;
        }
        if is_unspaced(c) && c.is_alphanumeric() {
            close(text, word.take(), &mut units);
            units.push(Unit { text: String::new(), start: at, end, single: true });
            continue;
        }
        // An apostrophe within a word is part of it.
        let inside = matches!(c, '\'' | '’' | 'ʼ')
            && word.is_some()
            && chars.peek().is_some_and(|(_, next)| next.is_alphanumeric() && !is_unspaced(*next));
        if c.is_alphanumeric() || inside {
            word.get_or_insert((at, end)).1 = end;
        } else {
            close(text, word.take(), &mut units);
        }
    }
    close(text, word, &mut units);
    for unit in units.iter_mut().filter(|u| u.single) {
        unit.text = normal(&text[unit.start..unit.end]);
    }
    units
}

fn close(text: &str, word: Option<(usize, usize)>, units: &mut Vec<Unit>) {
    if let Some((start, end)) = word {
        units.push(Unit { text: normal(&text[start..end]), start, end, single: false });
    }
}

fn normal(text: &str) -> String {
    text.nfkc().flat_map(char::to_lowercase).map(|c| if matches!(c, '’' | 'ʼ') { '\'' } else { c }).collect()
}
