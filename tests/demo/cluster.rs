//! The programs around the demo: the cluster, kubectl, and children that end with it.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::interrupt;

/// How long a child may take to stop in good order before it is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(20);
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(50);

/// A child process that is stopped by its id when this is dropped.
pub struct Program {
    name: &'static str,
    child: Child,
}

impl Program {
    /// Starts it with its output in `log`.
    pub fn start(name: &'static str, command: &mut Command, log: &Path) -> Result<Self, String> {
        let file = std::fs::File::create(log).map_err(|error| format!("making {}: {error}", log.display()))?;
        let errors = file.try_clone().map_err(|error| format!("sharing {}: {error}", log.display()))?;
        let (child, _awaited) = interrupt::spawn(name, command.stdin(Stdio::null()).stdout(file).stderr(errors))?;
        Ok(Self { name, child })
    }

    /// Starts it and waits for its first line of output, which says that it is ready.
    pub fn start_and_read(name: &'static str, command: &mut Command) -> Result<(Self, String), String> {
        let (child, awaited) = interrupt::spawn(name, command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let mut program = Self { name, child };
        let output = program.child.stdout.take().ok_or("its output is piped")?;
        let mut line = String::new();
        let read = BufReader::new(output).read_line(&mut line);
        // Before it can be reaped.
        drop(awaited);
        read.map_err(|error| format!("reading from {name}: {error}"))?;
        if line.is_empty() {
            return Err(format!("{name} ended before it was ready"));
        }
        Ok((program, line.trim_end().to_owned()))
    }

    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // By process id and with TERM first, so that sessions drain and folders are removed.
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let until = Instant::now() + STOP_DEADLINE;
        while asked.is_ok() && self.running() && Instant::now() < until {
            std::thread::park_timeout(POLL);
        }
        if self.running() {
            eprintln!("{} did not stop when asked and is killed", self.name);
            // Both fail only when it has ended by itself, which is what is wanted.
            self.child.kill().ok();
        }
        self.child.wait().ok();
    }
}

/// kubectl and helm against one cluster.
pub struct Kube {
    programs: PathBuf,
    kubeconfig: Option<PathBuf>,
}

impl Kube {
    pub fn new(programs: PathBuf, kubeconfig: Option<PathBuf>) -> Self {
        Self { programs, kubeconfig }
    }

    /// `None`: the current one.
    pub fn kubeconfig(&self) -> Option<&Path> {
        self.kubeconfig.as_deref()
    }

    pub fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        self.run("kubectl", arguments, None)
    }

    pub fn apply(&self, manifests: &str) -> Result<String, String> {
        self.run("kubectl", &["apply", "--server-side", "-f", "-"], Some(manifests))
    }

    pub fn helm(&self, arguments: &[&str]) -> Result<String, String> {
        self.run("helm", arguments, None)
    }

    fn run(&self, program: &str, arguments: &[&str], input: Option<&str>) -> Result<String, String> {
        let own = self.programs.join(program);
        let mut command = Command::new(if own.exists() { own } else { PathBuf::from(program) });
        if let Some(kubeconfig) = &self.kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        command
            .args(arguments)
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let (mut child, awaited) = interrupt::spawn(program, &mut command)?;
        if let (Some(input), Some(mut pipe)) = (input, child.stdin.take()) {
            pipe.write_all(input.as_bytes()).map_err(|error| format!("writing to {program}: {error}"))?;
        }
        let (output, errors) = (child.stdout.take(), child.stderr.take());
        let (output, errors) = std::thread::scope(|scope| {
            let errors = scope.spawn(|| read_all(errors));
            (read_all(output), errors.join().unwrap_or_default())
        });
        // It has closed its output and ends. From here on its id may be another's.
        drop(awaited);
        let status = child.wait().map_err(|error| format!("waiting for {program}: {error}"))?;
        if status.success() { Ok(output) } else { Err(format!("{program} {}: {}", arguments.join(" "), errors.trim())) }
    }
}

/// All that a program prints. What cannot be read is missing.
fn read_all(pipe: Option<impl Read>) -> String {
    let mut octets = Vec::new();
    if let Some(mut pipe) = pipe {
        // A broken pipe is one that ended.
        let _ = pipe.read_to_end(&mut octets);
    }
    String::from_utf8_lossy(&octets).into_owned()
}

/// Waits until `condition` gives a value.
pub fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Result<Option<T>, String>,
) -> Result<T, String> {
    let until = Instant::now() + deadline;
    loop {
        interrupt::check()?;
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if Instant::now() >= until {
            return Err(format!("waited {} s for {what}", deadline.as_secs()));
        }
        std::thread::park_timeout(POLL);
    }
}
