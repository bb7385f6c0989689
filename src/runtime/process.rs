//! Metrics of the process itself, under the names that every Prometheus dashboard knows, and its limit of open files.

use prometheus::process_collector::ProcessCollector;
use prometheus::{IntGaugeVec, Opts};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::metrics::Registry;

/// Registers the metrics of the process and of its build.
pub fn register(registry: &Registry) {
    registry.register(Box::new(ProcessCollector::for_self())).expect("these metrics are registered once");
    let build = super::metrics::register(
        registry,
        known(IntGaugeVec::new(Opts::new("franking_build_info", "What was built; always 1."), &["version"])),
    );
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
}

/// Raises the soft limit of open files to the hard limit and returns the one in force; `None` if there is no limit.
/// Container runtimes leave the soft limit at 1,024, which is fewer than the relay's connections.
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

/// Unwraps a new metric, whose name and help are constants of ours.
fn known<T>(made: Result<T, prometheus::Error>) -> T {
    made.expect("a metric's name is a valid constant")
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
    fn this_process_has_memory_and_open_files() {
        let registry = Registry::new();
        register(&registry);
        let text = crate::runtime::metrics::render(&registry);
        for name in
            ["process_resident_memory_bytes", "process_open_fds", "process_max_fds", "process_start_time_seconds"]
        {
            let value = text.lines().find_map(|line| line.strip_prefix(name)).expect(name).trim();
            assert!(value.parse::<f64>().expect("a number") > 0.0, "{name} {value}");
        }
        assert!(text.contains("franking_build_info{version=\"0.1.0\"} 1"), "{text}");
    }
}
