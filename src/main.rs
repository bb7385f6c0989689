//! `franking`: one binary, a subcommand for each role. Here the roles' dependencies are built and handed over; what a
//! role does is in its room.

mod upkeep;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use franking::operator::prepare;
use franking::operator::relay_config::{self, Keeper};
use franking::runtime::cli::{self, Asked, Command};
use franking::runtime::clock::{Clock as _, SystemClock};
use franking::runtime::config::{self, Settings};
use franking::runtime::health::Health;
use franking::runtime::metrics::Registry;
use franking::runtime::shutdown::{self, RoleError, Roles};
use franking::runtime::{http, process, telemetry};
use franking::{crd, ledger, operator, relay};
use rand::SeedableRng as _;
use rand::rngs::{StdRng, SysRng};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The exit code of a refused setting or flag, as of every other command.
const REFUSED: u8 = 2;
/// The exit code of everything else that went wrong.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(Asked::Run(cli)) => cli,
        Ok(Asked::Text(text)) => return say(&text),
        Err(refused) => return fail(&refused, REFUSED),
    };
    let settings = match config::load(&cli.flags) {
        Ok(settings) => settings,
        Err(refused) => return fail(&refused, REFUSED),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, FAILED),
    };
    let ended = runtime.block_on(async {
        match cli.command {
            Command::Crds => Ok(say(&crd::all().iter().map(crd::yaml).collect::<Vec<_>>().join("---\n"))),
            Command::Ledger(command) => upkeep::run(&settings, command).await,
            Command::All => Process::start(settings)?.all().await,
            Command::Operator => Process::start(settings)?.operator().await,
            Command::Relay => Process::start(settings)?.relay().await,
            Command::Prepare => Process::start(settings)?.prepare().await,
        }
    });
    // Blocking work that a hung role left behind must not keep the process.
    runtime.shutdown_background();
    ended.unwrap_or_else(|error: RoleError| fail(error.as_ref(), FAILED))
}

/// A reader that has seen enough (`franking crds | head`) is no fault.
fn say(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => fail(&error, FAILED),
        Ok(()) | Err(_) => ExitCode::SUCCESS,
    }
}

fn fail(error: &dyn std::error::Error, code: u8) -> ExitCode {
    eprintln!("franking: {}", shutdown::chain(error));
    ExitCode::from(code)
}

/// What every role shares.
struct Process {
    settings: Settings,
    clock: Arc<SystemClock>,
    rng: StdRng,
    registry: Registry,
    health: Health,
    stop: CancellationToken,
}

impl Process {
    fn start(settings: Settings) -> Result<Self, RoleError> {
        telemetry::start(&settings.telemetry);
        // kube, lettre and the relay all ask rustls for its default; there is one, chosen here.
        drop(rustls::crypto::ring::default_provider().install_default());
        let (stop, clock, registry) = (CancellationToken::new(), Arc::new(SystemClock), Registry::new());
        shutdown::follow_signals(stop.clone())?;
        process::register(&registry, clock.now());
        tracing::info!(version = env!("CARGO_PKG_VERSION"), name = settings.name, "franking starts");
        let rng = StdRng::try_from_rng(&mut SysRng)
            .map_err(|error| format!("seeding from the system's random numbers (/dev/urandom): {error}"))?;
        Ok(Self { settings, clock, rng, registry, health: Health::default(), stop })
    }

    async fn prepare(mut self) -> Result<ExitCode, RoleError> {
        let client = kube::Client::try_default().await?;
        let stop = self.stop.clone();
        tokio::select! {
            prepared = prepare::run(&client, &self.settings, self.clock, &mut self.rng) => {
                prepared?;
                Ok(ExitCode::SUCCESS)
            }
            // Every step can be repeated, so it may be left anywhere.
            () = stop.cancelled() => Ok(ExitCode::from(FAILED)),
        }
    }

    async fn all(mut self) -> Result<ExitCode, RoleError> {
        let mut roles = self.roles(&["operator", "relay"]).await?;
        let (client, settings, stop) = (kube::Client::try_default().await?, &self.settings, self.stop.clone());
        let prepared = tokio::select! {
            prepared = prepare::run(&client, settings, self.clock.clone(), &mut self.rng) => prepared?,
            () = stop.cancelled() => return self.wait(roles).await,
        };
        self.spawn_operator(&mut roles, client, prepared)?;
        self.spawn_relay(&mut roles);
        self.wait(roles).await
    }

    async fn operator(mut self) -> Result<ExitCode, RoleError> {
        let mut roles = self.roles(&["operator"]).await?;
        let client = kube::Client::try_default().await?;
        let stop = self.stop.clone();
        let resumed = tokio::select! {
            resumed = prepare::resume(&client, &self.settings, self.clock.clone()) => resumed?,
            () = stop.cancelled() => return self.wait(roles).await,
        };
        self.spawn_operator(&mut roles, client, resumed)?;
        self.wait(roles).await
    }

    async fn relay(mut self) -> Result<ExitCode, RoleError> {
        let mut roles = self.roles(&["relay"]).await?;
        self.spawn_relay(&mut roles);
        self.wait(roles).await
    }

    /// No roles yet, but somebody who answers probes and scrapes: while `prepare` waits, and until the last role has
    /// drained, so it is no role and ends with the process.
    async fn roles(&self, roles: &[&'static str]) -> Result<Roles, RoleError> {
        let address = self.settings.telemetry.address;
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .map_err(|error| format!("listening on telemetry.address {address}: {error}"))?;
        tracing::info!(address = %listener.local_addr()?, "serving /healthz, /readyz and /metrics");
        // A role's gate is there before the role is, so that a probe never finds a process ready that has not begun.
        for role in roles {
            drop(self.health.gate(role));
        }
        tokio::spawn(http::serve(listener, self.registry.clone(), self.health.clone()));
        Ok(Roles::new(self.stop.clone()))
    }

    fn spawn_operator(
        &mut self,
        roles: &mut Roles,
        client: kube::Client,
        (keeper, endpoint): (Keeper, operator::Endpoint),
    ) -> Result<(), RoleError> {
        let (publish, endpoint) = watch::channel(endpoint);
        let dependencies = operator::Dependencies {
            client,
            store: ledger::open(&self.settings.ledger, self.clock.clone())?,
            settings: operator::Settings {
                namespace: self.settings.operator.namespace.clone(),
                concurrency: self.settings.operator.concurrency,
                status_writes_per_second: self.settings.operator.status_writes_per_second,
            },
            endpoint,
            keys: keeper.installation.keys.clone(),
            clock: self.clock.clone(),
            rng: StdRng::from_rng(&mut self.rng),
            registry: self.registry.clone(),
            health: self.health.clone(),
            name: self.settings.name.clone(),
            place: Some((keeper.installation.clone(), self.settings.ledger.clone())),
        };
        roles.spawn("operator", operator::run(dependencies, self.stop.clone()));
        let keep = relay_config::keep(keeper, self.registry.clone(), publish, self.stop.clone());
        roles.spawn("keeper of relay.yaml", keep);
        Ok(())
    }

    fn spawn_relay(&mut self, roles: &mut Roles) {
        let dependencies = relay::Dependencies {
            config_file: self.settings.relay.config_file.clone(),
            clock: self.clock.clone(),
            rng: StdRng::from_rng(&mut self.rng),
            registry: self.registry.clone(),
            health: self.health.clone(),
            name: self.settings.name.clone(),
        };
        roles.spawn("relay", relay::run(dependencies, self.stop.clone()));
    }

    async fn wait(self, roles: Roles) -> Result<ExitCode, RoleError> {
        roles.run(Duration::from_secs(self.settings.stop_seconds)).await?;
        tracing::info!("stopped");
        Ok(ExitCode::SUCCESS)
    }
}
