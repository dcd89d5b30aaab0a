#!/usr/bin/env bash
# Installs the release build of the extension into the PostgreSQL of pg_config $1.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

pg_config=${1:-$PG_CONFIG}
sudo=()
if ! [ -w "$("$pg_config" --pkglibdir)" ] || ! [ -w "$("$pg_config" --sharedir)/extension" ]; then
    command -v sudo >/dev/null ||
        fail "no right to write to $("$pg_config" --pkglibdir): run make install as root."
    sudo=(--sudo)
fi
cd "$ROOT/trem_ext"
cargo pgrx install --release --no-default-features --features "pg$(pg_major "$pg_config")" \
    --pg-config "$pg_config" "${sudo[@]}"
${sudo[@]/#--/} "$ROOT/tools/upgrade.sh" "$("$pg_config" --sharedir)/extension"
