#!/bin/sh
# The first process of a guest (uml.rs). The root is the machine's own file tree, read-only; `job` came on the kernel's command line.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/
mount -t proc proc /proc
mount -t tmpfs guest /mnt
mkdir /mnt/job /mnt/disk
mount -t hostfs -o "$job" job /mnt/job
mount -t ext4 /dev/ubda /mnt/disk
# Disks that outlive this guest. Nothing reaches them that nobody waits for: no commit of the journal by time, no content
# because of its age, and none because a name is replaced.
n=0
for disk in /dev/ubdb /dev/ubdc; do
	[ -e "$disk" ] || continue
	echo 0 >/proc/sys/vm/dirty_writeback_centisecs
	mkdir "/mnt/lasting-$n"
	mount -t ext4 -o commit=3600,noauto_da_alloc "$disk" "/mnt/lasting-$n"
	n=$((n + 1))
done
ip link set lo up
cd /mnt/disk || exit
TMPDIR=/mnt/disk sh /mnt/job/command </dev/null >/mnt/job/stdout 2>/mnt/job/stderr
echo $? >/mnt/job/code
sync
echo o >/proc/sysrq-trigger
# The kernel goes while this waits; an end of the first process would be a panic.
while :; do sleep 1; done
