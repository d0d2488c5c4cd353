package pool_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// badDisk is backend dir. In pool other, its writes fail with an error that the test sets.
type badDisk struct {
	dir.Backend
	mu     sync.Mutex
	errno  error // of all writes
	create error // of creates only
	status error // of the status only
	raised int   // how often the identity of pool other was written
	closed int   // how often pool other was closed
}

func (b *badDisk) fails(errno, create error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.errno, b.create = errno, create
}

func (b *badDisk) raises() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.raised
}

func (b *badDisk) closes() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

func (b *badDisk) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	p, err := b.Backend.Open(ctx, cfg)
	if err != nil || cfg.Name != "other" {
		return p, err
	}
	return badPool{p, b}, nil
}

type badPool struct {
	backends.Pool
	b *badDisk
}

func (p badPool) Status(ctx context.Context) dataset.PoolStatus {
	p.b.mu.Lock()
	defer p.b.mu.Unlock()
	if p.b.status != nil {
		return dataset.PoolStatus{Reason: (&os.PathError{Op: "readdirent", Path: "/pool/deleting", Err: p.b.status}).Error()}
	}
	return p.Pool.Status(ctx)
}

func (p badPool) Raise(to uint64) error {
	p.b.mu.Lock()
	defer p.b.mu.Unlock()
	p.b.raised++
	if p.b.errno != nil {
		return &os.PathError{Op: "sync", Path: "/pool/.drover-pool", Err: p.b.errno}
	}
	return p.Pool.Raise(to)
}

func (p badPool) Create(ctx context.Context, d dataset.Dataset) (dataset.Size, error) {
	p.b.mu.Lock()
	err := errors.Join(p.b.errno, p.b.create)
	p.b.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return p.Pool.Create(ctx, d)
}

func (p badPool) Attach(ctx context.Context, id uuid.UUID, o backends.AttachOptions) (backends.Attachment, error) {
	p.b.mu.Lock()
	err := p.b.errno
	p.b.mu.Unlock()
	if err != nil {
		return backends.Attachment{}, err
	}
	return p.Pool.Attach(ctx, id, o)
}

func (p badPool) Close() error {
	p.b.mu.Lock()
	defer p.b.mu.Unlock()
	p.b.closed++
	return p.Pool.Close()
}

// newBadRig is a rig with pool other on a disk that fails when the test says so, and volume db there.
func newBadRig(t *testing.T) (*agenttest.Host, *badDisk) {
	t.Helper()
	b := &badDisk{}
	r := agenttest.New(t, func(c *agent.Config) {
		c.Backends = backends.NewRegistry(b)
		c.Pools = append(c.Pools, pool.Config{Name: "other", Backend: "dir", Path: filepath.Join(c.Root, "other")})
	})
	require.NoError(t, createIn(r, "other", "db"))
	return r, b
}

func createIn(r *agenttest.Host, pool, volume string) error {
	return r.Create(r.T.Context(), volume, map[string]string{"pool": pool})
}

// logged returns a function that counts the log lines of pool other that begin with a text.
func logged(r *agenttest.Host) func(text string) int {
	hook := logtest.NewLocal(r.Agent.Log.(*logrus.Logger))
	return func(text string) (n int) {
		for _, e := range hook.AllEntries() {
			if strings.HasPrefix(e.Message, text) && e.Data["pool"] == "other" {
				n++
			}
		}
		return n
	}
}

// wantFailing checks what a pool whose disk fails shows and refuses, and that another pool serves.
func wantFailing(r *agenttest.Host, errno error) {
	r.T.Helper()
	t := r.T
	if st := r.PoolStatus("other"); st.Online || !strings.Contains(st.Reason, "its disk fails") || !strings.Contains(st.Reason, errno.Error()) || strings.Contains(st.Reason, "\n") {
		t.Errorf("status %+v", st)
	}
	if f := r.Finding("pool other"); f.Level != api.LevelError || !strings.Contains(f.Text, "its disk fails") || !strings.Contains(f.Fix, "replace the disk") {
		t.Errorf("doctor: %+v", f)
	}
	p, _ := r.Pools.ByName("other")
	if _, err := r.Pools.Get(p.ID); !errors.Is(err, dataset.ErrOffline) {
		t.Errorf("work on it is not refused: %v", err)
	}
	_, err := r.Mount(t.Context(), "db", "user")
	if !errors.Is(err, dataset.ErrOffline) || !strings.Contains(err.Error(), "pool other is offline: its disk fails") {
		t.Errorf("a mount: %v", err)
	}
	if err := createIn(r, "other", "refused"); err == nil || !strings.Contains(err.Error(), "its disk fails") {
		t.Errorf("a create: %v", err)
	}
	if st := r.PoolStatus("default"); !st.Online || st.Reason != "" {
		t.Errorf("the other pool: %+v", st)
	}
	if _, known := r.Cache.Volume("near"); !known {
		r.NewVolume("near")
	}
	near, _ := r.Cache.Volume("near")
	r.MountDataset(near, "user")
	assert.NoError(t, r.Unmount(t.Context(), "near", "user"))
}

// A pool whose disk fails is offline with one message, whatever finds the error first, and the log
// has one line for that and one when the disk works again. Other pools serve meanwhile.
func TestFailingDiskTakesPoolOffline(t *testing.T) {
	for how, first := range map[string]func(r *agenttest.Host) error{
		"create": func(r *agenttest.Host) error { return createIn(r, "other", "new") },
		"mount": func(r *agenttest.Host) error {
			_, err := r.Mount(r.T.Context(), "db", "first")
			return err
		},
		"raise": func(r *agenttest.Host) error { // without a request: the agent itself writes the identity
			p, _ := r.Pools.ByName("other")
			r.Pools.MarkChanged(p.ID, true)
			agenttest.Await(r.T, func() bool { r.DoHeartbeatWork(r.T.Context()); return !r.PoolStatus("other").Online })
			return createIn(r, "other", "new")
		},
	} {
		for _, errno := range []error{unix.EIO, unix.EROFS, unix.EUCLEAN} {
			t.Run(how+" "+errno.Error(), func(t *testing.T) {
				r, b := newBadRig(t)
				lines := logged(r)
				b.fails(errno, nil)
				if err := first(r); err == nil || !strings.Contains(err.Error(), "its disk fails") {
					t.Fatalf("the first: %v", err) // it waited for the probe
				}
				wantFailing(r, errno)
				before := b.raises()
				r.DoHeartbeatWork(t.Context())
				agenttest.Await(t, func() bool { return b.raises() > before })
				wantFailing(r, errno)

				b.fails(nil, nil)
				r.DoHeartbeatWork(t.Context())
				agenttest.Await(t, func() bool { return r.PoolStatus("other").Online })
				d, _ := r.Cache.Volume("db")
				r.MountDataset(d, "user")
				if off, on := lines("pool is offline: its disk fails"), lines("pool is online again: its disk works"); off != 1 || on != 1 {
					t.Errorf("%d lines say that it is offline, and %d that it is online again", off, on)
				}
				before = b.raises()
				r.DoHeartbeatWork(t.Context())
				r.DoHeartbeatWork(t.Context())
				if n := b.raises() - before; n > 1 { // at most the raise that is due after a mount
					t.Errorf("a pool that works was written to %d times", n)
				}
			})
		}
	}
}

// A status that fails with a disk error says that the disk fails, also if it is the first call that fails.
func TestFailingStatusSaysThatTheDiskFails(t *testing.T) {
	r, b := newBadRig(t)
	b.mu.Lock()
	b.status = unix.EIO
	b.mu.Unlock()
	for _, st := range r.Pools.Status(t.Context()) {
		if r.Pools.Name(st.ID) == "other" && (st.Online || !strings.HasPrefix(st.Reason, "its disk fails: readdirent /pool/deleting")) {
			t.Errorf("pool other: %+v, want it offline because its disk fails", st)
		}
	}
}

// An error that no disk causes starts no probe. An error that a disk may cause starts one probe, and the pool stays
// online if the probe succeeds.
func TestProbeOfWorkingDiskKeepsPoolOnline(t *testing.T) {
	r, b := newBadRig(t)
	had := b.raises()
	b.fails(nil, dataset.Errorf(dataset.ErrUnsupported, "not that"))
	require.ErrorIs(t, createIn(r, "other", "new"), dataset.ErrUnsupported)
	r.DoHeartbeatWork(t.Context())
	if n := b.raises() - had; n != 0 {
		t.Errorf("it was probed %d times", n)
	}
	b.fails(nil, errors.New("mkfs.xfs: write failed: Input/output error"))
	if err := createIn(r, "other", "new"); err == nil || !strings.Contains(err.Error(), "mkfs.xfs") {
		t.Fatal(err)
	}
	if n := b.raises() - had; n != 1 {
		t.Errorf("it was probed %d times", n)
	}
	r.DoHeartbeatWork(t.Context())
	if st := r.PoolStatus("other"); !st.Online || b.raises()-had != 1 {
		t.Errorf("status %+v, probed %d times", st, b.raises()-had)
	}
}

// A probe leaves the generation of a pool unchanged, also if the generation is raised meanwhile.
func TestProbeKeepsTheGeneration(t *testing.T) {
	r, _ := newBadRig(t)
	p, _ := r.Pools.ByName("other")
	for range 20 {
		r.Pools.MarkChanged(p.ID, true)
		r.DoHeartbeatWork(t.Context())
		<-r.Pools.Suspect(p.ID, unix.EIO).Ended()
	}
	agenttest.Await(t, func() bool { return !r.Pools.ByID(p.ID).Raising })
	now := r.Pools.ByID(p.ID)
	if g, err := now.Storage.Generation(); err != nil || g != now.Generation || now.QuarantineReason() != "" {
		t.Errorf("generation %d, on record %d, %v, held %q", g, now.Generation, err, now.QuarantineReason())
	}
}

// A probe of a share writes a later generation, because another host may raise the generation between the read and
// the write.
func TestProbeOfShareWritesLaterGeneration(t *testing.T) {
	f := agenttest.NewCluster(t, "nfs", "nfs")
	p, _ := f.A.Pools.ByName("default")
	at := func() uint64 {
		t.Helper()
		g, err := f.A.Pool().Generation()
		require.NoError(t, err)
		return g
	}
	agenttest.Await(t, func() bool { return at() > 0 && !f.A.Pools.ByID(p.ID).RaiseSoon && !f.A.Pools.ByID(p.ID).Raising })
	before := at()
	<-f.A.Pools.Suspect(p.ID, unix.EIO).Ended()
	if now := at(); now <= before {
		t.Errorf("generation %d after %d", now, before)
	}
	for _, h := range f.Hosts {
		if pl, _ := h.Pools.ByName("default"); pl.QuarantineReason() != "" {
			t.Errorf("%s: %s", h.NodeName, pl.QuarantineReason())
		}
	}
}

// A probe of a disk that hangs ends: the pool is reported as offline because it hangs.
func TestProbeOfHangingDiskEnds(t *testing.T) {
	r, h, _, _ := hungRig(t)
	h.Hang("raise")
	probe := r.Pools.Suspect(other(r).ID, unix.EIO)
	agenttest.Await(t, func() bool { return h.Calls() > 0 })
	agenttest.Await(t, func() bool {
		r.FakeClock.Advance(pool.AskPatience / pool.AskTurns)
		select {
		case <-probe.Ended():
			return true
		default:
			return false
		}
	})
	if st := r.PoolStatus("other"); st.Online || !strings.Contains(st.Reason, "does not respond") {
		t.Errorf("status %+v", st)
	}
	h.Resume()
	agenttest.Await(t, func() bool { return r.PoolStatus("other").Online })
}

// A pool whose filesystem Drover mounts is closed while its disk fails, and opened again, which remounts it. It
// serves once a write to it succeeds, and not while a volume in it is mounted.
func TestFailingPoolIsRemounted(t *testing.T) {
	r, b := newBadRig(t)
	lines := logged(r)
	p, _ := r.Pools.ByName("other")
	// Like a pool on devices.
	require.NoError(t, r.Pools.UpdateRecord(t.Context(), p.ID, func(rec *pool.Record) { rec.Mount = rec.Path }))
	d, _ := r.Cache.Volume("db")
	r.MountDataset(d, "user")
	b.fails(unix.EROFS, nil)
	if err := createIn(r, "other", "new"); err == nil {
		t.Fatal("created on a disk that fails")
	}
	if n := b.closes(); n != 0 {
		t.Errorf("closed %d times under a mounted volume", n)
	}
	require.NoError(t, r.Unmount(t.Context(), "db", "user"))
	// Opened again, and verified.
	agenttest.Await(t, func() bool { r.DoHeartbeatWork(t.Context()); return b.closes() > 1 })
	wantFailing(r, unix.EROFS)
	b.fails(nil, nil)
	agenttest.Await(t, func() bool {
		r.FakeClock.Advance(pool.AgainPatience)
		r.DoHeartbeatWork(t.Context())
		return r.PoolStatus("other").Online
	})
	r.MountDataset(d, "again")
	if off, on := lines("pool is offline: its disk fails"), lines("pool is online again"); off != 1 || on != 1 {
		t.Errorf("%d lines say that it is offline, and %d that it is online again", off, on)
	}
}
