//! One test binary for all that crosses a room's border: the real API server, the real wire, the whole story.

mod admission;
mod boundaries;
mod chart;
mod chart_apart;
mod chart_life;
mod disk;
mod examples;
mod examples_postgres;
mod fleet;
mod generated;
mod image;
mod kills;
mod leader;
mod meters;
mod operator;
mod pod;
mod process;
mod refusals;
mod relay;
mod replaced;
mod rust_tokens;
mod spread;
mod story;
mod support;
mod swapped;
mod upstream;
