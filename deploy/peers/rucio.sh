#!/bin/bash
# Makes .cache/rucio: a Rucio server that tests register files in. 220 MB.
exec "$(dirname "$0")/environment.sh" rucio rucio==41.5.1
