#!/bin/sh
# The first process of a guest (uml.rs). The root is the machine's own file tree, read-only; `job` came on the kernel's command line.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/
mount -t proc proc /proc
mount -t tmpfs guest /mnt
mkdir /mnt/job /mnt/disk
mount -t hostfs -o "$job" job /mnt/job
mount -t ext4 /dev/ubda /mnt/disk
ip link set lo up
cd /mnt/disk || exit
TMPDIR=/mnt/disk sh /mnt/job/command </dev/null >/mnt/job/stdout 2>/mnt/job/stderr
echo $? >/mnt/job/code
sync
echo o >/proc/sysrq-trigger
# The kernel goes while this waits; an end of the first process would be a panic.
while :; do sleep 1; done
