//! Samples the machine: each GPU through NVML, this process and its processors through the system.
//!
//! NVML is the driver's own library, loaded when it is there; a machine without it is a machine without GPUs, not
//! an error. GPUs hidden by `CUDA_VISIBLE_DEVICES` are left out. CUDA and NVML number the same GPUs differently
//! unless `CUDA_DEVICE_ORDER=PCI_BUS_ID` is set; on machines whose GPUs are all alike the orders agree.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml, cuda_driver_version_major, cuda_driver_version_minor};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::event::{Event, Events, Gpu, Machine};

/// Samples the machine on a thread of its own until it is dropped.
#[derive(Debug)]
pub struct Monitor {
    /// Dropping it ends the thread at once.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    /// Tells [`Event::MachineSampled`] once every `interval`, the first time after one interval.
    ///
    /// # Errors
    /// When the system refuses another thread.
    pub fn start(events: Events, interval: Duration) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new().name("machine".into()).spawn(move || {
            let mut sampler = Sampler::new();
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                events.send(Event::MachineSampled(sampler.sample()));
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // It ends within one sample. Should it have panicked, the figures ended there and nothing else did.
            let _ = thread.join();
        }
    }
}

/// Reads all figures of one moment.
struct Sampler {
    system: System,
    pid: Pid,
    /// Cores this process may use.
    cores: usize,
    gpus: Option<Gpus>,
}

impl Sampler {
    fn new() -> Self {
        let mut system = System::new();
        // Shares are measured between two readings: this is the first.
        system.refresh_cpu_usage();
        let pid = Pid::from_u32(std::process::id());
        let allowed = std::thread::available_parallelism().map_or(0, usize::from);
        let cores = if allowed == 0 { system.cpus().len() } else { allowed };
        let mut sampler = Self { system, pid, cores, gpus: Gpus::open().ok() };
        sampler.refresh();
        sampler
    }

    fn refresh(&mut self) {
        self.system.refresh_cpu_usage();
        self.system.refresh_processes_specifics(
            ProcessesToUpdate::Some(&[self.pid]),
            true,
            ProcessRefreshKind::nothing().with_cpu().with_memory().without_tasks(),
        );
    }

    fn sample(&mut self) -> Machine {
        self.refresh();
        let process = self.system.process(self.pid);
        let installed = self.system.cpus().len();
        let cpu_busy = if self.cores < installed {
            // Limited to some of the machine's cores (a container): what the others do is not ours.
            process.map_or(0.0, |p| p.cpu_usage() / 100.0).min(self.cores as f32)
        } else {
            self.system.global_cpu_usage() / 100.0 * installed as f32
        };
        Machine {
            cpu_busy,
            cores: self.cores,
            rss_bytes: process.map_or(0, |p| p.memory()),
            gpus: self.gpus.as_ref().map_or_else(Vec::new, Gpus::sample),
        }
    }
}

/// The GPUs that this process may use.
struct Gpus {
    nvml: Nvml,
    indices: Vec<u32>,
}

impl Gpus {
    fn open() -> Result<Self, NvmlError> {
        let nvml = Nvml::init()?;
        let uuids: Vec<String> = (0..nvml.device_count()?)
            .map(|i| nvml.device_by_index(i).and_then(|d| d.uuid()).unwrap_or_default())
            .collect();
        let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
        Ok(Self { nvml, indices: visible_devices(visible.as_deref(), &uuids) })
    }

    /// The figures of each GPU that answers. One that has fallen off the bus is left out, and is back in the list
    /// should it come back.
    fn sample(&self) -> Vec<Gpu> {
        self.indices
            .iter()
            .filter_map(|&i| self.nvml.device_by_index(i).and_then(|d| sample_device(&d)).ok())
            .collect()
    }
}

fn sample_device(device: &Device<'_>) -> Result<Gpu, NvmlError> {
    let memory = device.memory_info()?;
    let power = device.power_usage().ok().zip(device.enforced_power_limit().ok());
    Ok(Gpu {
        name: device.name().unwrap_or_default(),
        // Not told for a GPU that is cut in slices (MIG); a figure that is not known is not shown as 0.
        sm_percent: device.utilization_rates()?.gpu,
        vram_used: memory.used,
        vram_total: memory.total,
        power_percent: power.filter(|&(_, limit)| limit > 0).map(|(used, limit)| used * 100 / limit),
        temperature: device.temperature(TemperatureSensor::Gpu).ok(),
    })
}

/// NVML indices of the GPUs that `CUDA_VISIBLE_DEVICES` lets through, in its order; all without it. As CUDA reads
/// it: indices or UUIDs (an unambiguous beginning is enough), and everything from the first invalid entry on is
/// ignored. A slice (`MIG-…`) cannot be told apart here: all GPUs are shown then.
fn visible_devices(variable: Option<&str>, uuids: &[String]) -> Vec<u32> {
    let all = || (0..uuids.len() as u32).collect();
    let Some(list) = variable else { return all() };
    let mut indices = Vec::new();
    for entry in list.split(',').map(str::trim) {
        if entry.starts_with("MIG-") {
            return all();
        }
        let found = if entry.starts_with("GPU-") {
            let mut matching = (0_u32..).zip(uuids).filter(|(_, uuid)| uuid.starts_with(entry));
            matching.next().filter(|_| matching.next().is_none()).map(|(i, _)| i)
        } else {
            entry.parse().ok().filter(|&i: &u32| (i as usize) < uuids.len())
        };
        match found {
            Some(index) if !indices.contains(&index) => indices.push(index),
            _ => break,
        }
    }
    indices
}

/// What the driver says about itself and its GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// The driver's version, such as `580.65.06`.
    pub driver: String,
    /// Newest CUDA version that the driver speaks, such as `13.0`; empty if it does not tell.
    pub cuda: String,
    /// The GPUs that this process may use, in the order it sees them.
    pub gpus: Vec<Installed>,
    /// GPUs there are, hidden ones included.
    pub installed: usize,
}

/// One GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Marketing name.
    pub name: String,
    /// UUID, as `CUDA_VISIBLE_DEVICES` takes it.
    pub uuid: String,
    /// Memory there is, bytes.
    pub vram_total: u64,
    /// Memory in use, bytes.
    pub vram_used: u64,
    /// CUDA compute capability, such as (9, 0); decides which kernels run.
    pub compute: Option<(i32, i32)>,
}

/// What GPUs there are.
///
/// # Errors
/// One sentence: the driver's library is missing, or does not work.
pub fn inventory() -> Result<Inventory, String> {
    read_inventory().map_err(|error| match error {
        NvmlError::LibloadingError(_) => "no NVIDIA driver (libnvidia-ml.so.1 is not there)".into(),
        error => format!("the NVIDIA driver does not answer: {error}"),
    })
}

fn read_inventory() -> Result<Inventory, NvmlError> {
    let open = Gpus::open()?;
    let cuda = open.nvml.sys_cuda_driver_version().map_or(String::new(), |v| {
        format!("{}.{}", cuda_driver_version_major(v), cuda_driver_version_minor(v))
    });
    let gpus = open
        .indices
        .iter()
        .filter_map(|&i| {
            let device = open.nvml.device_by_index(i).ok()?;
            let memory = device.memory_info().ok()?;
            Some(Installed {
                name: device.name().unwrap_or_default(),
                uuid: device.uuid().unwrap_or_default(),
                vram_total: memory.total,
                vram_used: memory.used,
                compute: device.cuda_compute_capability().ok().map(|c| (c.major, c.minor)),
            })
        })
        .collect();
    Ok(Inventory {
        driver: open.nvml.sys_driver_version()?,
        cuda,
        gpus,
        installed: open.nvml.device_count()? as usize,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uuids() -> Vec<String> {
        ["GPU-8932f937-d72c", "GPU-8932aaaa-d72c", "GPU-01234567-89ab"].map(String::from).into()
    }

    #[test]
    fn visible_devices_as_cuda_reads_them() {
        for (variable, expected) in [
            (None, vec![0, 1, 2]),
            (Some(""), vec![]),
            (Some("-1"), vec![]),
            (Some("2,0"), vec![2, 0]),
            (Some(" 1 , 2"), vec![1, 2]),
            (Some("1,7,2"), vec![1]),
            (Some("1,1"), vec![1]),
            (Some("NoDevFiles"), vec![]),
            (Some("GPU-0123"), vec![2]),
            (Some("GPU-8932"), vec![]),
            (Some("GPU-8932a,GPU-8932f937-d72c"), vec![1, 0]),
            (Some("MIG-3ab0"), vec![0, 1, 2]),
        ] {
            assert_eq!(visible_devices(variable, &uuids()), expected, "{variable:?}");
        }
    }

    #[test]
    fn this_process_is_sampled() {
        let machine = Sampler::new().sample();
        assert!(machine.cores >= 1);
        assert!(machine.rss_bytes > 1 << 20, "{machine:?}");
        assert!(machine.cpu_busy >= 0.0 && machine.cpu_busy <= machine.cores as f32 + 0.01, "{machine:?}");
    }

    #[tokio::test]
    async fn the_monitor_tells_until_it_is_dropped() {
        let (events, mut told) = Events::channel();
        let monitor = Monitor::start(events, Duration::from_millis(5)).expect("a thread");
        for _ in 0..3 {
            assert!(matches!(told.recv().await, Some(Event::MachineSampled(_))));
        }
        drop(monitor);
        // The thread held the only sender: what is left in the channel ends.
        while told.recv().await.is_some() {}
    }

    #[test]
    fn the_inventory_answers_either_way() {
        match inventory() {
            Ok(found) => assert!(!found.driver.is_empty() && found.gpus.len() <= found.installed),
            Err(message) => assert!(message.contains("NVIDIA driver"), "{message}"),
        }
    }
}
