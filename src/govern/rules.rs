//! How hard each site may be asked: built-in figures, settings for all sites, settings for one.

use std::collections::BTreeMap;
use std::time::Duration;

use super::site::Site;

/// The limits of one site. A number of 0 is no limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Videos (extractions with their download) in [`Self::window`].
    pub videos: u32,
    /// Requests in [`Self::window`]: each over http; over https, where yt-dlp's are not seen, each connection.
    pub requests: u32,
    /// From the beginning of one extraction or download to the next; up to half as long again by chance.
    pub interval: Duration,
    /// Downloads at once, of all processes.
    pub downloads: u32,
    /// How long the site is left alone after it refused, the first time.
    pub rest: Duration,
    /// What the numbers above are counted in: an hour.
    pub window: Duration,
}

const HOUR: Duration = Duration::from_secs(3600);

/// YouTube lets a guest see about 300 videos an hour, about 1,000 pages and player requests, and an account about 2,000
/// (<https://github.com/yt-dlp/yt-dlp/wiki/Extractors>, "This content isn't available, try again later"); beyond that it
/// shuts out address or account. A fifth of a guest's, so that a person who watches from the same address is never the one
/// too many, and an account, which is worth more than an hour, is not risked: 1,440 videos a day all the same.
const YOUTUBE: Limits = Limits {
    videos: 60,
    requests: 500,
    interval: Duration::from_secs(10),
    downloads: 2,
    rest: HOUR,
    window: HOUR,
};

/// Any other site: its owner hardly notices.
const OTHERS: Limits = Limits {
    videos: 300,
    requests: 3000,
    interval: Duration::from_secs(1),
    downloads: 4,
    rest: HOUR,
    window: HOUR,
};

/// What is set; the rest is left to what is built in.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Wishes {
    /// See [`Limits::videos`].
    pub videos: Option<u32>,
    /// See [`Limits::requests`].
    pub requests: Option<u32>,
    /// See [`Limits::interval`].
    pub interval: Option<Duration>,
    /// See [`Limits::downloads`].
    pub downloads: Option<u32>,
    /// See [`Limits::rest`].
    pub rest: Option<Duration>,
    /// See [`Limits::window`].
    pub window: Option<Duration>,
}

impl Wishes {
    fn over(&self, limits: Limits) -> Limits {
        Limits {
            videos: self.videos.unwrap_or(limits.videos),
            requests: self.requests.unwrap_or(limits.requests),
            interval: self.interval.unwrap_or(limits.interval),
            downloads: self.downloads.unwrap_or(limits.downloads),
            rest: self.rest.unwrap_or(limits.rest),
            window: self.window.unwrap_or(limits.window),
        }
    }
}

/// The limits of all sites.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// For all sites.
    pub all: Wishes,
    /// For single ones; they win.
    pub sites: BTreeMap<Site, Wishes>,
}

impl Rules {
    /// The limits of `site`; `None` where there are none: this machine, unless it is named.
    pub fn limits(&self, site: &Site) -> Option<Limits> {
        let own = self.sites.get(site);
        if own.is_none() && site.is_this_machine() {
            return None;
        }
        let built_in = if site.as_str() == "youtube.com" { YOUTUBE } else { OTHERS };
        let general = self.all.over(built_in);
        Some(own.map_or(general, |own| own.over(general)))
    }

    /// Reads limits of single sites: `youtube.com videos=30 interval=60; example.org requests=0 downloads=8`. Numbers as in
    /// [`Limits`]; `interval`, `rest` and `window` in seconds.
    ///
    /// # Errors
    /// What cannot be read, to follow the name of the setting.
    pub fn parse_sites(text: &str) -> Result<BTreeMap<Site, Wishes>, String> {
        const KNOWN: &str = "videos, requests, interval, downloads, rest, window";
        let mut sites = BTreeMap::new();
        for part in text.split([';', '\n']).map(str::trim).filter(|part| !part.is_empty()) {
            let mut words = part.split_whitespace();
            let host = words.next().unwrap_or_default();
            if host.contains(['=', '/']) {
                return Err(format!("{host:?} is no host: write for example youtube.com videos=30"));
            }
            let mut wishes = Wishes::default();
            for word in words {
                let (name, value) = word
                    .split_once('=')
                    .ok_or_else(|| format!("{word:?} is no limit: write name=value, with one of {KNOWN}"))?;
                let number = || {
                    value
                        .parse::<u32>()
                        .map_err(|_| format!("{word:?}: {name} must be a whole number; 0 is no limit"))
                };
                let seconds = |least: f64| {
                    value
                        .parse::<f64>()
                        .ok()
                        .filter(|s| (least..=31_536_000.0).contains(s))
                        .map(Duration::from_secs_f64)
                        .ok_or_else(|| {
                            format!("{word:?}: {name} must be a number of seconds, {least} at least")
                        })
                };
                match name {
                    "videos" => wishes.videos = Some(number()?),
                    "requests" => wishes.requests = Some(number()?),
                    "downloads" => wishes.downloads = Some(number()?),
                    "interval" => wishes.interval = Some(seconds(0.0)?),
                    "rest" => wishes.rest = Some(seconds(1.0)?),
                    "window" => wishes.window = Some(seconds(1.0)?),
                    other => return Err(format!("{other:?} is no limit: use one of {KNOWN}")),
                }
            }
            if wishes == Wishes::default() {
                return Err(format!("no limit is given for {host}: use one of {KNOWN}"));
            }
            sites.insert(Site::of_name(host), wishes);
        }
        Ok(sites)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_come_from_the_site_then_the_settings_then_the_exceptions() {
        let mut rules = Rules::default();
        let youtube = Site::of_name("youtu.be");
        assert_eq!(rules.limits(&youtube), Some(YOUTUBE));
        assert_eq!(rules.limits(&Site::of_name("example.org")), Some(OTHERS));
        assert_eq!(rules.limits(&Site::of_name("127.0.0.1")), None);
        rules.all.videos = Some(7);
        rules.sites = Rules::parse_sites("youtube.com interval=2.5 rest=60;\n 127.0.0.1 window=9 ;").unwrap();
        let limits = rules.limits(&youtube).unwrap();
        assert_eq!((limits.videos, limits.interval), (7, Duration::from_millis(2500)));
        assert_eq!((limits.rest, limits.requests), (Duration::from_secs(60), YOUTUBE.requests));
        let here = rules.limits(&Site::of_name("127.0.0.1")).unwrap();
        assert_eq!((here.window, here.videos, here.downloads), (Duration::from_secs(9), 7, 4));
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for (text, says) in [
            ("videos=3", "is no host"),
            ("https://a.org/ videos=3", "is no host"),
            ("a.org", "no limit is given"),
            ("a.org videos", "name=value"),
            ("a.org films=3", "\"films\""),
            ("a.org videos=-1", "whole number"),
            ("a.org window=0", "1 at least"),
            ("a.org interval=NaN", "seconds"),
        ] {
            let said = Rules::parse_sites(text).unwrap_err();
            assert!(said.contains(says), "{text}: {said}");
        }
        assert!(Rules::parse_sites(" ; \n").unwrap().is_empty());
    }
}
