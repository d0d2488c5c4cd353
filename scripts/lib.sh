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
