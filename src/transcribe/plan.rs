//! How the model is run on this machine: device, precision, replicas, threads, batch; and why.

use std::{fmt, str::FromStr};

use sysinfo::System;

use super::{engine::DecodeOptions, shape::Shape};

/// Where to run the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// A CUDA device where there is a usable one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The first CUDA device, or an error.
    Cuda,
}

/// Precision of the model's arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compute {
    /// The fastest that loses no words: `int8` on a CPU, `int8_float16` on a GPU.
    #[default]
    Auto,
    /// 8-bit weights, the rest as the device likes it.
    Int8,
    /// 8-bit weights, the rest in 32 bits.
    Int8Float32,
    /// 8-bit weights, the rest in half precision; GPU only.
    Int8Float16,
    /// 8-bit weights, the rest in bfloat16.
    Int8Bfloat16,
    /// Half precision; GPU only.
    Float16,
    /// bfloat16.
    Bfloat16,
    /// Single precision.
    Float32,
}

impl Compute {
    const ALL: [(Self, &'static str); 8] = [
        (Self::Auto, "auto"),
        (Self::Int8, "int8"),
        (Self::Int8Float32, "int8_float32"),
        (Self::Int8Float16, "int8_float16"),
        (Self::Int8Bfloat16, "int8_bfloat16"),
        (Self::Float16, "float16"),
        (Self::Bfloat16, "bfloat16"),
        (Self::Float32, "float32"),
    ];
}

impl fmt::Display for Compute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL.iter().find(|(c, _)| c == self).map_or("", |(_, name)| name))
    }
}

impl FromStr for Compute {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL.iter().find(|(_, name)| *name == s).map(|(c, _)| *c).ok_or_else(|| {
            format!("unknown precision {s:?}; one of {}", Self::ALL.map(|(_, name)| name).join(", "))
        })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        })
    }
}

impl FromStr for Device {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            other => Err(format!("unknown device {other:?}; one of auto, cpu, cuda")),
        }
    }
}

/// What may be done where memory does not suffice for a single window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnOutOfMemory {
    /// Nothing: the item fails and may be tried again.
    #[default]
    Fail,
    /// The model is loaded again with 8-bit weights.
    Compute,
    /// The same, then the CPU.
    Cpu,
}

/// Whose arithmetic runs the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kernels {
    /// This program's own where processor and model suit it, else the engine's.
    #[default]
    Auto,
    /// The engine's.
    Engine,
}

/// What was asked for; `None` means: decide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Device.
    pub device: Device,
    /// Precision.
    pub compute: Compute,
    /// Replicas that work at the same time and share one copy of the weights.
    pub parallel_models: Option<usize>,
    /// Threads of each replica, on a CPU.
    pub threads: Option<usize>,
    /// Windows that one replica takes at once.
    pub batch_size: Option<usize>,
    /// Whose arithmetic.
    pub kernels: Kernels,
    /// What may change where memory runs out.
    pub on_out_of_memory: OnOutOfMemory,
}

/// What the machine has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Physical cores this process may use.
    pub cores: usize,
    /// Memory that is free, in bytes.
    pub memory: u64,
    /// CUDA devices that this build of the engine can use.
    pub cuda_devices: usize,
    /// Free memory of the fullest of them, in bytes, where the driver tells.
    pub vram: Option<u64>,
}

impl Host {
    /// Looks at this machine; `cuda_devices` is the engine's own count.
    pub fn survey(cuda_devices: usize) -> Self {
        let allowed = std::thread::available_parallelism().map_or(1, |n| n.get());
        let physical = System::physical_core_count().unwrap_or(allowed);
        let mut system = System::new();
        system.refresh_memory();
        let memory = match system.cgroup_limits() {
            // What a group of processes "uses" includes files that the kernel keeps in memory and gives back when asked.
            Some(limits) => system.available_memory().min(limits.total_memory.saturating_sub(limits.rss)),
            None => system.available_memory(),
        };
        let vram = if cuda_devices > 0 { least_free_memory() } else { None };
        Self { cores: physical.min(allowed).max(1), memory, cuda_devices, vram }
    }
}

/// Free memory of the fullest GPU.
fn least_free_memory() -> Option<u64> {
    let gpus = crate::gpu::inventory().ok()?.gpus;
    gpus.iter().map(|gpu| gpu.vram_total.saturating_sub(gpu.vram_used)).min()
}

/// How the model is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// `Cpu` or `Cuda`.
    pub device: Device,
    /// CUDA devices, one replica each; 1 on a CPU.
    pub devices: usize,
    /// Precision; `Auto` only until the engine has chosen.
    pub compute: Compute,
    /// Replicas that share one copy of the weights, on each device.
    pub replicas: usize,
    /// Threads of each replica.
    pub threads: usize,
    /// Windows a replica takes at once, at most.
    pub batch_size: usize,
    /// Threads of this program that form batches and wait for the model.
    pub feeders: usize,
    /// How long loading took, milliseconds.
    pub load_ms: u64,
    /// Why, and what looks unwise; one sentence each.
    pub reasons: Vec<String>,
}

/// No GPU is filled better by more windows than this at once, and the first result would only come later.
const MAX_GPU_BATCH: u64 = 64;

/// Where the driver does not tell how much memory is free.
const BLIND_GPU_BATCH: usize = 16;

/// Refuses a device that was asked for and is not there.
///
/// # Errors
/// A message that says why CUDA cannot be had, and what does instead.
pub fn check_device(device: Device, cuda_devices: usize) -> Result<(), String> {
    if device != Device::Cuda || cuda_devices > 0 {
        return Ok(());
    }
    Err(if cfg!(feature = "cuda") {
        "no CUDA device is usable (none is present, or its driver is missing or too old: `spoken doctor` tells); \
         WHISPER_DEVICE=auto falls back to the CPU"
    } else {
        "this binary was built without CUDA (`spoken doctor` tells how to build one with it); \
         WHISPER_DEVICE=auto falls back to the CPU"
    }
    .to_owned())
}

impl Plan {
    /// Decides, for a model of `shape` decoded as `decode` says. A device that was asked for and is not there is the only
    /// error; unwise settings are kept, and said so.
    ///
    /// # Errors
    /// A message where CUDA was asked for and no device is usable.
    pub fn new(wishes: &Wishes, host: &Host, shape: &Shape, decode: &DecodeOptions) -> Result<Self, String> {
        check_device(wishes.device, host.cuda_devices)?;
        let device = match wishes.device {
            Device::Cpu => Device::Cpu,
            _ if host.cuda_devices > 0 => Device::Cuda,
            _ => Device::Cpu,
        };
        let mut plan = Self {
            device,
            devices: 1,
            compute: wishes.compute,
            replicas: 1,
            threads: 1,
            batch_size: 1,
            feeders: 1,
            load_ms: 0,
            reasons: Vec::new(),
        };
        // Each beam keeps the decoder's memory of its own.
        let per_window = shape.window_bytes() + decode.beam_size.max(1) as u64 * shape.beam_bytes();
        if device == Device::Cuda {
            plan.on_cuda(wishes, host, shape, per_window);
        } else {
            plan.on_cpu(wishes, host, shape, per_window, decode.beam_size);
        }
        Ok(plan)
    }

    fn on_cuda(&mut self, wishes: &Wishes, host: &Host, shape: &Shape, per_window: u64) {
        self.devices = host.cuda_devices;
        self.replicas = wishes.parallel_models.unwrap_or(1).max(1);
        if self.devices > 1 && self.replicas > 1 {
            self.reasons.push("one replica on each GPU, whatever WHISPER_PARALLEL_MODELS says".to_owned());
            self.replicas = 1;
        }
        // The attention scores are in half precision there.
        let per_window = per_window / 2;
        let automatic = match host.vram {
            // Weights in half precision at most, and a fifth left for the runtime's own buffers and other programs.
            Some(free) => {
                let room = free.saturating_sub(2 * shape.parameters) * 8 / 10 / self.replicas as u64;
                let fitting = (room / per_window.max(1)).clamp(1, MAX_GPU_BATCH) as usize;
                self.reasons.push(format!(
                    "batches of {fitting}: a window takes about {} MB beside the weights, and {} MB of GPU memory are free",
                    per_window >> 20,
                    free >> 20
                ));
                fitting
            }
            None => BLIND_GPU_BATCH,
        };
        self.batch_size = wishes.batch_size.unwrap_or(automatic).max(1);
        // While one batch is decoded the next is put together.
        self.feeders = self.devices * self.replicas + 1;
        if self.replicas > 1 {
            self.reasons.push(format!("{} replicas on one GPU compete for it and its memory", self.replicas));
        } else {
            self.reasons.push(format!(
                "one replica on {}: large batches fill a GPU, a second replica would share it",
                if self.devices == 1 {
                    "the GPU".to_owned()
                } else {
                    format!("each of {} GPUs", self.devices)
                }
            ));
        }
    }

    fn on_cpu(&mut self, wishes: &Wishes, host: &Host, shape: &Shape, per_window: u64, beams: usize) {
        // Measured: "tiny", "base" and "small" (widths 384 to 768) gain up to four windows, 8 to 13 % over two, and hardly more
        // beyond. With models smaller than any real one, beams fill a batch by themselves; with larger ones more windows cost
        // too much memory.
        let batch_size = match shape.d_model {
            ..384 if beams > 1 => 1,
            ..1024 => 4,
            _ => 2,
        };
        self.batch_size = wishes.batch_size.unwrap_or(batch_size).max(1);
        // Weights are held once, as int8 or float, beside the file's own size while it is read.
        let room = host.memory.saturating_sub(2 * shape.bytes) * 8 / 10;
        match (wishes.parallel_models, wishes.threads) {
            (Some(n), threads) => {
                self.replicas = n.max(1);
                self.threads = threads.unwrap_or((host.cores / self.replicas).max(1)).max(1);
            }
            (None, threads) => {
                self.threads = threads.unwrap_or(1).max(1);
                self.replicas = (host.cores / self.threads).max(1);
                if self.replicas > 1 && self.threads == 1 {
                    self.reasons.push(format!(
                        "one single-threaded replica for each of {} cores: replicas do not wait for each other as \
                         threads do, and share the weights",
                        host.cores
                    ));
                }
                // Replicas bring more than batches do.
                let windows = |batch: usize| per_window * (batch * self.replicas) as u64;
                while wishes.batch_size.is_none() && self.batch_size > 1 && windows(self.batch_size) > room {
                    self.batch_size /= 2;
                }
                let per_replica = (per_window * self.batch_size as u64).max(1);
                let fitting = ((room / per_replica) as usize).max(1);
                if fitting < self.replicas {
                    self.reasons.push(format!(
                        "{fitting} replicas instead of {}: each needs about {} MB beside the weights, and {} MB are free",
                        self.replicas,
                        per_replica >> 20,
                        host.memory >> 20
                    ));
                    self.replicas = fitting;
                    if wishes.threads.is_none() {
                        self.threads = (host.cores / fitting).max(1);
                    }
                }
            }
        }
        self.feeders = self.replicas;
        if self.replicas * self.threads > host.cores {
            self.reasons.push(format!(
                "{} replicas of {} threads are more than the {} cores there are, and will be slower for it",
                self.replicas, self.threads, host.cores
            ));
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}, {} {} × {} {}, {}",
            self.device,
            self.compute,
            self.replicas,
            if self.replicas == 1 { "replica" } else { "replicas" },
            self.threads,
            if self.threads == 1 { "thread" } else { "threads" },
            match self.batch_size {
                1 => "one window at a time".to_owned(),
                n => format!("batches of up to {n} windows"),
            }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1 << 30;
    const SMALL: Shape = Shape {
        d_model: 768,
        heads: 12,
        encoder_layers: 12,
        decoder_layers: 12,
        parameters: 242_000_000,
        bytes: 484 << 20,
        own_kernels: false,
    };
    const TINY: Shape = Shape {
        d_model: 384,
        heads: 6,
        encoder_layers: 4,
        decoder_layers: 4,
        parameters: 38_000_000,
        bytes: 75 << 20,
        own_kernels: false,
    };

    fn host(cores: usize, memory: u64, cuda_devices: usize) -> Host {
        Host { cores, memory, cuda_devices, vram: None }
    }

    fn plan(wishes: &Wishes, host: &Host, shape: &Shape) -> Result<Plan, String> {
        Plan::new(wishes, host, shape, &DecodeOptions::default())
    }

    #[test]
    fn a_cpu_gets_one_replica_a_core() {
        let small = plan(&Wishes::default(), &host(8, 32 * GB, 0), &SMALL).unwrap();
        assert_eq!((small.device, small.replicas, small.threads, small.batch_size), (Device::Cpu, 8, 1, 4));
        let tiny = plan(&Wishes::default(), &host(2, 8 * GB, 0), &TINY).unwrap();
        assert_eq!((tiny.replicas, tiny.threads, tiny.batch_size, tiny.feeders), (2, 1, 4, 2));
    }

    #[test]
    fn little_memory_means_fewer_replicas_with_more_threads() {
        let plan = plan(&Wishes::default(), &host(8, 3 * GB, 0), &SMALL).unwrap();
        assert!(plan.replicas < 8 && plan.replicas * plan.threads <= 8, "{plan:?}");
        assert!(plan.reasons.iter().any(|r| r.contains("MB are free")));
    }

    #[test]
    fn wishes_are_kept_even_where_unwise() {
        let wishes =
            Wishes { parallel_models: Some(4), threads: Some(2), batch_size: Some(7), ..Wishes::default() };
        let unwise = plan(&wishes, &host(2, GB, 0), &SMALL).unwrap();
        assert_eq!((unwise.replicas, unwise.threads, unwise.batch_size), (4, 2, 7));
        assert!(unwise.reasons.iter().any(|r| r.contains("slower")));
        let shared = Wishes { parallel_models: Some(2), ..Wishes::default() };
        assert_eq!(plan(&shared, &host(8, 32 * GB, 0), &SMALL).unwrap().threads, 4);
    }

    #[test]
    fn a_gpu_is_taken_where_there_is_one() {
        let gpu = plan(&Wishes::default(), &host(8, 32 * GB, 1), &SMALL).unwrap();
        assert_eq!((gpu.device, gpu.replicas, gpu.batch_size), (Device::Cuda, 1, BLIND_GPU_BATCH));
        let cpu = Wishes { device: Device::Cpu, ..Wishes::default() };
        assert_eq!(plan(&cpu, &host(8, 32 * GB, 1), &SMALL).unwrap().device, Device::Cpu);
        let cuda = Wishes { device: Device::Cuda, ..Wishes::default() };
        assert!(plan(&cuda, &host(8, 32 * GB, 0), &SMALL).unwrap_err().contains("WHISPER_DEVICE=auto"));
    }

    #[test]
    fn a_batch_fits_the_memory_of_the_gpu() {
        let of = |vram| {
            plan(&Wishes::default(), &Host { vram: Some(vram), ..host(8, 32 * GB, 1) }, &SMALL).unwrap()
        };
        assert_eq!(of(GB / 2).batch_size, 1);
        assert!((2..32).contains(&of(4 * GB).batch_size), "{:?}", of(4 * GB));
        assert_eq!(of(80 * GB).batch_size as u64, MAX_GPU_BATCH);
        let two = plan(&Wishes::default(), &host(8, 32 * GB, 2), &SMALL).unwrap();
        assert_eq!((two.devices, two.replicas, two.feeders), (2, 1, 3));
    }

    #[test]
    fn names_survive_a_round_trip() {
        for (compute, name) in Compute::ALL {
            assert_eq!(name.parse::<Compute>().unwrap(), compute);
            assert_eq!(compute.to_string(), name);
        }
        assert!("int4".parse::<Compute>().unwrap_err().contains("int8_float16"));
    }
}
