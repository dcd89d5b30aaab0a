#!/usr/bin/env bash
# Writes the extension's upgrade scripts into the folder $1, which has its installation script: for
# each sql/upgrade/<from>--<to>.sql a trem--<from>--<to>.sql.
#
# What is written by hand is the change of the tables. Everything else keeps no data: it is dropped
# (sql/upgrade/before.sql) and made again, by the same statements that a new installation runs.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

folder=$1
version=$(sed -nE 's/^version = "([0-9.]+)"/\1/p' "$ROOT/Cargo.toml" | head -n1)
installation=$folder/trem--$version.sql

# The installation script is made of blocks; the first line of a block's comment that is no place in
# the source is its name. The tables are the block "bootstrap".
without_tables() {
    awk '
        /^\/\* <begin connected objects> \*\/$/ { block = ""; inside = 1; lines = 0; skip = 0 }
        inside { block = block $0 "\n"; lines++; if (lines == 3 && $0 == "-- bootstrap") skip = 1 }
        /^\/\* <\/end connected objects> \*\/$/ { if (!skip) printf "%s\n", block; inside = 0 }
    ' "$installation"
}

for by_hand in "$ROOT"/sql/upgrade/*--*.sql; do
    {
        cat "$ROOT/sql/upgrade/before.sql" "$by_hand"
        without_tables
        cat "$ROOT/sql/upgrade/after.sql"
    } >"$folder/trem--$(basename "$by_hand")"
done
