//! Fetching a model from the Hugging Face hub into its own cache layout, once.

use std::{
    net::{TcpStream, ToSocketAddrs},
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::Duration,
};

use hf_hub::{
    Cache, Repo,
    api::{
        Progress,
        sync::{ApiBuilder, ApiError, ApiRepo},
    },
};
use url::Url;

use super::{ModelDir, ModelError};

/// A name must resolve and a connection stand within this time, else the machine counts as offline.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);

/// A download that brings nothing for this long is given up; what has arrived is kept and continued next time.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Where a download stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    /// File within the model, for example `model.bin`.
    pub file: String,
    /// Bytes here so far.
    pub done: u64,
    /// Bytes of the whole file.
    pub total: u64,
}

/// From the names of a repository's files to those that are wanted.
pub type Choose = dyn Fn(&[String]) -> Result<Vec<String>, String> + Send;

/// Which files of a repository make a model; each engine has its own.
pub struct Wanted {
    /// Chooses from the names of the repository's files: what to fetch, the weights last, so that a snapshot with weights is a
    /// complete one. The error is the sentence's end of "cannot fetch the model: …".
    pub choose: Box<Choose>,
    /// The model in a snapshot's directory, where it is complete.
    pub found: Box<dyn Fn(PathBuf) -> Option<ModelDir>>,
    /// What would do instead, for a machine without a network.
    pub advice: &'static str,
}

/// The model `name` that lies in `repository`, from a cache or from the hub.
pub fn fetch(
    name: &str,
    repository: &str,
    models_dir: &Path,
    wanted: Wanted,
    progress: &mut dyn FnMut(Download),
) -> Result<ModelDir, ModelError> {
    let endpoint = std::env::var("HF_ENDPOINT").unwrap_or_else(|_| "https://huggingface.co".to_owned());
    fetch_from(endpoint, name, repository, models_dir, wanted, progress)
}

fn fetch_from(
    endpoint: String,
    name: &str,
    repository: &str,
    models_dir: &Path,
    wanted: Wanted,
    progress: &mut dyn FnMut(Download),
) -> Result<ModelDir, ModelError> {
    let Wanted { choose, found, advice } = wanted;
    let own = Cache::new(models_dir.to_path_buf());
    for cache in [own.clone(), Cache::from_env()] {
        if let Some(model) = snapshot(&cache, repository).and_then(&found) {
            return Ok(model);
        }
    }
    if let Err(reason) = reachable(&endpoint) {
        return Err(ModelError::Offline {
            name: name.to_owned(),
            cache: models_dir.to_path_buf(),
            endpoint,
            reason,
            advice,
        });
    }
    let failed = |reason: String| ModelError::Fetch {
        name: name.to_owned(),
        repository: repository.to_owned(),
        endpoint: endpoint.clone(),
        reason,
    };
    std::fs::create_dir_all(models_dir).map_err(|e| failed(format!("{}: {e}", models_dir.display())))?;
    let token =
        std::env::var("HF_TOKEN").ok().filter(|t| !t.is_empty()).or_else(|| Cache::from_env().token());
    let api = ApiBuilder::from_cache(own.clone())
        .with_endpoint(endpoint.clone())
        .with_token(token)
        .with_retries(5)
        .with_progress(false)
        .build()
        .map_err(|e| failed(e.to_string()))?;

    // The client has no timeouts of its own: it works on a thread, and silence from there is a stall. A thread that
    // hangs is left behind; the program ends with this error anyway.
    let (news, heard) = mpsc::channel();
    let repo = api.model(repository.to_owned());
    let worker = thread::Builder::new()
        .name("model-download".to_owned())
        .spawn(move || {
            let result = download_all(&repo, &choose, &news);
            let _ = news.send(News::Ended(result));
        })
        .map_err(|e| failed(e.to_string()))?;
    loop {
        match heard.recv_timeout(STALL_TIMEOUT) {
            Ok(News::Progressed(download)) => progress(download),
            Ok(News::Ended(Ok(()))) => break,
            Ok(News::Ended(Err(reason))) => return Err(failed(reason)),
            Err(RecvTimeoutError::Timeout) => {
                return Err(failed(format!("nothing arrived for {} s", STALL_TIMEOUT.as_secs())));
            }
            Err(RecvTimeoutError::Disconnected) => return Err(failed("the download broke off".to_owned())),
        }
    }
    // It has sent its last word.
    let _ = worker.join();
    snapshot(&own, repository)
        .and_then(&found)
        .ok_or_else(|| failed("what was fetched is no complete model".to_owned()))
}

/// The directory in `cache` of the newest snapshot of `repository`.
fn snapshot(cache: &Cache, repository: &str) -> Option<PathBuf> {
    let folder = cache.path().join(Repo::model(repository.to_owned()).folder_name());
    let commit = std::fs::read_to_string(folder.join("refs/main")).ok()?;
    Some(folder.join("snapshots").join(commit.trim())).filter(|dir| dir.is_dir())
}

enum News {
    Progressed(Download),
    Ended(Result<(), String>),
}

fn download_all(repo: &ApiRepo, choose: &Choose, news: &Sender<News>) -> Result<(), String> {
    let told = |e: ApiError| match e {
        ApiError::RequestError(e) if e.to_string().contains("404") => {
            "no such repository or file on the hub".to_owned()
        }
        ApiError::RequestError(e) if e.to_string().contains("401") => {
            "the hub wants a token (HF_TOKEN), or there is no such repository".to_owned()
        }
        e => e.to_string(),
    };
    let info = repo.info().map_err(told)?;
    let there: Vec<String> = info.siblings.into_iter().map(|s| s.rfilename).collect();
    for file in choose(&there)? {
        let report = Report { file: file.clone(), done: 0, total: 0, told: 0, news: news.clone() };
        repo.download_with_progress(&file, report).map_err(told)?;
    }
    Ok(())
}

/// Passes the client's progress on, at most once per mebibyte.
struct Report {
    file: String,
    done: u64,
    total: u64,
    told: u64,
    news: Sender<News>,
}

impl Report {
    fn tell(&mut self) {
        self.told = self.done;
        let _ = self.news.send(News::Progressed(Download {
            file: self.file.clone(),
            done: self.done.min(self.total),
            total: self.total,
        }));
    }
}

impl Progress for Report {
    fn init(&mut self, size: usize, _filename: &str) {
        // Called again, followed by what is there already, when a broken download is continued.
        (self.done, self.told, self.total) = (0, 0, size as u64);
        self.tell();
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        if self.done - self.told >= 1 << 20 {
            self.tell();
        }
    }

    fn finish(&mut self) {
        self.done = self.total;
        self.tell();
    }
}

/// Fails fast where there is no network: the client itself would wait for minutes. Behind a proxy there is nothing to
/// try beforehand.
fn reachable(endpoint: &str) -> Result<(), String> {
    let proxied = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|v| !v.is_empty()));
    if proxied {
        return Ok(());
    }
    let url = Url::parse(endpoint).map_err(|e| format!("HF_ENDPOINT is no address: {e}"))?;
    let (Some(host), Some(port)) = (url.host_str().map(str::to_owned), url.port_or_known_default()) else {
        return Err("HF_ENDPOINT names no host".to_owned());
    };
    let (answer, answered) = mpsc::channel();
    // Name resolution knows no timeout either.
    thread::Builder::new()
        .name("hub-probe".to_owned())
        .spawn(move || {
            let _ = answer.send(connect(&host, port));
        })
        .map_err(|e| e.to_string())?;
    answered.recv_timeout(CONNECT_TIMEOUT).unwrap_or_else(|_| Err("no answer".to_owned()))
}

fn connect(host: &str, port: u16) -> Result<(), String> {
    let addresses = (host, port).to_socket_addrs().map_err(|e| format!("cannot resolve {host}: {e}"))?;
    let mut reason = format!("{host} has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT / 2) {
            Ok(_) => return Ok(()),
            Err(e) => reason = format!("{address}: {e}"),
        }
    }
    Err(reason)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::transcribe::model::wanted;

    const WEIGHTS: usize = 3 << 20;

    /// A hub with one repository; answers until the test process ends. Its address.
    fn hub(files: &'static [&'static str]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                let Some(request) = lines.next() else { continue };
                let range = lines
                    .by_ref()
                    .take_while(|l| !l.is_empty())
                    .find_map(|l| l.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
                let path = request.split(' ').nth(1).unwrap();
                let file = path.rsplit('/').next().unwrap();
                let (status, headers, body) = if path.starts_with("/api/models/maker/model") {
                    let siblings: Vec<_> =
                        files.iter().map(|f| serde_json::json!({ "rfilename": f })).collect();
                    let info = serde_json::json!({ "siblings": siblings, "sha": "c0ffee" });
                    ("200 OK", String::new(), info.to_string().into_bytes())
                } else if path.starts_with("/maker/model/resolve/main/") && files.contains(&file) {
                    let whole = vec![b'x'; if file == "model.bin" { WEIGHTS } else { 10 }];
                    let range = range.unwrap();
                    let (from, to) = range.split_once('-').unwrap();
                    let from: usize = from.parse().unwrap();
                    let to = to.parse().map_or(whole.len(), |to: usize| to + 1);
                    let headers = format!(
                        "etag: \"{file}-tag\"\r\nx-repo-commit: c0ffee\r\ncontent-range: bytes {from}-{}/{}\r\n",
                        to - 1,
                        whole.len()
                    );
                    ("206 Partial Content", headers, whole[from..to].to_vec())
                } else {
                    ("404 Not Found", String::new(), Vec::new())
                };
                let head = format!(
                    "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
            }
        });
        address
    }

    #[test]
    fn a_model_is_fetched_once_and_its_download_told() {
        let models = tempfile::tempdir().unwrap();
        let endpoint = hub(&[
            "README.md",
            "config.json",
            "model.bin",
            "preprocessor_config.json",
            "tokenizer.json",
            "vocabulary.txt",
        ]);
        let mut told = Vec::new();
        let model = {
            let wanted = wanted("maker/model");
            fetch_from(endpoint, "maker/model", "maker/model", models.path(), wanted, &mut |d| told.push(d))
        }
        .unwrap();
        assert_eq!(model.weights_bytes, WEIGHTS as u64);
        assert!(
            model.path.join("preprocessor_config.json").is_file() && !model.path.join("README.md").exists()
        );
        let last = told.last().unwrap();
        assert_eq!(
            (last.file.as_str(), last.done, last.total),
            ("model.bin", WEIGHTS as u64, WEIGHTS as u64)
        );
        assert!(told.iter().filter(|d| d.file == "model.bin").count() > 3, "{told:?}");

        // Nobody listens on port 9 of this machine; nobody is asked.
        let nowhere = "http://127.0.0.1:9".to_owned();
        let again = fetch_from(
            nowhere,
            "maker/model",
            "maker/model",
            models.path(),
            wanted("maker/model"),
            &mut |_| {},
        )
        .unwrap();
        assert_eq!(again, model);
    }

    #[test]
    fn a_repository_without_a_model_or_none_at_all_is_told() {
        let models = tempfile::tempdir().unwrap();
        let endpoint = hub(&["config.json", "model.safetensors", "tokenizer.json"]);
        let fetch = |name: &str| {
            fetch_from(endpoint.clone(), name, name, models.path(), wanted(name), &mut |_| {})
                .unwrap_err()
                .to_string()
        };
        assert!(
            fetch("maker/model").contains("no ctranslate2 model (no model.bin)"),
            "{}",
            fetch("maker/model")
        );
        assert!(fetch("maker/other").contains("no such repository"), "{}", fetch("maker/other"));
    }

    #[test]
    fn without_a_network_the_error_says_what_would_do() {
        let models = tempfile::tempdir().unwrap();
        for endpoint in ["http://127.0.0.1:9", "http://hub.invalid"] {
            let error = fetch_from(
                endpoint.to_owned(),
                "small",
                "maker/small",
                models.path(),
                wanted("small"),
                &mut |_| {},
            );
            let error = error.unwrap_err().to_string();
            assert!(error.contains("WHISPER_MODEL=/path/to/dir") && error.contains(endpoint), "{error}");
        }
    }
}
