#!/bin/bash
# Makes .cache/panda: a PanDA server, with what it needs to speak with PostgreSQL, for `make peers` alone. 0.7 GB. The
# tables of its database are in .cache/panda/database: they are cloned from GitHub, or from where PANDA_DATABASE says.
#
# The server's own list names mod_wsgi, which wants Apache's headers: it is left out, for the tests' program serves the
# server's WSGI application itself. Its build asks for the account of an installation when it is made by the group
# root: the group is another one then.
set -euo pipefail
[ "$(id -g)" != 0 ] || exec setpriv --regid=nogroup --clear-groups bash "$0"
cd "$(dirname "$0")"

server=panda-server==1.0.4
./environment.sh panda \
    'panda-common>=0.1.9' 'panda-client-light>=1.5.55' pyOpenSSL python-daemon stomp.py pyyaml pyjwt polars requests \
    'psutil>=5.4.8' idds-common idds-client 'idds-workflow>=1.1.0' idds-doma idds-atlas ruamel.yaml 'cwl-utils>=0.13' \
    packaging 'snakemake>=9.14.5' numpy scipy werkzeug bs4 psycopg2-binary rucio-clients
python=../../.cache/panda/bin/python
if ! "$python" -m pip show -q panda-server 2>/dev/null; then
    timeout 600 "$python" -m pip install -q --no-input --disable-pip-version-check --no-deps "$server" \
        >../../.cache/setup/panda-server.log 2>&1 || {
        tail -n 20 ../../.cache/setup/panda-server.log >&2
        printf '\nset-up failed: pip could not make %s\n' "$server" >&2
        exit 1
    }
fi

tables=../../.cache/panda/database
commit=d57eeb90fdbd216870f9cabdbfbfeb984cf0dfc1
if [ "$(git -C "$tables" rev-parse HEAD 2>/dev/null || true)" != "$commit" ]; then
    rm -rf "$tables"
    timeout 300 git clone -q --no-checkout "${PANDA_DATABASE:-https://github.com/PanDAWMS/panda-database}" "$tables" || {
        printf '\nset-up failed: no clone of panda-database: set PANDA_DATABASE to a copy of the repository\n' >&2
        exit 1
    }
    git -C "$tables" checkout -q "$commit"
fi
