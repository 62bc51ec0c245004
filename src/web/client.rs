//! One HTTP client for all that is asked for directly: it reaches only what may be reached, at the pace that the site
//! allows, and follows redirects itself, so that every step of the way is judged and counted.

use std::{fmt, sync::Arc, time::Duration};

use reqwest::{
    Response, StatusCode,
    header::{self, HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};
use url::Url;
use uuid::Uuid;

use super::{
    Retry, content, guard,
    guard::{Guard, Resolver},
    innermost, shown,
};
use crate::govern::{Ask, Governor, Turn, Wait};
use crate::media::{self, Failure, FailureClass};

/// Redirects followed before an address is given up.
const MAX_REDIRECTS: usize = 10;
/// Sites turn away clients without a name; this one is honest about being a program.
const USER_AGENT: &str = concat!("Mozilla/5.0 (compatible; spoken/", env!("CARGO_PKG_VERSION"), ")");
/// A wait for a turn that is slept here; longer ones are the caller's.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How requests leave this program: what they may reach, and at what pace.
#[derive(Clone, Debug, Default)]
pub struct Net {
    /// What may be reached.
    pub guard: Guard,
    /// At what pace.
    pub governor: Governor,
}

impl Net {
    /// Everything may be reached, at any pace: for tests and for what belongs to nobody else.
    pub fn open() -> Self {
        Self { guard: Guard::open(), governor: Governor::free() }
    }

    /// Waits for a turn for one request to `url`, `at_most` so long. A database that does not answer is no reason to break
    /// off what runs: the request passes.
    pub(crate) async fn turn(
        &self,
        url: &Url,
        permit: Option<Uuid>,
        at_most: Duration,
    ) -> Result<crate::govern::Permit, Wait> {
        let until = tokio::time::Instant::now() + at_most;
        loop {
            match self.governor.ask(url, Ask::Request(permit)).await {
                Ok(Turn::Go(granted)) => return Ok(granted),
                Ok(Turn::Wait(wait)) => {
                    if wait.resting || tokio::time::Instant::now() + wait.after > until {
                        return Err(wait);
                    }
                    tokio::time::sleep(wait.after).await;
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot ask the ledger for a turn; going on");
                    return Ok(crate::govern::Permit::default());
                }
            }
        }
    }
}

/// The client. Cheap to clone; use one for all, so that connections are shared.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    net: Arc<Net>,
    permit: Option<Uuid>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("guard", &self.net.guard)
            .field("permit", &self.permit)
            .finish_non_exhaustive()
    }
}

/// A client that follows at most ten redirects, only to http and https, and gives up a connection on which nothing
/// arrives for `no_progress`. Proxies are taken from the environment: behind one, it is the proxy that resolves names, and
/// only addresses written as such are judged here.
///
/// # Errors
/// [`FailureClass::Setup`] when the system's TLS cannot be initialised.
pub fn client(net: &Net, no_progress: Duration) -> Result<Client, Failure> {
    let http = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(no_progress.min(Duration::from_secs(15)))
        .read_timeout(no_progress)
        // Followed here: see `Request::send`.
        .redirect(Policy::none())
        .dns_resolver(Arc::new(Resolver { guard: net.guard, proxies: guard::proxy_hosts() }))
        .referer(false)
        .build()
        .map_err(|e| {
            Failure::new(FailureClass::Setup, format!("failed to set up HTTP: {}", innermost(&e)))
        })?;
    Ok(Client { http, net: Arc::new(net.clone()), permit: None })
}

impl Client {
    /// The same client, its requests made for the sake of a permit.
    pub fn for_permit(&self, permit: Option<Uuid>) -> Self {
        Self { permit, ..self.clone() }
    }

    /// How its requests leave.
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// A request for what is at `url`.
    pub fn get(&self, url: Url) -> Request<'_> {
        Request { client: self, url, headers: HeaderMap::new() }
    }
}

/// A request that was not sent yet.
#[derive(Debug)]
pub struct Request<'a> {
    client: &'a Client,
    url: Url,
    headers: HeaderMap,
}

impl Request<'_> {
    /// Adds a header; one that cannot be sent is left out.
    pub fn header(mut self, name: HeaderName, value: impl AsRef<str>) -> Self {
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.headers.insert(name, value);
        }
        self
    }

    /// Sends it, and follows where it is sent on to. An answer that is no success is returned as it is.
    ///
    /// # Errors
    /// [`Retry`]: what may not be reached or has to wait its turn, connections that fail.
    pub(crate) async fn send(self) -> Result<Response, Retry> {
        let Self { client, url: first, headers } = self;
        let mut url = first.clone();
        for _ in 0..=MAX_REDIRECTS {
            client.net.guard.check_url(&url).map_err(|blocked| Retry::Never(blocked.failure()))?;
            let permit = client
                .net
                .turn(&url, client.permit, PATIENCE)
                .await
                .map_err(|wait| Retry::Never(wait.failure()))?;
            let answered = client.http.get(url.clone()).headers(headers.clone()).send().await;
            let response = match answered {
                Ok(response) => response,
                Err(error) => {
                    let failed = Retry::transport(&url, &error);
                    let (Retry::Soon(failure) | Retry::Never(failure)) = &failed;
                    client.note_trial(&url, &permit, Err(failure)).await;
                    return Err(failed);
                }
            };
            if permit.is_trial() {
                let failed = (!response.status().is_success() && !response.status().is_redirection())
                    .then(|| super::answer_failure(&url, &response));
                client.note_trial(&url, &permit, failed.as_ref().map_or(Ok(()), Err)).await;
            }
            match next(&first, &url, &response)? {
                Some(onward) => url = onward,
                None => return Ok(response),
            }
        }
        let message = format!("{}: redirected more than {MAX_REDIRECTS} times", shown(&first));
        Err(Retry::Never(Failure::new(FailureClass::Refused, message)))
    }
}

impl Client {
    /// A lone request that was the trial whether a site has calmed down tells how it went.
    async fn note_trial(&self, url: &Url, permit: &crate::govern::Permit, outcome: Result<(), &Failure>) {
        if permit.is_trial()
            && let Err(error) = self.net.governor.tell(url, permit.id(), outcome).await
        {
            tracing::debug!(%error, "failed to note how a trial went; the next will tell");
        }
    }
}

/// Where a redirect leads; `None` where the answer is none.
fn next(first: &Url, at: &Url, response: &Response) -> Result<Option<Url>, Retry> {
    use StatusCode as S;
    let redirects =
        [S::MOVED_PERMANENTLY, S::FOUND, S::SEE_OTHER, S::TEMPORARY_REDIRECT, S::PERMANENT_REDIRECT];
    if !redirects.contains(&response.status()) {
        return Ok(None);
    }
    let Some(place) = response.headers().get(header::LOCATION) else { return Ok(None) };
    let refused =
        |what: &str| Retry::Never(Failure::new(FailureClass::Refused, format!("{}: {what}", shown(first))));
    let place = std::str::from_utf8(place.as_bytes()).map_err(|_| refused("redirected to no address"))?;
    let onward = at.join(place).map_err(|_| refused("redirected to no address"))?;
    if !matches!(onward.scheme(), "http" | "https") {
        return Err(refused("leads to an address that is not followed, only http and https are"));
    }
    if !onward.username().is_empty() || onward.password().is_some() {
        return Err(refused("redirected to an address with a user name or password, which is not followed"));
    }
    Ok(Some(onward))
}

/// True where an answer is a site's question whether we are human, told by its headers and first bytes.
pub(crate) fn is_challenge(response_headers: &HeaderMap, start: &[u8]) -> bool {
    response_headers.get("cf-mitigated").is_some_and(|v| v.as_bytes() == b"challenge")
        || content::asks_for_a_human(start)
}

/// What to do about a site that doubts us.
pub(crate) fn doubted(url: &Url, retry: Option<media::Retry>) -> Failure {
    let failure = Failure::new(
        FailureClass::RateLimited,
        format!("{} asks whether we are human instead of answering", shown(url)),
    )
    .with_remedy(super::DOUBTED_REMEDY);
    match retry {
        Some(retry) => failure.with_retry(retry),
        None => failure,
    }
}
