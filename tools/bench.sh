#!/usr/bin/env bash
# TREM beside what people use today, measured in one run: tests/benches/bench.
#
# ONLY=cdc-insert[,decode] runs some workloads, SCALE=0.1 makes all of them smaller, RUNS=5 repeats
# them.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$ROOT"

# The peers that are not PostgreSQL's own, from Debian's packages: unpacked into .work/peers, so that
# nothing gets into the system.
peers=$WORK/peers
mkdir -p "$peers/packages"

# `fetch PACKAGE FILE`: the file of the package, under .work/peers.
fetch() {
    local package=$1 file=$2
    if [ -e "$peers$file" ]; then return; fi
    command -v apt-get >/dev/null || fail "there is no apt-get to get $package with"
    step "unpacking $package into .work/peers"
    local download=(env -C "$peers/packages" apt-get download -q "$package")
    "${download[@]}" || { is_root && apt-get update -q && "${download[@]}"; } ||
        fail "apt-get could not download $package (as root: apt-get update)"
    dpkg-deb -x "$peers"/packages/"$package"_*.deb "$peers"
    [ -e "$peers$file" ] || fail "$package has no $file"
}

wal2json=/usr/lib/postgresql/$(pg_major)/lib/wal2json.so
fetch pgcopydb /usr/bin/pgcopydb
fetch "postgresql-$(pg_major)-wal2json" "$wal2json"
export PATH=$peers/usr/bin:$PATH
cp "$peers$wal2json" "$("$WORK/pg_config" --pkglibdir)/"

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
