//! Words that tell where a phrase begins or ends.

/// Words after which no line should end, because the next word completes them: articles, prepositions, possessives,
/// auxiliaries. By language code.
const WEAK: &[(&str, &[&str])] = &[
    (
        "de",
        &[
            "als", "am", "an", "auf", "aus", "bei", "das", "dass", "dem", "den", "der", "des", "die",
            "dieser", "durch", "ein", "eine", "einem", "einen", "einer", "für", "gegen", "ihr", "im", "in",
            "ist", "mein", "mit", "nach", "nicht", "ob", "oder", "ohne", "sehr", "sein", "seine", "sich",
            "um", "und", "unser", "unter", "vom", "von", "vor", "wenn", "wie", "zu", "zum", "zur", "über",
        ],
    ),
    (
        "en",
        &[
            "a", "about", "an", "and", "are", "as", "at", "be", "because", "been", "but", "by", "can",
            "could", "for", "from", "has", "have", "her", "his", "i", "if", "in", "into", "is", "its", "may",
            "my", "not", "of", "on", "or", "our", "over", "she", "should", "than", "that", "the", "their",
            "these", "they", "this", "those", "to", "very", "was", "we", "were", "when", "which", "who",
            "will", "with", "would", "your",
        ],
    ),
    (
        "es",
        &[
            "a", "al", "como", "con", "de", "del", "desde", "el", "en", "entre", "es", "esta", "este", "ha",
            "hasta", "la", "las", "le", "lo", "los", "me", "mi", "mis", "muy", "más", "ni", "no", "nos", "o",
            "para", "pero", "por", "porque", "que", "se", "si", "sin", "sobre", "son", "su", "sus", "te",
            "tu", "un", "una", "unos", "y",
        ],
    ),
    (
        "fr",
        &[
            "au", "aux", "avec", "ce", "ces", "cette", "chez", "comme", "dans", "de", "des", "du", "elle",
            "en", "entre", "est", "et", "il", "ils", "je", "la", "le", "les", "leur", "ma", "mais", "mes",
            "mon", "ne", "nous", "on", "ou", "par", "pas", "plus", "pour", "que", "qui", "sa", "sans", "se",
            "ses", "si", "son", "sont", "sous", "sur", "ta", "tes", "ton", "très", "tu", "un", "une", "vers",
            "vous", "à",
        ],
    ),
    (
        "it",
        &[
            "a", "ai", "al", "alla", "che", "ci", "come", "con", "da", "dal", "dalla", "dei", "del", "della",
            "delle", "di", "e", "ed", "fra", "gli", "ha", "i", "il", "in", "io", "la", "le", "lo", "ma",
            "mi", "molto", "nel", "nella", "non", "o", "per", "più", "se", "si", "sono", "su", "sul",
            "sulla", "tra", "un", "una", "uno", "è",
        ],
    ),
    (
        "nl",
        &[
            "aan", "als", "bij", "dat", "de", "deze", "die", "dit", "door", "een", "en", "haar", "het",
            "hij", "ik", "in", "is", "maar", "met", "mijn", "naar", "niet", "of", "om", "onder", "op",
            "over", "te", "tot", "uit", "van", "voor", "wat", "we", "ze", "zijn",
        ],
    ),
    (
        "pt",
        &[
            "a", "ao", "aos", "as", "com", "como", "da", "das", "de", "do", "dos", "e", "em", "entre",
            "está", "eu", "foi", "mais", "mas", "meu", "minha", "muito", "na", "nas", "no", "nos", "não",
            "o", "os", "ou", "para", "pela", "pelo", "por", "porque", "que", "se", "sem", "seu", "sobre",
            "sua", "são", "um", "uma", "à", "é",
        ],
    ),
    (
        "ru",
        &[
            "без", "в", "во", "для", "до", "за", "и", "из", "или", "к", "как", "мой", "на", "над", "не",
            "ни", "но", "о", "об", "от", "по", "под", "при", "про", "с", "со", "у", "что", "это",
        ],
    ),
];

/// Words with which a phrase begins, so that a line may well begin with them: conjunctions, relative pronouns,
/// prepositions of place and time.
const OPENING: &[(&str, &[&str])] = &[
    (
        "de",
        &[
            "aber", "als", "bevor", "bis", "dass", "denn", "doch", "nachdem", "ob", "obwohl", "oder",
            "sondern", "und", "während", "weil", "wenn", "wie", "wo",
        ],
    ),
    (
        "en",
        &[
            "after", "although", "and", "as", "at", "because", "before", "but", "by", "during", "for",
            "from", "if", "in", "into", "like", "of", "on", "or", "since", "so", "than", "that", "though",
            "to", "unless", "until", "when", "where", "whether", "which", "while", "who", "with", "without",
        ],
    ),
    (
        "es",
        &[
            "aunque", "como", "con", "cuando", "de", "desde", "donde", "en", "hasta", "mientras", "ni", "o",
            "para", "pero", "por", "porque", "que", "si", "sin", "sino", "y",
        ],
    ),
    (
        "fr",
        &[
            "avec", "car", "comme", "dans", "de", "donc", "et", "lorsque", "mais", "ou", "où", "parce",
            "pendant", "pour", "puisque", "quand", "que", "qui", "si", "sur",
        ],
    ),
    (
        "it",
        &[
            "anche", "che", "come", "con", "di", "dove", "e", "ma", "mentre", "o", "per", "perché", "poiché",
            "quando", "se",
        ],
    ),
    (
        "nl",
        &[
            "als", "dat", "en", "maar", "met", "of", "om", "omdat", "terwijl", "toen", "want", "wanneer",
            "zodat",
        ],
    ),
    (
        "pt",
        &[
            "com", "como", "de", "e", "em", "embora", "enquanto", "mas", "ou", "para", "por", "porque",
            "quando", "que", "se",
        ],
    ),
    (
        "ru",
        &[
            "а",
            "в",
            "для",
            "если",
            "и",
            "или",
            "как",
            "когда",
            "который",
            "на",
            "но",
            "потому",
            "с",
            "хотя",
            "чтобы",
            "что",
        ],
    ),
];

/// Abbreviations after which the sentence goes on.
const ABBREVIATIONS: &[&str] = &[
    "approx", "bzw", "ca", "capt", "cf", "col", "d.h", "dott", "dr", "dra", "e.g", "fig", "gen", "gov",
    "hon", "hr", "i.e", "lt", "messrs", "mgr", "mlle", "mme", "mr", "mrs", "ms", "mt", "nr", "prof", "rev",
    "sen", "sgt", "sig", "sr", "sra", "srta", "st", "vgl", "vs", "z.b", "г", "ул",
];

/// Words of up to so many letters are taken for articles and prepositions in languages without a list above, where they
/// are written with spaces.
const SHORT: usize = 2;

fn listed(lists: &[(&str, &[&str])], language: &str, word: &str) -> Option<bool> {
    let (_, list) = lists.iter().find(|(code, _)| *code == language)?;
    Some(list.contains(&word))
}

fn bare(text: &str) -> String {
    text.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase()
}

/// True for a word after which no line should end.
pub(super) fn is_weak(text: &str, language: &str) -> bool {
    let word = bare(text);
    if text.ends_with('.') {
        return ABBREVIATIONS.contains(&word.as_str());
    }
    listed(WEAK, language, &word).unwrap_or_else(|| {
        (1..=SHORT).contains(&word.chars().count())
            && word
                .chars()
                .all(|c| c.is_alphabetic() && !super::width::stands_alone(c.encode_utf8(&mut [0; 4])))
    })
}

/// True for a word with which a phrase begins.
pub(super) fn opens_phrase(text: &str, language: &str) -> bool {
    listed(OPENING, language, &bare(text)).unwrap_or(false)
        || text.starts_with(['(', '–', '—', '“', '«', '「'])
}

/// Without what may stand between a mark and the space after it.
fn without_closing(text: &str) -> &str {
    text.trim_end_matches(['"', '\'', '”', '’', '»', '›', ')', ']', '」', '』', '）', '】', '》', '〉'])
}

/// True for text after which a sentence may end.
pub(super) fn ends_sentence(text: &str) -> bool {
    if text.ends_with('.') && ABBREVIATIONS.contains(&bare(text).as_str()) {
        return false;
    }
    without_closing(text).ends_with([
        '.', '!', '?', '…', '‽', '。', '！', '？', '｡', '．', '؟', '۔', '।', '॥', '။', '።', '፧', '։', '។',
    ])
}

/// True for text after which a clause ends.
pub(super) fn ends_clause(text: &str) -> bool {
    without_closing(text)
        .ends_with([',', ';', ':', '–', '—', '、', '，', '；', '：', '､', '،', '؛', '၊', '፣', '፤'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn articles_are_weak_in_any_language() {
        for (word, language, weak) in [
            ("the", "en", true),
            ("The", "en", true),
            ("house", "en", false),
            ("go", "en", false),
            ("das", "de", true),
            ("az", "hu", true),
            ("ház", "hu", false),
            ("42", "hu", false),
            ("東", "ja", false),
            ("Mr.", "en", true),
            ("z.B.", "de", true),
        ] {
            assert_eq!(is_weak(word, language), weak, "{word}");
        }
    }

    #[test]
    fn ends_are_told_by_marks() {
        assert!(
            ends_sentence("done.")
                && ends_sentence("“Really?”")
                && ends_sentence("です。")
                && ends_sentence("هل؟")
        );
        assert!(!ends_sentence("Dr.") && !ends_sentence("done") && !ends_sentence("well,"));
        assert!(ends_clause("well,") && ends_clause("東京、") && ends_clause("yes,”") && !ends_clause("yes"));
    }
}
