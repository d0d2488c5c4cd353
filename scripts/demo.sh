#!/usr/bin/env bash
# Plays the story of the README with real parts: a MariaDB on a gold volume, and a writable copy of it for
# a developer, taken while it writes. Shows each command and what it prints.
#
# An engine that answers is used; where none does, one is started that only the demonstration uses.
# Everything lies below DROVER_DEMO (/var/tmp/drover-demo) and stays for a look around; `make demo-clean`
# removes it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
# shellcheck source=scripts/demo-paths.sh
. "$here/demo-paths.sh"

bold='' plain=''
if [ -t 1 ]; then
	bold=$(printf '\033[1m')
	plain=$(printf '\033[0m')
fi

# show COMMAND...: prints a command as one types it, and runs it.
show() {
	local word line=''
	for word in "$@"; do
		line+=" $(quoted "$word")"
	done
	printf '\n%s$%s%s\n' "$bold" "$line" "$plain"
	"$@"
}

tell() {
	printf '\n# %s\n' "$*"
}

# await SECONDS WHAT COMMAND...: until the command succeeds.
await() {
	local until=$((SECONDS + $1)) what=$2
	shift 2
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $until ] || die "$what did not come up; the logs are in $demo"
		sleep 0.2
	done
}

# background NAME COMMAND...: a daemon with its own session, log and pid file.
background() {
	local name=$1
	shift
	setsid "$@" >"$demo/$name.log" 2>&1 </dev/null &
	echo $! >"$demo/$name.pid"
}

find_engine() {
	if docker version >/dev/null 2>&1; then
		say "using the engine that answers at ${DOCKER_HOST:-its usual place}"
		return
	fi
	export DOCKER_HOST=unix://$demo/docker.sock
	docker version >/dev/null 2>&1 && return
	say "no engine answers: starting one for the demonstration"
	mkdir -p "$demo/engine"
	echo '{}' >"$demo/engine/daemon.json"
	background dockerd dockerd --config-file "$demo/engine/daemon.json" --host "$DOCKER_HOST" \
		--data-root "$demo/engine/data" --exec-root "$demo/engine/exec" --pidfile "$demo/engine/docker.pid" \
		--bridge=none --iptables=false --ip-masq=false --ip-forward=false \
		--exec-opt native.cgroupdriver=cgroupfs --cgroup-parent /drover-demo
	await 60 "the engine" docker version
}

start_drover() {
	export DROVER_API=unix://$demo/run/drover.sock
	drover pool ls >/dev/null 2>&1 && return
	# A small pool: the default one takes half of the free space. So its volumes are smaller, too.
	echo "pools: [{name: default, backend: loop, path: $demo/pool.img, image: 4GiB}]" >"$demo/drover.yaml"
	sed -E 's/[12]0( ?GiB)/2\1/' "$top/profiles.yaml" >"$demo/profiles.yaml"
	background drover drover serve --root "$demo/root" --run "$demo/run" --driver "$driver" \
		--config "$demo/drover.yaml" --profiles "$demo/profiles.yaml"
	await 120 "drover" drover pool ls
}

answers() {
	docker exec "$1" mariadb -e 'select 1'
}

play() {
	tell "a database on the profile gold"
	show docker run -d --name drover-demo-db -v demo-db@gold:/var/lib/mysql --volume-driver "$driver" drover-mariadb
	await 90 "the database" answers drover-demo-db
	show docker volume inspect --format '{{json .Status}}' demo-db@gold
	show docker exec drover-demo-db mariadb -e "create database shop; create table shop.orders (id int auto_increment primary key, what varchar(40)); insert into shop.orders (what) values ('hammer'), ('nails'), ('glue')"

	tell "a copy for a developer, while the database runs: the first 8 characters of the dataset say of what"
	local id
	id=$(docker volume inspect --format '{{.Status.dataset}}' demo-db@gold | cut -c1-8)
	show docker run -d --name drover-demo-dev -v "demo-dev@snapshot-$id:/var/lib/mysql" --volume-driver "$driver" drover-mariadb
	await 90 "the copy" answers drover-demo-dev
	show docker exec drover-demo-dev mariadb -e "select * from shop.orders"
	show docker exec drover-demo-dev mariadb -e "delete from shop.orders"
	tell "the original has not noticed"
	show docker exec drover-demo-db mariadb -e "select count(*) from shop.orders"
	show drover volume ls

	tell "snapshots, and back"
	show drover snapshot create demo-db --name before-upgrade
	show docker exec drover-demo-db mariadb -e "drop table shop.orders"
	show docker stop drover-demo-db
	show drover snapshot restore demo-db before-upgrade
	show docker start drover-demo-db
	await 90 "the database" answers drover-demo-db
	show docker exec drover-demo-db mariadb -e "select * from shop.orders"
	show drover doctor
}

need_root "the demonstration"
own_folder
"$here/deps.sh" demo
make -C "$top" --no-print-directory build
images=$("$here/image.sh")
mkdir -p "$demo"
touch "$demo/made-by-drover-demo"
PATH=$top/bin:$PATH:/usr/sbin:/sbin
find_engine
start_drover
docker image inspect drover-mariadb >/dev/null 2>&1 || touch "$demo/images-loaded"
docker load -qi "$images" >/dev/null
docker rm -f drover-demo-db drover-demo-dev >/dev/null 2>&1 || true
for volume in demo-db demo-dev; do
	drover volume rm "$volume" >/dev/null 2>&1 || true
done
play
printf '\n'
say "that was it. To look around:"
# shellcheck disable=SC2016 # the reader's shell expands it
printf '  export PATH=%s:$PATH DROVER_API=%s%s\n  make demo-clean\n' "$top/bin" "$DROVER_API" \
	"${DOCKER_HOST:+ DOCKER_HOST=$DOCKER_HOST}" >&2
