#!/usr/bin/env bash
# Format, lints and the tests that need no running server.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$ROOT"

step "format"
cargo fmt --all --check
step "lints"
cargo clippy -p trem_wire -p trem_applier -p trem_tests --all-targets -- -D warnings
cargo clippy -p trem --all-targets --no-default-features --features "pg$(pg_major),pg_test" \
    -- -D warnings
step "unit tests"
cargo test -p trem_wire -p trem_applier
step "tidy"
cargo test -p trem_tests --lib --test tidy
