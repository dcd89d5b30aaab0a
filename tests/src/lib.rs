//! The harness of the end-to-end tests: real clusters, the real extension, the real program.
//!
//! ```no_run
//! use trem_tests::Pair;
//!
//! let mut pair = Pair::new();
//! pair.source.exec("CREATE TABLE item (id int PRIMARY KEY, name text)");
//! pair.create_task("t", &["public.item"]);
//! pair.start_task("t");
//! pair.replicate("t"); // trem-applier run --until-caught-up, must exit 0
//! pair.assert_same_table("public.item");
//! ```
//!
//! # What a test gets
//! [`Pair`] is a source and a target cluster of the test's own, in a folder of its own, on Unix
//! sockets only: tests run side by side. The source has the extension, a role for the applier with
//! no right but REPLICATION, and both endpoints; the target an empty database and a role that owns
//! it and is no superuser. When the test ends the clusters are stopped and the folder is removed.
//!
//! [`Applier`] is the program as a process: started, killed, told to stop, waited for. What it logs
//! is read at the end: a WARN or ERROR that the test did not announce ([`Pair::expect_log`]) fails
//! it.
//!
//! [`Recorder`] stands between the applier and the source and keeps what passes
//! ([`Pair::record`]).
//!
//! # Waiting
//! Tests never sleep. They wait for a state ([`wait_for`]) or a position ([`Pair::catch_up`]), with
//! a deadline. Where PostgreSQL offers no notification (a row of another database, a slot's state)
//! the harness looks again every few milliseconds ([`look_until`]); no test has another sleep.
//!
//! # Which programs
//! The server: `.work/pg_config`, the private copy that `make setup` makes (tools/server.sh); or
//! `TREM_PG_CONFIG`. The applier: `TREM_APPLIER`, or the newer of `target/{release,debug}`.
//! `make test` builds both and installs the extension first; by hand: `tools/test.sh end-to-end`.
//!
//! # When a test fails
//! The ends of all logs are printed, and whole ones kept in `.work/failed/<test>`. With
//! `TREM_KEEP=1` the clusters stay up as well, and how to connect is printed. Random tests print
//! their seed; `TREM_SEED=<seed>` runs them again.

mod applier;
mod cluster;
mod compare;
mod database;
mod large;
mod pair;
mod places;
mod random;
mod recorder;
mod wait;

pub use applier::{Applier, Outcome};
pub use cluster::{knows_output_plugin_libraries, Cluster, Settings};
pub use compare::{difference, table_content, Content};
pub use database::{Database, Failure};
pub use large::noise;
pub use pair::Pair;
pub use places::{extension_scripts, output, root, server_programs};
pub use random::Random;
pub use recorder::Recorder;
pub use wait::{look_until, wait_for, wait_for_value, DEADLINE};
