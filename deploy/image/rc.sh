#!/bin/sh
# Run once by init before the agent: what must be there for it, and nothing that it can do itself.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p /dev/pts /dev/shm
mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev shm /dev/shm
mount -t tmpfs -o mode=755,nosuid,nodev run /run
# Each job enters a group of its own; favordynmods makes that quick.
mount -t cgroup2 -o favordynmods cgroup2 /sys/fs/cgroup || mount -t cgroup2 cgroup2 /sys/fs/cgroup
# Nobody makes a hard link to a file that is not his, or has a link followed in a directory that all may write.
sysctl -q -w fs.protected_hardlinks=1 fs.protected_symlinks=1 fs.protected_fifos=2 fs.protected_regular=2
# Programs may reserve more than there is, as Java and ROOT do; what they use is what their job's group bounds.
sysctl -q -w vm.overcommit_memory=1
hostname -F /etc/hostname
ip link set lo up
# QEMU's user networking has fixed addresses; asking for them by DHCP costs a second under emulation.
ip address add 10.0.2.15/24 dev eth0 && ip link set eth0 up && ip route add default via 10.0.2.2
# The disk is as large as the host made the overlay; growing it does not hold up the agent.
resize2fs /dev/vda > /dev/null 2>&1 &
exit 0
