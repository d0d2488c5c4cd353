package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/internal/btrfs"
	"github.com/droverhq/drover/test/host"
)

// BenchmarkBackends: synced writes in a volume of each backend, against the same filesystem
// beside it: by hand on a loop device in the same pool, or in a folder or subvolume of the
// pool's filesystem. What operations take says drover backend verify.
func BenchmarkBackends(b *testing.B) {
	for _, k := range []struct {
		name   string
		start  func() *host.Host
		beside func(h *host.Host, size int64) string
	}{
		{"loop on xfs", func() *host.Host { return startHost(b, "xfs") },
			func(h *host.Host, size int64) string { return byHand(b, h, size) }},
		{"btrfs", func() *host.Host { return host.Start(b, host.Options{Pool: "subvolumes"}) },
			func(h *host.Host, _ int64) string { return besideSubvolume(b, h) }},
		{"dir on ext4", func() *host.Host { return host.Start(b, host.Options{Pool: "dir"}) },
			func(h *host.Host, _ int64) string { return besideFolder(b, h) }},
	} {
		b.Run(k.name, func(b *testing.B) {
			h := k.start()
			volume, size := mounted(b, h)
			at := []place{{"volume", volume, ""}, {"beside", k.beside(h, size), ""}}
			for _, p := range at {
				fio(b, p, "--rw=write", "--bs=1M", "--end_fsync=1")
			}
			header(os.Stdout, "beside", "volume")
			againstPlaces(b, k.name+": 16 KiB synced", "/s", at, func(p place) float64 {
				return fio(b, p, "--rw=randwrite", "--bs=16k", "--fdatasync=1", "--randrepeat=0",
					"--time_based", fmt.Sprintf("--runtime=%dms", loadTime(b).Milliseconds()))
			})
			againstPlaces(b, k.name+": 1 MiB in order", "/s", at, func(p place) float64 {
				return fio(b, p, "--rw=write", "--bs=1M", "--end_fsync=1")
			})
			quiet(b)
		})
	}
}

// benched is the volume that the data path is measured on.
const benched = "volume"

// mounted makes a volume, mounts it for the time of the benchmark, and returns where, and
// its size.
func mounted(b *testing.B, h *host.Host) (path string, size int64) {
	b.Helper()
	p := dial(h.Socket())
	b.Cleanup(p.close)
	use := request{Name: benched, ID: "bench"}
	p.must(b, "POST", "/VolumeDriver.Create", use)
	p.must(b, "POST", "/VolumeDriver.Mount", use)
	b.Cleanup(func() { p.must(b, "POST", "/VolumeDriver.Unmount", use) })
	v, err := h.Client(b).Volume(b.Context(), use.Name)
	if err != nil {
		b.Fatal(err)
	}
	return filepath.Join(h.Root, "mnt", v.ID.String()), int64(v.Size)
}

// besideFolder is a folder on the filesystem that a pool lies on.
func besideFolder(b *testing.B, h *host.Host) string {
	b.Helper()
	path := filepath.Join(filepath.Dir(h.Root), "beside")
	if err := os.Mkdir(path, 0o755); err != nil {
		b.Fatal(err)
	}
	return path
}

// besideSubvolume is a subvolume there.
func besideSubvolume(b *testing.B, h *host.Host) string {
	b.Helper()
	dir, err := os.Open(filepath.Dir(h.Root))
	if err != nil {
		b.Fatal(err)
	}
	defer dir.Close()
	if err := btrfs.Create(dir, "beside"); err != nil {
		b.Fatal(err)
	}
	return filepath.Join(dir.Name(), "beside")
}
