//! The applier: takes a task's first copy, then consumes its slot and loads the target.
//!
//! It keeps no state of its own: everything needed to resume is in the target and the source.
//!
//! [`supervisor`] runs one [`worker`] per task; a worker joins [`source`], [`apply`] and
//! [`target`], which do not know each other (but for the actions that `apply` hands to `target`).

pub mod apply;
pub mod check;
pub mod cli;
pub mod connect;
pub mod conninfo;
mod dial;
pub mod error;
pub mod load;
pub mod metrics;
pub mod net;
pub mod report;
pub mod source;
pub mod stop;
pub mod supervisor;
pub mod target;
pub mod telemetry;
mod tls;
mod transport;
pub mod validate;
mod value;
pub mod worker;
