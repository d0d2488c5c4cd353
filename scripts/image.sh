#!/usr/bin/env bash
# Builds the database images of the tests and the demonstration, and prints the path of their archive:
#
#   docker load -i "$(scripts/image.sh)"     brings drover-mariadb, drover-postgres and drover-redis
#
# The three are one layer with Debian 12's MariaDB, PostgreSQL and Redis, and three configurations. The
# archive is made without an engine and without a registry, by debootstrap from the Debian mirror that
# apt uses here (DROVER_DEBIAN_MIRROR names another one); it stays in the cache, and is made again only
# when this script, what it shares with others, or the entry point changes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
# shellcheck source=scripts/rootfs.sh
. "$here/rootfs.sh"

packages=mariadb-server-core,mariadb-client,postgresql-15,redis-server
archive=$cache/images/databases-$(content_key "$here/image.sh" "$here/rootfs.sh" "$here/image/entrypoint.sh").tar

# no_cluster ROOT: PostgreSQL's package makes no database of its own.
no_cluster() {
	mkdir -p "$1/etc/postgresql-common"
	echo 'create_main_cluster = false' >"$1/etc/postgresql-common/createcluster.conf"
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

# trim_databases ROOT: PostgreSQL's just-in-time compiler, which is a third of the whole and only sought
# when a query is expensive; without it PostgreSQL does without.
trim_databases() {
	trim "$1"
	rm -rf "$1"/usr/share/postgresql/*/man "$1"/usr/lib/postgresql/*/lib/bitcode \
		"$1"/usr/lib/postgresql/*/lib/llvmjit* "$1"/usr/lib/*/libLLVM-* "$1"/usr/lib/*/libz3.so.*
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

# add_server DIR SERVER DATA ENVIRONMENT STOPSIGNAL
add_server() {
	add_image "$1" "drover-$2" '"Env":["PATH=/usr/lib/postgresql/15/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"'"$4"'],
		"Entrypoint":["entrypoint.sh"],"Cmd":["'"$2"'"],"Volumes":{"'"$3"'":{}},"StopSignal":"'"$5"'"' layer.tar
}

build() {
	local work=$1
	bootstrap "$work/root" "$packages" no_cluster "$work/root"
	trim_databases "$work/root"
	set_users "$work/root"
	data_dirs "$work/root"
	layer "$work/root" "$work/layer.tar"
	add_server "$work" mariadb /var/lib/mysql '' SIGTERM
	# A fast shutdown, as in its official image.
	add_server "$work" postgres /var/lib/postgresql/data ',"PGDATA=/var/lib/postgresql/data"' SIGINT
	add_server "$work" redis /data '' SIGTERM
	pack "$work"
	remove_old images databases
	mv "$work/archive.tar" "$archive"
}

mkdir -p "$cache/images"
# Test packages ask for the images at the same time.
exec 9>"$cache/images/lock"
flock 9
if [ ! -f "$archive" ]; then
	need_root "building the images"
	say "building the images from Debian's packages (about a minute, once)"
	in_work "$cache/images/build.log" build
fi
echo "$archive"
