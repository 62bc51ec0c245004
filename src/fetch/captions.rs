//! Captions that people made: WebVTT and SubRip into segments, and whether they can stand for a transcript.
//!
//! Only what a site lists as made by people is looked at; captions that a machine made (YouTube's automatic ones) are a
//! transcript of unknown quality by another machine, and are never used.

use std::collections::BTreeMap;

use serde::Deserialize;
use url::Url;

use crate::media::{Captions, Coverage, Segment, Transcript};
use crate::web;

/// A file of captions larger than this is none.
pub(super) const MAX_BYTES: usize = 8 << 20;
/// Captions that end before so much of the video has passed are not all of it.
const COVERS: f64 = 0.8;
/// The share of the time that captions stand on the screen, at least: fewer are titles, not speech.
const DENSITY: f64 = 0.2;

/// One form of a track as yt-dlp lists it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Form {
    ext: Option<String>,
    url: Option<String>,
}

/// Where the best captions are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Track {
    /// As the site calls it: `en`, `en-GB`.
    pub(super) language: String,
    /// The file.
    pub(super) url: Url,
}

/// The track to take: in the language that is wanted, else in the one that is spoken, else the only one there is. WebVTT
/// before SubRip; nothing else is read.
pub(super) fn choose(
    tracks: &BTreeMap<String, Vec<Form>>,
    wanted: Option<&str>,
    spoken: Option<&str>,
) -> Option<Track> {
    let readable = |forms: &Vec<Form>| {
        ["vtt", "srt"].iter().find_map(|ext| {
            forms
                .iter()
                .filter(|f| f.ext.as_deref() == Some(ext))
                .find_map(|f| web::parse_url(f.url.as_deref()?).ok())
        })
    };
    let found: BTreeMap<&str, Url> = tracks
        .iter()
        .filter(|(name, _)| name.as_str() != "live_chat")
        .filter_map(|(name, forms)| Some((name.as_str(), readable(forms)?)))
        .collect();
    let of = |language: &str| {
        let plain = primary(language);
        found
            .get_key_value(language)
            .or_else(|| found.get_key_value(plain.as_str()))
            .or_else(|| found.iter().find(|(name, _)| primary(name) == plain))
    };
    let (language, url) = match (wanted, spoken) {
        (Some(language), _) | (None, Some(language)) => of(language)?,
        (None, None) if found.len() == 1 => found.iter().next()?,
        // Of several, nobody knows which is said and which is translated.
        (None, None) => return None,
    };
    Some(Track { language: (*language).to_owned(), url: url.clone() })
}

/// `en` of `en-GB`.
pub(crate) fn primary(language: &str) -> String {
    language.split(['-', '_']).next().unwrap_or_default().to_ascii_lowercase()
}

/// Reads WebVTT (<https://www.w3.org/TR/webvtt1/>) or SubRip: times and text, markup left out, in order. What cannot be read
/// is skipped.
pub(crate) fn parse(text: &str, language: &str) -> Vec<Segment> {
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n").replace('\r', "\n");
    let mut segments: Vec<Segment> = Vec::new();
    for block in text.split("\n\n") {
        let mut lines = block.lines().skip_while(|line| !line.contains("-->"));
        let Some((start_ms, end_ms)) = lines.next().and_then(times) else { continue };
        let lines: Vec<&str> = lines.collect();
        let speaker = speaker(&lines);
        let said: Vec<String> = lines.into_iter().map(plain).filter(|line| !line.is_empty()).collect();
        let said = said.join(" ");
        if said.is_empty() {
            continue;
        }
        // The same words again are the second line of a cue that rolls.
        if let Some(last) = segments.last_mut()
            && last.text == said
            && last.speaker == speaker
            && start_ms <= last.end_ms + 100
        {
            last.end_ms = last.end_ms.max(end_ms);
            continue;
        }
        segments.push(Segment {
            start_ms,
            end_ms,
            text: said,
            language: primary(language),
            avg_logprob: 0.0,
            no_speech_prob: 0.0,
            words: Vec::new(),
            speaker,
        });
    }
    segments.sort_by_key(|s| s.start_ms);
    segments
}

/// `00:01:02.500 --> 00:01:04.000 align:start`, in SubRip with a comma.
fn times(line: &str) -> Option<(i64, i64)> {
    let (start, rest) = line.split_once("-->")?;
    let start = clock(start.trim())?;
    let end = clock(rest.split_whitespace().next()?)?;
    (end >= start).then_some((start, end))
}

fn clock(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once(['.', ',']).unwrap_or((text, "0"));
    let mut seconds: i64 = 0;
    for part in whole.split(':') {
        seconds = seconds.checked_mul(60)?.checked_add(part.parse::<u32>().ok()?.into())?;
    }
    let digits: String = fraction.chars().take(3).collect();
    let ms = digits.parse::<u32>().ok()? * 10u32.pow(3 - u32::try_from(digits.len()).ok()?.min(3));
    seconds.checked_mul(1000)?.checked_add(ms.into())
}

/// Who speaks in a cue, where its voice tags (`<v Anna>`, `<v.loud Anna>`) name one person.
fn speaker(lines: &[&str]) -> Option<String> {
    let mut voices =
        lines.iter().flat_map(|line| line.match_indices("<v").map(|(at, tag)| &line[at + tag.len()..]));
    let name = |rest: &str| {
        let (classes, name) = rest.split_once('>')?.0.split_once([' ', '\t'])?;
        let name = references(name.trim());
        ((classes.is_empty() || classes.starts_with('.')) && !name.is_empty()).then_some(name)
    };
    let first = name(voices.next()?)?;
    voices.all(|voice| name(voice).is_some_and(|other| other == first)).then_some(first)
}

/// A line of a cue without tags, character references, and marks of who speaks or what sounds.
fn plain(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut depth = 0u32;
    for c in line.chars() {
        match c {
            '<' => depth += 1,
            '>' if depth > 0 => depth -= 1,
            c if depth == 0 => text.push(c),
            _ => {}
        }
    }
    let text = references(&text);
    let text = text.trim().trim_start_matches(">>").trim_start_matches("- ").trim();
    // [Music], (applause), ♪ la la ♪: sounds, not speech.
    let sound = |open: char, close: char| text.starts_with(open) && text.ends_with(close);
    if sound('[', ']') || sound('(', ')') || sound('♪', '♪') {
        return String::new();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Text with its character references replaced.
fn references(text: &str) -> String {
    let mut text = text.to_owned();
    for (reference, character) in [
        ("&nbsp;", " "),
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&lrm;", ""),
        ("&rlm;", ""),
        ("&quot;", "\""),
        ("&#39;", "'"),
        ("&amp;", "&"),
    ] {
        text = text.replace(reference, character);
    }
    text
}

/// Whether they can stand for a transcript of a video of this length: they reach its end nearly, and stand for a fair share
/// of it.
pub(super) fn are_good(segments: &[Segment], duration_ms: Option<i64>) -> bool {
    let Some(duration) = duration_ms.filter(|d| *d > 0) else { return false };
    let end = segments.iter().map(|s| s.end_ms).max().unwrap_or(0);
    let shown: i64 = segments.iter().map(|s| s.end_ms - s.start_ms).sum();
    let share = |ms: i64| ms as f64 / duration as f64;
    // Captions of another cut of the video run past its end.
    share(end) >= COVERS && share(end) <= 1.05 + 5_000.0 / duration as f64 && share(shown) >= DENSITY
}

/// The transcript that captions stand for, where they are good; its model is `captions:` and their language.
/// `duration_ms` is the length of the audio.
pub fn transcript(captions: &Captions, duration_ms: i64) -> Option<Transcript> {
    if !are_good(&captions.segments, Some(duration_ms)) {
        return None;
    }
    let shown: i64 = captions.segments.iter().map(|s| s.end_ms - s.start_ms).sum();
    let words = captions.segments.iter().map(|s| s.text.split_whitespace().count()).sum::<usize>();
    Some(Transcript {
        segments: captions.segments.clone(),
        language: primary(&captions.language),
        duration_ms,
        speech_ms: shown,
        model: format!("captions:{}", captions.language),
        dropped: Vec::new(),
        coverage: Coverage {
            transcribed_ms: shown,
            words: u32::try_from(words).unwrap_or(u32::MAX),
            gaps: Vec::new(),
            flags: Vec::new(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VTT: &str = "\u{feff}WEBVTT\nKind: captions\n\nSTYLE\n::cue { color: red }\n\n1\n00:00:01.000 --> 00:00:03.500 align:start\n\
        <v Anna>Good <c.x>morning</c></v>\nall &amp; everyone\n\nNOTE not this\n\n00:04.000 --> 00:06.250\n[Music]\n\n\
        00:06.300 --> 00:08.000\n&gt;&gt; who else?\n\n00:08.000 --> 00:09.000\n&gt;&gt; who else?\n\nbroken --> 00:10\nx\n";

    #[test]
    fn captions_become_segments() {
        let read: Vec<_> =
            parse(VTT, "en-GB").into_iter().map(|s| (s.start_ms, s.end_ms, s.text, s.language)).collect();
        assert_eq!(
            read,
            [
                (1000, 3500, "Good morning all & everyone".to_owned(), "en".to_owned()),
                (6300, 9000, "who else?".to_owned(), "en".to_owned()),
            ]
        );
        let speakers: Vec<_> = parse(VTT, "en").into_iter().map(|s| s.speaker).collect();
        assert_eq!(speakers, [Some("Anna".to_owned()), None]);
        for (cue, name) in [
            ("<v.loud Ed &amp; Co>Hi</v>", Some("Ed & Co")),
            ("<v A>Hi</v> <v B>ho</v>", None),
            ("<v A>Hi</v>\n<v A>ho</v>", Some("A")),
            ("<v>Hi", None),
            ("<vital x>Hi", None),
            ("<v A", None),
        ] {
            assert_eq!(speaker(&cue.lines().collect::<Vec<_>>()).as_deref(), name, "{cue}");
        }
        let srt = "1\r\n00:00:01,5 --> 00:00:02,250\r\n<i>Hallo</i>\r\n\r\n2\r\n01:00:00,000 --> 01:00:01,000\r\n- Welt\r\n";
        let read: Vec<_> = parse(srt, "de").into_iter().map(|s| (s.start_ms, s.end_ms, s.text)).collect();
        assert_eq!(read, [(1500, 2250, "Hallo".to_owned()), (3_600_000, 3_601_000, "Welt".to_owned())]);
    }

    #[test]
    fn hostile_captions_are_read_as_far_as_they_make_sense() {
        for text in
            ["", "WEBVTT", "-->", "99999999999999999999:00 --> 1\nx", "00:02 --> 00:01\nx", "1 --> 2\n<<<<"]
        {
            assert!(parse(text, "en").is_empty(), "{text}");
        }
    }

    fn tracks(json: &str) -> BTreeMap<String, Vec<Form>> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_spoken_language_is_chosen_and_never_guessed() {
        let several = tracks(
            r#"{"en-GB":[{"ext":"json3","url":"http://h/j"},{"ext":"srt","url":"http://h/s"},{"ext":"vtt","url":"http://h/v"}],
                "de":[{"ext":"vtt","url":"http://h/de"}],"live_chat":[{"ext":"vtt","url":"http://h/chat"}],
                "fr":[{"ext":"ttml","url":"http://h/fr"}],"es":[{"ext":"vtt","url":"file:///etc/passwd"}]}"#,
        );
        let chosen =
            |wanted, spoken| choose(&several, wanted, spoken).map(|t| (t.language, t.url.to_string()));
        assert_eq!(chosen(Some("en"), Some("de")), Some(("en-GB".into(), "http://h/v".into())));
        assert_eq!(chosen(None, Some("de-AT")), Some(("de".into(), "http://h/de".into())));
        for nothing in
            [chosen(None, None), chosen(Some("fr"), None), chosen(Some("es"), None), chosen(None, Some("it"))]
        {
            assert_eq!(nothing, None);
        }
        let one = tracks(r#"{"nl":[{"ext":"srt","url":"http://h/nl"}]}"#);
        assert_eq!(choose(&one, None, None).unwrap().language, "nl");
    }

    #[test]
    fn only_what_covers_the_video_stands_for_it() {
        let of = |cues: &[(i64, i64)]| -> Vec<Segment> {
            cues.iter()
                .flat_map(|(start, end)| parse(&format!("{}.000 --> {}.000\nx {start}\n", start, end), "en"))
                .collect()
        };
        let talk = of(&[(0, 20), (21, 40), (41, 55)]);
        assert!(are_good(&talk, Some(60_000)));
        assert!(!are_good(&talk, Some(100_000)), "ends too early");
        assert!(!are_good(&talk, Some(20_000)), "of another cut");
        assert!(!are_good(&of(&[(0, 1), (55, 56)]), Some(60_000)), "two titles");
        assert!(!are_good(&talk, None) && !are_good(&[], Some(60_000)));
    }
}
