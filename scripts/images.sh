#!/usr/bin/env bash
# Makes the images of docker-compose.yml and loads them into the engine that DOCKER_HOST names:
#
#   scripts/images.sh bin/drover     loads drover and drover-consul
#   scripts/images.sh                makes what takes long, and loads nothing
#
# drover is the binary on a Debian with what it calls; drover-consul is the program that scripts/tools.sh
# builds, and nothing else. No registry is asked. The Debian and the archive stay in the cache: the one is
# made again when its packages change, the other when one of the binaries does.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
# shellcheck source=scripts/rootfs.sh
. "$here/rootfs.sh"

packages=xfsprogs,btrfs-progs,e2fsprogs,mount,util-linux
path='"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]'
base=$cache/images/base-$(content_key "$here/images.sh" "$here/rootfs.sh").tar

build_base() {
	bootstrap "$1/root" "$packages"
	trim "$1/root"
	layer "$1/root" "$1/base.tar"
	remove_old images base
	mv "$1/base.tar" "$base"
}

# program DIR LAYER FILE PATH: a layer with one program.
program() {
	install -D -m 0755 "$3" "$1/$2/$4"
	tar -C "$1/$2" --owner=0 --group=0 --numeric-owner --sort=name --mtime=@0 -cf "$1/$2.tar" .
	rm -r "${1:?}/$2"
}

build_archive() {
	ln "$base" "$1/base.tar" # not -s: tar follows no links
	program "$1" drover "$binary" usr/local/bin/drover
	program "$1" consul "$consul" bin/consul
	add_image "$1" drover "$path"',"Entrypoint":["drover"]' base.tar drover.tar
	add_image "$1" drover-consul "$path"',"Entrypoint":["consul"]' consul.tar
	pack "$1"
	remove_old images cluster
	mv "$1/archive.tar" "$archive"
}

[ $# -le 1 ] || die "usage: scripts/images.sh [BINARY]"
binary=${1:-}
[ -z "$binary" ] || [ -x "$binary" ] || die "no program $binary: run make build"
consul=$("$here/tools.sh" consul)
mkdir -p "$cache/images"
exec 9>"$cache/images/lock"
flock 9
if [ ! -f "$base" ]; then
	need_root "building the images"
	say "building drover's image from Debian's packages (half a minute, once)"
	in_work "$cache/images/base.log" build_base
fi
[ -n "$binary" ] || exit 0
archive=$cache/images/cluster-$(content_key "$here/images.sh" "$here/rootfs.sh" "$binary" "$consul").tar
[ -f "$archive" ] || in_work "$cache/images/cluster.log" build_archive
docker load --quiet --input "$archive"
