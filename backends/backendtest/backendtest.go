// Package backendtest is the conformance suite of all backends. It tests the contract in the comments of package
// backends on real pools. The tests of each backend call Run with a factory of pools. Package crashing calls Crashing,
// CutAtEachStep, Failing and PowerCut for them. Package verify runs Cases and Measure for an operator. To test a
// new rule of the contract, add a case to the list in cases.
//
// Every method is called twice. The declared capabilities are compared with the optional interfaces and with the
// behaviour. Content is compared by running the same operations on a plain directory and on the mounted dataset. A test
// fails if it leaves something open, mounted or attached.
//
// Each case works on a fixture, which belongs to one test and has no lock. Some cases call the pool from several
// goroutines, which only read the fixture. A journal, which writes to a dataset in a goroutine of the case, has a
// mutex. The package has no other state.
package backendtest

import (
	"maps"
	"slices"

	"github.com/droverhq/drover/backends"
)

// Runner is a T that can run subtests. R is the type of the subtests, which is the type of the Runner itself:
// *testing.T is a Runner[*testing.T].
type Runner[R any] interface {
	T
	Run(name string, test func(R)) bool
}

// Factory returns a backend and the place of a new pool. The path is absent or empty, is different for each call, and
// has room for at least 4 GiB (a sparse file is enough). The factory cleans up with t.Cleanup.
type Factory[R any] func(t R) (backends.Kind, backends.Config)

// Run runs the suite as subtests of t, with the given name. It needs root. unsupported names the operations of treetest
// that the filesystem of the pools does not support, whatever the backend.
func Run[R Runner[R]](t R, name string, factory Factory[R], unsupported ...string) {
	t.Run(name, func(t R) {
		for _, c := range Cases() {
			t.Run(c.Name, func(t R) {
				c.Run(t, func() (backends.Kind, backends.Config) { return factory(t) }, unsupported...)
			})
		}
	})
}

// Case is one test of the suite.
type Case struct {
	Name   string
	Proves []string // the JSON names of capabilities: see proofs

	run func(*fixture)
}

// Run runs the case on new pools. It fails if a pool lacks a declared ability, or has an ability that it does not
// declare.
func (c Case) Run(t T, newPool func() (backends.Kind, backends.Config), unsupported ...string) {
	c.run(newFixture(t, newPool, unsupported...))
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
		"CapabilitiesMatchInterfaces", "StreamsAreReproducible", "CopyBecomesHome", "CopyIsUpdated",
		"InterruptedStreamResumes",
		"DamagedStreamIsRefused", "CopyHasNoHead", "HomeBecomesCopy", "SupersededHeadIsKept",
	}
	return map[string][]string{
		"enforces_size":     {"SizeIsEnforcedOrRefused", "CloneSizes", "DatasetWithoutSize"},
		"instant_snapshot":  {"SnapshotWhileWritten", "CloneWhileWritten"},
		"constant_snapshot": {"ConstantSnapshots"},
		"clone_independent": {"ClonesAndDeletedSources"},
		"online_grow":       {"GrowMounted"},
		"offline_grow":      {"GrowMounted"},
		"shrink":            {"GrowIdle", "ShrinkBelowUsageIsRefused"},
		"counts_written":    {"SizeExcludesSnapshots"},
		"own_filesystem":    {"SizeIsEnforcedOrRefused", "FilesystemsAreMadeOrRefused", "FreezeBlocksWriters"},
		"knows_used":        {"UsedWithoutTreeWalk"},
		"own_device":        {"DeviceIsNotShared"},
		// The node declares limits, and a pool must not. The cases prove that the device of a dataset can be limited.
		"limits":      {"SpeedIsLimited", "CapabilitiesMatchInterfaces"},
		"delta":       copies,
		"filesystems": {"FilesystemsAreMadeOrRefused"},
		"encryption":  {"EncryptedIsUnreadable"},
		"many_hosts":  {"GuestMountsBesideHome", "CapabilitiesMatchInterfaces"},
	}
}

type testcase struct {
	name string
	run  func(*fixture)
}

func cases() []testcase {
	return []testcase{
		{"PoolIsMadeOnce", poolIsMadeOnce},
		{"PoolRefusesNonEmptyPlace", poolRefusesNonEmptyPlace},
		{"AbsentPoolIsOffline", absentPoolIsOffline},
		{"GenerationIsRaised", generationIsRaised},
		{"CapabilitiesMatchInterfaces", capabilitiesMatchInterfaces},
		{"SizeIsEnforcedOrRefused", sizeIsEnforcedOrRefused},
		{"FilesystemsAreMadeOrRefused", filesystemsAreMadeOrRefused},
		{"DatasetLifeCycle", datasetLifeCycle},
		{"RetryReplacesRecord", retryReplacesRecord},
		{"RootIsEmptyAndOwned", rootIsEmptyAndOwned},
		{"FilePropertiesAreKept", filePropertiesAreKept},
		{"InUseIsNotDeleted", inUseIsNotDeleted},
		{"InUseInAnotherNamespace", inUseInAnotherNamespace},
		{"InUseWithoutMount", inUseWithoutMount},
		{"AttachTwice", attachTwice},
		{"GuestMountsBesideHome", guestMountsBesideHome},
		{"DeviceIsNotShared", deviceIsNotShared},
		{"SpeedIsLimited", speedIsLimited},
		{"ReadOnlyMount", readOnlyMount},
		{"UsedGrows", usedGrows},
		{"UsedWithoutTreeWalk", usedWithoutTreeWalk},
		{"UnknownIsNotFound", unknownIsNotFound},
		{"SnapshotIsImmutable", snapshotIsImmutable},
		{"UniqueSizeIsWhatIsFreed", uniqueSizeIsWhatIsFreed},
		{"SnapshotWhileWritten", snapshotWhileWritten},
		{"CloneWhileWritten", cloneWhileWritten},
		{"FreezeBlocksWriters", freezeBlocksWriters},
		{"ExactWhileWritten", exactWhileWritten},
		{"ConstantSnapshots", constantSnapshots},
		{"ClonesAreIndependent", clonesAreIndependent},
		{"ClonesAndDeletedSources", clonesAndDeletedSources},
		{"CloneSizes", cloneSizes},
		{"CancelledCallIsAtomic", cancelledCallIsAtomic},
		{"RestoreKeepsOldHead", restoreKeepsOldHead},
		{"InterruptedRestoreKeepsLaterWrites", interruptedRestoreKeepsLaterWrites},
		{"RestoreInUseIsRefused", restoreInUseIsRefused},
		{"SizeExcludesSnapshots", sizeExcludesSnapshots},
		{"DatasetWithoutSize", datasetWithoutSize},
		{"ShrinkBelowUsageIsRefused", shrinkBelowUsageIsRefused},
		{"GrowIdle", growIdle},
		{"GrowMounted", growMounted},
		{"StreamsAreReproducible", streamsAreReproducible},
		{"CopyBecomesHome", copyBecomesHome},
		{"CopyIsUpdated", copyIsUpdated},
		{"InterruptedStreamResumes", interruptedStreamResumes},
		{"DamagedStreamIsRefused", damagedStreamIsRefused},
		{"CopyHasNoHead", copyHasNoHead},
		{"HomeBecomesCopy", homeBecomesCopy},
		{"SupersededHeadIsKept", supersededHeadIsKept},
		{"EncryptedIsUnreadable", encryptedIsUnreadable},
		{"RecordsAreKept", recordsAreKept},
		{"DamagedRecordIsListed", damagedRecordIsListed},
		{"ForeignFilesAreListedAndKept", foreignFilesAreListedAndKept},
		{"ReapDropsSelectedDatasets", reapDropsSelectedDatasets},
		{"ConcurrentCalls", concurrentCalls},
		{"MovingDatasetStaysVisible", movingDatasetStaysVisible},
		{"SymlinksInThePoolAreNotFollowed", symlinksInThePoolAreNotFollowed},
	}
}
