#!/usr/bin/env bash
# Runs every fuzz target for a while, one after the other:
#
#   scripts/fuzz.sh 5s
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
cd "$top"

[ $# = 1 ] || die "usage: scripts/fuzz.sh TIME, 5s for one"
failed=''
while IFS=: read -r file target; do
	say "$(dirname "$file") $target"
	go test -run '^$' -fuzz "^$target\$" -fuzztime "$1" "./$(dirname "$file")" || failed+=" $target"
done < <(grep -rhoE --include='*_test.go' --with-filename '^func Fuzz[A-Za-z0-9_]*' \
	--exclude-dir=.cache --exclude-dir=.git . | sed -E 's/^\.\///; s/:func /:/' | sort)
[ -z "$failed" ] || die "failed:$failed"
