#!/usr/bin/env bash
# Checks the code without running it: golangci-lint (.golangci.yml),
# gofmt, go.mod, docs/openapi.yaml, and the shell scripts.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
cd "$top"

lint_go() {
	local lint untagged
	lint=$(scripts/tools.sh golangci-lint)
	# The code that only tests of crashes, and those in the kernel lab, are built with, is checked with the rest.
	"$lint" run --build-tags steps,lab ./...
	# Without the tags, only files that these exclude are new.
	mapfile -t untagged < <(grep -rlE --include='*.go' '^//go:build .*!(steps|lab)' . | xargs -n 1 dirname | sort -u)
	"$lint" run "${untagged[@]}"
}

tidy() {
	local module
	for module in . tools tools/compose tools/gotestsum; do
		go -C "$module" mod tidy -diff
	done
}

lint_shell() {
	shellcheck .ci/run scripts/*.sh scripts/*/*.sh
}

# lint_api checks docs/openapi.yaml with two public linters. They are installed once, at the versions that
# tools/openapi pins, and run no install scripts.
lint_api() {
	local dir
	dir=$cache/tools/openapi-$(content_key tools/openapi/package.json tools/openapi/package-lock.json)
	if [ ! -e "$dir/installed" ]; then
		remove_old tools openapi
		rm -rf "$dir"
		mkdir -p "$dir"
		cp tools/openapi/package.json tools/openapi/package-lock.json "$dir"
		npm ci --prefix "$dir" --ignore-scripts --no-audit --no-fund --loglevel=error
		touch "$dir/installed"
	fi
	"$dir/node_modules/.bin/spectral" lint -q -F warn -r tools/openapi/spectral.yaml docs/openapi.yaml
	REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true \
		"$dir/node_modules/.bin/redocly" lint --extends=recommended-strict --format=summary docs/openapi.yaml
}

trap show_phases EXIT
phase "linters' packages" 60 scripts/deps.sh lint
phase "build golangci-lint" 150 scripts/tools.sh golangci-lint
phase "golangci-lint" 180 lint_go
phase "go mod tidy" 30 tidy
phase "openapi linters" 30 lint_api
phase "shellcheck" 20 lint_shell
say "nothing to complain about"
