#!/bin/bash
# Makes .cache/diracx: a DiracX server, with moto as its S3, that tests take jobs of. 480 MB. DIRAC's packages are under
# GPL-3 and are no part of this project: they run as a server only.
exec "$(dirname "$0")/environment.sh" diracx \
    diracx==0.7.0 diracx-testing==0.7.0 diracx-routers==0.7.0 diracx-cli==0.7.0 'moto[server]>=5.2,<6' uvicorn
