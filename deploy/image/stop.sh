#!/bin/sh
# Run by init at shutdown: the agent and what it runs end first, so that the disk can be left clean.
kill -TERM -1
tries=0
while pidof python3 > /dev/null && [ "$tries" -lt 50 ]; do
    tries=$((tries + 1))
    usleep 100000
done
kill -KILL -1
umount -a -r
