package lab

import (
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const gib = 1 << 30

// encrypted is the case that defines what encryption means.
const encrypted = "^TestSuiteEncrypted$/^xfs$/^EncryptedIsUnreadable$"

// encryptedOnLVM is the same case on lvm.
const encryptedOnLVM = "^TestSuiteEncrypted$/./^EncryptedIsUnreadable$"

// luks are the cases of the suite that use an encrypted dataset through its mapping, or that must bypass the mapping.
const luks = "^TestSuiteEncrypted$/^xfs$/^(SpeedIsLimited|FreezeBlocksWriters|DatasetLifeCycle|" +
	"ClonesAndDeletedSources|CloneSizes|RestoreKeepsOldHead|GrowMounted)$"

// encryptedFull is a case that fills an encrypted dataset through its mapping. It runs only in `make lab-long`.
const encryptedFull = "^TestSuiteEncrypted$/^xfs$/^SizeIsEnforcedOrRefused$"

// thinShort are the cases of the suite that depend most on LVM, and thinFew are those that `make lab` adds. The other
// cases depend on records or filesystems, and other packages test these. Other packages also test operations that are
// interrupted at each step.
const (
	thinShort = "^TestSuite$/./^(InUseIsNotDeleted|CloneSizes)$"
	thinFew   = "^TestSuite$/./^(PoolIsMadeOnce|PoolRefusesNonEmptyPlace|InUseInAnotherNamespace|" +
		"InUseWithoutMount|" +
		"SizeIsEnforcedOrRefused|DatasetLifeCycle|DeviceIsNotShared|SpeedIsLimited|" +
		"SnapshotIsImmutable|SnapshotWhileWritten|FreezeBlocksWriters|ExactWhileWritten|ClonesAndDeletedSources|" +
		"RestoreKeepsOldHead|GrowIdle|GrowMounted|" +
		"EncryptedIsUnreadable|ForeignFilesAreListedAndKept|ConcurrentCalls)$"
)

// copied are the cases of the suite of project quotas that copy many files. They show little about quotas.
const copied = "^TestProjectSuite$/././^(FilePropertiesAreKept|SnapshotIsImmutable)$"

// openZFS are the cases of the suite that show most about an implementation other than zfs-fuse.
const openZFS = "^TestSuite$/./^(SizeIsEnforcedOrRefused|DatasetLifeCycle|SnapshotIsImmutable|" +
	"ClonesAndDeletedSources|RestoreKeepsOldHead|CopyBecomesHome|EncryptedIsUnreadable)$"

// shareShort and shareFew are the cases of the suite on a share that show most about the server. Backend nfs runs
// the others.
const (
	shareShort = "^TestOnNFS$/./^(InUseIsNotDeleted|InUseWithoutMount|SnapshotWhileWritten)$"
	shareFew   = "^TestOnNFS$/./^(DatasetLifeCycle|RootIsEmptyAndOwned|ClonesAndDeletedSources|ConcurrentCalls|" +
		"MovingDatasetStaysVisible)$"
)

// large are the cases of backendtest that take minutes on a share in the lab.
const large = "^TestSuiteNFS$/./^(FilePropertiesAreKept|SnapshotIsImmutable|RestoreKeepsOldHead|UsedGrows)$"

// crashedElsewhere are the operations of backend zfs whose interruption at each step is tested outside the lab. The
// result does not depend on the kernel, and the tests take long in the lab.
const crashedElsewhere = "^TestC1CrashAtEachStep$/./^(snapshot|clone|clone_the_head|restore|restore_with_a_copy|" +
	"delete|delete_the_source_of_a_clone|delete_a_snapshot|delete_a_clone|promote|promote_the_last|demote)$"

// failing are the tests of failing calls of backend zfs. They run outside the lab on zfs-fuse, since which calls
// fail does not depend on the kernel.
const failing = "^TestI3FailingCalls$"

// Entry is a package whose tests run in the machine: one line of the table. The tests are built with the tag lab,
// for the files that only the lab can run (//go:build lab).
type Entry struct {
	Package string        // below the root: "backends/lvm"
	Run     string        // as -test.run; empty: all of them
	Skip    string        // as -test.skip
	Layer   string        // more programs and modules for the root filesystem, which scripts/lab-LAYER.sh makes
	Modules []string      // of the kernel, loaded before
	Disks   []Disk        // empty disks; inside.Disk(t, name) returns a device. Entries share a disk of one name
	Within  time.Duration // the tests are killed then; 0: five minutes. The machine is slow
	Long    bool          // only in the long form, `make lab`
	Longest bool          // only in `make lab-long`, because `make lab` must end within a quarter of an hour
}

// Table lists what runs in the lab, on two machines, each of which is booted once. The entries with the longest time
// limits run first. Entries with equal limits run in the order of the table.
func Table() []Entry {
	return slices.Concat(directoryEntries(), lvmEntries(), shareEntries(), loopEntries(), zfsEntries())
}

// directoryEntries are the tests of the lab itself, of directories and of control groups.
func directoryEntries() []Entry {
	return []Entry{
		{Package: "test/lab/inside", Disks: []Disk{{"first", 2 * gib}}},
		{
			Package: "backends/dir", Run: "^TestProject(Volume|OfOthers|Limit|Quotas)",
			Disks: []Disk{{"quota", 6 * gib}},
		},
		{
			Package: "backends/dir", Run: "^TestProject(Suite|C1)", Skip: copied,
			Disks: []Disk{{"quota", 6 * gib}}, Within: 15 * time.Minute, Long: true,
		},
		{Package: "backends/dir", Run: copied, Disks: []Disk{{"quota", 6 * gib}}, Longest: true},
		{Package: "backends/dir", Run: shareShort, Disks: []Disk{{"quota", 6 * gib}}},
		{Package: "backends/dir", Run: shareFew, Disks: []Disk{{"quota", 6 * gib}}, Long: true},
		{
			Package: "backends/dir", Run: "^TestOnNFS$", Skip: shareShort + "|" + shareFew,
			Disks: []Disk{{"quota", 6 * gib}}, Within: 40 * time.Minute, Longest: true,
		},
		{Package: "backends/btrfs", Run: "^TestCountsOfDeletedGo$/^full$"},
		{Package: "agent/throttle", Run: "^TestQoSOnV2$", Long: true},
	}
}

// lvmEntries are the tests on device mapper.
func lvmEntries() []Entry {
	return []Entry{
		{Package: "backends/lvm", Run: thinShort, Disks: thin(), Modules: []string{"dm-thin-pool"}},
		{
			Package: "backends/lvm", Run: thinFew,
			Disks: thin(), Modules: []string{"dm-thin-pool", "dm-crypt"}, Within: 25 * time.Minute, Long: true,
		},
		{
			Package: "backends/lvm", Run: "^TestSuite$", Skip: thinShort + "|" + thinFew,
			Disks: thin(), Modules: []string{"dm-thin-pool", "dm-crypt"}, Within: 30 * time.Minute, Longest: true,
		},
		{
			Package: "backends/lvm", Run: "^TestC1CrashAtEveryStep$",
			Disks: thin(), Modules: []string{"dm-thin-pool", "dm-crypt"}, Within: 25 * time.Minute, Long: true,
		},
		{
			Package: "backends/lvm", Run: encryptedOnLVM,
			Disks: thin(), Modules: []string{"dm-thin-pool", "dm-crypt"}, Longest: true,
		},
		{
			Package: "backends/lvm", Run: "^TestC1Encrypted$",
			Disks: thin(), Modules: []string{"dm-thin-pool", "dm-crypt"}, Within: 30 * time.Minute, Longest: true,
		},
		{
			Package: "backends/lvm", Skip: "^Test(Suite|C1|I3FailingCalls$|DevicesThatHoldSomething$)",
			Disks: thin(), Modules: []string{"dm-thin-pool", "dm-crypt"}, Within: 20 * time.Minute, Long: true,
		},
		{
			Package: "backends/lvm", Run: "^Test(SuiteInASandbox|DevicesThatHoldSomething)$",
			Disks: thin(), Modules: []string{"dm-thin-pool", "dm-crypt"}, Within: 20 * time.Minute, Longest: true,
		},
		{
			Package: "backends/lvm", Run: "^TestI3FailingCalls$",
			Disks: thin(), Modules: []string{"dm-thin-pool", "dm-crypt"},
			Within: 60 * time.Minute, Longest: true,
		},
		{
			Package: "agent", Run: "^TestI(2PoolsDiskFails|2StoresDiskFails|9RootsDiskFails)$",
			Disks: []Disk{{"faulty", 6 * gib}}, Modules: []string{"dm-flakey", "dm-thin-pool"},
			Within: 20 * time.Minute, Long: true,
		},
	}
}

// shareEntries are the tests on a share of a real server.
func shareEntries() []Entry {
	return []Entry{
		{Package: "backends/nfs", Run: "^TestTakenByAnotherHost$", Disks: []Disk{{"share", 6 * gib}}},
		{
			Package: "backends/nfs", Run: "^Test(SharesThatAreRefused|ShutOut)$",
			Disks: []Disk{{"share", 6 * gib}}, Long: true,
		},
		{
			Package: "agent/move",
			Run: "^Test(MoveOnARealShare|AccessManyOnARealShare|RestoreOnARealShare|HeldOnARealShare|" +
				"ServerOfAShareIsGone)$",
			Disks: []Disk{{"share", 6 * gib}}, Within: 10 * time.Minute, Long: true,
		},
		{
			Package: "backends/nfs", Run: "^TestSuiteNFS$", Skip: large,
			Disks: []Disk{{"share", 6 * gib}}, Within: 15 * time.Minute, Long: true,
		},
		{
			Package: "backends/nfs", Run: large,
			Disks: []Disk{{"share", 6 * gib}}, Within: 30 * time.Minute, Longest: true,
		},
	}
}

// loopEntries are the tests of images and of encryption.
func loopEntries() []Entry {
	return []Entry{
		{Package: "backends/loop", Run: "^TestSuite$/^xfs$", Within: 20 * time.Minute, Longest: true},
		{Package: "backends/loop", Run: encrypted, Modules: []string{"dm-crypt"}, Within: 5 * time.Minute},
		{
			Package: "backends/loop", Run: "^Test(MappingsThatWereLeft|FirstHeaderLost)$",
			Modules: []string{"dm-crypt"},
		},
		{
			Package: "backends/loop", Run: luks,
			Modules: []string{"dm-crypt"}, Within: 10 * time.Minute, Long: true,
		},
		{Package: "backends/loop", Run: encryptedFull, Modules: []string{"dm-crypt"}, Longest: true},
		{
			Package: "backends/loop", Run: "^TestC1Encrypted$",
			Modules: []string{"dm-crypt"}, Within: 15 * time.Minute, Longest: true,
		},
		{
			Package: "agent/operation/keyringtests", Run: "^TestEncryptedVolume$",
			Modules: []string{"dm-crypt"}, Within: 3 * time.Minute,
		},
	}
}

// zfsEntries are the tests with the module of OpenZFS.
func zfsEntries() []Entry {
	return []Entry{
		{
			Package: "backends/zfs", Run: openZFS,
			Layer: "zfs", Modules: []string{"zfs"}, Disks: []Disk{{"first", 2 * gib}, {"second", 2 * gib}},
			Within: 15 * time.Minute, Long: true,
		},
		{
			Package: "backends/zfs", Skip: crashedElsewhere + "|" + failing,
			Layer: "zfs", Modules: []string{"zfs"}, Disks: []Disk{{"first", 2 * gib}, {"second", 2 * gib}},
			Within: 50 * time.Minute, Longest: true,
		},
	}
}

// thin returns the disks for volume groups.
func thin() []Disk { return []Disk{{"lvm-first", 6 * gib}, {"lvm-second", 6 * gib}} }

func (e Entry) within() time.Duration {
	if e.Within == 0 {
		return 5 * time.Minute
	}
	return e.Within
}

// binary returns the name of the entry's test program.
func (e Entry) binary() string {
	return strings.ReplaceAll(filepath.ToSlash(e.Package), "/", "-") + ".test"
}
