#!/usr/bin/env bash
# Removes whatever the demonstration left: the socket file first, since an engine waits for a dead one at
# each command; then containers, mounts, loop devices, the engine that it started, the files. Again: nothing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
# shellcheck source=scripts/demo-paths.sh
. "$here/demo-paths.sh"

# running NAME prints the pid of a daemon of the demonstration, if that is what has the pid now.
running() {
	local pid
	pid=$(cat "$demo/$1.pid" 2>/dev/null) || return 1
	tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$demo" || return 1
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

remove_containers() {
	[ -z "$(running dockerd || true)" ] || export DOCKER_HOST=unix://$demo/docker.sock
	command -v docker >/dev/null || return 0
	docker rm -f drover-demo-db drover-demo-dev >/dev/null 2>&1 || true
	if [ -z "${DOCKER_HOST:-}" ]; then
		docker image rm drover-mariadb drover-postgres drover-redis >/dev/null 2>&1 || true
	fi
}

# unmount_all takes off what is mounted below the demonstration, the innermost first.
unmount_all() {
	local target
	awk -v d="$demo/" 'index($5, d) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while IFS= read -r target; do
		umount "$target" 2>/dev/null || umount -l "$target"
	done
}

# detach_all lets go of loop devices whose file lies in the demonstration: drover's clear themselves with
# their mounts, so these are strays.
detach_all() {
	local device
	losetup --list --noheadings --output NAME,BACK-FILE | awk -v d="$demo/" 'index($2, d) == 1 { print $1 }' |
		while IFS= read -r device; do
			losetup -d "$device"
		done
}

need_root "cleaning up after the demonstration"
PATH=$PATH:/usr/sbin:/sbin
if [ -d "$demo" ]; then
	remove_containers
fi
rm -f "/run/docker/plugins/$driver.sock"
[ -d "$demo" ] || exit 0
end drover
end dockerd
rm -f "/run/docker/plugins/$driver.sock"
unmount_all
detach_all
chattr -R -i "$demo/root/mnt" 2>/dev/null || true
rm -rf --one-file-system "$demo"
say "removed $demo and all that belonged to it"
