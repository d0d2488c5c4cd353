package agent

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// fuse stands for the death of an agent: from its n-th act on nothing that it does has
// any effect, neither on its disk nor on control. The act at which it blows is the last
// one that happens, or the first one that does not.
type fuse struct {
	mu   sync.Mutex
	left int // acts until it blows; -1: it does not
	late bool
	dead bool
	gone chan struct{}
	acts []string
	look func(act string) // at each act, before it
	at   string           // or at the nth act of that name
	nth  int
	// broken is what the next act of a name fails with; it then has no effect.
	broken map[string]error
}

var errDead = errors.New("the process is dead")

// set has it blow at the n-th act from now, before or after that.
func (f *fuse) set(n int, late bool, look func(string)) (blown <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left, f.late, f.dead, f.gone, f.acts, f.look = n, late, false, make(chan struct{}), nil, look
	return f.gone
}

// fails has the next act of a name fail, while the process lives on.
func (f *fuse) fails(act string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = map[string]error{act: err}
}

// mend lets everything through again, and nobody looks any longer: what an agent does when
// its test has ended is no act of that test.
func (f *fuse) mend() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left, f.dead, f.look = -1, false, nil
}

// died waits until the process of a fuse is dead, as gone says. A process that does not come to the
// act at which it was to die fails the test.
func died(t *testing.T, gone <-chan struct{}) {
	t.Helper()
	select {
	case <-gone:
	case <-time.After(time.Minute):
		t.Fatal("the process has not died: it never came to that act")
	}
}

func (f *fuse) blown() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dead
}

func (f *fuse) seen() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.acts
}

// act does something unless the process is dead.
func (f *fuse) act(name string, do func() error) error {
	f.mu.Lock()
	look := f.look
	if f.dead {
		f.mu.Unlock()
		return errDead
	}
	f.acts = append(f.acts, name)
	broken := f.broken[name]
	delete(f.broken, name)
	last := f.left == 0
	if f.at == name {
		if f.nth--; f.nth == 0 {
			last, f.at = true, ""
		}
	}
	if f.left > 0 {
		f.left--
	}
	if last {
		f.left, f.dead = -1, true
		defer close(f.gone)
	}
	f.mu.Unlock()
	if look != nil {
		look(name)
	}
	if broken != nil {
		return broken
	}
	if last && !f.late {
		return errDead
	}
	err := do()
	if f.blown() {
		return errDead
	}
	return err
}

func unavailable(err error) error {
	if errors.Is(err, errDead) {
		return dataset.Errorf(dataset.ErrUnavailable, "%w", err)
	}
	return err
}

// fusedControl is the way to control.
type fusedControl struct {
	api.Service
	h *flockHost
}

func (c fusedControl) Commit(ctx context.Context, node uuid.UUID, r api.Report) (out api.Committed, err error) {
	return out, unavailable(c.h.fuse.act("commit", func() error { out, err = c.Service.Commit(ctx, node, r); return err }))
}

func (c fusedControl) Recall(ctx context.Context, node uuid.UUID, r api.Report) (out dataset.Operation, err error) {
	return out, unavailable(c.h.fuse.act("recall", func() error { out, err = c.Service.Recall(ctx, node, r); return err }))
}

func (c fusedControl) Yield(ctx context.Context, node uuid.UUID, y api.Yield) error {
	return unavailable(c.h.fuse.act("yield", func() error { return c.Service.Yield(ctx, node, y) }))
}

func (c fusedControl) Copied(ctx context.Context, node uuid.UUID, k api.Copied) error {
	return unavailable(c.h.fuse.act("copied", func() error { return c.Service.Copied(ctx, node, k) }))
}

func (c fusedControl) Guest(ctx context.Context, node uuid.UUID, s api.Stay) (out api.Indexed, err error) {
	return out, unavailable(c.h.fuse.act("guest", func() error { out, err = c.Service.Guest(ctx, node, s); return err }))
}

func (c fusedControl) Record(ctx context.Context, node uuid.UUID, r api.Report) error {
	if c.h.fuse.blown() {
		return unavailable(errDead)
	}
	return c.Service.Record(ctx, node, r)
}

func (c fusedControl) Sync(ctx context.Context, node uuid.UUID, rev uint64, wait time.Duration) (s api.Sync, err error) {
	if !c.h.fuse.blown() {
		s, err = c.Service.Sync(ctx, node, rev, wait)
	}
	if c.h.fuse.blown() {
		return api.Sync{}, unavailable(errDead)
	}
	return s, err
}

func (c fusedControl) Generations(ctx context.Context, node uuid.UUID, g api.Generations) (api.Generations, error) {
	if c.h.fuse.blown() {
		return api.Generations{}, unavailable(errDead)
	}
	return c.Service.Generations(ctx, node, g)
}

func (c fusedControl) Heartbeat(ctx context.Context, node uuid.UUID, b api.Heartbeat) error {
	if c.h.fuse.blown() {
		return unavailable(errDead)
	}
	return c.Service.Heartbeat(ctx, node, b)
}

// fusedStore is the agent's own disk.
type fusedStore struct {
	store.Store
	h *flockHost
}

func (s fusedStore) Txn(ctx context.Context, checks []store.Check, writes []store.Write) (index uint64, err error) {
	name := "state"
	for _, w := range writes {
		name += " " + w.Key[:min(len(w.Key), 7)]
	}
	return index, s.h.fuse.act(name, func() error { index, err = s.Store.Txn(ctx, checks, writes); return err })
}

// fusedKind opens pools that a crash cuts off.
type fusedKind struct {
	backends.Kind
	h *flockHost
}

func (k fusedKind) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	p, err := k.Kind.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	plain := fusedPool{p, k.h}
	if c, ok := p.(backends.Copier); ok {
		copies := fusedCopies{plain, c}
		if f, ok := p.(backends.Formatter); ok {
			return fusedImages{copies, f, p.(backends.Resizer), p.(backends.Rewriter)}, nil
		}
		return copies, nil
	}
	if s, ok := p.(backends.Sharer); ok {
		return fusedShare{plain, s}, nil
	}
	return plain, nil
}

// fusedShare is a pool on a share.
type fusedShare struct {
	fusedPool
	backends.Sharer
}

func (p fusedShare) Visit(ctx context.Context, id, pool uuid.UUID, opts backends.AttachOptions) (a backends.Attachment, err error) {
	return a, p.h.fuse.act("visit", func() error { a, err = p.Sharer.Visit(ctx, id, pool, opts); return err })
}

func (p fusedShare) Take(ctx context.Context, d dataset.Dataset, from backends.Given) error {
	return p.h.fuse.act("take", func() error { return p.Sharer.Take(ctx, d, from) })
}

type fusedPool struct {
	backends.Pool
	h *flockHost
}

func (p fusedPool) Idle(ctx context.Context, id uuid.UUID) error {
	return p.Pool.(backends.IdleChecker).Idle(ctx, id)
}

func (p fusedPool) Staged(id uuid.UUID) string {
	if s, can := p.Pool.(backends.Stager); can {
		return s.Staged(id)
	}
	return ""
}

func (p fusedPool) Snapshot(ctx context.Context, s dataset.Snapshot, progress backends.Progress) error {
	return p.h.fuse.act("snapshot", func() error { return p.Pool.Snapshot(ctx, s, progress) })
}

func (p fusedPool) DeleteSnapshot(ctx context.Context, ds, id uuid.UUID) error {
	return p.h.fuse.act("delete snapshot", func() error { return p.Pool.DeleteSnapshot(ctx, ds, id) })
}

func (p fusedPool) Create(ctx context.Context, d dataset.Dataset) (size dataset.Size, err error) {
	return size, p.h.fuse.act("create", func() error { size, err = p.Pool.Create(ctx, d); return err })
}

func (p fusedPool) Clone(ctx context.Context, d dataset.Dataset, src dataset.Source, progress backends.Progress) (size dataset.Size, err error) {
	return size, p.h.fuse.act("clone", func() error { size, err = p.Pool.Clone(ctx, d, src, progress); return err })
}

func (p fusedPool) Commit(ctx context.Context, id uuid.UUID) error {
	return p.h.fuse.act("commit in the pool", func() error { return p.Pool.Commit(ctx, id) })
}

func (p fusedPool) Delete(ctx context.Context, id uuid.UUID) error {
	return p.h.fuse.act("delete", func() error { return p.Pool.Delete(ctx, id) })
}

func (p fusedPool) WriteRecord(ctx context.Context, d dataset.Dataset, sync bool) error {
	return p.h.fuse.act("write record", func() error { return p.Pool.WriteRecord(ctx, d, sync) })
}

// fusedCopies is a pool that keeps copies.
type fusedCopies struct {
	fusedPool
	backends.Copier
}

// fusedImages is one of datasets with filesystems of their own.
type fusedImages struct {
	fusedCopies
	backends.Formatter
	backends.Resizer
	backends.Rewriter
}

func (p fusedCopies) Idle(ctx context.Context, id uuid.UUID) error { return p.fusedPool.Idle(ctx, id) }

func (p fusedCopies) Receive(ctx context.Context, d backends.Delivery, r io.Reader, progress backends.Progress) (s backends.Stream, err error) {
	return s, p.h.fuse.act("receive", func() error { s, err = p.Copier.Receive(ctx, d, r, progress); return err })
}

func (p fusedCopies) Promote(ctx context.Context, ds, id uuid.UUID) error {
	return p.h.fuse.act("promote", func() error { return p.Copier.Promote(ctx, ds, id) })
}

func (p fusedCopies) Demote(ctx context.Context, ds, id uuid.UUID) error {
	return p.h.fuse.act("demote", func() error { return p.Copier.Demote(ctx, ds, id) })
}

func (p fusedCopies) Supersede(ctx context.Context, ds uuid.UUID, keep dataset.Snapshot) error {
	return p.h.fuse.act("supersede", func() error { return p.Copier.Supersede(ctx, ds, keep) })
}

// away is a control service that does not answer.
type away struct{ api.Service }

var errAway = dataset.Errorf(dataset.ErrUnavailable, "control is away")

func (away) Register(context.Context, api.Registration) error          { return errAway }
func (away) Heartbeat(context.Context, uuid.UUID, api.Heartbeat) error { return errAway }
func (away) Plan(context.Context, uuid.UUID, api.Request) (api.Plan, error) {
	return api.Plan{}, errAway
}
func (away) Sync(context.Context, uuid.UUID, uint64, time.Duration) (api.Sync, error) {
	return api.Sync{}, errAway
}
func (away) Volume(context.Context, string) (api.Volume, error) { return api.Volume{}, errAway }
func (away) Volumes(context.Context, api.Page) (api.List[api.Volume], error) {
	return api.List[api.Volume]{}, errAway
}
func (away) Operation(context.Context, string, time.Duration) (dataset.Operation, error) {
	return dataset.Operation{}, errAway
}
func (away) Guest(context.Context, uuid.UUID, api.Stay) (api.Indexed, error) {
	return api.Indexed{}, errAway
}
func (away) NodeList(context.Context, string) ([]api.Node, error) { return nil, errAway }
