//! The nouns: an item, its audio, what was said in it, and why it failed.
//!
//! Nothing here imports another module of the crate. Times are integer milliseconds on the
//! player's clock (the container's own start offset included), so that a link opens at the word.

use std::{fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};
use url::Url;
use uuid::Uuid;

/// Namespace of every [`MediaId`]; changing it would give every known video a new identity.
const NAMESPACE: Uuid = Uuid::from_u128(0x6f1d_2c1e_53a4_5b0e_9a54_7370_6f6b_656e);

/// Identity of a media item: the UUIDv5 of `extractor:id`, so the same video found through two lists is one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MediaId(pub Uuid);

impl MediaId {
    /// The item that `extractor` (yt-dlp's lower-case extractor key, `file`, `url`, `path`) calls `id`.
    pub fn new(extractor: &str, id: &str) -> Self {
        Self(Uuid::new_v5(&NAMESPACE, format!("{extractor}:{id}").as_bytes()))
    }
}

impl fmt::Display for MediaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl From<Uuid> for MediaId {
    fn from(id: Uuid) -> Self {
        Self(id)
    }
}

impl FromStr for MediaId {
    type Err = uuid::Error;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        s.parse().map(Self)
    }
}

/// Where an item's bytes come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "at", rename_all = "snake_case")]
pub enum Locator {
    /// A local file, absolute path.
    File(PathBuf),
    /// An address that answers with media, or with a page: found out when it is fetched.
    Url(Url),
    /// A page that only yt-dlp understands.
    Page(Url),
}

/// One media item as discovered, before anything was fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Identity, from `extractor` and `source_id`.
    pub media_id: MediaId,
    /// yt-dlp's extractor key in lower case, or `file` (id: BLAKE3 of the content), `url` (id: the normalised
    /// address), `path` (id: the path; only for files whose content could not be read).
    pub extractor: String,
    /// The extractor's own id.
    pub source_id: String,
    /// What to fetch.
    pub locator: Locator,
    /// What a person reads and a link opens: the page's address or the file's path.
    pub source: String,
    /// Title; the file's stem where nothing better is known. Untrusted text.
    pub title: String,
    /// Duration, where the discoverer knows it.
    pub duration_ms: Option<i64>,
}

/// What fetching learned about an item; fills what discovery did not know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Better title, if any. Untrusted text.
    pub title: Option<String>,
    /// The page a person would open.
    pub webpage_url: Option<String>,
    /// Channel or uploader.
    pub channel: Option<String>,
    /// When it was published, seconds since 1970.
    pub published_at: Option<i64>,
    /// Duration as the site states it; the decoder checks what it got against this.
    pub duration_ms: Option<i64>,
}

/// What fetching brought of an item.
#[derive(Clone, Debug, PartialEq)]
pub struct Fetched {
    /// A file with its media; inside the item's spool directory unless the item is a local file. None where captions do
    /// without: they are good, [`Captions::first`], and the metadata say how long the media plays.
    pub path: Option<PathBuf>,
    /// What was learned on the way.
    pub metadata: Metadata,
    /// Captions that people made for it, where they were wanted and found.
    pub captions: Option<Captions>,
}

/// Captions that people made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Captions {
    /// Their language, as the site calls it: `en`, `en-GB`.
    pub language: String,
    /// What they say, in order.
    pub segments: Vec<Segment>,
    /// They are the transcript if they are good; else they are only where nothing better can be had.
    pub first: bool,
}

/// Decoded audio: raw little-endian 16-bit samples, mono, 16 kHz, no header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audio {
    /// The file in the spool.
    pub path: PathBuf,
    /// Number of samples.
    pub samples: u64,
    /// What to add to a time in this file to get the time a player shows: the stream's start offset.
    pub offset_ms: i64,
    /// BLAKE3 of the file's bytes: what is known about a recording is kept under it.
    pub hash: [u8; 32],
}

/// Samples per second of all decoded audio: Whisper's rate.
pub const SAMPLE_RATE: u32 = 16_000;

impl Audio {
    /// Length in milliseconds, offset not included.
    pub fn duration_ms(&self) -> i64 {
        (self.samples * 1000 / u64::from(SAMPLE_RATE)) as i64
    }
}

/// One stretch of transcribed speech.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Start on the player's clock.
    pub start_ms: i64,
    /// End on the player's clock, never before `start_ms`.
    pub end_ms: i64,
    /// The words, trimmed.
    pub text: String,
    /// Whisper's language code (`en`, `es`, …), decided for the window.
    pub language: String,
    /// Mean log-probability of the window's tokens.
    pub avg_logprob: f32,
    /// Probability that the window holds no speech.
    pub no_speech_prob: f32,
    /// The words of `text` with their times, in order; empty where no word times were asked for or found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<Word>,
    /// Who speaks, where somebody wrote that down. Untrusted text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaker: Option<String>,
}

/// One word and when it was said. Punctuation belongs to the word it touches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Word {
    /// Start on the player's clock, within its segment.
    pub start_ms: i64,
    /// End on the player's clock, never before `start_ms` nor after the next word's start.
    pub end_ms: i64,
    /// The word, trimmed. Scripts without spaces: the smallest piece whose time is known.
    pub text: String,
    /// Mean probability of its tokens.
    pub prob: f32,
}

/// Why text that the model wrote was not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// The same words over and over.
    RepeatedPhrase,
    /// The same character over and over.
    RepeatedCharacters,
    /// Many words, few different ones.
    FewUniqueWords,
    /// Hardly any letter or digit.
    NoLetters,
    /// More words than anybody can say in that time.
    TooFast,
    /// Written in a script that its language does not use.
    WrongScript,
    /// A sentence that models are known to write where nobody speaks.
    Phantom,
    /// The prompt, said back.
    PromptEcho,
    /// The model itself says that nobody speaks.
    Silence,
}

impl DropReason {
    /// The name used in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RepeatedPhrase => "repeated_phrase",
            Self::RepeatedCharacters => "repeated_characters",
            Self::FewUniqueWords => "few_unique_words",
            Self::NoLetters => "no_letters",
            Self::TooFast => "too_fast",
            Self::WrongScript => "wrong_script",
            Self::Phantom => "phantom",
            Self::PromptEcho => "prompt_echo",
            Self::Silence => "silence",
        }
    }

    /// The name for people.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::RepeatedPhrase => "repeated phrase",
            Self::RepeatedCharacters => "repeated characters",
            Self::FewUniqueWords => "few different words",
            Self::NoLetters => "no letters",
            Self::TooFast => "faster than anybody speaks",
            Self::WrongScript => "another language's script",
            Self::Phantom => "written where nobody speaks",
            Self::PromptEcho => "the prompt, said back",
            Self::Silence => "silence",
        }
    }
}

/// Text that was not believed; kept so that nothing goes silently.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dropped {
    /// Start on the player's clock.
    pub start_ms: i64,
    /// End on the player's clock.
    pub end_ms: i64,
    /// What the model wrote.
    pub text: String,
    /// Language code of its window.
    pub language: String,
    /// Why it was not believed.
    pub reason: DropReason,
}

/// Detected speech that has no text in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Start on the player's clock.
    pub start_ms: i64,
    /// End on the player's clock.
    pub end_ms: i64,
}

/// What looks wrong with a whole transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flag {
    /// Much of the detected speech has no text.
    LowCoverage,
    /// Fewer words than speech of this length holds.
    FewWords,
    /// More words than speech of this length holds.
    ManyWords,
    /// Much of what the model wrote was not believed.
    MuchDropped,
}

impl Flag {
    /// The name used in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LowCoverage => "low_coverage",
            Self::FewWords => "few_words",
            Self::ManyWords => "many_words",
            Self::MuchDropped => "much_dropped",
        }
    }

    /// What it means, for people.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::LowCoverage => "much of the detected speech has no text",
            Self::FewWords => "fewer words than so much speech holds",
            Self::ManyWords => "more words than anybody says in that time",
            Self::MuchDropped => "much of what the model wrote was not believed",
        }
    }

    /// What to look at, and what may help.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::LowCoverage => {
                "listen at the gaps: if somebody speaks there, a larger WHISPER_MODEL or --quality quality hears more; \
                 music and crowds have no text"
            }
            Self::FewWords => {
                "if it is no music, the language may be wrong (--language), or the model too small (WHISPER_MODEL)"
            }
            Self::ManyWords => {
                "the model may go round in circles: a larger WHISPER_MODEL or --quality quality helps, or \
                 NO_REPEAT_NGRAM_SIZE=5"
            }
            Self::MuchDropped => {
                "read what was dropped (--dropped): if it was said, the language may be wrong (--language), or the model \
                 too small (WHISPER_MODEL)"
            }
        }
    }
}

/// Speech heard against speech written down.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Coverage {
    /// Detected speech that has text, milliseconds.
    pub transcribed_ms: i64,
    /// Words (characters, in scripts without spaces).
    pub words: u32,
    /// Detected speech that has no text, even after another try; in order.
    pub gaps: Vec<Gap>,
    /// What looks wrong with the whole.
    pub flags: Vec<Flag>,
}

impl Coverage {
    /// Share of `speech_ms` of detected speech that has text, 0 to 1; `None` without speech.
    pub fn share(&self, speech_ms: i64) -> Option<f64> {
        (speech_ms > 0).then(|| (self.transcribed_ms as f64 / speech_ms as f64).clamp(0.0, 1.0))
    }

    /// Words in a minute of the speech that has text; `None` without any.
    pub fn words_a_minute(&self) -> Option<f64> {
        (self.transcribed_ms > 0).then(|| f64::from(self.words) * 60_000.0 / self.transcribed_ms as f64)
    }
}

/// All that was said in one item.
#[derive(Clone, Debug, PartialEq)]
pub struct Transcript {
    /// Segments in order of `start_ms`.
    pub segments: Vec<Segment>,
    /// The language of most of the speech.
    pub language: String,
    /// Length of the audio.
    pub duration_ms: i64,
    /// Length of the detected speech.
    pub speech_ms: i64,
    /// Name of the model that wrote it.
    pub model: String,
    /// What the model wrote and nobody should believe, in order of `start_ms`.
    pub dropped: Vec<Dropped>,
    /// How much of the speech has text.
    pub coverage: Coverage,
}

/// Consecutive segments that read as one: what is embedded and found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// Start of the first segment.
    pub start_ms: i64,
    /// End of the last segment.
    pub end_ms: i64,
    /// The segments' text, joined by spaces.
    pub text: String,
    /// Language of its first segment.
    pub language: String,
    /// Index of the first segment, counted from 0.
    pub first_segment: usize,
    /// Index after the last segment.
    pub end_segment: usize,
}

/// Where an item stands. Exactly one at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Known, waiting for a worker (or for the time of its next attempt).
    Queued,
    /// A worker has it.
    Active,
    /// Its segments and vectors are stored.
    Done,
    /// Given up, with a reason; `spoken retry` brings it back.
    Failed,
}

impl State {
    /// The name used in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Active => "active",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

impl FromStr for State {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "queued" => Ok(Self::Queued),
            "active" => Ok(Self::Active),
            "done" => Ok(Self::Done),
            "failed" => Ok(Self::Failed),
            other => Err(format!("unknown state {other:?}")),
        }
    }
}

/// Why an item failed; decides whether another attempt can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The bytes are no media that the allowed demuxers read.
    NotMedia,
    /// Nothing in the file.
    Empty,
    /// Media, but without an audio track.
    NoAudio,
    /// Audio, but nobody speaks.
    NoSpeech,
    /// Ends before its stated duration.
    Truncated,
    /// Encrypted.
    Drm,
    /// The file is missing or may not be read.
    Unreadable,
    /// Longer or larger than the configured limits.
    TooLarge,
    /// The address does not exist (404, 410, removed video).
    NotFound,
    /// Needs an account, cookies or an age check.
    Private,
    /// Not available from this country.
    GeoBlocked,
    /// Not there yet: upcoming or live.
    NotYet,
    /// An address we refuse: scheme, credentials in it.
    Refused,
    /// The site asks to slow down or takes us for a bot.
    RateLimited,
    /// The site shows the page and refuses the media: its address has expired, or yt-dlp is out of date.
    Forbidden,
    /// Our own limits for the site are used up, or it is left alone for a while: the item's turn comes later.
    Paced,
    /// The network or the server failed; may work later.
    Network,
    /// Our own disk is full.
    NoSpace,
    /// A tool or model that the step needs is missing or broken; fix the set-up, then retry.
    Setup,
    /// The process died while it had the item, too often.
    Crashed,
    /// A person took it out of the queue.
    Cancelled,
    /// Anything else; may work later.
    Internal,
}

impl FailureClass {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::NotMedia,
        Self::Empty,
        Self::NoAudio,
        Self::NoSpeech,
        Self::Truncated,
        Self::Drm,
        Self::Unreadable,
        Self::TooLarge,
        Self::NotFound,
        Self::Private,
        Self::GeoBlocked,
        Self::NotYet,
        Self::Refused,
        Self::RateLimited,
        Self::Forbidden,
        Self::Paced,
        Self::Network,
        Self::NoSpace,
        Self::Setup,
        Self::Crashed,
        Self::Cancelled,
        Self::Internal,
    ];

    /// True where the same attempt may succeed later without anybody doing something.
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            Self::RateLimited
                | Self::Forbidden
                | Self::Paced
                | Self::NotYet
                | Self::Network
                | Self::NoSpace
                | Self::Internal
        )
    }

    /// The name used in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotMedia => "not_media",
            Self::Empty => "empty",
            Self::NoAudio => "no_audio",
            Self::NoSpeech => "no_speech",
            Self::Truncated => "truncated",
            Self::Drm => "drm",
            Self::Unreadable => "unreadable",
            Self::TooLarge => "too_large",
            Self::NotFound => "not_found",
            Self::Private => "private",
            Self::GeoBlocked => "geo_blocked",
            Self::NotYet => "not_yet",
            Self::Refused => "refused",
            Self::RateLimited => "rate_limited",
            Self::Forbidden => "forbidden",
            Self::Paced => "paced",
            Self::Network => "network",
            Self::NoSpace => "no_space",
            Self::Setup => "setup",
            Self::Crashed => "crashed",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }
}

/// When another attempt may be worth it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// So long from now.
    In(std::time::Duration),
    /// At this time, seconds since 1970.
    At(i64),
}

/// Why a step could not do its work on an item.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind of failure; code branches on this.
    pub class: FailureClass,
    /// What was wrong, in lower case, without a full stop.
    pub message: String,
    /// What the reader can do about it, if anything.
    pub remedy: Option<String>,
    /// When another attempt may be worth it, where that is known.
    pub retry: Option<Retry>,
    /// The item had no part in it: the attempt does not count.
    pub free: bool,
}

impl Failure {
    /// A failure of `class` described by `message`.
    pub fn new(class: FailureClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), remedy: None, retry: None, free: false }
    }

    /// The failure of writing to our own disk: [`FailureClass::NoSpace`] where it is full, else
    /// [`FailureClass::Internal`].
    pub fn of_disk(what: impl std::fmt::Display, error: &std::io::Error) -> Self {
        let message = format!("{what}: {error}");
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::new(FailureClass::NoSpace, message)
                    .with_remedy("free some space, or move SPOKEN_DATA_DIR to a larger disk")
            }
            _ => Self::new(FailureClass::Internal, message),
        }
    }

    /// Adds what the reader can do about it.
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Adds when another attempt may be worth it.
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.retry = Some(retry);
        self
    }
}
