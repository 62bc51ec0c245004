//! What a decoder is told, and what it gives.

/// The tokens that steer a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Special {
    /// `<|startoftranscript|>`.
    pub start: u32,
    /// `<|endoftext|>`; every lower id is text.
    pub end: u32,
    /// `<|nospeech|>`, in older vocabularies `<|nocaptions|>`.
    pub no_speech: u32,
    /// `<|notimestamps|>`; every higher id is a time, `<|0.00|>` first.
    pub no_timestamps: u32,
    /// Tokens of the languages.
    pub languages: Vec<u32>,
    /// Tokens that never come.
    pub suppressed: Vec<u32>,
    /// Tokens that do not come first.
    pub suppressed_first: Vec<u32>,
}

/// How text is decoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Hypotheses that are followed at temperature 0; 1 is greedy search.
    pub beams: usize,
    /// The search ends when this times `beams` hypotheses are complete.
    pub patience: f32,
    /// Exponent of the length by which a hypothesis' log-probability is divided.
    pub length_penalty: f32,
    /// What the logit of a token already said is divided by.
    pub repetition_penalty: f32,
    /// Sequences of so many tokens may not occur twice; 0 allows all.
    pub no_repeat_ngram: usize,
    /// The latest that the first segment may begin, in timestamp tokens.
    pub max_initial_timestamp: usize,
    /// 0, or texts are drawn with the logits divided by this.
    pub temperature: f32,
    /// Texts that are drawn of each window; the most probable counts.
    pub samples: usize,
}

impl Default for Options {
    /// Greedy search.
    fn default() -> Self {
        Self {
            beams: 1,
            patience: 1.0,
            length_penalty: 1.0,
            repetition_penalty: 1.0,
            no_repeat_ngram: 0,
            max_initial_timestamp: 50,
            temperature: 0.0,
            samples: 1,
        }
    }
}

/// A text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Text {
    /// Its tokens, without the end of text.
    pub tokens: Vec<u32>,
    /// Sum of their log-probabilities and the end's.
    pub sum: f32,
    /// Probability that nobody speaks.
    pub no_speech: f32,
}

/// A head of the decoder: its layer, and its number there.
pub type Head = (usize, usize);

/// A text that is looked up in its window.
#[derive(Clone, Debug)]
pub struct Reading<'a> {
    /// The window's number.
    pub window: usize,
    /// The tokens before it: the start of the transcript, and what is to be done.
    pub task: &'a [u32],
    /// Its tokens, all of them text.
    pub text: &'a [u32],
    /// Frames of 20 ms with sound.
    pub frames: usize,
}
