# Sourced by install.sh and uninstall.sh: where the parts of an installation go.
# shellcheck shell=bash disable=SC2034 # the scripts that source this use them

PREFIX=${PREFIX:-/usr/local}
DESTDIR=${DESTDIR:-}
state=${DROVER_ROOT:-/var/lib/drover}
config=/etc/drover/drover.yaml

bindir=$PREFIX/bin
mandir=$PREFIX/share/man
completions=$PREFIX/share/bash-completion/completions
zsh_completions=$PREFIX/share/zsh/site-functions
fish_completions=$PREFIX/share/fish/vendor_completions.d
docdir=$PREFIX/share/doc/drover
schemadir=$PREFIX/share/drover
sysusers=/usr/lib/sysusers.d/drover.conf
# Of a host by itself and of one of a cluster; a control replica mounts nothing.
dropins="/etc/systemd/system/drover.service.d/10-paths.conf /etc/systemd/system/drover-agent.service.d/10-paths.conf"
guard_dropin=/etc/systemd/system/drover-guard.service.d/10-paths.conf
service_units="drover.service drover-agent.service drover-control.service drover-guard.service"
socket_units="drover.socket drover-agent.socket"

# systemd looks under /usr and /usr/local, but under no other prefix.
case $PREFIX in
/usr | /usr/local) units=$PREFIX/lib/systemd/system ;;
*) units=/etc/systemd/system ;;
esac
units=${SYSTEMD_UNIT_DIR:-$units}

# live: this machine is installed on, not a folder for a package; and systemd runs here.
live() {
	[ -z "$DESTDIR" ]
}

systemd_runs() {
	live && [ -d /run/systemd/system ]
}
