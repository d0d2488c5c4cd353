package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/plugin"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// An engineVolume makes and removes volumes as Docker's command line does, without the time that the command line
// takes.
type engineVolume struct {
	tb     testing.TB
	engine peer
	driver string
	n      int
}

func (v *engineVolume) createAndRemove() {
	v.n++
	name := fmt.Sprintf("bench-%s-%d", v.driver, v.n)
	body := struct{ Name, Driver string }{name, v.driver}
	v.engine.must(v.tb, "POST", "/volumes/create", body)
	v.engine.must(v.tb, "DELETE", "/volumes/"+name, nil)
}

// BenchmarkCreateRemove measures create and remove through the engine, Drover against local. Both flush, Drover more
// often, and the duration of a flush depends on the disk. So the same flushes are timed separately and subtracted
// from both. The raw times are printed as well, and the cost of a plugin that does nothing: the engine calls the
// plugin five times.
func BenchmarkCreateRemove(b *testing.B) {
	header(os.Stdout, "local", "drover")
	for _, fs := range []string{"xfs", "btrfs"} {
		b.Run(fs, func(b *testing.B) {
			h := startHost(b, fs)
			e := engine.Start(b, engine.Options{})
			createRemove(b, h, e, "create + remove, loop on "+fs)
			quiet(b)
		})
	}
}

func createRemove(b *testing.B, h *host.Host, e *engine.Engine, what string) {
	api := dial(strings.TrimPrefix(e.Host, "unix://"))
	defer api.close()
	local := &engineVolume{tb: b, engine: api, driver: "local"}
	ours := &engineVolume{tb: b, engine: api, driver: h.Driver}
	ours.createAndRemove() // the template is made
	nothing := &engineVolume{tb: b, engine: api, driver: serveNothing(b)}
	flushes := func(v *engineVolume) *beside {
		seen := traced(b, v.createAndRemove, e.PID(), h.PID())
		all := slices.Concat(seen[e.PID()].events, seen[h.PID()].events)
		return newBeside(b, all, besides(h, e), template(b, h))
	}
	localFlushes, ourFlushes := flushes(local), flushes(ours)
	s := inTurns(pairs(b),
		func() float64 { return timed(local.createAndRemove) }, localFlushes.time,
		func() float64 { return timed(ours.createAndRemove) }, ourFlushes.time,
		func() float64 { return timed(nothing.createAndRemove) })
	compare(what+", without flushes", subtractMedian(s[0], s[1]), subtractMedian(s[2], s[3]), "ms", atMost(1.5))
	compare(what+", raw", s[0], s[2], "ms", goal{})
	compare("the same by a plugin that does nothing, without flushes", subtractMedian(s[0], s[1]), subtractMedian(s[4], s[1]), "ms", goal{})
	compare(fmt.Sprintf("flushes alone (%d and %d)", localFlushes.flushes, ourFlushes.flushes), s[1], s[3], "ms", goal{})
}

// startHost starts a Drover with one of two kinds of pool. With xfs it is the pool that Drover makes if the host's
// filesystem cannot share blocks: an XFS in a preallocated image, with the store on the host's filesystem. Otherwise
// it is a btrfs with everything that Drover keeps.
func startHost(b *testing.B, fs string) *host.Host {
	b.Helper()
	if fs == "xfs" {
		return host.Start(b, host.Options{Pool: "image", Config: "pools: [{name: default, backend: loop, path: $DIR/pool.img, image: 16GiB}]\n"})
	}
	return host.Start(b, host.Options{Pool: fs, Size: 16 << 30})
}

// top is a folder on the filesystem of a host's pool.
func top(h *host.Host) string {
	if h.Image == "" {
		return filepath.Join(h.Root, "pools", "default")
	}
	return filepath.Dir(h.Root)
}

// besides is a folder on the filesystem of a path: one of the engine's, the pool's or Drover's folders.
func besides(h *host.Host, e *engine.Engine) func(path string) string {
	return func(path string) string {
		switch {
		case strings.HasPrefix(path, e.Dir):
			return e.Dir
		case strings.HasPrefix(path, filepath.Join(h.Root, "pools")):
			return top(h)
		case h.Image != "":
			return top(h)
		}
		return h.Dir
	}
}

// template is the image from which volumes of the default profile are made, after the first one was made.
func template(tb testing.TB, h *host.Host) string {
	tb.Helper()
	found, err := filepath.Glob(filepath.Join(h.Root, "pools", "default", "templates", "*.img"))
	if err != nil || len(found) != 1 {
		tb.Fatalf("templates: %v, %v", found, err)
	}
	return found[0]
}

// nothing is an agent that only remembers the names of volumes.
type nothing struct {
	mu      sync.Mutex
	volumes map[string]bool
}

func (n *nothing) Activated(context.Context) {}

func (n *nothing) Create(_ context.Context, ref dataset.Reference, _ map[string]string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.volumes[ref.Spelling] = true
	return nil
}

func (n *nothing) Remove(_ context.Context, ref dataset.Reference) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.volumes, ref.Spelling)
	return nil
}

func (n *nothing) Get(_ context.Context, ref dataset.Reference) (plugin.Volume, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.volumes[ref.Spelling] {
		return plugin.Volume{}, dataset.ErrNotFound
	}
	return plugin.Volume{Spelling: ref.Spelling}, nil
}

func (n *nothing) Mount(context.Context, dataset.Reference, string) (string, error) { return "/", nil }
func (n *nothing) Unmount(context.Context, dataset.Reference, string) error         { return nil }
func (n *nothing) List(context.Context) ([]plugin.Volume, error)                    { return nil, nil }
func (n *nothing) Path(context.Context, dataset.Reference) (string, error)          { return "/", nil }
func (n *nothing) Help(context.Context) string                                      { return "" }

// serveNothing serves such an agent with the same server as Drover's, and returns the name of its driver.
func serveNothing(b *testing.B) string {
	b.Helper()
	driver := engine.DriverName()
	l, err := net.Listen("unix", filepath.Join("/run/docker/plugins", driver+".sock"))
	require.NoError(b, err)
	s := plugin.New(&nothing{volumes: map[string]bool{}}, plugin.Options{})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	b.Cleanup(func() {
		err := s.Shutdown(context.Background())
		if serr := <-served; !errors.Is(serr, http.ErrServerClosed) {
			err = errors.Join(err, serr)
		}
		assert.NoError(b, err)
	})
	return driver
}

const (
	flooders = 64  // concurrent creates
	flood    = 640 // creates in one round
)

// BenchmarkDurableCreates measures creates per second, 64 at once, through the plugin's socket, each one durable when
// it is answered. It compares them with the minimum on the same filesystem: share a template's blocks, flush, commit
// to the same kind of store.
func BenchmarkDurableCreates(b *testing.B) {
	header(os.Stdout, "bare floor", "drover")
	for _, fs := range []string{"xfs", "btrfs"} {
		b.Run(fs, func(b *testing.B) {
			h := startHost(b, fs)
			durableCreates(b, h, "durable creates at 64 at once, loop on "+fs)
			quiet(b)
		})
	}
}

func durableCreates(b *testing.B, h *host.Host, what string) {
	p := dial(h.Socket())
	defer p.close()
	p.must(b, "POST", "/VolumeDriver.Create", named("first")) // makes the template
	f := newFloor(b, h)
	n := 0
	perSecond := func(make func(i int) error) func() float64 {
		return func() float64 {
			n += flood
			ms := timed(func() { atOnce(b, flooders, flood, func(i int) error { return make(n + i) }) })
			return flood / ms * 1000
		}
	}
	s := inTurns(pairs(b), perSecond(f.make), perSecond(func(i int) error {
		return p.call("POST", "/VolumeDriver.Create", named(fmt.Sprintf("flood-%d", i)))
	}))
	compare(what+", to the floor", s[0], s[1], "/s", atLeast(0.4))
	single(what, s[1], "/s", atLeast(2000))
}

// atOnce calls f for 0 to n-1, with the given number of concurrent calls.
func atOnce(tb testing.TB, workers, n int, f func(i int) error) {
	tb.Helper()
	var wg sync.WaitGroup
	errs := make([]error, workers)
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n && errs[w] == nil; i += workers {
				errs[w] = f(i)
			}
		})
	}
	wg.Wait()
	require.NoError(tb, errors.Join(errs...))
}

// A floor makes files with the least possible work.
type floor struct {
	dir      string
	template *os.File
	store    *bolt.Store
}

func newFloor(tb testing.TB, h *host.Host) *floor {
	tb.Helper()
	f := &floor{dir: filepath.Join(top(h), "floor")}
	require.NoError(tb, os.Mkdir(f.dir, 0o700))
	var err error
	if f.template, err = os.Open(template(tb, h)); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { f.template.Close() })
	f.store, err = bolt.Open(tb.Context(), filepath.Join(h.Root, "floor.db"), bolt.Options{Clock: clock.System{}})
	require.NoError(tb, err)
	tb.Cleanup(func() {
		assert.NoError(tb, f.store.Close())
	})
	return f
}

// make makes the i-th file durable, and then its record.
func (f *floor) make(i int) error {
	file, err := os.OpenFile(filepath.Join(f.dir, fmt.Sprint(i)), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := clone(file, f.template); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	return f.commit(fmt.Sprint(i))
}

// commit makes one transaction durable that checks and writes as many keys, of the same sizes, as a create does.
func (f *floor) commit(name string) error {
	id := uuid.NewString()
	var checks []store.Precondition
	var writes []store.Write
	for key, size := range map[string]int{
		"names/" + name: 45, "datasets/" + id: 560, "leases/" + id: 200, "by-uuid/" + id: 50, "home/" + id: 45,
	} {
		checks = append(checks, store.Precondition{Key: key})
		writes = append(writes, store.Write{Key: key, Value: make([]byte, size)})
	}
	_, err := f.store.Txn(context.Background(), checks, writes)
	return err
}
