//! `spoken transcribe`: files to text, in no library.

use std::fs;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use tokio_util::sync::CancellationToken;

use super::offline::{Heard, Offline, media_id, media_in, title};
use crate::cli::TranscribeArgs;
use crate::config::Config;
use crate::event::{Event, Events, RunSummary};
use crate::export::{self, Format, Heading, OutputFile};
use crate::media::{Locator, Transcript};
use crate::transcribe::WindowCounts;

/// Transcribes what was named and writes it out as each file is finished, in the order named. Blocks.
///
/// # Errors
/// Paths that are not there, a model that cannot be loaded, an output that cannot be written. What is wrong with a single file
/// is in the summary.
pub fn transcribe(
    config: &Config,
    args: &TranscribeArgs,
    events: &Events,
    cancel: &CancellationToken,
) -> anyhow::Result<RunSummary> {
    let started = Instant::now();
    let files = media_in(&args.sources)?;
    let format = Format::from(args.format);
    if files.is_empty() {
        bail!("there is no media in what was named");
    }
    if files.len() > 1
        && args.output_dir.is_none()
        && matches!(format, Format::Srt | Format::Vtt | Format::Md)
    {
        bail!(
            "{} files make {} separate {format} files: name a folder for them with --output-dir",
            files.len(),
            files.len()
        );
    }
    if let Some(folder) = &args.output_dir {
        check_names(&files, folder, format)?;
        fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
    }
    for path in &files {
        events.send(Event::ItemQueued { media_id: media_id(path), title: title(path) });
    }
    let offline = Offline::start(config, &config.data_dir, events)?;
    let mut written = Ok(());
    let several = files.len() > 1;
    let stop = cancel.child_token();
    offline.run(&files, events, &stop, &mut |heard| {
        if written.is_ok() {
            let path = &files[heard.index];
            if stop.is_cancelled() && heard.result.is_err() {
                // Broken off, which is no fault of the file.
                let (media_id, title) = (media_id(path), title(path));
                events.send(Event::ItemSkipped {
                    media_id,
                    title,
                    reason: "stopped before its end".to_owned(),
                });
                return;
            }
            written = hand_out(path, heard, format, args.output_dir.as_deref(), several, events);
            if written.is_err() {
                // Nobody reads any more, or the disk is full: the rest would be for nothing.
                stop.cancel();
            }
        }
    });
    written?;
    let WindowCounts { windows, known } = offline.windows();
    tracing::info!(windows, known, "{windows} windows, {known} of them kept from an earlier run");
    Ok(RunSummary {
        wall_ms: started.elapsed().as_millis() as u64,
        stages: offline.stages(),
        windows,
        windows_known: known,
        interrupted: cancel.is_cancelled(),
        ..events.tally()
    })
}

/// Writes a transcript where it belongs, or tells why there is none.
fn hand_out(
    path: &Path,
    heard: Heard,
    format: Format,
    folder: Option<&Path>,
    several: bool,
    events: &Events,
) -> anyhow::Result<()> {
    let (id, name) = (media_id(path), title(path));
    match heard.result {
        Ok(transcript) => {
            let (audio_ms, segments) = (transcript.duration_ms, transcript.segments.len());
            let flags = transcript.coverage.flags.clone();
            match folder {
                Some(folder) => write_file(&output(path, folder, format), path, transcript, format)?,
                None => {
                    let mut out = io::stdout().lock();
                    if several && format == Format::Txt {
                        // As `head` and `tail` tell files apart.
                        writeln!(out, "==> {} <==", crate::telemetry::sanitize(&path.to_string_lossy()))?;
                    }
                    export::write(format, &heading(path, &transcript), transcript, BufWriter::new(&mut out))?;
                    if several && format == Format::Txt {
                        writeln!(out)?;
                    }
                }
            }
            if !flags.is_empty() {
                events.send(Event::ItemFlagged { media_id: id, title: name.clone(), flags });
            }
            let took_ms = heard.took.as_millis() as u64;
            events.send(Event::ItemFinished { media_id: id, title: name, audio_ms, segments, took_ms });
        }
        Err(failure) => events.send(Event::ItemFailed {
            media_id: id,
            title: name,
            source: path.display().to_string(),
            class: failure.class,
            message: failure.message,
            remedy: failure.remedy,
        }),
    }
    Ok(())
}

fn heading(path: &Path, transcript: &Transcript) -> Heading {
    Heading {
        media_id: media_id(path),
        source: path.display().to_string(),
        title: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        channel: None,
        published_at: None,
        language: Some(transcript.language.clone()),
        duration_ms: Some(transcript.duration_ms),
        model: Some(transcript.model.clone()),
        locator: Locator::File(std::path::absolute(path).unwrap_or_else(|_| path.to_owned())),
    }
}

/// Writes a file that appears whole or not at all.
fn write_file(output: &Path, path: &Path, transcript: Transcript, format: Format) -> anyhow::Result<()> {
    OutputFile::create(output)
        .and_then(|file| export::write(format, &heading(path, &transcript), transcript, file))
        .and_then(OutputFile::finish)
        .with_context(|| format!("failed to write {}", output.display()))
}

/// `talk.mp3` becomes `talk.srt`.
fn output(path: &Path, folder: &Path, format: Format) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(".");
    name.push(format.as_str());
    folder.join(name)
}

/// Two files that would be written to one place are told before anything is done.
fn check_names(files: &[PathBuf], folder: &Path, format: Format) -> anyhow::Result<()> {
    let mut seen = std::collections::HashMap::new();
    for path in files {
        let to = output(path, folder, format);
        if files.contains(&to) {
            bail!("{} would be overwritten", to.display());
        }
        if let Some(other) = seen.insert(to.clone(), path) {
            bail!("{} and {} would both be written to {}", other.display(), path.display(), to.display());
        }
    }
    Ok(())
}

/// True where bars on stderr would be torn by the text on stdout.
pub(super) fn shares_the_terminal(args: &TranscribeArgs) -> bool {
    args.output_dir.is_none() && io::stdout().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_do_not_meet() {
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let folder = Path::new("out");
        assert_eq!(output(Path::new("a/talk.one.mp3"), folder, Format::Srt), folder.join("talk.one.srt"));
        assert!(check_names(&paths(&["a/x.mp3", "a/y.mp3"]), folder, Format::Txt).is_ok());
        let both = check_names(&paths(&["a/x.mp3", "b/x.ogg"]), folder, Format::Txt).unwrap_err();
        assert!(both.to_string().contains("both be written"), "{both}");
        let own = check_names(&paths(&["out/x.txt"]), folder, Format::Txt).unwrap_err();
        assert!(own.to_string().contains("overwritten"), "{own}");
    }
}
