//! What is compared takes turns: each contender runs for a while, in rounds, so that a busy machine is busy for all.

use std::net::SocketAddr;

use super::generator::{self, Load, Report};
use super::part::Part;
use super::peer::Peer;
use super::size::sized;

/// Of which the median is taken.
pub const ROUNDS: usize = 3;

/// Whose CPU time is read.
#[derive(Clone, Copy)]
pub enum Meter<'a> {
    None,
    Part(&'a Part),
    Peer(&'a Peer),
}

impl Meter<'_> {
    fn cpu_seconds(self) -> Option<f64> {
        match self {
            Self::None => None,
            Self::Part(part) => Some(part.cpu_seconds()),
            Self::Peer(peer) => Some(peer.cpu_seconds()),
        }
    }
}

pub struct Contender<'a> {
    name: String,
    load: Load,
    meter: Meter<'a>,
    reports: Vec<Report>,
    /// For each thousand messages, of each round.
    cpu: Vec<f64>,
}

impl<'a> Contender<'a> {
    pub fn new(name: impl Into<String>, address: SocketAddr, load: &Load, meter: Meter<'a>) -> Self {
        let load = Load { address, ..load.clone() };
        Self { name: name.into(), load, meter, reports: vec![], cpu: vec![] }
    }

    async fn run(&mut self) {
        let before = self.meter.cpu_seconds();
        let report = generator::run(&self.load).await;
        if let (Some(before), Some(after)) = (before, self.meter.cpu_seconds()) {
            // The warm-up burns CPU too, at the same rate.
            let share = report.seconds / (report.seconds + generator::warm_up().as_secs_f64());
            self.cpu.push((after - before) * share * 1000.0 / report.messages.max(1) as f64);
        }
        self.reports.push(report);
    }

    pub fn rate(&self) -> f64 {
        median(self.reports.iter().map(Report::rate))
    }

    /// In milliseconds.
    fn percentile(&self, part: f64) -> f64 {
        median(self.reports.iter().map(|report| report.percentile(part)))
    }
}

/// Lets them run in turns, and prints each beside the first.
pub async fn compare(contenders: &mut [Contender<'_>], beside: &str) {
    for _ in 0..sized(ROUNDS, 1) {
        for contender in &mut *contenders {
            contender.run().await;
        }
    }
    let floor = contenders.first().map_or(0.0, Contender::rate);
    for contender in contenders {
        let cpu = match contender.cpu.as_slice() {
            [] => String::new(),
            cpu => format!(", {:.2} CPU s per 1,000", median(cpu.iter().copied())),
        };
        println!(
            "  {:38} {:8.0} messages/s, {:.3} of {beside}, p50 {:.2} ms, p99 {:.2} ms{cpu}",
            contender.name,
            contender.rate(),
            contender.rate() / floor,
            contender.percentile(0.5),
            contender.percentile(0.99),
        );
    }
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(0.0)
}
