#!/bin/sh
# Becomes systemd, as PID 1 of namespaces that the caller made: mount, pid, uts, ipc and cgroup.
# The machine's root is the lower layer of an overlay; what is written stays in memory and goes
# with the namespaces. The network is the machine's own.
# LAB: an empty folder to mount over; its arguments: trees to copy over the root
set -eu

root=$LAB/root
mount --make-rprivate /
mount -t tmpfs -o mode=755,size=1g lab "$LAB"
mkdir "$LAB/upper" "$LAB/work" "$root"
mount -t overlay -o "lowerdir=/,upperdir=$LAB/upper,workdir=$LAB/work" overlay "$root"

# The machine's own services, a Teleprinter too, do not start: nothing of it is enabled, nothing generated, and
# systemd's wishes about hardware are not heard.
for folder in /etc/systemd/system /etc/systemd/system-generators /usr/lib/systemd/system-generators \
    /usr/local/lib/systemd/system /run /tmp /var/tmp; do
    mkdir -p "$root$folder"
    mount -t tmpfs -o mode=755 lab "$root$folder"
done
for wishes in "$root"/usr/lib/systemd/system/*.target.wants; do
    mount -t tmpfs -o mode=755 lab "$wishes"
done
chmod 1777 "$root/tmp" "$root/var/tmp"
rm -rf "$root/opt/teleprinter" "$root/etc/teleprinter" "$root/usr/local/bin/teleprinter"
ln -s /usr/lib/systemd/system/systemd-journald.service "$root/usr/lib/systemd/system/sysinit.target.wants/"
mkdir -p "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\nRateLimitIntervalSec=0\n' \
    >"$root/etc/systemd/journald.conf.d/lab.conf"
tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id" # without one it would be the first boot
rm -f "$root/.dockerenv"
hostname lab

# The kernel's file systems; what belongs to the whole machine is read-only.
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
for part in sys sysrq-trigger irq bus fs; do
    [ -e "$root/proc/$part" ] || continue
    mount --bind "$root/proc/$part" "$root/proc/$part"
    mount -o remount,bind,ro,nosuid,nodev,noexec "$root/proc/$part"
done
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755,nosuid dev "$root/dev"
for device in null zero full random urandom tty; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,nosuid,noexec devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777,nosuid,nodev shm "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"

for stage; do cp -a "$stage/." "$root/"; done
cd "$root"
mkdir -p run/machine
pivot_root . run/machine
umount -l run/machine
mount --make-rshared / # systemd leaves it to whoever made its container; LoadCredential= needs it

# Not even root may touch the machine's clock, modules and hardware from here.
exec setpriv --bounding-set=-sys_module,-sys_time,-sys_rawio,-sys_boot,-syslog,-mac_admin,-mac_override \
    env -i container=lab PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
    /usr/lib/systemd/systemd --system --log-target=journal --show-status=false </dev/null
