//! Tests against the real parts: the embedded Postgres, yt-dlp, ffmpeg, the models, and the binary itself. One program, because
//! linking takes longer than testing.

mod bad_input;
mod bench;
mod citus;
mod cli;
mod config;
mod engines;
mod export;
mod faults;
mod index;
mod finding;
mod house;
mod ingest;
mod hostile;
mod kill;
mod pipeline;
mod polite;
mod postgres;
mod queue;
mod queue_commands;
mod roles;
mod search;
mod server;
mod show;
mod silence;
mod sources;
mod store;
mod sync;
mod transcribe;
mod words;
