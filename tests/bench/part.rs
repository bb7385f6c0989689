//! The parts of a benchmark that run as processes of their own, so that each one's CPU time can be read.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::support::sink::{Sink, SinkOptions, SinkTls};

pub const SINK: &str = "part-sink";
pub const TLS_SINK: &str = "part-tls-sink";
pub const MANY_SINKS: &str = "part-sinks";
pub const COPIER: &str = "part-copier";
pub const RELAY: &str = "part-relay";
pub const IDLE: &str = "part-idle";
pub const BUSY: &str = "part-busy";

/// A running part. It ends with this value.
pub struct Part {
    child: Child,
    pub address: SocketAddr,
}

impl Part {
    /// Starts this program again as one of its parts.
    pub async fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("the path of this program"));
        command.args(arguments);
        Self::spawn(command).await
    }

    /// Starts a relay in front of `sink`, with as many policies (each with its upstream) and accounts.
    pub async fn relay(mode: &str, folder: &Path, sink: SocketAddr, policies: usize, accounts: usize) -> Self {
        let folder = folder.to_str().expect("a path in UTF-8");
        let [sink, policies, accounts] = [sink.to_string(), policies.to_string(), accounts.to_string()];
        Self::spawn(roomy(&[RELAY, mode, folder, &sink, &policies, &accounts])).await
    }

    /// Starts a program that prints `listening on ADDRESS`.
    pub async fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("starting a part");
        let stdout = child.stdout.take().expect("the part's output");
        let mut lines = BufReader::new(stdout).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some(address) = line.split("listening on ").nth(1) {
                let address = address.trim().parse().expect("the part's address");
                return Self { child, address };
            }
        }
        panic!("a part ended before it listened");
    }

    /// Memory that it has now, in kB.
    pub fn resident_kb(&self) -> u64 {
        let pid = self.child.id().expect("a running part");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the part's figures");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Seconds of CPU used so far, in user and kernel space.
    pub fn cpu_seconds(&self) -> f64 {
        let pid = self.child.id().expect("a running part");
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the part's figures");
        // Fields 14 and 15, counted after the name, which ends with the last parenthesis; in ticks of 10 ms.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        (ticks(11) + ticks(12)) / 100.0
    }
}

/// This program again, with as many open files as it may have.
pub fn roomy(arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n $(ulimit -H -n); exec \"$0\" \"$@\""]);
    command.arg(std::env::current_exe().expect("the path of this program")).args(arguments);
    command
}

/// The sink alone: counts and forgets.
pub async fn sink(tls: SinkTls) {
    let sink = Sink::start(SinkOptions { tls, keep: false, ..SinkOptions::default() }).await;
    println!("listening on {}", sink.address());
    std::future::pending::<()>().await;
}

/// The same at every loopback address, so that it is many upstreams.
pub async fn sinks() {
    let address = ([0, 0, 0, 0], 0).into();
    let sink = Sink::start(SinkOptions { address, keep: false, ..SinkOptions::default() }).await;
    println!("listening on 127.0.0.1:{}", sink.address().port());
    std::future::pending::<()>().await;
}

/// A hop that does nothing but copy: what any relay costs at the least.
pub async fn copier(to: &str) {
    let to: SocketAddr = to.parse().expect("where to copy to");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("listening on {}", listener.local_addr().expect("its address"));
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(to).await else { return };
            if client.set_nodelay(true).is_err() || server.set_nodelay(true).is_err() {
                return;
            }
            let (client_in, client_out) = client.into_split();
            let (server_in, server_out) = server.into_split();
            tokio::join!(copy(client_in, server_out), copy(server_in, client_out));
        });
    }
}

async fn copy(mut from: tokio::net::tcp::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
    // The other side hears the end too; it may be gone already.
    let _ = to.shutdown().await;
}
