//! Text by the encoder and the decoder of our own.

use std::sync::Once;

use super::{Ct2Whisper, Decoded};
use crate::transcribe::{
    decoder::{self, Decoder, Head, Listened, Reading, Text},
    encoder::Encoder,
    engine::{DecodeOptions, EngineError, Input, TIMESTAMP_MS, WindowText},
};

/// Both of them.
pub(super) struct Own {
    pub(super) encoder: Encoder,
    pub(super) decoder: Decoder,
    /// Heads of the decoder that look where a word is.
    pub(super) heads: Vec<Head>,
}

/// That words get no times is said once; it would be the same for every window.
static TOLD: Once = Once::new();

impl Ct2Whisper {
    /// As [`transcribe`](crate::transcribe::Engine::transcribe). Prompts may be of different lengths.
    pub(super) fn transcribe_own(
        &self,
        own: &Own,
        batch: &[Input<'_>],
        temperature: f32,
        options: &DecodeOptions,
    ) -> Result<Vec<WindowText>, EngineError> {
        let features = own.encoder.encode(&self.spectrograms(batch)?, self.threads);
        let listened = own.decoder.listen(&features, self.threads);
        let languages = self.languages_of(batch, &options.languages, |which| {
            let code = |(id, chance)| Some((self.vocabulary.language(id)?, chance));
            let ranked = listened.languages(which).into_iter();
            Ok(ranked.map(|ranked| ranked.into_iter().filter_map(code).collect()).collect())
        })?;
        let prompts: Vec<Vec<u32>> = batch
            .iter()
            .zip(&languages)
            .map(|(window, (language, _))| {
                narrow(self.vocabulary.ids(&self.prompt(window, language, options)))
            })
            .collect();
        let told = decoder::Options {
            beams: options.beam_size,
            patience: options.patience,
            length_penalty: options.length_penalty,
            repetition_penalty: options.repetition_penalty,
            no_repeat_ngram: options.no_repeat_ngram_size,
            max_initial_timestamp: options.max_initial_timestamp,
            temperature,
            samples: options.best_of,
        };
        let decoded = listened.texts(&prompts, &told).map_err(EngineError::Failed)?;
        let decoded: Vec<Decoded> = decoded.into_iter().map(Decoded::from).collect();
        let mut texts = self.texts(&decoded, languages, temperature);
        if options.word_times {
            self.align_own(&own.heads, &listened, batch, &decoded, &mut texts, options);
        }
        Ok(texts)
    }

    /// Adds words to the segments of `texts`, which were `decoded` from what was `listened` to. Where the model cannot say,
    /// segments keep their times and have no words.
    fn align_own(
        &self,
        heads: &[Head],
        listened: &Listened<'_>,
        batch: &[Input<'_>],
        decoded: &[Decoded],
        texts: &mut [WindowText],
        options: &DecodeOptions,
    ) {
        if heads.is_empty() {
            TOLD.call_once(|| {
                tracing::warn!(
                    model = self.name,
                    "words get no times: the model's config.json names no alignment_heads; a present converter writes them"
                );
            });
            return;
        }
        let inputs: Vec<(usize, Vec<u32>, Vec<u32>)> = texts
            .iter()
            .zip(decoded)
            .enumerate()
            .filter(|(_, (text, _))| !text.segments.is_empty())
            .map(|(nth, (text, decoded))| {
                let spoken = decoded.tokens.iter().copied().filter(|&token| self.vocabulary.is_text(token));
                let task = self.vocabulary.ids(&self.task(&text.language, options.task));
                (nth, narrow(task), narrow(spoken.collect()))
            })
            .collect();
        let frames = |nth: usize| (batch[nth].duration_ms / TIMESTAMP_MS) as usize;
        let readings: Vec<Reading<'_>> = inputs
            .iter()
            .map(|(nth, task, text)| Reading { window: *nth, task, text, frames: frames(*nth) })
            .collect();
        for ((nth, ..), alignment) in inputs.iter().zip(listened.align(&readings, heads)) {
            self.add_words(&batch[*nth], &decoded[*nth].tokens, &alignment, &mut texts[*nth]);
        }
    }
}

/// Ids as the decoder has them.
fn narrow(ids: Vec<usize>) -> Vec<u32> {
    ids.into_iter().map(|id| id as u32).collect()
}

impl From<Text> for Decoded {
    fn from(text: Text) -> Self {
        let tokens: Vec<usize> = text.tokens.iter().map(|&id| id as usize).collect();
        // OpenAI counts the end of text as one more token.
        let avg_logprob = text.sum / (tokens.len() + 1) as f32;
        Self { tokens, avg_logprob, no_speech_prob: text.no_speech }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::transcribe::{
        Engine, Kernels, LogMel, Sound, TimedText, TimedWord, TranscribeOptions, ct2::load,
    };

    /// Windows of speech: the recording of the fixtures, from different places on.
    fn windows() -> Vec<Sound> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/media/voice-memo.wav");
        let bytes = std::fs::read(path).unwrap();
        let data = bytes.windows(4).position(|w| w == b"data").unwrap() + 8;
        let samples: Vec<i16> = bytes[data..].as_chunks().0.iter().copied().map(i16::from_le_bytes).collect();
        let mel = LogMel::new(80);
        let window = |from: usize| {
            let mut out = Vec::new();
            mel.compute(&samples[from * 16_000..], &mut mel.scratch(), &mut out);
            Sound::LogMel(out)
        };
        [0, 6, 13, 20].map(window).to_vec()
    }

    fn engine(kernels: Kernels) -> Box<dyn Engine> {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/whisper-micro");
        let mut options =
            TranscribeOptions { model: model.display().to_string(), ..TranscribeOptions::default() };
        options.wishes.kernels = kernels;
        options.wishes.parallel_models = Some(1);
        load::open(&options, &mut |_| {}).unwrap().engine
    }

    #[test]
    fn texts_are_the_runtimes() {
        let (own, runtime) = (engine(Kernels::Auto), engine(Kernels::Engine));
        let windows = windows();
        let inputs: Vec<Input<'_>> = windows
            .iter()
            .enumerate()
            .map(|(n, sound)| Input {
                sound,
                duration_ms: 30_000,
                language: (n % 2 == 0).then_some("en"),
                previous: "",
                prompted: true,
            })
            .collect();
        let plain = DecodeOptions::default();
        let greedy = DecodeOptions { beam_size: 1, hotwords: "lunch, office".to_owned(), ..plain.clone() };
        let strict = DecodeOptions { repetition_penalty: 1.1, no_repeat_ngram_size: 3, ..greedy.clone() };
        for options in [plain, greedy, strict] {
            let decode = |engine: &dyn Engine| engine.transcribe(&inputs, 0.0, &options).unwrap();
            let (ours, theirs) = (decode(own.as_ref()), decode(runtime.as_ref()));
            let mut same = 0;
            for (a, b) in ours.iter().zip(&theirs) {
                assert_eq!(a.language, b.language);
                assert!((a.language_prob - b.language_prob).abs() < 0.02, "{a:?}\n{b:?}");
                assert!((a.no_speech_prob - b.no_speech_prob).abs() < 0.02, "{a:?}\n{b:?}");
                assert!((a.avg_logprob - b.avg_logprob).abs() < 0.05, "{a:?}\n{b:?}");
                // Neighbouring times are often as good as equal.
                let near =
                    |a: &TimedText, b: &TimedText| a.text == b.text && a.start_ms.abs_diff(b.start_ms) <= 60;
                let pairs = || a.segments.iter().zip(&b.segments);
                same += usize::from(a.segments.len() == b.segments.len() && pairs().all(|(a, b)| near(a, b)));
            }
            // The runtime's attention is in single precision: once in a while two words were as good as equal.
            assert!(same + 1 >= windows.len(), "{same} of {}: {ours:?}\n{theirs:?}", windows.len());
        }
    }

    #[test]
    fn words_are_where_the_runtime_finds_them() {
        let (own, runtime) = (engine(Kernels::Auto), engine(Kernels::Engine));
        let windows = windows();
        let inputs: Vec<Input<'_>> = windows
            .iter()
            .zip([30_000, 24_000, 17_000, 10_000])
            .map(|(sound, duration_ms)| Input {
                sound,
                duration_ms,
                language: Some("en"),
                previous: "",
                prompted: true,
            })
            .collect();
        let options = DecodeOptions { word_times: true, ..DecodeOptions::default() };
        let words = |engine: &dyn Engine| -> Vec<Vec<TimedWord>> {
            let texts = engine.transcribe(&inputs, 0.0, &options).unwrap();
            texts.into_iter().map(|t| t.segments.into_iter().flat_map(|s| s.words).collect()).collect()
        };
        let text = |words: &[TimedWord]| words.iter().map(|w| w.text.clone()).collect::<String>();
        let (ours, theirs) = (words(own.as_ref()), words(runtime.as_ref()));
        let same: Vec<_> = ours.iter().zip(&theirs).filter(|(a, b)| text(a) == text(b)).collect();
        assert!(same.len() + 1 >= windows.len(), "{ours:?}\n{theirs:?}");
        let pairs: Vec<_> = same.into_iter().flat_map(|(a, b)| a.iter().zip(b)).collect();
        assert!(pairs.len() > 40, "{pairs:?}");
        let near = |(a, b): &&(&TimedWord, &TimedWord)| {
            a.start_ms.abs_diff(b.start_ms) <= 40 && a.end_ms.abs_diff(b.end_ms) <= 40
        };
        let off = pairs.iter().filter(|pair| !near(pair)).count();
        assert!(off * 20 <= pairs.len(), "{off} of {}: {pairs:?}", pairs.len());
        for (a, b) in pairs {
            assert!((a.prob - b.prob).abs() < 0.1, "{a:?}\n{b:?}");
        }
    }

    #[test]
    fn chances_repeat_themselves_and_words_have_times() {
        let own = engine(Kernels::Auto);
        let windows = windows();
        let input = |n: usize, previous: &'static str| Input {
            sound: &windows[n],
            duration_ms: 30_000,
            language: None,
            previous,
            prompted: true,
        };
        let options = DecodeOptions { word_times: true, ..DecodeOptions::default() };
        // Different texts before them: prompts of different lengths.
        let batch = [input(0, ""), input(1, "About the lunch."), input(2, "")];
        let together = own.transcribe(&batch, 0.0, &options).unwrap();
        assert!(together.iter().all(|text| !text.segments.is_empty()), "{together:?}");
        assert!(together.iter().flat_map(|text| &text.segments).all(|s| !s.words.is_empty()), "{together:?}");
        let plain = DecodeOptions::default();
        let drawn = own.transcribe(&batch, 0.6, &plain).unwrap();
        let alone = own.transcribe(&batch[1..2], 0.6, &plain).unwrap();
        if engine_is_own() {
            assert_eq!(drawn[1], alone[0]);
        }
    }

    fn engine_is_own() -> bool {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/whisper-micro/model.bin");
        Decoder::suits(&crate::transcribe::shape::Shape::read(&model).unwrap())
    }
}
