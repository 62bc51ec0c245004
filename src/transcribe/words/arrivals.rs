//! From attention to the frame at which it comes to each token, as OpenAI's `timing.py` does.

use std::ops::Range;

/// Frames over which attention is smoothed.
const SMOOTHED: usize = 7;
/// Frames on either side of the one that is smoothed.
const BESIDE: usize = SMOOTHED / 2;

/// Fewer frames than this are not looked at: smoothing needs some on either side.
pub const FEWEST: usize = SMOOTHED + 1;

/// The frame at which attention comes to each token of a text.
///
/// In `attention[head][row][frame]` a row is what a token looked at while the next one was written, and adds up to 1. The rows
/// from which the text was written are `text`, and after them one for what follows it. Each frame counts by how far it stands
/// out among all rows of its head (less their mean, by their deviation), smoothed by the median of seven frames and averaged
/// over heads. The way from the first row and frame to the last on which these add up to most (dynamic time warping) comes to
/// the text's rows one after another.
///
/// `attention` is used up.
pub fn arrivals(attention: &mut [f32], rows: usize, frames: usize, text: Range<usize>) -> Vec<u32> {
    assert!(text.end < rows && frames >= FEWEST, "{text:?} of {rows} rows and {frames} frames");
    let heads = attention.len() / (rows * frames);
    let mut worth = vec![0.0; (text.len() + 1) * frames];
    let mut wide = vec![0.0; frames + 2 * BESIDE];
    for head in attention.chunks_exact_mut(rows * frames) {
        stand_out(head, frames);
        let rows = head.chunks_exact(frames).skip(text.start);
        for (row, worth) in rows.zip(worth.chunks_exact_mut(frames)) {
            mirrored(row, &mut wide);
            let smoothed = wide.array_windows().map(|&around| median(around));
            worth.iter_mut().zip(smoothed).for_each(|(worth, value)| *worth += value / heads as f32);
        }
    }
    way(&worth, frames)
}

/// Each frame of a head's rows less its mean over the rows, by its deviation.
fn stand_out(head: &mut [f32], frames: usize) {
    let rows = (head.len() / frames) as f32;
    let (mut mean, mut spread) = (vec![0.0; frames], vec![0.0; frames]);
    for row in head.chunks_exact(frames) {
        mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += value / rows);
    }
    for row in head.chunks_exact(frames) {
        let values = row.iter().zip(&mean);
        spread.iter_mut().zip(values).for_each(|(spread, (v, m))| *spread += (v - m) * (v - m) / rows);
    }
    // Where all rows are the same none stands out.
    spread.iter_mut().for_each(|s| *s = if *s > 0.0 { 1.0 / s.sqrt() } else { 0.0 });
    for row in head.chunks_exact_mut(frames) {
        let known = mean.iter().zip(&spread);
        row.iter_mut().zip(known).for_each(|(value, (mean, spread))| *value = (*value - mean) * spread);
    }
}

/// A row with its first and last frames mirrored beyond its ends, but for the outermost.
fn mirrored(row: &[f32], wide: &mut [f32]) {
    wide[BESIDE..][..row.len()].copy_from_slice(row);
    for n in 1..=BESIDE {
        wide[BESIDE - n] = row[n];
        wide[BESIDE + row.len() - 1 + n] = row[row.len() - 1 - n];
    }
}

/// The fourth largest of seven. (Without branches, so that many are found at once: thirteen exchanges, of which some need only
/// one side.)
#[inline]
fn median(mut of: [f32; SMOOTHED]) -> f32 {
    for (low, high) in [
        (0, 5),
        (0, 3),
        (1, 6),
        (2, 4),
        (0, 1),
        (3, 5),
        (2, 6),
        (2, 3),
        (3, 6),
        (4, 5),
        (1, 4),
        (1, 3),
        (3, 4),
    ] {
        let (a, b) = (of[low], of[high]);
        of[low] = if a < b { a } else { b };
        of[high] = if a < b { b } else { a };
    }
    of[BESIDE]
}

/// The first frame of each row but the last on the way through `worth[row][frame]` that is worth most: a step goes to the next
/// row, the next frame, or both.
fn way(worth: &[f32], frames: usize) -> Vec<u32> {
    /// Where the way to a place comes from.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum From {
        Both,
        Row,
        Frame,
    }
    let rows = worth.len() / frames;
    let mut came = Vec::with_capacity(worth.len());
    // What the best way to each frame of the row before is worth.
    let mut best = vec![f32::NEG_INFINITY; frames];
    for (n, row) in worth.chunks_exact(frames).enumerate() {
        let mut diagonal = if n == 0 { 0.0 } else { f32::NEG_INFINITY };
        let mut left = f32::NEG_INFINITY;
        for (value, best) in row.iter().zip(&mut best) {
            let above = *best;
            let (from, most) = if diagonal > above && diagonal > left {
                (From::Both, diagonal)
            } else if above > left {
                (From::Row, above)
            } else {
                (From::Frame, left)
            };
            came.push(from);
            left = most + value;
            diagonal = above;
            *best = left;
        }
    }
    let mut arrivals = vec![0; rows];
    let (mut row, mut frame) = (rows - 1, frames - 1);
    loop {
        arrivals[row] = frame as u32;
        let from = came[row * frames + frame];
        if from != From::Frame {
            let Some(before) = row.checked_sub(1) else { break };
            row = before;
        }
        if from != From::Row {
            let Some(before) = frame.checked_sub(1) else { break };
            frame = before;
        }
    }
    arrivals.pop();
    arrivals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_fourth_of_seven() {
        // What sorts all rows of zeros and ones sorts everything.
        for bits in 0..1_u32 << SMOOTHED {
            let row = std::array::from_fn(|n| (bits >> n & 1) as f32);
            assert_eq!(median(row), f32::from(u8::from(bits.count_ones() > 3)), "{bits:b}");
        }
        assert_eq!(median([3.0, 9.0, -1.0, 4.0, 4.5, 7.0, 0.0]), 4.0);
    }

    #[test]
    fn rows_are_mirrored_beyond_their_ends() {
        let mut wide = [0.0; 14];
        mirrored(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], &mut wide);
        assert_eq!(wide, [3.0, 2.0, 1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 6.0, 5.0, 4.0]);
    }

    #[test]
    fn the_way_goes_where_most_is() {
        let mut worth = [-1.0; 4 * 6];
        [(0, 0), (0, 1), (1, 2), (2, 3), (2, 4), (3, 5)]
            .iter()
            .for_each(|(row, frame)| worth[row * 6 + frame] = 5.0);
        assert_eq!(way(&worth, 6), [0, 2, 3]);
        // More rows than frames.
        assert_eq!(way(&[1.0; 4 * 2], 2).len(), 3);
    }

    /// Attention of two heads that look, row after row, at the frames `at`; each a little aside of the other.
    fn looking(at: &[usize], frames: usize) -> Vec<f32> {
        let mut attention = Vec::new();
        for aside in [0, 1] {
            for &at in at {
                let near = |frame: usize| 1.0 / (1.0 + (frame as f32 - (at + aside) as f32).powi(2));
                let total: f32 = (0..frames).map(near).sum();
                attention.extend((0..frames).map(|frame| near(frame) / total));
            }
        }
        attention
    }

    #[test]
    fn tokens_are_found_where_heads_look() {
        // Three rows stand before the text, and one after it; the last is for its end.
        let at = [1, 1, 1, 20, 60, 61, 110, 180, 197, 199];
        let found = arrivals(&mut looking(&at, 200), at.len(), 200, 3..8);
        assert_eq!(found.len(), 5);
        // The first row is where the way begins.
        assert_eq!(found[0], 0);
        for (found, between) in found[1..].iter().zip(at[3..8].array_windows()) {
            let [before, at] = between.map(|at| at as u32);
            assert!((before..=at + 2).contains(found), "{found} {between:?}");
        }
        assert!(found.is_sorted());
    }

    #[test]
    fn attention_that_says_nothing_still_makes_a_way() {
        let mut flat = vec![0.125; 4 * 8];
        let found = arrivals(&mut flat, 4, FEWEST, 1..3);
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|&frame| frame < 8), "{found:?}");
    }
}
