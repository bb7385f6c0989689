//! The sink as a program, for the demo and for trying things by hand: `sink DIRECTORY [ADDRESS]`.
//!
//! It prints `listening on ADDRESS`, takes every mail and writes each to a file of DIRECTORY.

use std::net::SocketAddr;
use std::path::PathBuf;

#[expect(dead_code, reason = "a sink that only listens needs no misbehaviour")]
#[path = "../it/support/sink/mod.rs"]
mod sink;

use sink::{Sink, SinkOptions};

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (directory, address) = match arguments.as_slice() {
        [directory] => (PathBuf::from(directory), "127.0.0.1:0".to_owned()),
        [directory, address] => (PathBuf::from(directory), address.clone()),
        _ => {
            eprintln!("usage: sink DIRECTORY [ADDRESS]");
            std::process::exit(2);
        }
    };
    let Ok(address) = address.parse::<SocketAddr>() else {
        eprintln!("{address} is not an address such as 127.0.0.1:2525");
        std::process::exit(2);
    };
    if let Err(error) = std::fs::create_dir_all(&directory) {
        eprintln!("making {}: {error}", directory.display());
        std::process::exit(1);
    }
    let options = SinkOptions { address, keep: false, directory: Some(directory), ..SinkOptions::default() };
    let sink = Sink::start(options).await;
    println!("listening on {}", sink.address());
    std::future::pending::<()>().await;
}
