//! Which items of a subscribed source are wanted, and which are not there yet.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use super::{About, Live};

/// After the announced beginning, and after a look that found a stream still going on: most last between half an hour and
/// three, and the site needs a while for the recording.
const LOOK_AGAIN: Duration = Duration::from_secs(2 * 3600);
/// An announcement without a time, or one that has passed.
const NO_TIME: Duration = Duration::from_secs(6 * 3600);
/// A recording that the site still works on.
const SOON: Duration = Duration::from_secs(3600);
/// Longest expression, compiled: a subscription is no program.
const MAX_REGEX: usize = 1 << 20;

/// Why what is for members only is left out: it may be for all later.
pub const MEMBERS_ONLY: &str = "for members only";

/// What is wanted of a source. What is absent is not asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rules {
    /// Published on this day or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<NaiveDate>,
    /// The title must match this regular expression, whatever its case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matching: Option<String>,
    /// Short vertical videos, too.
    pub shorts: bool,
    /// Recordings of live streams, too.
    pub live: bool,
    /// What is for members only, too: that takes their cookies.
    pub members: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { since: None, matching: None, shorts: true, live: true, members: false }
    }
}

/// What becomes of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is wanted.
    Take,
    /// It is not, for this reason.
    Leave(String),
    /// It is not there yet.
    Wait {
        /// Why not.
        reason: String,
        /// When to look again, from now.
        after: Duration,
    },
    /// The list does not tell enough: its page has to be asked.
    Ask,
}

/// Rules ready to be applied.
#[derive(Clone, Debug)]
pub struct Judge {
    rules: Rules,
    matching: Option<Regex>,
}

impl Judge {
    /// Makes the rules ready.
    ///
    /// # Errors
    /// What is wrong with the regular expression.
    pub fn new(rules: Rules) -> Result<Self, String> {
        let matching = rules.matching.as_deref().map(regex).transpose()?;
        Ok(Self { rules, matching })
    }

    /// What becomes of the item called `title`; `now` is the database's. `asked`: its page was asked, nothing more can be learnt.
    pub fn judge(&self, title: &str, about: &About, now: DateTime<Utc>, asked: bool) -> Verdict {
        let leave = |reason: String| Verdict::Leave(reason);
        if let (Some(matching), Some(text)) = (&self.matching, &self.rules.matching)
            && !matching.is_match(title)
        {
            return leave(format!("its title does not match {text}"));
        }
        if about.short && !self.rules.shorts {
            return leave("a short video".into());
        }
        if about.members_only && !self.rules.members {
            return leave(MEMBERS_ONLY.into());
        }
        if let Some(since) = self.rules.since {
            // What is announced has no date of its own yet.
            let date = about.published_at.or(about.begins_at).and_then(|s| DateTime::from_timestamp(s, 0));
            match date {
                Some(date) if date < since.and_time(NaiveTime::MIN).and_utc() => {
                    return leave(format!("published on {}, before {since}", date.date_naive()));
                }
                Some(_) => {}
                None if !asked => return Verdict::Ask,
                None => {
                    return leave(format!(
                        "the site does not say when it was published (wanted since {since})"
                    ));
                }
            }
        }
        let wait = |reason: String, after| Verdict::Wait { reason, after };
        match about.live {
            Some(Live::Upcoming) => {
                let begins =
                    about.begins_at.and_then(|s| DateTime::from_timestamp(s, 0)).filter(|at| *at > now);
                match begins {
                    Some(at) => {
                        let until = (at - now).to_std().unwrap_or_default();
                        wait(format!("begins on {}", at.format("%Y-%m-%d %H:%M UTC")), until + LOOK_AGAIN)
                    }
                    None => wait("not there yet".into(), NO_TIME),
                }
            }
            Some(Live::Now) => wait("a live stream that still goes on".into(), LOOK_AGAIN),
            Some(Live::Ending) => wait("the recording of the live stream is not ready yet".into(), SOON),
            Some(Live::Was) if !self.rules.live => leave("the recording of a live stream".into()),
            Some(Live::Was | Live::Never) => Verdict::Take,
            None if !self.rules.live && !asked => Verdict::Ask,
            None => Verdict::Take,
        }
    }
}

fn regex(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(text)
        .case_insensitive(true)
        .size_limit(MAX_REGEX)
        .build()
        .map_err(|e| format!("{text:?} is no regular expression: {}", e.to_string().replace('\n', " ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(rules: Rules, title: &str, about: &About) -> Verdict {
        let now = DateTime::from_timestamp(1_769_853_600, 0).unwrap();
        Judge::new(rules).unwrap().judge(title, about, now, false)
    }

    fn left(verdict: Verdict) -> String {
        match verdict {
            Verdict::Leave(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_rules_all_is_taken_but_what_is_not_there() {
        let all = Rules::default;
        assert_eq!(judge(all(), "x", &About::default()), Verdict::Take);
        assert_eq!(judge(all(), "x", &About { short: true, ..About::default() }), Verdict::Take);
        assert_eq!(judge(all(), "x", &About { live: Some(Live::Was), ..About::default() }), Verdict::Take);
        let members = About { members_only: true, ..About::default() };
        assert_eq!(left(judge(all(), "x", &members)), MEMBERS_ONLY);
        assert_eq!(judge(Rules { members: true, ..all() }, "x", &members), Verdict::Take);
        let soon =
            About { live: Some(Live::Upcoming), begins_at: Some(1_769_853_600 + 600), ..About::default() };
        assert_eq!(
            judge(all(), "x", &soon),
            Verdict::Wait {
                reason: "begins on 2026-01-31 10:10 UTC".into(),
                after: Duration::from_secs(600) + LOOK_AGAIN
            }
        );
        for live in [Live::Now, Live::Ending, Live::Upcoming] {
            let about = About { live: Some(live), ..About::default() };
            assert!(matches!(judge(all(), "x", &about), Verdict::Wait { .. }), "{live:?}");
        }
    }

    #[test]
    fn rules_leave_out_with_a_reason() {
        let since = Rules { since: NaiveDate::from_ymd_opt(2026, 1, 31), ..Rules::default() };
        let at = |seconds| About { published_at: Some(seconds), ..About::default() };
        assert_eq!(judge(since.clone(), "x", &at(1_769_817_600)), Verdict::Take);
        assert_eq!(
            left(judge(since.clone(), "x", &at(1_769_817_599))),
            "published on 2026-01-30, before 2026-01-31"
        );
        assert_eq!(judge(since.clone(), "x", &About::default()), Verdict::Ask);
        let now = DateTime::from_timestamp(0, 0).unwrap();
        let unknown = Judge::new(since).unwrap().judge("x", &About::default(), now, true);
        assert!(left(unknown).contains("does not say"));
        let matching = Rules { matching: Some("inter(view|lude)".into()), ..Rules::default() };
        assert_eq!(judge(matching.clone(), "An INTERVIEW", &About::default()), Verdict::Take);
        assert!(left(judge(matching, "News", &About::default())).contains("does not match"));
        let no_shorts = Rules { shorts: false, ..Rules::default() };
        assert_eq!(left(judge(no_shorts, "x", &About { short: true, ..About::default() })), "a short video");
        let no_live = Rules { live: false, ..Rules::default() };
        assert_eq!(judge(no_live.clone(), "x", &About::default()), Verdict::Ask);
        assert!(
            left(judge(no_live, "x", &About { live: Some(Live::Was), ..About::default() }))
                .contains("recording")
        );
    }

    #[test]
    fn expressions_are_checked() {
        let bad =
            |text: &str| Judge::new(Rules { matching: Some(text.into()), ..Rules::default() }).unwrap_err();
        assert!(bad("(").contains("no regular expression"));
        assert!(!bad("a{1000}{1000}{1000}").is_empty());
    }

    #[test]
    fn rules_are_kept_as_json() {
        let rules = Rules { since: NaiveDate::from_ymd_opt(2026, 1, 31), shorts: false, ..Rules::default() };
        let json = serde_json::to_value(&rules).unwrap();
        assert_eq!(json["since"], "2026-01-31");
        assert_eq!(serde_json::from_value::<Rules>(json).unwrap(), rules);
        assert_eq!(serde_json::from_str::<Rules>("{}").unwrap(), Rules::default());
    }
}
