#!/usr/bin/env bash
# Installs what the tests call, makes what they need, and runs them all:
#
#   scripts/test.sh         what CI runs
#   scripts/test.sh long    also what takes long: more rounds, the race detector, fuzzing
#
# A test that lacks something fails; none is skipped but those of the long form, in the short one.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
cd "$top"

# prepare makes the images and the tools side by side: the one waits for the disk, the other for the CPU.
prepare() {
	local image tools status=0
	{ scripts/image.sh >/dev/null && scripts/images.sh && scripts/lab.sh >/dev/null; } &
	image=$!
	scripts/tools.sh docker-compose consul versitygw >/dev/null &
	tools=$!
	wait "$image" || status=$?
	wait "$tools" || status=$?
	return "$status"
}

# gotest FLAGS... PACKAGES... runs tests. If at most four of them fail, gotest runs these once more. If a subtest fails,
# its whole test runs again, because a subtest may need the results of the subtests before it. The first failure stays
# in the output. A test that passes the second time is listed at the end of the run: it must be mended, because it hides
# either a race in a test or a bug. A package that panics or exceeds its time is not run again.
# The tests depend on the kernel and on installed programs. Go's test cache does not notice a change of these, so
# -count=1 switches it off. `make lint` runs vet. Without tables for debuggers (-w) the linker needs a third less time.
gotest() {
	local flags=() packages=()
	while [ $# -gt 0 ]; do
		case $1 in
		-timeout | -p | -parallel | -run) flags+=("$1" "$2") && shift ;;
		-*) flags+=("$1") ;;
		*) packages+=("$1") ;;
		esac
		shift
	done
	local status=0
	: >"$flaky.new" # gotestsum leaves the report of an earlier run if no test failed
	"$gotestsum" --jsonfile="$events" --format standard-quiet --hide-summary=skipped --rerun-fails=1 --rerun-fails-max-failures=4 \
		--rerun-fails-run-root-test --rerun-fails-report="$flaky.new" --packages="${packages[*]}" -- -count=1 -vet=off -ldflags=-w "${flags[@]}" || status=$?
	if [ -s "$flaky.new" ]; then
		cat "$flaky.new" >>"$flaky"
	fi
	messages_of_failed "$events" >>"$messages"
	times_of_tests "$events" >>"$times"
	return "$status"
}

# times_of_tests EVENTS prints the seconds and the name of each test.
times_of_tests() {
	sed -nE 's|.*"Action":"pass","Package":"[^/"]*/[^/"]*/([^"]*)","Test":"([^/"]*)","Elapsed":([0-9.]+).*|\3 \1 \2|p' "$1"
}

# messages_of_failed EVENTS prints the last 20 messages of each failed test, without the logs of programs. They come at
# the end of the output, because CI may keep only that.
messages_of_failed() {
	awk '
		function value(key) {
			return match($0, "\"" key "\":\"[^\"]*") ? substr($0, RSTART + length(key) + 4, RLENGTH - length(key) - 4) : ""
		}
		{ test = value("Test"); sub("/.*", "", test); test = value("Package") "." test }
		/"Action":"fail"/ && value("Test") != "" { failed[test] = 1 }
		match($0, /"Output":" +[a-zA-Z0-9_]+\.go:[0-9]+: .*\\n"/) {
			said[test, ++n[test]] = substr($0, RSTART + 10, RLENGTH - 13 < 300 ? RLENGTH - 13 : 300)
		}
		END { for (test in failed) for (i = n[test] > 20 ? n[test] - 19 : 1; i <= n[test]; i++) print test ": " said[test, i] }
	' "$1"
}

# show_results lists the tests that failed and then passed, the messages of all tests that failed, and the slowest tests.
show_results() {
	if [ -s "$flaky" ]; then
		say "FLAKY: failed, and passed when run again. Mend them:"
		cat "$flaky"
	fi
	if [ -s "$messages" ]; then
		say "messages of the failed tests:"
		cat "$messages"
	fi
	if [ -s "$times" ]; then
		say "the slowest tests, in seconds:"
		sort -rn "$times" | sed -n 1,50p
	fi
	rm -f "$flaky" "$flaky.new" "$messages" "$events" "$times"
}

# What takes longest comes first, so that nothing is left to run alone; named again, it is not run again.
# internal/linux/mount makes mount tables that are too large to be read. Others look at all processes of the host
# and take these for possible users of a volume, so it is run before them. guard measures how late it is, so only what
# mostly waits runs beside it.
unit_tests() {
	local packages
	mapfile -t packages < <(go list ./... |
		grep -vE '/test/|/internal/linux/mount$|/guard$|/agent/(move|mounting|operation|lease|pooladmin)$' |
		grep -vE '/backends/(loop|btrfs|zfs)$|/control/store/consul$|/cmd/drover/internal/daemon$')
	gotest "$@" ./internal/linux/mount
	gotest -p 3 "$@" ./guard ./control/store/consul ./cmd/drover/internal/daemon
	# Most of them use a processor for less than half of their time: four at once.
	gotest -timeout 30m -p 4 -parallel 4 "$@" ./backends/{loop,zfs,btrfs,dir} ./agent/{backup,move} \
		./control/store/bolt ./agent/{mounting,operation,lease,pooladmin} "${packages[@]}"
}

# build_drover builds drover with the step hooks, for all packages of test/. Without it each of them builds its own.
build_drover() {
	export DROVER_TEST_BINARY=$bin/drover
	CGO_ENABLED=0 go build -tags steps -ldflags '-w -X main.version=test' -o "$DROVER_TEST_BINARY" ./cmd/drover
}

# Hosts that lose each other by the clock are not to lose the processor as well: those packages come alone,
# and have it for less than half of the time, so beside each other.
product_tests() {
	local within=$1 packages
	build_drover
	mapfile -t packages < <(go list ./test/... | grep -vE '/test/(chaos|cluster|product|faults|lab|docs|demo)$')
	gotest -timeout "$within" -p 3 ./test/{product,faults,lab,docs,install,demo} "${packages[@]}"
	unset DROVER_TEST_BINARY # these build theirs in memory: agents that wait for a disk lose their leases
	gotest -timeout 30m -p 2 -parallel 3 ./test/cluster ./test/chaos
	# Chaos compares histories with a model: one failure proves a bug, also if it does not come a second time.
	if grep -F /test/chaos. "$flaky"; then
		die "a history of test/chaos was wrong"
	fi
}

short() {
	phase "build" 120 make build
	phase "tests of packages" 420 unit_tests
	phase "tests of the product" 780 product_tests 30m
}

long() {
	export DROVER_TEST_LONG=1 CGO_ENABLED=1
	phase "build" 120 make build
	phase "tests of packages, race" 1200 unit_tests -race
	phase "tests of the product" 5400 product_tests 2h # of which the lab takes the better part of one
	phase "fuzzing" 900 scripts/fuzz.sh 30s
}

form=${1:-short}
case $form in
short | long) ;;
*) die "usage: scripts/test.sh [long]" ;;
esac
need_root "testing mounts and engines"
flaky=$(mktemp)
messages=$(mktemp)
times=$(mktemp)
events=$(mktemp) # what go test -json printed in the last run
bin=$(mktemp -d)
chmod 711 "$bin" # tests also run drover as other users
trap 'show_results; show_phases; rm -rf "$bin"' EXIT
phase "packages" 90 scripts/deps.sh "$([ "$form" = short ] && echo test || echo long)"
phase "images and tools" 240 prepare
gotestsum=$("$here/tools.sh" gotestsum)
"$form"
say "all tests passed"
