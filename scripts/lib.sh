# Sourced by the other scripts: where things are, and how to say what is being done.
# shellcheck shell=bash disable=SC2034 # the scripts that source this use them

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# What takes long to make and can be made again: images, tools. DROVER_CACHE puts it elsewhere.
cache=$(realpath -m "${DROVER_CACHE:-$top/.cache}")

say() {
	printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2
}

die() {
	say "$*"
	exit 1
}

need_root() {
	[ "$(id -u)" = 0 ] || die "$* needs root: run it again as root or with sudo"
}

# content_key FILE...: a short name for the content of the files, on this architecture.
content_key() {
	{ uname -m && cat -- "$@"; } | sha256sum | cut -c1-16
}
