#!/usr/bin/env bash
# Makes the private copy of the PostgreSQL server that tests and demo run, and prints the path of
# its pg_config.
#
# A server finds its libraries and extensions relative to its own program, so a copy of three
# folders under one root is a whole installation, into which any build of the extension may go
# without rights and without touching the machine's own. In the copy, initdb and pg_ctl can be run
# by root: they change to the user that PostgreSQL wants.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

# The server's user must reach the copy. A checkout below a closed home folder is out of reach.
server_root() {
    mkdir -p "$WORK"
    if ! is_root || runuser -u "$SERVER_USER" -- test -x "$WORK"; then
        say "$WORK/server"
    else
        say "/var/lib/trem-$(printf '%s' "$ROOT" | cksum | cut -d' ' -f1)"
    fi
}

# Program $1 of the copy, for any caller: root hands over to the server's user. The superuser is
# "postgres" on every machine, so that what tests print does not depend on who runs them.
write_switch() {
    local program=$1 prepare=''
    mv "$bin/$program" "$bin/$program.real"
    if [ "$program" = initdb ]; then
        prepare='case " $* " in *" -U "*) ;; *) set -- "$@" -U postgres ;; esac'
    fi
    cat >"$bin/$program" <<SWITCH
#!/usr/bin/env bash
# Rust code in the server must not write backtraces into error details because the caller does.
export RUST_BACKTRACE=0
$prepare
if [ "\$(id -u)" != 0 ]; then exec "$bin/$program.real" "\$@"; fi
cd /
exec runuser -u $SERVER_USER -- "$bin/$program.real" "\$@"
SWITCH
    chmod 755 "$bin/$program"
}

write_pg_config() {
    cat >"$root/pg_config" <<ANSWER
#!/bin/sh
case "\$1" in
    --bindir) echo "$bin" ;;
    --pkglibdir) echo "$root$("$PG_CONFIG" --pkglibdir)" ;;
    --sharedir) echo "$root$("$PG_CONFIG" --sharedir)" ;;
    *) exec "$PG_CONFIG" "\$@" ;;
esac
ANSWER
    chmod 755 "$root/pg_config"
}

root=$(server_root)
bin=$root$("$PG_CONFIG" --bindir)
stamp=$("$PG_CONFIG" --version; stat -c %Y "$("$PG_CONFIG" --bindir)/postgres" \
    "${BASH_SOURCE[0]}")
if [ "$(cat "$root/stamp" 2>/dev/null)" != "$stamp" ]; then
    rm -rf "$root"
    for folder in --bindir --pkglibdir --sharedir; do
        from=$("$PG_CONFIG" $folder)
        mkdir -p "$root$from"
        cp -a "$from/." "$root$from/"
    done
    write_switch initdb
    write_switch pg_ctl
    write_pg_config
    printf '%s\n' "$stamp" >"$root/stamp"
fi
ln -sfn "$root/pg_config" "$WORK/pg_config"
say "$root/pg_config"
