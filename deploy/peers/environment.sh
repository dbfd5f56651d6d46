#!/bin/bash
# deploy/peers/environment.sh NAME PACKAGE...: makes .cache/NAME, a virtual environment of its own for a server that tests
# talk to, since its packages ask for other versions than ours, or are under licences that ours is not.
#
# Nothing is started by it. Repeating it is safe and takes no time. What pip said is in .cache/setup/NAME.log.
set -euo pipefail
cd "$(dirname "$0")/../.."

name=${1:?"which environment"}
shift
venv=.cache/$name
stamp=$venv/.ready
log=.cache/setup/$name.log
print=$(echo "$* $(pwd) $(python3 -V)" | sha256sum | cut -d ' ' -f 1)

is_ready() { [ "$(cat "$stamp" 2>/dev/null || true)" = "$print" ]; }

! is_ready || exit 0
mkdir -p .cache/setup
exec 9>".cache/$name.lock"
flock 9 # another run may be making it
! is_ready || exit 0

printf '[%4d s] making %s: some minutes, once\n' "$SECONDS" "$venv"
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || python3 -m venv --clear "$venv"
timeout 1200 "$venv/bin/python" -m pip install --no-input --disable-pip-version-check --progress-bar off "$@" 2>&1 |
    tee "$log" | sed -un 's/^Collecting \([^ ]*\).*/         \1/p' || {
    tail -n 20 "$log" >&2
    printf '\nset-up failed: pip could not make %s (all it said is in %s)\n' "$venv" "$log" >&2
    exit 1
}
echo "$print" >"$stamp"
printf '[%4d s] %s is ready\n' "$SECONDS" "$venv"
