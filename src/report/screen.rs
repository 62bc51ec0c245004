//! The terminal under the bars: what indicatif draws on, and the one way to print beside them.
//!
//! indicatif pads every row with spaces up to the edge and lets the terminal wrap into the next one. Terminals
//! re-flow such rows as one long paragraph when their width changes, so that the next drawing either leaves
//! remains behind or eats lines that stood above. [`Screen`] therefore takes indicatif's text, cuts it back into
//! rows, ends each with a real line break, and knows how many rows each became after a change of width. A drawing
//! is one write without clearing first, so nothing flickers. The cursor is never hidden; it rests at the start of
//! the line below the rows, where a shell's prompt or an echoed `^C` finds a free line, however the process ends.

use std::cell::Cell;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use console::AnsiCodeIterator;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};
use unicode_width::UnicodeWidthChar;

use super::text;

/// Rows and columns.
pub(super) type Size = (u16, u16);

/// What rows are drawn on. Cheap to clone; all clones are the same screen.
#[derive(Clone)]
pub(super) struct Screen(Arc<Shared>);

struct Shared {
    size: Box<dyn Fn() -> Size + Send + Sync>,
    reflows: bool,
    state: Mutex<State>,
}

struct State {
    out: Box<dyn Write + Send>,
    /// Width that indicatif was told last: the one that its text is padded for.
    told_width: u16,
    /// What indicatif wrote since the last flush.
    text: String,
    /// Lines to print above the rows with the next drawing.
    above: String,
    /// The rows on the screen.
    rows: Vec<String>,
    /// Width of the terminal when they were drawn.
    drawn_width: u16,
}

impl Screen {
    /// A screen on `out` whose size `size` tells; `reflows`: the terminal re-wraps lines when its width changes.
    pub(super) fn new(
        out: impl Write + Send + 'static,
        size: impl Fn() -> Size + Send + Sync + 'static,
        reflows: bool,
    ) -> Self {
        let (_, columns) = size();
        Self(Arc::new(Shared {
            size: Box::new(size),
            reflows,
            state: Mutex::new(State {
                out: Box::new(out),
                told_width: columns,
                text: String::new(),
                above: String::new(),
                rows: Vec::new(),
                drawn_width: columns,
            }),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rows and columns of the terminal now.
    pub(super) fn size(&self) -> Size {
        let (rows, columns) = (self.0.size)();
        (rows.max(2), columns.max(2))
    }

    fn print_above(&self, lines: &[String]) {
        let mut state = self.state();
        for line in lines {
            state.above.push_str("\x1b[2K");
            state.above.push_str(line);
            // It may reach over what stood in the next line, too.
            state.above.push_str("\x1b[K\r\n");
        }
    }

    fn write_through(&self, text: &str) {
        let mut state = self.state();
        // A terminal that went away is no reason to stop the work.
        let _ = state.out.write_all(text.as_bytes()).and_then(|()| state.out.flush());
    }

    /// Brings `rows` to the screen in place of those that are there, and below the lines that wait to be printed.
    fn paint(&self, state: &mut State, rows: Vec<String>) -> io::Result<()> {
        let (height, columns) = self.size();
        if rows == state.rows && state.above.is_empty() && columns == state.drawn_width {
            return Ok(());
        }
        let narrowed = self.0.reflows && columns < state.drawn_width;
        let on_screen: usize = state
            .rows
            .iter()
            .map(|row| if narrowed { text::width(row).div_ceil(usize::from(columns)).max(1) } else { 1 })
            .sum();
        let up = on_screen.min(usize::from(height) - 1);

        let climb = if up > 0 { format!("\x1b[{up}A\r") } else { "\r".to_owned() };
        let mut out = climb.clone();
        if rows.is_empty() {
            // Line by line: some terminals take clearing the whole screen for a wish to keep a copy of it.
            out.push_str(&"\x1b[2K\r\n".repeat(up));
            out.push_str(&climb);
        }
        out.push_str(&std::mem::take(&mut state.above));
        for row in &rows {
            // Cleared before, not behind the text: tmux remembers a line as long as it ever was otherwise, and
            // re-wraps that.
            out.push_str("\x1b[2K");
            out.push_str(row);
            out.push_str("\r\n");
        }
        if !rows.is_empty() {
            out.push_str("\x1b[J");
        }
        state.rows = rows;
        state.drawn_width = columns;
        state.out.write_all(out.as_bytes())?;
        state.out.flush()
    }

    /// Takes the rows away, runs `f`, brings them back; nobody else draws meanwhile. Not indicatif's way of doing
    /// it, which does nothing in a thread that panics: the very moment this is for.
    fn suspend(&self, f: &mut dyn FnMut()) {
        let mut state = self.state();
        let rows = state.rows.clone();
        // A terminal that went away is no reason not to run `f`.
        let _ = self.paint(&mut state, Vec::new());
        f();
        let _ = self.paint(&mut state, rows);
    }

    /// Forgets the rows, after somebody else wrote over them: the next drawing begins below.
    fn forget(&self) {
        self.state().rows.clear();
    }
}

impl fmt::Debug for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Screen").finish_non_exhaustive()
    }
}

/// `text`, padded for `columns`, cut into the rows that a terminal would show, without the padding.
fn cut(text: &str, columns: usize) -> Vec<String> {
    let mut rows: Vec<String> = Vec::new();
    let mut row = String::new();
    let mut used = 0;
    for (part, is_escape) in AnsiCodeIterator::new(text) {
        if is_escape {
            if used >= columns {
                rows.push(std::mem::take(&mut row));
                used = 0;
            }
            row.push_str(part);
            continue;
        }
        for c in part.chars() {
            let w = c.width().unwrap_or(0);
            if w > 0 && used + w > columns {
                rows.push(std::mem::take(&mut row));
                used = 0;
            }
            row.push(c);
            used += w;
        }
    }
    if !row.is_empty() {
        rows.push(row);
    }
    for row in &mut rows {
        row.truncate(row.trim_end().len());
    }
    rows
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        let (_, columns) = self.size();
        self.state().told_width = columns;
        columns
    }

    fn height(&self) -> u16 {
        // The line below the rows is the cursor's.
        self.size().0 - 1
    }

    // Where indicatif wants to be does not matter: every flush draws the whole.
    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn clear_line(&self) -> io::Result<()> {
        Ok(())
    }

    fn write_line(&self, s: &str) -> io::Result<()> {
        let columns = usize::from(self.size().1);
        let fill = columns - text::width(s) % columns;
        let mut state = self.state();
        state.text.push_str(s);
        state.text.push_str(&" ".repeat(fill));
        Ok(())
    }

    fn write_str(&self, s: &str) -> io::Result<()> {
        self.state().text.push_str(s);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut state = self.state();
        let text = std::mem::take(&mut state.text);
        let rows = cut(&text, usize::from(state.told_width));
        self.paint(&mut state, rows)
    }
}

thread_local! {
    /// True while this thread draws or is suspended, so that a panic in the middle does not wait for itself.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Sets [`INSIDE`] for as long as it lives.
struct Inside(bool);

impl Inside {
    fn enter() -> Self {
        Self(INSIDE.replace(true))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(self.0);
    }
}

/// Rows kept at the bottom of a screen.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    screen: Screen,
    /// One bar whose message is all the rows: one drawing for a change of any number of them.
    bar: ProgressBar,
}

impl Rows {
    /// Nothing is drawn before the first [`Rows::show`].
    pub(super) fn new(screen: Screen) -> Self {
        let target = ProgressDrawTarget::term_like(Box::new(screen.clone()));
        let bar =
            ProgressBar::with_draw_target(None, target).with_finish(indicatif::ProgressFinish::AndClear);
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            bar.set_style(style);
        }
        Self { screen, bar }
    }

    /// Rows and columns of the terminal now.
    pub(super) fn size(&self) -> Size {
        self.screen.size()
    }

    /// True if the terminal's width is not what the rows were drawn for.
    pub(super) fn is_resized(&self) -> bool {
        self.screen.size().1 != self.screen.state().drawn_width
    }

    /// Replaces the rows.
    pub(super) fn show(&self, rows: &[String]) {
        let _inside = Inside::enter();
        self.bar.set_message(rows.join("\n"));
    }

    /// Puts lines above the rows, where they stay; they appear with the next drawing.
    pub(super) fn print(&self, lines: &[String]) {
        self.screen.print_above(lines);
    }

    /// Takes the rows away for as long as `f` runs.
    pub(super) fn suspend(&self, f: &mut dyn FnMut()) {
        if INSIDE.get() {
            f();
        } else {
            let _inside = Inside::enter();
            self.screen.suspend(f);
        }
    }

    /// Takes the rows away for good, and prints `lines` where they stood.
    pub(super) fn finish(&self, lines: &[String]) {
        let _inside = Inside::enter();
        self.bar.finish_and_clear();
        let mut text = String::new();
        for line in lines {
            text.push_str(line);
            text.push_str("\r\n");
        }
        self.screen.write_through(&text);
    }

    /// After the process was stopped and continued: somebody else has written meanwhile.
    pub(super) fn start_below(&self) {
        let _inside = Inside::enter();
        self.screen.forget();
        self.bar.tick();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    /// A terminal in memory: what was written is read by a terminal emulator of the size it has now.
    #[derive(Clone)]
    pub(in crate::report) struct Emulator(Arc<(Mutex<vt100::Parser>, AtomicU32)>);

    impl Emulator {
        pub(in crate::report) fn new(rows: u16, columns: u16) -> Self {
            let size = AtomicU32::new(u32::from(rows) << 16 | u32::from(columns));
            Self(Arc::new((Mutex::new(vt100::Parser::new(rows, columns, 1000)), size)))
        }

        pub(in crate::report) fn screen(&self) -> Screen {
            let shared = Arc::clone(&self.0);
            let size = move || {
                let size = shared.1.load(Relaxed);
                ((size >> 16) as u16, size as u16)
            };
            // The emulator cuts lines when it becomes narrower.
            Screen::new(self.clone(), size, false)
        }

        pub(in crate::report) fn resize(&self, rows: u16, columns: u16) {
            self.0.1.store(u32::from(rows) << 16 | u32::from(columns), Relaxed);
            self.parser().screen_mut().set_size(rows, columns);
        }

        fn parser(&self) -> MutexGuard<'_, vt100::Parser> {
            self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// The lines that show, without the empty ones at the end.
        pub(in crate::report) fn lines(&self) -> Vec<String> {
            let contents = self.parser().screen().contents();
            contents.trim_end().lines().map(|l| l.trim_end().to_owned()).collect()
        }

        pub(in crate::report) fn cursor(&self) -> (u16, u16) {
            self.parser().screen().cursor_position()
        }
    }

    impl Write for Emulator {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.parser().process(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn rows(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|t| (*t).to_owned()).collect()
    }

    #[test]
    fn rows_replace_each_other_and_printed_lines_stay() {
        let terminal = Emulator::new(10, 30);
        let shown = Rows::new(terminal.screen());
        shown.show(&rows(&["one", "", "three \u{1b}[1mbold\u{1b}[0m"]));
        assert_eq!(terminal.lines(), ["one", "", "three bold"]);
        assert_eq!(terminal.cursor(), (3, 0), "below the rows");
        shown.print(&rows(&["kept"]));
        shown.show(&rows(&["two"]));
        assert_eq!(terminal.lines(), ["kept", "two"]);
        let mut log = terminal.clone();
        shown.suspend(&mut || log.write_all(b"a log line\r\n").expect("memory"));
        assert_eq!(terminal.lines(), ["kept", "a log line", "two"]);
        shown.finish(&rows(&["summary"]));
        assert_eq!(terminal.lines(), ["kept", "a log line", "summary"]);
        assert_eq!(terminal.cursor(), (3, 0));
    }

    #[test]
    fn a_panic_in_a_worker_is_read_above_the_rows() {
        struct Speaks(Rows, Emulator);
        impl Drop for Speaks {
            fn drop(&mut self) {
                // Where a panic hook stands: the thread is panicking.
                assert!(std::thread::panicking());
                self.0.suspend(&mut || self.1.write_all(b"panicked at\r\n").expect("memory"));
            }
        }
        let terminal = Emulator::new(10, 30);
        let shown = Rows::new(terminal.screen());
        shown.show(&rows(&["one", "two"]));
        let speaks = Speaks(shown.clone(), terminal.clone());
        let worker = std::thread::spawn(move || {
            let _speaks = speaks;
            std::panic::resume_unwind(Box::new("a worker's"));
        });
        assert!(worker.join().is_err());
        assert_eq!(terminal.lines(), ["panicked at", "one", "two"]);
    }

    #[test]
    fn rows_as_wide_as_the_screen_and_wide_characters_stay_apart() {
        let terminal = Emulator::new(10, 10);
        let shown = Rows::new(terminal.screen());
        shown.show(&rows(&["0123456789", "日本語日本", "x"]));
        assert_eq!(terminal.lines(), ["0123456789", "日本語日本", "x"]);
        shown.show(&rows(&["日本語日本語", "x"]));
        assert_eq!(terminal.lines(), ["日本語日本", "語", "x"]);
    }

    #[test]
    fn more_rows_than_the_screen_has_do_not_scroll() {
        let terminal = Emulator::new(5, 20);
        let shown = Rows::new(terminal.screen());
        shown.print(&rows(&["kept"]));
        for n in 0..3 {
            shown.show(&(0..9).map(|i| format!("row {i} {n}")).collect::<Vec<_>>());
        }
        assert_eq!(terminal.lines(), ["row 0 2", "row 1 2", "row 2 2", "row 3 2"]);
    }

    #[test]
    fn a_narrower_screen_shows_no_remains() {
        let terminal = Emulator::new(10, 40);
        let shown = Rows::new(terminal.screen());
        shown.print(&rows(&["kept"]));
        shown.show(&rows(&["a row of thirty columns, about", "another"]));
        terminal.resize(10, 20);
        shown.show(&rows(&["short", "another"]));
        assert_eq!(terminal.lines(), ["kept", "short", "another"]);
        terminal.resize(6, 60);
        shown.show(&rows(&["wide again", "another"]));
        assert_eq!(terminal.lines(), ["kept", "wide again", "another"]);
    }

    #[test]
    fn a_terminal_that_reflows_is_counted_after_the_change() {
        let written: Arc<Mutex<Vec<u8>>> = Arc::default();
        struct Log(Arc<Mutex<Vec<u8>>>);
        impl Write for Log {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let columns = Arc::new(AtomicU32::new(40));
        let now = Arc::clone(&columns);
        let screen = Screen::new(Log(Arc::clone(&written)), move || (24, now.load(Relaxed) as u16), true);
        let shown = Rows::new(screen);
        shown.show(&rows(&["a row of thirty columns, about", "another", ""]));
        columns.store(20, Relaxed);
        written.lock().unwrap_or_else(PoisonError::into_inner).clear();
        shown.show(&rows(&["short"]));
        let text =
            String::from_utf8(written.lock().unwrap_or_else(PoisonError::into_inner).clone()).expect("utf-8");
        assert!(
            text.starts_with("\x1b[4A\r\x1b[2Kshort\r\n\x1b[J"),
            "thirty columns became two rows: {text:?}"
        );
    }

    #[test]
    fn nothing_is_written_when_nothing_changed() {
        let terminal = Emulator::new(5, 20);
        let count = Arc::new(AtomicU32::new(0));
        struct Counting(Emulator, Arc<AtomicU32>);
        impl Write for Counting {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.1.fetch_add(1, Relaxed);
                self.0.write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let shown = Rows::new(Screen::new(Counting(terminal, Arc::clone(&count)), || (5, 20), true));
        for _ in 0..5 {
            shown.show(&rows(&["same"]));
        }
        assert_eq!(count.load(Relaxed), 1);
    }
}
