//! Windows that are decoded together: each step takes a token of every hypothesis of every window.

use super::align::Watch;
use super::beam::Search;
use super::cache::{self, Heard, Said};
use super::logits::{self, Block};
use super::options::{Options, Text};
use super::rules::Judge;
use super::step::{self, Row};
use super::{Decoder, LONGEST};
use crate::transcribe::kernels::matrix::{PANEL, parts};
use crate::transcribe::kernels::vector::{layer_norm, quantise};

/// Most rows that go through the layers together, and whose logits are held at once: four windows of five beams, and a few.
pub(super) const ROWS: usize = 24;

/// Working memory of a thread.
pub(super) struct Room {
    pub(super) said: Said,
    pub(super) take: cache::Room,
    pub(super) step: step::Room,
    judges: Vec<Judge>,
    /// `[rows][width]`.
    pub(super) x: Vec<f32>,
    pub(super) row: Vec<f32>,
    /// Rows whose logits are wanted, `[rows][width]`, and what a step is worth.
    pub(super) ready: Vec<u8>,
    pub(super) worth: Vec<f32>,
    /// A block's, `[rows][1984]` at most.
    pub(super) logits: Vec<f32>,
    /// Their largest, a quarter as many.
    pub(super) most: Vec<f32>,
    /// What heads look at, `[head][row][frame]`, where words are aligned.
    pub(super) attention: Vec<f32>,
}

/// What is decoded of a window.
#[derive(Clone, Copy)]
pub(super) struct Window<'a> {
    pub(super) heard: &'a Heard,
    pub(super) prompt: &'a [u32],
    pub(super) seed: u64,
}

/// A window being decoded.
pub(super) struct Work<'a> {
    pub(super) nth: usize,
    pub(super) window: Window<'a>,
    pub(super) search: Search<'a>,
    pub(super) no_speech: f32,
}

impl Decoder {
    /// Decodes `windows` together.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vnni,avx512bf16")]
    pub(super) fn decode(&self, windows: &[Window<'_>], options: &Options, room: &mut Room) -> Vec<Text> {
        let mut texts = vec![Text::default(); windows.len()];
        let works = windows.iter().enumerate().map(|(nth, &window)| {
            let longest = (LONGEST / 2).min(LONGEST + 1 - window.prompt.len());
            let search = Search::new(&self.special, options, longest, window.seed);
            Work { nth, window, search, no_speech: 0.0 }
        });
        let mut works: Vec<Work<'_>> = works.collect();
        let mut rows = Vec::new();
        room.said.clear();
        while !works.is_empty() {
            self.gather(&mut works, &mut room.said, &mut rows);
            self.run(&works, &rows, room);
            self.judge(&mut works, &rows, options, room);
            for at in (0..works.len()).rev() {
                if !works[at].search.advance() {
                    let work = works.swap_remove(at);
                    texts[work.nth] = work.search.text(work.no_speech);
                }
            }
        }
        texts
    }

    /// The chances of each language in `windows`, whose prompts are the start of a transcript.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vnni,avx512bf16")]
    pub(super) fn detect(&self, windows: &[Window<'_>], room: &mut Room) -> Vec<Vec<(u32, f32)>> {
        let options = Options::default();
        let works = windows.iter().enumerate().map(|(nth, &window)| {
            let search = Search::new(&self.special, &options, 1, 0);
            Work { nth, window, search, no_speech: 0.0 }
        });
        let mut works: Vec<Work<'_>> = works.collect();
        let mut rows = Vec::new();
        room.said.clear();
        self.gather(&mut works, &mut room.said, &mut rows);
        self.run(&works, &rows, room);
        let languages = || self.special.languages.iter().map(|&id| id as usize);
        let (Some(first), Some(last)) = (languages().min(), languages().max()) else {
            return vec![Vec::new(); windows.len()];
        };
        let panels = first / PANEL..last / PANEL + 1;
        let (from, count) = (panels.start * PANEL, panels.len() * PANEL);
        room.fit(1, count);
        let each = room.ready.chunks_exact(self.width).zip(room.worth.chunks_exact(1));
        each.map(|(row, worth)| {
            let (logits, most) = (&mut room.logits[..count], &mut room.most[..count / 4]);
            self.vocabulary.measure(panels.clone(), row, worth, logits, most);
            let most = languages().map(|id| logits[id - from]).fold(f32::MIN, f32::max);
            let total: f32 = languages().map(|id| (logits[id - from] - most).exp()).sum();
            languages().map(|id| (id as u32, (logits[id - from] - most).exp() / total)).collect()
        })
        .collect()
    }

    /// The rows of the next step: the prompts at first, then a token of each hypothesis.
    pub(super) fn gather(&self, works: &mut [Work<'_>], said: &mut Said, rows: &mut Vec<Turn>) {
        rows.clear();
        for (work, Work { window, search, .. }) in works.iter().enumerate() {
            let start = window.prompt.iter().position(|&id| id == self.special.start);
            for (hypothesis, alive) in search.alive.iter().enumerate() {
                let position = alive.entries.len();
                let turn = Turn { work, hypothesis, token: 0, position, start: false, next: true };
                if let Some(&token) = alive.tokens.last() {
                    rows.push(Turn { token, ..turn });
                    continue;
                }
                rows.extend(window.prompt.iter().enumerate().map(|(position, &token)| {
                    let next = position + 1 == window.prompt.len();
                    Turn { token, position, start: Some(position) == start, next, ..turn }
                }));
            }
        }
        let alive = works.iter().flat_map(|work| work.search.alive.iter().map(|one| &one.entries[..]));
        said.reserve(rows.len(), alive);
        for row in rows {
            works[row.work].search.alive[row.hypothesis].entries.extend(said.entry());
        }
    }

    /// Takes rows through the layers; those whose logits are wanted are in `room.ready` then.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vnni,avx512bf16")]
    pub(super) fn run(&self, works: &[Work<'_>], rows: &[Turn], room: &mut Room) {
        let wanted = rows.iter().filter(|row| row.start || row.next).count();
        room.ready.resize(wanted * self.width, 0);
        room.worth.resize(wanted, 0.0);
        room.row.resize(self.width, 0.0);
        let mut ready = room.ready.chunks_exact_mut(self.width).zip(&mut room.worth);
        for (from, size) in parts(rows.len(), ROWS) {
            let rows = &rows[from..from + size];
            room.x.resize(size * self.width, 0.0);
            for (row, x) in rows.iter().zip(room.x.chunks_exact_mut(self.width)) {
                self.embed(row.token, row.position, x);
            }
            let of = |row: &Turn| Row {
                heard: works[row.work].window.heard,
                said: &works[row.work].search.alive[row.hypothesis].entries[..=row.position],
            };
            let looking: Vec<Row<'_>> = rows.iter().map(of).collect();
            let nothing = &mut Watch::default();
            step::step(&self.layers, &looking, &mut room.x, &mut room.said, &mut room.step, nothing);
            let done = rows.iter().zip(room.x.chunks_exact(self.width));
            for (_, x) in done.filter(|(row, _)| row.start || row.next) {
                if let Some((bytes, worth)) = ready.next() {
                    layer_norm(x, &self.last.gamma, &self.last.beta, &mut room.row);
                    *worth = quantise(&room.row, bytes);
                }
            }
        }
    }

    /// Tells the searches what may follow.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vnni,avx512bf16")]
    fn judge(&self, works: &mut [Work<'_>], rows: &[Turn], options: &Options, room: &mut Room) {
        let mut wanted = rows.iter().filter(|row| row.start || row.next);
        for (from, size) in parts(room.worth.len(), ROWS) {
            let rows: [Option<&Turn>; ROWS] =
                std::array::from_fn(|n| (n < size).then(|| wanted.next()).flatten());
            let each = || rows.iter().flatten().copied();
            room.judges.resize_with(room.judges.len().max(size), Judge::default);
            for (judge, row) in room.judges.iter_mut().zip(each()) {
                let search = &works[row.work].search;
                let said = &search.alive[row.hypothesis].tokens;
                judge.begin(&self.special, options, said, search.wanted(), row.start, self.tokens);
            }
            room.fit(size, logits::PANELS * PANEL);
            let bytes = &room.ready[from * self.width..][..size * self.width];
            let worth = &room.worth[from..from + size];
            let all = self.vocabulary.outputs() / PANEL;
            for first in (0..all).step_by(logits::PANELS) {
                let panels = first..(first + logits::PANELS).min(all);
                let count = panels.len() * PANEL;
                let (logits, most) = (&mut room.logits[..size * count], &mut room.most[..size * count / 4]);
                self.vocabulary.measure(panels, bytes, worth, logits, most);
                let held = logits.chunks_exact_mut(count).zip(most.chunks_exact_mut(count / 4));
                for (((logits, most), judge), row) in held.zip(&mut room.judges).zip(each()) {
                    let first = first * PANEL;
                    let logits = &mut logits[..count.min(self.tokens - first)];
                    let mut block = Block { first, logits, most };
                    let search = &mut works[row.work].search;
                    let chances = if row.next { search.chances(row.hypothesis) } else { &mut [] };
                    judge.take(&self.special, options, &mut block, chances);
                }
            }
            for (judge, row) in room.judges.iter_mut().zip(each()) {
                let Work { search, no_speech, .. } = &mut works[row.work];
                *no_speech = judge.no_speech().unwrap_or(*no_speech);
                if row.next {
                    let next = judge.end(options, search.chances(row.hypothesis));
                    search.hear(row.hypothesis, &next);
                }
            }
        }
    }
}

/// A token's turn.
#[derive(Clone, Copy)]
pub(super) struct Turn {
    work: usize,
    hypothesis: usize,
    token: u32,
    position: usize,
    /// Whether it is the start of the transcript, where the probability of no speech is told.
    start: bool,
    /// Whether another token follows it.
    next: bool,
}

impl Room {
    pub(super) fn new(decoder: &Decoder) -> Self {
        Self {
            said: Said::new(decoder.layers.len(), decoder.width),
            take: cache::Room::default(),
            step: step::Room::default(),
            judges: Vec::new(),
            x: Vec::new(),
            row: Vec::new(),
            ready: Vec::new(),
            worth: Vec::new(),
            logits: Vec::new(),
            most: Vec::new(),
            attention: Vec::new(),
        }
    }

    /// Room for `count` logits of each of `rows`.
    pub(super) fn fit(&mut self, rows: usize, count: usize) {
        let size = self.logits.len().max(rows * count);
        self.logits.resize(size, 0.0);
        self.most.resize(size / 4, 0.0);
    }
}
