//! The gate between a client and a server on the loopback interface.

use super::*;
use tokio::io::AsyncBufReadExt;

#[test]
fn base64_as_the_standard_has_it() {
    for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
        assert_eq!(base64(plain.as_bytes()), coded);
    }
}

#[test]
fn paths_stay_as_they_are_written() {
    for (target, path) in [
        ("http://h/a%20b/../c?x=[1]#f", "/a%20b/../c?x=[1]"),
        ("http://h:80", "/"),
        ("http://h?x", "/?x"),
        ("http://h/#x", "/"),
    ] {
        assert_eq!(origin_form(target), path);
    }
}

/// A server that answers each connection once with its number and what it was asked, and keeps the connection open.
async fn server() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let noted = noted.clone();
            tokio::spawn(async move {
                while let Some(head) = Head::read(&mut stream).await {
                    noted.lock().unwrap().push(format!("{} {:?}", head.first, head.lines));
                    let answer = "HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok";
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    (address, asked)
}

/// What the gate answers to `request`, `@` standing for the password.
async fn through(gate: &Gate, request: &str) -> String {
    let mut stream = TcpStream::connect(gate.address).await.unwrap();
    let password = format!("Proxy-Authorization: {}\r\n", gate.inner.password);
    stream.write_all(request.replace('@', &password).as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(Duration::from_secs(20), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn requests_go_through_once_and_without_what_is_ours() {
    let (address, asked) = server().await;
    let gate = Gate::open(&Net::open(), None, Duration::from_secs(1), u64::MAX).unwrap();
    let answer = through(
        &gate,
        &format!("GET http://{address}/a?b#c HTTP/1.1\r\nHost: {address}\r\n@Accept: x\r\nConnection: keep-alive\r\n\r\n"),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 429 Slow\r\n") && answer.ends_with("\r\n\r\nok"), "{answer}");
    assert!(answer.contains("Connection: close") && !answer.contains("keep-alive"), "{answer}");
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].starts_with("GET /a?b HTTP/1.1") && asked[0].contains("Accept: x"), "{asked:?}");
    assert!(!asked[0].contains("Authorization"), "{asked:?}");
    let said = gate.explain(Failure::new(FailureClass::RateLimited, "429"));
    assert_eq!(said.retry, Some(Retry::In(Duration::from_secs(7))));
    assert_eq!(gate.requests(), 1);
}

#[tokio::test]
async fn nobody_passes_without_the_password() {
    let (address, asked) = server().await;
    let gate = Gate::open(&Net::open(), None, Duration::from_secs(1), u64::MAX).unwrap();
    for request in [
        format!("GET http://{address}/ HTTP/1.1\r\n\r\n"),
        format!("CONNECT {address} HTTP/1.1\r\nProxy-Authorization: Basic eDp5\r\n\r\n"),
    ] {
        assert!(through(&gate, &request).await.starts_with("HTTP/1.1 407 "), "{request}");
    }
    assert!(asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_may_not_be_reached_is_not() {
    let (address, asked) = server().await;
    let port = address.port();
    for request in [
        format!("GET http://{address}/ HTTP/1.1\r\n@\r\n"),
        format!("CONNECT {address} HTTP/1.1\r\n@\r\n"),
        format!("CONNECT localhost:{port} HTTP/1.1\r\n@\r\n"),
        format!("CONNECT 2130706433:{port} HTTP/1.1\r\n@\r\n"),
        format!("CONNECT [::ffff:127.0.0.1]:{port} HTTP/1.1\r\n@\r\n"),
    ] {
        let gate = Gate::open(&Net::default(), None, Duration::from_secs(1), u64::MAX).unwrap();
        assert!(through(&gate, &request).await.starts_with("HTTP/1.1 403 "), "{request}");
        let said = gate.explain(Failure::new(FailureClass::Network, "HTTP Error 403"));
        assert_eq!(said.class, FailureClass::Refused, "{request}");
        assert_eq!(gate.requests(), 0);
    }
    assert!(asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_has_no_end_is_cut_off() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = Head::read(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
    });
    let gate = Gate::open(&Net::open(), None, Duration::from_secs(1), 1 << 20).unwrap();
    let answer = through(&gate, &format!("GET http://{address}/ HTTP/1.1\r\n@\r\n")).await;
    assert!(answer.len() < 2 << 20, "{} bytes", answer.len());
    assert_eq!(gate.explain(Failure::new(FailureClass::Network, "cut")).class, FailureClass::TooLarge);
}

#[tokio::test]
async fn tunnels_carry_both_ways() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = tokio::io::BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        stream.write_all(format!("heard {line}").as_bytes()).await.unwrap();
    });
    let gate = Gate::open(&Net::open(), None, Duration::from_secs(1), u64::MAX).unwrap();
    let answer = through(&gate, &format!("CONNECT {address} HTTP/1.1\r\n@\r\nhello\n")).await;
    assert_eq!(answer, "HTTP/1.1 200 Connection established\r\n\r\nheard hello\n");
}

#[tokio::test]
async fn who_cannot_be_reached_is_named() {
    let gate = Gate::open(&Net::open(), None, Duration::from_secs(1), u64::MAX).unwrap();
    let answer = through(&gate, "GET http://no-such-host.invalid/ HTTP/1.1\r\n@\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    let said = gate.explain(Failure::new(FailureClass::Network, "HTTP Error 502"));
    assert_eq!(said.message, "host not found: no-such-host.invalid");
}
