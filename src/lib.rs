//! **spoken** turns videos into searchable speech.
//!
//! An item flows one way, and the modules are listed in that order:
//!
//! ```text
//! source ──► fetch ──► decode ──►│ speech ──► transcribe │──► embed ──► store
//! (what)    (yt-dlp,   (ffmpeg)  │ (detect,   (Whisper)  │   (passages, (Postgres)
//!            http)               │  windows)             │    vectors)
//!   └────── I/O stage ───────────┘└───── ASR stage ──────┘└──── DB stage ─────┘
//!           IO_WORKERS              ASR_WORKERS, models       DB_WORKERS
//! ```
//!
//! * **The nouns**: [`media`] (items, audio, segments, failures), [`stage`] (how busy a stage is),
//!   [`event`] (what happened). They import no other module of the crate.
//! * **The steps**, each knowing only the nouns and the tools below, never another step (but [`transcribe`], which asks
//!   [`speech`] where to cut, since the two are one stage): [`source`] finds items,
//!   [`fetch`] brings their bytes, [`decode`] turns them into 16 kHz mono, [`speech`] finds who
//!   talks when and cuts windows, [`transcribe`] runs Whisper over the windows of all files at once,
//!   [`embed`] forms passages and vectors, [`store`] writes and reads the database.
//! * **Tools of the steps**: [`govern`] (how hard sites are asked), [`web`] (addresses, which of them may be reached, HTTP,
//!   what an answer is), [`ytdlp`] (running yt-dlp), [`handover`] (audio left for another machine, where the I/O stage runs on
//!   one and the others elsewhere).
//! * **The wiring**: [`pipeline`] joins the steps with bounded channels (every capacity and worker
//!   count stands there), [`queue`] makes each item a durable job.
//! * **Beside the pipeline**: [`import`] reads transcripts that exist already.
//! * **Finding it again**: [`search`], [`export`].
//! * **Who watches**: [`report`] draws events, [`gpu`] samples the machine.
//! * **The outside**: [`config`], [`cli`], [`telemetry`], [`postgres`] (the private server), and
//!   [`app`], which composes all of it into commands.
//!
//! To find a feature, begin with its command in [`app`]:
//!
//! * **Subscriptions**: [`app::source`] keeps them, [`app::check`] looks into them, [`app::sync`] and [`app::run`] say when;
//!   [`source`] reads lists and feeds, [`store::sources`] remembers what was found in them.
//! * **Doing again**: [`app::upgrade`] (another Whisper model), [`app::reembed`] (another embedding model; [`app::models`] says
//!   which one a command works with), `spoken retry` in [`app::library`]; `store/upgrade.rs`, `store/reembed.rs`.
//! * **Removal and retention**: [`app::remove`], `store/remove.rs`.
//! * **The index of the vectors**: [`app::index`], [`store::index`].
//! * **Captions instead of a transcript**: [`fetch::captions`].
//! * **Several machines**: [`app::work`], [`app::node`] (its heartbeat), [`handover`]; leases are in `store/claim.rs`, jobs of dead
//!   processes in `queue/crash.rs`, who is next in [`queue::place`].
//! * **Pace and limits of sites**: [`govern`], [`app::limits`].
//! * **Exit codes**: [`app::ending`].

pub mod event;
pub mod media;
pub mod stage;

pub mod handover;
pub mod govern;
pub mod web;
pub mod ytdlp;

pub mod source;
pub mod fetch;
pub mod decode;
pub mod speech;
pub mod transcribe;
pub mod embed;
pub mod store;

pub mod pipeline;
pub mod queue;

pub mod import;

pub mod export;
pub mod search;

pub mod gpu;
pub mod report;

pub mod app;
pub mod cli;
pub mod config;
pub mod postgres;
pub mod telemetry;
