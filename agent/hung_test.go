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
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/dataset"
)

// hung is backend dir, where the disk of the pool other answers no call of one kind while it
// hangs, whatever becomes of who asks.
type hung struct {
	dir.Backend
	mu    sync.Mutex
	call  string
	gate  chan struct{}
	waits int  // calls that did
	shut  bool // the pool was closed
	own   bool // its datasets are filesystems of their own
	fails bool // no dataset can be made
}

func (h *hung) hangs(call string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.call, h.gate = call, make(chan struct{})
}

func (h *hung) goesOn() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.call != "" {
		close(h.gate)
	}
	h.call = ""
}

func (h *hung) asked() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.waits
}

func (h *hung) wait(pool, call string) {
	h.mu.Lock()
	gate, is := h.gate, h.call == call && pool == "other"
	if is {
		h.waits++
	}
	h.mu.Unlock()
	if is {
		<-gate
	}
}

func (h *hung) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	h.wait(cfg.Name, "open")
	p, err := h.Backend.Open(context.WithoutCancel(ctx), cfg)
	return hungPool{p, h, cfg.Name}, err
}

type hungPool struct {
	backends.Pool
	h    *hung
	name string
}

func (h *hung) closed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.shut
}

func (p hungPool) Close() error {
	p.h.mu.Lock()
	defer p.h.mu.Unlock()
	p.h.shut = p.h.shut || p.name == "other"
	return p.Pool.Close()
}

func (p hungPool) Create(ctx context.Context, d dataset.Dataset) (dataset.Size, error) {
	p.h.wait(p.name, "create")
	p.h.mu.Lock()
	fails := p.h.fails
	p.h.mu.Unlock()
	if fails {
		return 0, dataset.Errorf(dataset.ErrNoSpace, "pool %s is full", p.name)
	}
	return p.Pool.Create(ctx, d)
}

func (p hungPool) Reap(ctx context.Context, drop func(uuid.UUID) bool) (int, error) {
	p.h.wait(p.name, "reap")
	return p.Pool.Reap(ctx, drop)
}

func (p hungPool) Status(ctx context.Context) dataset.PoolStatus {
	p.h.wait(p.name, "status")
	return p.Pool.Status(ctx)
}

func (p hungPool) Generation() (uint64, error) {
	p.h.wait(p.name, "generation")
	return p.Pool.Generation()
}

func (p hungPool) Used(ctx context.Context, id uuid.UUID) (dataset.Size, error) {
	p.h.wait(p.name, "used")
	return p.Pool.Used(ctx, id)
}

func (p hungPool) Info() backends.Info {
	i := p.Pool.Info()
	p.h.mu.Lock()
	defer p.h.mu.Unlock()
	i.Capabilities.OwnFilesystem = p.h.own && p.name == "other"
	return i
}

func (p hungPool) Raise(to uint64) error {
	p.h.wait(p.name, "raise")
	return p.Pool.Raise(to)
}

func (p hungPool) Attach(ctx context.Context, id uuid.UUID, o backends.AttachOptions) (backends.Attachment, error) {
	p.h.wait(p.name, "attach")
	return p.Pool.Attach(ctx, id, o)
}

// hungRig has two pools, default and other, with a volume in each.
func hungRig(t *testing.T) (r *rig, h *hung, here, there dataset.Dataset) {
	t.Helper()
	h = &hung{}
	r = newRig(t, func(c *Config) {
		c.Backends = backends.NewRegistry(h)
		c.Pools = append(c.Pools, pool.Config{Name: "other", Backend: "dir", Path: filepath.Join(c.Root, "other")})
	})
	t.Cleanup(h.goesOn)
	here = r.volume("here")
	if err := r.Create(t.Context(), "there", map[string]string{"pool": "other"}); err != nil {
		t.Fatal(err)
	}
	there, _ = r.Cache.Volume("there")
	return r, h, here, there
}

// restartsLate is restart, for as long as a start waits for its disks.
func (r *rig) restartsLate() {
	r.t.Helper()
	cfg := r.config
	r.close()
	a, err := New(r.t.Context(), cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.Agent = a
	started := make(chan error, 1)
	go func() { started <- a.Start(r.t.Context()) }()
	await(r.t, func() bool {
		select {
		case err = <-started:
			return true
		default:
			r.clock.Advance(pool.StartPatience / 10)
			return false
		}
	})
	if err != nil {
		r.t.Fatal(err)
	}
	await(r.t, func() bool { // on a busy machine the start's time was over for a healthy disk too
		if p, known := r.pools.ByName("default"); known && p.Serves() == nil {
			return true
		}
		r.clock.Advance(r.Limits.Heartbeat)
		return false
	})
}

func (r *rig) other() *pool.Pool {
	r.t.Helper()
	p, known := r.pools.ByName("other")
	if !known {
		r.t.Fatal("pool other is not known")
	}
	return p
}

// The disk of one pool hangs when drover starts, at whatever is asked of it first: the start
// ends, what lies in the other pools is served, and what lies in that one is there, as it was,
// when the disk goes on.
func TestStartWhileAPoolHangs(t *testing.T) {
	for call, before := range map[string]func(r *rig, there dataset.Dataset){
		"open": func(r *rig, there dataset.Dataset) { // acknowledged, and not in its place after a power cut
			areas := filepath.Join(r.root, "other")
			if err := os.Rename(filepath.Join(areas, "datasets", there.ID.String()), filepath.Join(areas, "incoming", there.ID.String())); err != nil {
				r.t.Fatal(err)
			}
		},
		"reap": func(r *rig, _ dataset.Dataset) { // a create that was cut short
			p := r.other()
			d := dataset.Dataset{ID: uuid.New(), Volume: "cut", State: dataset.StateReady, Epoch: 1, Home: r.NodeID, Pool: p.ID}
			if _, err := p.Storage.Create(r.t.Context(), d); err != nil {
				r.t.Fatal(err)
			}
		},
		"attach": func(r *rig, there dataset.Dataset) { // in use, and not mounted
			r.mount(there, "kept")
			if err := unix.Unmount(r.MountPath(there.ID), 0); err != nil {
				r.t.Fatal(err)
			}
		},
	} {
		t.Run(call, func(t *testing.T) {
			r, h, here, there := hungRig(t)
			before(r, there)
			h.hangs(call)
			r.restartsLate()

			r.mount(here, "id")
			r.want(here, "id")
			r.volume("new")
			if _, err := r.Get(t.Context(), "there"); err != nil {
				t.Error(err)
			}
			if call == "open" {
				r.isHung(there, 3)
				gone, cancel := context.WithCancel(t.Context())
				cancel()
				if r.poolOpener.Retry(gone) || h.asked() != 1 { // who is asked already is not asked once more
					t.Errorf("it is open, or was asked %d times", h.waits)
				}
			}
			h.goesOn()
			await(t, func() bool { r.clock.Advance(r.Limits.Heartbeat); return r.other().Serves() == nil })
			r.mount(there, "id")
			if r.uses.Get(there.ID).IDs["id"].Count != 1 {
				t.Errorf("%+v", r.uses.Get(there.ID))
			}
			await(t, func() bool {
				left, err := os.ReadDir(filepath.Join(r.root, "other", "incoming"))
				return err == nil && (len(left) == 0 || call == "open")
			})
		})
	}
}

// isHung looks at what is said of a pool that hangs, and of what lies in it.
func (r *rig) isHung(there dataset.Dataset, found int) {
	r.t.Helper()
	ctx := r.t.Context()
	const want = "does not answer, since "
	for _, st := range r.pools.Status(ctx) {
		if st.ID == there.Pool && (st.Online || !strings.HasPrefix(st.Reason, want)) {
			r.t.Errorf("%+v", st)
		}
	}
	if f := r.finding("pool other"); f.Level != findings.Error || !strings.Contains(f.Text, want) {
		r.t.Errorf("%+v", f)
	}
	_, err := r.Mount(ctx, "there", "id")
	for what, err := range map[string]error{
		"mount":  err,
		"create": r.Create(ctx, "late", map[string]string{"pool": "other"}),
	} {
		if !errors.Is(err, dataset.ErrOffline) || !strings.Contains(err.Error(), want) {
			r.t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := r.RebuildStore(ctx, false); !errors.Is(err, dataset.ErrOffline) {
		r.t.Errorf("a rebuild that does not see what lies there: %v", err)
	}
	if h, err := r.holdings.List(ctx); err != nil || len(h.Pools) != 1 || len(h.Found) != found {
		r.t.Errorf("%+v, %v", h, err) // what is known of that one counts
	}
}

// The disk of one pool hangs while it is raised: the other is raised on, again and again, and
// control told of it, and that one once its disk goes on, also for what came meanwhile.
func TestRaiseWhileAPoolHangs(t *testing.T) {
	r, h, here, there := hungRig(t)
	rests := func(d dataset.Dataset) (generation uint64) {
		t.Helper()
		await(t, func() bool {
			r.clock.Advance(pool.StartPatience)
			op := r.pools.One(d.Pool)
			generation = op.Generation
			return generation > 0 && !op.Due && !op.Used && !op.Raising && !op.Unstored
		})
		return generation
	}
	here0, there0 := rests(here), rests(there) // for its first home as well, or both in one
	h.hangs("raise")
	r.pools.Changed(there.Pool, true)
	await(t, func() bool { r.clock.Advance(r.Limits.Heartbeat); return h.asked() == 1 })
	for n := range uint64(3) {
		r.pools.Changed(here.Pool, true)
		if g := rests(here); g != here0+n+1 {
			t.Fatalf("the other one is of generation %d, and was of %d", g, here0+n)
		}
	}
	if g, asked := r.pools.One(there.Pool).Generation, h.asked(); g != there0 || asked != 1 {
		t.Errorf("the one that hangs is of generation %d, and was asked %d times", g, asked)
	}
	r.pools.Changed(there.Pool, true) // which counts for the next time
	h.goesOn()
	if g := rests(there); g != there0+2 {
		t.Errorf("when it goes on it is of generation %d, and was of %d", g, there0)
	}
}

// An agent that stops while a pool hangs lets go of it when it answers: another one has it.
func TestStopWhileAPoolHangs(t *testing.T) {
	r, h, _, there := hungRig(t)
	h.hangs("open")
	r.restartsLate()
	late, cfg := r.other().Opening, r.config
	r.close()
	h.goesOn()
	<-late.Done
	r.start(cfg)
	if p := r.other(); p.Storage == nil {
		t.Fatal(p.OfflineReason)
	}
	r.mount(there, "id")
	r.want(there, "id")
}
