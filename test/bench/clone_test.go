package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/linux/reflink"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// BenchmarkClone measures a clone through the plugin, against the bare system call that shares the blocks and one
// transaction of the same kind of store. It also measures how long a writer to the source is blocked.
func BenchmarkClone(b *testing.B) {
	for _, fs := range []string{"xfs", "btrfs"} {
		b.Run(fs, func(b *testing.B) {
			h := startHost(b, fs)
			c := &cloner{b: b, h: h, fs: fs, plugin: dial(h.Socket())}
			b.Cleanup(c.plugin.close)
			c.plugin.must(b, "POST", "/VolumeDriver.Create", named("first")) // makes the template
			c.floor = newFloor(b, h)
			header(os.Stdout, "bare", "clone")
			c.sizes()
			var sources []source
			for _, extents := range []int{20, 400, 10_000} {
				sources = append(sources, c.volume("10GiB", extents))
			}
			for _, v := range sources {
				c.againstBare(v)
			}
			header(os.Stdout, "no clone", "cloned")
			for _, v := range sources {
				c.stall(v)
			}
			quiet(b)
		})
	}
}

type cloner struct {
	b      *testing.B
	h      *host.Host
	fs     string
	plugin peer
	floor  *floor
	n      int // clones so far
}

// A source is a volume whose image has about the given number of extents.
type source struct {
	name    string
	size    string
	dataset string
	item    string // what is cloned: the image, or the subvolume with the image
	extents int
}

func (s source) String() string { return fmt.Sprintf("%s, %d extents", s.size, s.extents) }

// volume makes a volume and gives its image a number of extents: a block of zeros is written to every other block of
// its holes, which read as zeros before.
func (c *cloner) volume(size string, extents int) source {
	c.b.Helper()
	s := source{name: fmt.Sprintf("source-%s-%d", size, extents), size: size}
	c.h.Must(c.b, "volume", "create", s.name, "-o", "size="+size)
	v, err := c.h.Client(c.b).Volume(c.b.Context(), s.name)
	require.NoError(c.b, err)
	s.dataset = v.ID.String()
	dir := filepath.Join(c.h.Root, "pools", "default", "datasets", s.dataset)
	image := filepath.Join(dir, "head.img")
	s.item = image
	if c.fs == "btrfs" {
		s.item = filepath.Join(dir, "head")
		image = filepath.Join(s.item, "image")
	}
	if s.extents, err = fragment(image, extents); err != nil {
		c.b.Fatal(err)
	}
	return s
}

func fragment(image string, want int) (have int, err error) {
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	const block = 4096
	zeros := make([]byte, block)
	for off := int64(0); ; {
		list, err := reflink.Extents(f)
		if err != nil || len(list) >= want {
			return len(list), err
		}
		for range want - len(list) {
			if off, err = f.Seek(off, unix.SEEK_HOLE); err != nil {
				return 0, err
			}
			off = (off+block)/block*block + block // without a comparison
			if _, err := f.WriteAt(zeros, off); err != nil {
				return 0, err
			}
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
	}
}

// clone clones through the plugin.
func (c *cloner) clone(s source) float64 {
	c.n++
	spec := fmt.Sprintf("clone-%d@snapshot-%s", c.n, s.dataset[:8])
	return timed(func() { c.plugin.must(c.b, "POST", "/VolumeDriver.Create", named(spec)) })
}

// bare shares the blocks and makes one transaction durable.
func (c *cloner) bare(s source) float64 {
	c.n++
	name := fmt.Sprintf("bare-%d", c.n)
	return timed(func() {
		err := c.share(s, name)
		if err == nil {
			err = c.floor.commit(name)
		}
		require.NoError(c.b, err)
	})
}

func (c *cloner) share(s source, name string) error {
	from, err := os.Open(s.item)
	if err != nil {
		return err
	}
	defer from.Close()
	if c.fs == "btrfs" {
		dir, err := os.Open(c.floor.dir)
		if err != nil {
			return err
		}
		defer dir.Close()
		return btrfsctl.Snapshot(dir, name, from, false)
	}
	to, err := os.OpenFile(filepath.Join(c.floor.dir, name), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer to.Close()
	return reflink.Clone(to, from)
}

func (c *cloner) againstBare(s source) {
	r := inTurns(pairs(c.b), func() float64 { return c.bare(s) }, func() float64 { return c.clone(s) })
	compare(fmt.Sprintf("clone on %s: %s", c.fs, s), r[0], r[1], "ms", atMost(1.2))
}

// sizes compares two volumes that differ only in their size.
func (c *cloner) sizes() {
	small, large := c.volume("1GiB", 401), c.volume("10GiB", 401)
	r := inTurns(pairs(c.b), func() float64 { return c.clone(small) }, func() float64 { return c.clone(large) })
	compare(fmt.Sprintf("clone on %s: 1 and 10 GiB, %d and %d extents", c.fs, small.extents, large.extents), r[0], r[1], "ms", goal{})
}

// clonesUnderWriter is the number of clones during which a writer is watched.
const clonesUnderWriter = 5

// stall prints the largest gap in the log of a writer that writes to a volume each millisecond, while the volume is
// cloned and while it is not.
func (c *cloner) stall(s source) {
	use := request{Name: s.name, ID: "bench"}
	c.plugin.must(c.b, "POST", "/VolumeDriver.Mount", use)
	defer c.plugin.must(c.b, "POST", "/VolumeDriver.Unmount", use)
	dir := filepath.Join(c.h.Root, "mnt", s.dataset)
	var took time.Duration
	cloned := largestGap(c.b, dir, func() {
		took = time.Duration(timed(func() {
			for range clonesUnderWriter {
				c.clone(s)
				time.Sleep(20 * time.Millisecond)
			}
		}) * float64(time.Millisecond))
	})
	plain := largestGap(c.b, dir, func() { time.Sleep(took) })
	row{what: fmt.Sprintf("1 ms writer, largest gap, %s: %s", c.fs, s), a: plain, b: cloned, unit: "ms",
		ratio: median(nil)}.print(os.Stdout)
}

// largestGap returns the largest number of milliseconds between two flushed writes of a writer that waits a
// millisecond after each, while f runs.
func largestGap(b *testing.B, dir string, f func()) (ms float64) {
	b.Helper()
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	require.NoError(b, err)
	ctx, stop := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() {
		defer close(ended)
		last := time.Now()
		for ctx.Err() == nil {
			if _, err := fmt.Fprintln(log, last.Format(time.RFC3339Nano)); err != nil {
				ended <- err
				return
			}
			if err := unix.Fdatasync(int(log.Fd())); err != nil {
				ended <- err
				return
			}
			now := time.Now()
			ms = max(ms, float64(now.Sub(last))/1e6)
			last = now
			time.Sleep(time.Millisecond)
		}
	}()
	f()
	stop()
	require.NoError(b, errors.Join(<-ended, log.Close()))
	return ms
}

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
