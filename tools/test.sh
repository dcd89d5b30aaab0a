#!/usr/bin/env bash
# The whole suite, or the parts named as arguments: check, pgrx-test, pgrx-regress, end-to-end.
#
# Every part runs even if an earlier one failed, so that one run tells everything; the last line
# adds all of them up.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$ROOT"

run_folder=$(make_run_folder test)
logs=$(mktemp -d)
failed_parts=()
mkdir "$logs/parts"

# cargo-pgrx and its tests connect as the user of the operating system: a service file says that it
# is the superuser of the cluster instead.
export PGSERVICEFILE=$logs/service PGSERVICE=trem
printf '[trem]\nuser=postgres\n' >"$PGSERVICEFILE"

# Whatever happens, no server stays behind.
clean_up() {
    local data
    for data in $(find "$run_folder" -name postmaster.pid); do
        "$("$WORK/pg_config" --bindir)/pg_ctl" stop -m immediate -D "$(dirname "$data")" \
            >/dev/null || true
    done
    rm -rf "$run_folder" "$logs"
}
trap clean_up EXIT

part() {
    local name=$1
    shift
    step "$name"
    # Colours would hide the counts from the sum below.
    if ! CARGO_TERM_COLOR=never NO_COLOR=1 "$@" 2>&1 | tee "$logs/parts/$name"; then
        failed_parts+=("$name")
    fi
}

pgrx_test() {
    local major
    major=$(pg_major)
    as_server_user mkdir "$run_folder/pgrx"
    (cd trem_ext && USER=postgres CARGO_PGRX_TEST_PGDATA=$run_folder/pgrx \
        cargo pgrx test "pg$major" --no-default-features --features "pg$major")
}

# cargo-pgrx keeps the cluster of its regression tests in PGRX_HOME, which the server's user may be
# unable to reach and whose path may be too long for a socket: a home of its own for this run.
pgrx_regress() {
    local major port settings=(
        wal_level=logical max_replication_slots=20 max_wal_senders=20 fsync=off
        listen_addresses=localhost
    )
    major=$(pg_major)
    port=$(free_port)
    if has_output_plugin_libraries; then
        settings+=(output_plugin_libraries=pgoutput,test_decoding,trem)
    fi
    {
        printf 'base_port = %s\n' $((port - major))
        cat "$WORK/pgrx/config.toml"
    } >"$run_folder/config.toml"
    rm -f tests/pg_regress/regression.diffs
    if ! (cd trem_ext && PGRX_HOME=$run_folder cargo pgrx regress "pg$major" --release \
        --no-default-features --features "pg$major" --resetdb --psql-verbosity default \
        "${settings[@]/#/--postgresql-conf=}"); then
        cat tests/pg_regress/regression.diffs || true
        return 1
    fi
}

free_port() {
    local port
    while port=$((RANDOM % 10000 + 20000)); do
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            say $port
            return
        fi
    done
}

# Every test program but tidy, which check has run.
end_to_end() {
    local programs
    mapfile -t programs < <(basename -as .rs tests/tests/*.rs | grep -vx tidy)
    cargo build --release -p trem_applier &&
        tools/install.sh "$WORK/pg_config" &&
        TREM_RUN_FOLDER=$run_folder TREM_APPLIER=$ROOT/target/release/trem-applier \
            cargo test -p trem_tests --no-fail-fast "${programs[@]/#/--test=}"
}

# "test result: ok. 3 passed; 1 failed; ..." of cargo, "passed=3 failed=1 [skipped=1]" of pgrx. A
# regression test without expected output is skipped by pgrx: nobody looked at it, so it failed.
add_up() {
    cat "$logs"/parts/* | sed -nE \
        -e 's/.*test result: .* ([0-9]+) passed; ([0-9]+) failed;.*/\1 \2/p' \
        -e 's/^passed=([0-9]+) failed=([0-9]+) skipped=([0-9]+).*/\1 \2 \3/p' \
        -e 's/^passed=([0-9]+) failed=([0-9]+)$/\1 \2/p' |
        awk '{ passed += $1; failed += $2 + $3 } END { print passed + 0, failed + 0 }'
}

if [ $# = 0 ]; then set -- check pgrx-test pgrx-regress end-to-end; fi
for wanted in "$@"; do
    case $wanted in
        check) part check tools/check.sh ;;
        pgrx-test) part "cargo pgrx test" pgrx_test ;;
        pgrx-regress) part "cargo pgrx regress" pgrx_regress ;;
        end-to-end) part "end to end" end_to_end ;;
        *) fail "unknown part \"$wanted\": check, pgrx-test, pgrx-regress or end-to-end" ;;
    esac
done

read -r passed failed < <(add_up)
step "result"
if [ ${#failed_parts[@]} -gt 0 ]; then
    # A part that fails to build has no count of its own, and must show.
    if [ "$failed" = 0 ]; then failed=${#failed_parts[@]}; fi
    printf 'failed: %s\n' "${failed_parts[@]}"
fi
say "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ ${#failed_parts[@]} = 0 ] && [ "$passed" -gt 0 ]
