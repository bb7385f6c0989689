//! `franking`: one binary, with a subcommand for each role. This file builds the roles' dependencies and hands them
//! over; the work of a role is in its room.

#[path = "main/moving.rs"]
mod moving;
#[path = "main/trail.rs"]
mod trail;
#[path = "main/upkeep.rs"]
mod upkeep;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use franking::operator::fleet::installation::Installation;
use franking::operator::fleet::prepare;
use franking::operator::fleet::relay_config::{self, Keeper};
use franking::operator::fleet::relays::Fleet;
use franking::operator::plan::relay_state::RelayState;
use franking::operator::state::lease;
use franking::operator::{AccountMetrics, error};
use franking::runtime::cli::{self, Asked, Command};
use franking::runtime::clock::SystemClock;
use franking::runtime::config::{self, Settings};
use franking::runtime::health::Health;
use franking::runtime::metrics::Registry;
use franking::runtime::relay_config::LedgerAddress;
use franking::runtime::settings_file::Refused;
use franking::runtime::shutdown::{self, RoleError, Roles};
use franking::runtime::{http, process, telemetry};
use franking::upstream::SmtpNotifier;
use franking::{crd, ledger, operator, relay};
use rand::rngs::{StdRng, SysRng};
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Exit code for a refused setting or flag, the same in every command.
const REFUSED: u8 = 2;
/// Exit code for every other failure.
const FAILED: u8 = 1;
/// Exit code of an operator that has lost its leadership: nothing is wrong, and a new process stands by.
const DEPOSED: u8 = 3;
/// Interval between checks of the settings for a changed ledger address. An administrator who rotates a password waits
/// minutes.
const ADDRESS_EVERY: Duration = Duration::from_secs(10);

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
    if matches!(cli.command, Command::All) && (settings.operator.leader_election || settings.relay.config_map.is_some())
    {
        let refused = "operator.leaderElection and relay.configMap are for operators and relays that run apart; \
                       `franking all` is both in one process";
        return fail(&Refused::new(refused), REFUSED);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, FAILED),
    };
    let ended = runtime.block_on(async {
        match cli.command {
            Command::Crds => Ok(say(&crd::all().iter().map(crd::yaml).collect::<Vec<_>>().join("---\n"))),
            Command::Ledger(command) => upkeep::run(&settings, command).await,
            Command::All => Process::start(settings)?.all().await,
            Command::Operator => Process::start(settings)?.operator(cli.flags).await,
            Command::Relay => Process::start(settings)?.relay().await,
            Command::Prepare => Process::start(settings)?.prepare().await,
        }
    });
    // Blocking work that a hung role left behind must not keep the process alive.
    runtime.shutdown_background();
    ended.unwrap_or_else(|error: RoleError| fail(error.as_ref(), code_of(error.as_ref())))
}

/// Returns the exit code for an error: a lost leadership among its causes has a code of its own.
fn code_of(error: &(dyn std::error::Error + 'static)) -> u8 {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    if causes.any(|cause| cause.is::<error::Deposed>()) { DEPOSED } else { FAILED }
}

/// Prints `text`. A reader that closes the pipe early (`franking crds | head`) is not an error.
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

/// State that all roles share.
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
        // kube, lettre and the relay all ask rustls for its default provider; it is chosen here.
        drop(rustls::crypto::ring::default_provider().install_default());
        let (stop, clock, registry) = (CancellationToken::new(), Arc::new(SystemClock), Registry::new());
        shutdown::follow_signals(stop.clone())?;
        process::register(&registry);
        let files = process::raise_file_limit();
        tracing::info!(version = env!("CARGO_PKG_VERSION"), name = settings.name, files, "franking starts");
        let rng = StdRng::try_from_rng(&mut SysRng)
            .map_err(|error| format!("seeding from the system's random numbers (/dev/urandom): {error}"))?;
        Ok(Self { settings, clock, rng, registry, health: Health::default(), stop })
    }

    async fn prepare(mut self) -> Result<ExitCode, RoleError> {
        let client = kube::Client::try_default().await?;
        let stop = self.stop.clone();
        tokio::select! {
            prepared = async {
                let settings = &self.settings;
                let clock = self.clock.clone();
                let installation = prepare::run(&client, settings, clock, &mut self.rng).await?;
                // With a fleet, `relay.yaml` is a Secret, and the leading operator writes it.
                if settings.relay.config_map.is_none() {
                    prepare::relay_yaml(installation, settings, self.clock.clone()).await?;
                }
                Ok::<_, prepare::Error>(())
            } => {
                prepared?;
                Ok(ExitCode::SUCCESS)
            }
            // Every step can be repeated, so it is safe to stop at any point.
            () = stop.cancelled() => Ok(ExitCode::from(FAILED)),
        }
    }

    async fn all(mut self) -> Result<ExitCode, RoleError> {
        let mut roles = self.roles(&["operator", "relay"]).await?;
        let (client, settings, stop) = (kube::Client::try_default().await?, &self.settings, self.stop.clone());
        let prepared = async {
            let clock = self.clock.clone();
            let installation = prepare::run(&client, settings, clock, &mut self.rng).await?;
            prepare::relay_yaml(installation, settings, self.clock.clone()).await
        };
        let (keeper, endpoint) = tokio::select! {
            prepared = prepared => prepared?,
            () = stop.cancelled() => return self.wait(roles).await,
        };
        self.spawn_single(&mut roles, client, keeper, endpoint, None)?;
        self.spawn_relay(&mut roles);
        self.wait(roles).await
    }

    async fn operator(mut self, flags: cli::Flags) -> Result<ExitCode, RoleError> {
        let mut roles = self.roles(&["operator"]).await?;
        let client = kube::Client::try_default().await?;
        let stop = self.stop.clone();
        let leadership = if self.settings.operator.leader_election {
            match self.win(&client, &flags).await {
                Some(leadership) => Some(leadership),
                None => return self.wait(roles).await,
            }
        } else {
            None
        };
        let leader = leadership.as_ref().map(lease::Leadership::leader);
        let deposed = async {
            match &leader {
                Some(leader) => leader.lost().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            spawned = self.spawn_operator(&mut roles, client, leadership, flags) => spawned?,
            () = deposed => return Err(error::Deposed.into()),
            () = stop.cancelled() => {}
        }
        self.wait(roles).await
    }

    /// Waits until this operator leads. It counts as ready meanwhile, because standing by is all that it should do.
    async fn win(&mut self, client: &kube::Client, flags: &cli::Flags) -> Option<lease::Leadership> {
        let gate = self.health.gate("operator");
        let settings = &self.settings;
        let instance = flags.instance.as_ref().unwrap_or(&settings.name);
        let identity = format!("{instance}_{:016x}", self.rng.next_u64());
        let (namespace, name) = (&settings.operator.namespace, format!("{}-operator", settings.name));
        let candidate = lease::Candidate::new(client.clone(), namespace, name, identity, self.clock.clone());
        let told = |trouble: Option<&str>| match trouble {
            None => gate.open(),
            Some(trouble) => gate.close(trouble),
        };
        let won = candidate.win(&self.stop, told).await;
        gate.close("starting");
        won
    }

    /// Starts the operator and the task that keeps the relays of this pod, or of a fleet, up to date.
    async fn spawn_operator(
        &mut self,
        roles: &mut Roles,
        client: kube::Client,
        leadership: Option<lease::Leadership>,
        flags: cli::Flags,
    ) -> Result<(), RoleError> {
        let installation = prepare::resume(&client, &self.settings).await?;
        let Some(config_map) = self.settings.relay.config_map.clone() else {
            let (keeper, endpoint) = prepare::relay_yaml(installation, &self.settings, self.clock.clone()).await?;
            return self.spawn_single(roles, client, keeper, endpoint, leadership);
        };
        let fleet = Fleet {
            client: client.clone(),
            namespace: self.settings.operator.namespace.clone(),
            config_map,
            relay: self.settings.relay.clone(),
            ledger: self.settings.ledger.clone(),
            installation: installation.clone(),
            clock: self.clock.clone(),
        };
        let gate = self.health.gate("operator");
        let (endpoint, state) = fleet.first(|trouble| gate.close(trouble)).await;
        let ((publish, endpoint), (tell, relay)) = (watch::channel(endpoint), watch::channel(state));
        let dependencies = self.dependencies(client, &installation, endpoint, relay, leadership)?;
        roles.spawn("operator", operator::run(dependencies, self.stop.clone()));
        roles.spawn("keeper of the fleet", fleet.keep(self.registry.clone(), publish, tell, self.stop.clone()));
        roles.spawn("settings", same_ledger(self.settings.ledger.clone(), flags, self.stop.clone()));
        Ok(())
    }

    async fn relay(mut self) -> Result<ExitCode, RoleError> {
        let mut roles = self.roles(&["relay"]).await?;
        self.spawn_relay(&mut roles);
        self.wait(roles).await
    }

    /// Starts to serve probes and scrapes, and returns an empty set of roles. The telemetry server must answer while
    /// `prepare` waits and until the last role has drained, so it is not a role itself and ends with the process.
    async fn roles(&self, roles: &[&'static str]) -> Result<Roles, RoleError> {
        let telemetry = http::Telemetry::new(self.registry.clone(), self.health.clone());
        let config::Telemetry { address, probes_address, .. } = self.settings.telemetry;
        let mut ports = vec![("telemetry.address", address, http::Port::Metrics)];
        ports.extend(probes_address.map(|address| ("telemetry.probesAddress", address, http::Port::Probes)));
        let mut listeners = Vec::with_capacity(ports.len());
        for (setting, address, port) in ports {
            let listener = tokio::net::TcpListener::bind(address)
                .await
                .map_err(|error| format!("listening on {setting} {address}: {error}"))?;
            tracing::info!(address = %listener.local_addr()?, ?port, "serving telemetry");
            listeners.push((listener, port));
        }
        // A role's gate exists before the role does, so that a probe never finds a process ready that has not started.
        for role in roles {
            drop(self.health.gate(role));
        }
        for (listener, port) in listeners {
            tokio::spawn(telemetry.clone().serve(listener, port));
        }
        Ok(Roles::new(self.stop.clone()))
    }

    /// Starts the operator and the task that keeps `relay.yaml`, which this pod's relays read.
    fn spawn_single(
        &mut self,
        roles: &mut Roles,
        client: kube::Client,
        keeper: Keeper,
        endpoint: operator::Endpoint,
        leadership: Option<lease::Leadership>,
    ) -> Result<(), RoleError> {
        let (publish, endpoint) = watch::channel(endpoint);
        let in_force = Some(Arc::new(keeper.in_force()?));
        let (tell, relay) = watch::channel(RelayState { in_force, ..RelayState::default() });
        let dependencies = self.dependencies(client, &keeper.installation, endpoint, relay, leadership)?;
        roles.spawn("operator", operator::run(dependencies, self.stop.clone()));
        let keep = relay_config::keep(keeper, self.registry.clone(), publish, tell, self.stop.clone());
        roles.spawn("keeper of relay.yaml", keep);
        Ok(())
    }

    fn dependencies(
        &mut self,
        client: kube::Client,
        installation: &Installation,
        endpoint: watch::Receiver<operator::Endpoint>,
        relay: watch::Receiver<RelayState>,
        leadership: Option<lease::Leadership>,
    ) -> Result<operator::Dependencies, ledger::Error> {
        let notifier = Arc::new(SmtpNotifier::new(&endpoint.borrow().host));
        Ok(operator::Dependencies {
            notifier,
            client,
            store: ledger::open(&self.settings.ledger, self.clock.clone())?,
            settings: operator::OperatorSettings {
                namespace: self.settings.operator.namespace.clone(),
                secret_namespaces: self.settings.operator.secret_namespaces.clone(),
                concurrency: self.settings.operator.concurrency,
                status_writes_per_second: self.settings.operator.status_writes_per_second,
                effective_config_map: self.settings.operator.effective_config_map.clone(),
                changed_by_stamped: self.settings.operator.changed_by_stamped,
                account_metrics: self
                    .settings
                    .operator
                    .metric_accounts
                    .map_or(AccountMetrics::All, AccountMetrics::Top),
            },
            endpoint,
            relay,
            keys: installation.keys.clone(),
            clock: self.clock.clone(),
            rng: StdRng::from_rng(&mut self.rng),
            registry: self.registry.clone(),
            health: self.health.clone(),
            name: self.settings.name.clone(),
            leadership,
            place: Some((installation.clone(), self.settings.ledger.clone())),
        })
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

/// Ends the process when the ledger's address has changed, for example after a password was rotated: every part of the
/// process holds the old address, and the next process renders the new one for the fleet. Settings that cannot be read
/// are logged and change nothing.
async fn same_ledger(address: LedgerAddress, flags: cli::Flags, stop: CancellationToken) -> Result<(), RoleError> {
    loop {
        tokio::select! {
            () = tokio::time::sleep(ADDRESS_EVERY) => {}
            () = stop.cancelled() => return Ok(()),
        }
        let flags = flags.clone();
        match tokio::task::spawn_blocking(move || config::load(&flags)).await? {
            Ok(settings) if settings.ledger != address => {
                return Err("the ledger's address changed; a new process uses it".into());
            }
            Ok(_) => {}
            Err(refused) => tracing::warn!(%refused, "the settings would not start a process"),
        }
    }
}
