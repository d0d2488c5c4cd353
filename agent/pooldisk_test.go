package agent

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

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/dataset"
)

// badDisk is backend dir. In pool other, its writes fail with an error that the test sets.
type badDisk struct {
	dir.Backend
	mu     sync.Mutex
	errno  error // of all writes
	create error // of creates only
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
func newBadRig(t *testing.T) (*rig, *badDisk) {
	t.Helper()
	b := &badDisk{}
	r := newRig(t, func(c *Config) {
		c.Backends = backends.NewRegistry(b)
		c.Pools = append(c.Pools, pool.Config{Name: "other", Backend: "dir", Path: filepath.Join(c.Root, "other")})
	})
	if err := r.createIn("other", "db"); err != nil {
		t.Fatal(err)
	}
	return r, b
}

func (r *rig) createIn(pool, volume string) error {
	return r.Create(r.t.Context(), volume, map[string]string{"pool": pool})
}

func (r *rig) statusOf(pool string) dataset.PoolStatus {
	r.t.Helper()
	p, ok := r.pools.ByName(pool)
	if !ok {
		r.t.Fatal("no pool", pool)
	}
	for _, st := range r.pools.Status(r.t.Context()) {
		if st.ID == p.ID {
			return st
		}
	}
	r.t.Fatal("no status of pool", pool)
	return dataset.PoolStatus{}
}

// logged returns a function that counts the log lines of pool other that begin with a text.
func (r *rig) logged() func(text string) int {
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
func (r *rig) wantFailing(errno error) {
	r.t.Helper()
	t := r.t
	if st := r.statusOf("other"); st.Online || !strings.Contains(st.Reason, "its disk fails") || !strings.Contains(st.Reason, errno.Error()) || strings.Contains(st.Reason, "\n") {
		t.Errorf("status %+v", st)
	}
	if f := r.finding("pool other"); f.Level != findings.Error || !strings.Contains(f.Text, "its disk fails") || !strings.Contains(f.Mend, "replace the disk") {
		t.Errorf("doctor: %+v", f)
	}
	p, _ := r.pools.ByName("other")
	if _, err := r.pools.Get(p.ID); !errors.Is(err, dataset.ErrOffline) {
		t.Errorf("work on it is not refused: %v", err)
	}
	_, err := r.Mount(t.Context(), "db", "user")
	if !errors.Is(err, dataset.ErrOffline) || !strings.Contains(err.Error(), "pool other is offline: its disk fails") {
		t.Errorf("a mount: %v", err)
	}
	if err := r.createIn("other", "refused"); err == nil || !strings.Contains(err.Error(), "its disk fails") {
		t.Errorf("a create: %v", err)
	}
	if st := r.statusOf("default"); !st.Online || st.Reason != "" {
		t.Errorf("the other pool: %+v", st)
	}
	if _, known := r.Cache.Volume("near"); !known {
		r.volume("near")
	}
	near, _ := r.Cache.Volume("near")
	r.mount(near, "user")
	if err := r.Unmount(t.Context(), "near", "user"); err != nil {
		t.Error(err)
	}
}

// A pool whose disk fails is offline with one message, whatever finds the error first, and the log
// has one line for that and one when the disk works again. Other pools serve meanwhile.
func TestPoolOnAFailingDisk(t *testing.T) {
	for how, first := range map[string]func(r *rig) error{
		"create": func(r *rig) error { return r.createIn("other", "new") },
		"mount": func(r *rig) error {
			_, err := r.Mount(r.t.Context(), "db", "first")
			return err
		},
		"raise": func(r *rig) error { // nobody asks for anything: the agent itself writes the identity
			p, _ := r.pools.ByName("other")
			r.pools.Changed(p.ID, true)
			await(r.t, func() bool { r.rounds(r.t.Context()); return !r.statusOf("other").Online })
			return r.createIn("other", "new")
		},
	} {
		for _, errno := range []error{unix.EIO, unix.EROFS, unix.EUCLEAN} {
			t.Run(how+" "+errno.Error(), func(t *testing.T) {
				r, b := newBadRig(t)
				lines := r.logged()
				b.fails(errno, nil)
				if err := first(r); err == nil || !strings.Contains(err.Error(), "its disk fails") {
					t.Fatalf("the first: %v", err) // it waited for the probe
				}
				r.wantFailing(errno)
				before := b.raises()
				r.rounds(t.Context())
				await(t, func() bool { return b.raises() > before })
				r.wantFailing(errno)

				b.fails(nil, nil)
				r.rounds(t.Context())
				await(t, func() bool { return r.statusOf("other").Online })
				d, _ := r.Cache.Volume("db")
				r.mount(d, "user")
				if off, on := lines("pool is offline: its disk fails"), lines("pool is online again: its disk works"); off != 1 || on != 1 {
					t.Errorf("%d lines say that it is offline, and %d that it is online again", off, on)
				}
				before = b.raises()
				r.rounds(t.Context())
				r.rounds(t.Context())
				if n := b.raises() - before; n > 1 { // at most the raise that is due after a mount
					t.Errorf("a pool that works was written to %d times", n)
				}
			})
		}
	}
}

// An error that no disk causes starts no probe. One that a disk may cause starts one probe, and the
// pool stays online if that succeeds.
func TestPoolOnAWorkingDisk(t *testing.T) {
	r, b := newBadRig(t)
	had := b.raises()
	b.fails(nil, dataset.Errorf(dataset.ErrUnsupported, "not that"))
	if err := r.createIn("other", "new"); !errors.Is(err, dataset.ErrUnsupported) {
		t.Fatal(err)
	}
	r.rounds(t.Context())
	if n := b.raises() - had; n != 0 {
		t.Errorf("it was probed %d times", n)
	}
	b.fails(nil, errors.New("mkfs.xfs: write failed: Input/output error"))
	if err := r.createIn("other", "new"); err == nil || !strings.Contains(err.Error(), "mkfs.xfs") {
		t.Fatal(err)
	}
	if n := b.raises() - had; n != 1 {
		t.Errorf("it was probed %d times", n)
	}
	r.rounds(t.Context())
	if st := r.statusOf("other"); !st.Online || b.raises()-had != 1 {
		t.Errorf("status %+v, probed %d times", st, b.raises()-had)
	}
}

// A probe leaves the generation of a pool as it is, also when it is raised meanwhile.
func TestProbeKeepsTheGeneration(t *testing.T) {
	r, _ := newBadRig(t)
	p, _ := r.pools.ByName("other")
	for range 20 {
		r.pools.Changed(p.ID, true)
		r.rounds(t.Context())
		<-r.prober.Suspect(p.ID, unix.EIO).Ended()
	}
	await(t, func() bool { return !r.pools.One(p.ID).Raising })
	now := r.pools.One(p.ID)
	if g, err := now.Storage.Generation(); err != nil || g != now.Generation || now.Held() != "" {
		t.Errorf("generation %d, on record %d, %v, held %q", g, now.Generation, err, now.Held())
	}
}

// A probe of a share writes a later generation, as another host may raise it between the look and the
// write.
func TestProbeOfAShare(t *testing.T) {
	f := newFlock(t, "nfs", "nfs")
	p, _ := f.a.pools.ByName("default")
	at := func() uint64 {
		t.Helper()
		g, err := f.a.thePool().Generation()
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	await(t, func() bool { return at() > 0 && !f.a.pools.One(p.ID).Due && !f.a.pools.One(p.ID).Raising })
	before := at()
	<-f.a.prober.Suspect(p.ID, unix.EIO).Ended()
	if now := at(); now <= before {
		t.Errorf("generation %d after %d", now, before)
	}
	for _, h := range f.hosts {
		if op, _ := h.pools.ByName("default"); op.Held() != "" {
			t.Errorf("%s: %s", h.NodeName, op.Held())
		}
	}
}

// A probe of a disk that hangs ends: the pool is offline as one that hangs.
func TestProbeOfAHangingDisk(t *testing.T) {
	r, h, _, _ := hungRig(t)
	h.hangs("raise")
	probe := r.prober.Suspect(r.other().ID, unix.EIO)
	await(t, func() bool { return h.asked() > 0 })
	await(t, func() bool {
		r.clock.Advance(pool.AskPatience / pool.AskTurns)
		select {
		case <-probe.Ended():
			return true
		default:
			return false
		}
	})
	if st := r.statusOf("other"); st.Online || !strings.Contains(st.Reason, "does not answer") {
		t.Errorf("status %+v", st)
	}
	h.goesOn()
	await(t, func() bool { return r.statusOf("other").Online })
}

// A pool whose filesystem Drover mounts is closed while its disk fails, and opened again, which
// mounts it anew. It serves once a write to it succeeds, and not while a volume in it is mounted.
func TestFailingPoolIsMountedAnew(t *testing.T) {
	r, b := newBadRig(t)
	lines := r.logged()
	p, _ := r.pools.ByName("other")
	if err := r.pools.Keep(t.Context(), p.ID, func(rec *pool.Record) { rec.Mount = rec.Path }); err != nil { // as one on devices
		t.Fatal(err)
	}
	d, _ := r.Cache.Volume("db")
	r.mount(d, "user")
	b.fails(unix.EROFS, nil)
	if err := r.createIn("other", "new"); err == nil {
		t.Fatal("created on a disk that fails")
	}
	if n := b.closes(); n != 0 {
		t.Errorf("closed %d times under a mounted volume", n)
	}
	if err := r.Unmount(t.Context(), "db", "user"); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { r.rounds(t.Context()); return b.closes() > 1 }) // opened again, and proven
	r.wantFailing(unix.EROFS)
	b.fails(nil, nil)
	await(t, func() bool {
		r.clock.Advance(pool.AgainPatience)
		r.rounds(t.Context())
		return r.statusOf("other").Online
	})
	r.mount(d, "again")
	if off, on := lines("pool is offline: its disk fails"), lines("pool is online again"); off != 1 || on != 1 {
		t.Errorf("%d lines say that it is offline, and %d that it is online again", off, on)
	}
}
