//! From settings to running steps: the only place where a configuration becomes the steps' own options.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::signals::Stopping;
use super::world::World;
use crate::config::{Config, ModelRef};
use crate::decode::DecodeOptions;
use crate::embed::{EmbedOptions, Embedder, PassageOptions};
use crate::event::Events;
use crate::fetch::{FetchOptions, Fetcher};
use crate::pipeline::spool::Spool;
use crate::pipeline::{Meters, Pipeline, Sizes, Steps};
use crate::transcribe::{TranscribeOptions, Transcriber};
use crate::ytdlp::{YtDlp, YtDlpOptions};

/// yt-dlp as configured.
pub fn ytdlp(config: &Config) -> YtDlp {
    let mut options = YtDlpOptions::in_tools(&config.tools_dir);
    options.cookies.clone_from(&config.cookies_file);
    options.network_timeout = Duration::from_secs(config.network_timeout);
    YtDlp::new(options)
}
