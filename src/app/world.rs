//! What commands share: the configuration, the database (private or given) and how to open it.

use std::time::Duration;

use crate::config::Config;
use crate::postgres::{Server, ServerOptions};
use crate::store::{Store, StoreOptions};

/// An open database, and the private server behind it if there is one.
pub struct World {
    /// All settings.
    pub config: Config,
    /// The library.
    pub store: Store,
    /// Where the database is; holds a password.
    url: String,
    server: Option<Server>,
}

impl World {
    /// Starts the private server (or uses DATABASE_URL), connects, and brings the schema up to date.
    ///
    /// # Errors
    /// Where the server does not start, does not answer, or lacks pgvector: each says what to do.
    pub async fn open(config: Config, connections: u32) -> anyhow::Result<Self> {
        let world = Self::connect(config, connections).await?;
        match world.store.migrate().await {
            Ok(migrated) => {
                if let Some(warning) = migrated.warning {
                    tracing::warn!("{warning}");
                }
                Ok(world)
            }
            Err(error) => {
                // The server that was started for this must not outlive it.
                world.close().await;
                Err(error.into())
            }
        }
    }

    /// As [`Self::open`], the schema left as it is.
    ///
    /// # Errors
    /// Where the server does not start or does not answer.
    pub async fn connect(config: Config, connections: u32) -> anyhow::Result<Self> {
        let (server, url) = match &config.database_url {
            Some(url) => (None, url.expose().to_owned()),
            None => {
                let options = server_options(&config);
                let mut server = Server::start(&options).await?;
                server.keep_running(&options);
                let url = server.url().to_owned();
                (Some(server), url)
            }
        };
        let options = StoreOptions {
            max_connections: connections,
            // Over before anybody takes this process for dead.
            idle_in_transaction: Duration::from_secs(config.lease_seconds) / 2,
            ..StoreOptions::default()
        };
        match Store::connect(&url, &options).await {
            Ok(store) => Ok(Self { config, store, url, server }),
            Err(error) => {
                if let Some(server) = server {
                    server.close().await.ok();
                }
                Err(error.into())
            }
        }
    }

    /// Starts the private server again where it is ours and does not run; nothing is done where it does.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn revive(&self) -> anyhow::Result<()> {
        if self.server.is_some() {
            // Registered twice then; the one that is kept is enough.
            drop(Server::start(&server_options(&self.config)).await?);
        }
        Ok(())
    }

    /// Whether the database is the private server on this machine.
    pub fn is_private(&self) -> bool {
        self.server.is_some()
    }

    /// Where the database is, password included.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Closes the connections, and the private server if nobody else uses it.
    pub async fn close(self) {
        self.store.close().await;
        if let Some(server) = self.server
            && let Err(error) = server.close().await
        {
            tracing::warn!(%error, "failed to stop the private Postgres");
        }
    }
}

/// Where the private server of this configuration lives.
pub fn server_options(config: &Config) -> ServerOptions {
    ServerOptions::new(&config.data_dir, &config.tools_dir)
}
