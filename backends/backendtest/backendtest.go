// Package backendtest is the one conformance suite of all backends: it tests the promises in the comments of
// package backends on real pools. A backend's tests call Run with a factory of pools and are done.
//
// Every method is called twice. Declared capabilities are held against the
// optional interfaces and against what happens. Content is compared by running
// the same operations on a plain directory and on the mounted dataset, and
// comparing the trees. A test fails if it leaves something open, mounted or attached.
package backendtest

import (
	"context"
	"maps"
	"slices"

	"github.com/droverhq/drover/backends"
)

// T is the part of *testing.T that the suite uses. A command that runs the suite implements it as well,
// because shipped programs do not import package testing.
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

// Run runs the suite as subtests of t, under name. It needs root. Without are the operations of treetest that
// the filesystem does not support, with every backend.
func Run[R Runner[R]](t R, name string, factory Factory[R], without ...string) {
	t.Run(name, func(t R) {
		for _, c := range Cases() {
			t.Run(c.Name, func(t R) {
				c.Run(t, func() (backends.Kind, backends.Config) { return factory(t) }, without...)
			})
		}
	})
}

// Case is one of the suite.
type Case struct {
	Name   string
	Proves []string // capabilities, as they are called in JSON: see proofs

	run func(*fixture)
}

// Run runs it on new pools. It fails if a pool does not behave as it declares, and also if a pool does
// something that it does not declare.
func (c Case) Run(t T, newPool func() (backends.Kind, backends.Config), without ...string) {
	c.run(newFixture(t, newPool, without...))
}

// Cases returns the whole suite.
func Cases() []Case {
	var list []Case
	proofs := proofs()
	for _, c := range cases() {
		var proves []string
		for _, capability := range slices.Sorted(maps.Keys(proofs)) {
			if slices.Contains(proofs[capability], c.name) {
				proves = append(proves, capability)
			}
		}
		list = append(list, Case{c.name, proves, c.run})
	}
	return list
}

// proofs lists the cases that prove each capability, or its absence.
func proofs() map[string][]string {
	copies := []string{
		"CapabilitiesMatchInterfaces", "StreamsAreAlwaysTheSame", "CopyBecomesHome", "CopyIsBroughtUpToDate",
		"CutStreamGoesOn",
		"DamagedStreamIsRefused", "WhatACopyIsNot", "HomeBecomesCopy", "SupersededHeadIsKept",
	}
	return map[string][]string{
		"enforces_size":     {"SizeIsEnforcedOrRefused", "CloneSizes", "NoSizeIsALimitToo"},
		"instant_snapshot":  {"SnapshotWhileWritten", "CloneWhileWritten"},
		"constant_snapshot": {"ConstantSnapshots"},
		"clone_independent": {"ClonesAndDeletedSources"},
		"online_grow":       {"GrowMounted"},
		"offline_grow":      {"GrowMounted"},
		"shrink":            {"GrowIdle", "ShrinkIsRefusedBelowWhatIsThere"},
		"counts_written":    {"WhatASizeCounts"},
		"own_filesystem":    {"SizeIsEnforcedOrRefused", "FilesystemsAreMadeOrRefused", "FreezeHoldsWriters"},
		"knows_used":        {"UsedIsKnownOrFoundByAWalk"},
		"own_device":        {"DeviceIsOwn"},
		"limits":            {"SpeedIsLimited", "CapabilitiesMatchInterfaces"}, // a node's, and no pool's
		"delta":             copies,
		"filesystems":       {"FilesystemsAreMadeOrRefused"},
		"encryption":        {"EncryptedIsUnreadable"},
		"many_hosts":        {"VisitBesideTheHome", "CapabilitiesMatchInterfaces"},
	}
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
		{"InUseInAnotherNamespace", inUseInAnotherNamespace},
		{"InUseWithoutMount", inUseWithoutMount},
		{"AttachTwice", attachTwice},
		{"VisitBesideTheHome", visitBesideTheHome},
		{"DeviceIsOwn", deviceIsOwn},
		{"SpeedIsLimited", speedIsLimited},
		{"ReadOnlyMount", readOnlyMount},
		{"UsedGrows", usedGrows},
		{"UsedIsKnownOrFoundByAWalk", usedIsKnown},
		{"UnknownIsNotFound", unknownIsNotFound},
		{"SnapshotIsImmutable", snapshotIsImmutable},
		{"SnapshotWhileWritten", snapshotWhileWritten},
		{"CloneWhileWritten", cloneWhileWritten},
		{"FreezeHoldsWriters", freezeHoldsWriters},
		{"ConstantSnapshots", constantSnapshots},
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
		{"EncryptedIsUnreadable", encryptedIsUnreadable},
		{"RecordsAreKept", recordsAreKept},
		{"DamagedRecordIsListed", damagedRecordIsListed},
		{"ForeignThingsAreListedAndKept", foreignThingsAreListedAndKept},
		{"ReapDropsWhatItIsTold", reapDropsWhatItIsTold},
		{"ConcurrentCalls", concurrentCalls},
		{"SeenWhileItMoves", seenWhileItMoves},
		{"SymlinksInThePoolAreNotFollowed", symlinksInThePoolAreNotFollowed},
	}
}
