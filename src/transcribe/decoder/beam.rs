//! The search for a window's text: which hypotheses go on, which are complete, and which is the best.

use super::options::{Options, Special, Text};
use super::rules::Next;
use super::sample::Chance;

/// A text that is being written.
#[derive(Clone, Debug, Default)]
pub(super) struct Hypothesis {
    /// Its tokens, without the prompt.
    pub(super) tokens: Vec<u32>,
    /// Where the keys and values stand of what was read so far: the prompt and all tokens but the last.
    pub(super) entries: Vec<u32>,
    /// Sum of the log-probabilities.
    score: f32,
    /// Which of the samples it is.
    nth: usize,
}

/// A token that may follow one of the hypotheses.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    from: usize,
    token: u32,
    score: f32,
}

/// The search in one window.
pub(super) struct Search<'a> {
    special: &'a Special,
    options: &'a Options,
    /// Most tokens of a text.
    longest: usize,
    /// Being written, best first.
    pub(super) alive: Vec<Hypothesis>,
    /// Those of the step before, for their memory.
    spare: Vec<Hypothesis>,
    candidates: Vec<Candidate>,
    chances: Vec<Chance>,
    complete: usize,
    /// The best of the complete ones, and what it is worth.
    best: Option<(f32, Text)>,
}

impl<'a> Search<'a> {
    pub(super) fn new(special: &'a Special, options: &'a Options, longest: usize, seed: u64) -> Self {
        let chances = if options.temperature > 0.0 { options.samples.max(1) } else { 0 };
        Self {
            special,
            options,
            longest,
            alive: vec![Hypothesis::default()],
            spare: Vec::new(),
            candidates: Vec::new(),
            chances: (0..chances).map(|nth| Chance::new(seed, nth)).collect(),
            complete: 0,
            best: None,
        }
    }

    /// Hypotheses that are followed.
    fn width(&self) -> usize {
        if self.chances.is_empty() { self.options.beams.max(1) } else { self.chances.len() }
    }

    /// How many of the most probable tokens it wants to hear of. Where half of twice the beams are ends of text, the others
    /// take their places.
    pub(super) fn wanted(&self) -> usize {
        match self.width() {
            beams if beams > 1 && self.chances.is_empty() => 2 * beams,
            _ => 1,
        }
    }

    /// What draws the tokens after the hypothesis `from`; nothing where the most probable count.
    pub(super) fn chances(&mut self, from: usize) -> &mut [Chance] {
        match &self.alive[from] {
            // All samples begin at the same place.
            one if one.tokens.is_empty() => &mut self.chances,
            _ if self.chances.is_empty() => &mut [],
            one => &mut self.chances[one.nth..=one.nth],
        }
    }

    /// Takes what may follow the hypothesis `from`.
    pub(super) fn hear(&mut self, from: usize, next: &Next<'_>) {
        let before = self.alive[from].score;
        let heard = if self.chances.is_empty() { next.best } else { next.drawn };
        self.candidates.extend(heard.iter().map(|&(logit, token)| Candidate {
            from,
            token,
            score: before + (logit - next.total),
        }));
    }

    /// Goes a step on with what was heard. Whether there is anything left to write.
    pub(super) fn advance(&mut self) -> bool {
        let mut candidates = std::mem::take(&mut self.candidates);
        let width = self.width();
        let length = self.alive.first().map_or(0, |one| one.tokens.len()) + 1;
        let last = length >= self.longest;
        let first = length == 1;
        let sampling = !self.chances.is_empty();
        if !sampling {
            candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
        }
        std::mem::swap(&mut self.alive, &mut self.spare);
        let mut count = 0;
        let (chosen, others) = candidates.split_at(width.min(candidates.len()));
        let mut others =
            others.iter().take(width).filter(|other| !sampling && other.token != self.special.end);
        let mut top_is_complete = false;
        for (k, candidate) in chosen.iter().enumerate() {
            let mut next = Some(candidate);
            if candidate.token == self.special.end || last {
                top_is_complete |= k == 0;
                self.finish(candidate);
                next = others.next();
            }
            if let Some(candidate) = next {
                let parent = &self.spare[candidate.from];
                if self.alive.len() == count {
                    self.alive.push(Hypothesis::default());
                }
                let child = &mut self.alive[count];
                child.tokens.clone_from(&parent.tokens);
                child.tokens.push(candidate.token);
                child.entries.clone_from(&parent.entries);
                child.score = candidate.score;
                child.nth = if first { k } else { parent.nth };
                count += 1;
            }
        }
        self.alive.truncate(count);
        candidates.clear();
        self.candidates = candidates;
        let enough = if sampling {
            false
        } else if width == 1 {
            self.complete > 0
        } else if self.options.length_penalty == 0.0 {
            // The first to be complete while on top is the best there can be.
            top_is_complete && self.complete > 0
        } else {
            self.complete >= ((width as f32 * self.options.patience).round() as usize).max(1)
        };
        !(last || enough || self.alive.is_empty())
    }

    /// Notes that a hypothesis is complete with this candidate.
    fn finish(&mut self, candidate: &Candidate) {
        let parent = &self.spare[candidate.from];
        let ended = candidate.token == self.special.end;
        let length = parent.tokens.len() + usize::from(!ended);
        let worth = candidate.score / (length as f32).powf(self.options.length_penalty);
        self.complete += 1;
        if self.best.as_ref().is_none_or(|(most, _)| worth > *most) {
            let mut tokens = parent.tokens.clone();
            tokens.extend((!ended).then_some(candidate.token));
            self.best = Some((worth, Text { tokens, sum: candidate.score, no_speech: 0.0 }));
        }
    }

    /// The best text.
    pub(super) fn text(self, no_speech: f32) -> Text {
        let text = self.best.map(|(_, text)| text).unwrap_or_default();
        Text { no_speech, ..text }
    }
}
