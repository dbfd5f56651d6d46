#!/bin/bash
# Makes .cache/diracx, a virtual environment of its own with a DiracX server and moto as its S3, for the tests on it:
# some 480 MB, two minutes. DIRAC's packages are under GPL-3 and are no part of this project: they run as a server only.
# Repeating it is safe, and takes no time when all is there. What pip said is in .cache/setup/diracx.log.
set -euo pipefail
cd "$(dirname "$0")/../.."

venv=.cache/diracx
log=.cache/setup/diracx.log
packages=(diracx==0.7.0 diracx-testing==0.7.0 diracx-routers==0.7.0 diracx-cli==0.7.0 'moto[server]>=5.2,<6' uvicorn)
print="${packages[*]} $(python3 -V)"

[ "$(cat "$venv/.ready" 2>/dev/null || true)" != "$print" ] || exit 0
mkdir -p "${log%/*}"
echo "making $venv: two minutes, 480 MB"
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python3 -m venv --clear "$venv"
fi
timeout 900 "$venv/bin/python" -m pip install --no-input --disable-pip-version-check --progress-bar off --quiet \
    "${packages[@]}" 2>&1 | tail -c 65536 >"$log" || {
    tail -n 20 "$log" >&2
    echo "pip could not install a DiracX server (all it said is in $log)" >&2
    exit 1
}
echo "$print" >"$venv/.ready"
echo "$venv is ready"
