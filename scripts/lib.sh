# Sourced by the other scripts: where things are, and how to say what is being done.
# shellcheck shell=bash disable=SC2034 # the scripts that source this use them

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# The cache of images and tools, which take long to build. All checkouts share it, because each name has a hash of the
# sources. DROVER_CACHE sets another folder.
if [ -n "${XDG_CACHE_HOME:-${HOME:-}}" ]; then
	cache=${XDG_CACHE_HOME:-$HOME/.cache}/drover
else
	cache=$top/.cache
fi
cache=$(realpath -m "${DROVER_CACHE:-$cache}")

# Without the path of the checkout in them, all checkouts share compiled packages and results of the linters.
export GOFLAGS="${GOFLAGS:-} -trimpath"

# Also on a host with a C compiler: linters, tests, the kernel lab and drover itself then share compiled packages.
# The race detector needs cgo.
export CGO_ENABLED=${CGO_ENABLED:-0}

say() {
	printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2
}

die() {
	say "$*"
	exit 1
}

# quoted WORD: as one types it, so that what is shown can be pasted.
quoted() {
	case $1 in
	'') printf "''" ;;
	*[!a-zA-Z0-9@%+=:,./_-]*)
		case $1 in
		*\'*[\"\$\`\\!]* | *[\"\$\`\\!]*\'*) printf "'%s'" "${1//\'/\'\\\'\'}" ;;
		*\'*) printf '"%s"' "$1" ;;
		*) printf "'%s'" "$1" ;;
		esac
		;;
	*) printf '%s' "$1" ;;
	esac
}

need_root() {
	[ "$(id -u)" = 0 ] || die "$* needs root: run it again as root or with sudo"
}

# content_key FILE...: a short name for the content of the files, on this architecture.
content_key() {
	{ uname -m && cat -- "$@"; } | sha256sum | cut -c1-16
}

# remove_old DIR PREFIX: removes the files and folders of the cache with this prefix that are older than a day. Younger
# ones may be in use by another checkout.
remove_old() {
	find "$cache/$1" -maxdepth 1 -name "$2-*" -mtime +0 -exec rm -rf {} +
}

phases=()
phase_name=''

# phase NAME SECONDS COMMAND...: runs a command and notes how long it took, with a warning when that was
# longer than the seconds: machines are noisy, so time alone never fails anything. A script that uses it
# says `trap show_phases EXIT`, which also notes the phase in which the script failed.
phase() {
	phase_name=$1
	phase_budget=$2
	phase_start=$SECONDS
	shift 2
	say "$phase_name ..."
	# Not in a condition, where the shell would go on after a failed step.
	"$@"
	end_phase ''
}

end_phase() {
	local took=$((SECONDS - phase_start)) remark=$1
	if [ "$took" -gt "$phase_budget" ]; then
		remark="over budget $remark"
	fi
	phases+=("$(printf '%-28s %4d s of %4d s  %s' "$phase_name" "$took" "$phase_budget" "$remark")")
	phase_name=''
}

show_phases() {
	[ -z "$phase_name" ] || end_phase FAILED
	[ ${#phases[@]} = 0 ] || printf '%s\n' "$(basename "$0" .sh): time" "${phases[@]/#/  }" >&2
}
