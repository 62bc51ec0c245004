//! The log, on stderr: lines for people or JSON for machines, and never across a progress bar.
//!
//! What happens to items is told by events and drawn by [`crate::report`]; the log is for what belongs to no item
//! and for finding out why. Both write to stderr through one [`Output`], which lets the progress bars step aside
//! for as long as a line is written.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use console::Style;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter, format};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Libraries that log at `warn` or below what is no warning to a user of this program; a directive of the user's for
/// the same target wins.
const QUIET: &[(&str, LevelFilter)] = &[
    ("sqlx", LevelFilter::WARN),
    ("sqlx::query", LevelFilter::ERROR),
    ("sqlx::postgres::notice", LevelFilter::ERROR),
    ("graphile_worker", LevelFilter::ERROR),
    ("hyper", LevelFilter::WARN),
    ("hyper_util", LevelFilter::WARN),
    ("reqwest", LevelFilter::WARN),
    ("h2", LevelFilter::WARN),
    ("ort", LevelFilter::ERROR),
    ("hf_hub", LevelFilter::WARN),
    ("tokenizers", LevelFilter::ERROR),
    ("ureq", LevelFilter::WARN),
];

/// When output is coloured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    /// Decides for stderr, and tells `console` (and so the progress bars) for both streams.
    pub fn apply(self) -> bool {
        match self {
            Self::Auto => {}
            Self::Always | Self::Never => {
                console::set_colors_enabled(self == Self::Always);
                console::set_colors_enabled_stderr(self == Self::Always);
            }
        }
        console::colors_enabled_stderr()
    }
}

/// How to log.
#[derive(Clone, Debug)]
pub struct TelemetryOptions {
    /// JSON lines instead of text.
    pub json: bool,
    /// `tracing` directives: `warn,spoken=debug`.
    pub filter: String,
    /// Colours in text lines.
    pub color: Color,
}

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The directives cannot be read.
    #[error("failed to read the log filter {filter:?}")]
    Filter {
        /// As given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Another subscriber was there first.
    #[error("failed to install the logger")]
    Installed(#[from] tracing_subscriber::util::TryInitError),
}

/// Starts logging to stderr, and quiets the C and C++ libraries, which write there by themselves.
///
/// # Errors
/// [`TelemetryError`]; nothing is logged then.
pub fn init(options: &TelemetryOptions) -> Result<Output, TelemetryError> {
    let output = Output::stderr();
    let filter = filter(&options.filter)
        .map_err(|source| TelemetryError::Filter { filter: options.filter.clone(), source })?;
    let styled = options.color.apply();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(output.clone());
    if options.json {
        builder.json().flatten_event(true).with_span_list(false).finish().try_init()?;
    } else {
        builder.with_ansi(false).event_format(Lines { styled }).finish().try_init()?;
    }
    // Their warnings are about what the steps report by themselves, with the item's name.
    ffmpeg_next::log::set_level(ffmpeg_next::log::Level::Fatal);
    if std::env::var_os("CT2_VERBOSE").is_none() {
        ct2rs::sys::set_log_level(ct2rs::sys::LogLevel::Error);
    }
    Ok(output)
}

/// The user's directives, after those that quiet libraries below the user's general level.
fn filter(directives: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    let written: Vec<&str> = directives.split(',').map(str::trim).filter(|d| !d.is_empty()).collect();
    // Without a general level, `EnvFilter` shows errors.
    let general = written.iter().rev().find_map(|d| d.parse().ok()).unwrap_or(LevelFilter::ERROR);
    let mut all: Vec<String> = Vec::new();
    for (target, level) in QUIET {
        let named = written.iter().any(|d| d.split(['=', '[']).next() == Some(*target));
        if !named && *level < general {
            all.push(format!("{target}={level}"));
        }
    }
    all.extend(written.iter().map(|d| (*d).to_owned()));
    EnvFilter::builder().parse(all.join(","))
}

/// Runs what it is given while the screen is clear of bars: `indicatif::MultiProgress::suspend`, for example.
pub type Suspender = dyn Fn(&mut dyn FnMut()) + Send + Sync;

/// Stderr, shared by the log and the progress bars. Cheap to clone; all clones are the same output.
#[derive(Clone)]
pub struct Output {
    inner: Arc<Inner>,
}

struct Inner {
    suspender: Mutex<Option<Arc<Suspender>>>,
    sink: Mutex<Box<dyn Write + Send>>,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").finish_non_exhaustive()
    }
}

impl Output {
    /// Writes to stderr.
    pub fn stderr() -> Self {
        Self::to(io::stderr())
    }

    /// Writes to `sink`.
    pub fn to(sink: impl Write + Send + 'static) -> Self {
        Self { inner: Arc::new(Inner { suspender: Mutex::new(None), sink: Mutex::new(Box::new(sink)) }) }
    }

    /// From now on every line is written inside of `suspend`. It must call what it is given, once, before it
    /// returns, and must not log.
    ///
    /// ```
    /// # let output = spoken::telemetry::Output::to(std::io::sink());
    /// let bars = indicatif::MultiProgress::new();
    /// output.set_suspender(move |write| bars.suspend(write));
    /// ```
    pub fn set_suspender(&self, suspend: impl Fn(&mut dyn FnMut()) + Send + Sync + 'static) {
        *self.inner.suspender.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(suspend));
    }

    /// Lines are written directly again: for when the bars are gone.
    pub fn clear_suspender(&self) {
        *self.inner.suspender.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Writes a whole piece of output at once. A stderr that is closed is no error: there is nobody to tell.
    pub fn write(&self, bytes: &[u8]) {
        // Cloned, so that the lock is not held while foreign code runs.
        let suspender = self.inner.suspender.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut write = || {
            let mut sink = self.inner.sink.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = sink.write_all(bytes).and_then(|()| sink.flush());
        };
        match suspender {
            Some(suspend) => suspend(&mut write),
            None => write(),
        }
    }
}

impl<'a> MakeWriter<'a> for Output {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line { output: self, buffer: Vec::new() }
    }
}

/// One log line, written as a whole when it is dropped.
#[derive(Debug)]
pub struct Line<'a> {
    output: &'a Output,
    buffer: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if !self.buffer.is_empty() {
            self.output.write(&self.buffer);
        }
    }
}

/// `14:03:59 warn  message key=value`: time of day, level, what happened. No target: a line reads alone.
struct Lines {
    styled: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: format::Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let style = |style: Style| style.force_styling(self.styled);
        let dim = style(Style::new().dim());
        let (name, level) = match *event.metadata().level() {
            Level::ERROR => ("error", style(Style::new().red().bold())),
            Level::WARN => ("warn ", style(Style::new().yellow())),
            Level::INFO => ("info ", style(Style::new().green())),
            Level::DEBUG => ("debug", style(Style::new().blue())),
            Level::TRACE => ("trace", style(Style::new().dim())),
        };
        let now = chrono::Local::now().format("%H:%M:%S");
        write!(writer, "{} {} ", dim.apply_to(now), level.apply_to(name))?;

        let mut fields = Fields::default();
        event.record(&mut fields);
        write!(writer, "{}", sanitize(&fields.message))?;
        if !fields.rest.is_empty() {
            write!(writer, "{}", dim.apply_to(sanitize(&fields.rest)))?;
        }
        for span in context.event_scope().into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>()
                && !fields.is_empty()
            {
                write!(writer, " {}", dim.apply_to(sanitize(&fields.fields)))?;
            }
        }
        writeln!(writer)
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.rest, " {name}={value:?}"),
        };
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let _ = write!(self.rest, " {}={value}", field.name());
        let mut cause = value.source();
        while let Some(source) = cause {
            let _ = write!(self.rest, ": {source}");
            cause = source.source();
        }
    }
}

/// Makes outside text safe to show on a terminal, on one line.
///
/// Titles, server answers and other programs' messages may hold terminal codes that clear the screen or retitle
/// the window, and Unicode controls that turn text around so that it reads as something else. Line breaks and tabs
/// become blanks; every other control character (C0, C1, DEL), bidirectional embedding, override and isolate
/// (U+202A to U+202E, U+2066 to U+2069), interlinear annotation, tag character and byte order mark becomes U+FFFD.
/// What writing needs stays: joiners in emoji and Indic scripts, the direction marks U+200E, U+200F and U+061C.
pub fn sanitize(text: &str) -> Cow<'_, str> {
    if text.chars().all(|c| replacement(c).is_none()) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|c| replacement(c).unwrap_or(c)).collect())
}

fn replacement(c: char) -> Option<char> {
    match c {
        '\t' | '\n' | '\r' | '\u{0b}' | '\u{0c}' | '\u{85}' | '\u{2028}' | '\u{2029}' => Some(' '),
        c if c.is_control() => Some(char::REPLACEMENT_CHARACTER),
        '\u{202a}'..='\u{202e}'
        | '\u{2066}'..='\u{206f}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{feff}'
        | '\u{e0000}'..='\u{e007f}' => Some(char::REPLACEMENT_CHARACTER),
        _ => None,
    }
}

/// True where stderr is a terminal that bars can be drawn on.
pub fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt as _;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Sink {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(filter_text: &str, styled: bool, work: impl FnOnce()) -> String {
        let sink = Sink::default();
        let layer = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .event_format(Lines { styled })
            .with_writer(Output::to(sink.clone()));
        let subscriber = tracing_subscriber::registry().with(filter(filter_text).unwrap()).with(layer);
        tracing::subscriber::with_default(subscriber, work);
        sink.text()
    }

    #[test]
    fn text_that_needs_nothing_is_not_copied() {
        for text in ["plain", "Ünï çødé 日本語", "👩‍🔬 می‌خواهم", "\u{200f}עברית"]
        {
            assert!(matches!(sanitize(text), Cow::Borrowed(same) if same == text), "{text:?}");
        }
    }

    #[test]
    fn terminal_codes_and_turned_text_are_disarmed() {
        assert_eq!(sanitize("a\x1b]0;owned\x07b"), "a\u{fffd}]0;owned\u{fffd}b");
        assert_eq!(sanitize("a\u{9b}2Jb\x7f"), "a\u{fffd}2Jb\u{fffd}");
        assert_eq!(sanitize("file\u{202e}4pm.exe"), "file\u{fffd}4pm.exe");
        assert_eq!(sanitize("one\r\ntwo\tthree\u{2028}four"), "one  two three four");
        assert_eq!(sanitize("\u{feff}\u{e0041}"), "\u{fffd}\u{fffd}");
    }

    #[test]
    fn a_line_holds_level_message_and_fields_and_nothing_that_controls_the_terminal() {
        let text = logged("info", false, || {
            tracing::info!(target: "spoken", count = 3, title = "\x1b[2J", "something\nhappened");
        });
        let (time, rest) = text.split_once(' ').unwrap();
        assert_eq!(time.len(), 8, "{text}");
        assert!(rest.starts_with("info  something happened count=3 title="), "{text}");
        assert!(!text.trim_end_matches('\n').contains(|c: char| c.is_control()), "{text:?}");
    }

    #[test]
    fn colours_are_ours_only() {
        let text = logged("info", true, || tracing::warn!(target: "spoken", "\x1b[31mred\x1b[0m"));
        assert!(text.contains("\x1b["), "{text:?}");
        assert!(!text.contains("\x1b[31m"), "{text:?}");
    }

    #[test]
    fn libraries_are_quiet_unless_asked_for() {
        let work = || {
            tracing::warn!(target: "sqlx::query", "slow statement");
            tracing::warn!(target: "graphile_worker::worker", "noise");
            tracing::info!(target: "spoken::fetch", "seen");
        };
        assert_eq!(logged("warn,spoken=info", false, work).lines().count(), 1);
        assert_eq!(logged("warn,sqlx::query=warn,spoken=info", false, work).lines().count(), 2);
        assert_eq!(logged("off", false, work), "");
    }

    #[test]
    fn errors_are_told_with_their_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("failed to open the spool")]
        struct Outer(#[source] io::Error);
        let error = Outer(io::Error::other("disk full"));
        let text = logged("info", false, || {
            tracing::error!(target: "spoken", error = &error as &dyn std::error::Error, "gave up");
        });
        assert!(text.ends_with("error gave up error=failed to open the spool: disk full\n"), "{text}");
    }

    #[test]
    fn a_line_is_written_whole_and_inside_of_the_suspender() {
        let sink = Sink::default();
        let output = Output::to(sink.clone());
        let seen = sink.clone();
        output.set_suspender(move |write| {
            seen.0.lock().unwrap().extend_from_slice(b"<");
            write();
            seen.0.lock().unwrap().extend_from_slice(b">");
        });
        let mut line = output.make_writer();
        line.write_all(b"half ").unwrap();
        assert_eq!(sink.text(), "");
        line.write_all(b"and half").unwrap();
        drop(line);
        output.clear_suspender();
        output.write(b" plain");
        assert_eq!(sink.text(), "<half and half> plain");
    }
}
