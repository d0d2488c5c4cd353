package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/lineage"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/promise"
	"github.com/droverhq/drover/agent/storage"
	"github.com/droverhq/drover/agent/transfer"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// Peers returns the handler of the requests of other nodes' agents, or nil if this node works alone.
func (a *Agent) Peers() http.Handler {
	if a.config.PeerHTTP == nil {
		return nil
	}
	h := http.NewServeMux()
	h.Handle("/", a.sender.Handler())
	h.Handle(promise.Path, a.promises)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Of the request's context, only its end applies to requests that this one causes: its values are about
		// this connection, and not about those to control.
		ctx, cancel := context.WithCancel(a.Ctx)
		defer cancel()
		defer context.AfterFunc(r.Context(), cancel)()
		if id, err := a.config.PeerID(r); err == nil { // otherwise the handler reports the error
			ctx = context.WithValue(ctx, askerKey{}, id)
		}
		h.ServeHTTP(w, r.WithContext(ctx))
	})
}

// askerKey is the key of the node that sends a request, in the request's context.
type askerKey struct{}

func asker(ctx context.Context) uuid.UUID {
	id, _ := ctx.Value(askerKey{}).(uuid.UUID)
	return id
}

// certified returns the node that a client's certificate names.
func certified(r *http.Request) (uuid.UUID, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return uuid.Nil, pki.ErrNoCertificate
	}
	id, err := pki.IdentityOf(r.TLS.PeerCertificates[0])
	if err == nil && id.Kind != pki.Node {
		err = dataset.Errorf(dataset.ErrForbidden, "the certificate is of %s, and nodes alone ask here", id)
	}
	return id.Node, err
}

func (a *Agent) newSender(limit *transfer.Limiter) *transfer.Server {
	return &transfer.Server{
		Source: sending{a}, Peer: a.config.PeerID, Authorize: a.mayGet, Clock: a.Clock, Log: a.Log, Limit: limit,
	}
}

// mayGet fails as Access.Check and Deadlines.Enrol do, before a node is given any data.
func (a *Agent) mayGet(ctx context.Context, peer, ds uuid.UUID) error {
	if err := a.access.Check(ctx, peer, ds); err != nil {
		return err
	}
	return a.deadlines.Enrol(ctx, ds, peer)
}

// sending is what this node sends to others.
type sending struct{ a *Agent }

func (s sending) Pool(ctx context.Context, ds uuid.UUID) (backends.Pool, error) {
	d, known := s.a.Cache.Dataset(ds)
	if known {
		return s.a.given(ctx, d.Pool)
	}
	k, kept := s.a.Cache.Copy(ds)
	if !kept {
		return nil, dataset.Errorf(dataset.ErrNotFound, "dataset %s is not on node %s", ds, s.a.NodeName)
	}
	return s.a.given(ctx, k.Pool)
}

// given returns a pool whose data another node is given. A pool that was restored from a backup has less than
// that node may have, and that node would drop what its home does not have. So nothing is given before control
// has reported the generation of the pool. Containers here do not wait for that.
func (a *Agent) given(ctx context.Context, id uuid.UUID) (backends.Pool, error) {
	heard := func() bool { op := a.pools.One(id); return op == nil || op.Heard }
	if !heard() {
		if _, _, err := a.askGenerations(ctx); !heard() {
			return nil, dataset.Errorf(dataset.ErrUnavailable,
				"pool %s gives nothing to other nodes before control has said whether its disk was put back: %w",
				a.pools.Name(id), cmp.Or(err, errUnknownPool))
		}
	}
	return a.pools.Online(ctx, id)
}

// errUnknownPool says that control has no record of a pool as one of this node.
var errUnknownPool = errors.New("it does not know the pool")

// Freshen takes a snapshot for the node that asks. If nothing was written since a snapshot that this node or
// another replica was given, it returns that one. For a dataset that was given up it returns the final snapshot.
// The newest snapshot that the other node names is kept: control's record of it may be older. Idle is false while
// the dataset is being given up, because its uses do not matter any more.
func (s sending) Freshen(ctx context.Context, ds uuid.UUID, have []uuid.UUID) (out dataset.Snapshot, idle bool,
	err error) {
	a := s.a
	// the pool may take long to answer, and the dataset is not locked for that
	if _, err := s.Pool(ctx, ds); err != nil {
		return out, false, err
	}
	unlock, err := a.Locks.Lock(ctx, ds, "snapshot for another node of dataset "+ds.String())
	if err != nil {
		return out, false, err
	}
	defer unlock()
	d, known := a.Cache.Dataset(ds)
	if !known || d.State == dataset.StatePurging {
		return out, false, dataset.Errorf(dataset.ErrNotFound, "the home of dataset %s is not node %s", ds, a.NodeName)
	}
	pool, err := a.pools.Online(ctx, d.Pool)
	if err != nil {
		return out, false, err
	}
	e, err := pool.Stat(ctx, ds)
	if err != nil {
		return out, false, err
	}
	if y, given := a.leases.Relinquished(ds); given && d.Epoch <= y.Epoch {
		if y.Manifest != nil {
			if i := lineage.IndexOf(e, y.Manifest.Snapshot); i >= 0 {
				return e.Snapshots[i], false, nil
			}
		}
		return out, false, dataset.Errorf(dataset.ErrPending, "volume %s is being given up", d.Volume)
	}
	if err := storage.CheckTight(ctx, pool, d); err != nil {
		return out, false, err
	}
	in, thaw, err := a.quiescer.Freeze(ctx, pool, d)
	if err != nil {
		return out, false, err
	}
	out, err = a.freshSnapshot(in, pool, d, e)
	if err := errors.Join(err, thaw()); err != nil {
		return out, false, fmt.Errorf("snapshot of volume %s for another node: %w", d.Volume, err)
	}
	had, _ := lineage.Newest(e, func(s dataset.Snapshot) bool { return slices.Contains(have, s.ID) })
	a.retention.Sent.Note(d, e, asker(ctx), had, out, a.Clock.Steady())
	a.retention.PruneSoon(ds)
	return out, len(a.uses.Get(ds).IDs) == 0, nil
}

func (a *Agent) freshSnapshot(ctx context.Context, pool backends.Pool, d dataset.Dataset,
	e backends.Entry) (dataset.Snapshot, error) {
	peer, now := asker(ctx), a.Clock.Now()
	if last, current := lineage.CurrentFor(ctx, pool, d, e, peer); current {
		return last, nil
	}
	s := a.sizes.WithActualSize(a.transferSnapshot(d, uuid.New(), lineage.TakenFor(d, e, peer, now))).
		TakenAfter(e.Snapshots, now)
	err := pool.Snapshot(ctx, s, nil)
	if err != nil {
		err = errors.Join(err, storage.DiscardSnapshot(ctx, pool, s))
	}
	return s, err
}

// Tree opens the files of a snapshot, or with uuid.Nil those of a dataset that was given up.
func (s sending) Tree(ctx context.Context, ds, snapshot uuid.UUID) (root *os.File, release func() error, err error) {
	a := s.a
	d, known := a.Cache.Dataset(ds)
	if !known {
		return nil, nil, dataset.Errorf(dataset.ErrNotFound, "the home of dataset %s is not node %s", ds, a.NodeName)
	}
	pool, err := a.given(ctx, d.Pool)
	if err != nil {
		return nil, nil, err
	}
	if snapshot == uuid.Nil {
		if y, given := a.leases.Relinquished(ds); !given || d.Epoch > y.Epoch {
			return nil, nil, dataset.Errorf(dataset.ErrConflict, "volume %s is not given up: its files may change",
				d.Volume)
		}
		root, err = mounting.OpenRoot(ctx, pool, ds, backends.AttachOptions{})
		return root, func() error { return nil }, err
	}
	return a.openSnapshotFiles(ctx, pool, d, snapshot)
}

// openSnapshotFiles opens the files of a snapshot through a temporary clone.
func (a *Agent) openSnapshotFiles(ctx context.Context, pool backends.Pool, d dataset.Dataset,
	snapshot uuid.UUID) (*os.File, func() error, error) {
	scratch := d
	scratch.ID, scratch.Size = uuid.New(), 0
	end := a.keys.StandIn(scratch.ID, d.ID)
	release := func() error {
		defer end()
		return storage.Discard(ctx, pool, scratch.ID)
	}
	if _, err := pool.Clone(ctx, scratch, dataset.Source{Dataset: d.ID, Snapshot: snapshot}, nil); err != nil {
		return nil, nil, errors.Join(err, release())
	}
	root, err := mounting.OpenRoot(ctx, pool, scratch.ID, backends.AttachOptions{})
	if err != nil {
		return nil, nil, errors.Join(err, release())
	}
	return root, release, nil
}
