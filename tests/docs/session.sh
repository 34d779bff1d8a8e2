#!/usr/bin/env bash
# session.sh PROGRAM ROOT SCRIPT: runs SCRIPT in a root directory of its own, made at ROOT, with PROGRAM as harness-fs.
# Whoever calls it has unshared mounts and processes, so nothing of it is seen outside and nothing stays.
set -euo pipefail
program=$1 root=$2 script=$3

mount -t tmpfs -o mode=755 docs "$root"
cd "$root"
for dir in /usr /etc /bin /sbin /lib*; do
  if [ -L "$dir" ]; then
    cp -P "$dir" .
  elif [ -d "$dir" ]; then
    mkdir ".$dir"
    mount --bind "$dir" ".$dir"
    mount -o remount,bind,ro ".$dir"
  fi
done
mkdir -p dev old proc root/bin sys tmp var/lib
chmod 1777 tmp
mount -t proc proc proc
mount --rbind /dev dev
mount --rbind /sys sys
cp "$program" root/bin/harness-fs
cp "$script" root/script
pivot_root . old
cd /
umount -l old
rmdir old
exec env -i HOME=/root LC_ALL=C.UTF-8 PATH=/root/bin:/usr/sbin:/usr/bin:/sbin:/bin bash /root/script </dev/null 2>&1
