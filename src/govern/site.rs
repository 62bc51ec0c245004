//! What counts as one site: the unit that limits, budgets and breakers apply to.

use std::fmt;
use std::net::IpAddr;

use url::{Host, Url};

/// Services that answer under several names: who is banned under one is banned under all.
const SERVICES: &[(&str, &[&str])] = &[
    (
        "youtube.com",
        &[
            "youtu.be",
            "youtube-nocookie.com",
            "googlevideo.com",
            "ytimg.com",
            "ggpht.com",
            "youtubei.googleapis.com",
            "youtube.googleapis.com",
        ],
    ),
    ("vimeo.com", &["vimeocdn.com"]),
    ("soundcloud.com", &["sndcdn.com"]),
    ("twitch.tv", &["ttvnw.net", "jtvnw.net", "twitchcdn.net"]),
    ("tiktok.com", &["tiktokcdn.com", "tiktokv.com"]),
    ("dailymotion.com", &["dmcdn.net", "dai.ly"]),
    ("facebook.com", &["fbcdn.net", "fb.watch"]),
    ("instagram.com", &["cdninstagram.com"]),
    ("twitter.com", &["x.com", "twimg.com", "t.co"]),
    ("bilibili.com", &["bilivideo.com", "b23.tv"]),
];

/// Names under which anybody may have one: each is a site of its own.
const SHARED: &[&str] = &[
    "amazonaws.com",
    "azureedge.net",
    "blogspot.com",
    "cloudfront.net",
    "core.windows.net",
    "digitaloceanspaces.com",
    "github.io",
    "herokuapp.com",
    "netlify.app",
    "pages.dev",
    "r2.dev",
    "tumblr.com",
    "vercel.app",
    "wordpress.com",
    "workers.dev",
];

/// Second labels that belong to the country's ending (`co.uk`), beside all of three letters or fewer.
const SECOND: &[&str] = &["asso", "gouv", "info", "mobi", "name", "priv", "govt", "school"];

/// A site: a service, or the registrable part of a host's name, or an address.
///
/// The registrable part is found by rule, not by the public suffix list: a country's two letters with a short label
/// before them count as one ending. Where the rule is wrong two sites share a budget, which harms neither.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site(String);

impl Site {
    /// The site of an address.
    pub fn of(url: &Url) -> Self {
        match url.host() {
            Some(Host::Domain(name)) => Self::of_name(name),
            Some(Host::Ipv4(ip)) => Self(ip.to_string()),
            Some(Host::Ipv6(ip)) => Self(ip.to_string()),
            None => Self(String::new()),
        }
    }

    /// The site of a host's name or address as written: `www.example.org`, `10.0.0.1`, `::1`.
    pub fn of_name(host: &str) -> Self {
        let host = host.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
        if host.parse::<IpAddr>().is_ok() {
            return Self(host);
        }
        let ends =
            |name: &str| host.strip_suffix(name).is_some_and(|sub| sub.is_empty() || sub.ends_with('.'));
        for (service, names) in SERVICES {
            if ends(service) || names.iter().any(|name| ends(name)) {
                return Self((*service).to_owned());
            }
        }
        if SHARED.iter().any(|name| ends(name)) {
            return Self(host);
        }
        let labels: Vec<&str> = host.split('.').collect();
        let country = labels.last().is_some_and(|last| last.len() == 2);
        let second = labels.len().checked_sub(2).and_then(|at| labels.get(at));
        let kept = if country && second.is_some_and(|l| l.len() <= 3 || SECOND.contains(l)) { 3 } else { 2 };
        Self(labels[labels.len().saturating_sub(kept)..].join("."))
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for this machine itself, which nobody has to be polite to.
    pub fn is_this_machine(&self) -> bool {
        self.0 == "localhost"
            || self.0.ends_with(".localhost")
            || self.0.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_service_are_one_site() {
        for host in ["www.youtube.com", "youtu.be", "rr3---sn-4g5e6nsz.googlevideo.com", "i.ytimg.com"] {
            assert_eq!(Site::of_name(host).as_str(), "youtube.com", "{host}");
        }
        assert_eq!(Site::of_name("notyoutube.com").as_str(), "notyoutube.com");
    }

    #[test]
    fn sites_are_registrable_names() {
        for (host, site) in [
            ("media.example.org", "example.org"),
            ("Example.ORG.", "example.org"),
            ("a.b.bbc.co.uk", "bbc.co.uk"),
            ("www.spiegel.de", "spiegel.de"),
            ("talks.gouv.fr", "talks.gouv.fr"),
            ("someone.github.io", "someone.github.io"),
            ("localhost", "localhost"),
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]", "::1"),
        ] {
            assert_eq!(Site::of_name(host).as_str(), site, "{host}");
        }
        let url = |text: &str| Site::of(&Url::parse(text).unwrap());
        assert_eq!(url("http://127.0.0.1:8080/x"), Site::of_name("127.0.0.1"));
        assert_eq!(url("https://www.example.org/x"), Site::of_name("example.org"));
    }

    #[test]
    fn this_machine_is_known_by_its_addresses() {
        for host in ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", "localhost", "a.localhost"] {
            assert!(Site::of_name(host).is_this_machine(), "{host}");
        }
        for host in ["10.0.0.1", "example.org", "localhost.org"] {
            assert!(!Site::of_name(host).is_this_machine(), "{host}");
        }
    }
}
