package formats

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// No test here needs an engine. The namespaces are needed: the fixture has fixed paths and its own boot ID.
func TestMain(m *testing.M) { engine.Main(m) }

var update = flag.Bool("update", false, "make the fixture anew: only for what no release has written yet")

// The fixture is a disk with the root of a Drover and a pool. The records contain paths, so the disk must be mounted
// where it was when the fixture was made: at a folder that every system has.
const (
	fixture = "testdata/state-1.tar.gz"
	disk    = "xfs"
	mounted = "/mnt"
	root    = mounted + "/root"
	config  = "pools: [{name: default, backend: loop, path: /mnt/images}]\n"
	// profiles has a schedule that is never due.
	profiles = `default: plain
profiles:
  plain:
    size: 64MiB
    filesystem: {type: ext4}
    snapshots: {schedule: "15 3 1 1 *", keep: {last: 2}}
    on_delete: {trash: 24h}
`
	boot = "7d0fb4de-8d37-4b8c-a0b8-c2a4c2dbd1f7"
)

// mountDisk mounts the disk in the folder images until the test ends.
func mountDisk(t *testing.T, images string) {
	t.Helper()
	source := scratch.MountImage(t, disk, filepath.Join(images, disk))
	require.NoError(t, unix.Mount(source, mounted, "", unix.MS_BIND, ""))
	t.Cleanup(func() {
		assert.NoErrorf(t, unix.Unmount(mounted, 0), "unmount %s", mounted)
	})
}

// openFixture mounts a copy of the disk of the fixture.
func openFixture(t *testing.T) {
	t.Helper()
	images := t.TempDir()
	scratch.Run(t, "tar", "--extract", "--gzip", "--sparse", "--file", fixture, "--directory", images)
	mountDisk(t, images)
}

// start starts Drover on the mounted disk.
func start(t *testing.T) *host.Host {
	t.Helper()
	return host.Start(t, host.Options{Root: root, Config: config, Profiles: profiles, Driver: "drover-formats"})
}

// TestFixture makes the fixture with -update.
func TestFixture(t *testing.T) {
	if !*update {
		return
	}
	images := t.TempDir()
	require.NoError(t, os.Rename(scratch.Image(t, disk, 4<<30), filepath.Join(images, disk)))
	// The disk is unmounted when the subtest ends.
	if t.Run("write", func(t *testing.T) { writeFixture(t, images) }) {
		scratch.Run(t, "tar", "--create", "--gzip", "--sparse", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0",
			"--file", fixture, "--directory", images, disk)
	}
}

// writeFixture makes these volumes:
//
//	base      the engine created it as base@plain. It contains "base", and its snapshot "first" contains "first"
//	copy      a clone of that snapshot
//	old       in the trash, with the text "old"
//	labelled  with an alias, a label, an owner and protection
//	used      a container used it when Drover ended
func writeFixture(t *testing.T, images string) {
	mountDisk(t, images)
	host.NewBootID(t, boot)
	h := start(t)
	plug := h.Plug(t)
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%v\n%s", err, h.LogTail(20))
		}
	}
	ok(plug.Create("base@plain", nil))
	write(t, plug, "base@plain", "first")
	h.Must(t, "snapshot", "create", "base", "--name", "first")
	ok(plug.Create("copy@snapshot-"+snapshotID(t, h, "base"), nil))
	write(t, plug, "base", "base")
	ok(plug.Create("old", nil))
	write(t, plug, "old", "old")
	ok(plug.Remove("old"))
	ok(plug.Create("former", map[string]string{"label.team": "blue", "protect": "true", "owner": "999:998"}))
	write(t, plug, "former", "labelled")
	h.Must(t, "volume", "rename", "former", "labelled")
	ok(plug.Create("used", nil))
	write(t, plug, "used", "used")
	_, err := plug.Mount("used", useID)
	ok(err)
	h.Stop(t)
	ok(h.Unmount())
}
