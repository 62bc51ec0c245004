//! Text by the encoder and the decoder of our own; the runtime only aligns words.

use ct2rs::sys::{Device as Ct2Device, StorageView};

use super::{Ct2Whisper, Decoded, failed};
use crate::transcribe::{
    decoder::{self, Decoder, Text},
    encoder::Encoder,
    engine::{DecodeOptions, EngineError, Input, WindowText},
    mel::FRAMES,
};

/// Windows whose words are aligned at once: for every token of each, the runtime holds some numbers for every token of the
/// vocabulary, which comes to 100 MB for a full window.
const ALIGNED_AT_ONCE: usize = 1;

/// Both of them.
pub(super) struct Own {
    pub(super) encoder: Encoder,
    pub(super) decoder: Decoder,
}

impl Ct2Whisper {
    /// As [`transcribe`](crate::transcribe::Engine::transcribe). Prompts may be of different lengths.
    pub(super) fn transcribe_own(
        &self,
        own: &Own,
        batch: &[Input<'_>],
        temperature: f32,
        options: &DecodeOptions,
    ) -> Result<Vec<WindowText>, EngineError> {
        let mut features = own.encoder.encode(&self.spectrograms(batch)?, self.threads);
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
                let prompt = self.vocabulary.ids(&self.prompt(window, language, options));
                prompt.into_iter().map(|id| id as u32).collect()
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
        drop(listened);
        let decoded: Vec<Decoded> = decoded.into_iter().map(Decoded::from).collect();
        let mut texts = self.texts(&decoded, languages, temperature);
        if options.word_times && texts.iter().any(|text| !text.segments.is_empty()) {
            let (frames, width) = (FRAMES / 2, own.encoder.width());
            let tokens: Vec<Vec<usize>> = decoded.into_iter().map(|d| d.tokens).collect();
            let parts = batch
                .chunks(ALIGNED_AT_ONCE)
                .zip(features.chunks_mut(ALIGNED_AT_ONCE * frames * width))
                .zip(tokens.chunks(ALIGNED_AT_ONCE))
                .zip(texts.chunks_mut(ALIGNED_AT_ONCE));
            for (((batch, features), tokens), texts) in parts {
                let shape = [batch.len(), frames, width];
                let encoded = StorageView::new(&shape, features, Ct2Device::CPU).map_err(failed)?;
                self.add_words(batch, &encoded, tokens, texts, options)?;
            }
        }
        Ok(texts)
    }
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
    use crate::transcribe::{Engine, Kernels, LogMel, Sound, TimedText, TranscribeOptions, ct2::load};

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
