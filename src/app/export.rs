//! `spoken export`: one transcript, or a whole library.

mod rows;

use std::collections::HashMap;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use futures::TryStreamExt;

use super::library::the_one;
use super::world::World;
use crate::cli::{EXIT_INTERRUPTED, EXIT_OK, ExportArgs, Product, Since as Day};
use crate::export::table::{Cell, Form, Rows, TableWriter};
use crate::export::{self, Exporter, Format, Heading, OutputFile, Topic};
use crate::media::MediaId;
use crate::store::MediaRow;
use crate::store::bulk::{Choice, PassageRow, Reading, Since};
use crate::telemetry::sanitize;
use rows::{Of, item_row, passage_row, segment_row, word_rows};

/// Bytes collected before standard output is written to.
const BUFFER: usize = 1 << 16;

/// What is to be written, and where; told apart from what does not go together.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Named items; empty: all that the choice lets pass.
    media: Vec<String>,
    choice: Choice,
    work: Work,
    target: Target,
}

#[derive(Clone, Debug)]
enum Work {
    Documents(Format),
    Tables { form: Form, kinds: Vec<Rows>, vectors: bool },
}

#[derive(Clone, Debug)]
enum Target {
    Stdout,
    File(PathBuf),
    Folder(PathBuf),
}

impl Plan {
    /// Reads the arguments.
    ///
    /// # Errors
    /// Where they contradict each other: what to write instead.
    pub fn read(args: &ExportArgs) -> anyhow::Result<Self> {
        let several = args.all || args.media.len() > 1;
        let filtered = !args.channel.is_empty() || !args.language.is_empty();
        if !args.all && (filtered || args.after.is_some() || args.before.is_some()) {
            bail!("--channel, --after, --before and --language choose among everything: they go with --all");
        }
        let named_folder = |path: &Path| path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/");
        let (work, target) = match args.product() {
            Product::Document(format) => {
                if args.rows.is_some() || args.vectors {
                    bail!("{format} has no rows: --rows and --vectors are for csv, jsonl and parquet");
                }
                let target = match &args.output {
                    None if several => {
                        bail!(
                            "several items make several {format} files: name a folder for them with --output"
                        )
                    }
                    None => Target::Stdout,
                    Some(path) if several || named_folder(path) => Target::Folder(path.clone()),
                    Some(path) => Target::File(path.clone()),
                };
                (Work::Documents(format), target)
            }
            Product::Table(form) => {
                let target = match &args.output {
                    None if form == Form::Parquet && io::stdout().is_terminal() => {
                        bail!("parquet is nothing for a terminal: name a file with --output")
                    }
                    None => Target::Stdout,
                    Some(path) if named_folder(path) => Target::Folder(path.clone()),
                    Some(path) => Target::File(path.clone()),
                };
                let kinds = match (args.rows, &target) {
                    (Some(kind), _) => vec![kind.into()],
                    (None, Target::Folder(_)) => Rows::ALL.to_vec(),
                    (None, _) => vec![Rows::Segments],
                };
                if args.vectors && !(kinds.contains(&Rows::Passages) && form.nests()) {
                    bail!("vectors belong to passages, in jsonl or parquet: add --rows passages");
                }
                (Work::Tables { form, kinds, vectors: args.vectors }, target)
            }
        };
        let choice = Choice {
            media: Vec::new(),
            channels: args.channel.clone(),
            after: args.after.map(since),
            before: args.before.map(since),
            languages: args.language.iter().map(|code| code.trim().to_lowercase()).collect(),
            whole_items: matches!(work, Work::Documents(_)),
        };
        Ok(Self { media: args.media.clone(), choice, work, target })
    }
}

fn since(day: Day) -> Since {
    match day {
        Day::Day(day) => Since::Day(day),
        Day::Ago(while_ago) => Since::Ago(while_ago.as_secs_f64()),
    }
}

/// `spoken export --schema`.
///
/// # Errors
/// Standard output's.
pub fn schema(args: &ExportArgs) -> anyhow::Result<u8> {
    let schema = match args.product() {
        Product::Document(_) => export::TRANSCRIPT_SCHEMA,
        Product::Table(_) => export::ROWS_SCHEMA,
    };
    io::stdout().lock().write_all(schema.as_bytes())?;
    Ok(EXIT_OK)
}

/// `spoken export`.
///
/// # Errors
/// Where an item is not known, not unique or not done, the database's, or the output's.
pub async fn export(world: &World, mut plan: Plan) -> anyhow::Result<u8> {
    for what in &plan.media {
        let row = the_one(&world.store, what).await?;
        // What is done again is still there as it was.
        if row.segments.is_none() {
            bail!("{} is {}, there is no transcript to export yet", sanitize(&row.title), row.state.as_str());
        }
        plan.choice.media.push(row.media_id);
    }
    if let Target::Folder(folder) = &plan.target {
        std::fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
    }
    let reading = world.store.read_all(plan.choice.clone()).await?;
    let backend = reading.backend();
    let written = async {
        match &plan.work {
            Work::Documents(format) => documents(reading, *format, &plan.target).await,
            Work::Tables { form, kinds, vectors } => {
                tables(reading, *form, kinds, *vectors, &plan.target).await
            }
        }
    };
    if matches!(plan.target, Target::Stdout) {
        written.await?;
        return Ok(EXIT_OK);
    }
    tokio::select! {
        // What is begun is dropped, and takes its unfinished file with it.
        _ = tokio::signal::ctrl_c() => {
            if let Err(error) = world.store.stop_reading(backend).await {
                tracing::debug!(%error, "failed to end what the database was doing");
            }
            eprintln!("stopped; no file was left half written");
            Ok(EXIT_INTERRUPTED)
        }
        written = written => {
            let Written { items, rows } = written?;
            let item = if items == 1 { "item" } else { "items" };
            let of = if rows > 0 { format!("{rows} rows of ") } else { String::new() };
            eprintln!("{of}{items} {item} written");
            Ok(EXIT_OK)
        }
    }
}

/// How much it was.
#[derive(Clone, Copy, Debug, Default)]
struct Written {
    items: u64,
    rows: u64,
}

/// Standard output, or a file that appears when it is whole.
enum Out {
    Stdout(BufWriter<Stdout>),
    File(OutputFile, PathBuf),
}

impl Out {
    fn open(target: &Target, name: impl FnOnce() -> String) -> anyhow::Result<Self> {
        let path = match target {
            Target::Stdout => return Ok(Self::Stdout(BufWriter::with_capacity(BUFFER, io::stdout()))),
            Target::File(path) => path.clone(),
            Target::Folder(folder) => folder.join(name()),
        };
        let file =
            OutputFile::create(&path).with_context(|| format!("failed to write {}", path.display()))?;
        Ok(Self::File(file, path))
    }

    fn finish(self) -> anyhow::Result<()> {
        match self {
            Self::Stdout(mut out) => Ok(out.flush()?),
            Self::File(file, path) => {
                file.finish().with_context(|| format!("failed to write {}", path.display()))
            }
        }
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(out) => out.write(bytes),
            Self::File(file, _) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(out) => out.flush(),
            Self::File(file, _) => file.flush(),
        }
    }
}

async fn documents(mut reading: Reading, format: Format, target: &Target) -> anyhow::Result<Written> {
    let mut written = Written::default();
    loop {
        let page = reading.page().await?;
        if page.is_empty() {
            return Ok(written);
        }
        for row in &page {
            let name = || format!("{}.{format}", export::file_stem(&row.title, row.media_id.0));
            document(&mut reading, row, format, Out::open(target, name)?).await?.finish()?;
            written.items += 1;
        }
    }
}

async fn document(reading: &mut Reading, row: &MediaRow, format: Format, out: Out) -> anyhow::Result<Out> {
    let row_alone = std::slice::from_ref(row);
    let heading = Heading {
        media_id: row.media_id,
        source: row.address().to_owned(),
        title: row.title.clone(),
        channel: row.channel.clone(),
        published_at: row.published_at,
        language: row.language.clone(),
        duration_ms: row.duration_ms,
        model: row.model.clone(),
        locator: row.locator.clone(),
    };
    let mut exporter = Exporter::start(format, &heading, out)?;
    if format == Format::Md {
        exporter.topics(topics(reading, row_alone).await?);
    }
    if format == Format::Json {
        exporter.account(row.coverage.clone(), reading.dropped(row.media_id).await?);
    }
    let mut segments =
        reading.segments(row_alone, matches!(format, Format::Srt | Format::Vtt | Format::Json));
    while let Some((_, _, segment)) = segments.try_next().await? {
        exporter.segment(&segment)?;
    }
    Ok(exporter.finish()?)
}

async fn topics(reading: &mut Reading, item: &[MediaRow]) -> anyhow::Result<Vec<Topic>> {
    let mut topics = Vec::new();
    let mut passages = reading.passages(item, true).await?;
    while let Some(PassageRow { passage, vector, .. }) = passages.try_next().await? {
        if !vector.is_empty() {
            topics.push(Topic { start_ms: passage.start_ms, end_ms: passage.end_ms, vector });
        }
    }
    Ok(topics)
}

/// The tables in the making; at least one.
struct Tables {
    open: Vec<(Rows, TableWriter<Out>)>,
    rows: u64,
}

impl Tables {
    /// Writes a row where such rows are wanted.
    fn row(&mut self, kind: Rows, cells: &[Cell<'_>]) -> io::Result<()> {
        for (_, writer) in self.open.iter_mut().filter(|(open, _)| *open == kind) {
            writer.row(cells)?;
            self.rows += 1;
        }
        Ok(())
    }

    fn wants(&self, kind: Rows) -> bool {
        self.open.iter().any(|(open, _)| *open == kind)
    }
}

async fn tables(
    mut reading: Reading,
    form: Form,
    kinds: &[Rows],
    vectors: bool,
    target: &Target,
) -> anyhow::Result<Written> {
    let mut tables = Tables { open: Vec::new(), rows: 0 };
    for kind in kinds {
        let out = Out::open(target, || format!("{}.{form}", kind.as_str()))?;
        tables.open.push((*kind, TableWriter::start(form, *kind, out)?));
    }
    let mut items = 0;
    loop {
        let page = reading.page().await?;
        if page.is_empty() {
            break;
        }
        items += page.len() as u64;
        let of: HashMap<MediaId, Of<'_>> = page.iter().map(|row| (row.media_id, Of::new(row))).collect();
        if tables.wants(Rows::Items) {
            for row in &page {
                item_row(&mut tables, &of[&row.media_id])?;
            }
        }
        let words = tables.wants(Rows::Words);
        if words || tables.wants(Rows::Segments) {
            let mut segments = reading.segments(&page, words || form.nests());
            while let Some((media_id, seq, segment)) = segments.try_next().await? {
                let Some(of) = of.get(&media_id) else { continue };
                segment_row(&mut tables, of, seq, &segment)?;
                if words {
                    word_rows(&mut tables, of, seq, &segment)?;
                }
            }
        }
        if tables.wants(Rows::Passages) {
            let mut passages = reading.passages(&page, vectors).await?;
            while let Some(passage) = passages.try_next().await? {
                let Some(of) = of.get(&passage.media_id) else { continue };
                passage_row(&mut tables, of, &passage)?;
            }
        }
    }
    for (_, writer) in tables.open {
        writer.finish()?.finish()?;
    }
    Ok(Written { items, rows: tables.rows })
}
