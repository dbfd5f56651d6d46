#!/bin/bash
# Set-up for one make target: deploy/setup.sh demo|test|peers|bench.
#
# Installs the Debian packages of deploy/packages.txt that are missing (as root, or with sudo if that asks nothing) and
# makes .venv. No service is started by it. Repeating it is safe, and takes well under a second when all is there.
# SKIP_PACKAGES=1 leaves the packages alone, for systems other than Debian.
set -euo pipefail
cd "$(dirname "$0")/.."

part=${1:?"which part: demo, test, peers or bench"}
venv=.venv
logs=.cache/setup
policy=/usr/sbin/policy-rc.d
postgres_config=/etc/postgresql-common/createcluster.conf

say() { printf '[%4d s] %s\n' "$SECONDS" "$*"; }

fail() {
    printf '\nset-up failed: %s\n' "$*" >&2
    exit 1
}

# Lines of packages.txt whose comment names the part.
packages_for() { sed -nE "s/^([a-z0-9.+-]+) +#([a-z ]*) $1\b[a-z ]*:.*/\1/p" deploy/packages.txt; }

missing_packages() {
    local package
    for package in $(packages_for "$part"); do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || echo "$package"
    done
}

# Installing shall start no service and make no database cluster. What the machine's owner has set stays as it is.
keep_services_down() {
    made=()
    trap 'rm -f "${made[@]}"; if [ -e "$postgres_config.ucf-dist" ]; then mv -n "$postgres_config"{.ucf-dist,}; fi' EXIT
    if [ ! -e "$policy" ]; then
        made+=("$policy")
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    if [ ! -e "$postgres_config" ]; then
        mkdir -p "${postgres_config%/*}"
        made+=("$postgres_config")
        echo 'create_main_cluster = false' >"$postgres_config"
    fi
}

# apt's status lines are "kind:package:percent:what"; a terminal gets one line that changes, a log one a tenth.
show_progress() {
    local kind package percent what shown=-10
    while IFS=: read -r kind package percent what; do
        percent=${percent%%.*}
        if [ "$kind" != dlstatus ] && [ "$kind" != pmstatus ]; then
            continue
        elif [ -t 1 ]; then
            printf '\r\033[K         %3d %%  %.70s' "$percent" "$what"
        elif [ "$((percent / 10))" != "$((shown / 10))" ]; then
            printf '         %3d %%  %s\n' "$percent" "$what"
            shown=$percent
        fi
    done
    if [ -t 1 ]; then printf '\r\033[K'; fi
}

# Runs as root: "deploy/setup.sh install PACKAGE...".
install_packages() {
    export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
    local options=(-y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
    keep_services_down
    say "reading the package lists"
    apt-get update "${options[@]}" >"$logs/apt.log" 2>&1 || say "some package lists could not be read; going on"
    say "installing $*"
    apt-get install "${options[@]}" --no-install-recommends -o APT::Status-Fd=3 "$@" \
        3>&1 >>"$logs/apt.log" 2>&1 </dev/null | show_progress || {
        tail -n 20 "$logs/apt.log" >&2
        fail "apt-get could not install: $* (all it said is in $logs/apt.log)"
    }
}

# Leaves every package of the part installed, or ends with the command that a person has to run.
need_packages() {
    local missing
    [ -z "${SKIP_PACKAGES:-}" ] || return 0
    command -v dpkg-query >/dev/null || fail "this is not Debian: install what deploy/packages.txt lists under the names
of your system, then say: make $part SKIP_PACKAGES=1"
    missing=$(missing_packages | tr '\n' ' ')
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" = 0 ]; then
        bash deploy/setup.sh install $missing
    elif sudo -n true 2>/dev/null; then
        sudo -n bash deploy/setup.sh install $missing
    else
        fail "packages are missing and this is not root. Run

    sudo apt-get update && sudo apt-get install --no-install-recommends $missing

and then make $part again"
    fi
    say "packages are there"
}

# What the virtual environment of a part depends on.
fingerprint() {
    { cat setup.cfg pyproject.toml && pwd && python3 -V; } | sha256sum | cut -d ' ' -f 1
}

extras_for() {
    case $1 in
    demo) echo all,demo ;;
    test | peers) echo test,demo ;;
    bench) echo bench ;;
    esac
}

install_python() {
    "$venv/bin/python" -m pip install --no-input --disable-pip-version-check --progress-bar off "$@" 2>&1 |
        tee "$logs/pip.log" | sed -un 's/^Collecting \([^ ]*\).*/         \1/p' || {
        tail -n 20 "$logs/pip.log" >&2
        fail "pip could not install the Python packages (all it said is in $logs/pip.log)"
    }
}

need_venv() {
    local stamp=$venv/.ready-$part print
    print=$(fingerprint)
    [ "$(cat "$stamp" 2>/dev/null || true)" != "$print" ] || return 0
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "python3 is $(python3 -V); 3.11 is needed"
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        say "making $venv"
        python3 -m venv --clear "$venv"
    fi
    say "installing Python packages"
    install_python -e ".[$(extras_for "$part")]"
    echo "$print" >"$stamp"
    say "$venv is ready"
}

mkdir -p "$logs"
case $part in
install)
    shift
    install_packages "$@"
    ;;
demo | test | peers | bench)
    need_packages
    need_venv
    if [ "$part" != demo ]; then
        deploy/peers/rucio.sh
        deploy/peers/diracx.sh
    fi
    if [ "$part" = peers ]; then
        deploy/peers/panda.sh
    fi
    ;;
*) fail "no such part: $part" ;;
esac
