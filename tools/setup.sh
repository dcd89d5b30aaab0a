#!/usr/bin/env bash
# Installs what building and testing need and the machine lacks. Quick when nothing is missing.
#
# Debian packages through apt (as root or through sudo), cargo-pgrx through cargo. Rust itself is a
# prerequisite. Ends with pgrx configured inside the checkout; nobody's ~/.pgrx is touched.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

require_rust() {
    if ! command -v cargo >/dev/null || ! command -v rustc >/dev/null; then
        fail "Rust is missing (cargo and rustc on the PATH). Install Rust $(rust_wanted) or newer," \
            "with rustfmt and clippy, see https://www.rust-lang.org/tools/install; then run make again."
    fi
    local have
    have=$(rustc --version | sed -E 's/^rustc ([0-9]+\.[0-9]+).*/\1/')
    if [ "$(printf '%s\n%s\n' "$have" "$(rust_wanted)" | sort -V | head -n1)" != "$(rust_wanted)" ]; then
        fail "Rust $(rust_wanted) or newer is needed, this is $have. Update it (rustup update stable)."
    fi
}

rust_wanted() { sed -nE 's/^rust-version = "([0-9.]+)"/\1/p' "$ROOT/Cargo.toml"; }

has_libclang() {
    ls /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*/libclang*.so* >/dev/null 2>&1 ||
        [ -n "${LIBCLANG_PATH:-}" ]
}

# The packages that are missing, judged by what they bring: a machine that has its compiler or its
# server from elsewhere is left alone.
missing_packages() {
    local major=$PG_MAJOR_DEFAULT headers pgxs
    command -v cc >/dev/null && command -v ld >/dev/null || echo gcc
    [ -e /usr/include/stdlib.h ] || echo libc6-dev
    command -v pkg-config >/dev/null || echo pkg-config
    command -v clang >/dev/null || echo clang
    has_libclang || echo libclang-dev
    # cargo-pgrx links OpenSSL.
    has_cargo_pgrx || [ -e /usr/include/openssl/ssl.h ] || echo libssl-dev
    if [ ! -x "$PG_CONFIG" ]; then
        echo "postgresql-$major postgresql-server-dev-$major"
        return
    fi
    major=$(pg_major)
    [ -x "$("$PG_CONFIG" --bindir)/initdb" ] || echo "postgresql-$major"
    headers=$("$PG_CONFIG" --includedir-server)
    pgxs=$("$PG_CONFIG" --pgxs)
    if [ ! -e "$headers/postgres.h" ] ||
        [ ! -x "$(dirname "$(dirname "$pgxs")")/test/regress/pg_regress" ]; then
        echo "postgresql-server-dev-$major"
    fi
}

install_packages() {
    local root=() answer
    if ! command -v apt-get >/dev/null; then
        fail "these are missing and there is no apt-get to install them: $*." \
            "Install them by hand (names are Debian's), or set PG_CONFIG to your server's pg_config."
    fi
    if ! is_root; then
        command -v sudo >/dev/null ||
            fail "these packages are missing: $*. Run 'make setup' once as root (there is no sudo)."
        root=(sudo)
    fi
    step "installing packages: $*"
    apt_install() {
        "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y --no-install-recommends "$@" </dev/null
    }
    # The lists may be absent or old: refresh them only when the names are not found as they are.
    if ! answer=$(apt-get install -s --no-install-recommends "$@" 2>&1); then
        "${root[@]}" apt-get update </dev/null ||
            fail "apt-get update failed: $answer"
    fi
    apt_install_all "$@"
}

# Debian's server package creates and starts a cluster "main" on port 5432. Nobody asked for one
# here, so it is told not to, for the time of this installation.
apt_install_all() {
    local no_cluster=/etc/postgresql-common/createcluster.d/trem-setup.conf status=0
    case " $* " in
        *" postgresql-$PG_MAJOR_DEFAULT "*)
            if [ ! -e /etc/postgresql-common ]; then
                apt_install postgresql-common || apt_retry postgresql-common
                "${root[@]}" mkdir -p "$(dirname $no_cluster)"
                echo 'create_main_cluster = false' | "${root[@]}" tee $no_cluster >/dev/null
            fi
            ;;
    esac
    apt_install "$@" || apt_retry "$@" || status=$?
    if [ -e $no_cluster ]; then "${root[@]}" rm -f $no_cluster; fi
    [ $status = 0 ] || fail "apt-get could not install: $*"
}

# A package may have left the archive since the lists were fetched.
apt_retry() {
    "${root[@]}" apt-get update </dev/null
    apt_install "$@"
}

has_cargo_pgrx() {
    [ "$(cargo-pgrx pgrx --version 2>/dev/null | sed -E 's/.* //')" = "$PGRX_VERSION" ]
}

install_cargo_pgrx() {
    local into=()
    if has_cargo_pgrx; then return; fi
    # Another version on the PATH belongs to another project.
    if command -v cargo-pgrx >/dev/null; then into=(--root "$WORK/cargo-pgrx"); fi
    step "installing cargo-pgrx $PGRX_VERSION (some minutes)"
    cargo install cargo-pgrx --version "$PGRX_VERSION" --locked "${into[@]}"
}

# pgrx reads one file. Written only when it changes: the bindings are generated again when it does.
configure_pgrx() {
    local wanted pg_config
    pg_config=$("$ROOT/tools/server.sh")
    wanted=$(printf '[configs]\npg%s = "%s"\n' "$(pg_major)" "$pg_config")
    mkdir -p "$PGRX_HOME"
    if [ "$(cat "$PGRX_HOME/config.toml" 2>/dev/null)" != "$wanted" ]; then
        printf '%s\n' "$wanted" >"$PGRX_HOME/config.toml"
    fi
}

require_rust
mapfile -t missing < <(missing_packages | tr ' ' '\n')
if [ ${#missing[@]} -gt 0 ]; then
    install_packages "${missing[@]}"
    hash -r
    [ -x "$PG_CONFIG" ] || fail "PostgreSQL was installed, but $PG_CONFIG is not there; set PG_CONFIG."
fi
if is_root && ! id "$SERVER_USER" >/dev/null 2>&1; then
    fail "there is no user \"$SERVER_USER\" to run PostgreSQL, which refuses to run as root:" \
        "create it (useradd --system $SERVER_USER), or run make as a normal user."
fi
install_cargo_pgrx
configure_pgrx
