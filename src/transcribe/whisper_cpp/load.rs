//! Finding a GGML model, deciding how to run it, and loading it.

use std::time::Instant;

use whisper_rs::{
    DtwMode, DtwModelPreset, DtwParameters, SystemInfo, WhisperContext, WhisperContextParameters,
};

use super::{MAX_DECODERS, WhisperCpp, file::Header, log, model, states::States, vocabulary::Vocabulary};
use crate::transcribe::{
    Download, TranscribeError, TranscribeOptions,
    ct2::cuda_devices,
    engine::{Fallback, Loaded},
    model::ModelDir,
    plan::{Compute, Device, Host, OnOutOfMemory, Plan},
};

/// Finds the model that `options` names, fetching it if need be, and loads it.
///
/// # Errors
/// See [`TranscribeError`]; each says what to change.
pub fn open(
    options: &TranscribeOptions,
    download: &mut dyn FnMut(Download),
) -> Result<Loaded, TranscribeError> {
    processor().map_err(TranscribeError::Load)?;
    log::capture();
    let dir = model::resolve(&options.model, &options.models_dir, download)?;
    let header = Header::read(&dir.path).map_err(TranscribeError::Load)?;
    let plan = plan(options, &header).map_err(TranscribeError::Device)?;
    let source = Source { dir, header, aligns: options.decode.word_times };
    let started = Instant::now();
    let engine = source.load(&plan).map_err(TranscribeError::Load)?;
    let plan = Plan { load_ms: started.elapsed().as_millis() as u64, ..plan };
    let identity =
        format!("whisper-cpp {} {} {}", source.dir.name, source.dir.weights_bytes, source.header.weights);
    let mut fallbacks = Vec::new();
    if options.wishes.on_out_of_memory == OnOutOfMemory::Cpu && plan.device == Device::Cuda {
        let plan = Plan { device: Device::Cpu, replicas: 1, ..plan.clone() };
        fallbacks.push(Fallback {
            label: format!("cpu {}", source.header.weights),
            load: Box::new(move || Ok(Box::new(source.load(&plan)?) as _)),
        });
    }
    Ok(Loaded { engine: Box::new(engine), plan, identity, fallbacks })
}

/// whisper.cpp is compiled for one kind of processor, and dies on an older one.
fn processor() -> Result<(), String> {
    #[cfg(target_arch = "x86_64")]
    {
        let built = SystemInfo::default();
        let needs = [
            ("avx", built.avx, std::is_x86_feature_detected!("avx")),
            ("avx2", built.avx2, std::is_x86_feature_detected!("avx2")),
            ("fma", built.fma, std::is_x86_feature_detected!("fma")),
            ("f16c", built.f16c, std::is_x86_feature_detected!("f16c")),
        ];
        let lacking: Vec<&str> =
            needs.into_iter().filter(|(_, built, here)| *built && !here).map(|(name, ..)| name).collect();
        if !lacking.is_empty() {
            return Err(format!(
                "this binary's whisper.cpp needs a processor with {}, which this machine's has not; WHISPER_ENGINE=ct2 does \
                 without, or build with GGML_AVX2=OFF",
                lacking.join(", ")
            ));
        }
    }
    Ok(())
}

/// How to run it: as for any engine, but one window at a time, in the precision of the file.
fn plan(options: &TranscribeOptions, header: &Header) -> Result<Plan, String> {
    // It puts a model on one GPU.
    let host = Host::survey(cuda_devices().min(1));
    let mut plan = Plan::new(&options.wishes, &host, &header.shape, &options.decode)?;
    plan.batch_size = 1;
    plan.feeders = plan.replicas;
    plan.reasons.retain(|reason| !reason.starts_with("batches of"));
    plan.reasons
        .push("whisper.cpp works on one window at a time: replicas, not batches, keep it busy".to_owned());
    plan.compute = match header.weights {
        "f32" => Compute::Float32,
        "f16" => Compute::Float16,
        // Quantised weights meet activations of eight bits.
        _ => Compute::Int8,
    };
    plan.reasons.push(format!(
        "weights are {}, as the file has them; WHISPER_COMPUTE has no say in that",
        header.weights
    ));
    if options.decode.beam_size.max(options.decode.best_of) > MAX_DECODERS {
        plan.reasons.push(format!("whisper.cpp follows {MAX_DECODERS} hypotheses at most"));
    }
    Ok(plan)
}

/// A model that may be loaded more than once.
struct Source {
    dir: ModelDir,
    header: Header,
    /// With what word times need.
    aligns: bool,
}

impl Source {
    fn load(&self, plan: &Plan) -> Result<WhisperCpp, String> {
        let told = |error: &dyn std::fmt::Display| {
            let why = log::last_error().unwrap_or_else(|| error.to_string());
            format!("cannot load {}: {why}", self.dir.path.display())
        };
        let mut parameters = WhisperContextParameters::default();
        parameters.use_gpu(plan.device == Device::Cuda);
        if self.aligns {
            parameters.dtw_parameters(DtwParameters {
                mode: self.alignment(),
                dtw_mem_size: self.alignment_bytes(),
            });
        }
        let context = WhisperContext::new_with_params(&self.dir.path, parameters).map_err(|e| told(&e))?;
        let states = States::new(&context, plan.replicas).map_err(|e| told(&e))?;
        let multilingual = context.is_multilingual();
        let vocabulary = Vocabulary::new(&context).map_err(|e| told(&e))?;
        let languages = if multilingual { vocabulary.languages(&context) } else { vec!["en".to_owned()] };
        Ok(WhisperCpp {
            name: self.dir.name.clone(),
            context,
            states,
            vocabulary,
            languages,
            multilingual,
            threads: plan.threads,
            aligns: self.aligns,
        })
    }

    /// The attention heads that follow the speech. They are known for OpenAI's models, which are told by their sizes (two
    /// of equal size by their name); for others, all heads of the upper half of the layers, as OpenAI does.
    fn alignment(&self) -> DtwMode<'static> {
        let shape = &self.header.shape;
        let english = self.header.n_vocab == 51_864;
        let preset = match (shape.d_model, shape.encoder_layers, shape.decoder_layers) {
            (384, 4, 4) if english => DtwModelPreset::TinyEn,
            (384, 4, 4) => DtwModelPreset::Tiny,
            (512, 6, 6) if english => DtwModelPreset::BaseEn,
            (512, 6, 6) => DtwModelPreset::Base,
            (768, 12, 12) if english => DtwModelPreset::SmallEn,
            (768, 12, 12) => DtwModelPreset::Small,
            (1024, 24, 24) if english => DtwModelPreset::MediumEn,
            (1024, 24, 24) => DtwModelPreset::Medium,
            (1280, 32, 32) if self.header.n_mels == 128 => DtwModelPreset::LargeV3,
            (1280, 32, 32) if self.dir.name.contains("v1") => DtwModelPreset::LargeV1,
            (1280, 32, 32) => DtwModelPreset::LargeV2,
            (1280, 32, 4) if self.header.n_mels == 128 => DtwModelPreset::LargeV3Turbo,
            _ => return DtwMode::TopMost { n_top: self.top_layers() as i32 },
        };
        DtwMode::ModelPreset { model_preset: preset }
    }

    fn top_layers(&self) -> usize {
        self.header.shape.decoder_layers.div_ceil(2)
    }

    /// Memory for the alignment of one window, which whisper.cpp wants to be told and ends the process over if it is too
    /// small: three copies of the attention of all heads over all tokens, the path's two tables, and its graph.
    fn alignment_bytes(&self) -> usize {
        // No preset has more than 23 heads.
        let heads = (self.top_layers() * self.header.text_heads).max(24);
        let matrix = 4 * 1500 * 256;
        (4 * heads + 8) * matrix + (16 << 20)
    }
}
