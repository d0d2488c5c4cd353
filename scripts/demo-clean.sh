#!/usr/bin/env bash
# Removes whatever the demonstration left, also after a crash: the socket file first where nobody listens on
# it, since an engine waits for a dead one at each command; then containers, volumes, images, the engine
# that it started, mounts, loop devices, the files. Again: nothing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
# shellcheck source=scripts/demo-paths.sh
. "$here/demo-paths.sh"
# shellcheck source=scripts/release.sh
. "$here/release.sh"

# running NAME prints the pid of a daemon of the demonstration, if that is what has the pid now.
running() {
	local pid
	pid=$(cat "$demo/$1.pid" 2>/dev/null) || return 1
	tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF "$demo" || return 1
	echo "$pid"
}

# end NAME: asks a daemon to stop, and insists after a while.
end() {
	local pid until=$((SECONDS + 30))
	pid=$(running "$1") || return 0
	kill "$pid" 2>/dev/null || return 0
	while [ -d "/proc/$pid" ] && [ $SECONDS -lt $until ]; do
		sleep 0.1
	done
	[ ! -d "/proc/$pid" ] || kill -9 "$pid" 2>/dev/null || true
}

# remove_from_engine has the engine forget what it was told of: it keeps records of volumes.
remove_from_engine() {
	local volume
	[ -z "$(running dockerd || true)" ] || export DOCKER_HOST=unix://$demo/docker.sock
	docker version >/dev/null 2>&1 || return 0
	docker rm -f drover-demo-db drover-demo-dev >/dev/null 2>&1 || true
	[ -n "$(running drover || true)" ] || return 0
	docker volume ls --quiet --filter "driver=$driver" | while IFS= read -r volume; do
		docker volume rm --force "$volume" >/dev/null || true
	done
}

remove_images() {
	if [ -e "$demo/images-loaded" ]; then
		docker image rm drover-mariadb drover-postgres drover-redis >/dev/null 2>&1 || true
	fi
}

# orphans prints what outlives an engine that was killed: containers, and the shims beside them.
orphans() {
	local pid
	{
		cat /sys/fs/cgroup/drover-demo/*/cgroup.procs /sys/fs/cgroup/*/drover-demo/*/cgroup.procs
		grep --files-with-matches --fixed-strings "$demo/engine/exec/" /proc/[0-9]*/cmdline | cut -d/ -f3 |
			while IFS= read -r pid; do
				# Not whoever looks at these files: a pager, an editor.
				case $(cat "/proc/$pid/comm") in
				containerd* | runc* | docker*) echo "$pid" ;;
				esac
			done
	} 2>/dev/null | sort -u | grep -vx 0 || true
}

end_orphans() {
	local round pids
	for round in 1 2 3 4 5; do
		pids=$(orphans)
		[ -n "$pids" ] || break
		# shellcheck disable=SC2086 # several
		kill -9 $pids 2>/dev/null || true
		sleep "0.$round"
	done
	find /sys/fs/cgroup -depth -type d -path '*/drover-demo*' -exec rmdir {} + 2>/dev/null || true
}

need_root "cleaning up after the demonstration"
own_folder
PATH=$PATH:/usr/sbin:/sbin
if [ -z "$(running drover || true)" ]; then
	rm -f "/run/docker/plugins/$driver.sock"
fi
[ -d "$demo" ] || exit 0
remove_from_engine
remove_images
end drover
end dockerd
end_orphans
rm -f "/run/docker/plugins/$driver.sock"
release_below "$demo"
[ ! -d "$demo/root" ] || remove_below "$demo/root"
rm -rf --one-file-system "$demo"
say "removed $demo and all that belonged to it"
if docker version >/dev/null 2>&1; then
	say "an engine that has met a plugin waits 15 s for it at each 'docker volume ls' until it is restarted"
fi
