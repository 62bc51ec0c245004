//! Colours and glyphs: a terminal gets both, a file neither.

use std::env;

use unicode_width::UnicodeWidthChar;

/// How text may be dressed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Style {
    /// Escape sequences for colours are allowed.
    pub(super) color: bool,
    /// Characters outside ASCII are allowed for ornaments.
    pub(super) unicode: bool,
}

/// A meaning, which a colour shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Bold,
    Dim,
    Good,
    Bad,
    Warn,
    Accent,
}

impl Style {
    /// For files and pipes.
    #[cfg(test)]
    pub(super) const PLAIN: Self = Self { color: false, unicode: true };

    /// What the terminal on stderr can show: colours unless `NO_COLOR` and the like forbid them, ornaments unless
    /// the locale names another character set than UTF-8.
    pub(super) fn detect() -> Self {
        Self { color: console::colors_enabled_stderr(), unicode: speaks_unicode(|name| env::var(name).ok()) }
    }

    /// `text` in the colour for `tone`.
    pub(super) fn paint(self, tone: Tone, text: &str) -> String {
        if !self.color || text.is_empty() {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Bold => "1",
            Tone::Dim => "2",
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Warn => "33",
            Tone::Accent => "36",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// `row` in characters that the terminal can show, as wide as before.
    pub(super) fn spell(self, row: String) -> String {
        if self.unicode || row.is_ascii() {
            return row;
        }
        let mut out = String::with_capacity(row.len());
        for c in row.chars() {
            match c {
                c if c.is_ascii() => out.push(c),
                '━' => out.push('='),
                '╸' | '–' => out.push('-'),
                '─' | '░' | '…' => out.push('.'),
                '▕' => out.push('['),
                '▏' => out.push(']'),
                '█' => out.push('#'),
                '·' => out.push('|'),
                '×' | '✗' => out.push('x'),
                '✓' => out.push('+'),
                '↻' => out.push('*'),
                '→' => out.push('>'),
                '↑' => out.push('^'),
                c => out.push_str(&"?".repeat(c.width().unwrap_or(0))),
            }
        }
        out
    }

    /// A thin bar of `columns`: `good` then `bad`, shares from 0 to 1, of the whole.
    pub(super) fn line(self, columns: usize, good: f64, bad: f64) -> String {
        let filled = |share: f64| (share.clamp(0.0, 1.0) * columns as f64 * 2.0).round() as usize;
        let bad = if bad > 0.0 { filled(bad).div_ceil(2).max(1).min(columns) } else { 0 };
        let good = filled(good).min(columns.saturating_sub(bad) * 2);
        let (whole, half) = (good / 2, good % 2);
        let rest = columns.saturating_sub(whole + half + bad);
        format!(
            "{}{}{}",
            self.paint(Tone::Accent, &("━".repeat(whole) + &"╸".repeat(half))),
            self.paint(Tone::Bad, &"━".repeat(bad)),
            self.paint(Tone::Dim, &"─".repeat(rest)),
        )
    }

    /// A gauge of `columns` with a frame: `▕██░░▏`; something is shown as soon as `part` is not 0.
    pub(super) fn gauge(self, columns: usize, part: usize, whole: usize) -> String {
        let filled = if whole == 0 { 0 } else { (part * columns).div_ceil(whole).min(columns) };
        let filled = if part < whole { filled.min(columns.saturating_sub(1)) } else { filled };
        format!(
            "▕{}{}▏",
            self.paint(Tone::Accent, &"█".repeat(filled)),
            self.paint(Tone::Dim, &"░".repeat(columns - filled)),
        )
    }
}

/// As the C library decides: the first of `LC_ALL`, `LC_CTYPE`, `LANG` that is set names the character set. Where
/// none is set (containers) the terminal outside is nearly always a UTF-8 one.
fn speaks_unicode(var: impl Fn(&str) -> Option<String>) -> bool {
    if var("TERM").as_deref() == Some("linux") {
        return false;
    }
    ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|name| var(name).filter(|v| !v.is_empty()))
        .is_none_or(|locale| {
            let locale = locale.to_ascii_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        })
}

#[cfg(test)]
mod tests {
    use super::super::text::width;
    use super::*;

    #[test]
    fn bars_have_the_width_asked_for() {
        for style in [Style::PLAIN, Style { color: true, unicode: false }] {
            for columns in [0, 1, 7, 40] {
                for step in 0..=20 {
                    let share = f64::from(step) / 20.0;
                    assert_eq!(width(&style.line(columns, share, 0.0)), columns);
                    assert_eq!(width(&style.line(columns, share, 1.0 - share)), columns);
                    assert_eq!(width(&style.gauge(columns, step as usize, 20)), columns + 2);
                }
            }
        }
    }

    #[test]
    fn a_gauge_is_full_only_when_all_are_busy() {
        assert_eq!(Style::PLAIN.gauge(4, 0, 24), "▕░░░░▏");
        assert_eq!(Style::PLAIN.gauge(4, 1, 24), "▕█░░░▏");
        assert_eq!(Style::PLAIN.gauge(4, 23, 24), "▕███░▏");
        assert_eq!(Style::PLAIN.gauge(4, 24, 24), "▕████▏");
        assert_eq!(Style::PLAIN.gauge(4, 0, 0), "▕░░░░▏");
    }

    #[test]
    fn halves_make_the_line_smooth() {
        assert_eq!(Style::PLAIN.line(4, 0.4, 0.0), "━╸──");
        assert_eq!(Style::PLAIN.line(4, 0.5, 0.25), "━━━─");
        assert_eq!(Style { color: true, unicode: true }.line(2, 1.0, 0.0), "\x1b[36m━━\x1b[0m");
    }

    #[test]
    fn other_character_sets_get_ascii_of_the_same_width() {
        let ascii = Style { color: false, unicode: false };
        let row = format!("{} {} · é 日本 ✗", ascii.gauge(4, 1, 2), ascii.line(4, 0.6, 0.0));
        assert_eq!(ascii.spell(row.clone()), "[##..] ==-. | ? ???? x");
        assert_eq!(width(&ascii.spell(row.clone())), width(&row));
        assert_eq!(Style::PLAIN.spell(row.clone()), row);
    }

    #[test]
    fn ornaments_follow_the_locale() {
        let with = |pairs: &'static [(&str, &str)]| {
            speaks_unicode(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
        };
        assert!(with(&[]));
        assert!(with(&[("LANG", "de_DE.UTF-8")]));
        assert!(!with(&[("LC_ALL", "C"), ("LANG", "de_DE.UTF-8")]));
        assert!(!with(&[("LANG", "de_DE.ISO-8859-1")]));
        assert!(!with(&[("TERM", "linux"), ("LANG", "de_DE.UTF-8")]));
    }
}
