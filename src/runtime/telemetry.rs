//! Logs: text for people, JSON for machines, always to standard error, so that a command's output stays clean.
//!
//! Every caller keeps secrets, mail addresses and bodies out of its log lines; nothing here could find them.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use super::config::Telemetry;
use super::log::{LogFormat, LogLevel};

/// Starts the process's logging. Called once, before anything else runs.
pub fn start(settings: &Telemetry) {
    let builder = tracing_subscriber::fmt().with_env_filter(filter(settings.level)).with_writer(std::io::stderr);
    match settings.format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).with_span_list(false).init(),
    }
}

/// Returns the filter of the log. Libraries only log from `warn` on: kube and hyper describe every request at `debug`,
/// with its headers.
fn filter(level: LogLevel) -> EnvFilter {
    let libraries = match level {
        LogLevel::Error => "error",
        LogLevel::Warn | LogLevel::Info | LogLevel::Debug => "warn",
        LogLevel::Trace => "info",
    };
    EnvFilter::new(format!("{libraries},franking={}", level.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_never_get_below_info() {
        for level in [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace] {
            let text = filter(level).to_string();
            assert!(text.contains(&format!("franking={}", level.as_str())), "{text}");
            assert!(!text.split(',').any(|part| part == "debug" || part == "trace"), "{text}");
        }
    }
}
