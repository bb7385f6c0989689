//! One test binary for all that crosses a room's border: the real API server, the real wire, the whole story.

mod relay;
mod support;
mod upstream;
