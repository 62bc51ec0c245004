//! How long an item waits before its next attempt.
//!
//! The longest wait quadruples with every attempt, up to a ceiling; the wait itself is drawn evenly between the
//! shortest and the longest ("full jitter" above a floor), so that items which failed together, because a site or the
//! network was gone, do not all come back together. Floor and ceiling depend on what failed: a hiccup of the network
//! is worth a try within seconds, a site that asked to slow down is not.

use std::time::Duration;

use uuid::Uuid;

use crate::media::FailureClass;

/// Between which times the waits of a class lie.
struct Waits {
    shortest: Duration,
    ceiling: Duration,
}

fn waits(class: FailureClass) -> Waits {
    let (shortest, ceiling) = match class {
        // Most sites that answer 429 want some minutes, and some count every request against one.
        FailureClass::RateLimited => (600, 2 * 3600),
        // An expired address or an outrun yt-dlp is not mended in seconds.
        FailureClass::Forbidden => (60, 1800),
        // A connection that broke, a server that restarts.
        FailureClass::Network => (1, 900),
        // A fault of ours or of a tool: either it passes at once, or it is not worth many attempts a minute.
        _ => (2, 600),
    };
    Waits { shortest: Duration::from_secs(shortest), ceiling: Duration::from_secs(ceiling) }
}

/// How long to wait after the failed attempt `attempt` (counted from 1).
pub(super) fn wait(attempt: u32, class: FailureClass) -> Duration {
    let Waits { shortest, ceiling } = waits(class);
    let longest = shortest.saturating_mul(4u32.saturating_pow(attempt.max(1))).min(ceiling);
    shortest + (longest - shortest).mul_f64(chance())
}

/// An even chance between 0 and 1.
fn chance() -> f64 {
    let [a, b, c, d, ..] = *Uuid::new_v4().as_bytes();
    f64::from(u32::from_le_bytes([a, b, c, d])) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(attempt: u32, class: FailureClass) -> Vec<f64> {
        (0..2000).map(|_| wait(attempt, class).as_secs_f64()).collect()
    }

    #[test]
    fn waits_lie_between_their_bounds_and_are_spread() {
        for (attempt, class, low, high) in [
            (1, FailureClass::Network, 1.0, 4.0),
            (2, FailureClass::Network, 1.0, 16.0),
            (9, FailureClass::Network, 1.0, 900.0),
            (u32::MAX, FailureClass::Internal, 2.0, 600.0),
            (0, FailureClass::RateLimited, 600.0, 2400.0),
            (2, FailureClass::RateLimited, 600.0, 7200.0),
        ] {
            let drawn = drawn(attempt, class);
            assert!(drawn.iter().all(|s| (low..=high).contains(s)), "{class:?} {attempt}");
            // Even: each quarter of the range has about a quarter of the draws.
            for quarter in 0..4 {
                let from = low + (high - low) * f64::from(quarter) / 4.0;
                let to = from + (high - low) / 4.0;
                let within = drawn.iter().filter(|s| (from..to).contains(*s)).count();
                assert!(
                    (350..650).contains(&within),
                    "{class:?} {attempt}: {within} of 2000 in {from}..{to}"
                );
            }
        }
    }
}
