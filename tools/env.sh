# What every script here agrees on. Sourced, never run.
#
# Nothing outside the checkout is written to, except by `setup` (packages, cargo-pgrx) and `install`
# (the extension). Tests and demo use a private copy of the server's programs (tools/server.sh), so
# that a debug build of the extension never ends up in the machine's own PostgreSQL.

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
WORK=$ROOT/.work
PGRX_VERSION=0.18.1
PG_MAJOR_DEFAULT=15

# PostgreSQL refuses to run as root: then its programs run as this user.
SERVER_USER=postgres

export PGRX_HOME=$WORK/pgrx
# Where cargo installs programs is not always on the PATH.
export PATH=$WORK/cargo-pgrx/bin:$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:/usr/sbin:/sbin
# trem_ext/build.rs sets this flag for the library alone. Left to cargo-pgrx it goes into
# RUSTFLAGS, and every crate is built a second time.
export CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND=1

if [ -z "${PG_CONFIG:-}" ]; then
    PG_CONFIG=/usr/lib/postgresql/$PG_MAJOR_DEFAULT/bin/pg_config
    if [ ! -x "$PG_CONFIG" ]; then
        PG_CONFIG=$(command -v pg_config || echo "$PG_CONFIG")
    fi
fi
export PG_CONFIG

say() { printf '%s\n' "$*"; }
step() { printf '\n==> %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
is_root() { [ "$(id -u)" = 0 ]; }

# "PostgreSQL 15.20 (Debian ...)" -> 15
pg_major() { "${1:-$PG_CONFIG}" --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/'; }

# Whether this minor release knows output_plugin_libraries, and refuses plugins not listed there.
# On an older one the setting is unknown, and fatal in postgresql.conf.
has_output_plugin_libraries() {
    # Read to its end: grep -q would break the pipe, and pipefail tell that as a failure.
    "$("$PG_CONFIG" --bindir)/postgres" --describe-config |
        grep '^output_plugin_libraries' >/dev/null
}

# Runs a command as the user who may run a server.
as_server_user() {
    if is_root; then runuser -u "$SERVER_USER" -- "$@"; else "$@"; fi
}

# A new folder for clusters, owned by the user who runs them. In /tmp and short, because the path of
# a Unix socket holds 107 bytes at most.
make_run_folder() {
    local folder
    folder=$(mktemp -d "/tmp/trem-$1.XXXXXX")
    if is_root; then chown "$SERVER_USER" "$folder"; fi
    chmod 755 "$folder"
    say "$folder"
}
