//! How the model is run on this machine: device, precision, replicas, threads, batch; and why.

use std::{fmt, str::FromStr};

use sysinfo::System;

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
}

impl Host {
    /// Looks at this machine; `cuda_devices` is the engine's own count.
    pub fn survey(cuda_devices: usize) -> Self {
        let allowed = std::thread::available_parallelism().map_or(1, |n| n.get());
        let physical = System::physical_core_count().unwrap_or(allowed);
        let mut system = System::new();
        system.refresh_memory();
        let memory = match system.cgroup_limits() {
            Some(limits) => limits.free_memory.min(system.available_memory()),
            None => system.available_memory(),
        };
        Self { cores: physical.min(allowed).max(1), memory, cuda_devices }
    }
}

/// How the model is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// `Cpu` or `Cuda`.
    pub device: Device,
    /// Precision; `Auto` only until the engine has chosen.
    pub compute: Compute,
    /// Replicas that share one copy of the weights.
    pub replicas: usize,
    /// Threads of each replica.
    pub threads: usize,
    /// Windows a replica takes at once, at most.
    pub batch_size: usize,
    /// Threads of this program that form batches and wait for the model.
    pub feeders: usize,
    /// Why, and what looks unwise; one sentence each.
    pub reasons: Vec<String>,
}

/// One replica's working memory for one window in flight, per attention head: two score matrices of 1500 × 1500 floats.
/// (Measured with "small", 12 heads: 0.2 GB a window.)
const WINDOW_BYTES_PER_HEAD: u64 = 2 * 1500 * 1500 * 4;

/// Attention heads of a model, judged by the size of its weights in half precision.
fn heads(weights_bytes: u64) -> u64 {
    match weights_bytes >> 20 {
        0..40 => 2,
        40..110 => 6,
        110..300 => 8,
        300..900 => 12,
        900..1_560 => 16,
        _ => 20,
    }
}

impl Plan {
    /// Decides, for a model whose weights take `weights_bytes` on disk. A device that was asked for and is not there
    /// is the only error; unwise settings are kept, and said so.
    ///
    /// # Errors
    /// A message where CUDA was asked for and no device is usable.
    pub fn new(wishes: &Wishes, host: &Host, weights_bytes: u64) -> Result<Self, String> {
        let mut reasons = Vec::new();
        let device = match wishes.device {
            Device::Cuda if host.cuda_devices == 0 => {
                return Err(
                    "no CUDA device is usable (none is present, its driver is missing, or this binary was \
                            built without CUDA); WHISPER_DEVICE=auto falls back to the CPU"
                        .to_owned(),
                );
            }
            Device::Cpu => Device::Cpu,
            _ if host.cuda_devices > 0 => Device::Cuda,
            _ => Device::Cpu,
        };
        let mut plan = Self {
            device,
            compute: wishes.compute,
            replicas: 1,
            threads: 1,
            batch_size: 1,
            feeders: 1,
            reasons: Vec::new(),
        };
        if device == Device::Cuda {
            plan.replicas = wishes.parallel_models.unwrap_or(1).max(1);
            plan.batch_size = wishes.batch_size.unwrap_or(16).max(1);
            // While one batch is decoded the next is put together.
            plan.feeders = plan.replicas + 1;
            reasons.push("one replica on a GPU fills it best with large batches".to_owned());
            if plan.replicas > 1 {
                reasons.push(format!("{} replicas on one GPU compete for it and its memory", plan.replicas));
            }
        } else {
            plan.on_cpu(wishes, host, weights_bytes, &mut reasons);
        }
        plan.reasons = reasons;
        Ok(plan)
    }

    fn on_cpu(&mut self, wishes: &Wishes, host: &Host, weights_bytes: u64, reasons: &mut Vec<String>) {
        let heads = heads(weights_bytes);
        // Measured in windows per second of processor time: "tiny" gains up to four windows, "base" and "small" up to
        // two. With models smaller than any real one, larger batches only cost memory.
        let batch_size = match heads {
            ..6 => 1,
            6 => 4,
            _ => 2,
        };
        self.batch_size = wishes.batch_size.unwrap_or(batch_size).max(1);
        match (wishes.parallel_models, wishes.threads) {
            (Some(n), threads) => {
                self.replicas = n.max(1);
                self.threads = threads.unwrap_or((host.cores / self.replicas).max(1)).max(1);
            }
            (None, threads) => {
                self.threads = threads.unwrap_or(1).max(1);
                self.replicas = (host.cores / self.threads).max(1);
                if self.replicas > 1 && self.threads == 1 {
                    reasons.push(format!(
                        "one single-threaded replica for each of {} cores: replicas do not wait for each other as \
                         threads do, and share the weights",
                        host.cores
                    ));
                }
                let per_replica = heads * WINDOW_BYTES_PER_HEAD * self.batch_size as u64;
                // Weights are held once, as int8 or float, beside the file's own size while it is read.
                let room = host.memory.saturating_sub(2 * weights_bytes) * 8 / 10;
                let fitting = ((room / per_replica) as usize).max(1);
                if fitting < self.replicas {
                    reasons.push(format!(
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
            reasons.push(format!(
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
            "{} {}, {} {} × {} {}, batches of up to {} windows",
            self.device,
            self.compute,
            self.replicas,
            if self.replicas == 1 { "replica" } else { "replicas" },
            self.threads,
            if self.threads == 1 { "thread" } else { "threads" },
            self.batch_size
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1 << 30;
    const SMALL: u64 = 484 << 20;

    fn host(cores: usize, memory: u64, cuda_devices: usize) -> Host {
        Host { cores, memory, cuda_devices }
    }

    #[test]
    fn a_cpu_gets_one_replica_a_core() {
        let plan = Plan::new(&Wishes::default(), &host(8, 32 * GB, 0), SMALL).unwrap();
        assert_eq!((plan.device, plan.replicas, plan.threads, plan.batch_size), (Device::Cpu, 8, 1, 2));
        let tiny = Plan::new(&Wishes::default(), &host(2, 8 * GB, 0), 75 << 20).unwrap();
        assert_eq!((tiny.replicas, tiny.threads, tiny.batch_size, tiny.feeders), (2, 1, 4, 2));
    }

    #[test]
    fn little_memory_means_fewer_replicas_with_more_threads() {
        let plan = Plan::new(&Wishes::default(), &host(8, 3 * GB, 0), SMALL).unwrap();
        assert!(plan.replicas < 8 && plan.replicas * plan.threads <= 8, "{plan:?}");
        assert!(plan.reasons.iter().any(|r| r.contains("MB are free")));
    }

    #[test]
    fn wishes_are_kept_even_where_unwise() {
        let wishes =
            Wishes { parallel_models: Some(4), threads: Some(2), batch_size: Some(7), ..Wishes::default() };
        let plan = Plan::new(&wishes, &host(2, GB, 0), SMALL).unwrap();
        assert_eq!((plan.replicas, plan.threads, plan.batch_size), (4, 2, 7));
        assert!(plan.reasons.iter().any(|r| r.contains("slower")));
        let shared = Wishes { parallel_models: Some(2), ..Wishes::default() };
        assert_eq!(Plan::new(&shared, &host(8, 32 * GB, 0), SMALL).unwrap().threads, 4);
    }

    #[test]
    fn a_gpu_is_taken_where_there_is_one() {
        let plan = Plan::new(&Wishes::default(), &host(8, 32 * GB, 1), SMALL).unwrap();
        assert_eq!((plan.device, plan.replicas, plan.batch_size), (Device::Cuda, 1, 16));
        let cpu = Wishes { device: Device::Cpu, ..Wishes::default() };
        assert_eq!(Plan::new(&cpu, &host(8, 32 * GB, 1), SMALL).unwrap().device, Device::Cpu);
        let cuda = Wishes { device: Device::Cuda, ..Wishes::default() };
        assert!(Plan::new(&cuda, &host(8, 32 * GB, 0), SMALL).unwrap_err().contains("no CUDA device"));
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
