//! How long a listing waits for its turn at a site.

use std::time::Duration;

use tokio::time::Instant;

use crate::govern::Wait;

/// A listing waits in its place; what is further off than this is better begun again later.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a listing has waited for so far.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// The site rests, and is waited for until then.
    until: Option<Instant>,
}

impl Patience {
    /// Whether it waits for this, too. For our own pace it does, however many go before it: that is no fault of the site, and
    /// its turn comes. For a site that rests it does not wait much longer than [`PATIENCE`] in all.
    pub(super) fn bears(&mut self, wait: &Wait, now: Instant) -> bool {
        if !wait.resting {
            self.until = None;
            return wait.after < PATIENCE;
        }
        now + wait.after < *self.until.get_or_insert(now + PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;
    use crate::govern::Site;

    fn wait(seconds: u64, resting: bool) -> Wait {
        Wait {
            site: Site::of(&Url::parse("http://example.org/").unwrap()),
            after: Duration::from_secs(seconds),
            why: "x".into(),
            remedy: None,
            resting,
        }
    }

    #[test]
    fn our_own_pace_is_waited_for_and_a_site_that_rests_only_for_a_while() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut patience = Patience::default();
        for n in 0..100 {
            assert!(patience.bears(&wait(15, false), at(15 * n)), "{n} went before");
        }
        assert!(!patience.bears(&wait(1800, false), at(1500)));
        let mut patience = Patience::default();
        assert!(!patience.bears(&wait(3600, true), at(0)));
        // Tried by others again and again.
        let mut patience = Patience::default();
        let borne = (0..100).take_while(|n| patience.bears(&wait(10, true), at(10 * n))).count();
        assert_eq!(borne, 11);
    }
}
