package product

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/volumes"
)

// TestOtherPools runs the most important scenarios on the other kinds of pools: the image of a dataset in a
// subvolume, the preallocated image that is used on a host without reflinks, plain folders, and subvolumes. In the short
// form, each kind of pool has two or three of them, and each of them one or two kinds.
func TestOtherPools(t *testing.T) {
	// The profiles of the scenarios without the size, which folders cannot enforce.
	const plain = `default: bronze
profiles: {bronze: {}, silver: {}, gold: {}}
`
	// And without a filesystem inside of volumes.
	const sized = `default: bronze
profiles: {bronze: {size: 256MiB}, silver: {size: 256MiB}, gold: {size: 512MiB}}
`
	pools := []host.Options{
		{Pool: "btrfs", Profiles: threeProfiles},
		{Pool: "ext4", Profiles: threeProfiles},
		{Pool: "dir", Profiles: plain},
		{Pool: "subvolumes", Profiles: sized},
	}
	scenarios := []struct {
		name string
		test func(*testing.T, *world)
	}{
		{"B1", testB1}, {"B3", testB3}, {"B6", testB6},
		{"B8 I11", func(t *testing.T, w *world) { volumes.InUse(t, w.suite()) }},
		{"B12", testB12}, {"B17", testB17},
		{"B17 spellings", func(t *testing.T, w *world) { volumes.Spellings(t, w.suite()) }},
	}
	for row, o := range pools {
		t.Run(o.Pool, func(t *testing.T) {
			w := begin(t, o, engine.Options{})
			if o.Pool == "subvolumes" {
				t.Run("sizes and snapshots", func(t *testing.T) { testSubvolumes(t, w) })
			}
			for column, s := range scenarios {
				if long.Turn(row, len(pools), column, len(scenarios), 3) {
					t.Run(s.name, func(t *testing.T) { s.test(t, w) })
				}
			}
		})
	}
}

// testSubvolumes: a volume is full at its size, only for its container, and snapshots never count. It is snapshotted
// and cloned while it is written to, restored, enlarged and reduced.
func testSubvolumes(t *testing.T, w *world) {
	w.run(t, "tight", "tight@bronze")
	w.run(t, "beside", "beside@bronze")
	w.docker(t, "exec", "tight", "sh", "-c", "echo one > /data/file; dd if=/dev/urandom of=/data/half bs=1M count=160 conv=fsync")
	w.drover(t, "snapshot", "create", "tight", "--name", "first")
	host.Await(t, "what it takes is told", func() error {
		if used := w.inspect(t, "tight@bronze").Status.Used; used < 160<<20 || used > 165<<20 {
			return fmt.Errorf("it is %d", used)
		}
		return nil
	})
	w.docker(t, "exec", "tight", "sh", "-c", "echo two > /data/file; rm /data/half; sync; dd if=/dev/urandom of=/data/half bs=1M count=160 conv=fsync")
	const full = "dd if=/dev/zero of=/data/fill bs=1M 2>/tmp/said; grep -o 'quota exceeded' /tmp/said; sync; cat /data/* | wc -c"
	said := strings.Fields(strings.ReplaceAll(strings.ToLower(w.docker(t, "exec", "tight", "sh", "-c", full)), "quota exceeded", "quota-exceeded"))
	if len(said) != 2 || said[0] != "quota-exceeded" {
		t.Fatalf("a full volume says %q", said)
	}
	const size = 256 << 20
	if n, err := strconv.Atoi(said[1]); err != nil || n < size*97/100 || n > size*103/100 {
		t.Errorf("%s bytes are in a volume of %d", said[1], size)
	}
	w.docker(t, "exec", "beside", "dd", "if=/dev/zero", "of=/data/fill", "bs=1M", "count=200", "conv=fsync")
	w.drover(t, "volume", "set-profile", "tight", "gold")
	w.docker(t, "exec", "tight", "dd", "if=/dev/zero", "of=/data/more", "bs=1M", "count=200", "conv=fsync")
	w.drover(t, "clone", "tight", "copy")
	w.docker(t, "exec", "tight", "sh", "-c", "rm /data/fill /data/more; sync")
	if got := w.once(t, "copy@gold", "cat /data/file; ls /data | wc -w"); got != "two\n4" {
		t.Errorf("the clone has %q", got)
	}
	w.docker(t, "rm", "-f", "tight")
	w.drover(t, "snapshot", "restore", "tight", "first")
	if got := w.once(t, "tight@gold", "cat /data/file; ls /data"); got != "one\nfile\nhalf" {
		t.Errorf("restored, it has %q", got)
	}
	w.docker(t, "rm", "-f", "beside")
	w.docker(t, "volume", "rm", "tight@bronze", "beside@bronze")
	for _, name := range w.h.Volumes(t) {
		w.drover(t, "volume", "rm", name, "--force", "--yes")
	}
}
