//! Which addresses may be reached: those of the public internet, and no others unless it is allowed.
//!
//! A page, a feed or a redirect may name any address, and this machine often reaches ones that its visitors should not:
//! routers, databases, the metadata service of a cloud that hands out keys. Names prove nothing, so what is judged is the
//! address that a name was resolved to, at the moment of connecting, and that very address is connected to: a name server
//! that answers differently the second time (DNS rebinding) gains nothing.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use url::{Host, Url};

use crate::media::{Failure, FailureClass};

/// What a reader can do who means it.
pub(crate) const ALLOW: &str = "if it is yours and meant to be reached, allow it with --allow-private-addresses \
     (ALLOW_PRIVATE_ADDRESSES=true)";

/// Why an address is not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// This machine.
    Loopback,
    /// Somebody's own network (RFC 1918, RFC 4193).
    Private,
    /// The link's own (169.254.0.0/16, fe80::/10).
    LinkLocal,
    /// Where clouds tell a machine its secrets.
    Metadata,
    /// A provider's network behind its address translation (RFC 6598).
    Shared,
    /// Many at once.
    Multicast,
    /// Everybody on the link.
    Broadcast,
    /// None at all (0.0.0.0, ::), which systems take for themselves.
    Unspecified,
    /// Tunnels that hide where they lead (Teredo), local translation prefixes.
    Tunnel,
    /// Set aside for documentation, benchmarks or the future.
    Reserved,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "a loopback address",
            Self::Private => "a private address",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "a cloud's metadata address",
            Self::Shared => "a provider's internal address",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "the broadcast address",
            Self::Unspecified => "the unspecified address",
            Self::Tunnel => "a tunnel's address",
            Self::Reserved => "a reserved address",
        })
    }
}

/// What kind of address `ip` is that is not of the public internet; `None` for those that are. IPv4 within IPv6 (mapped,
/// compatible, NAT64, 6to4) is judged as IPv4.
///
/// The blocks are those of the IANA registries of special-purpose addresses
/// (<https://www.iana.org/assignments/iana-ipv4-special-registry>, `iana-ipv6-special-registry`).
pub fn kind(ip: IpAddr) -> Option<Kind> {
    match ip {
        IpAddr::V4(ip) => kind_v4(ip),
        IpAddr::V6(ip) => kind_v6(ip),
    }
}

fn kind_v4(ip: Ipv4Addr) -> Option<Kind> {
    let kind = match ip.octets() {
        // The metadata services of most clouds, of Alibaba, of Azure's host, of Oracle's time and of ECS tasks.
        [169, 254, 169, 254]
        | [169, 254, 170, 2]
        | [169, 254, 170, 23]
        | [100, 100, 100, 200]
        | [168, 63, 129, 16]
        | [192, 0, 0, 192] => Kind::Metadata,
        [0, 0, 0, 0] => Kind::Unspecified,
        [0, ..] => Kind::Reserved,
        [10, ..] | [192, 168, ..] => Kind::Private,
        [172, b, ..] if b & 0xf0 == 16 => Kind::Private,
        [100, b, ..] if b & 0xc0 == 64 => Kind::Shared,
        [127, ..] => Kind::Loopback,
        [169, 254, ..] => Kind::LinkLocal,
        [255, 255, 255, 255] => Kind::Broadcast,
        [224..=239, ..] => Kind::Multicast,
        [240..=255, ..] => Kind::Reserved,
        [192, 0, 0 | 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Kind::Reserved,
        [192, 88, 99, _] => Kind::Tunnel,
        [198, 18 | 19, ..] => Kind::Reserved,
        _ => return None,
    };
    Some(kind)
}

fn kind_v6(ip: Ipv6Addr) -> Option<Kind> {
    let s = ip.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    let kind = match s {
        [0, 0, 0, 0, 0, 0, 0, 0] => Kind::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => Kind::Loopback,
        // Mapped, translated (RFC 6145), compatible; NAT64's well-known prefix; 6to4.
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0, 0, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => return kind_v4(embedded(high, low)),
        // The metadata service of AWS over IPv6.
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => Kind::Metadata,
        [0x64, 0xff9b, ..] | [0x2001, 0, ..] => Kind::Tunnel,
        [first, ..] if first & 0xfe00 == 0xfc00 => Kind::Private,
        [first, ..] if first & 0xffc0 == 0xfe80 => Kind::LinkLocal,
        [first, ..] if first & 0xffc0 == 0xfec0 => Kind::Private,
        [first, ..] if first & 0xff00 == 0xff00 => Kind::Multicast,
        // 2001::/23 is for protocols, 2001:db8::/32 and 3fff::/20 for documentation; outside of 2000::/3 nothing is
        // given out.
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => Kind::Reserved,
        [0x3fff, second, ..] if second < 0x1000 => Kind::Reserved,
        [first, ..] if first & 0xe000 != 0x2000 => Kind::Reserved,
        _ => return None,
    };
    Some(kind)
}

/// An address that is not reached; found again in chains of errors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{host} leads to {ip}, {kind}")]
pub struct Blocked {
    /// As it was named.
    pub host: String,
    /// What it is.
    pub ip: IpAddr,
    /// Why it is not reached.
    pub kind: Kind,
}

impl Blocked {
    /// As an item's failure.
    pub fn failure(&self) -> Failure {
        let Self { host, ip, kind } = self;
        let what = if host.parse() == Ok(*ip) {
            format!("{ip} is {kind}, which is not reached")
        } else {
            format!("{host} leads to {ip}, {kind}, which is not reached")
        };
        Failure::new(FailureClass::Refused, what).with_remedy(ALLOW)
    }
}

/// Decides what may be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Any address may be reached.
    pub allow_private: bool,
}

impl Guard {
    /// One that lets nothing but the public internet be reached.
    pub fn strict() -> Self {
        Self::default()
    }

    /// One that lets everything be reached.
    pub fn open() -> Self {
        Self { allow_private: true }
    }

    /// Judges a host that is written as an address; names are judged when they are resolved.
    ///
    /// # Errors
    /// [`Blocked`].
    pub fn check_url(self, url: &Url) -> Result<(), Blocked> {
        match url.host() {
            Some(Host::Ipv4(ip)) => self.check(&ip.to_string(), ip.into()),
            Some(Host::Ipv6(ip)) => self.check(&ip.to_string(), ip.into()),
            Some(Host::Domain(_)) | None => Ok(()),
        }
    }

    fn check(self, host: &str, ip: IpAddr) -> Result<(), Blocked> {
        match kind(ip) {
            Some(kind) if !self.allow_private => Err(Blocked { host: host.to_owned(), ip, kind }),
            _ => Ok(()),
        }
    }

    /// The addresses of `host` that may be reached. A name that has others besides is reached at those.
    ///
    /// # Errors
    /// [`Blocked`] (as the inner error of [`io::ErrorKind::PermissionDenied`]) where none may; the resolver's error where
    /// there is none.
    pub async fn resolve(self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let found: Vec<SocketAddr> = match bare.parse::<IpAddr>() {
            Ok(ip) => vec![SocketAddr::new(ip, port)],
            Err(_) => tokio::net::lookup_host((bare, port)).await?.collect(),
        };
        let mut blocked = None;
        let mut allowed = Vec::with_capacity(found.len());
        for address in found {
            match self.check(bare, address.ip()) {
                Ok(()) => allowed.push(address),
                Err(why) => blocked = Some(why),
            }
        }
        match blocked {
            Some(why) if allowed.is_empty() => Err(io::Error::new(io::ErrorKind::PermissionDenied, why)),
            _ if allowed.is_empty() => {
                Err(io::Error::new(io::ErrorKind::NotFound, format!("{bare} has no address")))
            }
            _ => Ok(allowed),
        }
    }
}

/// The [`Blocked`] in a chain of errors, if there is one.
pub fn blocked<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Blocked> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<Blocked>() {
            return Some(found);
        }
        // An I/O error hides what it wraps from `source`.
        if let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref)
            && let Some(found) = blocked(inner)
        {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// [`Guard::resolve`] for the HTTP client.
#[derive(Clone, Debug)]
pub(super) struct Resolver {
    pub(super) guard: Guard,
    /// Hosts of the proxies that the operator has set: theirs to choose, wherever they are.
    pub(super) proxies: Vec<String>,
}

impl reqwest::dns::Resolve for Resolver {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let host = name.as_str().to_owned();
        let guard = if self.proxies.contains(&host) { Guard::open() } else { self.guard };
        Box::pin(async move {
            // The client puts the port in the place of 0.
            let found = guard.resolve(&host, 0).await?;
            Ok(Box::new(found.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

/// Hosts of the proxies in the environment.
pub(crate) fn proxy_hosts() -> Vec<String> {
    std::env::vars()
        .filter(|(name, value)| {
            !value.is_empty()
                && matches!(name.to_ascii_lowercase().as_str(), "http_proxy" | "https_proxy" | "all_proxy")
        })
        .filter_map(|(_, value)| {
            let text = if value.contains("://") { value } else { format!("http://{value}") };
            Url::parse(&text).ok()?.host_str().map(str::to_owned)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_internet_is_public() {
        for (ip, expected) in [
            ("127.0.0.1", Kind::Loopback),
            ("127.255.0.3", Kind::Loopback),
            ("0.0.0.0", Kind::Unspecified),
            ("0.1.2.3", Kind::Reserved),
            ("10.1.2.3", Kind::Private),
            ("172.16.0.1", Kind::Private),
            ("172.31.255.255", Kind::Private),
            ("192.168.1.1", Kind::Private),
            ("100.64.0.1", Kind::Shared),
            ("100.127.255.255", Kind::Shared),
            ("169.254.1.1", Kind::LinkLocal),
            ("169.254.169.254", Kind::Metadata),
            ("100.100.100.200", Kind::Metadata),
            ("168.63.129.16", Kind::Metadata),
            ("192.0.2.7", Kind::Reserved),
            ("198.18.0.1", Kind::Reserved),
            ("198.51.100.1", Kind::Reserved),
            ("203.0.113.9", Kind::Reserved),
            ("192.88.99.1", Kind::Tunnel),
            ("224.0.0.1", Kind::Multicast),
            ("239.255.255.250", Kind::Multicast),
            ("240.0.0.1", Kind::Reserved),
            ("255.255.255.255", Kind::Broadcast),
            ("::", Kind::Unspecified),
            ("::1", Kind::Loopback),
            ("::ffff:127.0.0.1", Kind::Loopback),
            ("::ffff:10.0.0.1", Kind::Private),
            ("::127.0.0.1", Kind::Loopback),
            ("::ffff:0:192.168.0.1", Kind::Private),
            ("64:ff9b::169.254.169.254", Kind::Metadata),
            ("64:ff9b:1::1", Kind::Tunnel),
            ("2002:7f00:1::", Kind::Loopback),
            ("2002:a9fe:a9fe::1", Kind::Metadata),
            ("2001::1", Kind::Tunnel),
            ("2001:db8::1", Kind::Reserved),
            ("2001:20::1", Kind::Reserved),
            ("fc00::1", Kind::Private),
            ("fd12:3456::1", Kind::Private),
            ("fd00:ec2::254", Kind::Metadata),
            ("fe80::1", Kind::LinkLocal),
            ("fec0::1", Kind::Private),
            ("ff02::1", Kind::Multicast),
            ("100::1", Kind::Reserved),
            ("4000::1", Kind::Reserved),
        ] {
            assert_eq!(kind(ip.parse().unwrap()), Some(expected), "{ip}");
        }
        for ip in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450::1",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "::ffff:8.8.8.8",
        ] {
            assert_eq!(kind(ip.parse().unwrap()), None, "{ip}");
        }
    }

    #[test]
    fn however_an_address_is_written() {
        for url in [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://017700000001/",
            "http://127.1/",
            "http://[::1]/",
            "http://[::ffff:7f00:1]/",
            "http://１２７.０.０.１/",
        ] {
            let url = Url::parse(url).unwrap();
            assert!(Guard::strict().check_url(&url).is_err(), "{url}");
            assert!(Guard::open().check_url(&url).is_ok(), "{url}");
        }
    }

    #[tokio::test]
    async fn names_are_judged_by_what_they_lead_to() {
        let refused = Guard::strict().resolve("localhost", 80).await.unwrap_err();
        let why = blocked(&refused).expect("what was blocked");
        assert_eq!((why.host.as_str(), why.kind), ("localhost", Kind::Loopback));
        let failure = why.failure();
        assert_eq!(failure.class, FailureClass::Refused);
        assert!(
            failure.message.contains("localhost leads to") && failure.message.contains("loopback"),
            "{failure}"
        );
        assert!(failure.remedy.unwrap().contains("ALLOW_PRIVATE_ADDRESSES"));
        assert!(!Guard::open().resolve("localhost", 80).await.unwrap().is_empty());
        assert!(Guard::strict().resolve("[::1]", 80).await.is_err());
        assert!(Guard::strict().resolve("8.8.8.8", 53).await.is_ok());
    }
}
