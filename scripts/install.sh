#!/usr/bin/env bash
# Installs drover: the binary, systemd units, man pages, completion for bash, zsh and fish, and the JSON schemas of
# profiles.yaml and drover.yaml.
#
#   PREFIX=/usr/local  DESTDIR=  where to; with DESTDIR nothing outside it is touched or called
#   DROVER_ROOT=/var/lib/drover  the root that drover will be started with
#
# The units wait for the file systems of the root and of the pools that drover.yaml names: install again
# after naming another one there. Nothing is started or restarted.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
# shellcheck source=scripts/paths.sh
. "$here/paths.sh"

# put MODE SOURCE TARGET
put() {
	install -D -m "$1" "$2" "$DESTDIR$3"
}

# pool_paths prints the values of the `path:` keys of drover.yaml, one a line.
pool_paths() {
	[ -f "$DESTDIR$config" ] || return 0
	sed -nE 's/(^|^[^#]*[-{, ])path: *(\"([^\"]*)\"|'\''([^'\'']*)'\''|([^],}# ]+)).*/\3\4\5/p' "$DESTDIR$config"
}

# write_dropin FILE
write_dropin() {
	local path file=$DESTDIR$1
	mkdir -p "$(dirname "$file")"
	{
		echo "# Written by make install from $config."
		echo "[Unit]"
		{ echo "$state" && pool_paths; } | while IFS= read -r path; do
			# A percent sign would be a specifier (systemd.unit(5)).
			printf 'RequiresMountsFor="%s"\n' "${path//%/%%}"
		done
	} >"$file"
	chmod 0644 "$file"
}

write_guard_dropin() {
	mkdir -p "$(dirname "$DESTDIR$guard_dropin")"
	printf '# Written by make install.\n[Unit]\nRequiresMountsFor="%s"\n' "${state//%/%%}" >"$DESTDIR$guard_dropin"
	chmod 0644 "$DESTDIR$guard_dropin"
}

install_units() {
	local work=$1 unit
	for unit in $service_units; do
		sed "s|@bindir@|$bindir|" "$top/packaging/systemd/$unit" >"$work/$unit"
		put 0644 "$work/$unit" "$units/$unit"
	done
	for unit in $socket_units; do
		put 0644 "$top/packaging/systemd/$unit" "$units/$unit"
	done
	put 0644 "$top/packaging/systemd/sysusers.conf" "$sysusers"
	for unit in $dropins; do
		write_dropin "$unit"
	done
	write_guard_dropin
}

install_docs() {
	local work=$1 page
	mkdir "$work/man"
	"$top/bin/drover" man "$work/man"
	for page in "$work"/man/*.[15]; do
		put 0644 "$page" "$mandir/man${page##*.}/$(basename "$page")"
	done
	"$top/bin/drover" completion bash >"$work/completion"
	put 0644 "$work/completion" "$completions/drover"
	"$top/bin/drover" completion zsh >"$work/completion"
	put 0644 "$work/completion" "$zsh_completions/_drover"
	"$top/bin/drover" completion fish >"$work/completion"
	put 0644 "$work/completion" "$fish_completions/drover.fish"
	put 0644 "$top/profiles/profiles.schema.json" "$schemadir/profiles.schema.json"
	put 0644 "$top/internal/config/drover.schema.json" "$schemadir/drover.schema.json"
	# A copy in /etc/drover refers to the installed schema.
	sed "1s|profiles/profiles.schema.json|$schemadir/profiles.schema.json|" "$top/profiles.yaml" >"$work/profiles.yaml"
	put 0644 "$work/profiles.yaml" "$docdir/profiles.yaml"
	put 0644 "$top/LICENSE" "$docdir/LICENSE"
	put 0644 "$top/deploy/prometheus/drover.rules.yaml" "$docdir/drover.rules.yaml"
	put 0644 "$top/deploy/grafana/drover.json" "$docdir/drover.grafana.json"
}

# The socket unit gives its sockets to this group.
make_group() {
	getent group drover >/dev/null || groupadd --system drover
}

next_step() {
	if ! systemd_runs; then
		say "installed; no systemd runs here: start it with $bindir/drover serve"
	elif systemctl --quiet is-active drover.service; then
		say "installed; the old version goes on running until: systemctl restart drover"
	else
		say "installed; to start it, now and at each boot: systemctl enable --now drover.socket drover.service"
	fi
}

! live || need_root "installing into $PREFIX"
[ -x "$top/bin/drover" ] || make -C "$top" build
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The file that runs is exchanged, never written to.
put 0755 "$top/bin/drover" "$bindir/.drover.new"
mv -f "$DESTDIR$bindir/.drover.new" "$DESTDIR$bindir/drover"
install_units "$work"
install_docs "$work"
install -d -m 0755 "$DESTDIR${config%/*}" # for drover.yaml and profiles.yaml
if live; then
	make_group
	! systemd_runs || systemctl daemon-reload
	next_step
fi
