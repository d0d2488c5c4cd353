package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// A place is a folder to which data is written.
type place struct {
	name   string
	dir    string
	volume string // the volume that is mounted there; "": none
}

// places returns the four places on which the data path is measured: a volume; the same filesystem in an image that
// was made and mounted by hand in the same pool; the filesystem of the pool; and the host's filesystem below the
// pool.
func places(b *testing.B, h *host.Host) []place {
	b.Helper()
	path, size := mounted(b, h)
	pool := filepath.Join(top(h), "plain")
	require.NoError(b, os.Mkdir(pool, 0o755))
	return []place{
		{"volume", path, benched},
		{"beside", byHand(b, h, size), ""},
		{"pool", pool, ""},
		{"host", b.TempDir(), ""},
	}
}

// benched is the volume on which the data path is measured.
const benched = "volume"

// mounted makes a volume, mounts it during the benchmark, and returns its mount point and size.
func mounted(b *testing.B, h *host.Host) (path string, size int64) {
	b.Helper()
	p := dial(h.Socket())
	b.Cleanup(p.close)
	use := request{Name: benched, ID: "bench"}
	p.must(b, "POST", "/VolumeDriver.Create", use)
	p.must(b, "POST", "/VolumeDriver.Mount", use)
	b.Cleanup(func() { p.must(b, "POST", "/VolumeDriver.Unmount", use) })
	v, err := h.Client(b).Volume(b.Context(), use.Name)
	require.NoError(b, err)
	return filepath.Join(h.Root, "mnt", v.ID.String()), int64(v.Size)
}

// byHand makes an image like that of a volume, and mounts it like a volume.
func byHand(b *testing.B, h *host.Host, size int64) string {
	b.Helper()
	dir := filepath.Join(top(h), "hand")
	require.NoError(b, os.Mkdir(dir, 0o755))
	image := filepath.Join(top(h), "hand.img")
	f, err := os.OpenFile(image, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	require.NoError(b, err)
	defer f.Close()
	require.NoError(b, f.Truncate(size))
	scratch.Run(b, "mkfs.xfs", "-q", "-K", "-s", "size=4096", image)
	dev, err := loopdev.Attach(b.Context(), image, loopdev.Options{DirectIO: true, BlockSize: 4096})
	require.NoError(b, err)
	defer dev.Close()
	spec := mount.Spec{Source: dev.Path, FSType: "xfs", Options: []string{"nouuid", "discard", "nodev"}}
	require.NoError(b, mount.Mount(dir, spec))
	b.Cleanup(func() {
		assert.NoError(b, mount.Unmount(dir))
	})
	return dir
}

// againstPlaces prints the results of a load on the volume against each other place, measured in turns. A larger
// result is better.
func againstPlaces(b *testing.B, what, unit string, at []place, load func(place) float64) {
	b.Helper()
	measure := make([]func() float64, len(at))
	for i, p := range at {
		measure[i] = func() float64 { return load(p) }
	}
	s := inTurns(pairs(b), measure...)
	goals := map[string]goal{"beside": atLeast(0.98)}
	for i, p := range at[1:] {
		compare(fmt.Sprintf("%s: %s, volume", what, p.name), s[i+1], s[0], unit, goals[p.name])
	}
}
