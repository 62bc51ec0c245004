//! What the commands take that need no library: `transcribe` and `bench`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::export::TranscriptFormat;

/// What `spoken transcribe --help` says first.
pub(super) const TRANSCRIBE: &str = "\
Turns files into text or subtitles. No database is used; all files go through one model together, as in `spoken ingest`. \
The text goes to standard output, in the order of the files, progress to standard error. What the model has finished stays \
in the data directory for a while, so that a run that was broken off goes on where it was.";

/// What `spoken bench --help` says first.
pub(super) const BENCH: &str = "\
Runs the media in SOURCE, from files to text and without a database, through every combination of the values given, each in \
a process of its own, and prints for each how fast it is, what memory it takes, how busy the model was and, where the truth \
is known, its word error rate. Recommends the fastest of those that hear as well as the best and fit the memory.

The truth of talk.mp3 is looked for beside it and in ../truth: talk.mp3.json or talk.json with \
{\"sentences\": [{\"text\"}]} (or \"segments\"), talk.txt, talk.srt or talk.vtt.

Without a SOURCE, audio is made: babble with the rhythm and the tones of a voice but without words. It measures speed, and \
only roughly: what a model writes of it is nonsense, shorter or longer than real text would be.";

/// Arguments of `spoken transcribe`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  spoken transcribe talk.mp4 > talk.txt
  spoken transcribe ~/Videos --format srt --output-dir subtitles
  spoken transcribe *.mp3 --format json | jq -r '.segments[].text'

Exit codes: 0 all done, 1 some files failed, 2 wrong usage or configuration, 3 not possible for now, 130 interrupted")]
pub struct TranscribeArgs {
    /// Files, and folders searched with all below them
    #[arg(value_name = "SOURCE", required = true, value_hint = ValueHint::AnyPath)]
    pub sources: Vec<PathBuf>,

    /// Form of the transcripts
    #[arg(short, long, value_name = "FORMAT", default_value = "txt")]
    pub format: TranscriptFormat,

    /// Write one file for each into DIR, named as the medium, instead of to standard output
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub output_dir: Option<PathBuf>,

    /// Language spoken, such as en or de; auto finds it out [env: WHISPER_LANGUAGE]
    #[arg(short, long, value_name = "CODE")]
    pub language: Option<String>,

    /// Write what is said in its own language, or in English: transcribe, translate [env: WHISPER_TASK]
    #[arg(long, value_name = "TASK")]
    pub task: Option<String>,

    /// What runs the model: ct2, whisper-cpp [env: WHISPER_ENGINE]
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<String>,

    /// Whisper model: a name such as small or large-v3-turbo, or a path [env: WHISPER_MODEL]
    #[arg(short, long, value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    pub model: Option<String>,

    /// How much time accuracy is worth: fast, balanced, quality [env: WHISPER_PROFILE]
    #[arg(long, value_name = "LEVEL")]
    pub quality: Option<String>,

    /// Beams of the search: auto or a number; 1 is fastest [env: BEAM_SIZE]
    #[arg(long, value_name = "N")]
    pub beam_size: Option<String>,
}

/// Arguments of `spoken bench`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  spoken bench talks/ --model tiny,base,small --beam-size 1,5
  spoken bench talks/ --parallel-models 1,2 --batch-size 1,2,4 --rounds 5
  spoken bench talks/ --vary chunk_length=15,30 --vary vad_threshold=0.3,0.5 --json
  spoken bench --compute int8,float32                no media at hand: made audio

Exit codes: 0 all ran, 1 a configuration or a file failed, 2 wrong usage or configuration")]
pub struct BenchArgs {
    /// Files, and folders searched with all below them; none: made audio
    #[arg(value_name = "SOURCE", value_hint = ValueHint::AnyPath)]
    pub sources: Vec<PathBuf>,

    /// Models to compare: names or directories
    #[arg(short, long, value_name = "MODEL,…", value_delimiter = ',', help_heading = "Configurations")]
    pub model: Vec<String>,

    /// Number formats to compare, such as int8,float32
    #[arg(long, value_name = "FORMAT,…", value_delimiter = ',', help_heading = "Configurations")]
    pub compute: Vec<String>,

    /// Numbers of replicas of the model to compare
    #[arg(long, value_name = "N,…", value_delimiter = ',', help_heading = "Configurations")]
    pub parallel_models: Vec<String>,

    /// Numbers of windows in one call of the model to compare
    #[arg(long, value_name = "N,…", value_delimiter = ',', help_heading = "Configurations")]
    pub batch_size: Vec<String>,

    /// Numbers of beams to compare
    #[arg(long, value_name = "N,…", value_delimiter = ',', help_heading = "Configurations")]
    pub beam_size: Vec<String>,

    /// Profiles of transcription to compare, such as fast,balanced
    #[arg(
        long,
        visible_alias = "quality",
        value_name = "NAME,…",
        value_delimiter = ',',
        help_heading = "Configurations"
    )]
    pub whisper_profile: Vec<String>,

    /// Numbers of threads that find speech to compare (ASR_WORKERS)
    #[arg(
        long,
        visible_alias = "asr-workers",
        value_name = "N,…",
        value_delimiter = ',',
        help_heading = "Configurations"
    )]
    pub workers: Vec<String>,

    /// Values of any other setting to compare; may be repeated
    #[arg(long, value_name = "KEY=V1,V2,…", value_parser = varied, help_heading = "Configurations")]
    pub vary: Vec<(String, Vec<String>)>,

    /// Run everything N times and take the median
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,

    /// Look for the truth in DIR
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, requires = "sources")]
    pub truth: Option<PathBuf>,

    /// Make N minutes of audio where there is no SOURCE
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub minutes: u32,

    /// Print JSON, one object a configuration
    #[arg(long)]
    pub json: bool,

    /// With --json: the files' transcripts as well
    #[arg(long, requires = "json")]
    pub texts: bool,

    /// Run the one configuration of this process, as standard input asks
    #[arg(long, hide = true)]
    pub child: bool,
}

impl BenchArgs {
    /// What is varied, in the order of the flags above: keys and values as typed.
    pub fn varied(&self) -> Vec<(String, Vec<String>)> {
        let flags = [
            ("whisper_model", &self.model),
            ("whisper_compute", &self.compute),
            ("whisper_parallel_models", &self.parallel_models),
            ("whisper_batch_size", &self.batch_size),
            ("whisper_profile", &self.whisper_profile),
            ("beam_size", &self.beam_size),
            ("asr_workers", &self.workers),
        ];
        let mut all: Vec<_> = flags
            .iter()
            .filter(|(_, v)| !v.is_empty())
            .map(|(key, v)| ((*key).to_owned(), (*v).clone()))
            .collect();
        all.extend(self.vary.iter().cloned());
        all
    }
}

fn varied(text: &str) -> Result<(String, Vec<String>), String> {
    let wrong = || "write KEY=VALUE,VALUE, as in --vary chunk_length=15,30".to_owned();
    let (key, values) = text.split_once('=').ok_or_else(wrong)?;
    let values: Vec<String> =
        values.split(',').map(|v| v.trim().to_owned()).filter(|v| !v.is_empty()).collect();
    if key.trim().is_empty() || values.is_empty() {
        Err(wrong())
    } else {
        Ok((key.trim().to_owned(), values))
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::{Cli, Command};

    #[test]
    fn configurations_are_read() {
        let line = "spoken bench a b --model tiny,base --workers 1 --vary chunk_length=15,30 --rounds 5";
        let Command::Bench(args) = Cli::try_from(line.split(' ')).unwrap().command else { panic!() };
        let varied: Vec<String> = args.varied().iter().map(|(k, v)| format!("{k}={}", v.join("|"))).collect();
        assert_eq!(varied, ["whisper_model=tiny|base", "asr_workers=1", "chunk_length=15|30"]);
        assert_eq!((args.sources.len(), args.rounds), (2, 5));
        for wrong in
            ["bench --vary x", "bench --vary x=,", "bench --rounds 0", "bench --texts", "bench --truth x"]
        {
            let error = Cli::try_from(std::iter::once("spoken").chain(wrong.split(' '))).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{wrong}");
        }
    }
}
