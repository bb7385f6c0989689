//! A real PostgreSQL server for tests, one for each process that asks, gone with it.
//!
//! It lies in memory where the machine has a folder for that, with `fsync` on, and runs as an unprivileged user
//! because the server refuses root. A shell stands between: when the test process ends, however it ends, its end of
//! the pipe closes, and the shell stops the server by its process id and removes the folder.

use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Names a server to use in place of our own: a URI of a user who may create schemas.
const ELSEWHERE: &str = "FRANKING_TEST_POSTGRES";
const START_LIMIT: Duration = Duration::from_secs(60);

/// For tests that need any server: a URI.
pub fn url() -> &'static str {
    static OWN: OnceLock<(String, Option<Server>)> = OnceLock::new();
    let (url, _) = OWN.get_or_init(|| match std::env::var_os(ELSEWHERE) {
        Some(url) => (url.into_string().expect("a URI"), None),
        None => {
            let server = Server::start(Folder::new(), &[]);
            (server.url(), Some(server))
        }
    });
    url
}

/// Where the server's programs are: Debian keeps them off the path.
pub fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut found: Vec<PathBuf> = versions.filter_map(|version| Some(version.ok()?.path().join("bin"))).collect();
    // Newest last; whatever is on the path comes first.
    found.sort();
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = std::env::split_paths(&paths).chain(found).collect();
    let needed = ["initdb", "postgres", "pg_isready", "pg_basebackup", "pg_ctl"];
    found.retain(|bin| needed.iter().all(|program| bin.join(program).exists()));
    found.pop().unwrap_or_else(|| {
        panic!("there is no PostgreSQL server on this machine; install the package postgresql, or set {ELSEWHERE}")
    })
}

/// The user that the server runs as, where we are root: whoever Debian made for it, else nobody.
fn server_user() -> Option<(u32, u32)> {
    if fs::metadata("/proc/self").expect("a process").uid() != 0 {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").expect("users");
    let ids = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    Some(ids("postgres").or_else(|| ids("nobody")).expect("a user other than root"))
}

/// A command as the server's user.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    if let Some((user, group)) = server_user() {
        command.uid(user).gid(group);
    }
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Runs to its end, or says what it said.
pub fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A folder of the server's user, in memory if that is possible.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        let memory = Path::new("/dev/shm");
        Self::within(if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() })
    }

    /// One in another place, such as a disk, for who wants to know what `fsync` costs.
    pub fn within(parent: PathBuf) -> Self {
        let folder = tempfile::Builder::new().prefix("franking-postgres-").tempdir_in(parent).expect("a folder").keep();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("ours");
        if let Some((user, group)) = server_user() {
            std::os::unix::fs::chown(&folder, Some(user), Some(group)).expect("the server's");
        }
        Self(folder)
    }

    pub fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    fn make_database(&self) {
        run(command(&programs().join("initdb")).arg("--pgdata").arg(self.data()).args([
            "--username=franking",
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
        ]));
    }
}

/// A running server.
pub struct Server {
    pub folder: PathBuf,
    pub port: u16,
    /// The shell that ends it.
    keeper: Child,
}

/// A file that says that the folder is still wanted.
const KEEP: &str = "keep";

/// Runs the server, stops it when its own standard input ends, and cleans up. What follows the first two words goes before
/// the server's command.
const KEEPER: &str = "bin=$1 place=$2; shift 2; \"$@\" \"$bin/postgres\" -D \"$place/data\" >>\"$place/log\" 2>&1 & \
    server=$!; cat >/dev/null; kill -QUIT $server 2>/dev/null; wait $server; \
    if [ ! -e \"$place/keep\" ]; then rm -rf \"$place\"; fi";

/// Mounts a small file system and goes on with the rest of the words: in a mount namespace of the server's own, so that
/// it ends with it, and no right of whoever runs the tests is asked for.
const SMALL: &str = "place=$1 options=$2; shift 2; mount -t tmpfs -o \"$options\" none \"$place/small\" && exec \"$@\"";

impl Server {
    /// Makes a database cluster in the folder and starts it. `settings` are lines of `postgresql.conf`.
    pub fn start(folder: Folder, settings: &[&str]) -> Self {
        folder.make_database();
        Self::resume(folder.0, free_port(), settings)
    }

    /// The same with a file system of its own of so many megabytes, at `small` in the folder: one that can be filled.
    pub fn start_with_room(megabytes: u32) -> Self {
        let folder = Folder::new();
        folder.make_database();
        let small = folder.0.join("small");
        fs::create_dir(&small).expect("a folder");
        let mut before: Vec<String> = vec!["unshare".into(), "--mount".into()];
        let mut options = format!("size={megabytes}m,mode=700");
        let mut after = vec![];
        match server_user() {
            Some((user, group)) => {
                options += &format!(",uid={user},gid={group}");
                after = vec![
                    "setpriv".into(),
                    format!("--reuid={user}"),
                    format!("--regid={group}"),
                    "--clear-groups".into(),
                ];
            }
            None => before.extend(["--user".into(), "--map-current-user".into(), "--keep-caps".into()]),
        }
        let place = folder.0.display().to_string();
        before.extend(["sh".into(), "-c".into(), SMALL.into(), "small".into(), place, options]);
        let keeper = |folder: &Path| keep(Command::new("/bin/sh"), folder, &[before, after].concat());
        Self::run(folder.0, free_port(), &["autovacuum = off"], keeper)
    }

    /// Starts what lies in a folder.
    pub fn resume(folder: PathBuf, port: u16, settings: &[&str]) -> Self {
        Self::run(folder, port, settings, |folder| keep(command(Path::new("/bin/sh")), folder, &[]))
    }

    fn run(folder: PathBuf, port: u16, settings: &[&str], keeper: impl FnOnce(&Path) -> Child) -> Self {
        let mut lines = vec![
            "listen_addresses = '127.0.0.1'".to_owned(),
            format!("port = {port}"),
            format!("unix_socket_directories = '{}'", folder.display()),
            "max_connections = 400".to_owned(),
            "shared_buffers = '64MB'".to_owned(),
            "max_wal_size = '512MB'".to_owned(),
            "fsync = on".to_owned(),
            // In its folder, so that a server that is killed leaves nothing in the machine's memory.
            "dynamic_shared_memory_type = mmap".to_owned(),
        ];
        lines.extend(settings.iter().map(|line| (*line).to_owned()));
        fs::write(folder.join("data/postgresql.auto.conf"), lines.join("\n") + "\n").expect("settings");
        let _ = fs::remove_file(folder.join(KEEP));
        let mut server = Self { keeper: keeper(&folder), folder, port };
        server.wait();
        server
    }

    fn wait(&mut self) {
        let deadline = Instant::now() + START_LIMIT;
        let ready = || {
            let mut ready = command(&programs().join("pg_isready"));
            ready.args(["--quiet", "--host=127.0.0.1", &format!("--port={}", self.port)]);
            ready.status().is_ok_and(|status| status.success())
        };
        while !ready() {
            assert!(Instant::now() < deadline, "the server did not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn log(&self) -> String {
        let mut text = String::new();
        let _ = fs::File::open(self.folder.join("log")).and_then(|mut log| log.read_to_string(&mut text));
        text
    }

    pub fn url(&self) -> String {
        format!("postgresql://franking@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }

    /// The process id of the server itself.
    fn process(&self) -> String {
        let file = fs::read_to_string(self.folder.join("data/postmaster.pid")).expect("a running server");
        file.lines().next().expect("a process id").to_owned()
    }

    fn signal(&self, signal: &str) {
        run(Command::new("kill").args([signal, &self.process()]).stderr(Stdio::piped()));
    }

    /// Ends all its processes at once, and waits until they are gone. The folder stays.
    pub fn kill(self) -> PathBuf {
        let folder = self.folder.clone();
        fs::write(folder.join(KEEP), "").expect("a mark for the shell");
        let server = self.process();
        let mut all = children(&server);
        all.push(server);
        // One of them may have ended meanwhile.
        let _ = Command::new("kill").arg("-KILL").args(&all).stderr(Stdio::null()).status();
        let deadline = Instant::now() + START_LIMIT;
        while all.iter().any(|process| is_running(process)) {
            assert!(Instant::now() < deadline, "the server's processes do not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        folder
    }

    /// A copy that follows this server, under a name.
    pub fn standby(&self, name: &str) -> Self {
        let folder = Folder::new();
        run(command(&programs().join("pg_basebackup"))
            .args(["--host=127.0.0.1", &format!("--port={}", self.port), "--username=franking", "--no-sync"])
            .args(["--checkpoint=fast", "--wal-method=stream", "--pgdata"])
            .arg(folder.data()));
        fs::write(folder.data().join("standby.signal"), "").expect("a mark");
        if let Some((user, group)) = server_user() {
            std::os::unix::fs::chown(folder.data().join("standby.signal"), Some(user), Some(group)).expect("ours");
        }
        Self::resume(folder.0, free_port(), &[&self.leads(name)])
    }

    /// The setting of a copy that follows this server.
    pub fn leads(&self, name: &str) -> String {
        format!("primary_conninfo = 'host=127.0.0.1 port={} user=franking application_name={name}'", self.port)
    }

    /// Makes a copy a server of its own.
    pub fn promote(&self) {
        run(command(&programs().join("pg_ctl")).args(["promote", "--pgdata"]).arg(self.folder.join("data")));
    }

    /// Has it read its settings again, after `lines` were added to them.
    pub fn configure(&self, lines: &[&str]) {
        let path = self.folder.join("data/postgresql.auto.conf");
        let before = fs::read_to_string(&path).expect("settings");
        fs::write(&path, before + &lines.join("\n") + "\n").expect("settings");
        self.signal("-HUP");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The pipe closes: the shell does the rest.
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// A primary with a standby that every commit waits for.
pub struct Pair {
    pub primary: Server,
    pub standby: Server,
}

impl Pair {
    /// The standby's name.
    pub const STANDBY: &str = "follower";

    pub fn start() -> Self {
        let primary = Server::start(Folder::new(), &["wal_level = replica", "max_wal_senders = 4"]);
        let standby = primary.standby(Self::STANDBY);
        primary.configure(&[&format!("synchronous_standby_names = '{}'", Self::STANDBY)]);
        Self { primary, standby }
    }

    /// Names both.
    pub fn url(&self) -> String {
        let (one, other) = (self.primary.port, self.standby.port);
        format!("postgresql://franking@127.0.0.1:{one},127.0.0.1:{other}/postgres?sslmode=disable")
    }
}

fn keep(mut shell: Command, folder: &Path, before: &[String]) -> Child {
    shell.current_dir("/").stdout(Stdio::null());
    shell.arg("-c").arg(KEEPER).arg("keeper").arg(programs()).arg(folder).args(before);
    shell.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().expect("a shell")
}

/// The fields of a process's state after its name: state, parent.
fn state(process: &str) -> Option<(String, String)> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
}

fn is_running(process: &str) -> bool {
    state(process).is_some_and(|(state, _)| state != "Z")
}

fn children(parent: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").expect("processes");
    let names = processes.filter_map(|process| process.ok()?.file_name().into_string().ok());
    names.filter(|name| state(name).is_some_and(|(_, of)| of == parent)).collect()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port()
}
