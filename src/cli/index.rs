//! What `spoken index` takes.

use clap::{Args, Subcommand};

/// What `spoken index --help` says first.
pub(super) const INDEX: &str = "\
Looks after the index of the vectors (HNSW), which search by meaning needs once a library is large: without it every vector is \
compared, which is exact, and takes about a second for each million and core.

While much is brought in there should be none, because every vector that is written has to be woven into it. It is built by \
itself once a run has brought in all there was (INDEX_BUILD=auto) and the library has INDEX_MIN_PASSAGES. Building takes \
minutes, locks nothing, and search goes on meanwhile.";

/// Arguments of `spoken index`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  spoken index status
  spoken index build
  spoken index drop && spoken ingest …               before a large backfill into a large library

Exit codes: 0 done, 1 it could not be built, 2 wrong usage or configuration, 3 not possible for now, 130 interrupted")]
pub struct IndexArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: IndexCommand,
}

/// What to do with the index.
#[derive(Clone, Debug, Subcommand)]
pub enum IndexCommand {
    /// Build what is missing; what an interrupted build left is removed first
    Build(IndexBuildArgs),
    /// Say what there is, how large it is, and how well it finds
    Status(IndexStatusArgs),
    /// Remove it; search compares every vector then
    Drop,
    /// Measure a library of made text, on a database made for that
    #[command(hide = true)]
    Drill(IndexDrillArgs),
}

/// Arguments of `spoken index build`.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct IndexBuildArgs {
    /// Build it anew although it is there; the old one serves until the new one is complete
    #[arg(long)]
    pub again: bool,

    /// Print JSON: {"tables": [{"table", "built", "build_ms", "memory_mb", "workers", "ef_search", "recall", …}]}
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `spoken index status`.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct IndexStatusArgs {
    /// Measure the recall again instead of telling what it was last
    #[arg(long)]
    pub measure: bool,

    /// Print JSON: {"tables": [{"table", "model", "dimension", "passages", "state", "bytes", "recall", "ef_search", …}]}
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `spoken index drill`: made text and vectors through the product's own way of writing and searching.
#[derive(Clone, Debug, Default, Args)]
pub struct IndexDrillArgs {
    /// Write until there are so many passages
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub write: u64,

    /// Write so many passages a second at most; 0: as fast as it goes
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub rate: u64,

    /// Transcripts written at the same time
    #[arg(long, value_name = "N", default_value_t = 12)]
    pub writers: usize,

    /// Ask so many queries, one after the other, and tell how long they took
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub ask: u64,

    /// Ask for what is in this language only
    #[arg(long, value_name = "CODE")]
    pub language: Option<String>,

    /// Ask for what was said in so many of the channels only
    #[arg(long, value_name = "NAME")]
    pub channel: Option<String>,

    /// Queries asked before times are taken
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub warm: u64,

    /// First of the numbers that queries are made from
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}
