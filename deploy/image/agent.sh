#!/bin/sh
# Respawned by init a second after it ends, however it ends.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 PYTHONUNBUFFERED=1
# Whoever runs out of memory here, it is not the agent that the kernel ends.
echo -900 > /proc/self/oom_score_adj
cd /
exec /usr/bin/python3 -X no_debug_ranges -m guest_agent.main --seed auto --state-dir /var/lib/volunteer-cloud
