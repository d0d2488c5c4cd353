#!/usr/bin/env bash
# Makes testdata/418222e.tar.gz with the binary of commit 418222e: the disks of a host, as that version left them.
# A fixture is made once. For a format that changes later, add a fixture of the last version before the change.
set -euo pipefail
cd "$(dirname "$0")/../../.."
commit=418222e
work=$(mktemp -d)
trap 'git worktree remove --force "$work/tree"; rm -rf "$work"' EXIT
git worktree add --detach "$work/tree" "$commit"
(cd "$work/tree" && CGO_ENABLED=0 go build -tags steps -ldflags '-X main.version=test' -o "$work/drover" ./cmd/drover)
DROVER_TEST_BINARY=$work/drover go test -count=1 -run '^TestFixture$' ./test/formats -args -update
