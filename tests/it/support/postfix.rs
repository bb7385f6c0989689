//! A Postfix of our own, on a port of this machine, gone with its test.
//!
//! Its master insists on root, so where we are not root it is started by sudo. A shell stands between, as with
//! PostgreSQL: when the test process ends, however it ends, its end of the pipe closes, and the shell stops the
//! master by its process id and removes the folder. Nothing of the machine's own Postfix is read or written.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::client::Client;

const INSTALL: &str = "install the packages postfix, libsasl2-modules and sasl2-bin";
const START_LIMIT: Duration = Duration::from_secs(30);
/// Longer than any delivery here takes.
const SOON: Duration = Duration::from_secs(30);

/// Takes the folder and where Postfix keeps its daemons.
const KEEPER: &str = r#"
# Whoever ends the tests by their process group must not end the one who cleans up after them.
trap '' HUP INT TERM
cd "$1" || exit 1
mkdir -p data queue && cd queue || exit 1
mkdir -p active bounce corrupt defer deferred flush hold incoming maildrop pid private public saved trace
chown postfix ../data ./*
chown root pid
chgrp postdrop public maildrop
chmod 700 ../data ./*
chmod 755 pid
chmod 710 public
chmod 730 maildrop
# A session of its own: what the master stops is its process group.
setsid "$2/master" -c "$1/etc" -d >"$1/master" 2>&1 & master=$!
cat >/dev/null
kill $master 2>/dev/null
wait $master
rm -rf "$1"
"#;

/// What every Postfix here has in common.
const SETTINGS: &str = "compatibility_level = 3.6
mail_owner = postfix
setgid_group = postdrop
inet_protocols = ipv4
inet_interfaces = 127.0.0.1
mynetworks = 127.0.0.0/8
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
notify_classes =
smtp_host_lookup = native
";

const SERVICES: &str = "pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
";

pub struct Postfix {
    folder: PathBuf,
    pub address: std::net::SocketAddr,
    keeper: Child,
}

impl Drop for Postfix {
    fn drop(&mut self) {
        // The pipe closes: the shell does the rest.
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

impl Postfix {
    /// Whether there is one on this machine.
    pub fn is_installed() -> bool {
        postconf().is_some()
    }

    /// Starts one that listens on `port`. `settings` are lines of `main.cf`; `files` lie in `$config_directory`.
    pub async fn start(port: u16, hostname: &str, settings: &str, files: &[(&str, &str)]) -> Self {
        let daemons = daemon_directory();
        let folder = tempfile::Builder::new().prefix("franking-postfix-").tempdir().expect("a folder").keep();
        // Its processes have users of their own.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("ours");
        let etc = folder.join("etc");
        // Where Debian's Postfix looks for the settings of SASL.
        fs::create_dir_all(etc.join("sasl")).expect("a folder");
        let place = folder.display();
        let places = format!(
            "queue_directory = {place}/queue\ndata_directory = {place}/data\nmaillog_file = {place}/log\n\
             maillog_file_prefixes = {place}\ndaemon_directory = {}\nmyhostname = {hostname}\n",
            daemons.display()
        );
        let settings = format!("{SETTINGS}{places}{settings}");
        let services = format!("127.0.0.1:{port} inet n - n - - smtpd\n{SERVICES}");
        for (name, text) in [("main.cf", settings.as_str()), ("master.cf", &services)].iter().chain(files) {
            fs::write(etc.join(name), text).expect("a file");
        }
        let mut keeper = as_root("sh");
        keeper.args(["-c", KEEPER, "keeper"]).args([&folder, &daemons]).stdin(Stdio::piped()).stderr(Stdio::null());
        let keeper = keeper.spawn().expect("a shell");
        let postfix = Self { folder, address: ([127, 0, 0, 1], port).into(), keeper };
        postfix
            .until("it listens", async || tokio::net::TcpStream::connect(postfix.address).await.is_ok(), START_LIMIT)
            .await;
        postfix
    }

    pub async fn client(&self) -> Client {
        let mut client = Client::connect(self.address).await;
        client.ask("EHLO program.example").await.is("250 ");
        client
    }

    /// The process id of its master, which is the id of the session of all its processes.
    pub fn master(&self) -> String {
        let id = fs::read_to_string(self.folder.join("queue/pid/master.pid")).expect("a running master");
        id.trim().to_owned()
    }

    pub fn log(&self) -> String {
        let read = |name| fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        read("master") + &read("log")
    }

    /// Waits until the log has a line with all these words.
    pub async fn until_logged(&self, words: &[&str]) {
        let logged = async || self.log().lines().any(|line| words.iter().all(|word| line.contains(word)));
        self.until(&format!("a line of its log has {words:?}"), logged, SOON).await;
    }

    async fn until(&self, what: &str, holds: impl AsyncFn() -> bool, limit: Duration) {
        let deadline = Instant::now() + limit;
        while !holds().await {
            assert!(Instant::now() < deadline, "Postfix: not in time: {what}; its log:\n{}", self.log());
            sleep(Duration::from_millis(20)).await;
        }
    }
}

fn as_root(program: &str) -> Command {
    if fs::metadata("/proc/self").expect("a process").uid() == 0 {
        return Command::new(program);
    }
    let sudo = || {
        let mut command = Command::new("sudo");
        command.arg("--non-interactive");
        command
    };
    let may = sudo().arg("true").status().is_ok_and(|status| status.success());
    assert!(may, "Postfix insists on root; run the tests as root, or as a user whose sudo asks for no password");
    let mut command = sudo();
    command.arg(program);
    command
}

/// The program that knows the rest; Debian keeps it off the path of users who are not root.
fn postconf() -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&paths).chain([PathBuf::from("/usr/sbin")]);
    folders.find_map(|folder| Some(folder.join("postconf")).filter(|path| path.exists()))
}

fn daemon_directory() -> PathBuf {
    let postconf = postconf().unwrap_or_else(|| panic!("there is no postconf on this machine; {INSTALL}"));
    let output = Command::new(postconf).args(["-d", "-h", "daemon_directory"]).output().expect("Postfix's settings");
    let directory = String::from_utf8(output.stdout).expect("a path");
    let directory = Path::new(directory.trim());
    assert!(directory.join("master").exists(), "there is no Postfix in {}; {INSTALL}", directory.display());
    directory.to_owned()
}
