#!/bin/sh
# Inside fresh namespaces: lay the machine out that tests/support/own_systemd.py promises, and become the command.
# usage: own_systemd.sh BOX SOURCE PYTHON PACKAGES COMMAND...
set -eu
box=$1 source=$2 python=$3 packages=$4
shift 4

# Everything here stays here; what is written below /etc, /opt, /srv and /var goes to memory.
mount --make-rprivate /
mount -t tmpfs -o mode=0755 box "$box"
mkdir "$box/source" "$box/python" "$box/packages"
mount --bind "$source" "$box/source"
mount --bind "$python" "$box/python"
mount --bind "$packages" "$box/packages"
for tree in etc opt srv var; do
    mkdir -p "/$tree" "$box/$tree.new" "$box/$tree.work"
    mount -t overlay -o "lowerdir=/$tree,upperdir=$box/$tree.new,workdir=$box/$tree.work" overlay "/$tree"
done

# This checkout and its interpreter, where the units' user may read them whatever home they lie in.
rm -rf /opt/quorumfs /etc/quorumfs /var/lib/quorumfs
for tree in source python packages; do
    mkdir -p "/opt/quorumfs/$tree"
    mount --bind "$box/$tree" "/opt/quorumfs/$tree"
    mount -o remount,bind,ro "/opt/quorumfs/$tree"
done

# Devices that are none, and a kernel that takes no settings.
mkdir "$box/dev"
for device in null zero full random urandom tty; do
    : > "$box/dev/$device"
    mount --bind "/dev/$device" "$box/dev/$device"
done
: > "$box/dev/console"
ln -s /proc/self/fd "$box/dev/fd"
ln -s pts/ptmx "$box/dev/ptmx"
mkdir "$box/dev/shm" "$box/dev/pts" "$box/dev/mqueue"
mount --rbind "$box/dev" /dev
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -o remount,bind,ro /sys
mountpoint -q /sys/fs/cgroup && umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=0755 run /run

# No unit of the real machine: only the targets without which nothing starts, and those that a test puts here.
mount -t tmpfs -o mode=0755 units /etc/systemd/system
mkdir -p /run/targets /run/systemd/system
for target in sysinit basic multi-user shutdown local-fs network-online sockets timers paths slices; do
    cp "/lib/systemd/system/$target.target" /run/targets/
done
exec "$@"
