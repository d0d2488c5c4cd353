package agent

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
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
func (h *host) resizes(name string) {
	h.f.Helper()
	if err := h.perform(h.f.Context(), api.Request{Kind: dataset.OpResize, Volume: name, Size: sizeAfter.String()}); err != nil {
		h.f.Fatal(err)
	}
}

// sized fails unless a volume is as large as it is on record.
func (h *host) sized(name string) {
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
	out, err := f.svc.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: "db", Node: "host-a", Force: true, Fenced: "host-b"})
	if err != nil || out.Operation.Loss == nil {
		t.Fatalf("%+v, %v", out, err)
	}
	if op := f.ended(*out.Operation); op.State != dataset.OpDone {
		t.Fatalf("%+v", op.Problem)
	}
	f.a.sized("db")
	if got := f.a.reads("db", "token"); got != "before" {
		t.Errorf("it goes on with %q", got)
	}
	f.b.up()
}

// Where nothing was written since, a volume moves with the snapshot that was copied last, which may
// be older than its size, too.
func TestMoveAfterAResize(t *testing.T) {
	f := &flock{T: t}
	f.serve()
	for i, h := range []**host{&f.a, &f.b} {
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
