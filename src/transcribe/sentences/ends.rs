//! Where a sentence ends: marks, and what only looks like one.

/// Never the end of a sentence.
const TITLES: &[&str] = &[
    "mr", "mrs", "ms", "dr", "prof", "st", "sr", "sra", "srta", "dra", "hr", "hrn", "fr", "mme", "mlle",
    "mgr", "rev", "gen", "col", "capt", "lt", "sgt", "gov", "sen", "rep", "hon", "messrs", "mt", "ft", "vs",
    "bzw", "vgl", "ca", "approx", "e.g", "i.e", "z.b", "d.h", "u.a", "p.ej", "fig", "cf", "nr", "núm", "pág",
    "tel", "dipl", "ing", "sig", "dott", "г", "ул",
];

/// May be one, where somebody pauses.
const OTHERS: &[&str] = &[
    "etc", "jr", "inc", "ltd", "co", "corp", "no", "vol", "dept", "ave", "blvd", "rd", "jan", "feb", "mar",
    "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec", "usw", "str", "ud", "uds", "p", "pp",
    "min", "max", "est", "bros",
];

/// Languages that write ordinal numbers with a full stop.
const ORDINALS: &[&str] = &[
    "de", "da", "no", "nn", "fi", "et", "lv", "cs", "sk", "sl", "hr", "bs", "sr", "pl", "hu", "tr", "is",
    "fo", "eu",
];

/// After a doubtful full stop, a pause of so many milliseconds says that it is one.
const PAUSE_MS: i64 = 250;

/// A word, and what is around it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    /// The word with its punctuation.
    pub text: &'a str,
    /// It begins a sentence.
    pub first: bool,
    /// The word after it.
    pub next: Option<&'a str>,
    /// Silence until then.
    pub pause_ms: i64,
    /// The model ended its segment here.
    pub ends_segment: bool,
    /// Language code.
    pub language: &'a str,
}

/// Whether a text ends with what ends sentences, whatever it means there.
pub(super) fn is_marked(text: &str) -> bool {
    text.trim_end_matches(closes).ends_with(|c| c == '.' || c == '…' || is_mark(c))
}

/// Whether a sentence ends with this word.
pub(super) fn is_end(word: &Context<'_>) -> bool {
    let Some(next) = word.next else { return true };
    let text = word.text.trim_end_matches(closes);
    let Some(mark) = text.chars().last() else { return false };
    // `"What?" he said`: the sentence goes on; but a model that ends its segment means it.
    let goes_on = next.chars().find(|c| c.is_alphanumeric()).is_some_and(char::is_lowercase);
    if is_mark(mark) {
        return !goes_on || word.ends_segment;
    }
    if mark == '…' || text.ends_with("..") {
        return !goes_on;
    }
    if mark != '.' {
        return false;
    }
    let stem = text[..text.len() - 1].trim_start_matches(|c: char| !c.is_alphanumeric());
    let lower = stem.to_lowercase();
    if TITLES.contains(&lower.as_str()) {
        return false;
    }
    if goes_on && !word.ends_segment {
        return false;
    }
    let pauses = word.pause_ms >= PAUSE_MS || word.ends_segment;
    if !stem.is_empty() && stem.chars().all(|c| c.is_ascii_digit()) {
        // The number of an item in a list, an ordinal, or just the last word.
        return !word.first && (pauses || !ORDINALS.contains(&word.language));
    }
    let mut letters = stem.chars();
    let single = letters.next().filter(|c| c.is_alphabetic() && letters.next().is_none());
    if let Some(letter) = single {
        // An initial; but "so do I."
        return pauses && word.pause_ms >= PAUSE_MS || (letter == 'I' && word.language == "en");
    }
    let dotted = stem.contains('.') && stem.split('.').all(|part| part.chars().count() <= 2);
    if dotted || OTHERS.contains(&lower.as_str()) {
        return pauses;
    }
    true
}

/// Marks that end a sentence and nothing else.
fn is_mark(c: char) -> bool {
    matches!(
        c,
        '!' | '?'
            | '‽'
            | '。'
            | '！'
            | '？'
            | '｡'
            | '．'
            | '؟'
            | '۔'
            | '।'
            | '॥'
            | '။'
            | '።'
            | '፧'
            | '։'
            | '។'
    )
}

/// What may stand between the mark and the space.
fn closes(c: char) -> bool {
    matches!(
        c,
        '"' | '\''
            | '”'
            | '’'
            | '»'
            | '›'
            | ')'
            | ']'
            | '}'
            | '」'
            | '』'
            | '）'
            | '】'
            | '》'
            | '〉'
            | '♪'
    ) || c.is_whitespace()
}

/// East Asian punctuation, which has its space built in.
pub(super) fn is_wide(c: char) -> bool {
    matches!(c, '\u{3000}'..='\u{303f}' | '\u{ff00}'..='\u{ff0f}' | '\u{ff1a}'..='\u{ff1f}')
}
