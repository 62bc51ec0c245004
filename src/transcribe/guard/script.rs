//! Which script a language is written in, as far as Whisper knows languages.

use super::units::Unit;

/// Scripts that tell languages apart; everything else counts as [`Script::Other`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    Latin,
    Greek,
    Cyrillic,
    Armenian,
    Georgian,
    Hebrew,
    Arabic,
    Devanagari,
    Bengali,
    Gurmukhi,
    Gujarati,
    Tamil,
    Telugu,
    Kannada,
    Malayalam,
    Sinhala,
    Thai,
    Lao,
    Tibetan,
    Myanmar,
    Ethiopic,
    Khmer,
    Hangul,
    Kana,
    Han,
    Other,
}

use Script::*;

/// The Unicode blocks of each, letters only where that matters.
fn script_of(c: char) -> Script {
    match u32::from(c) {
        0x41..=0x5a | 0x61..=0x7a | 0xaa | 0xba | 0xc0..=0x24f | 0x250..=0x2af | 0x1e00..=0x1eff => Latin,
        0x370..=0x3ff | 0x1f00..=0x1fff => Greek,
        0x400..=0x52f | 0x1c80..=0x1c8f | 0x2de0..=0x2dff | 0xa640..=0xa69f => Cyrillic,
        0x530..=0x58f => Armenian,
        0x10a0..=0x10ff | 0x1c90..=0x1cbf | 0x2d00..=0x2d2f => Georgian,
        0x590..=0x5ff | 0xfb1d..=0xfb4f => Hebrew,
        0x600..=0x6ff | 0x750..=0x77f | 0x870..=0x8ff | 0xfb50..=0xfdff | 0xfe70..=0xfeff => Arabic,
        0x900..=0x97f | 0xa8e0..=0xa8ff => Devanagari,
        0x980..=0x9ff => Bengali,
        0xa00..=0xa7f => Gurmukhi,
        0xa80..=0xaff => Gujarati,
        0xb80..=0xbff => Tamil,
        0xc00..=0xc7f => Telugu,
        0xc80..=0xcff => Kannada,
        0xd00..=0xd7f => Malayalam,
        0xd80..=0xdff => Sinhala,
        0xe00..=0xe7f => Thai,
        0xe80..=0xeff => Lao,
        0xf00..=0xfff => Tibetan,
        0x1000..=0x109f | 0xaa60..=0xaa7f => Myanmar,
        0x1100..=0x11ff | 0x3130..=0x318f | 0xac00..=0xd7a3 => Hangul,
        0x1200..=0x139f | 0x2d80..=0x2ddf => Ethiopic,
        0x1780..=0x17ff => Khmer,
        0x3040..=0x30ff | 0x31f0..=0x31ff | 0xff66..=0xff9f => Kana,
        0x2e80..=0x2fdf
        | 0x3005..=0x3007
        | 0x3400..=0x4dbf
        | 0x4e00..=0x9fff
        | 0xf900..=0xfaff
        | 0x20000..=0x3134f => Han,
        _ => Other,
    }
}

/// What text in `language` may be written in. Languages that are not listed use the Latin alphabet; where two are in
/// use, or Whisper mixes them, both stand here.
fn scripts_of(language: &str) -> &'static [Script] {
    match language {
        "ja" => &[Kana, Han],
        "zh" | "yue" => &[Han],
        "ko" => &[Hangul, Han],
        "ru" | "uk" | "be" | "bg" | "mk" | "ba" => &[Cyrillic],
        "sr" | "bs" | "kk" | "mn" | "tg" | "tt" | "uz" | "tk" | "az" => &[Cyrillic, Latin],
        "el" => &[Greek],
        "hy" => &[Armenian],
        "ka" => &[Georgian],
        "he" | "yi" => &[Hebrew],
        "ar" | "fa" | "ur" | "ps" => &[Arabic],
        "sd" => &[Arabic, Devanagari],
        "hi" | "mr" | "ne" | "sa" => &[Devanagari],
        "bn" | "as" => &[Bengali],
        "pa" => &[Gurmukhi, Arabic],
        "gu" => &[Gujarati],
        "ta" => &[Tamil],
        "te" => &[Telugu],
        "kn" => &[Kannada],
        "ml" => &[Malayalam],
        "si" => &[Sinhala],
        "th" => &[Thai],
        "lo" => &[Lao],
        "bo" => &[Tibetan],
        "my" => &[Myanmar],
        "am" => &[Ethiopic],
        "km" => &[Khmer],
        "ha" | "ms" | "so" | "su" | "jw" => &[Latin, Arabic],
        "ro" => &[Latin, Cyrillic],
        _ => &[Latin],
    }
}

/// True where the text is not in the language's script. Names and quotations in another one are no reason: only
/// where most letters are foreign, and not just a name's worth of them. The Latin alphabet is at home everywhere
/// (songs, brands, English put in between), so it must be all there is, a sentence of it, and doubtful otherwise.
pub(super) fn is_wrong(units: &[Unit], language: &str, doubtful: bool) -> bool {
    let own = scripts_of(language);
    let (mut fitting, mut latin, mut foreign) = (0usize, 0usize, 0usize);
    for c in units.iter().flat_map(|u| u.text.chars()).filter(|c| c.is_alphabetic()) {
        match script_of(c) {
            Other => {}
            script if own.contains(&script) => fitting += 1,
            Latin => latin += 1,
            // One of these stands for a syllable or a word.
            Han | Kana | Hangul => foreign += 3,
            _ => foreign += 1,
        }
    }
    if foreign >= 9 && foreign > fitting + latin {
        return true;
    }
    doubtful && !own.contains(&Latin) && latin >= 12 && units.len() >= 3 && 9 * fitting < latin
}
