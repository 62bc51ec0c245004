//! The same again and again.

use super::units::{Unit, is_mark};

/// Consecutive turns of the same units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Loop {
    /// First unit of the first turn.
    pub start: usize,
    /// Units in a turn.
    pub period: usize,
    /// Whole turns and what follows of a broken-off one, in units.
    length: usize,
}

impl Loop {
    /// Units from the first turn to the end of the last.
    pub fn len(&self) -> usize {
        self.length
    }
}

/// The longest turn that is looked for, in units.
const LONGEST_TURN: usize = 60;

/// Turns of `period` words from which nobody says that on purpose. One word ten times is "no, no, no …", a
/// telephone number or a song; a whole sentence four times in a row, in one breath, is none of these.
fn turns_of_words(period: usize) -> usize {
    match period {
        1 => 12,
        2 => 7,
        3 => 6,
        4..=5 => 5,
        6..=11 => 4,
        _ => 3,
    }
}

/// The same for characters of scripts without spaces, of which two or three make a word.
fn turns_of_characters(period: usize) -> usize {
    match period {
        1 => 14,
        2 => 10,
        3..=4 => 8,
        5..=7 => 6,
        8..=15 => 4,
        _ => 3,
    }
}

/// The loop that covers most of `units`, if there is one.
pub(super) fn longest(units: &[Unit]) -> Option<Loop> {
    let mut best: Option<Loop> = None;
    for period in 1..=(units.len() / 2).min(LONGEST_TURN) {
        let mut start = 0;
        while start + period < units.len() {
            let same = (start..units.len() - period)
                .take_while(|&i| units[i].text == units[i + period].text)
                .count();
            let length = same + period;
            let turn = &units[start..start + period];
            let needed = if turn.iter().all(|u| u.single) {
                turns_of_characters(period)
            } else {
                turns_of_words(period)
            };
            if length / period >= needed && best.is_none_or(|b| length > b.length) {
                best = Some(Loop { start, period, length });
            }
            start += same + 1;
        }
    }
    best
}

/// Characters of one kind in a row that no spelling of a cry has ("Goooool" has about ten).
const LONGEST_CRY: usize = 24;

/// A run of one character, or of two or three in turns, within a word.
pub(super) struct CharacterRun {
    /// Share of the text's letters.
    pub share: f32,
}

/// Whether a word is mostly such a run.
pub(super) fn longest_character_run(units: &[Unit]) -> Option<CharacterRun> {
    let all: usize = units.iter().map(|u| u.text.chars().count()).sum();
    let longest = units
        .iter()
        .filter(|u| !u.single)
        .map(|u| {
            let chars: Vec<char> = u.text.chars().collect();
            runs(&chars).map(|(_, length, _)| length).max().unwrap_or(0)
        })
        .max()
        .filter(|&length| length > 0)?;
    Some(CharacterRun { share: longest as f32 / all.max(1) as f32 })
}

/// Runs over [`LONGEST_CRY`]: first character, length, period.
fn runs(chars: &[char]) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
    let mut from = 0;
    std::iter::from_fn(move || {
        while from < chars.len() {
            for period in 1..=3 {
                let same = (from..chars.len().saturating_sub(period))
                    .take_while(|&i| chars[i] == chars[i + period])
                    .count();
                // "hahaha…" may last longer than "aaaa…".
                if same + period > LONGEST_CRY * period.min(2) {
                    let found = (from, same + period, period);
                    from += same + period;
                    return Some(found);
                }
            }
            from += 1;
        }
        None
    })
}

/// `text` with three turns left of each such run.
pub(super) fn without_character_runs(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut kept = String::with_capacity(text.len());
    let mut reached = 0;
    for (from, length, period) in runs(&chars) {
        if !chars[from].is_alphanumeric() && !is_mark(chars[from]) {
            continue;
        }
        kept.extend(&chars[reached..from + 3 * period]);
        reached = from + length;
    }
    kept.extend(&chars[reached..]);
    kept
}
