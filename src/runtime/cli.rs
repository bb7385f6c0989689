//! The command line: one binary, a subcommand for each role, and the few flags that differ between deployments.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::TypedValueParser as _;
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::SignedDuration;
use uuid::Uuid;

use super::log::{LogFormat, LogLevel};
use super::settings_file::Refused;

/// Franking: one mail plan, shared by many senders.
#[derive(Debug, Parser)]
#[command(name = "franking", version, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub flags: Flags,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that override the settings file. Each has an environment variable of its own.
///
/// Unknown variables are not refused: Kubernetes gives pods `FRANKING_…_SERVICE_HOST` and the like for every Service
/// whose name begins with ours.
#[derive(Clone, Debug, Default, Args)]
pub struct Flags {
    /// Settings file; without it the defaults apply
    #[arg(long, global = true, env = "FRANKING_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder of the ledger and of relay.yaml, unless the settings name their paths
    #[arg(long, global = true, env = "FRANKING_DATA", value_name = "FOLDER")]
    pub data: Option<PathBuf>,
    /// Name of this process in the ledger; a second process with the same name and role fences the first
    #[arg(long, global = true, env = "FRANKING_NAME", value_name = "NAME")]
    pub name: Option<String>,
    /// Namespace of the operator
    #[arg(long, global = true, env = "FRANKING_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Host name of the relay
    #[arg(long, global = true, env = "FRANKING_HOSTNAME", value_name = "HOST")]
    pub hostname: Option<String>,
    /// Name of this process in the operators' lease; without it the name in the ledger
    #[arg(long, global = true, env = "FRANKING_INSTANCE", value_name = "NAME")]
    pub instance: Option<String>,
    /// Maximum seconds from the first stop signal until the process ends
    #[arg(long, global = true, env = "FRANKING_STOP_SECONDS", value_name = "SECONDS")]
    pub stop_seconds: Option<u64>,
    /// Level of the log
    #[arg(long, global = true, env = "FRANKING_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,
    /// Format of the log
    #[arg(long, global = true, env = "FRANKING_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Address that serves /healthz, /readyz and /metrics
    #[arg(long, global = true, env = "FRANKING_TELEMETRY_ADDRESS", value_name = "ADDRESS")]
    pub telemetry_address: Option<SocketAddr>,
    /// Address that serves /healthz and /readyz for probes; without it only the address of /metrics does
    #[arg(long, global = true, env = "FRANKING_PROBES_ADDRESS", value_name = "ADDRESS")]
    pub probes_address: Option<SocketAddr>,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run prepare, operator and relay in one process, for laptops and the demo
    All,
    /// Reconcile the three kinds of resources: write Secrets, status, the directory and relay.yaml
    Operator,
    /// Accept mail over SMTP and forward it
    Relay,
    /// Create the installation's keys, the ledger and the first relay.yaml, then exit
    Prepare,
    /// Print the CustomResourceDefinitions
    Crds,
    /// Check, bill, audit, back up, move or restore the ledger
    #[command(subcommand)]
    Ledger(LedgerCommand),
}

#[derive(Clone, Debug, Subcommand)]
pub enum LedgerCommand {
    /// Recompute every balance from its rows; exit with code 1 if one differs
    Check,
    /// Print the cost of a policy's month, and each payer's part of it
    Costs(Costs),
    /// Print the audit trail: who changed what, and when
    Events(Events),
    /// Copy the SQLite ledger to a file while it is in use
    Backup {
        /// File to write the copy to
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Overwrite an existing file
        #[arg(long)]
        overwrite: bool,
    },
    /// Copy the SQLite ledger into a folder and remove the oldest copies
    Backups {
        /// Folder for the copies, each named by its time
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
        /// Number of copies to keep
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..).map(usize::from))]
        keep: usize,
        /// Keep running and make a copy at this interval, such as 6h
        #[arg(long, value_name = "TIME", value_parser = time)]
        every: Option<SignedDuration>,
        /// Make no copy: print the copies in the folder, newest first
        #[arg(long, conflicts_with_all = ["keep", "every"])]
        list: bool,
    },
    /// Move a SQLite ledger into the PostgreSQL database of the settings; no mail is charged until that is done
    Move {
        /// File of the SQLite ledger
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// Take back a ledger whose move did not come to its end
        #[arg(long)]
        abandon: bool,
        /// Id of the installation that the ledger must belong to, as ConfigMap franking-installation has it; another's
        /// ledger is refused before anything is written
        #[arg(long, env = "FRANKING_INSTALLATION", value_name = "ID")]
        installation: Option<Uuid>,
    },
    /// Replace a SQLite ledger that no process has open by a backup; mail waits until the ledger is accepted
    Restore {
        /// File of the backup
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Restore over a ledger that was moved, or is being moved, to a database that is lost for good
        #[arg(long)]
        although_moved: bool,
    },
}

#[derive(Clone, Debug, Args)]
pub struct Events {
    /// Print only the events after this number
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    pub after: i64,
    /// Continue with new events as they are written
    #[arg(long)]
    pub follow: bool,
    /// Print lines for people, or one JSON object per line
    #[arg(long, value_enum, default_value_t = Trail::Text)]
    pub output: Trail,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Trail {
    Text,
    Json,
}

/// Minimum interval between two backups: each reads the whole ledger.
const BACKUP_EVERY_MIN: SignedDuration = SignedDuration::from_mins(1);

fn time(text: &str) -> Result<SignedDuration, String> {
    let time: SignedDuration = text.parse().map_err(|_| "write a time such as 6h or 30m".to_owned())?;
    if time < BACKUP_EVERY_MIN { Err("the least is 1m".to_owned()) } else { Ok(time) }
}

/// The bill to print, and its format.
#[derive(Clone, Debug, Args)]
pub struct Costs {
    /// Name of the CreditPolicy
    #[arg(long, value_name = "NAME")]
    pub policy: String,
    /// Month of the bill, such as 2026-11, in the policy's time zone from its anchor day; without it the running month
    #[arg(long, value_name = "MONTH")]
    pub period: Option<String>,
    /// Format of the bill
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Output,
}

/// The format of a bill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    #[default]
    Table,
    Json,
    Csv,
}

/// The request on the command line.
pub enum Asked {
    Run(Box<Cli>),
    /// Help or the version, as text for standard output.
    Text(String),
}

/// Parses the command line and the environment. The error is one sentence that names the flag.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Asked, Refused> {
    match Cli::try_parse_from(arguments) {
        Ok(cli) => Ok(Asked::Run(Box::new(cli))),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(Asked::Text(error.to_string())),
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                Err(Refused::new("no subcommand was given: all, operator, relay, prepare, crds or ledger"))
            }
            // For every other kind the first paragraph says what is wrong; --help shows the usage after it.
            _ => Err(Refused::new(first_paragraph(&error.to_string()))),
        },
    }
}

fn first_paragraph(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let sentence = lines.join(" ");
    let sentence = sentence.strip_prefix("error: ").unwrap_or(&sentence);
    format!("{sentence}; see franking --help")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Asked, Refused> {
        parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn the_definition_of_the_command_line_holds_together() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn a_mistake_is_one_sentence_that_names_it() {
        for (line, named) in [
            ("franking", "subcommand"),
            ("franking serve", "serve"),
            ("franking relay --log-level loud", "--log-level"),
            ("franking relay --telemetry-address here", "--telemetry-address"),
            ("franking prepare --accept-empty-ledger", "--accept-empty-ledger"),
            ("franking ledger", "subcommand"),
            ("franking ledger backup", "<FILE>"),
            ("franking ledger move", "--from"),
            ("franking ledger backups /b --keep 0", "--keep"),
            ("franking ledger backups /b --every often", "6h"),
            ("franking ledger backups /b --every 5s", "the least is 1m"),
            ("franking ledger events --output xml", "--output"),
            ("franking ledger costs", "--policy"),
            ("franking ledger costs --policy a -o xml", "xml"),
        ] {
            let Err(Refused(sentence)) = parsed(line) else { panic!("{line} was accepted") };
            assert!(sentence.contains(named) && !sentence.contains('\n'), "{line}: {sentence}");
        }
    }

    #[test]
    fn flags_may_stand_before_and_after_the_role() {
        for line in ["franking --name a relay", "franking relay --name a"] {
            let Ok(Asked::Run(cli)) = parsed(line) else { panic!("{line} was refused") };
            assert_eq!(cli.flags.name.as_deref(), Some("a"));
        }
        assert!(matches!(parsed("franking --version"), Ok(Asked::Text(text)) if text.contains("0.1")));
    }
}
