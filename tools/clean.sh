#!/usr/bin/env bash
# Removes what was built and made in this checkout, the server's private copy included.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$ROOT"

case $(readlink "$WORK/pg_config" || true) in
    /var/lib/trem-*/pg_config) rm -rf "$(dirname "$(readlink "$WORK/pg_config")")" ;;
esac
rm -rf "$WORK" tests/pg_regress/results tests/pg_regress/regression.*
cargo clean
