//! Hostile input does no harm: nothing is read, written or connected to that should not be, and each is refused with its
//! reason. In a network of its own (root only), where an attacker's server has a public address, the private ones have a
//! canary that sings when it is touched, and a name server answers what the attacker likes.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::libc;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde_json::Value;

use super::cli::{Library, ffmpeg, shell, speech};

/// The attacker's address: public in the eyes of the program, and routed nowhere here.
const PUBLIC: &str = "8.8.4.4";

/// Addresses that exist here and that nobody may be led to.
const PRIVATE: [&str; 9] = [
    "10.0.0.5/32",
    "172.16.0.1/32",
    "192.168.1.1/32",
    "100.64.0.1/32",
    "100.100.100.200/32",
    "169.254.169.254/32",
    "fd00::5/128",
    "fd00:ec2::254/128",
    "64:ff9b::a9fe:a9fe/128",
];

/// What the attacker's name server says. `rebind.example` is public when it is first asked for and private from then on.
fn answer(name: &str, times: usize) -> Vec<IpAddr> {
    let addresses: &[&str] = match name {
        "public.example" => &[PUBLIC],
        "intranet.example" => &["10.0.0.5"],
        "metadata.example" => &["169.254.169.254"],
        "here.example" => &["127.0.0.1"],
        "six.example" => &["::1"],
        "mapped.example" => &["::ffff:10.0.0.5"],
        "nat.example" => &["64:ff9b::a9fe:a9fe"],
        "both.example" => &["10.0.0.5", PUBLIC],
        "rebind.example" if times == 0 => &[PUBLIC],
        "rebind.example" => &["127.0.0.1"],
        _ => &[],
    };
    addresses.iter().map(|ip| ip.parse().unwrap()).collect()
}

/// A name server (RFC 1035) that answers A and AAAA with a time to live of 0.
fn name_server(socket: &UdpSocket) {
    let mut asked: std::collections::HashMap<(String, u16), usize> = std::collections::HashMap::new();
    let mut packet = [0; 1500];
    while let Ok((length, from)) = socket.recv_from(&mut packet) {
        let question = &packet[..length];
        let (mut name, mut at) = (Vec::new(), 12);
        while let Some(&length) = question.get(at).filter(|&&length| length > 0) {
            let end = at + 1 + usize::from(length);
            name.push(String::from_utf8_lossy(&question[at + 1..end]).to_lowercase());
            at = end;
        }
        let kind = u16::from_be_bytes([question[at + 1], question[at + 2]]);
        let name = name.join(".");
        let times = asked.entry((name.clone(), kind)).or_default();
        let found: Vec<Vec<u8>> = answer(&name, *times)
            .into_iter()
            .filter_map(|ip| match ip {
                IpAddr::V4(ip) if kind == 1 => Some(ip.octets().to_vec()),
                IpAddr::V6(ip) if kind == 28 => Some(ip.octets().to_vec()),
                _ => None,
            })
            .collect();
        *times += 1;
        let mut reply = question[..2].to_vec();
        reply.extend([0x84, 0x00, 0, 1]);
        reply.extend(u16::try_from(found.len()).unwrap().to_be_bytes());
        reply.extend([0, 0, 0, 0]);
        reply.extend(&question[12..at + 5]);
        for data in found {
            reply.extend([0xc0, 12]);
            reply.extend(kind.to_be_bytes());
            reply.extend([0, 1, 0, 0, 0, 0]);
            reply.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            reply.extend(data);
        }
        let _ = socket.send_to(&reply, from);
    }
}

/// What was touched that must not be.
type Canary = Arc<Mutex<Vec<String>>>;

/// Answers at every address of this network: at the public one as the attacker likes, elsewhere with a talk that would be
/// brought in, and a note that somebody came.
fn serve(listener: &TcpListener, site: &Arc<Site>, canary: &Canary) {
    for stream in listener.incoming().flatten() {
        let (site, canary) = (site.clone(), canary.clone());
        std::thread::spawn(move || {
            let local = stream.local_addr().unwrap();
            let public = local.ip().to_canonical() == PUBLIC.parse::<IpAddr>().unwrap();
            if !public {
                canary.lock().unwrap().push(format!("{local} was connected to"));
            }
            talk_to(stream, &site, public);
        });
    }
}

fn talk_to(mut stream: TcpStream, site: &Site, public: bool) {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or("/").to_owned();
    let (more, body) = if public { site.page(&path, &head) } else { (String::new(), site.talk.clone()) };
    let status = if more.contains("Location:") { "302 Found" } else { "200 OK" };
    let length = if more.contains("Content-Length:") || path == "/b/endless.wav" {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    let kind = if more.contains("Content-Type:") { "" } else { "Content-Type: audio/wav\r\n" };
    let answer = format!("HTTP/1.1 {status}\r\n{more}{kind}{length}Connection: close\r\n\r\n");
    if stream.write_all(answer.as_bytes()).is_err() || stream.write_all(&body).is_err() {
        return;
    }
    // Until the other side has had enough.
    while path == "/b/endless.wav" && stream.write_all(&[0; 4096]).is_ok() {}
}

/// The attacker's site.
struct Site {
    talk: Vec<u8>,
    canary: PathBuf,
    long: Vec<u8>,
}

impl Site {
    /// Headers (with `Location:` a redirect) and body.
    fn page(&self, path: &str, head: &str) -> (String, Vec<u8>) {
        let canary = format!("file://{}", self.canary.display());
        let html = |body: &str| {
            let page =
                format!("<!DOCTYPE html><html><head><title>P</title></head><body>{body}</body></html>");
            ("Content-Type: text/html\r\n".to_owned(), page.into_bytes())
        };
        let list = |body: &str| {
            let text = format!(
                "#EXTM3U\n#EXT-X-VERSION:4\n#EXT-X-TARGETDURATION:10\n#EXT-X-MEDIA-SEQUENCE:0\n{body}\n#EXT-X-ENDLIST\n"
            );
            ("Content-Type: application/vnd.apple.mpegurl\r\n".to_owned(), text.into_bytes())
        };
        let to = |place: &str| (format!("Location: {place}\r\n"), Vec::new());
        let feed = |items: &str| {
            let text = format!(
                "<?xml version=\"1.0\"?><rss version=\"2.0\"><channel><title>F</title>{items}</channel></rss>"
            );
            ("Content-Type: application/rss+xml\r\n".to_owned(), text.into_bytes())
        };
        let enclosure = |title: &str, url: &str| {
            format!("<item><title>{title}</title><enclosure url=\"{url}\" type=\"audio/wav\"/></item>")
        };
        match path {
            "/r/loopback.mp4" => to("http://127.0.0.1/r.mp4"),
            "/r/metadata.mp4" => to("http://169.254.169.254/latest/meta-data/iam"),
            "/r/decimal.mp4" => to("http://167772165/"),
            "/r/name.mp4" => to("http://intranet.example/r.mp4"),
            "/r/relative.mp4" => to("//10.0.0.5/r.mp4"),
            "/r/twice.mp4" => to("/r/loopback.mp4"),
            "/r/mapped.mp4" => to("http://[::ffff:10.0.0.5]/r.mp4"),
            "/r/file.mp4" => to(&canary),
            "/r/ftp.mp4" => to("ftp://10.0.0.5/r.mp4"),
            "/r/gopher.mp4" => to("gopher://10.0.0.5:6379/_FLUSHALL"),
            "/r/user.mp4" => to("http://anna:geheim@public.example/plain.wav"),
            "/r/round.mp4" => to("/r/round.mp4"),
            // Innocent to our look, and not to yt-dlp's.
            "/p/sneaky.html" if head.contains("compatible; spoken/") => html("<p>nothing</p>"),
            "/p/sneaky.html" => to("http://10.0.0.5/sneaky.mp4"),
            "/p/sneaky-name.html" if head.contains("compatible; spoken/") => html("<p>nothing</p>"),
            "/p/sneaky-name.html" => to("http://metadata.example/sneaky.mp4"),
            "/p/embed.html" => html("<video src=\"http://10.0.0.5/in-a-page.mp4\"></video>"),
            "/p/embed-name.html" => html("<audio src=\"http://intranet.example/by-name-in-a-page.mp3\"></audio>"),
            "/p/pieces.m3u8" => list("#EXTINF:9,\nhttp://10.0.0.5/piece.ts"),
            "/p/key.m3u8" => list(
                "#EXT-X-KEY:METHOD=AES-128,URI=\"http://169.254.169.254/key\"\n#EXTINF:9,\nhttp://public.example/plain.wav",
            ),
            "/p/map.m3u8" => list("#EXT-X-MAP:URI=\"http://127.0.0.1/init.mp4\"\n#EXTINF:9,\n/plain.wav"),
            "/p/piece-by-redirect.m3u8" => list("#EXTINF:9,\n/r/loopback.mp4"),
            "/p/file-piece.m3u8" => list(&format!("#EXTINF:9,\n{canary}")),
            "/p/dash.mpd" => (
                "Content-Type: application/dash+xml\r\n".to_owned(),
                "<?xml version=\"1.0\"?><MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" type=\"static\" \
                 mediaPresentationDuration=\"PT9S\"><Period><AdaptationSet mimeType=\"audio/mp4\"><Representation id=\"1\" \
                 bandwidth=\"1\"><BaseURL>http://10.0.0.5/dash.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>"
                    .into(),
            ),
            "/p/feed.xml" => feed(&enclosure("one", "http://192.168.1.1/in-a-feed.wav")),
            "/p/file-feed.xml" => feed(&enclosure("one", &canary)),
            "/p/refresh.html" => (
                "Content-Type: text/html\r\n".to_owned(),
                b"<!DOCTYPE html><html><head><meta http-equiv=\"refresh\" content=\"0; url=http://10.0.0.5/refresh.html\">\
                  <title>R</title></head><body></body></html>"
                    .to_vec(),
            ),
            "/p/rtsp.html" => html("<video src=\"rtsp://10.0.0.5/live.mp4\"></video>"),
            "/p/file.html" => html(&format!("<video src=\"{canary}\"></video>")),
            "/f/concat.mp4" => (
                "Content-Type: video/mp4\r\n".to_owned(),
                format!("ffconcat version 1.0\nfile '{}'\n", self.canary.display()).into_bytes(),
            ),
            "/f/subfile.mp4" => (
                "Content-Type: video/mp4\r\n".to_owned(),
                format!("#EXTM3U\n#EXTINF:9,\nsubfile,,start,0,end,0,,:{}\n", self.canary.display()).into_bytes(),
            ),
            "/f/session.mp4" => (
                "Content-Type: video/mp4\r\n".to_owned(),
                b"v=0\no=- 0 0 IN IP4 10.0.0.5\ns=x\nc=IN IP4 10.0.0.5\nt=0 0\nm=audio 9 RTP/AVP 0\n".repeat(20),
            ),
            "/b/huge.wav" => ("Content-Length: 53687091200\r\n".to_owned(), self.talk[..4096].to_vec()),
            "/b/long.flac" => ("Content-Type: audio/flac\r\n".to_owned(), self.long.clone()),
            "/b/channels.wav" => (String::new(), wave(200, 16_000)),
            "/b/rate.wav" => (String::new(), wave(1, 3_000_000)),
            "/t/named.wav" => (
                "Content-Disposition: attachment; filename=\"../../../../../../tmp/spoken-was-here.wav\"\r\n".to_owned(),
                self.talk.clone(),
            ),
            "/t/feed.xml" => feed(&enclosure("../../../../tmp/spoken-was-here", "http://public.example/t/title.wav")),
            "/t/escape.xml" => {
                feed(&enclosure("&#x9b;2J\u{202e}good\u{200b}", "http://public.example/t/escape.wav"))
            }
            "/t/option.xml" => feed(&enclosure("--exec=id", "http://public.example/t/option.wav")),
            // Whatever else is asked for is a talk: this site lures.
            _ => (String::new(), self.talk.clone()),
        }
    }
}

/// The head of a WAVE file that claims so much.
fn wave(channels: u16, rate: u32) -> Vec<u8> {
    let mut bytes = b"RIFF\xff\xff\xff\x7fWAVEfmt \x10\0\0\0\x01\0".to_vec();
    bytes.extend(channels.to_le_bytes());
    bytes.extend(rate.to_le_bytes());
    bytes.extend(rate.wrapping_mul(2).to_le_bytes());
    bytes.extend(channels.wrapping_mul(2).to_le_bytes());
    bytes.extend(b"\x10\0data\xff\xff\xff\x7f");
    bytes.resize(200_000, 0);
    bytes
}

/// An input and what becomes of it.
struct Hostile {
    source: String,
    /// How the failure's source ends.
    name: String,
    /// `FailureClass`; empty where it does no harm and is brought in.
    class: &'static str,
    /// In the message or the remedy.
    says: &'static str,
}

fn row(source: impl Into<String>, class: &'static str, says: &'static str) -> Hostile {
    let source = source.into();
    let name = source.trim_end_matches('/').rsplit(['/', '@']).next().unwrap().to_owned();
    Hostile { source, name, class, says }
}

/// As [`row`], where what fails is another address than the one that was given.
fn leads_to(source: &str, name: &str, class: &'static str, says: &'static str) -> Hostile {
    Hostile { name: name.to_owned(), ..row(source, class, says) }
}

fn inputs(canary: &Path) -> Vec<Hostile> {
    let p = "http://public.example";
    let mut rows = vec![
        // Private addresses, however they are written.
        row("http://127.0.0.1/a.mp4", "refused", "loopback"),
        row("http://127.1/b.mp4", "refused", "loopback"),
        row("http://2130706433/c.mp4", "refused", "loopback"),
        row("http://0x7f000001/d.mp4", "refused", "loopback"),
        row("http://0177.0.0.1/e.mp4", "refused", "loopback"),
        row("http://１２７.０.０.１/f.mp4", "refused", "loopback"),
        row("http://0/g.mp4", "refused", "unspecified"),
        row("http://localhost/h.mp4", "refused", "localhost leads to"),
        row("http://[::1]/i.mp4", "refused", "loopback"),
        row("http://[::ffff:127.0.0.1]/j.mp4", "refused", "loopback"),
        row("http://10.0.0.5/k.mp4", "refused", "private"),
        row("http://172.16.0.1/l.mp4", "refused", "private"),
        row("http://192.168.1.1/m.mp4", "refused", "private"),
        row("http://100.64.0.1/n.mp4", "refused", "provider's internal"),
        row("http://169.254.169.254/latest/o.mp4", "refused", "metadata"),
        row("http://[::ffff:a9fe:a9fe]/p.mp4", "refused", "metadata"),
        row("http://[64:ff9b::a9fe:a9fe]/q.mp4", "refused", "metadata"),
        row("http://[2002:a9fe:a9fe::1]/r.mp4", "refused", "metadata"),
        row("http://100.100.100.200/s.mp4", "refused", "metadata"),
        row("http://[fd00:ec2::254]/t.mp4", "refused", "metadata"),
        row("http://[fd00::5]/u.mp4", "refused", "private"),
        row("http://[fe80::1]/v.mp4", "refused", "link-local"),
        row("http://224.0.0.1/w.mp4", "refused", "multicast"),
        row("http://255.255.255.255/x.mp4", "refused", "broadcast"),
        row("http://10.0.0.5:6379/y.mp4", "refused", "private"),
        row("https://127.0.0.1/z.mp4", "refused", "ALLOW_PRIVATE_ADDRESSES"),
        // By name.
        row("http://intranet.example/da.mp4", "refused", "intranet.example leads to 10.0.0.5"),
        row("http://metadata.example/db.mp4", "refused", "metadata"),
        row("http://six.example/dc.mp4", "refused", "loopback"),
        row("http://mapped.example/dd.mp4", "refused", "private"),
        row("http://nat.example/de.mp4", "refused", "metadata"),
        row("http://here.example/a-page", "refused", "loopback"),
        row("http://rebind.example/df.wav", "refused", "loopback"),
        // By redirect.
        row(format!("{p}/r/loopback.mp4"), "refused", "loopback"),
        row(format!("{p}/r/metadata.mp4"), "refused", "metadata"),
        row(format!("{p}/r/decimal.mp4"), "refused", "private"),
        row(format!("{p}/r/name.mp4"), "refused", "intranet.example leads to"),
        row(format!("{p}/r/relative.mp4"), "refused", "private"),
        row(format!("{p}/r/twice.mp4"), "refused", "loopback"),
        row(format!("{p}/r/mapped.mp4"), "refused", "private"),
        row(format!("{p}/r/file.mp4"), "refused", "not followed"),
        row(format!("{p}/r/ftp.mp4"), "refused", "not followed"),
        row(format!("{p}/r/gopher.mp4"), "refused", "not followed"),
        row(format!("{p}/r/user.mp4"), "refused", "password"),
        row(format!("{p}/r/round.mp4"), "refused", "redirected more than"),
        // By what yt-dlp finds.
        row(format!("{p}/p/sneaky.html"), "refused", "private"),
        row(format!("{p}/p/sneaky-name.html"), "refused", "metadata"),
        leads_to(&format!("{p}/p/embed.html"), "in-a-page.mp4", "refused", "private"),
        leads_to(
            &format!("{p}/p/embed-name.html"),
            "by-name-in-a-page.mp3",
            "refused",
            "intranet.example leads to",
        ),
        row(format!("{p}/p/pieces.m3u8"), "refused", "private"),
        row(format!("{p}/p/key.m3u8"), "refused", "metadata"),
        row(format!("{p}/p/map.m3u8"), "refused", "loopback"),
        row(format!("{p}/p/piece-by-redirect.m3u8"), "refused", "loopback"),
        row(format!("{p}/p/file-piece.m3u8"), "refused", "file://"),
        leads_to(&format!("{p}/p/dash.mpd"), "dash.mp4", "refused", "private"),
        leads_to(&format!("{p}/p/feed.xml"), "in-a-feed.wav", "refused", "private"),
        row(format!("{p}/p/file-feed.xml"), "refused", "only http and https"),
        row(format!("{p}/p/refresh.html"), "refused", "private"),
        row(format!("{p}/p/file.html"), "refused", "file"),
        // Nothing to fetch is as good as refused, as long as nobody was asked.
        row(format!("{p}/p/rtsp.html"), "any", ""),
        // Schemes and credentials.
        row(format!("file://{}", canary.display()), "refused", "http"),
        row("ftp://10.0.0.5/by-ftp.mp4", "refused", "http"),
        row("gopher://10.0.0.5:6379/_FLUSHALL", "refused", "http"),
        row("rtmp://10.0.0.5/by-rtmp", "refused", "http"),
        row("data:audio/wav;base64,UklGRg", "refused", "http"),
        row(format!("http://anna:geheim@{PUBLIC}/with-password.wav"), "refused", "password"),
        row("javascript:alert(1)", "unreadable", "no such file"),
        // Names that look like options, or like searches.
        row("--exec=touch spoken-was-here", "unreadable", "no such file"),
        row("--config-locations=evil.conf", "unreadable", "no such file"),
        row("-o spoken-was-here", "unreadable", "no such file"),
        row("ytsearch9:cats", "unreadable", "no such file"),
        row("$(touch spoken-was-here)", "unreadable", "no such file"),
        // Lists that pose as media.
        row(format!("{p}/f/concat.mp4"), "not_media", "concat"),
        // A piece of that name on the attacker's own site, which is as harmless as any other.
        row(format!("{p}/f/subfile.mp4"), "any", ""),
        row(format!("{p}/f/session.mp4"), "not_media", "not media"),
        // Bombs.
        row(format!("{p}/b/huge.wav"), "too_large", "limit"),
        row(format!("{p}/b/endless.wav"), "too_large", "limit"),
        row(format!("{p}/b/long.flac"), "too_large", "MAX_DURATION_HOURS"),
        row(format!("{p}/b/channels.wav"), "too_large", "channels"),
        row(format!("{p}/b/rate.wav"), "too_large", "samples a second"),
        // Names and titles: brought in, and nothing but a text.
        row(format!("{p}/t/named.wav"), "", ""),
        row(format!("{p}/t/feed.xml"), "", ""),
        row(format!("{p}/t/escape.xml"), "", ""),
        row(format!("{p}/t/option.xml"), "", ""),
        row("http://both.example/only-at-its-public-address.wav", "", ""),
    ];
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    rows
}

/// Gives this thread, and what it starts, a network and mounts of its own.
fn own_network(dir: &Path) {
    // SAFETY: a system call without pointers; it changes this thread only.
    let made = unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) };
    assert_eq!(made, 0, "unshare: {}", std::io::Error::last_os_error());
    let run = |program: &str, arguments: &[&str]| shell(Command::new(program).args(arguments));
    run("mount", &["--make-rprivate", "/"]);
    run("ip", &["link", "set", "lo", "up"]);
    for address in PRIVATE.iter().copied().chain([&*format!("{PUBLIC}/32")]) {
        // Some machines have no IPv6; its canaries are then out of reach anyway.
        let added = Command::new("ip").args(["address", "add", address, "dev", "lo"]).output().unwrap();
        assert!(added.status.success() || address.contains(':'), "{address}: {added:?}");
    }
    for (name, content) in [
        ("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"),
        ("hosts", "127.0.0.1 localhost\n::1 localhost\n"),
        ("nsswitch.conf", "hosts: files dns\npasswd: files\ngroup: files\n"),
    ] {
        let (file, place) = (dir.join(name), Path::new("/etc").join(name));
        fs::write(&file, content).unwrap();
        if place.exists() {
            let place = place.canonicalize().unwrap();
            run("mount", &["--bind", file.to_str().unwrap(), place.to_str().unwrap()]);
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[test]
fn hostile_input_does_no_harm() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: a network of its own takes root");
        return;
    }
    let (talk, _) = speech("talk.wav", 7201, 9, &[]);
    let done = std::thread::spawn(move || in_its_network(&talk)).join();
    if let Err(panic) = done {
        std::panic::resume_unwind(panic);
    }
}

fn in_its_network(talk: &Path) {
    let dir = tempfile::tempdir().unwrap();
    own_network(dir.path());
    let library = Library::with_server();
    let apart = library.folder("apart").join("canary.wav");
    fs::copy(talk, &apart).unwrap();
    let long = dir.path().join("long.flac");
    ffmpeg(&[&"-f", &"lavfi", &"-i", &"anullsrc=r=8000:cl=mono", &"-t", &"7200", &long]);
    // Small enough for the limit of bytes: the limit of time is what is tested.
    let mut small = dir.path().join("small.wav");
    ffmpeg(&[&"-i", &talk, &"-ac", &"1", &"-ar", &"16000", &small]);
    let site = Arc::new(Site {
        talk: fs::read(&small).unwrap(),
        canary: apart.clone(),
        long: fs::read(&long).unwrap(),
    });
    small.pop();

    let canary = Canary::default();
    let bind = |port: u16| {
        TcpListener::bind(SocketAddr::new("::".parse().unwrap(), port))
            .or_else(|_| TcpListener::bind(("0.0.0.0", port)))
            .unwrap()
    };
    for port in [80, 443, 6379, 554, 21] {
        let (listener, site, canary) = (bind(port), site.clone(), canary.clone());
        std::thread::spawn(move || serve(&listener, &site, &canary));
    }
    let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
    std::thread::spawn(move || name_server(&socket));
    // The canaries sing when touched, and the attacker can be reached.
    for (host, sings) in [("10.0.0.5", 1), (PUBLIC, 1)] {
        TcpStream::connect((host, 80)).unwrap();
        super::cli::until("the canary has sung", || canary.lock().unwrap().len() >= sings);
        assert_eq!(canary.lock().unwrap().len(), sings, "{host}");
    }
    canary.lock().unwrap().clear();
    let watch = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
    watch.add_watch(&apart, AddWatchFlags::IN_OPEN | AddWatchFlags::IN_ACCESS).unwrap();

    let rows = inputs(&apart);
    let list: String = rows.iter().map(|row| format!("{}\n", row.source)).collect();
    let mut command = library.command(&["ingest", "--json", "--from", "list.txt"]);
    fs::write(library.cwd().join("list.txt"), list).unwrap();
    command
        .env_remove("ALLOW_PRIVATE_ADDRESSES")
        .env("MAX_DOWNLOAD_MB", "4")
        .env("MAX_DURATION_HOURS", "1")
        .env("MAX_ATTEMPTS", "1")
        .env("NETWORK_TIMEOUT", "10")
        .env("RATE_MIN_INTERVAL_SECONDS", "0")
        .env("RATE_VIDEOS_PER_HOUR", "0");
    let ran = super::cli::finish(command);

    let sung = canary.lock().unwrap().clone();
    assert!(sung.is_empty(), "{sung:?}\n{ran}");
    assert!(
        !watch.read_events().is_ok_and(|events| !events.is_empty()),
        "the canary's file was opened: {ran}"
    );
    assert_eq!(ran.code, 1, "{ran}");
    let told = format!("{}{}", ran.stdout, ran.stderr);
    assert!(!told.contains("geheim"), "a password is repeated: {ran}");
    assert!(!told.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "a terminal would obey: {ran}");
    for place in ["/tmp/spoken-was-here.wav", "/tmp/spoken-was-here"] {
        assert!(!Path::new(place).exists(), "{place}: {ran}");
    }
    let left: Vec<_> = fs::read_dir(library.cwd()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["list.txt"], "something was written beside the library");

    let failures = ran.json()["failures"].as_array().unwrap().clone();
    let mut wrong = Vec::new();
    for row in &rows {
        let whole = format!("/{}", row.name);
        let found: Vec<&Value> = failures
            .iter()
            .filter(|f| text(&f["source"]).ends_with(&whole) || text(&f["source"]) == row.name)
            .collect();
        match (row.class, found.as_slice()) {
            ("", []) | ("any", [_]) => {}
            ("", more) => wrong.push(format!("{}: does no harm, and yet: {more:?}", row.source)),
            (class, [failure]) => {
                let said = format!("{} {}", text(&failure["message"]), text(&failure["remedy"]));
                if text(&failure["class"]) != class || !said.contains(row.says) {
                    wrong.push(format!(
                        "{}: expected {class} saying {:?}, but it is {}: {said}",
                        row.source,
                        row.says,
                        text(&failure["class"])
                    ));
                }
            }
            (_, other) => wrong.push(format!("{}: {} failures", row.source, other.len())),
        }
    }
    assert!(wrong.is_empty(), "{}\n{ran}", wrong.join("\n"));
    let harmless = rows.iter().filter(|row| row.class.is_empty()).count() as u64;
    assert_eq!(ran.json()["done"].as_u64(), Some(harmless), "{ran}");
    assert_eq!(library.counts()[..2], [0, 0], "{ran}");
    assert_eq!(library.spooled(), Vec::<PathBuf>::new(), "left in the spool");
    println!("{} hostile inputs, {} refused, {harmless} brought in without harm", rows.len(), failures.len());
    assert!(rows.len() >= 60);
}
