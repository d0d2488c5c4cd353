// Package backendtest is the one conformance suite of all backends: what the
// comments in package backends promise, tried on real pools. A backend's tests
// call Run with a factory of pools and are done.
//
// Every method is called twice. Declared capabilities are held against the
// optional interfaces and against what happens. Content is compared by running
// the same operations on a plain directory and on the mounted dataset, and
// comparing the trees. What a test leaves open, mounted or attached fails it.
package backendtest

import (
	"context"

	"github.com/droverhq/drover/backends"
)

// T is what the suite wants of a test: of *testing.T, or of what runs it as a command, as
// package testing is not for programs that are shipped.
type T interface {
	Helper()
	Error(args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	FailNow()
	Cleanup(func())
	TempDir() string
	Context() context.Context
}

// Runner is a T that has subtests, which are of its own type R.
type Runner[R any] interface {
	T
	Run(name string, test func(R)) bool
}

// Factory returns a backend and where a new pool of it can be made: a path that
// is absent or empty, of its own for each call, with at least 4 GiB below it
// (sparse is enough). It cleans up with t.Cleanup.
type Factory[R any] func(t R) (backends.Kind, backends.Config)

// Run runs the suite as subtests of t, under name. It needs root. Without are the operations
// of treetest that the filesystem at hand cannot do, whatever the backend does.
func Run[R Runner[R]](t R, name string, factory Factory[R], without ...string) {
	t.Run(name, func(t R) {
		for _, c := range cases() {
			t.Run(c.name, func(t R) {
				c.run(newFixture(t, func() (backends.Kind, backends.Config) { return factory(t) }, without...))
			})
		}
	})
}

type testcase struct {
	name string
	run  func(*fixture)
}

func cases() []testcase {
	return []testcase{
		{"PoolIsMadeOnce", poolIsMadeOnce},
		{"PoolRefusesWhatHoldsSomething", poolRefusesWhatHoldsSomething},
		{"PoolThatIsAwayIsOffline", poolThatIsAwayIsOffline},
		{"GenerationIsRaised", generationIsRaised},
		{"CapabilitiesMatchInterfaces", capabilitiesMatchInterfaces},
		{"SizeIsEnforcedOrRefused", sizeIsEnforcedOrRefused},
		{"FilesystemsAreMadeOrRefused", filesystemsAreMadeOrRefused},
		{"LifeOfADataset", lifeOfADataset},
		{"RetryRenewsTheRecord", retryRenewsTheRecord},
		{"RootIsEmptyAndOwned", rootIsEmptyAndOwned},
		{"KeepsEverything", keepsEverything},
		{"InUseIsNotDeleted", inUseIsNotDeleted},
		{"AttachTwice", attachTwice},
		{"ReadOnlyMount", readOnlyMount},
		{"UsedGrows", usedGrows},
		{"UsedIsKnownOrFoundByAWalk", usedIsKnown},
		{"UnknownIsNotFound", unknownIsNotFound},
		{"SnapshotIsImmutable", snapshotIsImmutable},
		{"SnapshotWhileWritten", snapshotWhileWritten},
		{"CloneWhileWritten", cloneWhileWritten},
		{"ClonesAreIndependent", clonesAreIndependent},
		{"ClonesAndDeletedSources", clonesAndDeletedSources},
		{"CloneSizes", cloneSizes},
		{"CancelledIsAllOrNothing", cancelledIsAllOrNothing},
		{"RestoreKeepsWhatWas", restoreKeepsWhatWas},
		{"RestoreKeepsWhatTheHeadIsThen", restoreKeepsWhatTheHeadIsThen},
		{"RestoreInUseIsRefused", restoreInUseIsRefused},
		{"WhatASizeCounts", whatASizeCounts},
		{"NoSizeIsALimitToo", noSize},
		{"ShrinkIsRefusedBelowWhatIsThere", shrinkIsRefused},
		{"GrowIdle", growIdle},
		{"GrowMounted", growMounted},
		{"StreamsAreAlwaysTheSame", streamsAreAlwaysTheSame},
		{"CopyBecomesHome", copyBecomesHome},
		{"CopyIsBroughtUpToDate", copyIsBroughtUpToDate},
		{"CutStreamGoesOn", cutStreamGoesOn},
		{"DamagedStreamIsRefused", damagedStreamIsRefused},
		{"WhatACopyIsNot", whatACopyIsNot},
		{"HomeBecomesCopy", homeBecomesCopy},
		{"SupersededHeadIsKept", supersededHeadIsKept},
		{"RecordsAreKept", recordsAreKept},
		{"DamagedRecordIsListed", damagedRecordIsListed},
		{"ForeignThingsAreListedAndKept", foreignThingsAreListedAndKept},
		{"ReapDropsWhatItIsTold", reapDropsWhatItIsTold},
		{"ConcurrentCalls", concurrentCalls},
		{"SymlinksInThePoolAreNotFollowed", symlinksInThePoolAreNotFollowed},
	}
}
