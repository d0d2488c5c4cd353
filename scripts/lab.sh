#!/usr/bin/env bash
# Makes what the kernel lab (test/lab) boots, and prints its folder, in which are
#
#   vmlinuz     a Debian kernel
#   modules/    its modules
#   root.img    an ext4 with a Debian of its own, with what the tests call in there
#
# All of it is Debian 12's, by debootstrap from the mirror that apt uses here (DROVER_DEBIAN_MIRROR names
# another one): nothing is installed on this machine, and what is installed here does not matter in there.
# It stays in the cache, and is made again only when this script, or what it shares with others, changes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
# shellcheck source=scripts/rootfs.sh
. "$here/rootfs.sh"

# Backends' tools, what tests call, and a systemd with an engine.
packages=kmod,iproute2,procps,psmisc,acl,attr,strace,fio
packages+=,e2fsprogs,xfsprogs,btrfs-progs,quota
packages+=,lvm2,thin-provisioning-tools,cryptsetup-bin,nfs-kernel-server
packages+=,systemd,systemd-sysv,udev,dbus,docker.io

lab=$cache/images/lab-$(content_key "$here/lab.sh" "$here/rootfs.sh")

# kernel ROOT DIR: the newest kernel of that Debian, unpacked; its modules in both places, without those for
# hardware that the lab does not have.
kernel() {
	local name modules
	chroot "$1" apt-get update -qq
	name=$(chroot "$1" apt-cache depends --important "linux-image-$(dpkg --print-architecture)" |
		awk '$1 == "Depends:" && !found { print $2; found = 1 }')
	chroot "$1" env --chdir=/tmp apt-get download "$name"
	mkdir "$2/kernel"
	dpkg-deb -x "$1/tmp/$name"_*.deb "$2/kernel"
	mkdir -p "$1/usr/lib/modules"
	modules=("$2"/kernel/lib/modules/*)
	rm -rf "${modules[0]}"/kernel/sound \
		"${modules[0]}"/kernel/drivers/{gpu,media,staging,infiniband,usb,iio,hwmon,isdn,input,scsi,bluetooth,mfd} \
		"${modules[0]}"/kernel/drivers/net/{ethernet,wireless,usb,can}
	mv "${modules[0]}" "$1/usr/lib/modules/"
	chroot "$1" depmod "$(basename "${modules[0]}")"
	mv "$2"/kernel/boot/vmlinuz-* "$2/lab/vmlinuz"
	cp -a "$1/usr/lib/modules/$(basename "${modules[0]}")" "$2/lab/modules"
}

build() {
	local work=$1
	mkdir "$work/lab"
	bootstrap "$work/root" "$packages"
	kernel "$work/root" "$work"
	trim "$work/root"
	mkdir "$work/root/lab" "$work/root/src"
	echo lab >"$work/root/etc/hostname"
	echo '127.0.0.1 localhost lab' >"$work/root/etc/hosts"
	: >"$work/root/etc/fstab"
	# Sparse: it takes what is in it. What a run writes goes elsewhere (test/lab).
	truncate -s 24G "$work/lab/root.img"
	mkfs.ext4 -q -L lab -N 400000 -E lazy_itable_init=0,nodiscard -d "$work/root" "$work/lab/root.img"
	remove_old images lab
	mv "$work/lab" "$lab"
}

[ "$(uname -m)" = x86_64 ] || die "the kernel lab is a PC: it cannot be made on $(uname -m)"
mkdir -p "$cache/images"
# Test packages ask for it at the same time; the lock is that of the images, whose folder for work this uses.
exec 9>"$cache/images/lock"
flock 9
if [ ! -f "$lab/root.img" ]; then
	need_root "building the kernel lab"
	say "building the kernel lab from Debian's packages (two minutes, once)"
	in_work "$cache/images/lab.log" build
fi
echo "$lab"
