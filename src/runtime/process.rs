//! Figures of the process itself, under the names that every Prometheus dashboard knows, read from `/proc/self`.

use std::fs;

use jiff::Timestamp;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntGaugeVec, Opts};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::metrics::Registry;

/// `/proc/self/stat` counts in USER_HZ, which is 100 on every architecture that Linux runs servers on (man 5 proc).
const TICKS_PER_SECOND: f64 = 100.0;

/// Registers the figures and what was built.
pub fn register(registry: &Registry, started: Timestamp) {
    super::metrics::register(registry, Process::new(started));
    let build = super::metrics::register(
        registry,
        known(IntGaugeVec::new(Opts::new("franking_build_info", "What was built; always 1."), &["version"])),
    );
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
}

/// Lets the process open as many files as its hard limit says, and returns how many that are; `None` where nothing limits
/// it. Container runtimes leave the soft limit at 1,024, which is fewer than the relay's connections.
pub fn raise_file_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "raising the limit of open files");
            limit.current
        }
    }
}

#[derive(Clone)]
struct Process {
    start: Gauge,
    memory: Gauge,
    files: Gauge,
    files_max: Gauge,
    cpu: Gauge,
}

impl Process {
    fn new(started: Timestamp) -> Self {
        let gauge = |name: &str, help: &str| known(Gauge::new(name, help));
        let process = Self {
            start: gauge("process_start_time_seconds", "Start time of the process in seconds since the epoch."),
            memory: gauge("process_resident_memory_bytes", "Resident memory in bytes."),
            files: gauge("process_open_fds", "Open file descriptors."),
            files_max: gauge("process_max_fds", "The most file descriptors that may be open."),
            cpu: gauge("process_cpu_seconds_total", "User and system CPU time in seconds."),
        };
        process.start.set(started.as_millisecond() as f64 / 1000.0);
        process
    }

    fn gauges(&self) -> [&Gauge; 5] {
        [&self.start, &self.memory, &self.files, &self.files_max, &self.cpu]
    }
}

/// A metric's name and help are constants of ours.
fn known<T>(made: Result<T, prometheus::Error>) -> T {
    made.expect("a metric's name is a valid constant")
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.gauges().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let set = |gauge: &Gauge, value: Option<f64>| {
            if let Some(value) = value {
                gauge.set(value);
            }
        };
        let read = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        set(&self.memory, resident_bytes(&read("status")));
        set(&self.cpu, cpu_seconds(&read("stat")));
        set(&self.files_max, open_files_limit(&read("limits")));
        set(&self.files, fs::read_dir("/proc/self/fd").ok().map(|folder| folder.count() as f64));
        self.gauges().into_iter().flat_map(Collector::collect).collect()
    }
}

fn resident_bytes(status: &str) -> Option<f64> {
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    kibibytes.trim().strip_suffix("kB")?.trim().parse().ok().map(|kibibytes: f64| kibibytes * 1024.0)
}

/// Fields 14 and 15; the name in field 2 may hold spaces and brackets, so counting starts after its last bracket.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

fn open_files_limit(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_open_as_many_files_as_its_hard_limit_says() {
        let files = raise_file_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!((limit.current, limit.maximum), (files, files));
    }

    #[test]
    fn figures_are_read_from_what_the_kernel_writes() {
        assert_eq!(resident_bytes("Name:\ta\nVmRSS:\t    2048 kB\n"), Some(2_097_152.0));
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 109 0 0 0 150 50 0 0 20 0 1 0 5 0 0";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(open_files_limit("Limit Soft Hard\nMax open files            1024   4096   files\n"), Some(1024.0));
    }

    #[test]
    fn this_process_has_memory_and_open_files() {
        let registry = Registry::new();
        register(&registry, Timestamp::UNIX_EPOCH);
        let text = crate::runtime::metrics::render(&registry);
        for name in ["process_resident_memory_bytes", "process_open_fds", "process_max_fds"] {
            let value = text.lines().find_map(|line| line.strip_prefix(name)).expect(name).trim();
            assert!(value.parse::<f64>().expect("a number") > 0.0, "{name} {value}");
        }
        assert!(text.contains("franking_build_info{version=\"0.1.0\"} 1"), "{text}");
    }
}
