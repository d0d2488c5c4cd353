package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/backends/zfs"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/run"
)

const (
	sizeBefore = 320 * dataset.MiB
	sizeAfter  = 448 * dataset.MiB
)

// resizes gives a volume its size after.
func (h *flockHost) resizes(name string) {
	h.f.Helper()
	if err := h.requests.Perform(h.f.Context(), api.Request{Kind: dataset.OpResize, Volume: name, Size: sizeAfter.String()}); err != nil {
		h.f.Fatal(err)
	}
}

// sized fails unless a volume is as large as it is on record.
func (h *flockHost) sized(name string) {
	h.f.Helper()
	path := h.mounts(name, "df")
	defer h.unmounts(name, "df")
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		h.f.Fatal(err)
	}
	size, free := h.f.record(name).Size, dataset.Size(st.Bavail)*dataset.Size(st.Bsize)
	if size != sizeAfter || free < size*97/100 || free > size*103/100 {
		h.f.Errorf("df in a volume of %s shows %s free", size, free.Human())
	}
}

// A volume that goes on from a copy which is older than its size has its size.
func TestForcedMoveToASmallerCopy(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	d := f.a.volume("db", map[string]string{"size": sizeBefore.String()})
	f.a.writes("db", "token", "before")
	f.moves("db", f.b)
	f.a.settled(d.ID)
	f.b.resizes("db")
	f.b.sized("db")
	f.b.down()
	f.forces("db", f.a, f.b)
	f.a.sized("db")
	if got := f.a.reads("db", "token"); got != "before" {
		t.Errorf("it goes on with %q", got)
	}
	f.b.up()
}

// sizeless is loop, and resizes nothing for a while.
type sizeless struct {
	*loop.Backend
	fails atomic.Bool
}

type sizelessPool struct {
	*loop.Pool
	of *sizeless
}

func (k *sizeless) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	p, err := k.Backend.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return sizelessPool{p.(*loop.Pool), k}, nil
}

func (p sizelessPool) Resize(ctx context.Context, id uuid.UUID, size dataset.Size, root *os.File) error {
	if p.of.fails.Load() {
		return errors.New("not today")
	}
	return p.Pool.Resize(ctx, id, size, root)
}

// One that could not be given its size then says so, after a start as well, until it has it: a
// resize to that does nothing, as it is on record.
func TestSizeIsGivenLater(t *testing.T) {
	t.Parallel()
	f, _, kind := undersizes(t)
	want := "it was not given its size of 448MiB when it moved here and may still have 320MiB: not today"
	says := func(when string, says bool) {
		t.Helper()
		list, err := f.a.Doctor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		named := slices.ContainsFunc(list, func(x api.Finding) bool { return x.Level == findings.Error && strings.HasPrefix(x.Text, want) })
		st := f.a.status.Status(t.Context(), f.record("db").Dataset)
		if named != says || strings.HasPrefix(st.Problem, want) != says {
			t.Errorf("%s: doctor names it: %t; its problem is %q", when, named, st.Problem)
		}
	}
	says("moved", true)
	f.a.again()
	f.a.sizes.Retry(t.Context())
	says("after a start", true)
	path := f.a.mounts("db", "one") // it is of use all the same
	if got, err := os.ReadFile(filepath.Join(path, "token")); err != nil || string(got) != "before" {
		t.Errorf("it goes on with %q, %v", got, err)
	}
	kind.fails.Store(false)
	f.a.sizes.Retry(t.Context())
	says("resized while it is mounted", false)
	f.a.unmounts("db", "one")
	f.a.sized("db")
	f.a.again()
	says("after another start", false)
	f.b.up()
}

// Where nothing was written since, a volume moves with the snapshot that was copied last, which may
// be older than its size, too.
func TestMoveAfterAResize(t *testing.T) {
	f := &flock{T: t}
	f.serve()
	for i, h := range []**flockHost{&f.a, &f.b} {
		*h = f.host([]string{"host-a", "host-b"}[i], "zfs")
		(*h).cfg.Backends = backends.NewRegistry(zfs.New(&run.System{}, clock.System{}))
	}
	t.Cleanup(f.close)
	f.a.up()
	f.b.up()
	f.a.volume("db@safe", map[string]string{"size": sizeBefore.String()})
	f.a.writes("db", "token", "text")
	written := time.Now()
	await(t, func() bool { return f.hasSince(f.b, "db", written) })
	f.a.resizes("db")
	f.moves("db", f.b)
	f.b.sized("db")
}
