//! Shutdown of a process: the first signal requests it, the second one forces it, and every wait has a limit.

use std::future::Future;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// The error that ended a role. Logged where it is handled, with its sources.
pub type RoleError = Box<dyn std::error::Error + Send + Sync>;

/// Exit code of a process that a second signal ended: 128 + SIGINT, as shells expect.
const INSISTED: i32 = 130;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the {role} failed")]
    Failed {
        role: &'static str,
        #[source]
        source: RoleError,
    },
    #[error("the {role} ended although nothing asked it to")]
    Ended { role: &'static str },
    #[error("the {role} panicked")]
    Panicked {
        role: &'static str,
        #[source]
        source: JoinError,
    },
    #[error("{roles} did not stop within {seconds} s")]
    Hung { roles: String, seconds: u64 },
    #[error("listening for signals")]
    Signals(#[source] std::io::Error),
}

/// The roles of a process, run together and stopped together.
pub struct Roles {
    set: JoinSet<Result<(), RoleError>>,
    names: Vec<(Id, &'static str)>,
    stop: CancellationToken,
}

impl Roles {
    /// Makes an empty set of roles. `stop` is cancelled by the first SIGTERM or SIGINT.
    pub fn new(stop: CancellationToken) -> Self {
        Self { set: JoinSet::new(), names: vec![], stop }
    }

    /// Starts a role. It must end soon after the token is cancelled, and not before.
    pub fn spawn<E>(&mut self, name: &'static str, role: impl Future<Output = Result<(), E>> + Send + 'static)
    where
        E: Into<RoleError>,
    {
        let handle = self.set.spawn(async move { role.await.map_err(Into::into) });
        self.names.push((handle.id(), name));
    }

    /// Waits until all roles have stopped. A role that ends without a stop request stops the others and is the error;
    /// so is one that is still running `deadline` after the request.
    pub async fn run(mut self, deadline: Duration) -> Result<(), Error> {
        let mut first = None;
        while first.is_none() && !self.set.is_empty() && !self.stop.is_cancelled() {
            tokio::select! {
                Some(ended) = self.set.join_next_with_id() => first = self.judge(ended),
                () = self.stop.cancelled() => {}
            }
        }
        self.stop.cancel();
        let drained = tokio::time::timeout(deadline, async {
            while let Some(ended) = self.set.join_next_with_id().await {
                first = first.take().or(self.judge(ended));
            }
        });
        let drained = drained.await.is_ok();
        match first {
            Some(error) => Err(error),
            None if drained => Ok(()),
            None => Err(Error::Hung { roles: self.running(), seconds: deadline.as_secs() }),
        }
    }

    /// Returns the error in the end of one role; `None` if a stop was requested and the role ended well.
    fn judge(&mut self, ended: Result<(Id, Result<(), RoleError>), JoinError>) -> Option<Error> {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let position = self.names.iter().position(|(known, _)| *known == id)?;
        let (_, role) = self.names.remove(position);
        match ended {
            Ok((_, Ok(()))) if self.stop.is_cancelled() => None,
            Ok((_, Ok(()))) => Some(Error::Ended { role }),
            Ok((_, Err(source))) => Some(Error::Failed { role, source }),
            Err(source) => Some(Error::Panicked { role, source }),
        }
    }

    fn running(&self) -> String {
        let names: Vec<&str> = self.names.iter().map(|(_, name)| *name).collect();
        format!("the {}", names.join(" and the "))
    }
}

/// Cancels the token at the first SIGTERM or SIGINT and ends the process at once at the second.
pub fn follow_signals(stop: CancellationToken) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    tokio::spawn(async move {
        let name = next(&mut terminate, &mut interrupt).await;
        tracing::info!(signal = name, "stopping: what is in flight is finished, a second signal ends at once");
        stop.cancel();
        let name = next(&mut terminate, &mut interrupt).await;
        tracing::warn!(signal = name, "ending at once");
        std::process::exit(INSISTED);
    });
    Ok(())
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// Returns an error with its sources as one line: `this: because of that: because of that`.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        line.push_str(": ");
        line.push_str(&error.to_string());
        source = error.source();
    }
    line.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    async fn until(stop: CancellationToken) -> Result<(), RoleError> {
        stop.cancelled().await;
        Ok(())
    }

    #[tokio::test]
    async fn roles_that_stop_when_asked_are_a_clean_end() {
        let stop = CancellationToken::new();
        let mut roles = Roles::new(stop.clone());
        roles.spawn("relay", until(stop.clone()));
        roles.spawn("operator", until(stop.clone()));
        stop.cancel();
        assert!(roles.run(SOON).await.is_ok());
    }

    #[tokio::test]
    async fn a_role_that_ends_unasked_stops_the_others_and_is_the_error() {
        type Ending = fn() -> Result<(), RoleError>;
        let cases: [(Ending, &str); 3] = [
            (|| Ok(()), "the relay ended although nothing asked it to"),
            (|| Err("no disk".into()), "the relay failed: no disk"),
            (|| panic!("on purpose"), "the relay panicked"),
        ];
        for (ending, line) in cases {
            let stop = CancellationToken::new();
            let mut roles = Roles::new(stop.clone());
            roles.spawn("operator", until(stop.clone()));
            roles.spawn("relay", async move { ending() });
            let error = roles.run(SOON).await.expect_err(line);
            assert!(chain(&error).starts_with(line), "{}", chain(&error));
            assert!(stop.is_cancelled());
        }
    }

    #[tokio::test]
    async fn a_role_that_hangs_is_named_when_the_deadline_is_over() {
        let stop = CancellationToken::new();
        let mut roles = Roles::new(stop.clone());
        roles.spawn("operator", until(stop.clone()));
        roles.spawn("relay", std::future::pending::<Result<(), RoleError>>());
        stop.cancel();
        let error = roles.run(Duration::from_millis(50)).await.expect_err("it hangs");
        assert_eq!(error.to_string(), "the relay did not stop within 0 s");
    }
}
