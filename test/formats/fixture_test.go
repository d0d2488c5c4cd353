package formats

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/host"
)

var update = flag.Bool("update", false, "make the fixture; testdata/make.sh calls this with the binary of its commit")

const (
	config = `pools:
  - {name: default, backend: dir, path: /mnt/root/pool}
  - {name: images, backend: loop, path: /mnt/xfs/images}
  - {name: small, backend: loop, path: /mnt/btrfs/images}
  - {name: subvolumes, backend: btrfs, path: /mnt/btrfs/subvolumes}
`
	profiles = `default: plain
profiles:
  plain: {pool: default, on_delete: {trash: 24h}}
  images:
    pool: images
    size: 320MiB
    filesystem: {type: xfs}
    snapshots: {schedule: "15 3 1 1 *", keep: {last: 2}}
    on_delete: {trash: 24h}
  small: {pool: small, size: 64MiB, filesystem: {type: ext4}, on_delete: {trash: 24h}}
  subvolumes: {pool: subvolumes, on_delete: {trash: 24h}}
`
	boot = "7d0fb4de-8d37-4b8c-a0b8-c2a4c2dbd1f7"
)

// profileNames are the profiles, each with its own pool. For each of them the fixture has these volumes:
//
//	base-P   the engine created it as base-P@P. It contains "base", and its snapshot "first" contains "first"
//	copy-P   a clone of that snapshot
//	old-P    in the trash, with the text "old"
//
// The profile plain also has the volume "labelled", with a label, an owner and protection, and "used", which a
// container used when Drover ended.
var profileNames = []string{"plain", "images", "small", "subvolumes"}

// start starts Drover on the mounted disks.
func start(t *testing.T, down bool) *host.Host {
	t.Helper()
	return host.Start(t, host.Options{Root: root, Config: config, Profiles: profiles, Driver: "drover-formats", Down: down})
}

// TestFixture makes the fixture with -update. Otherwise it tests that the fixture is small.
func TestFixture(t *testing.T) {
	if !*update {
		info, err := os.Stat(fixture)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > 1<<20 {
			t.Errorf("%s has %d bytes, more than 1 MiB", fixture, info.Size())
		}
		return
	}
	images := t.TempDir()
	for _, d := range disks {
		if err := os.Rename(scratch.Image(t, d.fstype, d.size), filepath.Join(images, d.name)); err != nil {
			t.Fatal(err)
		}
	}
	// The disks are unmounted when the subtest ends.
	if !t.Run("write", func(t *testing.T) { writeFixture(t, images) }) {
		return
	}
	args := []string{"--create", "--gzip", "--sparse", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0",
		"--file", fixture, "--directory", images}
	for _, d := range disks {
		args = append(args, d.name)
	}
	scratch.Run(t, "tar", args...)
}

func writeFixture(t *testing.T, images string) {
	mountDisks(t, images)
	setBootID(t, boot)
	h := start(t, false)
	plug := h.Plug(t)
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%v\n%s", err, h.LogTail(20))
		}
	}
	for _, p := range profileNames {
		ok(plug.Create("base-"+p+"@"+p, nil))
		write(t, plug, "base-"+p+"@"+p, "first")
		h.Must(t, "snapshot", "create", "base-"+p, "--name", "first")
		ok(plug.Create("copy-"+p+"@snapshot-"+snapshotID(t, h, "base-"+p), nil))
		write(t, plug, "base-"+p, "base")
		ok(plug.Create("old-"+p+"@"+p, nil))
		write(t, plug, "old-"+p+"@"+p, "old")
		ok(plug.Remove("old-" + p + "@" + p))
	}
	ok(plug.Create("labelled", map[string]string{"label.team": "blue", "protect": "true", "owner": "999:998"}))
	write(t, plug, "labelled", "labelled")
	ok(plug.Create("used", nil))
	write(t, plug, "used", "used")
	_, err := plug.Mount("used", useID)
	ok(err)
	h.Stop(t)
	h.Must(t, "store", "export", filepath.Join(root, "export.jsonl"), "--root", root,
		"--config", filepath.Join(h.Dir, "drover.yaml"))
	ok(h.Unmount())
}
