//! What makes a transcript doubtful, as a person writes it: `avg_logprob < -0.8 and language = es`.
//!
//! A condition is comparisons joined by `and`; values reach the server as parameters only, columns are known names. Columns
//! of segments are those that hold for a whole window of the recording, so that the same condition tells which windows to
//! hear again.

use std::str::FromStr;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use sqlx::{Postgres, QueryBuilder};

/// The figures of a window by which its text is doubted.
#[derive(Clone, Copy, Debug)]
pub struct WindowFigures<'a> {
    /// Mean log-probability of its tokens.
    pub avg_logprob: f32,
    /// Probability that nobody speaks.
    pub no_speech_prob: f32,
    /// The language of its text.
    pub language: &'a str,
}

/// Comparisons that must all hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Condition {
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq)]
struct Term {
    column: &'static Column,
    compare: Compare,
    value: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compare {
    Less,
    LessOrEqual,
    Equal,
    Unequal,
    GreaterOrEqual,
    Greater,
    Contains,
}

/// Longest first, so that `<=` is not read as `<`.
const COMPARES: [(&str, Compare); 9] = [
    ("<=", Compare::LessOrEqual),
    (">=", Compare::GreaterOrEqual),
    ("!=", Compare::Unequal),
    ("<>", Compare::Unequal),
    ("==", Compare::Equal),
    ("=", Compare::Equal),
    ("<", Compare::Less),
    (">", Compare::Greater),
    ("~", Compare::Contains),
];

impl Compare {
    fn sql(self) -> &'static str {
        match self {
            Self::Less => " < ",
            Self::LessOrEqual => " <= ",
            Self::Equal => " = ",
            Self::Unequal => " IS DISTINCT FROM ",
            Self::GreaterOrEqual => " >= ",
            Self::Greater => " > ",
            Self::Contains => " contains ",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Number(f64),
    Text(String),
    Millis(i64),
    Time(DateTime<Utc>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Number,
    Text,
    Length,
    Time,
}

/// What can be compared.
#[derive(Debug, PartialEq, Eq)]
struct Column {
    name: &'static str,
    kind: Kind,
    /// Of each segment; else of the item.
    of_segments: bool,
    /// In a query with `segments` as `s` and `media` as `m`.
    sql: &'static str,
}

const fn column(name: &'static str, kind: Kind, of_segments: bool, sql: &'static str) -> Column {
    Column { name, kind, of_segments, sql }
}

static COLUMNS: [Column; 9] = [
    column("avg_logprob", Kind::Number, true, "s.avg_logprob::float8"),
    column("no_speech_prob", Kind::Number, true, "s.no_speech_prob::float8"),
    column("language", Kind::Text, true, "s.language"),
    column("model", Kind::Text, false, "m.model"),
    column("title", Kind::Text, false, "m.title"),
    column("channel", Kind::Text, false, "coalesce(m.channel, '')"),
    column("duration", Kind::Length, false, "m.duration_ms"),
    column("published", Kind::Time, false, "coalesce(m.published_at, m.discovered_at)"),
    column("flag", Kind::Text, false, "m.flags"),
];

/// What a condition may look like, for `--help` and for who got it wrong.
pub const GRAMMAR: &str = "COLUMN COMPARISON VALUE, joined by `and`; columns: avg_logprob, no_speech_prob, language, model, \
     title, channel, duration (90s, 1h30m), published (2026-01-31), flag; comparisons: < <= = != >= > and ~ (contains)";

impl FromStr for Condition {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut rest = text.trim();
        let mut terms = Vec::new();
        loop {
            let (term, after) = term(rest)?;
            terms.push(term);
            let after = after.trim_start();
            if after.is_empty() {
                return Ok(Self { terms });
            }
            let and = after.get(..3).filter(|w| w.eq_ignore_ascii_case("and"));
            rest = match and {
                Some(_) if after[3..].starts_with(char::is_whitespace) => after[3..].trim_start(),
                _ => return Err(format!("{after:?} is not understood; write {GRAMMAR}")),
            };
        }
    }
}

/// The first comparison of a text, and what follows it.
fn term(text: &str) -> Result<(Term, &str), String> {
    let name_ends = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(name_ends);
    let column = COLUMNS.iter().find(|c| c.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
        let what = if name.is_empty() { text } else { name };
        format!("{what:?} is nothing that can be compared; write {GRAMMAR}")
    })?;
    let rest = rest.trim_start();
    let (sign, compare) = COMPARES
        .iter()
        .find(|(sign, _)| rest.starts_with(sign))
        .ok_or_else(|| format!("no comparison after {name}; write {GRAMMAR}"))?;
    let (written, rest) = value(rest[sign.len()..].trim_start())?;
    let wrong = |what: &str| format!("{name} {sign} {written:?}: {what}");
    let ordered = !matches!(compare, Compare::Equal | Compare::Unequal | Compare::Contains);
    if column.kind == Kind::Text && ordered {
        return Err(wrong("texts are compared with =, != and ~"));
    }
    if column.kind != Kind::Text && *compare == Compare::Contains {
        return Err(wrong("only texts are searched with ~"));
    }
    let value = match column.kind {
        Kind::Text => Value::Text(written.clone()),
        Kind::Number => match written.parse::<f64>() {
            Ok(number) if number.is_finite() => Value::Number(number),
            _ => return Err(wrong("that is no number")),
        },
        Kind::Length => Value::Millis(length(&written).ok_or_else(|| wrong("write 90s, 30m or 1h30m"))?),
        Kind::Time => {
            let day = NaiveDate::parse_from_str(&written, "%Y-%m-%d");
            let day = day.map_err(|_| wrong("write a day as 2026-01-31"))?;
            Value::Time(day.and_time(NaiveTime::MIN).and_utc())
        }
    };
    Ok((Term { column, compare: *compare, value }, rest))
}

/// A value in quotation marks, or up to the next space.
fn value(text: &str) -> Result<(String, &str), String> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''));
    if let Some(quote) = quote {
        let inner = &text[1..];
        let end = inner.find(quote).ok_or_else(|| format!("{text:?}: a quotation mark is missing"))?;
        return Ok((inner[..end].to_owned(), &inner[end + 1..]));
    }
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    if end == 0 {
        return Err(format!("a value is missing; write {GRAMMAR}"));
    }
    Ok((text[..end].to_owned(), &text[end..]))
}

/// `90s`, `1h30m`, or seconds.
fn length(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<f64>() {
        return (0.0..1e9).contains(&seconds).then_some((seconds * 1000.0) as i64);
    }
    let mut total = 0_i64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = rest.split_at(digits);
        let seconds = match unit.chars().next()? {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return None,
        };
        total = total.checked_add(number.parse::<i64>().ok()?.checked_mul(seconds * 1000)?)?;
        rest = &unit[1..];
    }
    (total > 0).then_some(total)
}

impl Condition {
    /// Both must hold.
    pub fn and(mut self, other: Self) -> Self {
        self.terms.extend(other.terms);
        self
    }

    /// True where single segments are doubted; else items as a whole are.
    pub fn is_of_segments(&self) -> bool {
        self.terms.iter().any(|term| term.column.of_segments)
    }

    /// Whether a window with these figures is doubted: what is said of segments holds for it.
    pub fn doubts(&self, window: &WindowFigures<'_>) -> bool {
        self.terms.iter().filter(|term| term.column.of_segments).all(|term| {
            let number = match term.column.name {
                "avg_logprob" => f64::from(window.avg_logprob),
                "no_speech_prob" => f64::from(window.no_speech_prob),
                _ => f64::NAN,
            };
            match &term.value {
                Value::Number(wanted) => match term.compare {
                    Compare::Less => number < *wanted,
                    Compare::LessOrEqual => number <= *wanted,
                    Compare::Equal => number == *wanted,
                    Compare::Unequal => number != *wanted,
                    Compare::GreaterOrEqual => number >= *wanted,
                    Compare::Greater => number > *wanted,
                    Compare::Contains => false,
                },
                Value::Text(wanted) => {
                    let (found, wanted) = (window.language.to_lowercase(), wanted.to_lowercase());
                    match term.compare {
                        Compare::Contains => found.contains(&wanted),
                        Compare::Unequal => found != wanted,
                        _ => found == wanted,
                    }
                }
                Value::Millis(_) | Value::Time(_) => false,
            }
        })
    }

    /// Adds ` AND …` for what is said of segments, or of items.
    pub(super) fn push(&self, query: &mut QueryBuilder<Postgres>, of_segments: bool) {
        for term in self.terms.iter().filter(|term| term.column.of_segments == of_segments) {
            query.push(" AND ");
            match &term.value {
                Value::Text(text) if term.column.name == "flag" => {
                    match term.compare {
                        Compare::Unequal => {
                            query.push("NOT (").push_bind(text.clone()).push(" = ANY(m.flags))")
                        }
                        Compare::Contains => query
                            .push("position(lower(")
                            .push_bind(text.clone())
                            .push(") IN lower(array_to_string(m.flags, ' '))) > 0"),
                        _ => query.push_bind(text.clone()).push(" = ANY(m.flags)"),
                    };
                }
                Value::Text(text) if term.compare == Compare::Contains => {
                    query.push("position(lower(").push_bind(text.clone());
                    query.push(") IN lower(").push(term.column.sql).push(")) > 0");
                }
                Value::Text(text) => {
                    query.push("lower(").push(term.column.sql).push(")").push(term.compare.sql());
                    query.push("lower(").push_bind(text.clone()).push(")");
                }
                Value::Number(number) => {
                    query.push(term.column.sql).push(term.compare.sql()).push_bind(*number);
                }
                Value::Millis(ms) => {
                    query.push(term.column.sql).push(term.compare.sql()).push_bind(*ms);
                }
                Value::Time(at) => {
                    query.push(term.column.sql).push(term.compare.sql()).push_bind(*at);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Condition {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn conditions_are_read_as_people_write_them() {
        let one = read("avg_logprob < -0.8");
        assert!(one.is_of_segments());
        assert_eq!(one, read("AVG_LOGPROB<-0.8"));
        let two = read("avg_logprob<-0.8 AND language='es'");
        assert_eq!(two, one.clone().and(read("language = es")));
        let items =
            read("title ~ \"and then\" and duration >= 1h30m and published < 2026-01-31 and model != small");
        assert!(!items.is_of_segments());
        assert_eq!(items.terms.len(), 4);
        assert_eq!(items.terms[1].value, Value::Millis(5_400_000));
    }

    #[test]
    fn what_is_no_condition_is_told_and_never_run() {
        for wrong in [
            "",
            "avg_logprob",
            "avg_logprob <",
            "avg_logprob < low",
            "avg_logprob < nan",
            "text = x",
            "language < es",
            "duration ~ 5",
            "language = es or language = en",
            "language = es; DROP TABLE media",
            "1 = 1",
            "language = 'es",
            "published > yesterday",
            "avg_logprob < -0.8 and",
            "avg_logprob < -0.8) OR (true",
        ] {
            assert!(wrong.parse::<Condition>().is_err(), "{wrong}");
        }
        // What looks like SQL in a value is a value.
        let quoted = read("title = \"x' OR true --\"");
        let mut query = QueryBuilder::new("");
        quoted.push(&mut query, false);
        assert_eq!(query.sql().as_str(), " AND lower(m.title) = lower($1)");
    }

    #[test]
    fn the_same_words_doubt_windows() {
        let window = |avg_logprob, language| WindowFigures { avg_logprob, no_speech_prob: 0.1, language };
        let condition = read("avg_logprob < -0.8 and language = ES and title ~ talk");
        assert!(condition.doubts(&window(-0.9, "es")));
        assert!(!condition.doubts(&window(-0.7, "es")) && !condition.doubts(&window(-0.9, "en")));
        assert!(read("title ~ talk").doubts(&window(-0.1, "en")), "all of the item is meant");
        assert!(read("no_speech_prob >= 0.1").doubts(&window(-0.1, "en")) == (f64::from(0.1_f32) >= 0.1));
    }
}
