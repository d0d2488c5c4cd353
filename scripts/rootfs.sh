# Sourced by the scripts that make images: a Debian of some packages in a folder, and archives for `docker
# load`, without an engine and without a registry. Where packages come from, debian_mirror says.
# shellcheck shell=bash disable=SC2154 # lib.sh says where the cache is

suite=bookworm

# debian_mirror prints the mirror, or nothing where apt has none (Ubuntu): debootstrap then knows one.
debian_mirror() {
	if [ -n "${DROVER_DEBIAN_MIRROR:-}" ]; then
		echo "$DROVER_DEBIAN_MIRROR"
		return
	fi
	# shellcheck disable=SC2016 # apt expands these, not the shell
	apt-get indextargets --format '$(ORIGIN)/$(LABEL) $(REPO_URI)' 'Created-By: Packages' |
		awk '$1 == "Debian/Debian" && !found { print $2; found = 1 }'
}

# configure_dpkg ROOT: what is thrown away at the end is not unpacked, no package starts a service, and
# dpkg does not flush each file to a disk that will be packed anyway.
configure_dpkg() {
	mkdir -p "$1/etc/dpkg/dpkg.cfg.d"
	cat >"$1/etc/dpkg/dpkg.cfg.d/image" <<-'END'
		force-unsafe-io
		path-exclude=/usr/share/doc/*
		path-exclude=/usr/share/info/*
		path-exclude=/usr/share/man/*
		path-exclude=/usr/share/locale/*
		path-exclude=/usr/share/i18n/*
	END
	printf '#!/bin/sh\nexit 101\n' >"$1/usr/sbin/policy-rc.d"
	chmod 0755 "$1/usr/sbin/policy-rc.d"
}

# bootstrap ROOT PACKAGES [COMMAND...]: a small Debian with the packages, which commas part. The command is
# run before they are configured.
bootstrap() {
	local root=$1 packages=$2 mirror
	shift 2
	command -v debootstrap >/dev/null || die "debootstrap is not installed: run scripts/deps.sh demo"
	mirror=$(debian_mirror)
	debootstrap --foreign --variant=minbase --include="$packages" "$suite" "$root" ${mirror:+"$mirror"}
	configure_dpkg "$root"
	"$@"
	chroot "$root" /debootstrap/debootstrap --second-stage
}

# trim ROOT: package lists and archives, and what configure_dpkg wrote.
trim() {
	rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* "$1"/var/log/* "$1"/tmp/* "$1"/usr/share/man/* \
		"$1"/usr/share/doc/* "$1"/usr/share/locale/* "$1"/usr/share/i18n \
		"$1"/usr/sbin/policy-rc.d "$1"/etc/dpkg/dpkg.cfg.d/image
}

# layer ROOT FILE
layer() {
	tar -C "$1" --numeric-owner --xattrs --sort=name --exclude='./dev/*' --exclude='./proc/*' \
		--exclude='./sys/*' -cf "$2" .
}

# add_image DIR NAME CONFIG LAYER...: adds an image to the archive that is being made in a folder. The
# layers are files there; CONFIG is what stands between the braces of "config" in the image specification
# v1.2 of Docker.
add_image() {
	local dir=$1 name=$2 config=$3 now id file ids='' files='' history=''
	shift 3
	now=$(date --utc +%FT%TZ)
	for file in "$@"; do
		ids+=${ids:+,}"\"sha256:$(sha256sum "$dir/$file" | cut -d' ' -f1)\""
		files+=${files:+,}"\"$file\""
		history+=${history:+,}"{\"created\":\"$now\",\"created_by\":\"scripts/$(basename "$0")\"}"
	done
	cat >"$dir/config" <<-END
		{"architecture":"$(dpkg --print-architecture)","os":"linux","created":"$now",
		"config":{$config},"history":[$history],
		"rootfs":{"type":"layers","diff_ids":[$ids]}}
	END
	id=$(sha256sum "$dir/config" | cut -d' ' -f1)
	mv "$dir/config" "$dir/$id.json"
	echo "{\"Config\":\"$id.json\",\"RepoTags\":[\"$name:latest\"],\"Layers\":[$files]}" >>"$dir/manifest"
}

# pack DIR: the archive of all images that were added, as DIR/archive.tar.
pack() {
	{ echo '[' && paste -sd, "$1/manifest" && echo ']'; } >"$1/manifest.json"
	rm "$1/manifest"
	(cd "$1" && tar --remove-files -cf archive.tar -- *.json *.tar)
}

# in_work LOG COMMAND...: runs a command with a folder for its work as the last argument, which is gone
# afterwards, and its output in the log; of a failure the end is shown. The caller holds the cache's lock.
in_work() {
	local work=$cache/images/build log=$1
	shift
	rm -rf --one-file-system "$work" "$cache"/images/build.*/
	mkdir -m 0700 "$work"
	# shellcheck disable=SC2064 # the names of this moment
	trap "give_up '$work' '$log'" EXIT
	# Not as the left side of a || or in an if: there the shell would go on after a failed step.
	"$@" "$work" >"$log" 2>&1
	rm -rf --one-file-system "$work"
	trap - EXIT
}

# give_up WORK LOG: a build failed.
give_up() {
	rm -rf --one-file-system "$1"
	tail -n 20 "$2" >&2
	say "the images could not be built: see above, and all of it in $2"
}
