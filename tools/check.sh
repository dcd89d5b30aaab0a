#!/usr/bin/env bash
# Format, lints and the tests that need no running server. All of it runs, whatever fails.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$ROOT"

failed=()
check() {
    local name=$1
    shift
    step "$name"
    "$@" || failed+=("$name")
}

check "format" cargo fmt --all --check
check "lints" cargo clippy -p trem_wire -p trem_applier -p trem_tests --all-targets -- -D warnings
check "lints of the extension" cargo clippy -p trem --all-targets --no-default-features \
    --features "pg$(pg_major),pg_test" -- -D warnings
check "unit tests" cargo test -p trem_wire -p trem_applier --no-fail-fast
check "tidy" cargo test -p trem_tests --no-fail-fast --lib --test tidy

if [ ${#failed[@]} -gt 0 ]; then
    step "failed"
    printf '%s\n' "${failed[@]}"
    exit 1
fi
