//! SIGTERM, SIGINT and SIGHUP end the demo as its last step does: what it started is stopped, and its folder goes. Under
//! nohup SIGHUP ends nothing.
//!
//! A signal ends the program that is waited for, and no other one is started. So the step under way fails, and everything
//! is stopped in turn, by process id, where it goes out of scope. Children have process groups of their own, so that a
//! Ctrl-C reaches the demo alone.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

/// What the signals and the story share.
static STATE: Mutex<State> = Mutex::new(State { signal: None, stopping: false, awaited: Vec::new() });

struct State {
    /// The latest.
    signal: Option<Received>,
    /// Nothing is started any more.
    stopping: bool,
    /// Children that the story waits for. None is reaped before it is taken out.
    awaited: Vec<u32>,
}

impl State {
    fn check(&self) -> Result<(), String> {
        match self.signal.filter(|_| self.stopping) {
            Some(Received { name, .. }) => Err(format!("{name} came")),
            None => Ok(()),
        }
    }
}

/// A signal by name and number.
#[derive(Clone, Copy)]
pub struct Received {
    pub name: &'static str,
    pub number: u8,
}

/// A child that a signal ends while this lives.
pub struct Awaited(u32);

impl Drop for Awaited {
    fn drop(&mut self) {
        state().awaited.retain(|id| *id != self.0);
    }
}

/// Listens for signals from now on.
pub fn listen() -> Result<(), String> {
    let failed = |error: std::io::Error| format!("listening for signals: {error}");
    // Before it is listened to, which would end that.
    let hangup_ignored = ignores_hangup();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
    // From here on, and not when the thread comes to it, no signal ends this process at once.
    let [mut terminate, mut interrupt, mut hangup] = {
        let _inside = runtime.enter();
        let listened = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        let [terminate, interrupt, hangup] = listened;
        [terminate.map_err(failed)?, interrupt.map_err(failed)?, hangup.map_err(failed)?]
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                let (name, number) = tokio::select! {
                    _ = terminate.recv() => ("SIGTERM", 15),
                    _ = interrupt.recv() => ("SIGINT", 2),
                    _ = hangup.recv(), if !hangup_ignored => ("SIGHUP", 1),
                };
                stop(Received { name, number });
            }
        });
    });
    Ok(())
}

/// Whether this process was started with SIGHUP ignored, as nohup starts one.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// The signal that ends the demo, if there was one.
pub fn received() -> Option<Received> {
    state().signal
}

/// Says no once a signal has come.
pub fn check() -> Result<(), String> {
    state().check()
}

/// Lets programs be started again, to clean up. Another signal ends that too.
pub fn go_on() {
    state().stopping = false;
}

/// Starts a child that is waited for, unless a signal has come.
pub fn spawn(name: &str, command: &mut Command) -> Result<(Child, Awaited), String> {
    let mut state = state();
    state.check()?;
    let child = command.process_group(0).spawn().map_err(|error| format!("starting {name}: {error}"))?;
    state.awaited.push(child.id());
    let awaited = Awaited(child.id());
    Ok((child, awaited))
}

fn stop(signal: Received) {
    let mut state = state();
    (state.signal, state.stopping) = (Some(signal), true);
    state.awaited.iter().for_each(|id| end(*id));
}

/// Asks a child of ours to end.
fn end(id: u32) {
    if let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        // It fails only where the child has ended by itself, which is what is wanted.
        let _ = kill_process(pid, Signal::TERM);
    }
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}
