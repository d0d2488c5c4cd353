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
	scripts/tools.sh docker-compose consul >/dev/null &
	tools=$!
	wait "$image" || status=$?
	wait "$tools" || status=$?
	return "$status"
}

# What is tested depends on the kernel and on programs, of which Go's test cache knows nothing. `make lint` vets.
gotest() {
	go test -count=1 -vet=off "$@"
}

# What takes longest comes first, so that nothing is left to run alone; named again, it is not run again.
# internal/linux/mount makes mount tables that are too large to be read. Others look at all processes of the host
# and take these for possible users of a volume, so it is run before them.
unit_tests() {
	local packages
	mapfile -t packages < <(go list ./... | grep -vE '/test/|/internal/linux/mount$')
	gotest "$@" ./internal/linux/mount
	# Some mostly wait: three at a time.
	gotest -timeout 20m -p 3 "$@" ./agent ./backends/{loop,btrfs,zfs} ./control/store/consul "${packages[@]}"
}

# Hosts that lose each other by the clock are not to lose the processor as well: those packages come alone,
# and have it for less than half of the time, so beside each other.
product_tests() {
	local within=$1 packages
	mapfile -t packages < <(go list ./test/... | grep -vE '/test/(chaos|cluster)$')
	gotest -timeout "$within" -p 2 ./test/{product,faults,lab,docs,demo} "${packages[@]}"
	gotest -timeout 30m -p 2 ./test/cluster ./test/chaos
}

short() {
	phase "build" 120 make build
	phase "tests of packages" 420 unit_tests
	phase "tests of the product" 780 product_tests 20m
}

long() {
	export DROVER_TEST_LONG=1
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
trap show_phases EXIT
phase "packages" 90 scripts/deps.sh "$([ "$form" = short ] && echo test || echo long)"
phase "images and tools" 240 prepare
"$form"
say "all tests passed"
