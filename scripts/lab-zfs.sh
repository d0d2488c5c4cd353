#!/usr/bin/env bash
# Makes OpenZFS for the kernel lab, and prints the archive to unpack in the root of its machine: the modules,
# built for that kernel from Debian's contrib, and the programs. Only `make lab` asks for it: on 2 cores it
# takes six minutes, once.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
# shellcheck source=scripts/rootfs.sh
. "$here/rootfs.sh"

# What compiles a kernel module.
packages=kmod,gcc-12,make,libc6-dev,libelf1,perl
userland='zfsutils-linux libzfs4linux libzpool5linux libnvpair3linux libuutil3linux'

# unpack ROOT DIR PACKAGE...: packages into a folder, without their scripts, and all of them below usr.
unpack() {
	local root=$1 dir=$2 deb top
	shift 2
	rm -rf "$root/tmp/debs"
	mkdir -m 0777 "$root/tmp/debs"
	chroot "$root" env --chdir=/tmp/debs apt-get download -qq "$@"
	mkdir -p "$dir/usr"
	for deb in "$root"/tmp/debs/*.deb; do
		dpkg-deb --fsys-tarfile "$deb" | tar -C "$dir" -x --keep-directory-symlink --exclude='./usr/share/doc'
	done
	for top in bin sbin lib; do
		if [ -d "$dir/$top" ] && [ ! -L "$dir/$top" ]; then
			cp -a "$dir/$top" "$dir/usr/"
			rm -rf "${dir:?}/$top"
		fi
	done
}

# modules ROOT KERNEL: builds them.
modules() {
	local root=$1 kernel=$2 source abi=${2%-*}
	unpack "$root" "$root" "linux-headers-$kernel" "linux-headers-$abi-common" "linux-kbuild-${abi%%.0-*}" zfs-dkms ||
		die "Debian has no headers of Linux $kernel any more: remove $lab, for one that it has"
	source=$(basename "$root"/usr/src/zfs-*)
	ln -sf gcc-12 "$root/usr/bin/gcc"
	chroot "$root" env --chdir="/usr/src/$source" ./configure --quiet --disable-dependency-tracking --with-config=kernel \
		--with-linux="/usr/src/linux-headers-$abi-common" --with-linux-obj="/usr/src/linux-headers-$kernel"
	chroot "$root" env --chdir="/usr/src/$source" make -s -j "$(nproc)" -C module
}

build() {
	local work=$1 to module
	to=$work/tree/usr/lib/modules/$kernel
	bootstrap "$work/root" "$packages"
	awk '{ print $0 " contrib" }' "$work/root/etc/apt/sources.list" >"$work/sources"
	mv "$work/sources" "$work/root/etc/apt/sources.list"
	chroot "$work/root" apt-get update -qq
	modules "$work/root" "$kernel"
	mkdir -p "$to/extra"
	cp -a "$lab/modules/." "$work/root/usr/lib/modules/$kernel/"
	mkdir "$work/root/usr/lib/modules/$kernel/extra"
	for module in "$work"/root/usr/src/zfs-*/module/*/*.ko; do
		cp "$module" "$work/root/usr/lib/modules/$kernel/extra/"
	done
	chroot "$work/root" sh -c "strip --strip-debug /usr/lib/modules/$kernel/extra/*.ko && depmod $kernel"
	cp -a "$work/root/usr/lib/modules/$kernel"/{extra,modules.*} "$to/"
	# shellcheck disable=SC2086 # it is a list
	unpack "$work/root" "$work/tree" $userland
	tar -C "$work/tree" --numeric-owner -cf "$work/zfs.tar" usr
	mv "$work/zfs.tar" "$layer"
}

lab=$("$here/lab.sh")
kernel=$(grep -aom1 -E '[0-9]+\.[0-9]+\.[0-9]+-[0-9]+-[a-z0-9]+' "$lab/vmlinuz")
layer=$cache/images/lab-zfs-$kernel-$(content_key "$here/lab-zfs.sh" "$here/rootfs.sh").tar
exec 9>"$cache/images/lock"
flock 9
if [ ! -f "$layer" ]; then
	need_root "building OpenZFS for the kernel lab"
	say "building OpenZFS for Linux $kernel (six minutes, once)"
	in_work "$cache/images/lab-zfs.log" build
fi
echo "$layer"
