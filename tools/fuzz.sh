#!/usr/bin/env bash
# Feeds the decoder of the stream with bytes that libFuzzer makes up: trem_wire/fuzz.
#
# SECONDS_MAX=600 says for how long. The corpus stays in .work/fuzz, and so does an input that
# fails. Needs a C++ compiler, but neither nightly Rust nor cargo-fuzz: the flags below are those
# that cargo-fuzz sets, without the address sanitizer, which has nothing to find in a crate without
# unsafe code.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

coverage=(
    -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares
    -Cdebug-assertions -Coverflow-checks
    --cfg fuzzing
)
corpus=$WORK/fuzz/corpus
mkdir -p "$corpus"
# For a named target, so that build scripts are not instrumented.
target=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR=$ROOT/target/fuzz RUSTFLAGS="${coverage[*]}"
cargo build --release --target "$target" --manifest-path "$ROOT/trem_wire/fuzz/Cargo.toml"
"$CARGO_TARGET_DIR/$target/release/decode" "$corpus" -artifact_prefix="$WORK/fuzz/" \
    -max_total_time="${SECONDS_MAX:-60}" -rss_limit_mb=512 -timeout=10 -print_final_stats=1
