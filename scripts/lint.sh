#!/usr/bin/env bash
# Checks the code without running it: golangci-lint (.golangci.yml, with the walls between packages),
# gofmt, go.mod, and the shell scripts.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
cd "$top"

lint_go() {
	local lint
	lint=$(scripts/tools.sh golangci-lint)
	"$lint" run ./...
	# Once more for the code that only tests of crashes, and those in the kernel lab, are built with.
	"$lint" run --build-tags steps,lab ./...
}

tidy() {
	local module
	for module in . tools tools/compose; do
		go -C "$module" mod tidy -diff
	done
}

lint_shell() {
	shellcheck .ci/run scripts/*.sh scripts/*/*.sh
}

trap show_phases EXIT
phase "linters' packages" 60 scripts/deps.sh lint
phase "build golangci-lint" 150 scripts/tools.sh golangci-lint
phase "golangci-lint" 180 lint_go
phase "go mod tidy" 30 tidy
phase "shellcheck" 20 lint_shell
say "nothing to complain about"
