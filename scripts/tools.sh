#!/usr/bin/env bash
# Builds tools at the versions that tools/ pins, once, into the cache, and prints the path of each:
#
#   scripts/tools.sh golangci-lint|govulncheck|benchstat|gotestsum|docker-compose|consul|versitygw ...
#
# They are built there because `go tool` would link them again at each change of the Go build cache, because
# Docker takes docker-compose only as a file, and because tests start consul themselves.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"

usage="usage: scripts/tools.sh golangci-lint|govulncheck|benchstat|gotestsum|docker-compose|consul|versitygw ..."

# build MODULE PACKAGE OUTPUT [LDFLAGS]
build() {
	say "building $(basename "$3" .tmp) (a minute or two, once)"
	CGO_ENABLED=0 go build -C "$top/$1" -trimpath -ldflags "-s -w ${4:-}" -o "$3" "$2" \
		2> >(grep -v '^go: downloading ' >&2)
}

# module_version MODULE PATH: what a module of ours requires.
module_version() {
	go list -C "$top/$1" -m -f '{{.Version}}' "$2"
}

tool() {
	local name=$1 module=tools package ldflags=''
	case $name in
	golangci-lint) package=github.com/golangci/golangci-lint/v2/cmd/golangci-lint ;;
	govulncheck) package=golang.org/x/vuln/cmd/govulncheck ;;
	benchstat) package=golang.org/x/perf/cmd/benchstat ;;
	gotestsum)
		module=tools/gotestsum
		package=gotest.tools/gotestsum
		;;
	docker-compose)
		module=tools/compose
		package=github.com/docker/compose/v2/cmd
		;;
	consul)
		module=tools/consul
		package=github.com/hashicorp/consul
		;;
	versitygw)
		module=tools/versitygw
		package=github.com/versity/versitygw/cmd/versitygw
		;;
	*) die "$usage" ;;
	esac
	local dir
	dir=$cache/tools/$name-$(content_key "$top/$module/go.mod" "$top/$module/go.sum" "$(go env GOROOT)/VERSION")
	if [ ! -x "$dir/$name" ]; then
		if [ "$name" = docker-compose ]; then
			ldflags="-X github.com/docker/compose/v2/internal.Version=$(module_version "$module" github.com/docker/compose/v2)"
		fi
		remove_old tools "$name"
		build "$module" "$package" "$dir/$name.tmp" "$ldflags"
		mv "$dir/$name.tmp" "$dir/$name"
	fi
	echo "$dir/$name"
}

[ $# -gt 0 ] || die "$usage"
mkdir -p "$cache/tools"
# One lock a tool, so that different tools are built side by side.
for name in "$@"; do
	exec 9>"$cache/tools/$name.lock"
	flock 9
	tool "$name"
	exec 9>&-
done
