#!/bin/sh
# First program of our guest: load the drivers, mount the root disk, hand over. Everything else is rc.sh's.
PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do
    insmod "/modules/$module"
done < /modules/order
tries=0
until [ -b /dev/vda ] || [ "$tries" -ge 100 ]; do
    tries=$((tries + 1))
    usleep 50000
done
# What is freed here goes back to the host; the kernel counts by account what is on the disk.
mount -t ext4 -o noatime,discard,usrquota /dev/vda /root || { echo "volunteer-cloud: no root disk"; poweroff -f; }
mount --move /dev /root/dev
mount --move /sys /root/sys
mount --move /proc /root/proc
exec switch_root /root /sbin/init
