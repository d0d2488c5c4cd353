# Sourced by uninstall.sh and demo-clean.sh: takes off what drover mounted below a folder.
# shellcheck shell=bash

# mounts_below DIR lists the mounts below a folder, the newest first.
mounts_below() {
	local target
	findmnt --raw --noheadings --output TARGET | tac | while IFS= read -r target; do
		target=$(printf '%b' "$target") # findmnt writes a blank as \x20
		case $target in
		"$1"/*) printf '%s\n' "$target" ;;
		esac
	done
}

# loops_below DIR lists the loop devices of files below a folder. They are told by device and inode: in
# another mount namespace another file may have the same path.
loops_below() {
	local name inode device file
	losetup --raw --noheadings --output NAME,BACK-INO,BACK-MAJ:MIN,BACK-FILE |
		while read -r name inode device file; do
			device=${device//\\x20/} # padded, and blanks are written as \x20
			file=$(printf '%b' "$file")
			case $file in
			"$1"/*) [ "$(stat --format='%i %Hd:%Ld' "$file" 2>/dev/null)" != "$inode $device" ] || echo "$name" ;;
			esac
		done
}

# release_below DIR unmounts and detaches in rounds: volumes lie on loop devices in a pool, which may lie
# on one itself.
release_below() {
	local round item
	for round in 1 2 3 4 5; do
		while IFS= read -r item; do
			umount -- "$item" 2>/dev/null || true
		done < <(mounts_below "$1")
		while IFS= read -r item; do
			losetup --detach "$item" 2>/dev/null || true
		done < <(loops_below "$1")
		[ -n "$(mounts_below "$1")$(loops_below "$1")" ] || return 0
		sleep "0.$round" # a detached device goes when its last user has closed it
	done
	die "still in use, so the data was not removed: $(mounts_below "$1" | tr '\n' ' ')$(loops_below "$1" | tr '\n' ' ')"
}

# remove_below DIR releases and removes everything in a drover root, but not the folder itself.
remove_below() {
	release_below "$1"
	# Folders that volumes are mounted on are immutable, lest anything be written below a mount.
	if [ -d "$1/mnt" ]; then
		find "$1/mnt" -xdev -mindepth 1 -maxdepth 1 -type d -exec chattr -i {} +
	fi
	find "$1" -xdev -mindepth 1 -delete
}
