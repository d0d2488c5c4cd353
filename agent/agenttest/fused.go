package agenttest

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// Unavailable converts the error of an agent that has crashed to an ErrUnavailable. It returns any other error
// unchanged.
func Unavailable(err error) error {
	if errors.Is(err, errDead) {
		return dataset.Errorf(dataset.ErrUnavailable, "%w", err)
	}
	return err
}

// FusedControl is a connection to control that the fuse of a host cuts off.
type FusedControl struct {
	api.Service
	Host *Host
}

func (c FusedControl) Commit(ctx context.Context, node uuid.UUID, r api.Report) (out api.Committed, err error) {
	return out, Unavailable(c.Host.Fuse.Act("commit", func() error {
		out, err = c.Service.Commit(ctx, node, r)
		return err
	}))
}

func (c FusedControl) Recall(
	ctx context.Context, node uuid.UUID, r api.Report,
) (out dataset.Operation, err error) {
	return out, Unavailable(c.Host.Fuse.Act("recall", func() error {
		out, err = c.Service.Recall(ctx, node, r)
		return err
	}))
}

func (c FusedControl) Yield(ctx context.Context, node uuid.UUID, y api.Yield) error {
	return Unavailable(c.Host.Fuse.Act("yield", func() error { return c.Service.Yield(ctx, node, y) }))
}

func (c FusedControl) ReportCopy(ctx context.Context, node uuid.UUID, k api.CopyReport) error {
	return Unavailable(c.Host.Fuse.Act("copied", func() error { return c.Service.ReportCopy(ctx, node, k) }))
}

func (c FusedControl) ReportSharedMount(ctx context.Context, node uuid.UUID,
	s api.SharedMountReport) (out api.IndexedDataset, err error) {
	return out, Unavailable(c.Host.Fuse.Act("guest", func() error {
		out, err = c.Service.ReportSharedMount(ctx, node, s)
		return err
	}))
}

func (c FusedControl) Record(ctx context.Context, node uuid.UUID, r api.Report) error {
	if c.Host.Fuse.Blown() {
		return Unavailable(errDead)
	}
	return c.Service.Record(ctx, node, r)
}

func (c FusedControl) Sync(
	ctx context.Context, node uuid.UUID, rev uint64, wait time.Duration,
) (s api.Sync, err error) {
	if !c.Host.Fuse.Blown() {
		s, err = c.Service.Sync(ctx, node, rev, wait)
	}
	if c.Host.Fuse.Blown() {
		return api.Sync{}, Unavailable(errDead)
	}
	return s, err
}

func (c FusedControl) Generations(
	ctx context.Context, node uuid.UUID, g api.Generations,
) (api.Generations, error) {
	if c.Host.Fuse.Blown() {
		return api.Generations{}, Unavailable(errDead)
	}
	return c.Service.Generations(ctx, node, g)
}

func (c FusedControl) Heartbeat(ctx context.Context, node uuid.UUID, b api.Heartbeat) error {
	if c.Host.Fuse.Blown() {
		return Unavailable(errDead)
	}
	return c.Service.Heartbeat(ctx, node, b)
}

// FusedStore is the database of an agent that the fuse of its host cuts off.
type FusedStore struct {
	store.Store
	Host *Host
}

func (s FusedStore) Txn(
	ctx context.Context, checks []store.Precondition, writes []store.Write,
) (index uint64, err error) {
	name := "state"
	for _, w := range writes {
		name += " " + w.Key[:min(len(w.Key), 7)]
	}
	return index, s.Host.Fuse.Act(name, func() error {
		index, err = s.Store.Txn(ctx, checks, writes)
		return err
	})
}

// FusedBackend is a backend whose pools the fuse of a host cuts off.
type FusedBackend struct {
	backends.Kind
	Host *Host
}

func (k FusedBackend) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	p, err := k.Kind.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	plain := fusedPool{p, k.Host}
	if c, ok := p.(backends.Copier); ok {
		copies := fusedCopies{plain, c}
		if f, ok := p.(backends.Formatter); ok {
			return FusedImages{copies, f, p.(backends.Resizer), p.(backends.Releaser)}, nil
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

func (p fusedShare) Visit(
	ctx context.Context, id, pool uuid.UUID, opts backends.AttachOptions,
) (a backends.Attachment, err error) {
	return a, p.Host.Fuse.Act("visit", func() error {
		a, err = p.Sharer.Visit(ctx, id, pool, opts)
		return err
	})
}

func (p fusedShare) Take(ctx context.Context, d dataset.Dataset, from backends.PreviousHome) error {
	return p.Host.Fuse.Act("take", func() error { return p.Sharer.Take(ctx, d, from) })
}

type fusedPool struct {
	backends.Pool
	Host *Host
}

func (p fusedPool) CheckIdle(ctx context.Context, id uuid.UUID) error {
	return p.Pool.(backends.IdleChecker).CheckIdle(ctx, id)
}

func (p fusedPool) StagingPath(id uuid.UUID) string {
	if s, can := p.Pool.(backends.Stager); can {
		return s.StagingPath(id)
	}
	return ""
}

func (p fusedPool) Snapshot(ctx context.Context, s dataset.Snapshot, progress backends.Progress) error {
	return p.Host.Fuse.Act("snapshot", func() error { return p.Pool.Snapshot(ctx, s, progress) })
}

func (p fusedPool) DeleteSnapshot(ctx context.Context, ds, id uuid.UUID) error {
	return p.Host.Fuse.Act("delete snapshot", func() error { return p.Pool.DeleteSnapshot(ctx, ds, id) })
}

func (p fusedPool) Create(ctx context.Context, d dataset.Dataset) (size dataset.Size, err error) {
	return size, p.Host.Fuse.Act("create", func() error { size, err = p.Pool.Create(ctx, d); return err })
}

func (p fusedPool) Clone(
	ctx context.Context, d dataset.Dataset, src dataset.Source, progress backends.Progress,
) (size dataset.Size, err error) {
	return size, p.Host.Fuse.Act("clone", func() error {
		size, err = p.Pool.Clone(ctx, d, src, progress)
		return err
	})
}

func (p fusedPool) Commit(ctx context.Context, id uuid.UUID) error {
	return p.Host.Fuse.Act("commit in the pool", func() error { return p.Pool.Commit(ctx, id) })
}

func (p fusedPool) Delete(ctx context.Context, id uuid.UUID) error {
	return p.Host.Fuse.Act("delete", func() error { return p.Pool.Delete(ctx, id) })
}

func (p fusedPool) WriteRecord(ctx context.Context, d dataset.Dataset, sync bool) error {
	return p.Host.Fuse.Act("write record", func() error { return p.Pool.WriteRecord(ctx, d, sync) })
}

// fusedCopies is a pool that keeps copies.
type fusedCopies struct {
	fusedPool
	backends.Copier
}

// FusedImages is a pool whose datasets are filesystems.
type FusedImages struct {
	fusedCopies
	backends.Formatter
	backends.Resizer
	backends.Releaser
}

func (p fusedCopies) CheckIdle(ctx context.Context, id uuid.UUID) error {
	return p.fusedPool.CheckIdle(ctx, id)
}

func (p fusedCopies) Receive(
	ctx context.Context, d backends.Delivery, r io.Reader, progress backends.Progress,
) (s backends.Stream, err error) {
	return s, p.Host.Fuse.Act("receive", func() error {
		s, err = p.Copier.Receive(ctx, d, r, progress)
		return err
	})
}

func (p fusedCopies) Promote(ctx context.Context, ds, id uuid.UUID) error {
	return p.Host.Fuse.Act("promote", func() error { return p.Copier.Promote(ctx, ds, id) })
}

func (p fusedCopies) Demote(ctx context.Context, ds, id uuid.UUID) error {
	return p.Host.Fuse.Act("demote", func() error { return p.Copier.Demote(ctx, ds, id) })
}

func (p fusedCopies) Supersede(ctx context.Context, ds uuid.UUID, keep dataset.Snapshot) error {
	return p.Host.Fuse.Act("supersede", func() error { return p.Copier.Supersede(ctx, ds, keep) })
}

// UnreachableControl is a control service that does not answer.
type UnreachableControl struct{ api.Service }

// ErrUnreachable is the error of a control service that does not answer.
var ErrUnreachable = dataset.Errorf(dataset.ErrUnavailable, "control is unreachable")

func (UnreachableControl) Register(context.Context, api.Registration) error { return ErrUnreachable }

func (UnreachableControl) Heartbeat(context.Context, uuid.UUID, api.Heartbeat) error {
	return ErrUnreachable
}

func (UnreachableControl) Plan(context.Context, uuid.UUID, api.Request) (api.Plan, error) {
	return api.Plan{}, ErrUnreachable
}

func (UnreachableControl) Sync(context.Context, uuid.UUID, uint64, time.Duration) (api.Sync, error) {
	return api.Sync{}, ErrUnreachable
}

func (UnreachableControl) Volume(context.Context, string) (api.Volume, error) {
	return api.Volume{}, ErrUnreachable
}

func (UnreachableControl) Volumes(context.Context, api.Page) (api.List[api.Volume], error) {
	return api.List[api.Volume]{}, ErrUnreachable
}

func (UnreachableControl) Operation(context.Context, string, time.Duration) (dataset.Operation, error) {
	return dataset.Operation{}, ErrUnreachable
}

func (UnreachableControl) ReportSharedMount(context.Context, uuid.UUID,
	api.SharedMountReport) (api.IndexedDataset, error) {
	return api.IndexedDataset{}, ErrUnreachable
}

func (UnreachableControl) NodeList(context.Context, string) ([]api.Node, error) {
	return nil, ErrUnreachable
}
