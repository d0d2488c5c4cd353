#!/usr/bin/env bash
# Removes what install.sh installed, and drover's root with the pool in it.
#
#   scripts/uninstall.sh              refused while there are volumes, also in the trash, or datasets in the
#                                     pools below the root that the store does not know
#   scripts/uninstall.sh --keep-data  leaves the root, all pools and all mounts as they are: containers go
#                                     on running, and `drover pool adopt` takes the pools in again
#
# Pools outside the root are never removed. PREFIX, DESTDIR and DROVER_ROOT as for install.sh. KEEP_WORD is
# what the caller types for --keep-data, STOP_SECONDS how long drover may take to stop (30).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
# shellcheck source=scripts/paths.sh
. "$here/paths.sh"
# shellcheck source=scripts/release.sh
. "$here/release.sh"

keep_word=${KEEP_WORD:---keep-data}
stop_seconds=${STOP_SECONDS:-30}
sockets='/run/docker/plugins/drover.sock /run/drover/drover.sock /run/drover/control.sock /run/drover/guard.sock'

# count NOUN prints how many of them drover lists.
count() {
	local list
	list=$("$bindir/drover" --api unix:///run/drover/drover.sock "$1" ls -q) || return
	grep -c . <<<"$list" || true
}

# refuse_data ends the script while there is anything that a user could miss.
refuse_data() {
	local volumes trash list image
	[ -d "$state" ] || return 0
	# Another drover's answer, which DROVER_API or other flags could bring, would be about other data.
	if [ -e "$state/lock" ] && flock --nonblock "$state/lock" true; then
		die "cannot ask drover what $state holds, as none serves it, so nothing was removed: start it, or say $keep_word"
	fi
	if ! volumes=$(count volume) || ! trash=$(count trash); then
		die "cannot ask drover what it holds, so nothing was removed: start it, or say $keep_word"
	fi
	[ "$volumes $trash" = '0 0' ] ||
		die "there are still $volumes in 'drover volume ls' and $trash in 'drover trash ls', so nothing was removed: remove them, or say $keep_word"
	# A store that was lost lists nothing, and the data is there all the same.
	for image in "$state"/pools/*.img; do
		[ ! -e "$image" ] || mountpoint --quiet "${image%.img}" ||
			die "$image is not mounted, so that nobody knows what it holds, and nothing was removed: see 'drover doctor', or say $keep_word"
	done
	list=$(find "$state"/pools/*/datasets -mindepth 1 -maxdepth 1 2>/dev/null || true)
	[ -z "$list" ] ||
		die "the store knows nothing of $(head -n 1 <<<"$list") ($(wc -l <<<"$list") in all), so nothing was removed: see 'drover doctor', or say $keep_word"
}

# installed prints the process IDs of the installed drover, whatever it does.
installed() {
	local exe pid
	for exe in /proc/[0-9]*/exe; do
		pid=${exe#/proc/}
		case $(readlink "$exe" 2>/dev/null || true) in
		"$bindir/drover" | "$bindir/drover (deleted)") echo "${pid%/exe}" ;;
		esac
	done
}

# command_line PID prints its words, each with a blank after it.
command_line() {
	tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" || true
}

# serving prints the process IDs of the installed drover where it serves or guards with the default root and
# sockets: what else was started with other ones is not ours.
serving() {
	local pid
	for pid in $(installed); do
		case $(command_line "$pid") in
		*--root* | *--run* | *--driver*) ;;
		*' serve '* | *' guard '* | *'drover agent '* | *'drover control '*) echo "$pid" ;;
		esac
	done
}

# refuse_others ends the script while a drover with another root listens on the sockets that are removed here.
refuse_others() {
	local pid line
	for pid in $(installed); do
		line=$(command_line "$pid")
		case $line in
		*--run* | *--driver*) ;;
		*' serve '*--root* | *'drover agent '*--root*)
			die "process $pid (${line% }) serves another root with the sockets of this installation, so nothing was removed: stop its containers, then the process"
			;;
		esac
	done
}

# stop_service ends the sockets first: an engine that asks meanwhile would start the service again.
stop_service() {
	local pid socket until
	if systemd_runs; then
		# shellcheck disable=SC2086 # words
		systemctl --quiet disable --now $socket_units $service_units 2>/dev/null || true
	fi
	for pid in $(serving); do
		say "stopping drover, process $pid"
		kill "$pid" 2>/dev/null || continue
		until=$((SECONDS + stop_seconds))
		# What has ended is no longer listed, also where nobody waited for it: a zombie has no exe.
		while serving | grep -qx "$pid"; do
			[ $SECONDS -lt $until ] ||
				die "process $pid did not end within $stop_seconds s, so nothing more was removed: see 'journalctl -u drover', end it, and run this again"
			sleep 0.1
		done
	done
	for socket in $sockets; do
		rm -f "$socket"
	done
	rm -rf /run/drover/guard
}

remove_state() {
	[ -d "$state" ] || return 0
	remove_below "$state"
	# The root may be a file system of its own, which is not ours to take away.
	mountpoint --quiet "$state" || rmdir "$state"
}

remove_files() {
	local page unit
	rm -f "$DESTDIR$bindir/drover" "$DESTDIR$completions/drover" "$DESTDIR$sysusers" \
		"$DESTDIR$zsh_completions/_drover" "$DESTDIR$fish_completions/drover.fish"
	for unit in $socket_units $service_units; do
		rm -f "$DESTDIR$units/$unit"
	done
	for page in "$DESTDIR$mandir"/man1/drover.1 "$DESTDIR$mandir"/man1/drover-*.1 \
		"$DESTDIR$mandir"/man5/drover.yaml.5 "$DESTDIR$mandir"/man5/profiles.yaml.5; do
		rm -f "$page"
	done
	rm -rf "$DESTDIR$docdir" "$DESTDIR$schemadir"
	rmdir --ignore-fail-on-non-empty "$DESTDIR${config%/*}" 2>/dev/null || true
	for unit in $dropins $guard_dropin; do
		rm -f "$DESTDIR$unit"
		rmdir --ignore-fail-on-non-empty "$(dirname "$DESTDIR$unit")" 2>/dev/null || true
	done
}

# remains lists the files that stay on this machine, with the commands that remove them. It prints no such command for
# the folder of the configuration if that has other files: these are usually the keys of encrypted volumes, and without
# them the pools that stay cannot be read.
remains() {
	local pool folder=${config%/*} other
	if [ -d "$state" ] && $keep; then
		say "left: $state, data and state; containers go on running; to remove it, install again and run the uninstall without $keep_word"
	elif [ -d "$state" ]; then
		say "left: $state, an empty mount point"
	fi
	if [ -f "$config" ]; then
		sed -n 's/^[^#]*\<path: *\([^],} ]*\).*/\1/p' "$config" | while read -r pool; do
			say "left: the pool at $pool: 'drover pool adopt $pool' takes it in again after an install"
		done
	fi
	if [ -d "$folder" ]; then
		other=$(find "$folder" ! -type d ! -name drover.yaml ! -name profiles.yaml -print -quit)
		if [ -z "$other" ]; then
			say "left: $folder, the configuration: rm -r $folder"
		else
			say "left: $folder, the configuration, and for example $other: copy the keys in it before you remove it, as no encrypted volume can be read without its key, also in a pool that stays"
		fi
	fi
	if getent group drover >/dev/null; then
		say "left: the group drover: groupdel drover"
	fi
}

keep=false
case "${1:-}" in
--keep-data) keep=true ;;
'') ;;
*) die "usage: scripts/uninstall.sh [--keep-data]" ;;
esac

if live; then
	need_root "uninstalling from $PREFIX"
	$keep || refuse_data
	refuse_others
	stop_service
	$keep || remove_state
fi
remove_files
! systemd_runs || systemctl daemon-reload
if live && $keep; then
	say "uninstalled; the data stays in $state and in the pools of $config: after an install, drover finds it there, or takes a pool in by 'drover pool adopt PATH'"
else
	say "uninstalled"
fi
! live || remains
if live && docker version >/dev/null 2>&1; then
	say "an engine that has met a plugin waits 15 s for it at each 'docker volume ls' until it is restarted"
fi
