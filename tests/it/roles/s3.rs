//! An S3-compatible server over a directory, in this process.

use std::path::PathBuf;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// The one bucket.
const BUCKET: &str = "audio";
const ACCESS: &str = "access";
const SECRET: &str = "secret";

/// The server; ends when dropped.
pub struct S3 {
    endpoint: String,
    dir: TempDir,
    _task: AbortOnDropHandle<()>,
}

impl S3 {
    /// Starts on a free port of `address`, with an empty bucket.
    pub async fn start(address: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(BUCKET)).unwrap();
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(dir.path()).unwrap());
        service.set_auth(SimpleAuth::from_single(ACCESS, SECRET));
        let service = service.build();
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move {
            // Dropped with the task, and the connections with it.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let service = service.clone();
                connections.spawn(async move {
                    let http = Builder::new(TokioExecutor::new());
                    // A client that goes away is its own business.
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { endpoint, dir, _task: AbortOnDropHandle::new(task) }
    }

    /// What a process needs to know to use it.
    pub fn settings(&self) -> Vec<(String, String)> {
        [
            ("HANDOVER_URL", &*format!("s3://{BUCKET}/some/prefix")),
            ("AWS_ENDPOINT", &self.endpoint),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", ACCESS),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    /// Where its objects lie.
    pub fn objects(&self) -> PathBuf {
        self.dir.path().join(BUCKET)
    }
}
