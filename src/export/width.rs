//! How wide text is on a screen, and where it may be broken.

use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

/// Columns that a text takes on a screen: two for East Asian wide forms and emoji, none for combining marks.
pub(super) fn columns(text: &str) -> usize {
    // The common case; the table is slow.
    if text.bytes().all(|b| (0x20..0x7f).contains(&b)) { text.len() } else { text.width() }
}

/// Characters as a reader sees them: marks with their letters, emoji with their parts.
pub(super) fn characters(text: &str) -> impl Iterator<Item = &str> {
    text.graphemes(true)
}

/// True for characters of scripts written without spaces: a line may be broken between two of them.
pub(super) fn stands_alone(character: &str) -> bool {
    character.chars().next().is_some_and(|c| {
        matches!(c,
            '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' // Thai, Lao, Burmese, Khmer
            | '\u{2e80}'..='\u{9fff}' | '\u{a000}'..='\u{a4cf}' | '\u{f900}'..='\u{faff}'
            | '\u{fe30}'..='\u{fe4f}' | '\u{ff00}'..='\u{ffef}' | '\u{1f000}'..='\u{1faff}'
            | '\u{20000}'..='\u{3fffd}')
    })
}

/// True for characters of Chinese, Japanese and Korean, each of which fills a square.
pub(super) fn is_square(c: char) -> bool {
    matches!(c, '\u{1100}'..='\u{11ff}' | '\u{3005}'..='\u{3007}' | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}'
        | '\u{ac00}'..='\u{d7a3}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3fffd}')
}

/// True where a character may not begin a line: closing brackets, full stops and small kana. What Japanese typesetting
/// calls kinsoku; the characters are classes cl-02 to cl-12 of <https://www.w3.org/TR/jlreq/#character_classes>.
pub(super) fn stays_behind(character: &str) -> bool {
    character.chars().next().is_some_and(|c| {
        matches!(
            c,
            '、' | '。'
                | '，'
                | '．'
                | '：'
                | '；'
                | '！'
                | '？'
                | '）'
                | '」'
                | '』'
                | '】'
                | '》'
                | '〉'
                | '］'
                | '｝'
                | '〕'
                | '”'
                | '’'
                | '»'
                | '…'
                | '‥'
                | '・'
                | '～'
                | '〜'
                | 'ー'
                | '々'
                | 'ゝ'
                | 'ゞ'
                | 'ぁ'
                | 'ぃ'
                | 'ぅ'
                | 'ぇ'
                | 'ぉ'
                | 'っ'
                | 'ゃ'
                | 'ゅ'
                | 'ょ'
                | 'ゎ'
                | 'ァ'
                | 'ィ'
                | 'ゥ'
                | 'ェ'
                | 'ォ'
                | 'ッ'
                | 'ャ'
                | 'ュ'
                | 'ョ'
                | 'ヮ'
                | 'ヵ'
                | 'ヶ'
                | '%'
                | '％'
                | '℃'
                | '｡'
                | '､'
                | '｣'
                | ','
                | '.'
                | '!'
                | '?'
                | ':'
                | ';'
                | ')'
                | ']'
                | '}'
                | 'ๆ'
                | 'ฯ'
        )
    })
}

/// True where a character may not end a line: opening brackets and currency signs.
pub(super) fn leads_on(character: &str) -> bool {
    character.chars().next().is_some_and(|c| {
        matches!(
            c,
            '（' | '「'
                | '『'
                | '【'
                | '《'
                | '〈'
                | '［'
                | '｛'
                | '〔'
                | '“'
                | '‘'
                | '«'
                | '｢'
                | '('
                | '['
                | '{'
                | '¥'
                | '￥'
                | '$'
                | '＄'
                | '€'
                | '£'
                | '№'
        )
    })
}

/// Text with every run of white space and control characters made one space: a line end inside a caption, a title
/// or a text line would end it.
pub(super) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn width_is_what_a_terminal_shows() {
        assert_eq!(columns("plain text"), 10);
        assert_eq!(columns("日本語"), 6);
        assert_eq!(columns("e\u{301}"), 1);
        assert_eq!(columns("👩\u{200d}👩\u{200d}👧"), 2);
        assert_eq!(columns("שלום"), 4);
    }

    #[test]
    fn characters_keep_their_parts() {
        assert_eq!(
            characters("e\u{301}👩\u{200d}👧🇩🇪").collect::<Vec<_>>(),
            ["e\u{301}", "👩\u{200d}👧", "🇩🇪"]
        );
    }

    #[test]
    fn one_line_has_single_spaces() {
        assert_eq!(one_line(" a\n\n b\u{1b}\tc "), "a b c");
    }
}
