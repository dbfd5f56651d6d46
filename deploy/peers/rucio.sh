#!/bin/bash
# A Rucio server to register files in: deploy/peers/rucio.sh makes .cache/rucio, a virtual environment of its own, since
# Rucio asks for older versions of what we use. Nothing is started by it. Repeating it is safe and takes no time.
set -euo pipefail
cd "$(dirname "$0")/../.."

version=41.5.1
venv=.cache/rucio
stamp=$venv/.ready
log=.cache/rucio.log

print=$(echo "rucio $version $(pwd) $(python3 -V)" | sha256sum | cut -d ' ' -f 1)
[ "$(cat "$stamp" 2>/dev/null || true)" != "$print" ] || exit 0

mkdir -p .cache
exec 9>.cache/rucio.lock
flock 9 # another run is making it
[ "$(cat "$stamp" 2>/dev/null || true)" != "$print" ] || exit 0

echo "installing Rucio $version into $venv"
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || python3 -m venv --clear "$venv"
"$venv/bin/python" -m pip install --no-input --disable-pip-version-check --progress-bar off "rucio==$version" \
    >"$log" 2>&1 || {
    tail -n 20 "$log" >&2
    echo "pip could not install Rucio (all it said is in $log)" >&2
    exit 1
}
echo "$print" >"$stamp"
