//! Starts a real kcp, real key stores and the built binaries, and drives them.
//!
//! Two programs stand on this crate: `openkcm-dev` (`make up`, `make down`) leaves everything running for a person, and
//! the scenarios in `tests/e2e` take everything down with them. Both use the same recipes, so what a person
//! tries by hand is what the tests prove.
//!
//! - [`process`]: a child process with a log, that dies with its owner or outlives it on purpose.
//! - [`kcp`], [`workspace`]: the API server and what a user does in a workspace.
//! - [`stores`]: the key stores.
//! - [`collector`]: where traces go.
//! - [`link`]: a network between two processes that can be disturbed.
//! - [`installation`]: one published export with its provider and edges; a kcp can hold several.
//! - [`crashes`]: ending the provider at its named steps.
//! - [`fleet`]: what `make up` puts into its demo workspace, and the teams that use it.
//! - [`story`]: what a scenario is written in, and the report when one fails.
#![warn(missing_docs)]

pub mod collector;
pub mod crashes;
pub mod fleet;
pub mod installation;
pub mod kcp;
pub mod link;
pub mod paths;
pub mod process;
pub mod stores;
pub mod story;
pub mod wait;
pub mod workspace;
