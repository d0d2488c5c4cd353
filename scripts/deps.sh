#!/usr/bin/env bash
# Installs what is missing on Debian or Ubuntu, prints what it installs, and touches nothing else:
#
#   scripts/deps.sh run     what drover itself calls
#   scripts/deps.sh demo    and an engine, and what builds the database images
#   scripts/deps.sh test    and what the tests call
#   scripts/deps.sh long    and what the race detector needs
#   scripts/deps.sh lint    what the linters call
#
# A Docker that is there is never replaced, removed or added to. Nothing is removed at all: where a
# package cannot be had without that, apt refuses.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"

# Debian keeps these out of the PATH of plain users.
PATH=$PATH:/usr/sbin:/sbin

run='mkfs.xfs=xfsprogs mkfs.btrfs=btrfs-progs mkfs.ext4=e2fsprogs losetup=mount fsfreeze=util-linux'
image='debootstrap=debootstrap wget=wget flock=util-linux'
test='fio=fio strace=strace setfacl=acl setfattr=attr ip=iproute2 systemd-analyze=systemd qemu-system-x86_64=qemu-system-x86 zfs-fuse=zfs-fuse podman=podman catatonit=catatonit promtool=prometheus restic=restic rclone=rclone ssh=openssh-client /usr/lib/openssh/sftp-server=openssh-sftp-server'
long='gcc=gcc gcc=libc6-dev'
lint='shellcheck=shellcheck node=nodejs npm=npm'

have() {
	command -v "$1" >/dev/null
}

# missing COMMAND=PACKAGE...: the packages whose command is not there.
missing() {
	local pair
	for pair in "$@"; do
		have "${pair%=*}" || echo "${pair#*=}"
	done
}

missing_keyring() {
	[ -f /usr/share/keyrings/debian-archive-keyring.gpg ] || echo debian-archive-keyring
}

# missing_engine: dockerd and its command line. An engine that answers without a dockerd here is somebody
# else's arrangement (a snap, a remote engine), and a second one beside it would be in its way.
missing_engine() {
	if ! have dockerd; then
		if have docker && docker version --format '{{.Server.Version}}' >/dev/null 2>&1; then
			[ "$1" = demo ] || [ -n "${DROVER_TEST_DOCKERD:-}" ] ||
				die "an engine answers here, but there is no dockerd that tests could start: name one in DROVER_TEST_DOCKERD"
			return
		fi
		echo docker.io
		# Where the kernel has AppArmor, dockerd needs the program that loads its profile.
		if [ "$(cat /sys/module/apparmor/parameters/enabled 2>/dev/null)" = Y ]; then
			missing apparmor_parser=apparmor
		fi
	fi
}

# wanted SET: the packages that are missing, one a line.
wanted() {
	# The lists are split into words on purpose.
	# shellcheck disable=SC2086
	case $1 in
	run) missing $run ;;
	demo)
		wanted run
		missing $image
		missing_keyring
		missing_engine "$1"
		;;
	test)
		wanted run
		missing $image $test
		missing_keyring
		missing_engine "$1"
		;;
	long)
		wanted test
		missing $long
		;;
	lint) missing $lint ;;
	*) die "usage: scripts/deps.sh run|demo|test|long|lint" ;;
	esac
}

install_packages() {
	have apt-get || die "missing here, and there is no apt-get: $*"
	need_root "installing $*"
	say "installing $*"
	export DEBIAN_FRONTEND=noninteractive
	# The tests start Prometheus themselves: the package must not start one.
	if [[ " $* " == *" prometheus "* ]] && [ -d /run/systemd/system ]; then
		systemctl mask prometheus.service >&2
	fi
	apt-get update -qq -o Acquire::Retries=3
	apt-get install -qq -y --no-install-recommends --no-remove -o Acquire::Retries=3 "$@" >&2
}

# Since Debian 13 the command line is a package of its own, which docker.io only recommends.
install_docker_cli() {
	if have dockerd && ! have docker; then
		install_packages docker-cli
	fi
}

[ $# = 1 ] || die "usage: scripts/deps.sh run|demo|test|long|lint"
packages=$(wanted "$1" | sort -u)
if [ -n "$packages" ]; then
	mapfile -t list <<<"$packages"
	install_packages "${list[@]}"
fi
[ "$1" = run ] || [ "$1" = lint ] || install_docker_cli
