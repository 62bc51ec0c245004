//! Finding a CTranslate2 model, deciding how to run it, and loading it.

use std::time::Instant;

use ct2rs::sys::{ComputeType, Config, Device as Ct2Device, LogLevel, Whisper, set_log_level};
use serde::Deserialize;

use super::{Arithmetic, Ct2Whisper, Own, Vocabulary, cuda_devices};
use crate::transcribe::{
    Download, TranscribeError, TranscribeOptions,
    decoder::{Decoder, Head, Special},
    encoder::Encoder,
    engine::{Fallback, Loaded},
    model::ModelDir,
    plan::{Compute, Device, Host, Kernels, OnOutOfMemory, Plan},
    shape::Shape,
    variables::Variables,
};

/// What is read of the model's `config.json`.
#[derive(Deserialize)]
struct ModelConfig {
    #[serde(default)]
    lang_ids: Vec<u32>,
    #[serde(default)]
    suppress_ids: Vec<u32>,
    #[serde(default)]
    suppress_ids_begin: Vec<u32>,
    #[serde(default)]
    alignment_heads: Vec<Head>,
}

impl ModelConfig {
    /// The tokens that steer the model; `None` where the vocabulary lacks one.
    fn special(&self, vocabulary: &Vocabulary) -> Option<Special> {
        Some(Special {
            start: vocabulary.id("<|startoftranscript|>")?,
            end: vocabulary.id("<|endoftext|>")?,
            no_speech: vocabulary.id("<|nospeech|>").or_else(|| vocabulary.id("<|nocaptions|>"))?,
            no_timestamps: vocabulary.id("<|notimestamps|>")?,
            languages: self.lang_ids.clone(),
            suppressed: self.suppress_ids.clone(),
            suppressed_first: self.suppress_ids_begin.clone(),
        })
    }
}

/// Finds the model that `options` names, fetching it if need be, and loads it.
///
/// # Errors
/// See [`TranscribeError`]; each says what to change.
pub fn open(
    options: &TranscribeOptions,
    download: &mut dyn FnMut(Download),
) -> Result<Loaded, TranscribeError> {
    let dir = options.engine.resolve(&options.model, &options.models_dir, download)?;
    let mut shape = Shape::read(&dir.path.join("model.bin")).map_err(TranscribeError::Load)?;
    let host = Host::survey(cuda_devices());
    let own = options.wishes.kernels == Kernels::Auto && Encoder::suits(&shape) && Decoder::suits(&shape);
    shape.own_kernels = own && in_bytes(options.wishes.compute);
    let mut plan =
        Plan::new(&options.wishes, &host, &shape, &options.decode).map_err(TranscribeError::Device)?;
    let started = Instant::now();
    let engine = load(&dir, &mut plan, own).map_err(TranscribeError::Load)?;
    plan.load_ms = started.elapsed().as_millis() as u64;
    let kernels = if matches!(engine.arithmetic, Arithmetic::Own(_)) { " own kernels" } else { "" };
    let identity = format!("ct2 {} {} {}{kernels}", dir.name, dir.weights_bytes, plan.compute);
    let fallbacks = fallbacks(options, &dir, &plan, own);
    Ok(Loaded { engine: Box::new(engine), plan, identity, fallbacks })
}

/// What to load instead when not even one window fits, as far as the configuration allows.
fn fallbacks(options: &TranscribeOptions, dir: &ModelDir, plan: &Plan, own: bool) -> Vec<Fallback> {
    let allowed = options.wishes.on_out_of_memory;
    let mut others = Vec::new();
    let other = |device: Device, compute: Compute| {
        let (dir, mut plan) = (dir.clone(), Plan { device, compute, replicas: 1, ..plan.clone() });
        Fallback {
            label: format!("{device} {compute}"),
            load: Box::new(move || Ok(Box::new(load(&dir, &mut plan, own)?) as _)),
        }
    };
    if allowed != OnOutOfMemory::Fail && plan.device == Device::Cuda && plan.compute != Compute::Int8 {
        others.push(other(Device::Cuda, Compute::Int8));
    }
    if allowed == OnOutOfMemory::Cpu && plan.device == Device::Cuda {
        others.push(other(Device::Cpu, Compute::Int8));
    }
    if allowed != OnOutOfMemory::Fail && plan.device == Device::Cpu && plan.compute != Compute::Int8 {
        others.push(other(Device::Cpu, Compute::Int8));
    }
    others
}

/// Whether the weights are bytes and everything else is in single precision: what our own kernels compute.
fn in_bytes(compute: Compute) -> bool {
    matches!(compute, Compute::Auto | Compute::Int8 | Compute::Int8Float32)
}

/// Loads the model in `dir` as `plan` says, and notes in `plan` the precision that was taken in the end. Errors name
/// the directory, or the precision that the device cannot do.
fn load(dir: &ModelDir, plan: &mut Plan, own: bool) -> Result<Ct2Whisper, String> {
    // Errors come back as errors; the runtime's own words on stderr would break progress bars.
    set_log_level(LogLevel::Critical);
    let vocabulary = Vocabulary::load(&dir.path)?;
    let config_path = dir.path.join("config.json");
    let config: ModelConfig = std::fs::read(&config_path)
        .map_err(|e| e.to_string())
        .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|e| e.to_string()))
        .map_err(|e| format!("{}: {e}", config_path.display()))?;
    let special = config.special(&vocabulary);
    let special = special.filter(|_| own && plan.device == Device::Cpu && in_bytes(plan.compute));
    let own = match special {
        Some(special) => load_own(dir, special, &config.alignment_heads)?,
        None => None,
    };
    let (arithmetic, multilingual, n_mels) = match own {
        Some(own) => {
            if plan.compute == Compute::Auto {
                plan.compute = Compute::Int8;
            }
            plan.reasons.push(
                "encoder and decoder are this program's own, since this processor multiplies bytes and bfloat16; \
                 WHISPER_KERNELS=engine takes CTranslate2's"
                    .to_owned(),
            );
            let (multilingual, bands) = (own.decoder.is_multilingual(), own.encoder.bands());
            (Arithmetic::Own(Box::new(own)), multilingual, bands)
        }
        None => {
            let whisper = load_weights(dir, plan)?;
            let (multilingual, bands) = (whisper.is_multilingual(), whisper.n_mels());
            (Arithmetic::Runtime(whisper), multilingual, bands)
        }
    };
    let languages = if multilingual { vocabulary.languages(&config.lang_ids) } else { vec!["en".to_owned()] };
    Ok(Ct2Whisper {
        name: dir.name.clone(),
        arithmetic,
        threads: plan.threads,
        vocabulary,
        languages,
        multilingual,
        n_mels,
    })
}

/// Loads the encoder and the decoder of our own, where both suit the model.
fn load_own(dir: &ModelDir, special: Special, heads: &[Head]) -> Result<Option<Own>, String> {
    let variables = Variables::open(&dir.path.join("model.bin"))?;
    let (encoder, decoder) = std::thread::scope(|scope| {
        let encoder = scope.spawn(|| Encoder::load(&variables));
        let decoder = Decoder::load(&variables, special);
        (encoder.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), decoder)
    });
    let (Some(encoder), Some(decoder)) = (encoder?, decoder?) else { return Ok(None) };
    let heads = heads.iter().copied().filter(|&head| decoder.has(head)).collect();
    Ok(Some(Own { encoder, decoder, heads }))
}

/// Loads the weights, in the first precision that the device can do where that is left to us.
fn load_weights(dir: &ModelDir, plan: &mut Plan) -> Result<Whisper, String> {
    let cuda = plan.device == Device::Cuda;
    let candidates: &[Compute] = match (plan.compute, cuda) {
        (Compute::Auto, false) => &[Compute::Int8, Compute::Float32],
        (Compute::Auto, true) => {
            &[Compute::Int8Float16, Compute::Int8Float32, Compute::Float16, Compute::Float32]
        }
        (chosen, _) => &[chosen],
    };
    let mut failure = String::new();
    for &compute in candidates {
        let config = Config {
            device: if cuda { Ct2Device::CUDA } else { Ct2Device::CPU },
            compute_type: compute_type(compute),
            // The same index N times: N replicas on one device that share one copy of the weights. Several devices: one
            // replica each.
            device_indices: if cuda && plan.devices > 1 {
                (0..plan.devices as i32).collect()
            } else {
                vec![0; plan.replicas]
            },
            num_threads_per_replica: plan.threads,
            ..Config::default()
        };
        match Whisper::new(&dir.path, config) {
            Ok(whisper) => {
                if plan.compute == Compute::Auto && compute != candidates[0] {
                    plan.reasons.push(format!("{compute} because this device cannot do {}", candidates[0]));
                }
                plan.compute = compute;
                return Ok(whisper);
            }
            Err(e) => {
                failure = e.to_string();
                if !failure.contains("compute type") {
                    break;
                }
            }
        }
    }
    if failure.contains("compute type") {
        return Err(format!(
            "{} cannot compute in {}; WHISPER_COMPUTE=auto chooses what it can",
            plan.device, plan.compute
        ));
    }
    Err(format!("cannot load {}: {failure}", dir.path.display()))
}

fn compute_type(compute: Compute) -> ComputeType {
    match compute {
        Compute::Auto => ComputeType::AUTO,
        Compute::Int8 => ComputeType::INT8,
        Compute::Int8Float32 => ComputeType::INT8_FLOAT32,
        Compute::Int8Float16 => ComputeType::INT8_FLOAT16,
        Compute::Int8Bfloat16 => ComputeType::INT8_BFLOAT16,
        Compute::Float16 => ComputeType::FLOAT16,
        Compute::Bfloat16 => ComputeType::BFLOAT16,
        Compute::Float32 => ComputeType::FLOAT32,
    }
}
