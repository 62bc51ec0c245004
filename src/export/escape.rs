//! Times and escapes of the formats.

/// `HH:MM:SS` and milliseconds after `mark`: a comma in SubRip, a full stop in WebVTT. Hours may grow beyond 99.
pub(super) fn time(ms: i64, mark: char) -> String {
    let ms = ms.max(0);
    format!("{:02}:{:02}:{:02}{mark}{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
}

/// `m:ss` or `h:mm:ss`, for people.
pub(super) fn clock(ms: i64) -> String {
    let s = ms.max(0) / 1000;
    let (h, m, s) = (s / 3600, s / 60 % 60, s % 60);
    if h > 0 { format!("{h}:{m:02}:{s:02}") } else { format!("{m}:{s:02}") }
}

/// SubRip has no escapes. Players read `<i>` and `{\an8}` as commands and `-->` as a time line, so their signs are
/// replaced by look-alikes.
pub(super) fn srt(line: &str) -> String {
    let line = line.replace("-->", "→");
    let mut safe = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            // Only where a command could begin: "x < 5" stays as it is.
            '<' if chars.peek().is_some_and(|n| n.is_ascii_alphabetic() || *n == '/') => safe.push('‹'),
            '{' => safe.push('('),
            '}' => safe.push(')'),
            c => safe.push(c),
        }
    }
    safe
}

/// WebVTT's escapes; `-->` cannot occur once `>` is escaped. <https://www.w3.org/TR/webvtt1/#webvtt-cue-text>
pub(super) fn vtt(line: &str) -> String {
    line.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// What Markdown would read as anything but text (<https://spec.commonmark.org/0.31.2/#backslash-escapes>), escaped. For text
/// that does not begin a line.
pub(super) fn markdown(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '&' | '~' | '|' | '#' | '$') {
            safe.push('\\');
        }
        safe.push(c);
    }
    safe
}

/// An address as the target of a Markdown link: what would end it is percent-encoded.
pub(super) fn target(address: &str) -> String {
    let mut safe = String::with_capacity(address.len());
    for c in address.chars() {
        match c {
            '(' => safe.push_str("%28"),
            ')' => safe.push_str("%29"),
            '<' => safe.push_str("%3C"),
            '>' => safe.push_str("%3E"),
            '\\' => safe.push_str("%5C"),
            c if c.is_whitespace() || c.is_control() => safe.push_str("%20"),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_any_length() {
        assert_eq!(time(3_661_001, ','), "01:01:01,001");
        assert_eq!(time(-5, '.'), "00:00:00.000");
        assert_eq!(time(400 * 3_600_000, '.'), "400:00:00.000");
        assert_eq!((clock(61_999), clock(3_661_000)), ("1:01".to_owned(), "1:01:01".to_owned()));
    }

    #[test]
    fn commands_become_text() {
        assert_eq!(
            srt("<font color=red>x --> y</font> {\\an8} 3 < 5"),
            "‹font color=red>x → y‹/font> (\\an8) 3 < 5"
        );
        assert_eq!(vtt("a < b && c --> d"), "a &lt; b &amp;&amp; c --&gt; d");
        assert_eq!(markdown("*a* [b](c) <d> &amp;"), "\\*a\\* \\[b\\](c) \\<d\\> \\&amp;");
        assert_eq!(target("file:///a (1)\n.mp4#t=3"), "file:///a%20%281%29%20.mp4#t=3");
    }
}
