#!/usr/bin/env bash
# TREM beside what people use today, measured in one run: tests/benches/bench.
#
# ONLY=cdc-insert[,decode] runs some workloads, SCALE=0.1 makes all of them smaller, RUNS=5 repeats
# them. Packages of what TREM is compared with are installed if they are missing.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$ROOT"

root=()
is_root || root=(sudo)

# The peers: pgcopydb, and the output plugin wal2json. Everything else is PostgreSQL's own.
install_peers() {
    local missing=()
    command -v pgcopydb >/dev/null || missing+=(pgcopydb)
    [ -e "$("$PG_CONFIG" --pkglibdir)/wal2json.so" ] || missing+=("postgresql-$(pg_major)-wal2json")
    if [ ${#missing[@]} = 0 ]; then return; fi
    command -v apt-get >/dev/null || fail "these are missing and there is no apt-get: ${missing[*]}"
    step "installing packages: ${missing[*]}"
    apt_install() {
        "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y --no-install-recommends "${missing[@]}" </dev/null
    }
    apt_install || { "${root[@]}" apt-get update </dev/null && apt_install; } ||
        fail "apt-get could not install: ${missing[*]}"
}

install_peers
# The private copy of the server was made before, perhaps without the plugin.
cp "$("$PG_CONFIG" --pkglibdir)/wal2json.so" "$("$WORK/pg_config" --pkglibdir)/"

step "building (.work/bench-build.log)"
if ! { cargo build --release -p trem_applier && tools/install.sh "$WORK/pg_config" &&
    cargo bench --no-run -p trem_tests --bench bench; } >"$WORK/bench-build.log" 2>&1; then
    cat "$WORK/bench-build.log"
    fail "the build failed"
fi

run_folder=$(make_run_folder bench)

# Whatever happens, no server and no applier stays behind. The bench runs in a process group of its
# own, appliers included.
group=
clean_up() {
    local data
    [ -z "$group" ] || kill -TERM -- "-$group" 2>/dev/null || true
    for data in $(find "$run_folder" -name postmaster.pid); do
        "$("$WORK/pg_config" --bindir)/pg_ctl" stop -m immediate -D "$(dirname "$data")" \
            >/dev/null || true
    done
    rm -rf "$run_folder"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

arguments=(--scale "${SCALE:-1}")
if [ -n "${ONLY:-}" ]; then arguments+=(--only "$ONLY"); fi
if [ -n "${RUNS:-}" ]; then arguments+=(--runs "$RUNS"); fi
TREM_RUN_FOLDER=$run_folder TREM_APPLIER=$ROOT/target/release/trem-applier setsid \
    cargo bench -q -p trem_tests --bench bench -- "${arguments[@]}" &
group=$!
wait "$group"
