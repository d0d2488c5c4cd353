#!/usr/bin/env bash
# Builds the database images of the tests and the demonstration, and prints the path of their archive:
#
#   docker load -i "$(scripts/image.sh)"     brings drover-mariadb, drover-postgres and drover-redis
#
# The three are one layer with Debian 12's MariaDB, PostgreSQL and Redis, and three configurations. The
# archive is made without an engine and without a registry, by debootstrap from the Debian mirror that
# apt uses here (DROVER_DEBIAN_MIRROR names another one); it stays in the cache, and is made again only
# when this script or the entry point changes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"

suite=bookworm
packages=mariadb-server-core,mariadb-client,postgresql-15,redis-server
archive=$cache/images/databases-$(content_key "$here/image.sh" "$here/image/entrypoint.sh").tar
log=$cache/images/build.log

# debian_mirror prints the mirror, or nothing where apt has none (Ubuntu): debootstrap then knows one.
debian_mirror() {
	if [ -n "${DROVER_DEBIAN_MIRROR:-}" ]; then
		echo "$DROVER_DEBIAN_MIRROR"
		return
	fi
	# shellcheck disable=SC2016 # apt expands these, not the shell
	apt-get indextargets --format '$(ORIGIN)/$(LABEL) $(REPO_URI)' 'Created-By: Packages' |
		awk '$1 == "Debian/Debian" && !found { print $2; found = 1 }'
}

# configure_dpkg ROOT: what is thrown away at the end is not unpacked, no package starts a service or
# makes a database of its own, and dpkg does not flush each file to a disk that will be packed anyway.
configure_dpkg() {
	mkdir -p "$1/etc/dpkg/dpkg.cfg.d" "$1/etc/postgresql-common"
	cat >"$1/etc/dpkg/dpkg.cfg.d/image" <<-'EOF'
		force-unsafe-io
		path-exclude=/usr/share/doc/*
		path-exclude=/usr/share/info/*
		path-exclude=/usr/share/man/*
		path-exclude=/usr/share/locale/*
		path-exclude=/usr/share/i18n/*
	EOF
	echo 'create_main_cluster = false' >"$1/etc/postgresql-common/createcluster.conf"
	printf '#!/bin/sh\nexit 101\n' >"$1/usr/sbin/policy-rc.d"
	chmod 0755 "$1/usr/sbin/policy-rc.d"
}

# set_users ROOT: numbers that no order of packages can change; 999 is mysql in the official image.
set_users() {
	local name id
	for name in mysql:999 redis:998 postgres:997; do
		id=${name#*:}
		name=${name%:*}
		if chroot "$1" getent passwd "$name"; then
			chroot "$1" groupmod --gid "$id" "$name"
			chroot "$1" usermod --uid "$id" "$name"
		else
			chroot "$1" groupadd --system --gid "$id" "$name"
			chroot "$1" useradd --system --uid "$id" --gid "$id" --no-create-home \
				--home-dir /nonexistent --shell /usr/sbin/nologin "$name"
		fi
	done
}

bootstrap() {
	local root=$1 mirror
	mirror=$(debian_mirror)
	debootstrap --foreign --variant=minbase --include="$packages" "$suite" "$root" ${mirror:+"$mirror"}
	configure_dpkg "$root"
	chroot "$root" /debootstrap/debootstrap --second-stage
}

# trim ROOT: package lists and archives, and PostgreSQL's just-in-time compiler, which is a third of
# the whole and only sought when a query is expensive; without it PostgreSQL does without.
trim() {
	rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* "$1"/var/log/* "$1"/tmp/* "$1"/usr/share/man/* \
		"$1"/usr/share/doc/* "$1"/usr/share/locale/* "$1"/usr/share/i18n "$1"/usr/share/postgresql/*/man \
		"$1"/usr/lib/postgresql/*/lib/bitcode "$1"/usr/lib/postgresql/*/lib/llvmjit* \
		"$1"/usr/lib/*/libLLVM-* "$1"/usr/lib/*/libz3.so.* \
		"$1"/usr/sbin/policy-rc.d "$1"/etc/dpkg/dpkg.cfg.d/image
}

# data_dirs ROOT: empty, owned and closed as in the official images; a new volume gets this from them.
data_dirs() {
	local dir
	for dir in mysql:/var/lib/mysql postgres:/var/lib/postgresql/data redis:/data; do
		rm -rf "$1${dir#*:}"
		chroot "$1" install -d -o "${dir%:*}" -g "${dir%:*}" -m 0755 "${dir#*:}"
	done
	chmod 0700 "$1/var/lib/postgresql/data"
	chroot "$1" install -d -o mysql -g mysql -m 0755 /run/mysqld
	chroot "$1" install -d -o postgres -g postgres -m 2775 /run/postgresql
	install -m 0755 "$here/image/entrypoint.sh" "$1/usr/local/bin/entrypoint.sh"
}

# config SERVER DATA ENVIRONMENT DIFF-ID: an image configuration, see the image specification v1.2 of
# Docker. STOPSIGNAL for PostgreSQL is SIGINT (fast shutdown), as in its official image.
config() {
	local arch now signal=SIGTERM
	arch=$(dpkg --print-architecture)
	now=$(date --utc +%FT%TZ)
	[ "$1" != postgres ] || signal=SIGINT
	cat <<-EOF
		{"architecture":"$arch","os":"linux","created":"$now",
		"config":{"Env":["PATH=/usr/lib/postgresql/15/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"$3],
		"Entrypoint":["entrypoint.sh"],"Cmd":["$1"],"Volumes":{"$2":{}},"StopSignal":"$signal"},
		"history":[{"created":"$now","created_by":"scripts/image.sh"}],
		"rootfs":{"type":"layers","diff_ids":["sha256:$4"]}}
	EOF
}

# pack ROOT DIR: writes the archive that `docker load` takes to DIR/archive.tar.
pack() {
	local root=$1 dir=$2 digest id name sep=''
	tar -C "$root" --numeric-owner --xattrs --sort=name --exclude='./dev/*' --exclude='./proc/*' \
		--exclude='./sys/*' -cf "$dir/layer.tar" .
	digest=$(sha256sum "$dir/layer.tar" | cut -d' ' -f1)
	config mariadb /var/lib/mysql '' "$digest" >"$dir/mariadb.json"
	config postgres /var/lib/postgresql/data ',"PGDATA=/var/lib/postgresql/data"' "$digest" >"$dir/postgres.json"
	config redis /data '' "$digest" >"$dir/redis.json"
	printf '[' >"$dir/manifest.json"
	for name in mariadb postgres redis; do
		id=$(sha256sum "$dir/$name.json" | cut -d' ' -f1)
		mv "$dir/$name.json" "$dir/$id.json"
		printf '%s{"Config":"%s.json","RepoTags":["drover-%s:latest"],"Layers":["layer.tar"]}' \
			"$sep" "$id" "$name" >>"$dir/manifest.json"
		sep=,
	done
	printf ']' >>"$dir/manifest.json"
	(cd "$dir" && tar --remove-files -cf archive.tar -- *.json layer.tar)
}

# finish WORK STATUS: what is left of a build, whole or not.
finish() {
	rm -rf --one-file-system "$1"
	if [ "$2" != 0 ]; then
		tail -n 20 "$log" >&2
		say "the images could not be built: see above, and all of it in $log"
	fi
}

build() {
	local work
	need_root "building the images"
	command -v debootstrap >/dev/null || die "debootstrap is not installed: run scripts/deps.sh demo"
	work=$cache/images/build # nobody else's: the lock is held
	rm -rf --one-file-system "$work" "$cache"/images/build.*/
	mkdir -m 0700 "$work"
	say "building the images from Debian's packages (about a minute, once)"
	# shellcheck disable=SC2064 # the folder of this moment
	trap "finish '$work' \$?" EXIT
	# Not as the left side of a || or in an if: there the shell would go on after a failed step.
	{
		bootstrap "$work/root"
		trim "$work/root"
		set_users "$work/root"
		data_dirs "$work/root"
		pack "$work/root" "$work"
	} >"$log" 2>&1
	rm -f "$cache"/images/databases-*.tar
	mv "$work/archive.tar" "$archive"
}

mkdir -p "$cache/images"
# Test packages ask for the images at the same time.
exec 9>"$cache/images/lock"
flock 9
[ -f "$archive" ] || build
echo "$archive"
