//! Numbers as people read them. Pure functions.

/// A count with its noun: `1 item`, `3 items`; thousands are separated by thin groups of three (`12 345`).
pub fn count(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(n), if n == 1 { "" } else { "s" })
}

/// `12345` as `12 345`; four digits stay together.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    if digits.len() < 5 {
        return digits;
    }
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

/// A length of time in its two largest units: `850 ms`, `9.4 s`, `41 s`, `12 min 3 s`, `3 h 20 min`, `2 d 4 h`.
pub fn duration(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 if ms == 0 => "0 s".into(),
        0 => format!("{ms} ms"),
        1..10 => format!("{:.1} s", (ms / 100) as f64 / 10.0),
        10..60 => format!("{s} s"),
        60..3_600 => two(s / 60, "min", s % 60, "s"),
        3_600..86_400 => two(s / 3_600, "h", s % 3_600 / 60, "min"),
        _ => two(s / 86_400, "d", s % 86_400 / 3_600, "h"),
    }
}

fn two(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 {
        format!("{large} {large_unit}")
    } else {
        format!("{large} {large_unit} {small} {small_unit}")
    }
}

/// What is left, no more exact than it is known: `under 10 s`, `40 s`, `6 min`, `1 h 10 min`, `3 d`.
pub fn remaining(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..10 => "under 10 s".into(),
        10..55 => format!("{} s", (s + 2) / 5 * 5),
        55..3_570 => format!("{} min", ((s + 30) / 60).max(1)),
        3_570..36_000 => {
            let minutes = (s + 150) / 300 * 5;
            two(minutes / 60, "h", minutes % 60, "min")
        }
        36_000..172_800 => format!("{} h", (s + 1_800) / 3_600),
        _ => format!("{} d", (s + 43_200) / 86_400),
    }
}

/// A place in audio: `4:05`, `1:02:31`.
pub fn clock(ms: u64) -> String {
    let s = ms / 1000;
    if s >= 3_600 {
        format!("{}:{:02}:{:02}", s / 3_600, s % 3_600 / 60, s % 60)
    } else {
        format!("{}:{:02}", s / 60, s % 60)
    }
}

/// A size in decimal units, three digits: `812 B`, `9.4 MB`, `118 MB`, `1.20 GB`.
pub fn bytes(n: u64) -> String {
    let (value, unit) = scaled(n);
    if unit == "B" { format!("{n} B") } else { format!("{} {unit}", three_digits(value)) }
}

/// `done` of `total` in the unit of `total`: `12 of 118 MB`.
pub fn bytes_of(done: u64, total: u64) -> String {
    let (value, unit) = scaled(total.max(done));
    if unit == "B" {
        return format!("{done} of {total} B");
    }
    let scale = total.max(done) as f64 / value;
    format!("{} of {} {unit}", at_precision(done as f64 / scale, value), three_digits(total as f64 / scale))
}

fn scaled(n: u64) -> (f64, &'static str) {
    let n = n as f64;
    match n {
        n if n < 1e3 => (n, "B"),
        n if n < 999.5e3 => (n / 1e3, "kB"),
        n if n < 999.5e6 => (n / 1e6, "MB"),
        n if n < 999.5e9 => (n / 1e9, "GB"),
        n => (n / 1e12, "TB"),
    }
}

fn three_digits(value: f64) -> String {
    at_precision(value, value)
}

/// `value` with as many decimals as `like` deserves.
fn at_precision(value: f64, like: f64) -> String {
    if like < 9.95 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// Audio transcribed per time, which is the same number as hours of audio an hour: `0.42`, `9.4`, `61`, `1 240`.
pub fn rate(audio_ms: u64, wall_ms: u64) -> Option<String> {
    if audio_ms == 0 || wall_ms == 0 {
        return None;
    }
    let value = audio_ms as f64 / wall_ms as f64;
    Some(match value {
        v if v < 0.995 => format!("{v:.2}"),
        v if v < 9.95 => format!("{v:.1}"),
        v => grouped(v.round() as u64),
    })
}

/// `part` of `whole` in percent, at most 100; 0 where there is no whole.
pub fn percent(part: u64, whole: u64) -> u64 {
    part.saturating_mul(100).checked_div(whole).map_or(0, |p| p.min(100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_agree_with_their_noun() {
        assert_eq!(count(0, "item"), "0 items");
        assert_eq!(count(1, "item"), "1 item");
        assert_eq!(count(1234, "item"), "1234 items");
        assert_eq!(count(1_234_567, "segment"), "1 234 567 segments");
        assert_eq!(grouped(12_345), "12 345");
    }

    #[test]
    fn durations_show_two_units() {
        for (ms, text) in [
            (0, "0 s"),
            (850, "850 ms"),
            (9_449, "9.4 s"),
            (9_999, "9.9 s"),
            (10_000, "10 s"),
            (59_999, "59 s"),
            (60_000, "1 min"),
            (723_000, "12 min 3 s"),
            (3_600_000, "1 h"),
            (12_000_000, "3 h 20 min"),
            (187_200_000, "2 d 4 h"),
        ] {
            assert_eq!(duration(ms), text, "{ms}");
        }
    }

    #[test]
    fn estimates_are_rounded() {
        for (ms, text) in [
            (0, "under 10 s"),
            (12_000, "10 s"),
            (38_400, "40 s"),
            (56_000, "1 min"),
            (89_000, "1 min"),
            (370_000, "6 min"),
            (3_569_000, "59 min"),
            (3_580_000, "1 h"),
            (4_100_000, "1 h 10 min"),
            (40_000_000, "11 h"),
            (260_000_000, "3 d"),
        ] {
            assert_eq!(remaining(ms), text, "{ms}");
        }
    }

    #[test]
    fn places_in_audio() {
        assert_eq!(clock(0), "0:00");
        assert_eq!(clock(245_000), "4:05");
        assert_eq!(clock(3_751_000), "1:02:31");
    }

    #[test]
    fn sizes_keep_three_digits() {
        for (n, text) in [
            (812, "812 B"),
            (9_400, "9.4 kB"),
            (118_000_000, "118 MB"),
            (999_900_000, "1.0 GB"),
            (2_500_000_000_000, "2.5 TB"),
        ] {
            assert_eq!(bytes(n), text);
        }
        assert_eq!(bytes_of(12_300_000, 118_000_000), "12 of 118 MB");
        assert_eq!(bytes_of(300_000, 4_200_000), "0.3 of 4.2 MB");
        assert_eq!(bytes_of(0, 10), "0 of 10 B");
    }

    #[test]
    fn rates_and_shares() {
        assert_eq!(rate(0, 10), None);
        assert_eq!(rate(10, 0), None);
        assert_eq!(rate(42, 100).as_deref(), Some("0.42"));
        assert_eq!(rate(940, 100).as_deref(), Some("9.4"));
        assert_eq!(rate(6_123, 100).as_deref(), Some("61"));
        assert_eq!(percent(1, 3), 33);
        assert_eq!(percent(5, 0), 0);
        assert_eq!(percent(5, 3), 100);
    }
}
