//! What an applier asks first: which versions of the stream this extension speaks.

use pgrx::prelude::*;
use trem_wire::{PROTO_VERSION, PROTO_VERSION_MIN};

/// Depends on nothing that can be set, so it pins no settings.
#[pg_extern(immutable, parallel_safe)]
fn applier_protocol() -> TableIterator<
    'static,
    (name!(oldest, i32), name!(newest, i32), name!(extension_version, &'static str)),
> {
    let of = |version| i32::try_from(version).unwrap_or(i32::MAX);
    let version = env!("CARGO_PKG_VERSION");
    TableIterator::once((of(PROTO_VERSION_MIN), of(PROTO_VERSION), version))
}
