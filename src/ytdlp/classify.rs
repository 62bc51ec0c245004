//! What yt-dlp's errors mean for an item.
//!
//! yt-dlp has one exit code for nearly everything, so its text has to be read; the phrases below are the ones in its
//! source (and the ones that YouTube's own messages, which it passes on, are known by). The order matters: a message
//! often holds more than one phrase, and the first match in [`RULES`] wins.

use std::time::Duration;

use crate::media::{Failure, FailureClass, Retry};
use crate::web::{COOKIE_REMEDY, DOUBTED_REMEDY};

/// Longest quotation of yt-dlp's text in a failure.
const MAX_QUOTE: usize = 300;

/// Sites change, and yt-dlp with them; [`super::YtDlp::failure`] puts the command in its place.
pub(super) const UPDATE: &str =
    "yt-dlp may be out of date: `spoken doctor` tells its age and how to update it";

struct Rule {
    class: FailureClass,
    /// Any of these, in lower case, found in the error's lower-case text.
    phrases: &'static [&'static str],
    remedy: Option<&'static str>,
}

const RULES: &[Rule] = &[
    // Ours to fix, and their texts hold words ("not found", "cookies") that later rules look for.
    Rule {
        class: FailureClass::Setup,
        phrases: &[
            "no supported javascript runtime",
            "javascript runtime could be found",
            "ffmpeg is not installed",
            "ffmpeg not found",
            "ffprobe and ffmpeg not found",
            "no such option",
            "error: invalid",
            "permission denied",
            "does not look like a netscape format cookies file",
        ],
        remedy: Some("see `spoken doctor` for what is missing"),
    },
    Rule {
        class: FailureClass::NoSpace,
        phrases: &["no space left on device"],
        remedy: Some("free some space, or move SPOKEN_DATA_DIR to a larger disk"),
    },
    // A page or playlist that points at this machine's own files, or at what nobody speaks any more: no later attempt
    // changes that.
    Rule {
        class: FailureClass::Refused,
        phrases: &["file:// urls are disabled", "unsupported url scheme"],
        remedy: Some("the page leads to an address that is not read, only http and https are"),
    },
    // A piece of a stream failed: `fragment 3 not found, unable to continue`.
    Rule { class: FailureClass::Network, phrases: &["unable to continue"], remedy: None },
    // The site doubts that we are human: before everything that asks to sign in.
    Rule {
        class: FailureClass::RateLimited,
        phrases: &[
            "confirm you're not a bot",
            "confirm you’re not a bot",
            "not a bot",
            "captcha",
            "anti-bot challenge",
            "http error 429",
            "too many requests",
            "try again later",
            "has been rate-limited",
            "rate limit",
            "your ip is likely being blocked",
        ],
        remedy: Some(DOUBTED_REMEDY),
    },
    Rule {
        class: FailureClass::Drm,
        phrases: &["drm protected", "drm-protected", "known to use drm", "is drm"],
        remedy: None,
    },
    Rule {
        class: FailureClass::GeoBlocked,
        phrases: &[
            "geo restriction",
            "geo-restrict",
            "georestrict",
            "in your country",
            "from your location",
            "in your location",
            "in your region",
            "in this region",
            "available in your area",
            "http error 451",
        ],
        remedy: Some("fetch it from a machine in a country where it is shown"),
    },
    Rule {
        class: FailureClass::NotYet,
        phrases: &[
            "live event will begin",
            "premieres in",
            "premiere will begin",
            "will begin in",
            "is not available yet",
            "not yet available",
            "is upcoming",
            "has not started",
            "hasn't started",
            "not started yet",
            "stream is offline",
            "channel is not currently live",
            "is not currently live",
            "live stream recording is not available",
        ],
        remedy: Some("it is looked at again by itself when it should be there"),
    },
    // Removed for good; before `private`, because of "removed … because of a private complaint" and the like.
    Rule {
        class: FailureClass::NotFound,
        phrases: &[
            "has been removed",
            "was removed",
            "been deleted",
            "was deleted",
            "account associated with this video has been terminated",
            "account has been terminated",
            "no longer available",
            "no longer exists",
            "does not exist",
            "doesn't exist",
            "has been closed",
            "http error 404",
            "http error 410",
            "video unavailable",
            "this video is unavailable",
            "video is unavailable",
            "video is not available",
            "isn't available anymore",
            "has expired",
            "is expired",
            "incomplete youtube id",
            "not found",
        ],
        remedy: None,
    },
    Rule {
        class: FailureClass::Private,
        phrases: &[
            "private video",
            "video is private",
            "is private",
            "members-only",
            "members only",
            "join this channel",
            "sign in",
            "log in",
            "login",
            "logged in",
            "logged-in",
            "registered users",
            "confirm your age",
            "age-restricted",
            "age restricted",
            "inappropriate",
            "cookies",
            "subscri",
            "premium",
            "requires payment",
            "rental",
            "password",
            "purchase",
            "http error 401",
        ],
        remedy: Some(COOKIE_REMEDY),
    },
    Rule {
        class: FailureClass::TooLarge,
        phrases: &["larger than max-filesize"],
        remedy: Some("raise MAX_DOWNLOAD_MB, then run `spoken retry`"),
    },
    Rule {
        class: FailureClass::NotMedia,
        phrases: &[
            "unsupported url",
            "no video formats found",
            "is not a valid url",
            "no media found",
            "there's no video",
        ],
        remedy: None,
    },
    // A media address that expired, or a yt-dlp that the site has outrun: extracting again may do.
    Rule { class: FailureClass::Forbidden, phrases: &["video data: http error 403"], remedy: Some(UPDATE) },
    Rule { class: FailureClass::Private, phrases: &["http error 403"], remedy: Some(COOKIE_REMEDY) },
    Rule {
        class: FailureClass::Network,
        phrases: &[
            "failed to resolve",
            "name or service not known",
            "temporary failure in name resolution",
            "getaddrinfo failed",
        ],
        remedy: Some("check the spelling of the address and this machine's name resolution"),
    },
    Rule {
        class: FailureClass::Network,
        phrases: &[
            "timed out",
            "timeout",
            "http error 5",
            "http error 408",
            "connection reset",
            "connection refused",
            "connection aborted",
            "connection broken",
            "broken pipe",
            "remote end closed",
            "remotedisconnected",
            "incompleteread",
            "incomplete read",
            "more expected",
            "network is unreachable",
            "no route to host",
            "content too short",
            "bytes, expected",
            "giving up after",
            "unable to connect",
            "transporterror",
            "ssl:",
            "unexpected_eof",
            "fragment",
            "temporarily unavailable",
        ],
        remedy: None,
    },
    // Extractors break when sites change; a later version or a later hour may help.
    Rule {
        class: FailureClass::Internal,
        phrases: &[
            "unable to extract",
            "please report this issue",
            "failed to parse json",
            "requested format is not available",
        ],
        remedy: Some(UPDATE),
    },
];

/// What yt-dlp's last lines of standard error and its exit code mean. Only lines that start with `ERROR:` count, if there
/// is one. The message quotes yt-dlp (outside text: escape it before it reaches a terminal), without the advice on its own
/// options, which our reader cannot give it.
pub fn classify(exit_code: Option<i32>, errors: &[String]) -> Failure {
    let error = errors
        .iter()
        .rev()
        .find(|l| l.starts_with("ERROR:"))
        .or_else(|| errors.iter().rev().find(|l| !l.starts_with("WARNING:")))
        .or_else(|| errors.last());
    let Some(error) = error else {
        return Failure::new(
            FailureClass::Internal,
            format!("yt-dlp ended without a word ({})", exit(exit_code)),
        );
    };
    let quote = quote(error);
    if matches!(exit_code, Some(2 | 126 | 127)) {
        return Failure::new(FailureClass::Setup, format!("yt-dlp does not run: {quote}"))
            .with_remedy("see `spoken doctor`; yt-dlp may be missing, broken or of another version");
    }
    let lower = error.to_lowercase();
    // YouTube answers without formats when no runtime could solve its challenge; the reason is only in a warning.
    let no_runtime = errors.iter().any(|l| l.to_lowercase().contains("no supported javascript runtime"));
    if no_runtime && (lower.contains("format") || lower.contains("403")) {
        return Failure::new(
            FailureClass::Setup,
            "yt-dlp found no JavaScript runtime, which this site needs",
        )
        .with_remedy("run ./scripts/setup, it installs one; `spoken doctor` shows whether it is found");
    }
    // Why a piece could not be had stands in the line before.
    if lower.contains("unable to continue")
        && let Some(failure) = refused_piece(errors)
    {
        return failure;
    }
    for rule in RULES {
        if rule.phrases.iter().any(|p| lower.contains(p)) {
            let mut failure = Failure::new(rule.class, quote);
            if rule.class == FailureClass::NotYet {
                failure.retry = Some(Retry::In(until_shown(&lower)));
                failure.free = true;
            }
            return match rule.remedy {
                Some(remedy) => failure.with_remedy(remedy),
                None => failure,
            };
        }
    }
    Failure::new(FailureClass::Internal, quote).with_remedy(UPDATE)
}

/// The failure of a stream whose pieces the site refuses, if that is what it did.
fn refused_piece(errors: &[String]) -> Option<Failure> {
    let why = errors.iter().rev().find(|l| l.to_lowercase().contains("got error: http error"))?;
    let (_, why) = why.split_once("ot error: ")?;
    let said = format!("a piece of the stream was refused: {}", quote(why));
    let lower = why.to_lowercase();
    if lower.contains("http error 403") {
        Some(Failure::new(FailureClass::Forbidden, said).with_remedy(UPDATE))
    } else if lower.contains("http error 429") {
        Some(Failure::new(FailureClass::RateLimited, said).with_remedy(DOUBTED_REMEDY))
    } else {
        None
    }
}

/// When to look again at what is not there yet: `premieres in 21 minutes` and a margin, or some hours where nothing is said.
fn until_shown(said: &str) -> Duration {
    const MARGIN: u64 = 15 * 60;
    const UNKNOWN: u64 = 6 * 3600;
    /// Announcements move; once a week is often enough to look.
    const LONGEST: u64 = 7 * 24 * 3600;
    let told = said.split_once(" in ").and_then(|(_, when)| {
        let mut words = when.split_whitespace();
        let (number, unit) = (words.next()?, words.next()?);
        let unit = match unit.trim_end_matches(['.', '!', ',']).trim_end_matches('s') {
            "second" => 1,
            "minute" => 60,
            "hour" => 3600,
            "day" => 24 * 3600,
            "week" => LONGEST,
            _ => return None,
        };
        number.parse::<u64>().ok()?.checked_mul(unit)
    });
    Duration::from_secs(told.map_or(UNKNOWN, |seconds| (seconds + MARGIN).min(LONGEST)))
}

fn exit(code: Option<i32>) -> String {
    code.map_or("killed by a signal".to_owned(), |c| format!("exit code {c}"))
}

/// yt-dlp's sentence without its prefix, its advice and the cause it repeats.
fn quote(error: &str) -> String {
    let mut text = error.strip_prefix("ERROR:").unwrap_or(error).trim();
    for advice in [
        " (caused by ",
        ". Use --",
        " Use --",
        "; please report this issue",
        "; see  http",
        ". Also see  http",
        ". See  http",
        ". It is recommended to use",
        ". For more information, refer to",
    ] {
        if let Some((kept, _)) = text.split_once(advice) {
            text = kept;
        }
    }
    text.trim().trim_end_matches('.').chars().take(MAX_QUOTE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(line: &str) -> FailureClass {
        classify(Some(1), &[line.to_owned()]).class
    }

    #[test]
    fn messages_as_yt_dlp_prints_them() {
        use FailureClass::*;
        let hint = "Use --cookies-from-browser or --cookies for the authentication. See  https://github.com/yt-dlp/yt-dlp/wiki/FAQ#how-do-i-pass-cookies-to-yt-dlp  for how to manually pass cookies. Also see  https://github.com/yt-dlp/yt-dlp/wiki/Extractors#exporting-youtube-cookies  for tips on effectively exporting YouTube cookies";
        for (text, expected) in [
            (format!("ERROR: [youtube] aaaaaaaaaaa: Sign in to confirm you’re not a bot. {hint}"), RateLimited),
            (format!("ERROR: [youtube] aaaaaaaaaaa: Sign in to confirm your age. This video may be inappropriate for some users. {hint}"), Private),
            (format!("ERROR: [youtube] aaaaaaaaaaa: Private video. Sign in if you've been granted access to this video. {hint}"), Private),
            ("ERROR: [youtube] aaaaaaaaaaa: Join this channel to get access to members-only content like this video, and other exclusive perks.".into(), Private),
            ("ERROR: [youtube] aaaaaaaaaaa: This video is available to this channel's members on level: Friends (or any higher level). Join this channel to get access to members-only content and other exclusive perks.".into(), Private),
            ("ERROR: [youtube] aaaaaaaaaaa: Video unavailable. This content isn't available, try again later. The current session has been rate-limited by YouTube for up to an hour. It is recommended to use `-t sleep` to add a delay between video requests".into(), RateLimited),
            ("ERROR: [youtube] aaaaaaaaaaa: Please sign in. YouTube is requiring a captcha challenge before playback".into(), RateLimited),
            ("ERROR: [youtube] aaaaaaaaaaa: Video unavailable. This video has been removed by the uploader".into(), NotFound),
            ("ERROR: [youtube] aaaaaaaaaaa: Video unavailable. This video is no longer available because the YouTube account associated with this video has been terminated.".into(), NotFound),
            ("ERROR: [youtube] aaaaaaaaaaa: Video unavailable".into(), NotFound),
            ("ERROR: [youtube] aaaaaaaaaaa: Video unavailable. The uploader has not made this video available in your country".into(), GeoBlocked),
            ("ERROR: [svt] 1: This video is not available from your location due to geo restriction. You might want to use a VPN or a proxy server (with --proxy) to workaround.".into(), GeoBlocked),
            ("ERROR: [youtube] aaaaaaaaaaa: This live event will begin in 3 hours.".into(), NotYet),
            ("ERROR: [youtube] aaaaaaaaaaa: Premieres in 21 minutes".into(), NotYet),
            ("ERROR: [youtube] aaaaaaaaaaa: This live stream recording is not available.".into(), NotYet),
            ("ERROR: [twitch:stream] x: The channel is not currently live".into(), NotYet),
            ("ERROR: [youtube] aaaaaaaaaaa: This video is DRM protected".into(), Drm),
            ("ERROR: [DRM] The requested site is known to use DRM protection. It will NOT be supported.".into(), Drm),
            ("ERROR: [vimeo] 1: This video is protected by a password, use the --video-password option".into(), Private),
            ("ERROR: [nebula] x: This video is only available for registered users. Use --username and --password, --netrc-cmd, or --netrc (nebula) to provide account credentials".into(), Private),
            ("ERROR: [generic] missing: Unable to download webpage: HTTP Error 404: File not found (caused by <HTTPError 404: File not found>)".into(), NotFound),
            ("ERROR: [generic] x: Unable to download webpage: HTTP Error 500: Internal Server Error (caused by <HTTPError 500: Internal Server Error>)".into(), Network),
            ("ERROR: [generic] x: Unable to download webpage: HTTPConnection(host='nohost.invalid', port=80): Failed to resolve 'nohost.invalid' ([Errno -2] Name or service not known) (caused by TransportError(\"...\"))".into(), Network),
            ("ERROR: [generic] Unable to download webpage: ('Connection aborted.', RemoteDisconnected('Remote end closed connection without response'))".into(), Network),
            ("ERROR: [generic] Unable to download webpage: 1024 bytes read, 3000 more expected (caused by <IncompleteRead: 1024 bytes read, 3000 more expected>)".into(), Network),
            ("ERROR: unable to download video data: HTTP Error 403: Forbidden".into(), Forbidden),
            ("ERROR: [generic] x: Unable to download webpage: HTTP Error 429: Too Many Requests".into(), RateLimited),
            ("ERROR: [generic] x: Got HTTP Error 403 caused by Cloudflare anti-bot challenge; try again with  --extractor-args \"generic:impersonate\"".into(), RateLimited),
            ("ERROR: Unsupported URL: http://127.0.0.1/none.html".into(), NotMedia),
            ("ERROR: file:// URLs are disabled by default in yt-dlp for security reasons. Use --enable-file-urls to enable at your own risk".into(), Refused),
            ("ERROR: Unable to download video: Unsupported url scheme: \"rtmp\" (requests, urllib)".into(), Refused),
            ("ERROR: fragment 3 not found, unable to continue".into(), Network),
            ("ERROR: [generic] x: Unable to download webpage: HTTP Error 403: Forbidden (caused by <HTTPError 403: Forbidden>)".into(), Private),
            ("ERROR: ffmpeg not found. Please install or provide the path using --ffmpeg-location".into(), Setup),
            ("ERROR: [youtube] aaaaaaaaaaa: Requested format is not available. Use --list-formats for a list of available formats".into(), Internal),
            ("ERROR: [foo] 1: Unable to extract title; please report this issue on  https://github.com/yt-dlp/yt-dlp/issues?q= , filling out the appropriate issue template.".into(), Internal),
            ("ERROR: unable to write data: [Errno 28] No space left on device".into(), NoSpace),
        ] {
            assert_eq!(class(&text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_there_yet_says_when() {
        for (said, seconds) in [
            ("this live event will begin in 3 hours.", 3 * 3600 + 900),
            ("premieres in 21 minutes", 21 * 60 + 900),
            ("this live event will begin in 40 days", 7 * 24 * 3600),
            ("this live event will begin in a few moments.", 6 * 3600),
            ("the channel is not currently live", 6 * 3600),
        ] {
            assert_eq!(until_shown(said).as_secs(), seconds, "{said}");
        }
        let failure = classify(Some(1), &["ERROR: [youtube] a: Premieres in 21 minutes".into()]);
        assert!(failure.free);
        assert_eq!(failure.retry, Some(Retry::In(Duration::from_secs(21 * 60 + 900))));
    }

    #[test]
    fn what_needs_an_account_says_how() {
        let failure = classify(Some(1), &["ERROR: [youtube] a: Private video. Sign in if you've been granted access to this video. Use --cookies for x".into()]);
        assert_eq!(
            failure.message,
            "[youtube] a: Private video. Sign in if you've been granted access to this video"
        );
        assert!(failure.remedy.unwrap().contains("COOKIES_FILE"));
    }

    #[test]
    fn a_missing_runtime_is_found_in_the_warnings() {
        let failure = classify(
            Some(1),
            &[
                "WARNING: [youtube] No supported JavaScript runtime could be found. Only deno is enabled by default".into(),
                "ERROR: [youtube] a: Requested format is not available. Use --list-formats for a list".into(),
            ],
        );
        assert_eq!(failure.class, FailureClass::Setup);
    }

    #[test]
    fn refused_pieces_are_told_from_lost_ones() {
        let class = |why: &str| {
            let lines = [
                "ERROR:".to_owned(),
                format!("[download] Got error: {why}. Giving up after 4 fragment retries"),
                "ERROR: fragment 3 not found, unable to continue".to_owned(),
            ];
            classify(Some(1), &lines).class
        };
        assert_eq!(class("HTTP Error 403: Forbidden"), FailureClass::Forbidden);
        assert_eq!(class("HTTP Error 429: Too Many Requests"), FailureClass::RateLimited);
        assert_eq!(class("HTTP Error 500: Internal Server Error"), FailureClass::Network);
        assert_eq!(class("1024 bytes read, 3000 more expected"), FailureClass::Network);
    }

    #[test]
    fn a_usage_error_is_a_set_up_failure() {
        let failure = classify(Some(2), &["yt-dlp: error: no such option: --nope".into()]);
        assert_eq!(failure.class, FailureClass::Setup);
        assert_eq!(classify(None, &[]).class, FailureClass::Internal);
    }

    #[test]
    fn quotes_are_bounded() {
        let failure = classify(Some(1), &[format!("ERROR: {}", "x".repeat(5000))]);
        assert!(failure.message.chars().count() <= MAX_QUOTE);
    }
}
