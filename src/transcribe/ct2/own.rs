//! Text by the encoder and the decoder of our own; the runtime only aligns words.

use ct2rs::sys::{Device as Ct2Device, StorageView};

use super::{Ct2Whisper, Decoded, failed};
use crate::transcribe::{
    decoder::{self, Decoder, Text},
    encoder::Encoder,
    engine::{DecodeOptions, EngineError, Input, WindowText},
    mel::FRAMES,
};

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
            let shape = [batch.len(), FRAMES / 2, own.encoder.width()];
            let encoded = StorageView::new(&shape, &mut features, Ct2Device::CPU).map_err(failed)?;
            let tokens: Vec<Vec<usize>> = decoded.into_iter().map(|d| d.tokens).collect();
            self.add_words(batch, &encoded, &tokens, &mut texts, options)?;
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
